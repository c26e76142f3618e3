//! fork(2), vfork(2), clone(2), clone3(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::errno::{Errno, Error, Result};
use crate::executor::Home;
use crate::kernel::group::ThreadGroup;
use crate::kernel::run;
use crate::kernel::signal::{NSIG, SigActions, TaskSignals};
use crate::kernel::task::{NewTask, Task, VforkLatch};
use crate::kernel::tree::Node;
use crate::kernel::wait::Ready;
use crate::mm::io::UserMemory;

bitflags::bitflags! {
    /// Flags of clone(2), without the exit signal.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CloneFlags: u64 {
        const VM = libc::CLONE_VM as u64;
        const FS = libc::CLONE_FS as u64;
        const FILES = libc::CLONE_FILES as u64;
        const SIGHAND = libc::CLONE_SIGHAND as u64;
        const PIDFD = libc::CLONE_PIDFD as u64;
        const PTRACE = libc::CLONE_PTRACE as u64;
        const VFORK = libc::CLONE_VFORK as u64;
        const PARENT = libc::CLONE_PARENT as u64;
        const THREAD = libc::CLONE_THREAD as u64;
        const NEWNS = libc::CLONE_NEWNS as u64;
        const SYSVSEM = libc::CLONE_SYSVSEM as u64;
        const SETTLS = libc::CLONE_SETTLS as u64;
        const PARENT_SETTID = libc::CLONE_PARENT_SETTID as u64;
        const CHILD_CLEARTID = libc::CLONE_CHILD_CLEARTID as u64;
        const DETACHED = libc::CLONE_DETACHED as u64;
        const UNTRACED = libc::CLONE_UNTRACED as u64;
        const CHILD_SETTID = libc::CLONE_CHILD_SETTID as u64;
        const NEWCGROUP = libc::CLONE_NEWCGROUP as u64;
        const NEWUTS = libc::CLONE_NEWUTS as u64;
        const NEWIPC = libc::CLONE_NEWIPC as u64;
        const NEWUSER = libc::CLONE_NEWUSER as u64;
        const NEWPID = libc::CLONE_NEWPID as u64;
        const NEWNET = libc::CLONE_NEWNET as u64;
        const IO = 0x8000_0000;
        const CLEAR_SIGHAND = 0x1_0000_0000;
        const INTO_CGROUP = 0x2_0000_0000;
        const NEWTIME = 0x80;
    }
}

impl CloneFlags {
    /// Namespaces: none can be made yet.
    const NAMESPACES: CloneFlags = CloneFlags::NEWNS
        .union(CloneFlags::NEWCGROUP)
        .union(CloneFlags::NEWUTS)
        .union(CloneFlags::NEWIPC)
        .union(CloneFlags::NEWUSER)
        .union(CloneFlags::NEWPID)
        .union(CloneFlags::NEWNET)
        .union(CloneFlags::NEWTIME);
}

/// Arguments of clone3(2), which the older calls are mapped to.
#[derive(Clone, Copy, Debug)]
pub struct CloneArgs {
    pub flags: CloneFlags,
    /// Where CLONE_PIDFD puts the descriptor.
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: i32,
    /// Initial stack pointer of the child; 0: as the parent.
    pub stack_pointer: u64,
    pub tls: u64,
}

/// Makes the child and starts it; waits for it with CLONE_VFORK.
pub async fn clone(task: &Task, args: CloneArgs) -> Result<u64, Error> {
    check(task, &args)?;
    let latch = args.flags.contains(CloneFlags::VFORK).then(|| {
        let latch = Arc::new(VforkLatch::default());
        latch.busy.store(true, Ordering::SeqCst);
        latch
    });
    if args.flags.contains(CloneFlags::PIDFD) {
        // EFAULT while there is no child yet.
        let old: i32 = task.mm().read_obj(args.pidfd)?;
        task.mm().write_obj(args.pidfd, &old)?;
    }
    let (child, pidfd) = make(task, &args, latch.clone())?;
    let tid = child.tid();
    if args.flags.contains(CloneFlags::PARENT_SETTID) {
        task.mm().copy_out(args.parent_tid, &tid.to_ne_bytes());
    }
    if let Some(fd) = pidfd {
        task.mm().copy_out(args.pidfd, &fd.to_ne_bytes());
    }
    if args.flags.contains(CloneFlags::CHILD_SETTID)
        && let Ok(mm) = child.try_mm()
    {
        mm.copy_out(args.child_tid, &tid.to_ne_bytes());
    }
    run::start(child);
    if let Some(latch) = latch {
        wait_for_vfork(task, &latch).await;
    }
    Ok(tid as u64)
}

