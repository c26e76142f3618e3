//! The process tree: pids, parents and children, process groups, sessions, who waits for whom.
//!
//! One lock for all of it (Linux's tasklist_lock). It may be taken while no other kernel lock is
//! held except a group's `signals`; inside it signals are only collected, and sent after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::errno::{Errno, Result};
use crate::kernel::group::{ExitStatus, ThreadGroup, Usage};
use crate::kernel::signal::send::send_to_group;
use crate::kernel::signal::{SIG_IGN, SigFields, SigInfo, Signal};
use crate::kernel::task::Task;
use crate::kernel::tty::Terminal;

/// /proc/sys/kernel/pid_max of a 64-bit Linux.
pub const PID_MAX: i32 = 4_194_304;

/// How a zombie ended and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zombie {
    pub status: ExitStatus,
    pub usage: Usage,
    pub uid: u32,
}

/// A process in the tree.
pub struct Node {
    pub group: Arc<ThreadGroup>,
    /// 0: the kernel's own.
    pub parent: i32,
    pub children: BTreeSet<i32>,
    pub pgid: i32,
    pub sid: i32,
    pub zombie: Option<Zombie>,
    /// Stopped and not yet reported (WUNTRACED).
    pub stop_report: Option<Signal>,
    /// Continued and not yet reported (WCONTINUED).
    pub continue_report: bool,
    /// Usage of children waited for (RUSAGE_CHILDREN).
    pub children_usage: Usage,
}

impl Node {
    pub fn new(group: Arc<ThreadGroup>, parent: i32, pgid: i32, sid: i32) -> Node {
        Node {
            group,
            parent,
            children: BTreeSet::new(),
            pgid,
            sid,
            zombie: None,
            stop_report: None,
            continue_report: false,
            children_usage: Usage::default(),
        }
    }
}

/// A session with its controlling terminal.
#[derive(Default)]
pub struct Session {
    pub terminal: Option<Arc<dyn Terminal>>,
    /// Foreground process group of the terminal.
    pub foreground: i32,
}

/// What the lock protects.
#[derive(Default)]
pub struct Inner {
    last_pid: i32,
    pub nodes: BTreeMap<i32, Node>,
    pub tasks: HashMap<i32, Arc<Task>>,
    pub sessions: BTreeMap<i32, Session>,
}

/// See the module documentation. One a container.
#[derive(Default)]
pub struct Tree {
    inner: Mutex<Inner>,
}

