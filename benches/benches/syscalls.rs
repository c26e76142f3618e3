//! Whole system calls of a task, from `dispatch` to the result: what a call costs beside its trap.
//!
//! The calls of one measurement are made by one future that is polled once, as those of a task are.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has to end"
)]

mod support;

use std::any::Any;
use std::future::Future;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use runsc_platform::arch::Registers;
use runsc_platform::{Platform, WorkerId};
use runsc_sentry::errno::Errno;
use runsc_sentry::executor::{Executor, Home, Reactor};
use runsc_sentry::fs::change::Make;
use runsc_sentry::fs::context::FsContext;
use runsc_sentry::fs::fdtable::{Exec, FdTable};
use runsc_sentry::fs::file::{File, FileOps, WriteAt};
use runsc_sentry::fs::inode::{Dev, FileType, OpenFlags};
use runsc_sentry::fs::mount::{FileSystem, Mount, MountFlags, MountNamespace};
use runsc_sentry::fs::overlay::OverlayFs;
use runsc_sentry::fs::register_all;
use runsc_sentry::fs::tmpfs::{Options, Tmpfs};
use runsc_sentry::fs::walk::{Base, Ctx, WalkFlags};
use runsc_sentry::kernel::cred::Credentials;
use runsc_sentry::kernel::group::{ExitStatus, ThreadGroup};
use runsc_sentry::kernel::limits::Limits;
use runsc_sentry::kernel::signal::{Signal, TaskSignals};
use runsc_sentry::kernel::task::{NewTask, Task};
use runsc_sentry::kernel::tree::Node;
use runsc_sentry::kernel::{Kernel, KernelParts, Supervisor, Uts, current};
use runsc_sentry::mm::io::{Sink, Source};
use runsc_sentry::mm::{self, MapRequest, MemoryFile, Mm, PAGE_SIZE};
use runsc_sentry::syscalls::dispatch;
use support::{NoPlatform, memory};

struct Silent;

impl Supervisor for Silent {
    fn stopped(&self, _: Signal) {}
    fn started(&self) {}
    fn start_failed(&self, _: u8, _: &str) {}
    fn exited(&self, _: ExitStatus) {}
    fn fatal(&self, _: &str) {}
}

fn space(platform: &Arc<dyn Platform>, memory: &Arc<MemoryFile>) -> Arc<Mm> {
    let mm = Mm::new(platform, memory, mm::Limits::default());
    // As many mappings as a small dynamically linked program has, no two alike.
    for i in 0..40 {
        mm.mmap(MapRequest {
            addr: 0,
            len: 4 * PAGE_SIZE,
            prot: libc::PROT_READ | (libc::PROT_WRITE * (i % 2)),
            flags: libc::MAP_ANONYMOUS | libc::MAP_PRIVATE,
            file: None,
            offset: 0,
        })
        .unwrap();
    }
    mm
}

/// A task whose root is `root`, with `/a/b/c/file`, `/null` and `/zero`.
fn task(memory: &Arc<MemoryFile>, root: Arc<FileSystem>) -> Arc<Task> {
    let platform: Arc<dyn Platform> = Arc::new(NoPlatform);
    let mm = space(&platform, memory);
    let kernel = Kernel::new(KernelParts {
        executor: Executor::new(platform.clone(), 1),
        platform,
        memory: memory.clone(),
        reactor: Reactor::new().unwrap(),
        uts: Uts {
            nodename: b"bench".to_vec(),
            domainname: Vec::new(),
        },
        machine: runsc_sentry::kernel::resources::Machine {
            cores: 1,
            possible_cores: 1,
            memory: 1 << 30,
        },
        limits: Default::default(),
        own_use: None,
        strace: None,
        supervisor: Box::new(Silent),
    });
    let namespace = MountNamespace::new(Mount::new(root, b"root", MountFlags::RELATIME));
    register_all(&kernel, &namespace);
    let fs = FsContext::new(namespace);
    let creds = Arc::new(Credentials::root());
    let ctx = Ctx::new(&fs, creds.clone());
    for (path, what) in [
        ("/a", Make::Dir),
        ("/a/b", Make::Dir),
        ("/a/b/c", Make::Dir),
        ("/a/b/c/file", Make::Regular),
        ("/null", Make::Node(FileType::Char, Dev::new(1, 3))),
        ("/zero", Make::Node(FileType::Char, Dev::new(1, 5))),
    ] {
        ctx.make(&Base::Cwd, path.as_bytes(), what, 0o755).unwrap();
    }
    kernel
        .tree
        .enter(|pid, tree| {
            let group = ThreadGroup::new(&kernel, pid, Arc::default(), Limits::default(), 0);
            let task = Task::new(NewTask {
                tid: pid,
                group: group.clone(),
                home: Home::new(WorkerId(0)),
                regs: Registers::default(),
                fp: None,
                mm,
                files: FdTable::new(),
                fs,
                creds,
                seccomp: None,
                comm: [0; 16],
                signals: TaskSignals::default(),
            });
            group.add_task(task.clone());
            tree.nodes.insert(pid, Node::new(group, 0, pid, pid));
            Ok(task)
        })
        .unwrap()
}