fn check(task: &Task, args: &CloneArgs) -> Result<()> {
    let f = args.flags;
    let has = |x: CloneFlags| f.contains(x);
    if has(CloneFlags::SIGHAND) && !has(CloneFlags::VM)
        || has(CloneFlags::THREAD) && !has(CloneFlags::SIGHAND)
        || has(CloneFlags::NEWNS) && has(CloneFlags::FS)
        || has(CloneFlags::SIGHAND) && has(CloneFlags::CLEAR_SIGHAND)
        || has(CloneFlags::PARENT) && task.group().is_init()
        || !(0..=NSIG).contains(&args.exit_signal)
    {
        return Err(Errno::EINVAL);
    }
    if f.intersects(CloneFlags::NAMESPACES) {
        return Err(Errno::EPERM);
    }
    if has(CloneFlags::INTO_CGROUP) {
        return Err(Errno::EOPNOTSUPP);
    }
    let kernel = task.kernel();
    kernel.resources.check_own_memory(&kernel.memory)?;
    let limit = task.group().limits.lock().soft(libc::RLIMIT_NPROC);
    let privileged = task.creds().has_cap(crate::kernel::cred::Cap::SysResource)
        || task.creds().has_cap(crate::kernel::cred::Cap::SysAdmin);
    let uid = task.creds().ruid;
    if !privileged && uid.0 != 0 {
        let mine = task
            .kernel()
            .tree
            .lock()
            .tasks
            .values()
            .filter(|t| t.creds().ruid == uid)
            .count();
        if mine as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
    }
    Ok(())
}

/// A child that has not run, and the caller's descriptor of it with CLONE_PIDFD.
fn make(
    task: &Task,
    args: &CloneArgs,
    latch: Option<Arc<VforkLatch>>,
) -> Result<(Arc<Task>, Option<i32>)> {
    let f = args.flags;
    let mm = if f.contains(CloneFlags::VM) {
        task.mm()
    } else {
        task.mm().fork()?
    };
    let files = if f.contains(CloneFlags::FILES) {
        task.files()
    } else {
        task.files().fork()
    };
    let fs = if f.contains(CloneFlags::FS) {
        task.fs()
    } else {
        task.fs().fork()
    };
    let mut regs = *task.regs.lock();
    regs.set_return(0);
    if args.stack_pointer != 0 {
        regs.set_stack_pointer(args.stack_pointer);
    }
    if f.contains(CloneFlags::SETTLS) {
        regs.set_tls(args.tls);
    }
    let fp = match task.with_context(|c| c.get().fp_state()) {
        Some(Ok(fp)) => Some(fp),
        Some(Err(_)) => return Err(Errno::ENOMEM),
        None => None,
    };
    let mut signals = TaskSignals {
        blocked: task.signals.lock().blocked,
        ..Default::default()
    };
    // vfork children and processes keep the alternate stack; threads that share memory do not.
    if !f.contains(CloneFlags::VM) || f.contains(CloneFlags::VFORK) {
        signals.altstack = task.signals.lock().altstack;
    }
    let mut pidfd = None;
    let child = task.kernel().tree.enter(|tid, tree| {
        task.kernel().resources.charge_task(tree)?;
        let group = if f.contains(CloneFlags::THREAD) {
            task.group().clone()
        } else {
            new_group(task, args, tid)
        };
        let thread = f.contains(CloneFlags::THREAD);
        let _filters = thread.then(|| group.filters.lock());
        let child = Task::new(NewTask {
            tid,
            group: group.clone(),
            // A thread belongs to the worker of its process; a process begins beside its parent.
            home: if thread {
                task.home.clone()
            } else {
                Home::new(task.home.worker())
            },
            regs,
            fp,
            mm,
            files,
            fs,
            creds: task.creds(),
            seccomp: task.seccomp(),
            comm: task.comm(),
            signals,
        });
        inherit(task, &child);
        if f.contains(CloneFlags::SYSVSEM) {
            task.share_sem_undo(&child);
        }
        if f.contains(CloneFlags::PIDFD) {
            pidfd = Some(crate::fs::pidfd::install(task, &group)?);
        }
        if !group.add_task(child.clone()) {
            // Somebody is ending the group: the caller will notice on its way out.
            return Err(Errno::EAGAIN);
        }
        if !thread {
            settle(&group, task, args, tree);
        }
        Ok(child)
    });
    let child = child.inspect_err(|_| {
        if let Some(fd) = pidfd {
            let _ = task.files().close(fd);
        }
    })?;
    if f.contains(CloneFlags::CHILD_CLEARTID) {
        child.addresses.lock().clear_child_tid = args.child_tid;
    }
    *child.vfork_parent.lock() = latch;
    Ok((child, pidfd))
}

