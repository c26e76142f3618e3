//! Signals from open files (fcntl(2), "Managing signals"): the owner of a file with O_ASYNC is told
//! by a signal when something can be read or written.
//!
//! An object that can tell has [`Subscribers`], the open files of it that asked; it calls
//! [`Subscribers::tell`] where it wakes its queue, with no lock held that comes before those of
//! signals. An open file has an [`Owner`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::kernel::Kernel;
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::send::{send_to_group, send_to_task};
use crate::kernel::signal::{SigFields, SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;

const F_OWNER_TID: i32 = 0;
pub const F_OWNER_PID: i32 = 1;
pub const F_OWNER_PGRP: i32 = 2;

/// What happened, as si_code tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Band {
    In,
    Out,
    Error,
    Urgent,
    HangUp,
}

impl Band {
    /// si_code (POLL_*) and si_band.
    fn told(self) -> (i32, Ready) {
        match self {
            Band::In => (1, Ready::IN | Ready::RDNORM),
            Band::Out => (2, Ready::OUT | Ready::WRNORM | Ready::WRBAND),
            Band::Error => (4, Ready::ERR),
            Band::Urgent => (5, Ready::PRI | Ready::RDBAND),
            Band::HangUp => (6, Ready::ERR | Ready::HUP),
        }
    }
}

#[derive(Clone, Default)]
enum Target {
    #[default]
    Nobody,
    Task(Weak<Task>),
    Process(Weak<ThreadGroup>),
    Group(Weak<Kernel>, i32),
}

/// F_SETOWN, F_SETOWN_EX and F_SETSIG of fcntl(2): who is told, and how.
#[derive(Clone, Default)]
pub struct Owner {
    /// F_OWNER_*.
    kind: i32,
    target: Target,
    /// Real and effective user who said so: what they may signal is signalled.
    uids: (u32, u32),
    /// 0: SIGIO without details.
    pub signal: i32,
}

/// Makes a thread, process or process group (F_OWNER_*) the owner of a file; 0: nobody.
///
/// # Errors
/// EINVAL for another kind, ESRCH.
pub fn set_owner(file: &File, t: &Task, kind: i32, id: i32) -> Result<()> {
    if !(F_OWNER_TID..=F_OWNER_PGRP).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    let kernel = t.kernel();
    if id != 0 && !kernel.tree.lock().is_used(id) {
        return Err(Errno::ESRCH);
    }
    let target = match kind {
        _ if id == 0 => Target::Nobody,
        F_OWNER_TID => found(kernel.tree.task(id), Target::Task),
        F_OWNER_PID => found(kernel.tree.group(id), Target::Process),
        _ => Target::Group(Arc::downgrade(kernel), id),
    };
    let uids = t.with_creds(|c| (c.ruid.0, c.euid.0));
    let mut owner = file.owner.lock();
    owner.kind = kind;
    owner.target = target;
    if id != 0 {
        owner.uids = uids;
    }
    Ok(())
}

/// F_SETOWN: a negative number is a process group. EINVAL, ESRCH.
pub fn set_owner_number(file: &File, t: &Task, number: i32) -> Result<()> {
    match number {
        i32::MIN => Err(Errno::EINVAL),
        id if id < 0 => set_owner(file, t, F_OWNER_PGRP, -id),
        id => set_owner(file, t, F_OWNER_PID, id),
    }
}

/// F_GETOWN.
pub fn owner_number(file: &File) -> i32 {
    let owner = file.owner.lock().clone();
    match owner.told() {
        (F_OWNER_PGRP, id) => -id,
        (_, id) => id,
    }
}

/// O_ASYNC of an open file changes, by the descriptor `fd`. False: it can tell nobody.
pub fn set_async(t: &Task, file: &Arc<File>, fd: i32, on: bool) -> bool {
    let Some(subscribers) = file.ops().subscribers() else {
        return false;
    };
    subscribers.set(file, fd, on);
    if on
        && !file.owner.lock().is_set()
        && let Some((kind, id)) = file.ops().default_owner(t)
    {
        // One that is gone again is nobody.
        let _ = set_owner(file, t, kind, id);
    }
    true
}

impl Owner {
    /// Is there one, alive or not?
    pub fn is_set(&self) -> bool {
        !matches!(self.target, Target::Nobody)
    }

    /// F_OWNER_* and the number; 0: nobody, or one that is no more.
    pub fn told(&self) -> (i32, i32) {
        let id = match &self.target {
            Target::Nobody => None,
            Target::Task(task) => task.upgrade().and_then(|task| {
                let known = task.kernel().tree.task(task.tid());
                known.filter(|k| Arc::ptr_eq(k, &task)).map(|k| k.tid())
            }),
            Target::Process(group) => group.upgrade().and_then(|group| {
                let known = group.kernel().tree.group(group.pid());
                known.filter(|k| Arc::ptr_eq(k, &group)).map(|k| k.pid())
            }),
            Target::Group(kernel, id) => kernel
                .upgrade()
                .filter(|k| !k.tree.lock().members(*id).is_empty())
                .map(|_| *id),
        };
        (self.kind, id.unwrap_or(0))
    }

