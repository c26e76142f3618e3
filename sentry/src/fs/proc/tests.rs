//! A kernel with processes that never run, seen through procfs and compared with the host's files.

use std::any::Any;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use runsc_platform::arch::Registers;
use runsc_platform::{
    AddressSpace, HostOp, Platform, Retired, VdsoRange, Worker, WorkerId, WorkerWaker,
};

use super::*;
use crate::config::GuestLimits;
use crate::executor::{Executor, Home, Reactor};
use crate::fs::anon::{Anon, anon_file, anon_path};
use crate::fs::context::FsContext;
use crate::fs::fdtable::{Exec, FdTable};
use crate::fs::file::{File, FileOps};
use crate::fs::inode::OpenFlags;
use crate::fs::mount::{Mount, MountFlags, MountNamespace};
use crate::fs::tmpfs::{Options, Tmpfs};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::cred::{CapSet, Credentials, Gid, Uid};
use crate::kernel::group::{ExitStatus, ThreadGroup};
use crate::kernel::limits::Limits;
use crate::kernel::signal::{SigActions, Signal, TaskSignals};
use crate::kernel::task::{NewTask, Task};
use crate::kernel::tree::{Node, Session};
use crate::kernel::{KernelParts, Supervisor, Uts};
use crate::mm::io::{Sink, Source};
use crate::mm::{MapRequest, MemoryFile, Mm};

struct Still;

impl WorkerWaker for Still {
    fn wake(&self) {}
}

impl AddressSpace for Still {
    fn queue(&self, _op: HostOp, _retired: Option<Retired>) {}
    fn shoot_down(&self) {}
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Platform for Still {
    fn name(&self) -> &'static str {
        "still"
    }
    fn user_range(&self) -> (u64, u64) {
        (0x10000, 0x7fff_ffff_f000)
    }
    fn vdso(&self) -> Option<VdsoRange> {
        None
    }
    fn new_address_space(&self) -> Arc<dyn AddressSpace> {
        Arc::new(Still)
    }
    fn new_worker(&self, _id: WorkerId) -> runsc_platform::Result<Box<dyn Worker>> {
        Err(runsc_platform::Error::Gone)
    }
    fn waker(&self, _id: WorkerId) -> Arc<dyn WorkerWaker> {
        Arc::new(Still)
    }
    fn contexts_are_bound(&self) -> bool {
        false
    }
}

impl Supervisor for Still {
    fn stopped(&self, _: Signal) {}
    fn started(&self) {}
    fn start_failed(&self, _exit_code: u8, _message: &str) {}
    fn exited(&self, _status: ExitStatus) {}
    fn fatal(&self, report: &str) {
        panic!("{report}");
    }
}

/// A kernel of three processors without processes.
pub fn kernel() -> Arc<Kernel> {
    kernel_with(GuestLimits::default())
}

pub fn kernel_with(limits: GuestLimits) -> Arc<Kernel> {
    let _ = runsc_platform::memory::install_fault_handler();
    let platform: Arc<dyn Platform> = Arc::new(Still);
    Kernel::new(KernelParts {
        executor: Executor::new(platform.clone(), 1),
        platform,
        memory: MemoryFile::new().unwrap(),
        reactor: Reactor::new().unwrap(),
        uts: Uts {
            nodename: b"here".to_vec(),
            domainname: b"(none)".to_vec(),
        },
        machine: crate::kernel::resources::Machine {
            cores: 3,
            possible_cores: 3,
            memory: 1 << 30,
        },
        limits,
        own_use: None,
        strace: None,
        supervisor: Box::new(Still),
    })
}

/// procfs mounted on the root of a namespace of its own, and a process.
struct World {
    kernel: Arc<Kernel>,
    fs: Arc<FsContext>,
    task: Arc<Task>,
}