/// A task on a tmpfs.
fn plain_task() -> Arc<Task> {
    let memory = memory();
    let root = Tmpfs::mount(memory.clone(), &Options::default()).unwrap();
    task(&memory, root)
}

/// A task on an overlay over a tmpfs.
fn overlay_task() -> Arc<Task> {
    let memory = memory();
    let lower = Tmpfs::mount(memory.clone(), &Options::default()).unwrap();
    let root = OverlayFs::mount(memory.clone(), lower.root.inode().clone(), None).unwrap();
    task(&memory, root)
}

/// Polls a future of the task once; nothing here waits.
fn run<T>(task: &Arc<Task>, future: impl Future<Output = T>) -> T {
    let mut future: Pin<Box<dyn Future<Output = T>>> =
        Box::pin(current::scope(task.clone(), future));
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a benchmarked call waits"),
    }
}

#[derive(Clone, Copy)]
struct Call(i64, [u64; 6]);

fn call<const N: usize>(number: i64, args: [u64; N]) -> Call {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    Call(number, all)
}

async fn make(t: &Task, Call(number, args): Call) -> u64 {
    dispatch(t, black_box(number as u64), args).await.unwrap()
}

fn once(task: &Arc<Task>, call: Call) -> u64 {
    run(task, make(task, call))
}

/// Measures the calls made one after the other.
fn measure(c: &mut Criterion, name: &str, task: &Arc<Task>, calls: &[Call]) {
    c.bench_function(name, |b| {
        b.iter_custom(|rounds| {
            run(task, async {
                let start = Instant::now();
                for _ in 0..rounds {
                    for call in calls {
                        black_box(make(task, *call).await);
                    }
                }
                start.elapsed()
            })
        });
    });
}

/// Memory of the guest, touched.
fn room(task: &Arc<Task>) -> u64 {
    let map = call(
        libc::SYS_mmap,
        [
            0,
            4 * PAGE_SIZE,
            (libc::PROT_READ | libc::PROT_WRITE) as u64,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64,
            u64::MAX,
            0,
        ],
    );
    let at = once(task, map);
    task.mm()
        .write_bytes(at, &[7; 4 * PAGE_SIZE as usize])
        .unwrap();
    at
}

fn text(task: &Arc<Task>, text: &str) -> u64 {
    let at = room(task);
    task.mm().write_bytes(at, text.as_bytes()).unwrap();
    task.mm()
        .write_bytes(at + text.len() as u64, b"\0")
        .unwrap();
    at
}

fn open(task: &Arc<Task>, path: &str, flags: i32) -> u64 {
    let path = text(task, path);
    once(task, call(libc::SYS_open, [path, flags as u64, 0o644]))
}

/// A file of the host, as a Gofer hands them over.
struct HostFile(std::fs::File);

