//! Job control: which session a terminal controls, its foreground group, and the signals that
//! background processes get (credentials(7), tty_ioctl(4)).
//!
//! The state is the process tree's ([`crate::kernel::tree::Session`]); the functions here serve
//! every kind of terminal, a host one as well as a pseudo-terminal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::fs::sigio;
use crate::kernel::Kernel;
use crate::kernel::cred::Cap;
use crate::kernel::signal::{SIG_IGN, SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::tree::Inner;
use crate::kernel::tty::Terminal;

pub const TIOCSCTTY: u32 = 0x540E;
pub const TIOCGPGRP: u32 = 0x540F;
pub const TIOCSPGRP: u32 = 0x5410;
pub const TIOCNOTTY: u32 = 0x5422;
pub const TIOCGSID: u32 = 0x5429;

fn same(a: &Arc<dyn Terminal>, b: &Arc<dyn Terminal>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// The session that `terminal` controls.
fn session_of(tree: &Inner, terminal: &Arc<dyn Terminal>) -> Option<i32> {
    tree.sessions
        .iter()
        .find(|(_, s)| s.terminal.as_ref().is_some_and(|t| same(t, terminal)))
        .map(|(sid, _)| *sid)
}

/// The session that `terminal` controls and its foreground group.
pub fn session(kernel: &Kernel, terminal: &Arc<dyn Terminal>) -> Option<(i32, i32)> {
    let tree = kernel.tree.lock();
    let sid = session_of(&tree, terminal)?;
    Some((sid, tree.sessions.get(&sid)?.foreground))
}

/// The controlling terminal of a task (what /dev/tty opens).
pub fn controlling(task: &Task) -> Option<Arc<dyn Terminal>> {
    let tree = task.kernel().tree.lock();
    let sid = tree.node(task.pid())?.sid;
    tree.sessions.get(&sid)?.terminal.clone()
}

/// Is it a host terminal whose foreground job is not the sandbox?
fn is_elsewhere(task: &Task, terminal: &Arc<dyn Terminal>) -> bool {
    terminal.is_host() && task.kernel().host_background.load(Ordering::Relaxed)
}

/// May the current task read from (SIGTTIN) or write to (SIGTTOU) its terminal? If it is in the
/// background its group gets the signal and EAGAIN makes the caller wait, where the signal
/// interrupts it. EIO if the signal would do nothing.
pub fn check_background(task: &Task, terminal: &Arc<dyn Terminal>, signal: Signal) -> Result<()> {
    let pgid = {
        let tree = task.kernel().tree.lock();
        let Some(node) = tree.node(task.pid()) else {
            return Ok(());
        };
        let Some(session) = tree.sessions.get(&node.sid) else {
            return Ok(());
        };
        if !session.terminal.as_ref().is_some_and(|t| same(t, terminal))
            || !is_elsewhere(task, terminal)
                && (session.foreground == 0 || session.foreground == node.pgid)
        {
            return Ok(());
        }
        let blocked = task.signals.lock().blocked.has(signal);
        let ignored = task.group().actions().lock().get(signal).handler == SIG_IGN;
        if blocked || ignored {
            return if signal == Signal::SIGTTIN {
                Err(Errno::EIO)
            } else {
                Ok(())
            };
        }
        if tree.is_orphaned(node.pgid) {
            return Err(Errno::EIO);
        }
        node.pgid
    };
    task.kernel()
        .tree
        .signal_pgrp(pgid, SigInfo::kernel(signal))?;
    task.interrupt();
    Err(Errno::EAGAIN)
}

/// Sends to the foreground group of the terminal.
pub fn signal_foreground(kernel: &Kernel, terminal: &Arc<dyn Terminal>, signal: Signal) {
    let foreground = session(kernel, terminal).map_or(0, |(_, foreground)| foreground);
    if foreground != 0 {
        // A group that is gone has nobody to tell.
        let _ = kernel.tree.signal_pgrp(foreground, SigInfo::kernel(signal));
    }
}

/// Who is told of a terminal by signals (O_ASYNC) unless fcntl(2) said who: its foreground group,
/// else the caller. F_OWNER_* and the number.
pub fn async_owner(task: &Task, terminal: &Arc<dyn Terminal>) -> (i32, i32) {
    match session(task.kernel(), terminal) {
        Some((_, foreground)) if foreground != 0 => (sigio::F_OWNER_PGRP, foreground),
        _ => (sigio::F_OWNER_PID, task.pid()),
    }
}

/// The terminal is gone (its master closed): the session leader gets SIGHUP, the foreground group
/// SIGHUP and SIGCONT, and the session has no terminal any more.
pub fn hang_up(kernel: &Kernel, terminal: &Arc<dyn Terminal>) {
    let (leader, foreground) = {
        let mut tree = kernel.tree.lock();
        let Some(sid) = session_of(&tree, terminal) else {
            return;
        };
        let foreground = tree.sessions.get_mut(&sid).map_or(0, |s| {
            s.terminal = None;
            std::mem::take(&mut s.foreground)
        });
        (tree.node(sid).map(|n| n.group.clone()), foreground)
    };
    if let Some(leader) = leader {
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            crate::kernel::signal::send::send_to_group(&leader, SigInfo::kernel(signal));
        }
    }
    if foreground != 0 {
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            let _ = kernel.tree.signal_pgrp(foreground, SigInfo::kernel(signal));
        }
    }
}