fn spawn(kernel: &Arc<Kernel>, fs: &Arc<FsContext>, creds: Credentials) -> Arc<Task> {
    let mm = Mm::new(
        &kernel.platform,
        &kernel.memory,
        crate::mm::Limits::default(),
    );
    kernel
        .tree
        .enter(|pid, tree| {
            let actions = Arc::new(Mutex::new(SigActions::default()));
            let group = ThreadGroup::new(kernel, pid, actions, Limits::default(), libc::SIGCHLD);
            tree.nodes
                .insert(pid, Node::new(group.clone(), 0, pid, pid));
            tree.sessions.insert(pid, Session::default());
            let task = Task::new(NewTask {
                tid: pid,
                group: group.clone(),
                home: Home::new(WorkerId(0)),
                regs: Registers::default(),
                fp: None,
                mm,
                files: FdTable::new(),
                fs: fs.clone(),
                creds: Arc::new(creds),
                seccomp: None,
                comm: *b"a (b\n) c\0\0\0\0\0\0\0\0",
                signals: TaskSignals::default(),
            });
            group.add_task(task.clone());
            Ok(task)
        })
        .unwrap()
}

fn world() -> World {
    let kernel = kernel();
    let root = Mount::new(mount(&kernel).unwrap(), b"proc", MountFlags::RELATIME);
    let fs = FsContext::new(MountNamespace::new(root));
    let task = spawn(&kernel, &fs, Credentials::root());
    World { kernel, fs, task }
}

/// Runs `f` as the task's.
fn run_as<R>(task: &Arc<Task>, f: impl FnOnce() -> R) -> R {
    let mut f = Some(f);
    let future = current::scope(task.clone(), async move { f.take().unwrap()() });
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(r) => r,
        Poll::Pending => unreachable!(),
    }
}

impl World {
    fn open(&self, task: &Arc<Task>, path: &str, flags: OpenFlags) -> Result<Arc<File>> {
        run_as(task, || {
            let ctx = Ctx::new(&self.fs, task.creds());
            ctx.open(&Base::Cwd, path.as_bytes(), flags, 0, WalkFlags::empty())?
                .file()
        })
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        let file = self.open(&self.task, path, OpenFlags::empty()).unwrap();
        read(&self.task, &file).unwrap()
    }

    fn text(&self, path: &str) -> String {
        String::from_utf8(self.bytes(path)).unwrap()
    }

    fn write(&self, task: &Arc<Task>, path: &str, data: &str) -> Result<usize> {
        let file = self.open(task, path, OpenFlags::WRONLY | OpenFlags::TRUNC)?;
        run_as(task, || file.write(&mut Source::kernel(data.as_bytes())))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let file = self.open(&self.task, path, OpenFlags::empty()).unwrap();
        let mut names = Vec::new();
        run_as(&self.task, || {
            // One at a time, to see that positions go on.
            let mut pos = 0;
            loop {
                let before = names.len();
                file.ops()
                    .readdir(&file, pos, &mut |e| {
                        if names.len() > before {
                            return false;
                        }
                        names.push(String::from_utf8(e.name.to_vec()).unwrap());
                        pos = e.next;
                        true
                    })
                    .unwrap();
                if names.len() == before {
                    break;
                }
            }
        });
        names
    }

    fn link(&self, task: &Arc<Task>, path: &str) -> Result<Vec<u8>> {
        run_as(task, || {
            let ctx = Ctx::new(&self.fs, task.creds());
            let place = ctx.lookup(&Base::Cwd, path.as_bytes(), WalkFlags::empty())?;
            crate::fs::namei::link_text(task, &place)
        })
    }
}

fn read(task: &Arc<Task>, file: &File) -> Result<Vec<u8>> {
    run_as(task, || {
        let mut all = Vec::new();
        let mut buf = vec![0; 1000];
        loop {
            match file.read(&mut Sink::kernel(&mut buf))? {
                0 => return Ok(all),
                n => all.extend_from_slice(&buf[..n]),
            }
        }
    })
}

fn host(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn keys(text: &str) -> Vec<&str> {
    text.lines()
        .map(|l| l.split_once(':').map_or(l, |(k, _)| k))
        .collect()
}

/// Letters, digits and blanks as classes: what a line looks like.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for c in line.chars() {
        let c = match c {
            '0'..='9' | 'a'..='f' => '0',
            ' ' => ' ',
            c => c,
        };
        if !(shape.ends_with(c) && matches!(c, '0' | ' ')) {
            shape.push(c);
        }
    }
    shape
}

