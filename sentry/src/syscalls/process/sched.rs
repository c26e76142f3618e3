//! Scheduling: kept and told back, without effect on the host.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::executor;
use crate::kernel::cred::Cap;
use crate::kernel::group::ThreadGroup;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

const SCHED_RESET_ON_FORK: i32 = 0x4000_0000;
const SCHED_DEADLINE: i32 = 6;

fn target(t: &Task, pid: i32) -> Result<Arc<Task>> {
    match pid {
        p if p < 0 => Err(Errno::EINVAL),
        0 => Ok(t.arc()),
        p => t.kernel().tree.task(p).ok_or(Errno::ESRCH),
    }
}

fn may_change(t: &Task, other: &Task) -> bool {
    let (me, them) = (t.creds(), other.creds());
    me.euid == them.euid || me.euid == them.ruid || me.has_cap(Cap::SysNice)
}

pub async fn sched_yield(_: &Task, _: &Args) -> SysResult {
    executor::yield_now().await;
    Ok(0)
}

/// Priorities that go with a policy. EINVAL for what Linux does not know.
fn priority_range(policy: i32) -> Result<(i32, i32)> {
    match policy {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok((1, 99)),
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE | SCHED_DEADLINE => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

pub async fn sched_get_priority_max(_: &Task, a: &Args) -> SysResult {
    Ok(priority_range(a.int(0))?.1 as u64)
}

pub async fn sched_get_priority_min(_: &Task, a: &Args) -> SysResult {
    Ok(priority_range(a.int(0))?.0 as u64)
}

pub async fn sched_getscheduler(t: &Task, a: &Args) -> SysResult {
    Ok(target(t, a.int(0))?.sched.lock().0 as u64)
}

pub async fn sched_getparam(t: &Task, a: &Args) -> SysResult {
    if a.u64(1) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = target(t, a.int(0))?.sched.lock().1;
    t.mm().write_obj(a.u64(1), &priority)?;
    Ok(0)
}

pub async fn sched_setscheduler(t: &Task, a: &Args) -> SysResult {
    if a.int(1) < 0 || a.u64(2) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority: i32 = t.mm().read_obj(a.u64(2))?;
    set(t, a.int(0), Some(a.int(1) & !SCHED_RESET_ON_FORK), priority)
}

pub async fn sched_setparam(t: &Task, a: &Args) -> SysResult {
    if a.u64(1) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority: i32 = t.mm().read_obj(a.u64(1))?;
    set(t, a.int(0), None, priority)
}

fn set(t: &Task, pid: i32, policy: Option<i32>, priority: i32) -> SysResult {
    let other = target(t, pid)?;
    let policy = policy.unwrap_or(other.sched.lock().0);
    let (min, max) = priority_range(policy)?;
    if policy == SCHED_DEADLINE || !(min..=max).contains(&priority) {
        return Err(Errno::EINVAL.into());
    }
    let realtime = matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR);
    let limit = other.group().limits.lock().soft(libc::RLIMIT_RTPRIO);
    if !may_change(t, &other)
        || realtime && priority as u64 > limit && !t.creds().has_cap(Cap::SysNice)
    {
        return Err(Errno::EPERM.into());
    }
    *other.sched.lock() = (policy, priority);
    Ok(0)
}

pub async fn sched_rr_get_interval(t: &Task, a: &Args) -> SysResult {
    let policy = target(t, a.int(0))?.sched.lock().0;
    let ns: u64 = match policy {
        libc::SCHED_RR => 100_000_000,
        libc::SCHED_FIFO => 0,
        _ => 4_000_000,
    };
    t.mm().write_obj(a.u64(1), &[0u64, ns])?;
    Ok(0)
}

/// Size of the first version of struct sched_attr.
const SCHED_ATTR_SIZE: usize = 48;

pub async fn sched_getattr(t: &Task, a: &Args) -> SysResult {
    if a.u64(1) == 0 || a.uint(3) != 0 || !(SCHED_ATTR_SIZE..=4096).contains(&(a.uint(2) as usize))
    {
        return Err(Errno::EINVAL.into());
    }
    let other = target(t, a.int(0))?;
    let (policy, priority) = *other.sched.lock();
    let mut raw = [0u8; SCHED_ATTR_SIZE];
    raw[0..4].copy_from_slice(&(SCHED_ATTR_SIZE as u32).to_ne_bytes());
    raw[4..8].copy_from_slice(&policy.to_ne_bytes());
    raw[16..20].copy_from_slice(&other.group().nice.load(Ordering::Relaxed).to_ne_bytes());
    raw[20..24].copy_from_slice(&priority.to_ne_bytes());
    t.mm().write_bytes(a.u64(1), &raw)?;
    Ok(0)
}

pub async fn sched_setattr(t: &Task, a: &Args) -> SysResult {
    if a.u64(1) == 0 || a.uint(2) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut raw = [0u8; SCHED_ATTR_SIZE];
    t.mm().read_bytes(a.u64(1), &mut raw)?;
    let int = |at: usize| i32::from_ne_bytes(raw[at..at + 4].try_into().unwrap_or_default());
    if int(0) != 0 && (int(0) as usize) < SCHED_ATTR_SIZE {
        return Err(Errno::E2BIG.into());
    }
    set(t, a.int(0), Some(int(4)), int(20))
}

pub async fn sched_getaffinity(t: &Task, a: &Args) -> SysResult {
    // An int in the kernel: the upper half does not count.
    let len = a.uint(1) as usize;
    let cpus = t.kernel().cpus();
    if len.saturating_mul(8) < cpus || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let mask = target(t, a.int(0))?.affinity.load(Ordering::Relaxed) & all_cpus(cpus);
    t.mm().write_obj(a.u64(2), &mask)?;
    Ok(8)
}

fn all_cpus(cpus: usize) -> u64 {
    if cpus >= 64 {
        u64::MAX
    } else {
        (1 << cpus) - 1
    }
}

pub async fn sched_setaffinity(t: &Task, a: &Args) -> SysResult {
    let mut raw = [0u8; 8];
    let len = (a.uint(1) as usize).min(8);
    t.mm().read_bytes(a.u64(2), &mut raw[..len])?;
    let other = target(t, a.int(0))?;
    if !may_change(t, &other) {
        return Err(Errno::EPERM.into());
    }
    let mask = u64::from_ne_bytes(raw) & all_cpus(t.kernel().cpus());
    if mask == 0 {
        return Err(Errno::EINVAL.into());
    }
    other.affinity.store(mask, Ordering::Relaxed);
    Ok(0)
}

/// The processes that getpriority(2), setpriority(2) and the ioprio calls name.
fn chosen(t: &Task, which: i32, who: i32) -> Result<Vec<Arc<ThreadGroup>>> {
    let tree = &t.kernel().tree;
    let groups = match which as u32 {
        libc::PRIO_PROCESS if who == 0 => vec![t.group().clone()],
        libc::PRIO_PROCESS => tree
            .task(who)
            .map(|task| task.group().clone())
            .into_iter()
            .collect(),
        libc::PRIO_PGRP => {
            let pgid = if who == 0 {
                tree.relations(t.pid()).1
            } else {
                who
            };
            tree.lock().members(pgid)
        }
        libc::PRIO_USER => {
            let uid = if who == 0 {
                t.creds().ruid.0
            } else {
                who as u32
            };
            let mine =
                |g: &Arc<ThreadGroup>| g.any_task().is_some_and(|task| task.creds().ruid.0 == uid);
            tree.groups().into_iter().filter(mine).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if groups.is_empty() {
        Err(Errno::ESRCH)
    } else {
        Ok(groups)
    }
}

/// Returns 20 - nice, so that no value looks like an error.
pub async fn getpriority(t: &Task, a: &Args) -> SysResult {
    let groups = chosen(t, a.int(0), a.int(1))?;
    let best = groups
        .iter()
        .map(|g| g.nice.load(Ordering::Relaxed))
        .min()
        .unwrap_or(0);
    Ok((20 - best) as u64)
}

pub async fn setpriority(t: &Task, a: &Args) -> SysResult {
    let nice = a.int(2).clamp(-20, 19);
    for group in chosen(t, a.int(0), a.int(1))? {
        let owner = group.any_task().is_some_and(|task| {
            let (me, them) = (t.creds(), task.creds());
            me.euid == them.ruid || me.euid == them.euid || me.has_cap(Cap::SysNice)
        });
        if !owner {
            return Err(Errno::EPERM.into());
        }
        let limit = group.limits.lock().soft(libc::RLIMIT_NICE);
        let lowest = 20 - i32::try_from(limit.min(40)).unwrap_or(40);
        let raises = nice < group.nice.load(Ordering::Relaxed) && nice < lowest;
        if raises && !t.creds().has_cap(Cap::SysNice) {
            return Err(Errno::EACCES.into());
        }
        group.nice.store(nice, Ordering::Relaxed);
    }
    Ok(0)
}

const IOPRIO_CLASS_SHIFT: u32 = 13;
const IOPRIO_CLASS_RT: u32 = 1;
const IOPRIO_CLASS_BE: u32 = 2;
const IOPRIO_CLASS_IDLE: u32 = 3;

/// The threads that an ioprio call names.
fn ioprio_targets(t: &Task, which: i32, who: i32) -> Result<Vec<Arc<Task>>> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    match which {
        IOPRIO_WHO_PROCESS if who < 0 => Err(Errno::ESRCH),
        IOPRIO_WHO_PROCESS => Ok(vec![target(t, who)?]),
        2 | 3 => {
            let groups = chosen(t, which - 1, who)?;
            Ok(groups.iter().flat_map(|group| group.tasks()).collect())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The one of a thread is as it was set; of several the best counts, and those that have none have
/// that of their nice value.
pub async fn ioprio_get(t: &Task, a: &Args) -> SysResult {
    let targets = ioprio_targets(t, a.int(0), a.int(1))?;
    let set = |task: &Arc<Task>| task.io_priority.load(Ordering::Relaxed);
    if a.int(0) == 1 {
        return Ok(targets.first().map_or(0, set).into());
    }
    let effective = |task: &Arc<Task>| match set(task) {
        none if none >> IOPRIO_CLASS_SHIFT == 0 => {
            let nice = task.group().nice.load(Ordering::Relaxed);
            let class = match task.sched.lock().0 {
                libc::SCHED_IDLE => IOPRIO_CLASS_IDLE,
                libc::SCHED_FIFO | libc::SCHED_RR => IOPRIO_CLASS_RT,
                _ => IOPRIO_CLASS_BE,
            };
            (class << IOPRIO_CLASS_SHIFT) | ((nice + 20) as u32 / 5)
        }
        set => set,
    };
    let best = targets.iter().map(effective).min();
    Ok(best.ok_or(Errno::ESRCH)?.into())
}

pub async fn ioprio_set(t: &Task, a: &Args) -> SysResult {
    const LEVEL: u32 = 7;
    let priority = a.uint(2) & 0xffff;
    match priority >> IOPRIO_CLASS_SHIFT {
        IOPRIO_CLASS_RT
            if !t.creds().has_cap(Cap::SysNice) && !t.creds().has_cap(Cap::SysAdmin) =>
        {
            return Err(Errno::EPERM.into());
        }
        IOPRIO_CLASS_RT..=IOPRIO_CLASS_IDLE => {}
        0 if priority & LEVEL == 0 => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    for task in ioprio_targets(t, a.int(0), a.int(1))? {
        let (me, them) = (t.creds(), task.creds());
        if them.ruid != me.euid && them.ruid != me.ruid && !me.has_cap(Cap::SysNice) {
            return Err(Errno::EPERM.into());
        }
        task.io_priority.store(priority, Ordering::Relaxed);
    }
    Ok(0)
}