/// open(2) without O_NOCTTY: a session leader without a terminal gets this one, if it is free.
pub fn acquire_if_free(task: &Task, terminal: &Arc<dyn Terminal>) {
    let mut tree = task.kernel().tree.lock();
    let pid = task.pid();
    let Some((sid, pgid)) = tree.node(pid).map(|n| (n.sid, n.pgid)) else {
        return;
    };
    if sid != pid || session_of(&tree, terminal).is_some() {
        return;
    }
    let session = tree.sessions.entry(sid).or_default();
    if session.terminal.is_none() {
        session.terminal = Some(terminal.clone());
        session.foreground = pgid;
    }
}

/// TIOCSCTTY. `steal`: the argument.
pub fn set_controlling(task: &Task, terminal: &Arc<dyn Terminal>, steal: u64) -> Result<()> {
    let mut tree = task.kernel().tree.lock();
    let pid = task.pid();
    let (sid, pgid) = tree
        .node(pid)
        .map(|n| (n.sid, n.pgid))
        .ok_or(Errno::ESRCH)?;
    let holder = session_of(&tree, terminal);
    if sid == pid && holder == Some(sid) {
        return Ok(());
    }
    let has_one = tree
        .sessions
        .get(&sid)
        .is_some_and(|s| s.terminal.is_some());
    if sid != pid || has_one {
        return Err(Errno::EPERM);
    }
    if let Some(other) = holder {
        if steal != 1 || !task.creds().has_cap(Cap::SysAdmin) {
            return Err(Errno::EPERM);
        }
        if let Some(s) = tree.sessions.get_mut(&other) {
            s.terminal = None;
            s.foreground = 0;
        }
    }
    let session = tree.sessions.entry(sid).or_default();
    session.terminal = Some(terminal.clone());
    session.foreground = pgid;
    Ok(())
}

/// TIOCNOTTY. Only the leader's has an effect here: it takes the terminal from the whole session.
fn give_up(task: &Task, terminal: &Arc<dyn Terminal>) -> Result<()> {
    let foreground = {
        let mut tree = task.kernel().tree.lock();
        let sid = tree.node(task.pid()).map(|n| n.sid).ok_or(Errno::ESRCH)?;
        if session_of(&tree, terminal) != Some(sid) {
            return Err(Errno::ENOTTY);
        }
        if sid != task.pid() {
            return Ok(());
        }
        tree.sessions.get_mut(&sid).map_or(0, |s| {
            s.terminal = None;
            std::mem::take(&mut s.foreground)
        })
    };
    terminal.disassociate();
    if foreground != 0 {
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            let _ = task
                .kernel()
                .tree
                .signal_pgrp(foreground, SigInfo::kernel(signal));
        }
    }
    Ok(())
}

/// TIOCGPGRP, tcgetpgrp(3).
pub fn foreground(task: &Task, terminal: &Arc<dyn Terminal>) -> Result<i32> {
    let tree = task.kernel().tree.lock();
    let sid = tree.node(task.pid()).map(|n| n.sid).ok_or(Errno::ESRCH)?;
    if session_of(&tree, terminal) != Some(sid) {
        return Err(Errno::ENOTTY);
    }
    if is_elsewhere(task, terminal) {
        // As Linux shows a group of another pid namespace.
        return Ok(0);
    }
    Ok(tree.sessions.get(&sid).map_or(0, |s| s.foreground))
}

/// TIOCSPGRP, tcsetpgrp(3).
fn set_foreground(task: &Task, terminal: &Arc<dyn Terminal>, pgid: i32) -> Result<()> {
    check_background(task, terminal, Signal::SIGTTOU)?;
    let mut tree = task.kernel().tree.lock();
    let sid = tree.node(task.pid()).map(|n| n.sid).ok_or(Errno::ESRCH)?;
    if session_of(&tree, terminal) != Some(sid) {
        return Err(Errno::ENOTTY);
    }
    if pgid < 0 {
        return Err(Errno::EINVAL);
    }
    let member = tree
        .nodes
        .values()
        .find(|n| n.pgid == pgid)
        .ok_or(Errno::ESRCH)?;
    if member.sid != sid {
        return Err(Errno::EPERM);
    }
    if let Some(session) = tree.sessions.get_mut(&sid) {
        session.foreground = pgid;
    }
    Ok(())
}

/// The job-control requests. None: the request is another one.
pub fn ioctl(task: &Task, terminal: &Arc<dyn Terminal>, cmd: u32, arg: u64) -> Option<Result<u64>> {
    let done = match cmd {
        TIOCSCTTY => set_controlling(task, terminal, arg),
        TIOCNOTTY => give_up(task, terminal),
        TIOCGPGRP => foreground(task, terminal).and_then(|p| task.mm().write_obj(arg, &p)),
        TIOCSPGRP => task
            .mm()
            .read_obj::<i32>(arg)
            .and_then(|pgid| set_foreground(task, terminal, pgid)),
        TIOCGSID => {
            let sid = {
                let tree = task.kernel().tree.lock();
                let own = tree.node(task.pid()).map(|n| n.sid);
                session_of(&tree, terminal).filter(|s| Some(*s) == own)
            };
            sid.ok_or(Errno::ENOTTY)
                .and_then(|sid| task.mm().write_obj(arg, &sid))
        }
        _ => return None,
    };
    Some(done.map(|()| 0))
}