#[test]
fn status_has_the_hosts_lines() {
    let w = world();
    let ours = w.text("/self/status");
    let theirs = host("/proc/self/status");
    // Depend on the host's version and processor.
    let optional = [
        "Kthread",
        "untag_mask",
        "x86_Thread_features",
        "x86_Thread_features_locked",
    ];
    let theirs: Vec<&str> = theirs
        .lines()
        .filter(|l| !optional.contains(&l.split(':').next().unwrap()))
        .collect();
    assert_eq!(keys(&ours), keys(&theirs.join("\n")));
    for (a, b) in ours.lines().zip(&theirs) {
        let texts = ["Name", "State", "Speculation", "Groups", "Cpus", "Mems"];
        if texts.iter().any(|t| a.starts_with(t)) {
            continue;
        }
        assert_eq!(shape(a), shape(b));
        if a.ends_with(" kB") {
            assert_eq!(a.len(), b.len(), "{a} | {b}");
        }
    }
    assert!(ours.starts_with("Name:\ta (b\\n) c\nUmask:\t0022\nState:\tR (running)\nTgid:\t1\n"));
    assert!(ours.contains("\nGroups:\t \n") && ours.contains("\nCpus_allowed:\t7\n"));
    assert!(ours.contains("\nCapEff:\t000001ffffffffff\n"));
}

#[test]
fn stat_has_52_fields() {
    let w = world();
    let text = w.text("/1/stat");
    let (head, tail) = text.rsplit_once(") ").unwrap();
    assert_eq!(head, "1 (a (b\n) c");
    let fields: Vec<&str> = tail.trim_end().split(' ').collect();
    assert_eq!(fields.len(), 50);
    let theirs = host("/proc/self/stat");
    assert_eq!(
        theirs
            .rsplit_once(") ")
            .unwrap()
            .1
            .trim_end()
            .split(' ')
            .count(),
        fields.len()
    );
    // State, parent, group, session, no terminal.
    assert_eq!(fields[..6], ["R", "0", "1", "1", "0", "-1"]);
    assert_eq!((fields[15], fields[16], fields[17]), ("20", "0", "1"));
    assert_eq!(fields[35], libc::SIGCHLD.to_string());
    assert_eq!(w.text("/1/statm").split(' ').count(), 7);
    // One thread's files are the same but for its own figures.
    assert!(
        w.text("/1/task/1/stat")
            .starts_with("1 (a (b\n) c) R 0 1 1")
    );
}

#[test]
fn limits_are_laid_out_as_on_the_host() {
    let ours = world().text("/self/limits");
    let theirs = host("/proc/self/limits");
    assert_eq!(ours.lines().count(), theirs.lines().count());
    for (a, b) in ours.lines().zip(theirs.lines()) {
        assert_eq!((a.len(), &a[..26]), (b.len(), &b[..26]));
        assert_eq!(a.get(68..), b.get(68..));
    }
}

/// A heap-like mapping with text in it; the layout says it holds arguments and environment.
fn program(w: &World, args: &[u8], env: &[u8]) -> u64 {
    let mm = w.task.mm();
    let at = mm
        .mmap(MapRequest {
            addr: 0,
            len: 8192,
            prot: libc::PROT_READ | libc::PROT_WRITE,
            flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            file: None,
            offset: 0,
        })
        .unwrap();
    mm.write_bytes(at, &[args, env].concat()).unwrap();
    mm.set_layout(|l| {
        l.arg_start = at;
        l.arg_end = at + args.len() as u64;
        l.env_start = l.arg_end;
        l.env_end = l.env_start + env.len() as u64;
        l.auxv = vec![(6, 4096), (0, 0)];
    });
    at
}

