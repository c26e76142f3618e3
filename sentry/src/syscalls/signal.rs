//! Signals: dispositions, masks, sending, waiting.

use std::sync::Arc;

use crate::errno::{Errno, Error, Restart, Result};
use crate::kernel::cred::{Cap, Credentials};
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::frame::{self, RawStack, encode_info, on_altstack};
use crate::kernel::signal::send::{force, may_queue, send_to_group, send_to_task};
use crate::kernel::signal::{AltStack, SigAction, SigFields, SigInfo, SigSet, Signal};
use crate::kernel::task::Task;
use crate::kernel::time::MonoTime;
pub use crate::syscalls::time::restart_syscall;
use crate::syscalls::{Args, SysResult};

/// Size of the kernel's sigset_t.
const SIGSET_SIZE: u64 = 8;
const MINSIGSTKSZ: u64 = 2048;
const SS_AUTODISARM: i32 = 1 << 31;

fn check_size(size: u64) -> Result<()> {
    if size == SIGSET_SIZE {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// Reads a signal mask; SIGKILL and SIGSTOP are dropped from it.
pub fn read_mask(t: &Task, addr: u64) -> Result<SigSet> {
    Ok(SigSet(t.mm().read_obj(addr)?).minus(SigSet::UNBLOCKABLE))
}

pub async fn rt_sigaction(t: &Task, a: &Args) -> SysResult {
    check_size(a.u64(3))?;
    let signal = Signal::new(a.int(0)).ok_or(Errno::EINVAL)?;
    let mm = t.mm();
    let new = if a.u64(1) == 0 {
        None
    } else {
        let [handler, flags, restorer, mask]: [u64; 4] = mm.read_obj(a.u64(1))?;
        if SigSet::UNBLOCKABLE.has(signal) {
            return Err(Errno::EINVAL.into());
        }
        Some(SigAction {
            handler,
            flags,
            restorer,
            mask: SigSet(mask).minus(SigSet::UNBLOCKABLE),
        })
    };
    let actions = t.group().actions();
    let old = {
        let mut actions = actions.lock();
        let old = actions.get(signal);
        if let Some(new) = new {
            actions.set(signal, new);
        }
        old
    };
    if new.is_some() && actions.lock().ignores(signal) {
        // POSIX: what is pending of a signal that becomes ignored goes away.
        let set = SigSet::of(signal);
        t.group().signals.lock().pending.discard(set);
        for task in t.group().tasks() {
            task.signals.lock().pending.discard(set);
        }
    }
    if a.u64(2) != 0 {
        mm.write_obj(
            a.u64(2),
            &[old.handler, old.flags, old.restorer, old.mask.0],
        )?;
    }
    Ok(0)
}

pub async fn rt_sigprocmask(t: &Task, a: &Args) -> SysResult {
    check_size(a.u64(3))?;
    let old = t.signals.lock().blocked;
    if a.u64(1) != 0 {
        let set = read_mask(t, a.u64(1))?;
        let new = match a.int(0) {
            libc::SIG_BLOCK => old.union(set),
            libc::SIG_UNBLOCK => old.minus(set),
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        set_mask(t, new);
    }
    if a.u64(2) != 0 {
        t.mm().write_obj(a.u64(2), &old.0)?;
    }
    Ok(0)
}

/// Changes the mask; what it lets through is delivered before guest code runs.
fn set_mask(t: &Task, new: SigSet) {
    let opened = {
        let mut s = t.signals.lock();
        let opened = s.blocked.minus(new);
        s.blocked = new;
        opened
    };
    if !opened.is_empty() {
        t.interrupt();
    }
}

/// Installs a mask for the time of one call (ppoll, pselect, epoll_pwait, sigsuspend). The old one
/// comes back after the handler, or by [`restore_mask`] if nothing interrupts.
pub fn temporary_mask(t: &Task, mask: SigSet) {
    let mut s = t.signals.lock();
    s.saved_mask = Some(s.blocked);
    s.blocked = mask;
    drop(s);
    if crate::kernel::signal::deliver::has_deliverable(t) {
        t.interrupt();
    }
}

/// The call ended without a signal: the mask from before.
pub fn restore_mask(t: &Task) {
    let mut s = t.signals.lock();
    if let Some(mask) = s.saved_mask.take() {
        s.blocked = mask;
    }
}

pub async fn rt_sigpending(t: &Task, a: &Args) -> SysResult {
    if a.u64(1) > SIGSET_SIZE {
        return Err(Errno::EINVAL.into());
    }
    let group = t.group().signals.lock().pending.set();
    let own = t.signals.lock();
    let set = own.pending.set().union(group).intersect(own.blocked);
    drop(own);
    t.mm()
        .write_bytes(a.u64(0), &set.0.to_ne_bytes()[..a.len(1)])?;
    Ok(0)
}

pub async fn rt_sigsuspend(t: &Task, a: &Args) -> SysResult {
    check_size(a.u64(1))?;
    let mask = read_mask(t, a.u64(0))?;
    temporary_mask(t, mask);
    wait_for_signal(t).await
}

pub async fn pause(t: &Task, _: &Args) -> SysResult {
    wait_for_signal(t).await
}

async fn wait_for_signal(t: &Task) -> SysResult {
    let forever = || Err::<(), _>(Errno::EAGAIN);
    match t.wait_with(None, |_| Vec::new(), forever).await {
        Ok(()) => Ok(0),
        Err(_) => Err(Error::Restart(Restart::NoHand)),
    }
}

pub async fn rt_sigtimedwait(t: &Task, a: &Args) -> SysResult {
    check_size(a.u64(3))?;
    let wanted = read_mask(t, a.u64(0))?;
    let deadline = match a.u64(2) {
        0 => None,
        addr => Some(MonoTime::now().after_ns(read_timespec(t, addr)?)),
    };
    t.signals.lock().waiting_for = wanted;
    let take = || {
        t.group().timers.catch_up();
        let own = t.signals.lock().pending.take(wanted);
        let info = own
            .or_else(|| t.group().signals.lock().pending.take(wanted))
            .ok_or(Errno::EAGAIN)?;
        t.group().timers.taken(&info);
        Ok(info)
    };
    let result = t.wait_with(deadline, |_| Vec::new(), take).await;
    t.signals.lock().waiting_for = SigSet::EMPTY;
    // A signal may have come in between.
    let info = match result {
        Ok(info) => info,
        Err(stop) => match take() {
            Ok(info) => info,
            Err(_) if stop == crate::kernel::block::Stop::Interrupted => {
                return Err(Errno::EINTR.into());
            }
            Err(_) => return Err(Errno::EAGAIN.into()),
        },
    };
    if a.u64(1) != 0 {
        t.mm().write_bytes(a.u64(1), &encode_info(&info))?;
    }
    Ok(info.signal.number() as u64)
}

/// A relative time: struct timespec in nanoseconds. EINVAL if out of range.
pub fn read_timespec(t: &Task, addr: u64) -> Result<u64> {
    let [sec, nsec]: [i64; 2] = t.mm().read_obj(addr)?;
    if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
        return Err(Errno::EINVAL);
    }
    Ok((sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(nsec as u64))
}

/// May `from` send `signal` to a process with credentials `to` (kill(2))?
fn may_send(from: &Credentials, to: &Credentials) -> bool {
    from.has_cap(Cap::Kill)
        || from.euid == to.suid
        || from.euid == to.ruid
        || from.ruid == to.suid
        || from.ruid == to.ruid
}

fn may_signal(t: &Task, group: &Arc<ThreadGroup>, signal: Option<Signal>) -> bool {
    if Arc::ptr_eq(group, t.group()) {
        return true;
    }
    let same_session = || {
        let tree = &t.kernel().tree;
        tree.relations(t.pid()).2 == tree.relations(group.pid()).2
    };
    match group.any_task() {
        // A zombie: only its ids are gone.
        None => true,
        Some(task) => {
            may_send(&t.creds(), &task.creds()) || signal == Some(Signal::SIGCONT) && same_session()
        }
    }
}

/// 0 only checks; otherwise a number from 1 to 64.
fn signal_or_probe(number: i32) -> Result<Option<Signal>> {
    match number {
        0 => Ok(None),
        n => Signal::new(n).map(Some).ok_or(Errno::EINVAL),
    }
}

fn own_info(t: &Task, signal: Signal, code: i32) -> SigInfo {
    let fields = SigFields::Kill {
        pid: t.pid(),
        uid: t.creds().ruid.0,
    };
    SigInfo {
        signal,
        code,
        errno: 0,
        fields,
    }
}

pub async fn kill(t: &Task, a: &Args) -> SysResult {
    let signal = signal_or_probe(a.int(1))?;
    let tree = &t.kernel().tree;
    let targets: Vec<Arc<ThreadGroup>> = match a.int(0) {
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => {
            let me = t.pid();
            tree.groups()
                .into_iter()
                .filter(|g| g.pid() != me && g.pid() != 1)
                .collect()
        }
        0 => {
            let pgid = tree.relations(t.pid()).1;
            tree.lock().members(pgid)
        }
        p if p < 0 => {
            let inner = tree.lock();
            inner
                .nodes
                .values()
                .filter(|n| n.pgid == -p)
                .map(|n| n.group.clone())
                .collect()
        }
        pid => {
            let task = tree.task(pid).map(|task| task.group().clone());
            vec![task.or_else(|| tree.group(pid)).ok_or(Errno::ESRCH)?]
        }
    };
    if targets.is_empty() {
        return Err(Errno::ESRCH.into());
    }
    let mut sent = false;
    for group in &targets {
        if may_signal(t, group, signal) {
            sent = true;
            if let Some(signal) = signal {
                send_to_group(group, own_info(t, signal, libc::SI_USER));
            }
        }
    }
    if sent {
        Ok(0)
    } else {
        Err(Errno::EPERM.into())
    }
}

pub async fn tgkill(t: &Task, a: &Args) -> SysResult {
    if a.int(0) <= 0 || a.int(1) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    send_to_thread(t, Some(a.int(0)), a.int(1), a.int(2))
}

pub async fn tkill(t: &Task, a: &Args) -> SysResult {
    if a.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    send_to_thread(t, None, a.int(0), a.int(1))
}

fn send_to_thread(t: &Task, pid: Option<i32>, tid: i32, number: i32) -> SysResult {
    let signal = signal_or_probe(number)?;
    let target = t.kernel().tree.task(tid).ok_or(Errno::ESRCH)?;
    if pid.is_some_and(|pid| target.pid() != pid) {
        return Err(Errno::ESRCH.into());
    }
    if !may_signal(t, target.group(), signal) {
        return Err(Errno::EPERM.into());
    }
    if let Some(signal) = signal {
        queue_limit(t, target.group(), signal)?;
        deliver_to_task(&target, own_info(t, signal, libc::SI_TKILL));
    }
    Ok(0)
}

/// SIGKILL is for the whole group whoever it is sent to.
fn deliver_to_task(target: &Task, info: SigInfo) {
    if info.signal == Signal::SIGKILL {
        send_to_group(target.group(), info);
    } else {
        send_to_task(target, info);
    }
}

/// The siginfo_t a caller made up (rt_sigqueueinfo(2)).
fn read_info(t: &Task, addr: u64, signal: Signal) -> Result<SigInfo> {
    let raw: [u8; 48] = t.mm().read_obj(addr)?;
    let int = |at: usize| i32::from_ne_bytes(raw[at..at + 4].try_into().unwrap_or_default());
    let long = u64::from_ne_bytes(raw[24..32].try_into().unwrap_or_default());
    let fields = SigFields::Queue {
        pid: int(16),
        uid: int(20) as u32,
        value: long,
    };
    Ok(SigInfo {
        signal,
        code: int(8),
        errno: int(4),
        fields,
    })
}

/// Codes that only the kernel may use for signals to others.
fn forged(info: &SigInfo) -> bool {
    info.code >= 0 || info.code == libc::SI_TKILL
}

pub async fn rt_sigqueueinfo(t: &Task, a: &Args) -> SysResult {
    let signal = signal_or_probe(a.int(1))?;
    let info = read_info(t, a.u64(2), signal.unwrap_or(Signal::SIGHUP))?;
    if forged(&info) && a.int(0) != t.pid() {
        return Err(Errno::EPERM.into());
    }
    let group = t.kernel().tree.group(a.int(0)).ok_or(Errno::ESRCH)?;
    if !may_signal(t, &group, signal) {
        return Err(Errno::EPERM.into());
    }
    if signal.is_some() {
        queue_limit(t, &group, info.signal)?;
        send_to_group(&group, info);
    }
    Ok(0)
}

pub async fn rt_tgsigqueueinfo(t: &Task, a: &Args) -> SysResult {
    if a.int(0) <= 0 || a.int(1) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let signal = signal_or_probe(a.int(2))?;
    let info = read_info(t, a.u64(3), signal.unwrap_or(Signal::SIGHUP))?;
    if forged(&info) && a.int(1) != t.tid() {
        return Err(Errno::EPERM.into());
    }
    let target = t.kernel().tree.task(a.int(1)).ok_or(Errno::ESRCH)?;
    if target.pid() != a.int(0) {
        return Err(Errno::ESRCH.into());
    }
    if !may_signal(t, target.group(), signal) {
        return Err(Errno::EPERM.into());
    }
    if signal.is_some() {
        queue_limit(t, target.group(), info.signal)?;
        deliver_to_task(&target, info);
    }
    Ok(0)
}

/// RLIMIT_SIGPENDING bounds queued real-time signals: EAGAIN.
fn queue_limit(t: &Task, group: &ThreadGroup, signal: Signal) -> Result<()> {
    if signal.is_realtime() && !may_queue(t.kernel(), group) {
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

pub async fn pidfd_send_signal(t: &Task, a: &Args) -> SysResult {
    if a.uint(3) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let signal = signal_or_probe(a.int(1))?;
    let (group, _) = crate::fs::pidfd::group_of(t, a.int(0))?;
    let info = match a.u64(2) {
        0 => own_info(t, signal.unwrap_or(Signal::SIGHUP), libc::SI_USER),
        addr => {
            let info = read_info(t, addr, signal.unwrap_or(Signal::SIGHUP))?;
            if forged(&info) && group.pid() != t.pid() {
                return Err(Errno::EPERM.into());
            }
            info
        }
    };
    if group.is_dead() {
        return Err(Errno::ESRCH.into());
    }
    if !may_signal(t, &group, signal) {
        return Err(Errno::EPERM.into());
    }
    if signal.is_some() {
        send_to_group(&group, info);
    }
    Ok(0)
}

pub async fn sigaltstack(t: &Task, a: &Args) -> SysResult {
    let mm = t.mm();
    let sp = t.regs.lock().stack_pointer();
    let old = t.signals.lock().altstack;
    let on_stack = on_altstack(&old, sp);
    if a.u64(0) != 0 {
        let new: RawStack = mm.read_obj(a.u64(0))?;
        if on_stack {
            return Err(Errno::EPERM.into());
        }
        let mode = new.flags & !SS_AUTODISARM;
        let stack = match mode {
            libc::SS_DISABLE => AltStack {
                sp: 0,
                flags: new.flags,
                size: 0,
            },
            0 | libc::SS_ONSTACK => {
                if new.size < MINSIGSTKSZ {
                    return Err(Errno::ENOMEM.into());
                }
                AltStack {
                    sp: new.sp,
                    flags: new.flags & SS_AUTODISARM,
                    size: new.size,
                }
            }
            _ => return Err(Errno::EINVAL.into()),
        };
        t.signals.lock().altstack = stack;
    }
    if a.u64(1) != 0 {
        let flags = if on_stack {
            old.flags | libc::SS_ONSTACK
        } else {
            old.flags
        };
        mm.write_obj(
            a.u64(1),
            &RawStack {
                sp: old.sp,
                flags,
                pad: 0,
                size: old.size,
            },
        )?;
    }
    Ok(0)
}

pub async fn rt_sigreturn(t: &Task, _: &Args) -> SysResult {
    if frame::pop(t).is_err() {
        force(t, SigInfo::kernel(Signal::SIGSEGV));
    }
    Ok(t.regs.lock().rax)
}
