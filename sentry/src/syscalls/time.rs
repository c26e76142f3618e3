//! Clocks, sleeping, timers.

use std::sync::Arc;

use crate::errno::{Errno, Error, Restart, Result};
use crate::kernel::block::Stop;
use crate::kernel::cred::Cap;
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::Signal;
use crate::kernel::signal::send::may_queue;
use crate::kernel::task::{RestartBlock, Task};
use crate::kernel::time::{MonoTime, clock_ns};
use crate::kernel::timers::{Absolute, Notify, Setting, TimerClock, TimerId};
use crate::syscalls::signal::read_timespec;
use crate::syscalls::{Args, SysResult};

const NS: u64 = 1_000_000_000;

fn write_timespec(t: &Task, addr: u64, ns: u64) -> Result<()> {
    t.mm().write_obj(addr, &[ns / NS, ns % NS])
}

/// A clock the guest names: one of the host's, or CPU time of a guest process or thread.
enum Clock {
    Host(nix::time::ClockId),
    Process(Arc<ThreadGroup>),
    Thread(Arc<Task>),
}

/// EINVAL for what Linux does not know (clock_gettime(2)).
fn clock(t: &Task, id: i32) -> Result<Clock> {
    if id < 0 {
        return cpu_clock(t, id);
    }
    Ok(match id {
        libc::CLOCK_PROCESS_CPUTIME_ID => Clock::Process(t.group().clone()),
        libc::CLOCK_THREAD_CPUTIME_ID => Clock::Thread(t.arc()),
        libc::CLOCK_REALTIME
        | libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_REALTIME_COARSE
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME
        | libc::CLOCK_TAI => Clock::Host(nix::time::ClockId::from_raw(id)),
        libc::CLOCK_REALTIME_ALARM => Clock::Host(nix::time::ClockId::CLOCK_REALTIME),
        libc::CLOCK_BOOTTIME_ALARM => Clock::Host(nix::time::ClockId::CLOCK_BOOTTIME),
        _ => return Err(Errno::EINVAL),
    })
}

/// Clock ids made of a pid or tid (clock_getcpuclockid(3)): ~id << 3, bit 2 for a thread.
fn cpu_clock(t: &Task, id: i32) -> Result<Clock> {
    let pid = !(id >> 3);
    let kind = id & 3;
    if kind > 2 {
        return Err(Errno::EINVAL);
    }
    if id & 4 != 0 {
        let task = if pid == 0 {
            t.arc()
        } else {
            t.kernel().tree.task(pid).ok_or(Errno::EINVAL)?
        };
        if !Arc::ptr_eq(task.group(), t.group()) {
            return Err(Errno::EINVAL);
        }
        return Ok(Clock::Thread(task));
    }
    let group = if pid == 0 {
        t.group().clone()
    } else {
        t.kernel().tree.group(pid).ok_or(Errno::EINVAL)?
    };
    Ok(Clock::Process(group))
}

impl Clock {
    fn now_ns(&self) -> u64 {
        let cpu = |u: crate::kernel::group::Usage| u.user_ns.saturating_add(u.system_ns);
        match self {
            Clock::Host(id) => clock_ns(*id),
            Clock::Process(group) => cpu(group.usage()),
            Clock::Thread(task) => cpu(task.usage()),
        }
    }
}

pub async fn clock_gettime(t: &Task, a: &Args) -> SysResult {
    let ns = clock(t, a.int(0))?.now_ns();
    write_timespec(t, a.u64(1), ns)?;
    Ok(0)
}

pub async fn clock_getres(t: &Task, a: &Args) -> SysResult {
    let ns = match (clock(t, a.int(0))?, a.int(0)) {
        (_, libc::CLOCK_REALTIME_COARSE | libc::CLOCK_MONOTONIC_COARSE) => 4_000_000,
        _ => 1,
    };
    if a.u64(1) != 0 {
        write_timespec(t, a.u64(1), ns)?;
    }
    Ok(0)
}

