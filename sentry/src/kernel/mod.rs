//! Kernel objects: tasks, thread groups, signals, futexes, timers, credentials, wait queues.
//!
//! Lock order, outermost first; a lock is only taken while holding locks above it:
//! 1. `Tree::inner`
//! 2. `ThreadGroup::filters`, `ThreadGroup::life`, then `ThreadGroup::tasks`
//! 3. `ThreadGroup::signals`, `Task::signals`, then the dispositions
//! 4. memory: `Mm`'s lock, then a file's page lock or that of the segments, then the MemoryFile's
//! 5. files: a description's position, then its object's lock (of two objects never both: a socket
//!    and its peer, the ends of tee(2)); the lock of what is in flight is outside of those of unix sockets;
//!    an epoll's items
//! 6. wait queues, from the watched to its watcher (epoll); then an epoll's ready list; the reactor's
//!    timers
//!
//! No lock is held across an await, or a copy to or from guest memory, with three exceptions: a
//! description's position, the lock that orders writers of one file (`io` of `fs::tmpfs::data`,
//! `append` of a Gofer file), and a task's own hold on its address space, which nobody else
//! replaces. Faults take none of them. A directory's dentry lock is held across Gofer trips.

pub mod block;
pub mod clone;
pub mod cred;
pub mod current;
pub mod exec;
pub mod exec_creds;
pub mod exit;
pub mod freeze;
pub mod futex;
pub mod group;
pub mod ipc;
pub mod limits;
mod memory;
pub mod resources;
pub mod run;
pub mod seccomp;
pub mod signal;
pub mod task;
pub mod time;
pub mod timers;
pub mod tree;
pub mod tty;
pub mod vsyscall;
pub mod wait;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use runsc_platform::Platform;

use crate::config::GuestLimits;
use crate::executor::{Executor, Reactor};
use crate::fs::tmpfs::{Options as TmpfsOptions, Tmpfs};
use crate::kernel::group::{ExitStatus, ThreadGroup};
use crate::kernel::signal::Signal;
use crate::mm::MemoryFile;

/// What uname(2) tells besides the hostname.
pub const UTS_SYSNAME: &str = "Linux";
/// The version whose interface we aim at; programs compare it with features they want.
pub const UTS_RELEASE: &str = "6.1.0-runsc-rs";
pub const UTS_VERSION: &str = "#1 SMP PREEMPT_DYNAMIC runsc-rs";
pub const UTS_MACHINE: &str = "x86_64";

/// Names of the UTS namespace.
#[derive(Clone, Debug)]
pub struct Uts {
    pub nodename: Vec<u8>,
    pub domainname: Vec<u8>,
}

/// Told how the container's first process started and ended, or why the sandbox cannot go on, which
/// is the end of the sandbox.
pub trait Supervisor: Send + Sync {
    fn started(&self);
    fn start_failed(&self, exit_code: u8, message: &str);
    fn exited(&self, status: ExitStatus);
    /// The first process, no init, was stopped: who started the sandbox is its parent.
    fn stopped(&self, signal: Signal);
    fn fatal(&self, report: &str);
    /// This process is about to be ended for lack of memory. Returns when that may be done.
    fn out_of_memory(&self, _pid: i32) {}

    /// Somebody has taken notice.
    fn out_of_memory_seen(&self) {}
    /// Another process of the container has ended.
    fn another_ended(&self, _group: &Arc<ThreadGroup>, _status: ExitStatus) {}
}

