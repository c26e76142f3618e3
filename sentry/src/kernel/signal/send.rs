//! Sending: put a signal where it belongs and interrupt whoever has to look.

use std::sync::Arc;

use super::{DefaultAction, SIG_DFL, SIG_IGN, SigFields, SigInfo, SigSet, Signal};
use crate::kernel::Kernel;
use crate::kernel::group::ThreadGroup;
use crate::kernel::task::Task;

/// Sends to one task (tgkill(2), faults).
pub fn send_to_task(task: &Task, info: SigInfo) {
    let group = task.group();
    if !prepare(group, &info) {
        return;
    }
    let wake = {
        let mut signals = task.signals.lock();
        if ignored(group, info.signal, signals.blocked, signals.waiting_for) {
            return;
        }
        signals.pending.push(info);
        signals.waiting_for.has(info.signal) || !signals.blocked.has(info.signal)
    };
    task.signal_watchers.wake_all();
    group.signal_watchers.wake_all();
    if wake {
        task.interrupt();
    }
}

/// Whether RLIMIT_SIGPENDING of `group` leaves room for one more queued signal to it. What counts is
/// all that is queued for its real user, and his timers, which keep a place each.
///
/// Looks at every process, under the locks of tree, signals and timers one after the other.
pub fn may_queue(kernel: &Kernel, group: &ThreadGroup) -> bool {
    let limit = group.limits.lock().soft(libc::RLIMIT_SIGPENDING);
    let user = |group: &ThreadGroup| group.any_task().map(|task| task.creds().ruid);
    let Some(uid) = user(group) else {
        return true;
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut queued = 0;
    for other in kernel.tree.groups() {
        if queued >= limit {
            return false;
        }
        if user(&other) == Some(uid) {
            let tasks = other.tasks();
            let own = tasks
                .iter()
                .map(|task| task.signals.lock().pending.places());
            queued += own.sum::<usize>();
            queued += other.signals.lock().pending.places() + other.timers.posix();
        }
    }
    queued < limit
}

/// Sends a fault signal that cannot be blocked or ignored: if it is, the disposition is reset so
/// that it kills (force_sig of Linux).
pub fn force(task: &Task, info: SigInfo) {
    {
        let mut signals = task.signals.lock();
        let actions = task.group().actions();
        let mut actions = actions.lock();
        let action = actions.get(info.signal);
        if signals.blocked.has(info.signal) || action.handler == SIG_IGN {
            signals.blocked = signals.blocked.without(info.signal);
            actions.set(
                info.signal,
                super::SigAction {
                    handler: SIG_DFL,
                    ..action
                },
            );
        }
        signals.pending.push(info);
    }
    task.interrupt();
}

/// Sends to a thread group (kill(2)): any task that does not block it takes it.
pub fn send_to_group(group: &Arc<ThreadGroup>, info: SigInfo) {
    if !prepare(group, &info) {
        return;
    }
    let tasks = group.tasks();
    if info.signal == Signal::SIGKILL {
        group.begin_exit(crate::kernel::group::ExitStatus::Signaled {
            signal: info.signal,
            core: false,
        });
        return;
    }
    let blocked_by_all = tasks
        .iter()
        .map(|t| t.signals.lock().blocked)
        .fold(SigSet(u64::MAX), SigSet::intersect);
    let awaited = tasks
        .iter()
        .map(|t| t.signals.lock().waiting_for)
        .fold(SigSet::EMPTY, SigSet::union);
    if ignored(group, info.signal, blocked_by_all, awaited) {
        return;
    }
    group.signals.lock().pending.push(info);
    group.signal_watchers.wake_all();
    // The main thread first, as Linux prefers it; then anybody who would take it.
    let takes = |t: &&Arc<Task>| {
        let s = t.signals.lock();
        s.waiting_for.has(info.signal) || !s.blocked.has(info.signal)
    };
    let taker = tasks
        .iter()
        .find(|t| t.tid() == group.pid() && takes(t))
        .or_else(|| tasks.iter().find(takes));
    for task in &tasks {
        task.signal_watchers.wake_all();
    }
    if let Some(task) = taker {
        task.interrupt();
    }
}

/// Effects at sending time: SIGCONT and the stop signals cancel each other, SIGCONT continues.
/// False if the group is dead or protected (init of its namespace).
fn prepare(group: &ThreadGroup, info: &SigInfo) -> bool {
    let signal = info.signal;
    if group.is_dead() || group.is_adopter() {
        return false;
    }
    if group.is_init() && SigSet::UNBLOCKABLE.has(signal) && from_guest(info) {
        return false;
    }
    if signal == Signal::SIGCONT {
        discard(group, SigSet::STOPPING);
        group.continue_all();
    } else if SigSet::STOPPING.has(signal) {
        discard(group, SigSet::of(Signal::SIGCONT));
    }
    true
}

/// Sent by a process of the sandbox: neither by the kernel nor from outside, which has pid 0.
fn from_guest(info: &SigInfo) -> bool {
    match info.fields {
        SigFields::Kill { pid, .. } if info.code == libc::SI_USER => pid != 0,
        // Readiness of a file is what some process of the sandbox brought about.
        SigFields::Poll { .. } => true,
        _ => info.code < 0,
    }
}

fn discard(group: &ThreadGroup, set: SigSet) {
    group.signals.lock().pending.discard(set);
    for task in group.tasks() {
        task.signals.lock().pending.discard(set);
    }
}

/// Is the signal dropped at once? Blocked signals are kept, since the disposition may change before
/// they are unblocked.
fn ignored(group: &ThreadGroup, signal: Signal, blocked: SigSet, awaited: SigSet) -> bool {
    if blocked.has(signal) || awaited.has(signal) {
        return false;
    }
    let actions = group.actions();
    let actions = actions.lock();
    if group.is_init() && actions.get(signal).handler == SIG_DFL && !SigSet::UNBLOCKABLE.has(signal)
    {
        return true;
    }
    // A continue has its effect at sending time.
    actions.ignores(signal)
        || (actions.get(signal).handler == SIG_DFL
            && signal.default_action() == DefaultAction::Continue)
}
