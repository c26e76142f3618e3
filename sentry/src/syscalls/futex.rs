//! futex(2) and its relatives.

use std::sync::atomic::Ordering;

use crate::errno::{Errno, Error, Restart};
use crate::kernel::block::Stop;
use crate::kernel::futex::{MATCH_ANY, WaitFor, wait};
use crate::kernel::task::{RestartBlock, Task};
use crate::kernel::time::{MonoTime, clock_ns};
use crate::syscalls::{Args, SysResult};

const FUTEX_WAIT: i32 = 0;
const FUTEX_WAKE: i32 = 1;
const FUTEX_REQUEUE: i32 = 3;
const FUTEX_CMP_REQUEUE: i32 = 4;
const FUTEX_WAKE_OP: i32 = 5;
const FUTEX_WAIT_BITSET: i32 = 9;
const FUTEX_WAKE_BITSET: i32 = 10;
const FUTEX_PRIVATE_FLAG: i32 = 128;
const FUTEX_CLOCK_REALTIME: i32 = 256;

pub async fn futex(t: &Task, a: &Args) -> SysResult {
    let op = a.int(1);
    let command = op & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    let private = op & FUTEX_PRIVATE_FLAG != 0;
    let realtime = op & FUTEX_CLOCK_REALTIME != 0;
    if realtime && !matches!(command, FUTEX_WAIT | FUTEX_WAIT_BITSET) {
        return Err(Errno::ENOSYS.into());
    }
    let (addr, value) = (a.u64(0), a.uint(2));
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let bitset = if command == FUTEX_WAIT {
                MATCH_ANY
            } else {
                a.uint(5)
            };
            if bitset == 0 {
                return Err(Errno::EINVAL.into());
            }
            let until = match a.u64(3) {
                0 => None,
                at => {
                    let ns = crate::syscalls::signal::read_timespec(t, at)?;
                    Some(deadline(ns, command == FUTEX_WAIT, realtime))
                }
            };
            wait_word(t, addr, value, bitset, private, until).await
        }
        FUTEX_WAKE | FUTEX_WAKE_BITSET => {
            let bitset = if command == FUTEX_WAKE {
                MATCH_ANY
            } else {
                a.uint(5)
            };
            if bitset == 0 {
                return Err(Errno::EINVAL.into());
            }
            let key = t.with_mm(|mm| mm.futex_key(addr, private))?;
            // Linux wakes one even if asked for none or fewer.
            let count = a.int(2).max(1) as usize;
            Ok(t.kernel().futexes.wake(&key, bitset, count) as u64)
        }
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            let (wake, requeue) = (a.int(2), a.u64(3) as i32);
            if wake < 0 || requeue < 0 {
                return Err(Errno::EINVAL.into());
            }
            let mm = t.mm();
            let (from, to) = (
                mm.futex_key(addr, private)?,
                mm.futex_key(a.u64(4), private)?,
            );
            if command == FUTEX_CMP_REQUEUE && mm.load_u32(addr)? != a.uint(5) {
                return Err(Errno::EAGAIN.into());
            }
            let woken = t.kernel().futexes.wake(&from, MATCH_ANY, wake as usize);
            let moved = t.kernel().futexes.requeue(&from, &to, requeue as usize);
            Ok((woken + moved) as u64)
        }
        FUTEX_WAKE_OP => wake_op(t, a, private),
        // Priority inheritance and what Linux does not know.
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// FUTEX_WAIT takes a time span, all others a point in time.
fn deadline(ns: u64, relative: bool, realtime: bool) -> MonoTime {
    if relative {
        return MonoTime::now().after_ns(ns);
    }
    if realtime {
        let now = clock_ns(nix::time::ClockId::CLOCK_REALTIME);
        return MonoTime::now().after_ns(ns.saturating_sub(now));
    }
    MonoTime::from_ns(ns)
}

async fn wait_word(
    t: &Task,
    addr: u64,
    value: u32,
    bitset: u32,
    private: bool,
    until: Option<MonoTime>,
) -> SysResult {
    match wait(
        t,
        &[WaitFor {
            addr,
            expected: value,
            private,
        }],
        bitset,
        until,
    )
    .await
    {
        Ok(_) => Ok(0),
        Err(Stop::Interrupted) if until.is_some() => {
            *t.restart.lock() = Some(RestartBlock::Futex {
                addr,
                value,
                bitset,
                private,
                until,
            });
            Err(Error::Restart(Restart::Block))
        }
        Err(stop) => Err(stop.with(Restart::Sys, Errno::ETIMEDOUT)),
    }
}

/// Goes on with a wait that a stop interrupted (restart_syscall(2)).
pub async fn restart(t: &Task, block: RestartBlock) -> SysResult {
    match block {
        RestartBlock::Futex {
            addr,
            value,
            bitset,
            private,
            until,
        } => wait_word(t, addr, value, bitset, private, until).await,
        _ => Err(Errno::EINTR.into()),
    }
}