/// The host's clocks are not ours to set: EPERM even with CAP_SYS_TIME.
pub async fn clock_settime(t: &Task, a: &Args) -> SysResult {
    match clock(t, a.int(0))? {
        Clock::Host(nix::time::ClockId::CLOCK_REALTIME) => {
            read_timespec(t, a.u64(1))?;
            Err(Errno::EPERM.into())
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

pub async fn gettimeofday(t: &Task, a: &Args) -> SysResult {
    if a.u64(0) != 0 {
        let ns = clock_ns(nix::time::ClockId::CLOCK_REALTIME);
        t.mm().write_obj(a.u64(0), &[ns / NS, ns % NS / 1000])?;
    }
    if a.u64(1) != 0 {
        t.mm().write_obj(a.u64(1), &[0u32; 2])?;
    }
    Ok(0)
}

pub async fn time(t: &Task, a: &Args) -> SysResult {
    let seconds = clock_ns(nix::time::ClockId::CLOCK_REALTIME) / NS;
    if a.u64(0) != 0 {
        t.mm().write_obj(a.u64(0), &seconds)?;
    }
    Ok(seconds)
}

pub async fn times(t: &Task, a: &Args) -> SysResult {
    let ticks = |ns: u64| ns / 10_000_000;
    if a.u64(0) != 0 {
        let own = t.group().usage();
        let children = t
            .kernel()
            .tree
            .lock()
            .node(t.pid())
            .map(|n| n.children_usage)
            .unwrap_or_default();
        let values = [
            ticks(own.user_ns),
            ticks(own.system_ns),
            ticks(children.user_ns),
            ticks(children.system_ns),
        ];
        t.mm().write_obj(a.u64(0), &values)?;
    }
    Ok(ticks(MonoTime::now().as_ns()))
}

/// State of the clock, read only: adjusting needs CAP_SYS_TIME, which never reaches the host.
pub async fn adjtimex(t: &Task, a: &Args) -> SysResult {
    adjust(t, a.u64(0))
}

pub async fn clock_adjtime(t: &Task, a: &Args) -> SysResult {
    if a.int(0) != libc::CLOCK_REALTIME {
        return Err(Errno::EOPNOTSUPP.into());
    }
    adjust(t, a.u64(1))
}

fn adjust(t: &Task, addr: u64) -> SysResult {
    const TIMEX_SIZE: usize = 208;
    const TIME_ERROR: u64 = 5;
    let mut timex = [0u8; TIMEX_SIZE];
    t.mm().read_bytes(addr, &mut timex)?;
    if timex[..4] != [0; 4] {
        return Err(Errno::EPERM.into());
    }
    // tick: microseconds between clock ticks; status STA_UNSYNC.
    timex[40..44].copy_from_slice(&64i32.to_ne_bytes());
    let ns = clock_ns(nix::time::ClockId::CLOCK_REALTIME);
    timex[72..80].copy_from_slice(&(ns / NS).to_ne_bytes());
    timex[80..88].copy_from_slice(&(ns % NS / 1000).to_ne_bytes());
    timex[88..96].copy_from_slice(&10_000u64.to_ne_bytes());
    t.mm().write_bytes(addr, &timex)?;
    Ok(TIME_ERROR)
}

pub async fn nanosleep(t: &Task, a: &Args) -> SysResult {
    let ns = read_timespec(t, a.u64(0))?;
    sleep(
        t,
        libc::CLOCK_MONOTONIC,
        MonoTime::now().after_ns(ns),
        Some(a.u64(1)),
    )
    .await
}

pub async fn clock_nanosleep(t: &Task, a: &Args) -> SysResult {
    let id = a.int(0);
    if id == libc::CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL.into());
    }
    let clock = clock(t, id)?;
    let absolute = a.int(1) & libc::TIMER_ABSTIME != 0;
    let ns = read_timespec(t, a.u64(2))?;
    let Clock::Host(host) = clock else {
        return cpu_sleep(t, &clock, ns, absolute).await;
    };
    if !absolute {
        return sleep(t, id, MonoTime::now().after_ns(ns), Some(a.u64(3))).await;
    }
    loop {
        let now = clock_ns(host);
        if now >= ns {
            return Ok(0);
        }
        match t.sleep_until(MonoTime::now().after_ns(ns - now)).await {
            // The clock may have been set meanwhile: look again.
            Ok(()) => {}
            Err(_) => return Err(Error::Restart(Restart::NoHand)),
        }
    }
}

/// Sleeping on CPU time: other threads of the process use it up.
async fn cpu_sleep(t: &Task, clock: &Clock, ns: u64, absolute: bool) -> SysResult {
    let until = if absolute {
        ns
    } else {
        clock.now_ns().saturating_add(ns)
    };
    loop {
        let left = until.saturating_sub(clock.now_ns());
        if left == 0 {
            return Ok(0);
        }
        match t
            .sleep_until(MonoTime::now().after_ns(left.max(1_000_000)))
            .await
        {
            Ok(()) => {}
            Err(_) => return Err(Error::Restart(Restart::NoHand)),
        }
    }
}

/// Sleeps; when interrupted tells what remains and can be restarted (restart_syscall(2)).
async fn sleep(t: &Task, id: i32, until: MonoTime, remaining: Option<u64>) -> SysResult {
    match t.sleep_until(until).await {
        Ok(()) => Ok(0),
        Err(Stop::Interrupted) => {
            let addr = remaining.unwrap_or(0);
            if addr != 0 {
                write_timespec(t, addr, until.since_ns(MonoTime::now()))?;
            }
            *t.restart.lock() = Some(RestartBlock::Sleep {
                clock: id,
                until_ns: until.as_ns(),
                remaining: addr,
            });
            Err(Error::Restart(Restart::Block))
        }
        Err(stop) => Err(stop.with(Restart::Block, Errno::EINTR)),
    }
}

pub async fn restart_syscall(t: &Task, _: &Args) -> SysResult {
    let block = t.restart.lock().take();
    match block {
        Some(RestartBlock::Sleep {
            clock,
            until_ns,
            remaining,
        }) => sleep(t, clock, MonoTime::from_ns(until_ns), Some(remaining)).await,
        Some(block @ RestartBlock::Futex { .. }) => crate::syscalls::futex::restart(t, block).await,
        Some(RestartBlock::Poll { fds, count, until }) => {
            crate::syscalls::poll::poll_until(t, fds, count, until).await
        }
        None => Err(Errno::EINTR.into()),
    }
}

fn timeval_ns(sec: i64, usec: i64) -> Result<u64> {
    if sec < 0 || !(0..1_000_000).contains(&usec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64)
        .saturating_mul(NS)
        .saturating_add(usec as u64 * 1000))
}