fn inherit(parent: &Task, child: &Task) {
    child.timer_slack_ns.store(
        parent.timer_slack_ns.load(Ordering::Relaxed),
        Ordering::Relaxed,
    );
    child
        .affinity
        .store(parent.affinity.load(Ordering::Relaxed), Ordering::Relaxed);
    let personality = parent.personality.load(Ordering::Relaxed);
    child.personality.store(personality, Ordering::Relaxed);
    let io_priority = parent.io_priority.load(Ordering::Relaxed);
    child.io_priority.store(io_priority, Ordering::Relaxed);
    *child.sched.lock() = *parent.sched.lock();
}

/// A process that is not in the tree yet.
fn new_group(task: &Task, args: &CloneArgs, pid: i32) -> Arc<ThreadGroup> {
    let old = task.group();
    let actions = if args.flags.contains(CloneFlags::SIGHAND) {
        old.actions()
    } else {
        let mut table: SigActions = old.actions().lock().clone();
        if args.flags.contains(CloneFlags::CLEAR_SIGHAND) {
            table.reset_for_exec();
        }
        Arc::new(Mutex::new(table))
    };
    let limits = *old.limits.lock();
    // A sibling tells the common parent as its maker does, not with a signal of its choice.
    let exit_signal = if args.flags.contains(CloneFlags::PARENT) {
        old.exit_signal.load(Ordering::Relaxed)
    } else {
        args.exit_signal
    };
    let group = ThreadGroup::new(task.kernel(), pid, actions, limits, exit_signal);
    for (to, from) in [
        (&group.dumpable, &old.dumpable),
        (&group.oom_score_adj, &old.oom_score_adj),
        (&group.nice, &old.nice),
    ] {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    if limits.soft(libc::RLIMIT_CPU) != u64::MAX {
        group.timers.set_cpu_limit(limits.soft(libc::RLIMIT_CPU));
    }
    group
}

/// Puts a new process in its place. Nothing can fail from here on: there is somebody to wait for.
fn settle(
    group: &Arc<ThreadGroup>,
    task: &Task,
    args: &CloneArgs,
    tree: &mut crate::kernel::tree::Inner,
) {
    let (old, pid) = (task.group(), group.pid());
    let (old_parent, pgid, sid) = tree
        .node(old.pid())
        .map_or((0, pid, pid), |n| (n.parent, n.pgid, n.sid));
    let parent = if args.flags.contains(CloneFlags::PARENT) {
        old_parent
    } else {
        old.pid()
    };
    if let Some(p) = tree.nodes.get_mut(&parent) {
        p.children.insert(pid);
    }
    tree.nodes
        .insert(pid, Node::new(group.clone(), parent, pgid, sid));
}

/// Only the end of the parent interrupts this wait (vfork(2)).
async fn wait_for_vfork(task: &Task, latch: &VforkLatch) {
    let free = || {
        if latch.busy.load(Ordering::SeqCst) {
            Err(Errno::EAGAIN)
        } else {
            Ok(())
        }
    };
    loop {
        let waited = task.wait_on(&latch.queue, Ready::all(), None, free).await;
        if waited.is_ok() || task.group().must_exit(task.tid()).is_some() {
            return;
        }
        // A signal has to wait: take the mark and put it back at the end.
        if task.take_interrupt() {
            let rest = wait_quietly(task, latch).await;
            task.interrupt();
            if rest {
                return;
            }
        }
    }
}

async fn wait_quietly(task: &Task, latch: &VforkLatch) -> bool {
    let free = || {
        let over =
            !latch.busy.load(Ordering::SeqCst) || task.group().must_exit(task.tid()).is_some();
        if over { Ok(()) } else { Err(Errno::EAGAIN) }
    };
    task.wait_on(&latch.queue, Ready::all(), None, free)
        .await
        .is_ok()
}
