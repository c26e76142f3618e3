//! Delivery: what happens to a task's signals before guest code runs again.

use super::frame;
use super::send::force;
use super::{DefaultAction, SIG_DFL, SIG_IGN, SigAction, SigInfo, SigSet, Signal};
use crate::errno::{Errno, Restart};
use crate::kernel::group::ExitStatus;
use crate::kernel::task::{RestartBlock, Task};

/// What the run loop has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on: with the guest's code, or with the handler that the registers now point to.
    Resume,
    /// The group ends with this status.
    Exit(ExitStatus),
    /// The group stops.
    Stop(Signal),
}

/// `syscall` instruction length: going back this far makes the call again.
const SYSCALL_LEN: u64 = 2;

/// Takes signals until one needs a handler, an end or a stop. `restart`: the call that was
/// interrupted, if one was.
pub fn deliver(task: &Task, mut restart: Option<Restart>) -> Outcome {
    loop {
        let Some(info) = take(task) else {
            if let Some(restart) = restart.take() {
                restart_call(task, restart);
            }
            // sigsuspend and friends that were interrupted by nothing with a handler.
            let mut signals = task.signals.lock();
            if let Some(mask) = signals.saved_mask.take() {
                signals.blocked = mask;
            }
            return Outcome::Resume;
        };
        let signal = info.signal;
        let action = task.group().actions().lock().get(signal);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => match default_outcome(task, signal) {
                None => {}
                Some(Outcome::Stop(signal)) => {
                    // The interrupted call goes on when the process is continued.
                    if let Some(restart) = restart.take() {
                        restart_call(task, restart);
                    }
                    task.interrupt();
                    return Outcome::Stop(signal);
                }
                Some(outcome) => return outcome,
            },
            _ => {
                if let Some(restart) = restart.take() {
                    restart_for_handler(task, restart, action);
                }
                run_handler(task, info, action);
                // More may be pending; the next one nests on top of this handler.
                if has_deliverable(task) {
                    continue;
                }
                return Outcome::Resume;
            }
        }
    }
}

fn take(task: &Task) -> Option<SigInfo> {
    let group = task.group();
    group.timers.catch_up();
    let (own, wanted) = {
        let mut signals = task.signals.lock();
        let wanted = SigSet(!signals.blocked.0);
        (signals.pending.take(wanted), wanted)
    };
    let info = own.or_else(|| group.signals.lock().pending.take(wanted))?;
    group.timers.taken(&info);
    Some(info)
}

/// Is there a signal that is not blocked?
pub fn has_deliverable(task: &Task) -> bool {
    let (own, blocked) = {
        let s = task.signals.lock();
        (s.pending.set(), s.blocked)
    };
    let group = task.group().signals.lock().pending.set();
    !own.union(group).minus(blocked).is_empty()
}

fn default_outcome(task: &Task, signal: Signal) -> Option<Outcome> {
    let group = task.group();
    let protected = group.is_init() && signal != Signal::SIGKILL && signal != Signal::SIGSTOP;
    let action = signal.default_action();
    if protected && action != DefaultAction::Core {
        return None;
    }
    match action {
        DefaultAction::Ignore | DefaultAction::Continue => None,
        DefaultAction::Stop => {
            let orphaned = {
                let tree = task.kernel().tree.lock();
                tree.node(group.pid())
                    .is_some_and(|n| tree.is_orphaned(n.pgid))
            };
            // Job-control stops make no sense without a shell to continue us.
            if signal != Signal::SIGSTOP && orphaned {
                return None;
            }
            Some(Outcome::Stop(signal))
        }
        // No core file is written, so the core flag stays off, as with RLIMIT_CORE 0.
        DefaultAction::Terminate | DefaultAction::Core => {
            Some(Outcome::Exit(ExitStatus::Signaled {
                signal,
                core: false,
            }))
        }
    }
}

/// Makes the interrupted call again, no handler having run.
fn restart_call(task: &Task, restart: Restart) {
    let mut regs = task.regs.lock();
    regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
    regs.rax = regs.orig_rax;
    if restart == Restart::Block {
        let has_block: Option<RestartBlock> = *task.restart.lock();
        if has_block.is_some() {
            regs.rax = libc::SYS_restart_syscall as u64;
        }
    }
}

/// Decides about the interrupted call before a handler runs: EINTR, or again after the handler.
fn restart_for_handler(task: &Task, restart: Restart, action: SigAction) {
    let again = match restart {
        Restart::Sys => action.flags & libc::SA_RESTART as u64 != 0,
        Restart::NoIntr => true,
        Restart::NoHand | Restart::Block => false,
    };
    if again {
        let mut regs = task.regs.lock();
        regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
        regs.rax = regs.orig_rax;
    } else {
        task.regs.lock().set_return(Errno::EINTR.to_return());
    }
}

/// Builds the handler's frame; a stack that cannot take it means SIGSEGV.
fn run_handler(task: &Task, info: SigInfo, action: SigAction) {
    let signal = info.signal;
    if frame::push(task, &info, &action).is_err() {
        // If SIGSEGV's own frame does not fit, the process dies.
        if signal == Signal::SIGSEGV {
            let actions = task.group().actions();
            actions.lock().set(signal, SigAction::default());
        }
        force(task, SigInfo::kernel(Signal::SIGSEGV));
        return;
    }
    if action.flags & libc::SA_RESETHAND as u64 != 0 {
        let actions = task.group().actions();
        let mut actions = actions.lock();
        let kept = actions.get(signal);
        actions.set(
            signal,
            SigAction {
                handler: SIG_DFL,
                ..kept
            },
        );
    }
    let mut signals = task.signals.lock();
    signals.saved_mask = None;
    let mut blocked = signals.blocked.union(action.mask);
    if action.flags & libc::SA_NODEFER as u64 == 0 {
        blocked = blocked.with(signal);
    }
    signals.blocked = blocked.minus(SigSet::UNBLOCKABLE);
}