    /// The owner may be signalled by who made it one.
    fn permits(&self, task: &Task) -> bool {
        let (uid, euid) = self.uids;
        task.with_creds(|c| {
            euid == 0
                || [euid, uid]
                    .iter()
                    .any(|own| [c.suid.0, c.ruid.0].contains(own))
        })
    }

    fn each(&self, send: impl Fn(&Task, Option<&Arc<ThreadGroup>>)) {
        let group = |group: Arc<ThreadGroup>| {
            if let Some(task) = group.any_task().filter(|t| self.permits(t)) {
                send(&task, Some(&group));
            }
        };
        match &self.target {
            Target::Nobody => {}
            Target::Task(task) => {
                if let Some(task) = task.upgrade().filter(|t| self.permits(t)) {
                    send(&task, None);
                }
            }
            Target::Process(process) => {
                if let Some(process) = process.upgrade() {
                    group(process);
                }
            }
            Target::Group(kernel, id) => {
                let members = kernel.upgrade().map(|k| k.tree.lock().members(*id));
                members.into_iter().flatten().for_each(group);
            }
        }
    }

    fn send(&self, band: Band, fd: i32) {
        let plain = SigInfo::kernel(Signal::SIGIO);
        let Some(signal) = Signal::new(self.signal) else {
            return self.each(|task, group| deliver(task, group, plain));
        };
        let (code, ready) = band.told();
        // Signals with codes of their own cannot carry these.
        let code = if signal != Signal::SIGIO && has_codes(signal) {
            libc::SI_SIGIO
        } else {
            code
        };
        let info = SigInfo {
            signal,
            code,
            errno: 0,
            fields: SigFields::Poll {
                band: i64::from(ready.bits()),
                fd,
            },
        };
        self.each(|task, group| {
            // Beyond the limit on queued signals it is SIGIO, which is kept once.
            let room = !signal.is_realtime() || {
                let pending = match group {
                    Some(group) => group.signals.lock().pending.len(),
                    None => task.signals.lock().pending.len(),
                };
                let limits = task.group().limits.lock();
                (pending as u64) < limits.soft(libc::RLIMIT_SIGPENDING)
            };
            deliver(task, group, if room { info } else { plain });
        });
    }

    /// SIGURG: an urgent byte has come.
    pub fn urgent(&self) {
        let info = SigInfo::kernel(Signal::SIGURG);
        self.each(|task, group| deliver(task, group, info));
    }
}

fn found<T>(target: Option<Arc<T>>, make: impl Fn(Weak<T>) -> Target) -> Target {
    target.map_or(Target::Nobody, |t| make(Arc::downgrade(&t)))
}

fn deliver(task: &Task, group: Option<&Arc<ThreadGroup>>, info: SigInfo) {
    match group {
        Some(group) => send_to_group(group, info),
        // For the whole group whoever it is sent to.
        None if info.signal == Signal::SIGKILL => send_to_group(task.group(), info),
        None => send_to_task(task, info),
    }
}

fn has_codes(signal: Signal) -> bool {
    [
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGTRAP,
        Signal::SIGCHLD,
        Signal::SIGSYS,
    ]
    .contains(&signal)
}

struct Subscription {
    file: Weak<File>,
    /// The number by which O_ASYNC was set: si_fd.
    fd: i32,
}

/// See the module documentation.
#[derive(Default)]
pub struct Subscribers {
    any: AtomicBool,
    list: Mutex<Vec<Subscription>>,
}

impl Subscribers {
    /// O_ASYNC of an open file of the object changed.
    pub fn set(&self, file: &Arc<File>, fd: i32, on: bool) {
        let mut list = self.list.lock();
        list.retain(|s| s.file.strong_count() > 0 && s.file.as_ptr() != Arc::as_ptr(file));
        if on {
            let file = Arc::downgrade(file);
            list.push(Subscription { file, fd });
        }
        self.any.store(!list.is_empty(), Ordering::Release);
    }

    /// Tells the owners of the files that it may concern.
    pub fn tell(&self, band: Band) {
        self.tell_those(band, |file| match band {
            Band::In => file.flags().readable(),
            Band::Out => file.flags().writable(),
            _ => true,
        });
    }

    /// An urgent byte has come: told to those who chose a signal, beside SIGURG.
    pub fn tell_urgent(&self) {
        self.tell_those(Band::Urgent, |file| file.owner.lock().signal != 0);
    }

    fn tell_those(&self, band: Band, which: impl Fn(&File) -> bool) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let files: Vec<_> = {
            let list = self.list.lock();
            list.iter()
                .filter_map(|s| Some((s.file.upgrade()?, s.fd)))
                .collect()
        };
        for (file, fd) in files {
            if which(&file) {
                let owner = file.owner.lock().clone();
                owner.send(band, fd);
            }
        }
    }
}
