//! epoll_create(2), epoll_ctl(2), epoll_wait(2).

use std::sync::{Arc, OnceLock};

use super::{deadline_after, finish, install_mask};
use crate::errno::{Errno, Result};
use crate::fs::epoll::{Epoll, Event, epoll};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::kernel::block::Stop;
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
use crate::syscalls::signal::read_timespec;
use crate::syscalls::{Args, SysResult};

/// sizeof(struct epoll_event), packed on x86-64.
const EVENT_LEN: usize = 12;
const MAX_EVENTS: i32 = i32::MAX / EVENT_LEN as i32;

pub async fn epoll_create(t: &Task, a: &Args) -> SysResult {
    if a.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(t.add_file(epoll(), Exec::Keep)? as u64)
}

pub async fn epoll_create1(t: &Task, a: &Args) -> SysResult {
    let exec = match a.int(0) {
        0 => Exec::Keep,
        libc::EPOLL_CLOEXEC => Exec::Close,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(t.add_file(epoll(), exec)? as u64)
}

fn read_event(t: &Task, addr: u64) -> Result<Event> {
    let mut bytes = [0u8; EVENT_LEN];
    t.mm().read_bytes(addr, &mut bytes)?;
    let (events, data) = bytes.split_at(4);
    Ok(Event {
        events: events.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b)),
        data: data.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)),
    })
}

pub async fn epoll_ctl(t: &Task, a: &Args) -> SysResult {
    let op = a.int(1);
    let event = if op == libc::EPOLL_CTL_DEL {
        None
    } else {
        Some(read_event(t, a.u64(3))?)
    };
    let own = t.file(a.int(0))?;
    let fd = a.int(2);
    let file = t.file(fd)?;
    if file.ops().wait_queue().is_none() {
        return Err(Errno::EPERM.into());
    }
    let instance = own.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&own, &file) {
        return Err(Errno::EINVAL.into());
    }
    match (op, event) {
        (libc::EPOLL_CTL_ADD, Some(event)) => instance.add(&own, fd, &file, event)?,
        (libc::EPOLL_CTL_MOD, Some(event)) => instance.modify(fd, &file, event)?,
        (libc::EPOLL_CTL_DEL, _) => instance.remove(fd, &file)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

async fn wait(
    t: &Task,
    file: &Arc<File>,
    a: &Args,
    deadline: Option<MonoTime>,
) -> Result<u64, Stop> {
    let max = a.int(2);
    let max = usize::try_from(max).map_err(|_| Stop::Failed(Errno::EINVAL))?;
    let instance = file
        .downcast::<Epoll>()
        .ok_or(Stop::Failed(Errno::EINVAL))?;
    let mut events = instance.collect(max);
    if events.is_empty() {
        if deadline.is_some_and(|d| d <= MonoTime::now()) {
            return Ok(0);
        }
        let caller = OnceLock::new();
        let enter = |waker| {
            let (own, registration) = instance.enter(waker);
            // The queue is entered once.
            let _ = caller.set(own);
            vec![registration]
        };
        let collect = || match caller.get() {
            Some(caller) => Some(instance.collect_for(caller, max))
                .filter(|events| !events.is_empty())
                .ok_or(Errno::EAGAIN),
            None => Err(Errno::EAGAIN),
        };
        events = match t.wait_with(deadline, enter, collect).await {
            Ok(events) => events,
            Err(Stop::Failed(errno)) => return Err(Stop::Failed(errno)),
            Err(stop) => {
                // An exclusive event may have been left to this caller until it left the queue.
                let events = instance.collect(max);
                match stop {
                    _ if !events.is_empty() => events,
                    Stop::TimedOut => return Ok(0),
                    stop => return Err(stop),
                }
            }
        };
    }
    let mut bytes = Vec::with_capacity(events.len() * EVENT_LEN);
    for event in &events {
        bytes.extend_from_slice(&event.events.to_ne_bytes());
        bytes.extend_from_slice(&event.data.to_ne_bytes());
    }
    if let Err(e) = t.mm().write_bytes(a.u64(1), &bytes) {
        instance.give_back(&events);
        return Err(Stop::Failed(e));
    }
    Ok(events.len() as u64)
}

/// Descriptor, kind and count are checked before anything else happens.
fn instance(t: &Task, a: &Args) -> Result<Arc<File>> {
    if !(1..=MAX_EVENTS).contains(&a.int(2)) {
        return Err(Errno::EINVAL);
    }
    let file = t.file(a.int(0))?;
    if file.downcast::<Epoll>().is_none() {
        return Err(Errno::EINVAL);
    }
    Ok(file)
}

fn deadline_ms(ms: i32) -> Option<MonoTime> {
    let ms = u64::try_from(ms).ok()?;
    Some(deadline_after(ms * 1_000_000))
}

pub async fn epoll_wait(t: &Task, a: &Args) -> SysResult {
    let file = instance(t, a)?;
    wait(t, &file, a, deadline_ms(a.int(3)))
        .await
        .map_err(|stop| stop.no_restart(Errno::EINTR))
}

/// With a mask for the time of the call. EINTR after a handler; as in epoll_wait(2), being stopped
/// and continued does not end the wait (it does on Linux, signal(7)).
async fn wait_masked(t: &Task, a: &Args, deadline: Option<MonoTime>) -> SysResult {
    install_mask(t, a.u64(4), a.u64(5))?;
    let result = match instance(t, a) {
        Ok(file) => wait(t, &file, a, deadline).await,
        Err(e) => Err(Stop::Failed(e)),
    };
    finish(t, result)
}

pub async fn epoll_pwait(t: &Task, a: &Args) -> SysResult {
    wait_masked(t, a, deadline_ms(a.int(3))).await
}

pub async fn epoll_pwait2(t: &Task, a: &Args) -> SysResult {
    let deadline = match a.u64(3) {
        0 => None,
        addr => Some(deadline_after(read_timespec(t, addr)?)),
    };
    wait_masked(t, a, deadline).await
}