impl FileOps for HostFile {
    fn read_at(&self, _: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize, Errno> {
        dst.put_host(self.0.as_fd(), Some(offset), dst.remaining())
    }

    fn write_at(&self, _: &File, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64), Errno> {
        let WriteAt::Offset(at) = at else {
            return Err(Errno::EINVAL);
        };
        let done = src.take_host(self.0.as_fd(), Some(at), src.remaining())?;
        Ok((done, at + done as u64))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn host_file(t: &Task) -> u64 {
    let place = Ctx::of(t)
        .lookup(&Base::Cwd, b"/a/b/c/file", WalkFlags::FOLLOW)
        .unwrap();
    let ops = Arc::new(HostFile(tempfile::tempfile().unwrap()));
    let file = File::new(ops, place, OpenFlags::RDWR);
    t.add_file(file, Exec::Keep).unwrap() as u64
}

fn identity(c: &mut Criterion) {
    let t = plain_task();
    let future = dispatch(&t, 0, [0; 6]);
    println!("future of one call: {} bytes", size_of_val(&future));
    drop(future);
    measure(c, "getuid", &t, &[call(libc::SYS_getuid, [])]);
}

fn bytes(c: &mut Criterion) {
    let t = plain_task();
    let buf = room(&t);
    let null = open(&t, "/null", libc::O_RDWR);
    let zero = open(&t, "/zero", libc::O_RDWR);
    let write = call(libc::SYS_write, [null, buf, 1]);
    measure(c, "write_null_1", &t, &[write]);
    let read = call(libc::SYS_read, [zero, buf, 1]);
    measure(c, "read_zero_1", &t, &[read]);
    for (name, t) in [
        ("tmpfs", plain_task()),
        ("overlay", overlay_task()),
        ("host", t),
    ] {
        let buf = room(&t);
        let file = match name {
            "host" => host_file(&t),
            _ => open(&t, "/a/b/c/file", libc::O_RDWR),
        };
        let pwrite = call(libc::SYS_pwrite64, [file, buf, PAGE_SIZE, 0]);
        let pread = call(libc::SYS_pread64, [file, buf, PAGE_SIZE, 0]);
        once(&t, pwrite);
        measure(c, &format!("pread_4k_{name}"), &t, &[pread]);
        measure(c, &format!("pwrite_4k_{name}"), &t, &[pwrite]);
        let fstat = call(libc::SYS_fstat, [file, buf]);
        measure(c, &format!("fstat_{name}"), &t, &[fstat]);
    }
}

fn names(c: &mut Criterion) {
    for (name, t) in [("tmpfs", plain_task()), ("overlay", overlay_task())] {
        let (buf, path) = (room(&t), text(&t, "/a/b/file"));
        let deep = text(&t, "/a/b/c/file");
        open(&t, "/a/b/file", libc::O_RDWR | libc::O_CREAT);
        // The lowest free number is given out again each time.
        let fd = open(&t, "/a/b/file", libc::O_RDONLY);
        once(&t, call(libc::SYS_close, [fd]));
        let stat = call(libc::SYS_stat, [path, buf]);
        measure(c, &format!("stat_{name}"), &t, &[stat]);
        let at = libc::AT_FDCWD as u64;
        let fstatat = call(libc::SYS_newfstatat, [at, deep, buf, 0]);
        measure(c, &format!("fstatat_4_{name}"), &t, &[fstatat]);
        let openat = call(libc::SYS_openat, [at, path, libc::O_RDONLY as u64, 0]);
        let close = call(libc::SYS_close, [fd]);
        measure(c, &format!("open_close_{name}"), &t, &[openat, close]);
        let path = text(&t, "/a/b/new");
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u64;
        let create = call(libc::SYS_openat, [at, path, flags, 0o644]);
        let unlink = call(libc::SYS_unlink, [path]);
        measure(
            c,
            &format!("create_unlink_{name}"),
            &t,
            &[create, close, unlink],
        );
    }
}

fn pipes(c: &mut Criterion) {
    let t = plain_task();
    let buf = room(&t);
    once(&t, call(libc::SYS_pipe2, [buf, 0]));
    let [r, w]: [i32; 2] = t.mm().read_obj(buf).unwrap();
    for (name, len) in [("pipe_1", 1), ("pipe_4k", PAGE_SIZE)] {
        let write = call(libc::SYS_write, [w as u64, buf, len]);
        let read = call(libc::SYS_read, [r as u64, buf, len]);
        measure(c, name, &t, &[write, read]);
    }
    let kind = libc::SOCK_STREAM as u64;
    once(
        &t,
        call(libc::SYS_socketpair, [libc::AF_UNIX as u64, kind, 0, buf]),
    );
    let [a, b]: [i32; 2] = t.mm().read_obj(buf).unwrap();
    let write = call(libc::SYS_write, [a as u64, buf, 1]);
    let read = call(libc::SYS_read, [b as u64, buf, 1]);
    measure(c, "socketpair_1", &t, &[write, read]);
    let send = call(libc::SYS_sendto, [a as u64, buf, 1, 0, 0, 0]);
    let recv = call(libc::SYS_recvfrom, [b as u64, buf, 1, 0, 0, 0]);
    measure(c, "socketpair_send_recv_1", &t, &[send, recv]);
}

fn mappings(c: &mut Criterion) {
    let t = plain_task();
    let buf = room(&t);
    let (read, write) = (libc::PROT_READ as u64, libc::PROT_WRITE as u64);
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    for (name, len) in [("mmap_munmap_4k", PAGE_SIZE), ("mmap_munmap_1m", 1 << 20)] {
        let map = call(libc::SYS_mmap, [0, len, read | write, flags, u64::MAX, 0]);
        // The same place is free again each time.
        let at = once(&t, map);
        let unmap = call(libc::SYS_munmap, [at, len]);
        once(&t, unmap);
        measure(c, name, &t, &[map, unmap]);
    }
    let protect = |prot| call(libc::SYS_mprotect, [buf + PAGE_SIZE, PAGE_SIZE, prot]);
    let pair = [protect(read), protect(read | write)];
    measure(c, "mprotect_twice", &t, &pair);
}

fn futexes(c: &mut Criterion) {
    let t = plain_task();
    let buf = room(&t);
    let op = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u64;
    measure(
        c,
        "futex_wake_nobody",
        &t,
        &[call(libc::SYS_futex, [buf, op, 1])],
    );
}

criterion_group!(benches, identity, bytes, names, pipes, mappings, futexes);
criterion_main!(benches);
