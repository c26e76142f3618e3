//! Waiting for files, and the files that exist to be waited for: poll, select ([`select`]), epoll
//! ([`epoll`]), eventfd, signalfd and timerfd ([`events`]).

mod epoll;
mod events;
mod select;

use std::sync::Arc;

pub use epoll::{epoll_create, epoll_create1, epoll_ctl, epoll_pwait, epoll_pwait2, epoll_wait};
pub use events::{
    eventfd, eventfd2, signalfd, signalfd4, timerfd_create, timerfd_gettime, timerfd_settime,
};
pub use select::{pselect6, select};

use crate::errno::{Errno, Error, Restart, Result};
use crate::fs::file::File;
use crate::kernel::block::Stop;
use crate::kernel::task::{RestartBlock, Task};
use crate::kernel::time::MonoTime;
use crate::kernel::wait::Ready;
use crate::syscalls::signal::{read_mask, read_timespec, restore_mask, temporary_mask};
use crate::syscalls::{Args, SysResult};

const NS: u64 = 1_000_000_000;
/// sizeof(struct pollfd).
const POLLFD_LEN: u64 = 8;

/// A file asked for and what is wanted of it. None: the number is no open file.
struct Watched {
    file: Option<Arc<File>>,
    want: Ready,
}

impl Watched {
    fn ready(&self) -> Ready {
        match &self.file {
            Some(file) => file.ready() & (self.want | Ready::ERR | Ready::HUP),
            None => Ready::NVAL,
        }
    }
}

/// Waits until `count` is not 0 for what the files are ready for, until the deadline.
/// Ok(0): the time is over.
async fn wait_for(
    t: &Task,
    files: &[Watched],
    deadline: Option<MonoTime>,
    mut count: impl FnMut() -> usize,
) -> Result<usize, Stop> {
    let mut operation = || match count() {
        0 => Err(Errno::EAGAIN),
        n => Ok(n),
    };
    match operation() {
        Ok(n) => return Ok(n),
        Err(_) if deadline.is_some_and(|d| d <= MonoTime::now()) => return Ok(0),
        Err(_) => {}
    }
    let register = |waker: Arc<dyn crate::kernel::wait::Waiter>| {
        files
            .iter()
            .filter_map(|w| {
                let queue = w.file.as_ref()?.ops().wait_queue()?;
                Some(queue.register(w.want, waker.clone()))
            })
            .collect()
    };
    match t.wait_with(deadline, register, operation).await {
        Err(Stop::TimedOut) => Ok(0),
        other => other,
    }
}

/// When a wait with a relative timeout ends. Zero: at once.
fn deadline_after(ns: u64) -> MonoTime {
    MonoTime::now().after_ns(ns)
}

/// poll(2) over an array of the guest.
async fn poll_array(
    t: &Task,
    addr: u64,
    count: u64,
    deadline: Option<MonoTime>,
) -> Result<usize, Stop> {
    let limit = t.group().limits.lock().soft(libc::RLIMIT_NOFILE);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if u64::from(count) > limit {
        return Err(Stop::Failed(Errno::EINVAL));
    }
    let mut raw = vec![0u8; count as usize * POLLFD_LEN as usize];
    let mm = t.mm();
    if !raw.is_empty() {
        mm.read_bytes(addr, &mut raw).map_err(Stop::Failed)?;
    }
    let files = t.files();
    let mut index = Vec::with_capacity(count as usize);
    let mut watched = Vec::with_capacity(count as usize);
    for (i, entry) in raw.chunks_exact(POLLFD_LEN as usize).enumerate() {
        let fd = i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let events = u16::from_ne_bytes([entry[4], entry[5]]);
        if fd >= 0 {
            index.push(i);
            watched.push(Watched {
                file: files.get(fd).ok(),
                want: Ready::from_bits_truncate(u32::from(events)),
            });
        }
    }
    drop(files);
    let mut revents = vec![0u16; count as usize];
    let result = {
        let count = || {
            let mut n = 0;
            for (at, file) in index.iter().zip(&watched) {
                let ready = file.ready();
                revents[*at] = ready.bits() as u16;
                n += usize::from(!ready.is_empty());
            }
            n
        };
        wait_for(t, &watched, deadline, count).await
    };
    for (i, value) in revents.iter().enumerate() {
        let at = addr.wrapping_add(i as u64 * POLLFD_LEN + 6);
        mm.write_obj(at, value).map_err(Stop::Failed)?;
    }
    result
}

pub async fn poll(t: &Task, a: &Args) -> SysResult {
    let until = match a.int(2) {
        ms if ms < 0 => None,
        ms => Some(deadline_after(ms as u64 * 1_000_000)),
    };
    poll_until(t, a.u64(0), u64::from(a.uint(1)), until).await
}

/// poll(2), also when it goes on after a signal (restart_syscall(2)).
pub async fn poll_until(t: &Task, fds: u64, count: u64, until: Option<MonoTime>) -> SysResult {
    match poll_array(t, fds, count, until).await {
        Ok(n) => Ok(n as u64),
        Err(Stop::Interrupted) => {
            *t.restart.lock() = Some(RestartBlock::Poll { fds, count, until });
            Err(Error::Restart(Restart::Block))
        }
        Err(stop) => Err(stop.no_restart(Errno::EINTR)),
    }
}

/// Installs the mask at `addr` (0: none) for the time of the call.
fn install_mask(t: &Task, addr: u64, size: u64) -> Result<()> {
    if addr == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask = read_mask(t, addr)?;
    temporary_mask(t, mask);
    Ok(())
}

/// The end of a call with a mask of its own: only a signal leaves it to the delivery to restore.
fn finish<T>(t: &Task, result: Result<T, Stop>) -> Result<T, Error> {
    match result {
        Err(Stop::Interrupted) => Err(Error::Restart(Restart::NoHand)),
        other => {
            restore_mask(t);
            other.map_err(|stop| stop.no_restart(Errno::EINTR))
        }
    }
}

/// Writes what remains of a relative timeout. Errors do not matter: the call has had its effect.
fn write_remaining(t: &Task, addr: u64, deadline: Option<MonoTime>, unit_ns: u64) {
    if let Some(deadline) = deadline
        && addr != 0
    {
        let left = deadline.since_ns(MonoTime::now());
        let _ = t.mm().write_obj(addr, &[left / NS, left % NS / unit_ns]);
    }
}

pub async fn ppoll(t: &Task, a: &Args) -> SysResult {
    let deadline = match a.u64(2) {
        0 => None,
        addr => Some(deadline_after(read_timespec(t, addr)?)),
    };
    install_mask(t, a.u64(3), a.u64(4))?;
    let result = poll_array(t, a.u64(0), u64::from(a.uint(1)), deadline).await;
    write_remaining(t, a.u64(2), deadline, 1);
    finish(t, result).map(|n| n as u64)
}