fn write_itimer(t: &Task, addr: u64, s: Setting) -> Result<()> {
    // Rounded up: an armed timer never reads as zero.
    let us = |ns: u64| ns.div_ceil(1000);
    let (i, v) = (us(s.interval_ns), us(s.value_ns));
    t.mm().write_obj(
        addr,
        &[i / 1_000_000, i % 1_000_000, v / 1_000_000, v % 1_000_000],
    )
}

fn check_which(which: i32) -> Result<i32> {
    if (libc::ITIMER_REAL..=libc::ITIMER_PROF).contains(&which) {
        Ok(which)
    } else {
        Err(Errno::EINVAL)
    }
}

pub async fn getitimer(t: &Task, a: &Args) -> SysResult {
    let which = check_which(a.int(0))?;
    write_itimer(t, a.u64(1), t.group().timers.get(TimerId::Interval(which))?)?;
    Ok(0)
}

pub async fn setitimer(t: &Task, a: &Args) -> SysResult {
    let new = match a.u64(1) {
        0 => Setting::default(),
        addr => {
            let [is, iu, vs, vu]: [i64; 4] = t.mm().read_obj(addr)?;
            Setting {
                value_ns: timeval_ns(vs, vu)?,
                interval_ns: timeval_ns(is, iu)?,
            }
        }
    };
    let which = check_which(a.int(0))?;
    let old = t.group().timers.set_interval(which, new)?;
    if a.u64(2) != 0 {
        write_itimer(t, a.u64(2), old)?;
    }
    Ok(0)
}

pub async fn alarm(t: &Task, a: &Args) -> SysResult {
    let new = Setting {
        value_ns: u64::from(a.uint(0)) * NS,
        interval_ns: 0,
    };
    let old = t.group().timers.set_interval(libc::ITIMER_REAL, new)?;
    // Rounded to the nearest second, but never to zero while armed.
    let seconds = (old.value_ns + NS / 2) / NS;
    Ok(if old.value_ns != 0 { seconds.max(1) } else { 0 })
}