/// FUTEX_WAKE_OP: changes the second word, wakes on the first, and on the second if it compares.
fn wake_op(t: &Task, a: &Args, private: bool) -> SysResult {
    let mm = t.mm();
    let encoded = a.uint(5);
    let sign12 = |v: u32| ((v << 20) as i32) >> 20;
    let (op, cmp) = (encoded >> 28 & 7, encoded >> 24 & 15);
    let (mut oparg, cmparg) = (sign12(encoded >> 12 & 0xfff), sign12(encoded & 0xfff));
    if encoded >> 31 != 0 {
        oparg = 1i32.wrapping_shl(oparg as u32);
    }
    let (first, second) = (
        mm.futex_key(a.u64(0), private)?,
        mm.futex_key(a.u64(4), private)?,
    );
    let mut old = mm.load_u32(a.u64(4))?;
    loop {
        let arg = oparg as u32;
        let new = match op {
            0 => arg,
            1 => old.wrapping_add(arg),
            2 => old | arg,
            3 => old & !arg,
            4 => old ^ arg,
            _ => return Err(Errno::ENOSYS.into()),
        };
        match mm.compare_exchange_u32(a.u64(4), old, new)? {
            Ok(_) => break,
            Err(seen) => old = seen,
        }
    }
    let (old, table) = (old as i32, &t.kernel().futexes);
    let holds = match cmp {
        0 => old == cmparg,
        1 => old != cmparg,
        2 => old < cmparg,
        3 => old <= cmparg,
        4 => old > cmparg,
        5 => old >= cmparg,
        _ => return Err(Errno::ENOSYS.into()),
    };
    let mut woken = table.wake(&first, MATCH_ANY, a.int(2).max(1) as usize);
    if holds {
        woken += table.wake(&second, MATCH_ANY, (a.u64(3) as i32).max(1) as usize);
    }
    Ok(woken as u64)
}

/// FUTEX_WAITV_MAX.
const WAITV_MAX: u32 = 128;

pub async fn futex_waitv(t: &Task, a: &Args) -> SysResult {
    let (addr, count, flags) = (a.u64(0), a.uint(1), a.uint(2));
    if flags != 0 || count == 0 || count > WAITV_MAX || addr == 0 {
        return Err(Errno::EINVAL.into());
    }
    let until = match a.u64(3) {
        0 => None,
        at => {
            let realtime = match a.int(4) {
                libc::CLOCK_MONOTONIC => false,
                libc::CLOCK_REALTIME => true,
                _ => return Err(Errno::EINVAL.into()),
            };
            Some(deadline(
                crate::syscalls::signal::read_timespec(t, at)?,
                false,
                realtime,
            ))
        }
    };
    let mut words = Vec::new();
    for i in 0..u64::from(count) {
        let [value, uaddr, flags_and_pad]: [u64; 3] = t
            .mm()
            .read_obj(addr.checked_add(i * 24).ok_or(Errno::EFAULT)?)?;
        let flags = flags_and_pad as u32;
        // FUTEX_32 is the only size.
        if flags & !(2 | FUTEX_PRIVATE_FLAG as u32) != 0
            || flags & 3 != 2
            || flags_and_pad >> 32 != 0
        {
            return Err(Errno::EINVAL.into());
        }
        words.push(WaitFor {
            addr: uaddr,
            expected: value as u32,
            private: flags & FUTEX_PRIVATE_FLAG as u32 != 0,
        });
    }
    match wait(t, &words, MATCH_ANY, until).await {
        Ok(index) => Ok(index as u64),
        Err(stop) => Err(stop.with(Restart::Sys, Errno::ETIMEDOUT)),
    }
}

/// Size of struct robust_list_head.
const ROBUST_HEAD_SIZE: u64 = 24;

pub async fn set_robust_list(t: &Task, a: &Args) -> SysResult {
    if a.u64(1) != ROBUST_HEAD_SIZE {
        return Err(Errno::EINVAL.into());
    }
    t.addresses.lock().robust_list = a.u64(0);
    Ok(0)
}

pub async fn get_robust_list(t: &Task, a: &Args) -> SysResult {
    let target = match a.int(0) {
        0 => t.arc(),
        tid => t.kernel().tree.task(tid).ok_or(Errno::ESRCH)?,
    };
    let same = t.creds().euid == target.creds().euid;
    if !same && !t.creds().has_cap(crate::kernel::cred::Cap::SysPtrace) {
        return Err(Errno::EPERM.into());
    }
    let head = target.addresses.lock().robust_list;
    t.mm().write_obj(a.u64(2), &ROBUST_HEAD_SIZE)?;
    t.mm().write_obj(a.u64(1), &head)?;
    Ok(0)
}

pub async fn membarrier(t: &Task, a: &Args) -> SysResult {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    const GLOBAL_EXPEDITED: i32 = 1 << 1;
    const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;
    if a.uint(1) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let supported = GLOBAL
        | GLOBAL_EXPEDITED
        | REGISTER_GLOBAL_EXPEDITED
        | PRIVATE_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED;
    match a.int(0) {
        QUERY => Ok(supported as u64),
        REGISTER_GLOBAL_EXPEDITED | REGISTER_PRIVATE_EXPEDITED => {
            t.group().membarrier.fetch_or(a.int(0), Ordering::Relaxed);
            Ok(0)
        }
        PRIVATE_EXPEDITED
            if t.group().membarrier.load(Ordering::Relaxed) & REGISTER_PRIVATE_EXPEDITED == 0 =>
        {
            Err(Errno::EPERM.into())
        }
        // The host's own barrier passes every thread that runs guest code.
        GLOBAL | GLOBAL_EXPEDITED | PRIVATE_EXPEDITED => {
            runsc_platform::host::membarrier_global().map_err(Errno::from)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}
