//! The first process of a container, and those that join it later from outside.
//!
//! [`prepare`] does everything that can fail for a reason the user should hear of: it opens the
//! program and enters the process into the tree. [`Prepared::launch`] lets it run.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use runsc_platform::arch::Registers;

use super::BootError;
use crate::config::ProcessConfig;
use crate::errno::{Errno, Result};
use crate::executor::Home;
use crate::fs::context::FsContext;
use crate::fs::exec::open_first;
use crate::fs::fdtable::{Exec, FdTable};
use crate::fs::file::File;
use crate::fs::inode::{FileType, SetAttr};
use crate::fs::mount::MountNamespace;
use crate::fs::path::PathRef;
use crate::fs::tty::HostName;
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::Kernel;
use crate::kernel::cred::{CapSet, Credentials, Gid, Uid};
use crate::kernel::exec::Program;
use crate::kernel::group::{ExitStatus, ThreadGroup};
use crate::kernel::limits::{Limit, Limits};
use crate::kernel::run;
use crate::kernel::seccomp::{Filter, Seccomp};
use crate::kernel::signal::{SIG_IGN, SigAction, SigActions, SigSet, TaskSignals};
use crate::kernel::task::{NewTask, Task};
use crate::kernel::time::MonoTime;
use crate::kernel::tree::{Node, Session};
use crate::mm::Mm;

/// As timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// What a process from outside is to the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its end is the container's.
    First,
    /// One more, with a session of its own.
    Joined,
}

/// Why there is no process.
#[derive(Debug)]
pub enum NotPrepared {
    /// The configuration cannot be carried out.
    Boot(BootError),
    /// The program cannot be executed.
    Program(Refusal),
}

/// Why a program cannot be executed.
#[derive(Debug)]
pub struct Refusal {
    /// As shells have it.
    pub exit_code: u8,
    /// `NAME: why`
    pub message: String,
}

/// A process that has not run yet.
pub struct Prepared {
    task: Arc<Task>,
    program: Program,
    terminal: Option<HostName>,
}

