//! The process or thread that a /proc entry is about, and who may look.
//!
//! A [`Subject`] holds numbers, not objects: an entry that somebody keeps open does not keep the
//! process, and finds out that it is gone (ESRCH).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::fs::fdtable::FdTable;
use crate::fs::kernfs::Owner;
use crate::fs::path::PathRef;
use crate::fs::perm::Access;
use crate::kernel::Kernel;
use crate::kernel::cred::{Credentials, Gid, Uid};
use crate::kernel::current;
use crate::kernel::group::ThreadGroup;
use crate::kernel::task::Task;
use crate::mm::Mm;
use crate::syscalls::process::may_trace;

/// Whether an entry speaks of all threads of a process or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Process,
    Thread,
}

/// See the module documentation.
#[derive(Clone)]
pub struct Subject {
    pub kernel: Arc<Kernel>,
    pub pid: i32,
    /// Of the process; tells it from a later one with the same pid.
    start_ns: u64,
    /// The thread, `pid` for the main one.
    pub tid: i32,
    pub scope: Scope,
}

impl Subject {
    /// /proc/ID: a process, or (what readdir does not show) a thread by its own id. ENOENT.
    pub fn find(kernel: &Arc<Kernel>, id: i32) -> Result<Subject> {
        let group = match kernel.tree.group(id) {
            Some(group) => group,
            None => kernel.tree.task(id).ok_or(Errno::ENOENT)?.group().clone(),
        };
        Ok(Subject {
            kernel: kernel.clone(),
            pid: group.pid(),
            start_ns: group.start_ns,
            tid: id,
            scope: Scope::Process,
        })
    }

    /// /proc/PID/task/TID. ENOENT.
    pub fn thread(&self, tid: i32) -> Result<Subject> {
        let group = self.group().map_err(|_| Errno::ENOENT)?;
        let there = tid == self.pid || group.tasks().iter().any(|t| t.tid() == tid);
        if !there {
            return Err(Errno::ENOENT);
        }
        Ok(Subject {
            tid,
            scope: Scope::Thread,
            ..self.clone()
        })
    }

    /// ESRCH once it was waited for.
    pub fn group(&self) -> Result<Arc<ThreadGroup>> {
        let group = self.kernel.tree.group(self.pid).ok_or(Errno::ESRCH)?;
        if group.start_ns != self.start_ns {
            return Err(Errno::ESRCH);
        }
        Ok(group)
    }

    /// The living thread; for a process whose main thread has ended, another one. ESRCH.
    pub fn task(&self) -> Result<Arc<Task>> {
        let group = self.group()?;
        let tasks = group.tasks();
        let own = tasks.iter().find(|t| t.tid() == self.tid);
        match (own, self.scope) {
            (Some(task), _) => Ok(task.clone()),
            (None, Scope::Process) if self.tid == self.pid => {
                tasks.first().cloned().ok_or(Errno::ESRCH)
            }
            _ => Err(Errno::ESRCH),
        }
    }

    /// ESRCH if it has ended.
    pub fn mm(&self) -> Result<Arc<Mm>> {
        self.task()?.try_mm()
    }

    pub fn files(&self) -> Result<Arc<FdTable>> {
        self.task()?.try_files()
    }

    /// Name and credentials, also of a zombie.
    pub fn face(&self) -> Result<([u8; 16], Arc<Credentials>)> {
        if let Ok(task) = self.task() {
            return Ok((task.comm(), task.creds()));
        }
        let ended = self.group()?.ended().ok_or(Errno::ESRCH)?;
        Ok((ended.comm, ended.creds))
    }

    /// May the current task look into the process (ptrace(2), access mode checking)? The Sentry
    /// itself may.
    pub fn may_look(&self) -> bool {
        let Some(me) = current::task() else {
            return true;
        };
        self.group().is_ok_and(|group| may_trace(&me, &group))
    }

    /// As `may_look`. EACCES.
    pub fn check_look(&self) -> Result<()> {
        if self.may_look() {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    /// Is it the process of the current task?
    pub fn is_own(&self) -> bool {
        current::task().is_some_and(|me| me.pid() == self.pid)
    }

    /// A number for an inode about this subject: the same for the same `class` and `item`, another
    /// one for a later process with the same pid.
    pub fn ino(&self, class: u64, item: u64) -> u64 {
        let ids = (self.pid as u64) << 32 | self.tid as u64;
        let scope = u64::from(self.scope == Scope::Thread);
        let mut hash = 0u64;
        for part in [ids, self.start_ns, class << 1 | scope, item] {
            hash = (hash ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash ^= hash >> 29;
        }
        // Far from the numbers of lasting inodes, and short enough to read.
        hash >> 20 | 1 << 43
    }
}

/// The owner of an entry about a process.
pub struct ProcessOwner {
    pub subject: Subject,
    pub bits: OwnerBits,
}

/// Which rules the owner of an entry follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerBits {
    /// Belongs to the superuser while the process is not dumpable.
    Private,
    /// Belongs to the process's user in any case (the directories /proc/PID and task).
    Always,
    /// As Private; the process's own threads may always look (/proc/PID/fd).
    OwnThreads,
}

impl Owner for ProcessOwner {
    fn ids(&self) -> (Uid, Gid) {
        let Ok((_, creds)) = self.subject.face() else {
            return (Uid(0), Gid(0));
        };
        let dumpable = self
            .subject
            .group()
            .is_ok_and(|g| g.dumpable.load(Ordering::Relaxed) == 1);
        if dumpable || self.bits == OwnerBits::Always {
            (creds.euid, creds.egid)
        } else {
            (Uid(0), Gid(0))
        }
    }

    fn check(&self, _creds: &Credentials, want: Access) -> Option<Result<()>> {
        let own = self.bits == OwnerBits::OwnThreads && self.subject.is_own();
        (own && !want.contains(Access::WRITE)).then_some(Ok(()))
    }
}

/// The root directory of whoever reads; of the subject if the Sentry does.
pub fn reader_root(subject: &Subject) -> Result<PathRef> {
    match current::task() {
        Some(me) => Ok(me.fs().root()),
        None => Ok(subject.task()?.fs().root()),
    }
}