impl Inner {
    /// A pid that is neither a task, a process, a group nor a session.
    fn free_pid(&mut self) -> Result<i32> {
        for _ in 0..PID_MAX {
            self.last_pid = if self.last_pid + 1 >= PID_MAX {
                300
            } else {
                self.last_pid + 1
            };
            let pid = self.last_pid;
            if !self.is_used(pid) {
                return Ok(pid);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// A task, process, process group or session has this number.
    pub fn is_used(&self, pid: i32) -> bool {
        self.tasks.contains_key(&pid)
            || self.nodes.contains_key(&pid)
            || self.sessions.contains_key(&pid)
            || self.nodes.values().any(|n| n.pgid == pid)
    }

    /// The pid or thread id given out last.
    pub fn last_pid(&self) -> i32 {
        self.last_pid
    }

    /// Gives pid 1 to `group`, which has no program: the first process is no init, and a process
    /// group of that number would make killpg(2) mean everybody (kill(2), -1).
    pub fn enter_adopter(&mut self, group: Arc<ThreadGroup>) {
        let pid = group.pid();
        self.last_pid = self.last_pid.max(pid);
        self.nodes.insert(pid, Node::new(group, 0, pid, pid));
        self.sessions.insert(pid, Session::default());
    }

    pub fn node(&self, pid: i32) -> Option<&Node> {
        self.nodes.get(&pid)
    }

    /// Members of a process group that are not zombies.
    pub fn members(&self, pgid: i32) -> Vec<Arc<ThreadGroup>> {
        self.nodes
            .values()
            .filter(|n| n.pgid == pgid && n.zombie.is_none())
            .map(|n| n.group.clone())
            .collect()
    }

    /// Has the group no member whose parent is in the same session but another group?
    pub fn is_orphaned(&self, pgid: i32) -> bool {
        !self
            .nodes
            .values()
            .any(|n| n.pgid == pgid && n.zombie.is_none() && self.is_held(n))
    }

    /// Can the parent continue what stops with the group of `n`? The shell outside is taken to be
    /// one that can; where it is not, the command line continues us.
    fn is_held(&self, n: &Node) -> bool {
        if n.group.answers_outside() {
            return true;
        }
        let parent = self.nodes.get(&n.parent);
        parent.is_some_and(|parent| parent.sid == n.sid && parent.pgid != n.pgid)
    }

    /// Forgets a zombie that was waited for (or that nobody will wait for).
    pub fn reap(&mut self, pid: i32) -> Option<Node> {
        let node = self.nodes.remove(&pid)?;
        if let Some(parent) = self.nodes.get_mut(&node.parent) {
            parent.children.remove(&pid);
        }
        if !self.nodes.values().any(|n| n.sid == node.sid) {
            self.sessions.remove(&node.sid);
        }
        Some(node)
    }

    /// Who adopts the children of `pid`: the nearest living subreaper above it, else the topmost.
    fn reaper_of(&self, pid: i32) -> i32 {
        let mut at = self.nodes.get(&pid).map_or(0, |n| n.parent);
        while let Some(n) = self.nodes.get(&at) {
            let adopts =
                n.group.subreaper.load(std::sync::atomic::Ordering::Relaxed) || n.group.is_init();
            if adopts && n.zombie.is_none() {
                return at;
            }
            at = n.parent;
        }
        0
    }
}

impl Tree {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Reserves nothing: the pid is taken by entering a task under the same lock.
    pub fn enter(
        &self,
        make: impl FnOnce(i32, &mut Inner) -> Result<Arc<Task>>,
    ) -> Result<Arc<Task>> {
        let mut inner = self.inner.lock();
        let pid = inner.free_pid()?;
        let task = make(pid, &mut inner)?;
        inner.tasks.insert(pid, task.clone());
        Ok(task)
    }

    pub fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.inner.lock().tasks.get(&tid).cloned()
    }

    /// A process that exists, zombies included.
    pub fn group(&self, pid: i32) -> Option<Arc<ThreadGroup>> {
        self.inner.lock().nodes.get(&pid).map(|n| n.group.clone())
    }

    /// All processes, zombies included.
    pub fn groups(&self) -> Vec<Arc<ThreadGroup>> {
        self.inner
            .lock()
            .nodes
            .values()
            .map(|n| n.group.clone())
            .collect()
    }

    /// Parent, process group and session of a process; zeros if it is gone.
    pub fn relations(&self, pid: i32) -> (i32, i32, i32) {
        self.inner
            .lock()
            .nodes
            .get(&pid)
            .map_or((0, 0, 0), |n| (n.parent, n.pgid, n.sid))
    }

    /// The parent, if it is a guest process that lives.
    pub fn parent(&self, pid: i32) -> Option<Arc<ThreadGroup>> {
        let inner = self.inner.lock();
        let parent = inner.nodes.get(&pid)?.parent;
        inner.nodes.get(&parent).map(|n| n.group.clone())
    }

    /// Publishes who the task's parent is, for answers in place.
    pub fn publish_parent(&self, task: &Task) {
        // Under the lock, or an older parent could be published after a newer one.
        let inner = self.inner.lock();
        if let Some(node) = inner.nodes.get(&task.pid()) {
            task.publish_parent(node.parent);
        }
    }

    /// A stop signal stopped the group: tell the parent.
    pub fn report_stopped(&self, group: &ThreadGroup, signal: Signal) {
        let parent = {
            let mut inner = self.inner.lock();
            let Some(node) = inner.nodes.get_mut(&group.pid()) else {
                return;
            };
            node.stop_report = Some(signal);
            node.continue_report = false;
            let parent = node.parent;
            inner.nodes.get(&parent).map(|n| n.group.clone())
        };
        self.notify_parent(parent, group, libc::CLD_STOPPED, signal.number());
    }

    pub fn report_continued(&self, group: &ThreadGroup) {
        let parent = {
            let mut inner = self.inner.lock();
            let Some(node) = inner.nodes.get_mut(&group.pid()) else {
                return;
            };
            node.stop_report = None;
            node.continue_report = true;
            let parent = node.parent;
            inner.nodes.get(&parent).map(|n| n.group.clone())
        };
        self.notify_parent(parent, group, libc::CLD_CONTINUED, libc::SIGCONT);
    }

    fn notify_parent(
        &self,
        parent: Option<Arc<ThreadGroup>>,
        child: &ThreadGroup,
        code: i32,
        status: i32,
    ) {
        let Some(parent) = parent else { return };
        let no_stop = code != libc::CLD_EXITED && {
            let actions = parent.actions();
            let action = actions.lock().get(Signal::SIGCHLD);
            action.flags & libc::SA_NOCLDSTOP as u64 != 0
        };
        if !no_stop {
            let uid = child.any_task().map_or(0, |t| t.creds().ruid.0);
            send_to_group(
                &parent,
                child_info(child.pid(), uid, code, status, child.usage()),
            );
        }
        parent.child_events.wake_all();
    }

    /// The last task of `group` ended: it becomes a zombie or vanishes; its children get a new
    /// parent, its session loses its terminal, its group may be orphaned.
    pub fn group_exited(&self, group: &Arc<ThreadGroup>, status: ExitStatus, uid: u32) {
        let pid = group.pid();
        let usage = group.usage();
        let mut signals: Vec<(Arc<ThreadGroup>, SigInfo)> = Vec::new();
        let mut waiters: Vec<Arc<ThreadGroup>> = Vec::new();
        {
            let mut inner = self.inner.lock();
            let reaper = inner.reaper_of(pid);
            let Some(node) = inner.nodes.get_mut(&pid) else {
                return;
            };
            node.zombie = Some(Zombie { status, usage, uid });
            let (parent, pgid, sid) = (node.parent, node.pgid, node.sid);
            let children = std::mem::take(&mut node.children);
            let was_orphaned = inner.is_orphaned_without(pgid, pid);
            for child in &children {
                let Some(c) = inner.nodes.get_mut(child) else {
                    continue;
                };
                c.parent = reaper;
                let (child_group, zombie, cpgid) = (c.group.clone(), c.zombie, c.pgid);
                for task in child_group.tasks() {
                    task.publish_parent(reaper);
                }
                // Its own choice of a signal, SIGKILL even, was for its own parent.
                child_group
                    .exit_signal
                    .store(libc::SIGCHLD, std::sync::atomic::Ordering::Relaxed);
                if let Some(r) = inner.nodes.get_mut(&reaper) {
                    r.children.insert(*child);
                    waiters.push(r.group.clone());
                    if let Some(z) = zombie {
                        signals.push((r.group.clone(), exit_info(*child, z, child_group.usage())));
                    }
                } else if zombie.is_some() {
                    inner.reap(*child);
                }
                if let Some(signal) = child_group.tasks().iter().find_map(|t| t.pdeath_signal()) {
                    signals.push((child_group.clone(), SigInfo::user(signal, pid, uid)));
                }
                if cpgid != pgid {
                    inner.hang_up_if_orphaned(cpgid, &mut signals);
                }
            }
            if !was_orphaned {
                inner.hang_up_if_orphaned(pgid, &mut signals);
            }
            if sid == pid {
                inner.end_session(sid, &mut signals);
            }
            // Tell the parent, or nobody.
            let exit_signal = group.exit_signal.load(std::sync::atomic::Ordering::Relaxed);
            let parent_group = inner.nodes.get(&parent).map(|n| n.group.clone());
            match parent_group {
                Some(p) => {
                    let autoreap = exit_signal == libc::SIGCHLD && {
                        let actions = p.actions();
                        let action = actions.lock().get(Signal::SIGCHLD);
                        action.handler == SIG_IGN || action.flags & libc::SA_NOCLDWAIT as u64 != 0
                    };
                    if let Some(signal) = Signal::new(exit_signal) {
                        let info = exit_info(pid, Zombie { status, usage, uid }, usage);
                        signals.push((p.clone(), SigInfo { signal, ..info }));
                    }
                    if autoreap {
                        inner.reap(pid);
                    }
                    waiters.push(p);
                }
                None => {
                    inner.reap(pid);
                }
            }
        }
        for (target, info) in signals {
            send_to_group(&target, info);
        }
        for waiter in waiters {
            waiter.child_events.wake_all();
        }
        group.exited.wake_all();
    }

    /// Sends to all members of a process group. ESRCH if it has none.
    pub fn signal_pgrp(&self, pgid: i32, info: SigInfo) -> Result<()> {
        let members = self.lock().members(pgid);
        if members.is_empty() {
            return Err(Errno::ESRCH);
        }
        for group in members {
            send_to_group(&group, info);
        }
        Ok(())
    }
}

impl Inner {
    fn is_orphaned_without(&self, pgid: i32, leaving: i32) -> bool {
        !self.nodes.iter().any(|(pid, n)| {
            n.pgid == pgid && (n.zombie.is_none() || *pid == leaving) && self.is_held(n)
        })
    }

    /// A group that became orphaned and has stopped members gets SIGHUP and SIGCONT.
    fn hang_up_if_orphaned(&self, pgid: i32, signals: &mut Vec<(Arc<ThreadGroup>, SigInfo)>) {
        if !self.is_orphaned(pgid) {
            return;
        }
        let members = self.members(pgid);
        if members.iter().any(|m| m.is_stopped()) {
            for m in members {
                signals.push((m.clone(), SigInfo::kernel(Signal::SIGHUP)));
                signals.push((m, SigInfo::kernel(Signal::SIGCONT)));
            }
        }
    }

    /// The leader died: the foreground group is hung up, the terminal is free.
    fn end_session(&mut self, sid: i32, signals: &mut Vec<(Arc<ThreadGroup>, SigInfo)>) {
        let Some(session) = self.sessions.get_mut(&sid) else {
            return;
        };
        let Some(terminal) = session.terminal.take() else {
            return;
        };
        let foreground = std::mem::take(&mut session.foreground);
        terminal.disassociate();
        for m in self.members(foreground) {
            signals.push((m.clone(), SigInfo::kernel(Signal::SIGHUP)));
            signals.push((m, SigInfo::kernel(Signal::SIGCONT)));
        }
    }
}

fn child_info(pid: i32, uid: u32, code: i32, status: i32, usage: Usage) -> SigInfo {
    let ticks = |ns: u64| (ns / 10_000_000) as i64;
    SigInfo {
        signal: Signal::SIGCHLD,
        code,
        errno: 0,
        fields: SigFields::Child {
            pid,
            uid,
            status,
            utime: ticks(usage.user_ns),
            stime: ticks(usage.system_ns),
        },
    }
}

fn exit_info(pid: i32, zombie: Zombie, usage: Usage) -> SigInfo {
    let (code, status) = match zombie.status {
        ExitStatus::Exited(code) => (libc::CLD_EXITED, i32::from(code)),
        ExitStatus::Signaled {
            signal,
            core: false,
        } => (libc::CLD_KILLED, signal.number()),
        ExitStatus::Signaled { signal, core: true } => (libc::CLD_DUMPED, signal.number()),
    };
    child_info(pid, zombie.uid, code, status, usage)
}