/// Makes a process with these files, in the tree and with its program open.
pub fn prepare(
    kernel: &Arc<Kernel>,
    namespace: Arc<MountNamespace>,
    process: &ProcessConfig,
    given: Vec<(i32, OwnedFd)>,
    role: Role,
) -> Result<Prepared, NotPrepared> {
    let failed = |what: &str, errno| {
        NotPrepared::Boot(BootError::Guest {
            what: what.to_owned(),
            errno,
        })
    };
    let fs = FsContext::new(namespace);
    let creds = credentials(process);
    enter_cwd(&fs, process)
        .map_err(|e| failed(&format!("cwd {}", String::from_utf8_lossy(&process.cwd)), e))?;
    // What was made so far has the permissions it is to have.
    fs.set_umask(process.umask);
    let files = FdTable::new();
    let (console, terminal) = match role {
        Role::First => (console(&fs, process), None),
        Role::Joined => named_terminal(kernel, &fs, process).unzip(),
    };
    for (number, fd) in given {
        let file = crate::fs::hostfd::host_file(kernel, fd, console.as_ref())
            .map_err(|e| failed("stdio", e))?;
        let limit = u64::try_from(number).unwrap_or(0).saturating_add(1);
        files
            .set(number, file, Exec::Keep, limit)
            .map_err(|e| failed("stdio", e))?;
    }
    let ctx = Ctx::new(&fs, Arc::new(creds.clone()));
    let name = &process.args[0];
    let (file, filename) =
        find(&ctx, name, &process.env).map_err(|e| NotPrepared::Program(refusal(name, e)))?;
    let limits = limits(process);
    let seccomp = process.seccomp.as_ref().map(Filter::of_config).transpose();
    let seccomp = seccomp
        .map_err(|e| failed("seccomp profile", e))?
        .map(Seccomp::Filter);
    let mm = Mm::new(
        &kernel.platform,
        &kernel.memory,
        crate::mm::Limits::default(),
    );
    let parent = match role {
        Role::First if !process.init => enter_adopter(kernel, limits),
        _ => 0,
    };
    let task = kernel
        .tree
        .enter(|pid, tree| {
            let actions = Arc::new(Mutex::new(actions(process)));
            let exit_signal = if parent == 0 { 0 } else { libc::SIGCHLD };
            let group = ThreadGroup::new(kernel, pid, actions, limits, exit_signal);
            if role == Role::First && process.init {
                group.set_init();
            }
            group.oom_score_adj.store(
                process.oom_score_adj.unwrap_or(0),
                std::sync::atomic::Ordering::Relaxed,
            );
            tree.nodes
                .insert(pid, Node::new(group.clone(), parent, pid, pid));
            if let Some(adopter) = tree.nodes.get_mut(&parent) {
                adopter.children.insert(pid);
            }
            tree.sessions.insert(pid, Session::default());
            let task = Task::new(NewTask {
                tid: pid,
                group: group.clone(),
                home: Home::new(runsc_platform::WorkerId(0)),
                regs: Registers::default(),
                fp: None,
                mm,
                files,
                fs,
                creds: Arc::new(creds),
                seccomp,
                comm: [0; 16],
                signals: TaskSignals {
                    blocked: SigSet(process.blocked_signals).minus(SigSet::UNBLOCKABLE),
                    ..TaskSignals::default()
                },
            });
            task.io_priority.store(
                process.io_priority.into(),
                std::sync::atomic::Ordering::Relaxed,
            );
            group.add_task(task.clone());
            if role == Role::First {
                kernel.set_first(&group);
            }
            Ok(task)
        })
        .map_err(|e| failed("process", e))?;
    if let Some(ms) = process.timeout_ms {
        let deadline = MonoTime::now().after_ns(ms.saturating_mul(1_000_000));
        task.group().end_at(deadline, ExitStatus::Exited(TIMED_OUT));
    }
    // A terminal on stdin controls the session, so that job control works in it.
    if (role == Role::First || process.terminal)
        && let Ok(stdin) = task.files().get(0)
        && let Err(e) = crate::fs::hostfd::control(&task, &stdin)
    {
        log::debug!("no controlling terminal: {e}");
    }
    let program = Program {
        file,
        filename,
        argv: process.args.clone(),
        envp: process.env.clone(),
    };
    Ok(Prepared {
        task,
        program,
        terminal,
    })
}

impl Prepared {
    pub fn group(&self) -> &Arc<ThreadGroup> {
        self.task.group()
    }

    /// The name of its terminal, to be kept as long as it lives.
    pub fn take_terminal(&mut self) -> Option<HostName> {
        self.terminal.take()
    }

    /// Lets it run; it calls execve(2) as soon as the workers do, and `told` hears how that went.
    /// A process whose program cannot be executed is dead afterwards.
    pub fn launch(self, told: impl FnOnce(Result<(), Refusal>) + Send + 'static) {
        let name = self.program.argv.first().cloned().unwrap_or_default();
        run::start_with(self.task, self.program, move |result| {
            told(result.map_err(|e| refusal(&name, e)));
        });
    }
}

/// A name in /dev/pts for the terminal of a process that joins. None where devpts is not mounted there:
/// the terminal works without.
fn named_terminal(
    kernel: &Kernel,
    fs: &FsContext,
    process: &ProcessConfig,
) -> Option<(PathRef, HostName)> {
    let devpts = kernel.devpts.get().filter(|_| process.terminal)?;
    let name = devpts.name_host_terminal(Uid(process.uid)).ok()?;
    let ctx = Ctx::new(fs, Arc::new(Credentials::root()));
    let path = format!("/dev/pts/{}", name.name());
    let place = ctx
        .lookup(&Base::Cwd, path.as_bytes(), WalkFlags::empty())
        .ok()?;
    let attr = place.inode().attr().ok()?;
    (attr.rdev == name.device()).then_some((place, name))
}

/// Makes process 1, the parent of a first process that is not the container's init. Its pid.
fn enter_adopter(kernel: &Arc<Kernel>, limits: Limits) -> i32 {
    const PID: i32 = 1;
    let group = ThreadGroup::new(kernel, PID, Arc::default(), limits, 0);
    group.set_adopter(Arc::new(Credentials::root()));
    kernel.tree.lock().enter_adopter(group);
    PID
}

