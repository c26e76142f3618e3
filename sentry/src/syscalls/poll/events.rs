//! eventfd(2), signalfd(2), timerfd_create(2).

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::eventfd::Take;
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::inode::OpenFlags;
use crate::fs::signalfd::SignalFd;
use crate::fs::timerfd::TimerFd;
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;
use crate::kernel::timers::Absolute;
use crate::syscalls::signal::read_mask;
use crate::syscalls::time::{read_itimerspec, write_itimerspec};
use crate::syscalls::{Args, SysResult};

/// The *_NONBLOCK and *_CLOEXEC of all these calls are O_NONBLOCK and O_CLOEXEC. EINVAL for others.
fn flags(bits: i32, more: i32) -> Result<OpenFlags> {
    let known = libc::O_NONBLOCK | libc::O_CLOEXEC;
    if bits & !(known | more) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(OpenFlags::from_bits_retain(bits & known))
}

fn install(t: &Task, file: Arc<File>, flags: OpenFlags) -> SysResult {
    Ok(t.add_file(file, Exec::from_flags(flags))? as u64)
}

fn make_eventfd(t: &Task, count: u32, bits: i32) -> SysResult {
    let flags = flags(bits, libc::EFD_SEMAPHORE)?;
    let take = if bits & libc::EFD_SEMAPHORE != 0 {
        Take::One
    } else {
        Take::All
    };
    let file = crate::fs::eventfd::eventfd(u64::from(count), take, flags);
    install(t, file, flags)
}

pub async fn eventfd(t: &Task, a: &Args) -> SysResult {
    make_eventfd(t, a.uint(0), 0)
}

pub async fn eventfd2(t: &Task, a: &Args) -> SysResult {
    make_eventfd(t, a.uint(0), a.int(1))
}

fn make_signalfd(t: &Task, a: &Args, bits: i32) -> SysResult {
    if a.u64(2) != 8 {
        return Err(Errno::EINVAL.into());
    }
    let mask = read_mask(t, a.u64(1))?;
    let flags = flags(bits, 0)?;
    if a.int(0) == -1 {
        return install(t, crate::fs::signalfd::signalfd(t, mask, flags), flags);
    }
    let file = t.file(a.int(0))?;
    file.downcast::<SignalFd>()
        .ok_or(Errno::EINVAL)?
        .set_mask(mask);
    Ok(u64::from(a.uint(0)))
}

pub async fn signalfd(t: &Task, a: &Args) -> SysResult {
    make_signalfd(t, a, 0)
}

pub async fn signalfd4(t: &Task, a: &Args) -> SysResult {
    make_signalfd(t, a, a.int(3))
}

pub async fn timerfd_create(t: &Task, a: &Args) -> SysResult {
    let flags = flags(a.int(1), 0)?;
    let clock = a.int(0);
    let alarm = matches!(
        clock,
        libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM
    );
    if alarm && !t.creds().has_cap(Cap::WakeAlarm) {
        return Err(Errno::EPERM.into());
    }
    let file = crate::fs::timerfd::timerfd(&t.kernel().reactor, clock, flags)?;
    install(t, file, flags)
}

pub async fn timerfd_settime(t: &Task, a: &Args) -> SysResult {
    let bits = a.int(1);
    let new = read_itimerspec(t, a.u64(2))?;
    if bits & !(libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = t.file(a.int(0))?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let absolute = if bits & libc::TFD_TIMER_ABSTIME != 0 {
        Absolute::Yes
    } else {
        Absolute::No
    };
    let old = timer.set(new, absolute, bits);
    if a.u64(3) != 0 {
        write_itimerspec(t, a.u64(3), old)?;
    }
    Ok(0)
}

pub async fn timerfd_gettime(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    write_itimerspec(t, a.u64(1), timer.get())?;
    Ok(0)
}