#[test]
fn maps_look_like_the_hosts() {
    let w = world();
    let at = program(&w, b"x\0", b"");
    let ours = w.text("/self/maps");
    let vsyscall =
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";
    assert_eq!(
        ours,
        format!(
            "{at:08x}-{:08x} rw-p 00000000 00:00 0 \n{vsyscall}\n",
            at + 8192
        )
    );
    w.task.mm().mprotect(at, 4096, libc::PROT_READ).unwrap();
    w.task.mm().set_anon_name(at, 4096, Some(b"mine")).unwrap();
    let ours = w.text("/self/maps");
    let line = ours.lines().next().unwrap();
    assert!(line.contains(" r--p 00000000 00:00 0 "), "{line}");
    // Names stand in one column on every Linux.
    let theirs = host("/proc/self/maps");
    let named = theirs.lines().find(|l| l.ends_with("[stack]")).unwrap();
    assert_eq!(line.find("[anon:mine]"), named.find("[stack]"), "{line}");

    let ours = w.text("/self/smaps");
    let page = ours.split(vsyscall).nth(1).unwrap();
    assert!(
        page.starts_with("\nSize:                  4 kB\n"),
        "{page}"
    );
    assert!(page.ends_with("\nVmFlags: ex \n"), "{page}");
    let mut theirs = host("/proc/self/smaps");
    theirs.retain(|c| c != '\t');
    let block = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .skip(1)
            .take_while(|l| !l.contains('-') || l.contains(": "));
        lines.map(str::to_owned).collect()
    };
    let (ours, theirs) = (block(&ours), block(&theirs));
    let known: BTreeSet<&str> = ours.iter().map(|l| l.split(':').next().unwrap()).collect();
    for line in &theirs {
        let key = line.split(':').next().unwrap();
        assert!(known.contains(key) || key == "ProtectionKey", "{line}");
        if let (true, Some(own)) = (
            line.ends_with(" kB"),
            ours.iter().find(|l| l.starts_with(&format!("{key}:"))),
        ) {
            assert_eq!(own.len(), line.len(), "{own} | {line}");
        }
    }
    let rollup = w.text("/self/smaps_rollup");
    let theirs = host("/proc/self/smaps_rollup");
    assert!(rollup.lines().next().unwrap().ends_with(" [rollup]"));
    assert_eq!(
        rollup.lines().next().unwrap().find('['),
        theirs.lines().next().unwrap().find('[')
    );
}

#[test]
fn arguments_environment_and_vector() {
    let w = world();
    program(&w, b"cmd\0-a\0", b"A=1\0B=2\0");
    assert_eq!(w.bytes("/self/cmdline"), b"cmd\0-a\0");
    assert_eq!(w.bytes("/self/environ"), b"A=1\0B=2\0");
    assert_eq!(w.bytes("/self/auxv").len(), 32);
    // setproctitle(3): no NUL at the end of the arguments.
    let w = world();
    program(&w, b"a title that goes o", b"n here\0\0B=2\0");
    assert_eq!(w.bytes("/self/cmdline"), b"a title that goes on here\0");
}

#[test]
fn memory_is_read_and_written_whatever_its_protection() {
    let w = world();
    let at = program(&w, b"hello\0", b"");
    w.task.mm().mprotect(at, 4096, libc::PROT_NONE).unwrap();
    let file = w.open(&w.task, "/self/mem", OpenFlags::RDWR).unwrap();
    let mut buf = [0; 5];
    run_as(&w.task, || {
        assert_eq!(file.pread(&mut Sink::kernel(&mut buf), at), Ok(5));
        assert_eq!(&buf, b"hello");
        assert_eq!(
            file.pread(&mut Sink::kernel(&mut buf), 0x1000),
            Err(Errno::EIO)
        );
        assert_eq!(file.pwrite(&mut Source::kernel(b"J"), at), Ok(1));
        assert_eq!(file.pread(&mut Sink::kernel(&mut buf), at), Ok(5));
        assert_eq!(&buf, b"Jello");
    });
    // The end of the process ends the memory.
    drop(w.task.set_mm(None));
    run_as(&w.task, || {
        assert_eq!(file.pread(&mut Sink::kernel(&mut buf), at), Ok(0))
    });
}