/// The dispositions it is born with.
fn actions(process: &ProcessConfig) -> SigActions {
    let mut actions = SigActions::default();
    let ignore = SigAction {
        handler: SIG_IGN,
        ..Default::default()
    };
    let mut ignored = SigSet(process.ignored_signals).minus(SigSet::UNBLOCKABLE);
    while let Some(signal) = ignored.first() {
        actions.set(signal, ignore);
        ignored = ignored.without(signal);
    }
    actions
}

/// The node that stands for a terminal on stdio, given to the process's user as a login does.
fn console(fs: &FsContext, process: &ProcessConfig) -> Option<PathRef> {
    let ctx = Ctx::new(fs, Arc::new(Credentials::root()));
    let place = ctx
        .lookup(&Base::Cwd, b"/dev/console", WalkFlags::empty())
        .ok()?;
    let attr = place.inode().attr().ok()?;
    if attr.kind != FileType::Char || attr.rdev != crate::fs::hostfd::CONSOLE {
        return None;
    }
    let owner = SetAttr {
        uid: Some(Uid(process.uid)),
        perm: Some(0o620),
        ..Default::default()
    };
    place.inode().set_attr(&owner).ok()?;
    Some(place)
}

/// Says why the program cannot be started, with the exit code that shells use for it.
fn refusal(name: &[u8], errno: Errno) -> Refusal {
    let name = String::from_utf8_lossy(name);
    let (exit_code, why) = match errno {
        Errno::ENOENT => (127, "command not found".to_owned()),
        Errno::EACCES => (126, "permission denied".to_owned()),
        Errno::ENOEXEC => (126, "exec format error".to_owned()),
        Errno::EISDIR => (126, "is a directory".to_owned()),
        e => (
            126,
            runsc_syscall_tables::errno_message(e.raw())
                .unwrap_or("cannot be executed")
                .to_owned(),
        ),
    };
    Refusal {
        exit_code,
        message: format!("{name}: {why}"),
    }
}

fn credentials(p: &ProcessConfig) -> Credentials {
    let caps = p.capabilities;
    let set = |bits: u64| CapSet(bits & CapSet::FULL.0);
    let groups = p.additional_gids.iter().map(|g| Gid(*g)).collect();
    Credentials {
        permitted: set(caps.permitted),
        effective: set(caps.effective),
        inheritable: set(caps.inheritable),
        bounding: set(caps.bounding),
        ambient: set(caps.ambient),
        no_new_privs: p.no_new_privileges,
        ..Credentials::user(Uid(p.uid), Gid(p.gid), groups, CapSet::EMPTY)
    }
}

fn limits(p: &ProcessConfig) -> Limits {
    let mut limits = Limits::default();
    for r in &p.rlimits {
        limits.set(
            r.resource,
            Limit {
                soft: r.soft,
                hard: r.hard,
            },
        );
    }
    limits
}

/// Makes the working directory if asked to, and goes there; the process's user need not be able to.
fn enter_cwd(fs: &FsContext, p: &ProcessConfig) -> Result<()> {
    let root = Ctx::new(fs, Arc::new(Credentials::root()));
    if p.make_cwd {
        super::mounts::make_dirs(&root, &p.cwd)?;
    }
    let place = root.lookup(&Base::Cwd, &p.cwd, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    fs.set_cwd(place);
    Ok(())
}

/// Finds the program as execvp(3) does.
fn find(ctx: &Ctx, name: &[u8], env: &[Vec<u8>]) -> Result<(Arc<File>, Vec<u8>)> {
    if name.contains(&b'/') {
        return Ok((open_first(ctx, name)?, name.to_vec()));
    }
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    let default: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = env
        .iter()
        .find_map(|e| e.strip_prefix(b"PATH="))
        .unwrap_or(default);
    let mut refused = Errno::ENOENT;
    for dir in path.split(|b| *b == b':') {
        let mut full = if dir.is_empty() {
            b".".to_vec()
        } else {
            dir.to_vec()
        };
        full.push(b'/');
        full.extend_from_slice(name);
        match open_first(ctx, &full) {
            Ok(file) => return Ok((file, full)),
            Err(Errno::EACCES) => refused = Errno::EACCES,
            Err(_) => {}
        }
    }
    Err(refused)
}
