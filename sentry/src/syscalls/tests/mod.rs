//! System calls of real tasks, on a platform that runs no guest code: a test makes the calls.

mod files;
mod filters;
mod host;
mod sockets;
mod terminals;
mod waiting;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use runsc_platform::WorkerId;
use runsc_platform::arch::Registers;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Error, Result};
use crate::executor::{Executor, Home, Reactor};
use crate::fs::context::FsContext;
use crate::fs::fdtable::FdTable;
use crate::fs::mount::{Mount, MountFlags, MountNamespace};
use crate::fs::tmpfs::{Options, Tmpfs};
use crate::fs::walk::{Base, Ctx};
use crate::kernel::cred::Credentials;
use crate::kernel::group::{ExitStatus, ThreadGroup};
use crate::kernel::limits::Limits;
use crate::kernel::signal::{Signal, TaskSignals};
use crate::kernel::task::{NewTask, Task};
use crate::kernel::tree::Node;
use crate::kernel::{Kernel, KernelParts, Supervisor, Uts, current};
use crate::mm::MemoryFile;
use crate::mm::tests::fake::{self, RW, anon};
use crate::syscalls::{Args, table};

struct Silent;

impl Supervisor for Silent {
    fn stopped(&self, _: Signal) {}
    fn started(&self) {}
    fn start_failed(&self, _: u8, error: &str) {
        panic!("{error}");
    }
    fn exited(&self, _: ExitStatus) {}
    fn fatal(&self, report: &str) {
        panic!("{report}");
    }
}

/// A sandbox with a tmpfs as its root.
struct Sandbox {
    kernel: Arc<Kernel>,
    namespace: Arc<MountNamespace>,
}

impl Sandbox {
    fn new() -> Sandbox {
        let platform = fake::platform();
        let memory = MemoryFile::new().unwrap();
        let reactor = Reactor::new().unwrap();
        let running = reactor.clone();
        std::thread::spawn(move || running.run());
        let options = Options {
            mode: Some(0o755),
            ..Options::default()
        };
        let root = Tmpfs::mount(memory.clone(), &options).unwrap();
        let kernel = Kernel::new(KernelParts {
            executor: Executor::new(platform.clone(), 1),
            platform,
            memory,
            reactor,
            uts: Uts {
                nodename: b"test".to_vec(),
                domainname: Vec::new(),
            },
            machine: crate::kernel::resources::Machine {
                cores: 1,
                possible_cores: 1,
                memory: 1 << 30,
            },
            limits: Default::default(),
            own_use: None,
            strace: None,
            supervisor: Box::new(Silent),
        });
        let mount = Mount::new(root, b"root", MountFlags::empty());
        let namespace = MountNamespace::new(mount);
        crate::fs::register_all(&kernel, &namespace);
        Sandbox { kernel, namespace }
    }

    /// A process of its own, in the group and session of `like` (None: its own).
    fn process(&self, like: Option<&Task>) -> Arc<Task> {
        let memory = self.kernel.memory.clone();
        let enter = |pid: i32, tree: &mut crate::kernel::tree::Inner| {
            let group = ThreadGroup::new(&self.kernel, pid, Arc::default(), Limits::default(), 0);
            let task = Task::new(NewTask {
                tid: pid,
                group: group.clone(),
                home: Home::new(WorkerId(0)),
                regs: Registers::default(),
                fp: None,
                mm: fake::new_mm_in(&memory),
                files: FdTable::new(),
                fs: FsContext::new(self.namespace.clone()),
                creds: Arc::new(Credentials::root()),
                seccomp: None,
                comm: [0; 16],
                signals: TaskSignals::default(),
            });
            group.add_task(task.clone());
            let node = like.and_then(|t| tree.node(t.pid()));
            let (parent, pgid, sid) =
                node.map_or((0, pid, pid), |n| (n.group.pid(), n.pgid, n.sid));
            tree.nodes.insert(pid, Node::new(group, parent, pgid, sid));
            tree.sessions.entry(sid).or_default();
            Ok(task)
        };
        self.kernel.tree.enter(enter).unwrap()
    }
}

/// Wakes the thread that waits in [`run`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future as `task`'s on this thread.
fn run<T>(task: &Arc<Task>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(current::scope(task.clone(), future));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Makes a system call.
fn call<const N: usize>(t: &Arc<Task>, number: i64, args: [u64; N]) -> Result<u64, Error> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    run(t, table::call(t, number as u64, &Args(all)))
}

/// A call that must not need a restart.
fn plain<const N: usize>(t: &Arc<Task>, number: i64, args: [u64; N]) -> Result<u64> {
    match call(t, number, args) {
        Ok(n) => Ok(n),
        Err(Error::Errno(e)) => Err(e),
        Err(Error::Restart(r)) => panic!("restart {r:?}"),
    }
}

/// Makes a call on a thread of its own, where it may wait.
fn spawn<const N: usize>(
    t: &Arc<Task>,
    number: i64,
    args: [u64; N],
) -> std::thread::JoinHandle<Result<u64, Error>> {
    let t = t.clone();
    std::thread::spawn(move || call(&t, number, args))
}

/// Memory of the guest: two pages, all zero.
fn room(t: &Task) -> u64 {
    t.mm().mmap(anon(0, 2, RW, libc::MAP_PRIVATE)).unwrap()
}

/// Puts a value into memory of its own.
fn put<T: IntoBytes + Immutable + ?Sized>(t: &Task, value: &T) -> u64 {
    let at = room(t);
    t.mm().write_obj(at, value).unwrap();
    at
}

fn get<T: FromBytes + IntoBytes>(t: &Task, at: u64) -> T {
    t.mm().read_obj(at).unwrap()
}

fn bytes(t: &Task, at: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    t.mm().read_bytes(at, &mut buf).unwrap();
    buf
}

/// write(2) of `data`.
fn write(t: &Arc<Task>, fd: u64, data: &[u8]) -> Result<u64> {
    let at = put(t, data);
    plain(t, libc::SYS_write, [fd, at, data.len() as u64])
}

/// read(2) of up to 4096 bytes.
fn read(t: &Arc<Task>, fd: u64) -> Result<Vec<u8>> {
    let at = room(t);
    let n = plain(t, libc::SYS_read, [fd, at, 4096])?;
    Ok(bytes(t, at, n as usize))
}

/// pipe2(2).
fn pipe(t: &Arc<Task>, flags: i32) -> (u64, u64) {
    let at = room(t);
    plain(t, libc::SYS_pipe2, [at, flags as u64]).unwrap();
    let [r, w]: [i32; 2] = get(t, at);
    (r as u64, w as u64)
}

/// Where the task's paths start.
fn ctx(t: &Task) -> Ctx {
    Ctx::new(&t.fs(), t.creds())
}

/// Waits until the task sleeps in a call.
fn until_waiting(t: &Task) {
    while !t.is_waiting() {
        std::thread::yield_now();
    }
}

/// Every task keeps one, and every call begins by making one.
#[test]
fn the_future_of_a_call_stays_small() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let future = super::dispatch(&t, 0, [0; 6]);
    assert!(size_of_val(&future) <= 1536, "{}", size_of_val(&future));
}

#[test]
fn the_harness_makes_calls() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    assert_eq!(plain(&t, libc::SYS_getpid, []), Ok(t.pid() as u64));
    assert_eq!(plain(&t, libc::SYS_close, [3]), Err(Errno::EBADF));
    assert!(ctx(&t).lookup(&Base::Cwd, b"/", Default::default()).is_ok());
}
