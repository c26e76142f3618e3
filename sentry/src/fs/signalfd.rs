//! signalfd(2): reads the signals pending for whoever reads.
//!
//! As on Linux a signal file shows the signals of the task that reads or polls it, not of the one
//! that made it: after fork(2) the child sees its own. Its queue relays the wakes of every thread
//! group that has looked at it.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::anon::{Anon, anon_file};
use crate::fs::file::{File, FileOps, Positioned};
use crate::fs::inode::OpenFlags;
use crate::kernel::current;
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::{SigFields, SigInfo, SigSet};
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, Registration, WaitQueue, Waiter};
use crate::mm::io::Sink;

/// sizeof(struct signalfd_siginfo).
const INFO_LEN: usize = 128;

struct Relay(Weak<WaitQueue>);

impl Waiter for Relay {
    fn notify(&self, _: Ready) {
        if let Some(queue) = self.0.upgrade() {
            queue.wake(Ready::IN | Ready::RDNORM);
        }
    }
}

/// See the module documentation.
pub struct SignalFd {
    mask: Mutex<SigSet>,
    queue: Arc<WaitQueue>,
    relays: Mutex<Vec<(Weak<ThreadGroup>, Registration)>>,
}

/// A new signal file for the signals of `mask`. `flags`: O_NONBLOCK.
pub fn signalfd(task: &Task, mask: SigSet, flags: OpenFlags) -> Arc<File> {
    let ops = SignalFd {
        mask: Mutex::new(mask.minus(SigSet::UNBLOCKABLE)),
        queue: Arc::default(),
        relays: Mutex::default(),
    };
    ops.follow(task);
    anon_file(
        Anon::Inode("[signalfd]"),
        Arc::new(ops),
        flags | OpenFlags::RDWR,
    )
}

impl SignalFd {
    /// signalfd(2) on an existing descriptor.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask.minus(SigSet::UNBLOCKABLE);
        self.queue.wake(Ready::IN | Ready::RDNORM);
    }

    /// Has signals of the task's group wake our queue.
    fn follow(&self, task: &Task) {
        let group = task.group();
        let mut relays = self.relays.lock();
        relays.retain(|(g, _)| g.strong_count() > 0);
        if relays
            .iter()
            .any(|(g, _)| std::ptr::eq(g.as_ptr(), Arc::as_ptr(group)))
        {
            return;
        }
        let relay = Arc::new(Relay(Arc::downgrade(&self.queue)));
        let registration = group.signal_watchers.register(Ready::all(), relay);
        relays.push((Arc::downgrade(group), registration));
    }

    fn take(&self, task: &Task) -> Option<SigInfo> {
        let mask = *self.mask.lock();
        let own = task.signals.lock().pending.take(mask);
        own.or_else(|| task.group().signals.lock().pending.take(mask))
    }
}

/// struct signalfd_siginfo.
fn encode(info: &SigInfo) -> [u8; INFO_LEN] {
    let mut b = [0u8; INFO_LEN];
    let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &info.signal.number().to_ne_bytes());
    put(4, &info.errno.to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    match info.fields {
        SigFields::Kill { pid, uid } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
        }
        SigFields::Queue { pid, uid, value } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
            put(44, &(value as u32).to_ne_bytes());
            put(48, &value.to_ne_bytes());
        }
        SigFields::Timer { id, overrun, value } => {
            put(24, &id.to_ne_bytes());
            put(32, &overrun.to_ne_bytes());
            put(44, &(value as u32).to_ne_bytes());
            put(48, &value.to_ne_bytes());
        }
        SigFields::Child {
            pid,
            uid,
            status,
            utime,
            stime,
        } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
            put(40, &status.to_ne_bytes());
            put(56, &utime.to_ne_bytes());
            put(64, &stime.to_ne_bytes());
        }
        SigFields::Fault { addr } => put(72, &addr.to_ne_bytes()),
        SigFields::Poll { band, fd } => {
            put(20, &fd.to_ne_bytes());
            put(28, &(band as u32).to_ne_bytes());
        }
        SigFields::Sys { addr, nr, arch } => {
            put(84, &nr.to_ne_bytes());
            put(88, &addr.to_ne_bytes());
            put(96, &arch.to_ne_bytes());
        }
    }
    b
}

impl FileOps for SignalFd {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, _offset: u64) -> Result<usize> {
        let room = dst.remaining() / INFO_LEN;
        if room == 0 {
            return Err(Errno::EINVAL);
        }
        let task = current::task().ok_or(Errno::EAGAIN)?;
        self.follow(&task);
        let mut total = 0;
        for _ in 0..room {
            let Some(info) = self.take(&task) else { break };
            let bytes = encode(&info);
            match dst.put(&bytes) {
                Ok(n) => total += n,
                Err(e) if total == 0 => return Err(e),
                Err(_) => break,
            }
        }
        if total == 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(total)
    }

    fn ready(&self, _file: &File) -> Ready {
        let Some(task) = current::task() else {
            return Ready::empty();
        };
        self.follow(&task);
        let mask = *self.mask.lock();
        let group = task.group().signals.lock().pending.set();
        let own = task.signals.lock().pending.set();
        if group.union(own).intersect(mask).is_empty() {
            Ready::empty()
        } else {
            Ready::IN | Ready::RDNORM
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self, _file: &File) -> String {
        format!("sigmask:\t{:016x}\n", self.mask.lock().0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::signal::Signal;

    #[test]
    fn information_is_laid_out_as_linux_does() {
        let info = SigInfo {
            signal: Signal::SIGCHLD,
            code: libc::CLD_EXITED,
            errno: 0,
            fields: SigFields::Child {
                pid: 42,
                uid: 1000,
                status: 7,
                utime: 1,
                stime: 2,
            },
        };
        let b = encode(&info);
        let word = |at: usize| u32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), libc::SIGCHLD as u32);
        assert_eq!((word(8), word(12), word(16), word(40)), (1, 42, 1000, 7));
        // The same offsets as libc's structure.
        use std::mem::offset_of;
        type S = libc::signalfd_siginfo;
        assert_eq!(offset_of!(S, ssi_pid), 12);
        assert_eq!(offset_of!(S, ssi_fd), 20);
        assert_eq!(offset_of!(S, ssi_tid), 24);
        assert_eq!(offset_of!(S, ssi_band), 28);
        assert_eq!(offset_of!(S, ssi_overrun), 32);
        assert_eq!(offset_of!(S, ssi_status), 40);
        assert_eq!(offset_of!(S, ssi_int), 44);
        assert_eq!(offset_of!(S, ssi_utime), 56);
        assert_eq!(offset_of!(S, ssi_addr), 72);
    }
}