/// What all tasks of a sandbox share.
pub struct Kernel {
    pub platform: Arc<dyn Platform>,
    pub memory: Arc<MemoryFile>,
    /// POSIX message queues.
    pub mqueues: crate::fs::mqueue::Place,
    /// System V IPC.
    pub ipc: ipc::Ipc,
    /// Holds the files of memfd_create(2).
    pub memfds: Arc<Tmpfs>,
    pub executor: Arc<Executor>,
    pub reactor: Arc<Reactor>,
    pub tree: tree::Tree,
    pub futexes: futex::FutexTable,
    /// The network namespace of all tasks.
    pub net: Arc<crate::net::Stack>,
    pub uts: RwLock<Uts>,
    /// The host's terminal has another job in its foreground than the sandbox.
    pub host_background: std::sync::atomic::AtomicBool,
    pub resources: resources::Resources,
    pub strace: Option<crate::syscalls::strace::Strace>,
    freezer: freeze::Freezer,
    /// Where terminals have their names.
    pub devpts: std::sync::OnceLock<Arc<crate::fs::tty::Devpts>>,
    supervisor: Box<dyn Supervisor>,
    first: Mutex<Option<Arc<ThreadGroup>>>,
}

/// What [`Kernel::new`] is made of.
pub struct KernelParts {
    pub platform: Arc<dyn Platform>,
    pub memory: Arc<MemoryFile>,
    pub executor: Arc<Executor>,
    pub reactor: Arc<Reactor>,
    pub uts: Uts,
    pub machine: resources::Machine,
    pub limits: GuestLimits,
    pub own_use: Option<resources::OwnUse>,
    pub strace: Option<crate::syscalls::strace::Strace>,
    pub supervisor: Box<dyn Supervisor>,
}

impl Kernel {
    pub fn new(parts: KernelParts) -> Arc<Kernel> {
        let resources = resources::Resources::new(parts.machine, parts.limits, parts.own_use);
        Arc::new(Kernel {
            platform: parts.platform,
            memfds: Tmpfs::new(
                parts.memory.clone(),
                &TmpfsOptions {
                    size: Some(resources.memory_total() / 2),
                    ..Default::default()
                },
            ),
            ipc: ipc::Ipc::new(&parts.memory),
            memory: parts.memory,
            mqueues: Default::default(),
            executor: parts.executor,
            tree: tree::Tree::default(),
            futexes: futex::FutexTable::default(),
            net: crate::net::Stack::with_timers(&parts.reactor),
            reactor: parts.reactor,
            uts: RwLock::new(parts.uts),
            host_background: Default::default(),
            resources,
            strace: parts.strace,
            freezer: freeze::Freezer::default(),
            devpts: Default::default(),
            supervisor: parts.supervisor,
            first: Mutex::new(None),
        })
    }

    /// CPUs the guest is told about.
    pub fn cpus(&self) -> usize {
        self.resources.cpus()
    }

    /// Numbers that getcpu(2) gives are below this one; at least [`Kernel::cpus`].
    pub fn possible_cpus(&self) -> usize {
        self.resources.possible_cpus()
    }

    /// Memory the guest is told about, bytes.
    pub fn memory_total(&self) -> u64 {
        self.resources.memory_total()
    }

    /// Other limits from now on. What is in use beyond them stays in use.
    pub fn set_limits(&self, limits: GuestLimits) {
        self.memory
            .set_limit(limits.memory.map(|limit| limit.usable));
        self.resources.set_limits(limits);
    }

    /// Memory that the guest may still take, bytes.
    pub fn memory_free(&self) -> u64 {
        let all = self.memory.limit().unwrap_or(self.memory_total());
        all.saturating_sub(self.memory.used())
    }

    /// Names the process whose end is the end of the sandbox.
    pub fn set_first(&self, group: &Arc<ThreadGroup>) {
        *self.first.lock() = Some(group.clone());
    }

    pub fn first(&self) -> Option<Arc<ThreadGroup>> {
        self.first.lock().clone()
    }

    pub fn supervisor(&self) -> &dyn Supervisor {
        &*self.supervisor
    }

    fn process_ended(&self, group: &Arc<ThreadGroup>, status: ExitStatus) {
        let is_first = self
            .first
            .lock()
            .as_ref()
            .is_some_and(|f| Arc::ptr_eq(f, group));
        if is_first {
            self.supervisor.exited(status);
        } else {
            self.supervisor.another_ended(group, status);
        }
    }

    /// A broken invariant: the sandbox ends with a report.
    pub fn fatal(&self, report: &str) {
        log::error!("{report}");
        self.supervisor.fatal(report);
    }
}