struct Nothing;
impl FileOps for Nothing {
    fn fdinfo(&self, _file: &File) -> String {
        "eventfd-count:                0\n".to_owned()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn descriptors() {
    let w = world();
    let files = w.task.files();
    let pipe = File::new(
        Arc::new(Nothing),
        anon_path(Anon::Pipe, Uid(0), Gid(0)),
        OpenFlags::WRONLY,
    );
    files.set(3, pipe, Exec::Close, 100).unwrap();
    let event = anon_file(Anon::Inode("[eventfd]"), Arc::new(Nothing), OpenFlags::RDWR);
    files.set(10, event, Exec::Keep, 100).unwrap();
    assert_eq!(w.names("/self/fd"), ["3", "10"]);
    assert_eq!(w.names("/self/fdinfo"), ["3", "10"]);
    assert!(
        w.link(&w.task, "/self/fd/3")
            .unwrap()
            .starts_with(b"pipe:[")
    );
    assert_eq!(
        w.link(&w.task, "/self/fd/10").unwrap(),
        b"anon_inode:[eventfd]"
    );
    assert_eq!(w.link(&w.task, "/self/fd/4"), Err(Errno::ENOENT));
    let perm = |path: &str| {
        let ctx = Ctx::new(&w.fs, w.task.creds());
        let place = run_as(&w.task, || {
            ctx.lookup(&Base::Cwd, path.as_bytes(), WalkFlags::empty())
        });
        place.unwrap().inode().attr().unwrap()
    };
    assert_eq!(
        (perm("/self/fd/3").perm, perm("/self/fd/3").size),
        (0o300, 64)
    );
    assert_eq!(perm("/self/fd/10").perm, 0o700);
    assert_eq!(perm("/self/fd").perm, 0o500);
    let info = w.text("/self/fdinfo/3");
    assert!(
        info.starts_with("pos:\t0\nflags:\t02000001\nmnt_id:\t"),
        "{info}"
    );
    assert_eq!(keys(&info)[..4], keys(&host("/proc/self/fdinfo/0"))[..4]);
    assert!(
        w.text("/self/fdinfo/10")
            .ends_with("eventfd-count:                0\n")
    );
}

#[test]
fn names_of_processes_come_and_go() {
    let w = world();
    let second = spawn(&w.kernel, &w.fs, Credentials::root());
    let names = w.names("/");
    assert_eq!(names[names.len() - 2..], ["1", "2"]);
    assert!(names.iter().any(|n| n == "self") && names.iter().any(|n| n == "cpuinfo"));
    assert_eq!(w.link(&second, "/self").unwrap(), b"2");
    assert_eq!(w.link(&second, "/thread-self").unwrap(), b"2/task/2");
    assert_eq!(w.link(&second, "/self/cwd").unwrap(), b"/");
    assert_eq!(w.names("/2/task"), ["2"]);
    let stat = w.open(&w.task, "/2/stat", OpenFlags::empty()).unwrap();
    let maps = w.open(&w.task, "/2/maps", OpenFlags::empty()).unwrap();
    assert!(!read(&w.task, &stat).unwrap().is_empty());

    // It becomes a zombie.
    drop(second.set_mm(None));
    w.kernel.tree.lock().tasks.remove(&2);
    assert!(second.group().remove_task(&second));
    w.kernel.tree.lock().nodes.get_mut(&2).unwrap().zombie = Some(crate::kernel::tree::Zombie {
        status: ExitStatus::Exited(3),
        usage: Default::default(),
        uid: 0,
    });
    let text = w.text("/2/stat");
    assert!(text.starts_with("2 (a (b\n) c) Z 0 2 2 "), "{text}");
    assert!(text.ends_with(" 768\n"), "{text}");
    assert!(w.text("/2/status").contains("State:\tZ (zombie)\n"));
    assert!(w.text("/2/status").contains("\nThreads:\t1\n"));
    assert_eq!(w.bytes("/2/cmdline"), b"");
    assert_eq!(w.link(&w.task, "/2/exe"), Err(Errno::ENOENT));
    assert_eq!(w.link(&w.task, "/2/cwd"), Err(Errno::ENOENT));
    assert_eq!(read(&w.task, &maps), Ok(Vec::new()));

    // It is waited for.
    w.kernel.tree.lock().reap(2);
    run_as(&w.task, || {
        let mut buf = [0; 10];
        assert_eq!(
            stat.pread(&mut Sink::kernel(&mut buf), 0),
            Err(Errno::ESRCH)
        );
    });
    assert!(
        w.open(&w.task, "/2/stat", OpenFlags::empty())
            .is_err_and(|e| e == Errno::ENOENT)
    );
    assert!(!w.names("/").contains(&"2".to_owned()));
}

#[test]
fn settings_follow_linuxs_rules() {
    let w = world();
    let user = spawn(
        &w.kernel,
        &w.fs,
        Credentials::user(Uid(5), Gid(5), vec![], CapSet::EMPTY),
    );
    assert_eq!(w.write(&w.task, "/1/comm", "new name"), Ok(8));
    assert_eq!(w.text("/1/comm"), "new name\n");
    assert_eq!(w.write(&w.task, "/2/comm", "x"), Err(Errno::EINVAL));
    assert_eq!(w.write(&user, "/1/comm", "x"), Err(Errno::EACCES));

    assert_eq!(w.write(&user, "/2/oom_score_adj", "500\n"), Ok(4));
    assert_eq!(w.text("/2/oom_score_adj"), "500\n");
    assert_eq!(
        w.write(&user, "/2/oom_score_adj", "400"),
        Err(Errno::EACCES)
    );
    assert_eq!(w.write(&w.task, "/2/oom_score_adj", "-1000"), Ok(5));
    assert_eq!(
        w.write(&w.task, "/2/oom_score_adj", "1001"),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        w.write(&w.task, "/2/oom_score_adj", "abc"),
        Err(Errno::EINVAL)
    );
    assert_eq!(w.text("/2/oom_adj"), "-17\n");

    assert_eq!(w.write(&w.task, "/sys/kernel/hostname", "box\n"), Ok(4));
    assert_eq!(w.kernel.uts.read().nodename, b"box");
    assert_eq!(w.text("/sys/kernel/hostname"), "box\n");
    assert_eq!(
        w.write(&user, "/sys/kernel/hostname", "x"),
        Err(Errno::EACCES)
    );
    assert_eq!(
        w.write(&w.task, "/sys/kernel/osrelease", "x"),
        Err(Errno::EACCES)
    );
    assert_eq!(
        w.write(&w.task, "/sys/vm/overcommit_memory", "3"),
        Err(Errno::EINVAL)
    );
    assert_eq!(w.write(&w.task, "/sys/vm/overcommit_memory", "1"), Ok(1));
    assert_eq!(w.text("/sys/vm/overcommit_memory"), "1\n");
    assert_eq!(w.write(&w.task, "/version", "x"), Err(Errno::EIO));
    assert_eq!(w.write(&w.task, "/1/status", "x"), Err(Errno::EINVAL));
}

#[test]
fn who_may_look() {
    let w = world();
    let user = spawn(
        &w.kernel,
        &w.fs,
        Credentials::user(Uid(5), Gid(5), vec![], CapSet::EMPTY),
    );
    let open = |task: &Arc<Task>, path: &str| w.open(task, path, OpenFlags::empty()).map(drop);
    for path in [
        "/1/environ",
        "/1/maps",
        "/1/mem",
        "/1/auxv",
        "/1/fd",
        "/1/smaps",
    ] {
        assert_eq!(open(&user, path), Err(Errno::EACCES), "{path}");
    }
    for path in [
        "/1/status",
        "/1/stat",
        "/1/cmdline",
        "/1/limits",
        "/2/environ",
        "/2/fd",
        "/2/mem",
    ] {
        assert_eq!(open(&user, path), Ok(()), "{path}");
    }
    for path in ["/1/exe", "/1/cwd", "/1/root", "/1/ns/pid"] {
        assert_eq!(w.link(&user, path), Err(Errno::EACCES), "{path}");
    }
    assert_eq!(w.link(&user, "/2/ns/pid").unwrap(), b"pid:[4026531836]");
    let owner = |path: &str| {
        let ctx = Ctx::new(&w.fs, w.task.creds());
        let place = run_as(&w.task, || {
            ctx.lookup(&Base::Cwd, path.as_bytes(), WalkFlags::empty())
        });
        place.unwrap().inode().attr().unwrap().uid
    };
    assert_eq!((owner("/2"), owner("/2/stat")), (Uid(5), Uid(5)));
    // What is not dumpable is the superuser's, but for the directory.
    user.group().dumpable.store(0, Ordering::Relaxed);
    assert_eq!((owner("/2"), owner("/2/stat")), (Uid(5), Uid(0)));
    assert_eq!(open(&user, "/2/fd"), Ok(()));
}

#[test]
fn the_machine() {
    let w = world();
    let ours = w.text("/meminfo");
    assert!(
        ours.starts_with("MemTotal:        1048576 kB\nMemFree:  "),
        "{ours}"
    );
    let theirs = host("/proc/meminfo");
    let known: BTreeSet<&str> = keys(&theirs).into_iter().collect();
    for line in ours.lines() {
        let key = line.split(':').next().unwrap();
        assert!(known.contains(key), "{key}");
        let column = |l: &str| l.find(" kB");
        let theirs = theirs
            .lines()
            .find(|l| l.starts_with(&format!("{key}:")))
            .unwrap();
        assert_eq!(column(line), column(theirs), "{line} | {theirs}");
    }
    let stat = w.text("/stat");
    assert_eq!(stat.lines().filter(|l| l.starts_with("cpu")).count(), 4);
    assert_eq!(
        stat.lines()
            .next()
            .unwrap()
            .split_ascii_whitespace()
            .count(),
        11
    );
    for key in ["btime", "processes", "procs_running", "procs_blocked"] {
        assert!(stat.lines().any(|l| l.starts_with(key)), "{key}");
    }
    assert_eq!(shape(&w.text("/uptime")), shape(&host("/proc/uptime")));
    let seconds = |text: String| text.split('.').next().unwrap().parse::<u64>().unwrap();
    assert!(seconds(host("/proc/uptime")).abs_diff(seconds(w.text("/uptime"))) <= 2);
    assert_eq!(shape(&w.text("/loadavg")), shape(&host("/proc/loadavg")));
    assert_eq!(
        shape(&w.text("/self/uid_map")).len(),
        shape(&host("/proc/self/uid_map")).len()
    );
    assert_eq!(
        w.text("/swaps"),
        host("/proc/swaps").lines().next().unwrap().to_owned() + "\n"
    );
    let boot = w.text("/sys/kernel/random/boot_id");
    assert_eq!(boot, w.text("/sys/kernel/random/boot_id"));
    assert_ne!(boot, w.text("/sys/kernel/random/uuid"));
    for (name, text, _) in SYSVIPC {
        if let Ok(theirs) = std::fs::read_to_string(format!("/proc/sysvipc/{name}")) {
            assert_eq!(theirs.lines().next(), text.lines().next());
        }
    }
}

#[test]
fn nothing_can_be_made() {
    let w = world();
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY;
    for path in ["/new", "/self/new", "/self/fd/77", "/99999/x"] {
        assert!(
            w.open(&w.task, path, flags)
                .is_err_and(|e| e == Errno::ENOENT),
            "{path}"
        );
    }
}

#[test]
fn exe_leads_to_the_program() {
    let w = world();
    let tmpfs = Tmpfs::mount(w.kernel.memory.clone(), &Options::default()).unwrap();
    let root = Mount::new(tmpfs, b"tmpfs", MountFlags::RELATIME);
    let fs = FsContext::new(MountNamespace::new(root));
    let ctx = Ctx::new(&fs, w.task.creds());
    let flags = OpenFlags::CREAT | OpenFlags::RDWR;
    let file = ctx
        .open(&Base::Cwd, b"/prog", flags, 0o755, WalkFlags::empty())
        .unwrap();
    w.task.mm().set_exe(Some(file.file().unwrap()));
    w.task.set_fs(fs.clone());
    assert_eq!(w.link(&w.task, "/1/exe").unwrap(), b"/prog");
    assert_eq!(ctx.unlink(&Base::Cwd, b"/prog"), Ok(()));
    assert_eq!(w.link(&w.task, "/1/exe").unwrap(), b"/prog (deleted)");
    assert!(w.text("/1/mounts").starts_with("tmpfs / tmpfs rw,relatime"));
}