pub async fn timer_create(t: &Task, a: &Args) -> SysResult {
    let clock = match a.int(0) {
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME => TimerClock::Monotonic,
        libc::CLOCK_REALTIME | libc::CLOCK_TAI => TimerClock::Realtime,
        libc::CLOCK_PROCESS_CPUTIME_ID => TimerClock::ProcessCpu,
        libc::CLOCK_THREAD_CPUTIME_ID => TimerClock::ThreadCpu(t.tid()),
        libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM => {
            if !t.creds().has_cap(Cap::WakeAlarm) {
                return Err(Errno::EPERM.into());
            }
            return Err(Errno::EOPNOTSUPP.into());
        }
        id if id < 0 => match cpu_clock(t, id)? {
            Clock::Thread(task) => TimerClock::ThreadCpu(task.tid()),
            Clock::Process(group) if Arc::ptr_eq(&group, t.group()) => TimerClock::ProcessCpu,
            _ => return Err(Errno::EINVAL.into()),
        },
        _ => return Err(Errno::EINVAL.into()),
    };
    if !may_queue(t.kernel(), t.group()) {
        return Err(Errno::EAGAIN.into());
    }
    let id = match a.u64(1) {
        0 => t.group().timers.create(clock, |id| Notify::Process {
            signal: Signal::SIGALRM,
            value: id as u64,
        })?,
        addr => {
            let event: [u64; 3] = t.mm().read_obj(addr)?;
            let [value, signal_and_kind, tid] = event;
            let (number, kind) = (signal_and_kind as i32, (signal_and_kind >> 32) as i32);
            let signal = || Signal::new(number).ok_or(Errno::EINVAL);
            let notify = match kind {
                libc::SIGEV_NONE => Notify::Nothing,
                libc::SIGEV_SIGNAL | libc::SIGEV_THREAD => Notify::Process {
                    signal: signal()?,
                    value,
                },
                libc::SIGEV_THREAD_ID => {
                    let tid = tid as i32;
                    if !t.group().tasks().iter().any(|task| task.tid() == tid) {
                        return Err(Errno::EINVAL.into());
                    }
                    Notify::Thread {
                        tid,
                        signal: signal()?,
                        value,
                    }
                }
                _ => return Err(Errno::EINVAL.into()),
            };
            t.group().timers.create(clock, |_| notify)?
        }
    };
    if let Err(e) = t.mm().write_obj(a.u64(2), &id) {
        t.group().timers.delete(id)?;
        return Err(e.into());
    }
    Ok(0)
}

/// Writes struct itimerspec.
pub fn write_itimerspec(t: &Task, addr: u64, s: Setting) -> Result<()> {
    t.mm().write_obj(
        addr,
        &[
            s.interval_ns / NS,
            s.interval_ns % NS,
            s.value_ns / NS,
            s.value_ns % NS,
        ],
    )
}

/// struct itimerspec (timer_settime(2), timerfd_settime(2)).
pub fn read_itimerspec(t: &Task, addr: u64) -> Result<Setting> {
    let second = addr.checked_add(16).ok_or(Errno::EFAULT)?;
    Ok(Setting {
        interval_ns: read_timespec(t, addr)?,
        value_ns: read_timespec(t, second)?,
    })
}

pub async fn timer_settime(t: &Task, a: &Args) -> SysResult {
    let id = TimerId::Posix(a.int(0));
    if a.u64(2) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let new = read_itimerspec(t, a.u64(2))?;
    let absolute = if a.int(1) & libc::TIMER_ABSTIME != 0 {
        Absolute::Yes
    } else {
        Absolute::No
    };
    let old = t.group().timers.set(id, new, absolute)?;
    if a.u64(3) != 0 {
        write_itimerspec(t, a.u64(3), old)?;
    }
    Ok(0)
}

pub async fn timer_gettime(t: &Task, a: &Args) -> SysResult {
    let setting = t.group().timers.get(TimerId::Posix(a.int(0)))?;
    write_itimerspec(t, a.u64(1), setting)?;
    Ok(0)
}

pub async fn timer_getoverrun(t: &Task, a: &Args) -> SysResult {
    Ok(t.group().timers.overrun(a.int(0))? as u64)
}

pub async fn timer_delete(t: &Task, a: &Args) -> SysResult {
    t.group().timers.delete(a.int(0))?;
    Ok(0)
}
