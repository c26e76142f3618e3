//! Processes: birth, program, end, waiting, identity, process groups and sessions.

mod control;
mod sched;

use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use control::*;
pub use sched::*;

use crate::errno::{Errno, Error, Result};
use crate::kernel::clone::{CloneArgs, CloneFlags, clone as clone_task};
use crate::kernel::exec::{Program, exec};
use crate::kernel::group::{ExitStatus, ThreadGroup, Usage};
use crate::kernel::signal::Signal;
use crate::kernel::task::Task;
use crate::kernel::tree::{Inner, Node};
use crate::kernel::wait::Ready;
use crate::syscalls::{Args, SysResult};

pub async fn fork(t: &Task, _: &Args) -> SysResult {
    clone_task(t, simple(CloneFlags::empty())).await
}

pub async fn vfork(t: &Task, _: &Args) -> SysResult {
    clone_task(t, simple(CloneFlags::VM | CloneFlags::VFORK)).await
}

fn simple(flags: CloneFlags) -> CloneArgs {
    CloneArgs {
        flags,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD,
        stack_pointer: 0,
        tls: 0,
    }
}

pub async fn clone(t: &Task, a: &Args) -> SysResult {
    let flags = a.u64(0) & 0xffff_ffff;
    let flags_only = CloneFlags::from_bits_truncate(flags & !0xff);
    if flags_only.contains(CloneFlags::PIDFD) && flags_only.contains(CloneFlags::PARENT_SETTID) {
        return Err(Errno::EINVAL.into());
    }
    let args = CloneArgs {
        flags: flags_only,
        exit_signal: (flags & 0xff) as i32,
        stack_pointer: a.u64(1),
        parent_tid: a.u64(2),
        pidfd: a.u64(2),
        child_tid: a.u64(3),
        tls: a.u64(4),
    };
    clone_task(t, args).await
}

/// Sizes of struct clone_args over time (clone(2)).
const CLONE_ARGS_SIZE_VER0: usize = 64;

pub async fn clone3(t: &Task, a: &Args) -> SysResult {
    let size = a.len(1);
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL.into());
    }
    let raw = read_extensible::<11>(t, a.u64(0), size)?;
    let [
        flags,
        pidfd,
        child_tid,
        parent_tid,
        exit_signal,
        stack,
        stack_size,
        tls,
        set_tid,
        set_tid_size,
        cgroup,
    ] = raw;
    let known = CloneFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if known.intersects(CloneFlags::DETACHED)
        || exit_signal > 64
        || (stack == 0) != (stack_size == 0)
        || known.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && exit_signal != 0
    {
        return Err(Errno::EINVAL.into());
    }
    if set_tid_size != 0 || set_tid != 0 {
        // Choosing pids needs CAP_CHECKPOINT_RESTORE and a checkpoint to restore.
        return Err(Errno::EPERM.into());
    }
    let _ = cgroup;
    let args = CloneArgs {
        flags: known,
        pidfd,
        child_tid,
        parent_tid,
        exit_signal: exit_signal as i32,
        stack_pointer: if stack == 0 {
            0
        } else {
            stack.checked_add(stack_size).ok_or(Errno::EINVAL)?
        },
        tls,
    };
    clone_task(t, args).await
}

/// Reads a struct of `N` 64-bit fields whose size the caller states (copy_struct_from_user): missing
/// fields are zero, unknown ones must be (E2BIG).
pub(crate) fn read_extensible<const N: usize>(
    t: &Task,
    addr: u64,
    size: usize,
) -> Result<[u64; N]> {
    if size > crate::mm::PAGE_SIZE as usize {
        return Err(Errno::E2BIG);
    }
    let mut bytes = vec![0u8; size.max(N * 8)];
    t.mm().read_bytes(addr, &mut bytes[..size])?;
    if bytes[N * 8..].iter().any(|b| *b != 0) {
        return Err(Errno::E2BIG);
    }
    let mut fields = [0u64; N];
    for (field, chunk) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
        *field = u64::from_ne_bytes(chunk.try_into().map_err(|_| Errno::EINVAL)?);
    }
    Ok(fields)
}

pub async fn execve(t: &Task, a: &Args) -> SysResult {
    let path = t.mm().read_cstr(a.u64(0), libc::PATH_MAX as usize)?;
    let (argv, envp) = (string_array(t, a.u64(1))?, string_array(t, a.u64(2))?);
    let file = crate::fs::exec::open_exec(t, &path)?;
    exec(
        t,
        Program {
            file,
            filename: path,
            argv,
            envp,
        },
    )
    .await?;
    Ok(0)
}

pub async fn execveat(t: &Task, a: &Args) -> SysResult {
    let flags = a.int(4);
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let dirfd = a.int(0);
    let path = t.mm().read_cstr(a.u64(1), libc::PATH_MAX as usize)?;
    let (argv, envp) = (string_array(t, a.u64(2))?, string_array(t, a.u64(3))?);
    let file = crate::fs::exec::open_exec_at(t, dirfd, &path, flags)?;
    let filename = if path.starts_with(b"/") || dirfd == libc::AT_FDCWD {
        path
    } else {
        let mut name = format!("/dev/fd/{dirfd}").into_bytes();
        if !path.is_empty() {
            name.push(b'/');
            name.extend_from_slice(&path);
        }
        name
    };
    exec(
        t,
        Program {
            file,
            filename,
            argv,
            envp,
        },
    )
    .await?;
    Ok(0)
}

/// Reads argv or envp; NULL counts as empty, as Linux allows. E2BIG bounds what we hold: 128 KiB a
/// string, 6 MiB in all (three quarters of the default stack limit).
fn string_array(t: &Task, addr: u64) -> Result<Vec<Vec<u8>>> {
    const MAX_STRING: usize = 128 * 1024;
    const MAX_TOTAL: usize = 6 << 20;
    let mm = t.mm();
    let mut strings = Vec::new();
    let mut total = 0usize;
    if addr == 0 {
        return Ok(strings);
    }
    let mut at = addr;
    loop {
        let pointer: u64 = mm.read_obj(at)?;
        if pointer == 0 {
            return Ok(strings);
        }
        let s = mm.read_cstr(pointer, MAX_STRING).map_err(|e| match e {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            e => e,
        })?;
        total += s.len() + 9;
        if total > MAX_TOTAL {
            return Err(Errno::E2BIG);
        }
        strings.push(s);
        at = at.checked_add(8).ok_or(Errno::EFAULT)?;
    }
}

pub async fn exit(t: &Task, a: &Args) -> SysResult {
    t.request_exit(ExitStatus::Exited(a.int(0) as u8));
    Ok(0)
}

pub async fn exit_group(t: &Task, a: &Args) -> SysResult {
    let status = ExitStatus::Exited(a.int(0) as u8);
    t.group().begin_exit(status);
    t.request_exit(t.group().must_exit(t.tid()).unwrap_or(status));
    Ok(0)
}

pub async fn wait4(t: &Task, a: &Args) -> SysResult {
    let options = a.uint(2);
    let known = (libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED | libc::__WNOTHREAD) as u32
        | libc::__WCLONE as u32
        | libc::__WALL as u32;
    if options & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (pid, pgid) = (a.int(0), t.kernel().tree.relations(t.pid()).1);
    let who = match pid {
        i32::MIN => return Err(Errno::ESRCH.into()),
        -1 => Who::Any,
        0 => Who::Group(pgid),
        p if p < 0 => Who::Group(-p),
        p => Who::Pid(p),
    };
    let wait = Wait {
        who,
        options: options | libc::WEXITED as u32,
    };
    let Some(found) = wait.run(t).await? else {
        return Ok(0);
    };
    if a.u64(1) != 0 {
        t.mm().write_obj(a.u64(1), &found.event.wait_word())?;
    }
    if a.u64(3) != 0 {
        crate::syscalls::system::write_rusage(t, a.u64(3), &found.usage)?;
    }
    Ok(found.pid as u64)
}

pub async fn waitid(t: &Task, a: &Args) -> SysResult {
    let options = a.uint(3);
    let known = (libc::WNOHANG
        | libc::WNOWAIT
        | libc::WEXITED
        | libc::WSTOPPED
        | libc::WCONTINUED
        | libc::__WNOTHREAD) as u32
        | libc::__WCLONE as u32
        | libc::__WALL as u32;
    let states = (libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED) as u32;
    if options & !known != 0 || options & states == 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = a.int(1);
    let mut options = options;
    let who = match a.uint(0) {
        libc::P_ALL => Who::Any,
        libc::P_PID if id > 0 => Who::Pid(id),
        libc::P_PGID if id > 0 => Who::Group(id),
        libc::P_PGID if id == 0 => Who::Group(t.kernel().tree.relations(t.pid()).1),
        libc::P_PIDFD if id >= 0 => {
            let (group, nonblocking) = crate::fs::pidfd::group_of(t, id)?;
            if nonblocking && options & libc::WNOHANG as u32 == 0 {
                // EAGAIN instead of waiting (pidfd_open(2), PIDFD_NONBLOCK).
                options |= NONBLOCKING;
            }
            Who::Pid(group.pid())
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let found = Wait { who, options }.run(t).await?;
    let mut info = [0u8; 128];
    if let Some(found) = &found {
        let (code, status) = found.event.code_and_status();
        let mut put = |at: usize, v: i32| info[at..at + 4].copy_from_slice(&v.to_ne_bytes());
        put(0, libc::SIGCHLD);
        put(8, code);
        put(16, found.pid);
        put(20, found.uid as i32);
        put(24, status);
    }
    if a.u64(2) != 0 {
        t.mm().write_bytes(a.u64(2), &info)?;
    }
    if let Some(found) = &found
        && a.u64(4) != 0
    {
        crate::syscalls::system::write_rusage(t, a.u64(4), &found.usage)?;
    }
    Ok(0)
}

/// Internal bit: fail with EAGAIN instead of waiting.
const NONBLOCKING: u32 = 0x1000_0000;

enum Who {
    Any,
    Pid(i32),
    Group(i32),
}

struct Wait {
    who: Who,
    options: u32,
}

#[derive(Clone, Copy)]
enum ChildEvent {
    Ended(ExitStatus),
    Stopped(Signal),
    Continued,
}

impl ChildEvent {
    fn wait_word(self) -> i32 {
        match self {
            ChildEvent::Ended(status) => status.wait_word(),
            ChildEvent::Stopped(signal) => signal.number() << 8 | 0x7f,
            ChildEvent::Continued => 0xffff,
        }
    }

    fn code_and_status(self) -> (i32, i32) {
        match self {
            ChildEvent::Ended(ExitStatus::Exited(code)) => (libc::CLD_EXITED, i32::from(code)),
            ChildEvent::Ended(ExitStatus::Signaled {
                signal,
                core: false,
            }) => (libc::CLD_KILLED, signal.number()),
            ChildEvent::Ended(ExitStatus::Signaled { signal, core: true }) => {
                (libc::CLD_DUMPED, signal.number())
            }
            ChildEvent::Stopped(signal) => (libc::CLD_STOPPED, signal.number()),
            ChildEvent::Continued => (libc::CLD_CONTINUED, libc::SIGCONT),
        }
    }
}

struct Found {
    pid: i32,
    uid: u32,
    event: ChildEvent,
    usage: Usage,
}

impl Wait {
    fn has(&self, flag: i32) -> bool {
        self.options & flag as u32 != 0
    }

    async fn run(&self, t: &Task) -> Result<Option<Found>, Error> {
        let poll = || self.look(t);
        if self.has(libc::WNOHANG) || self.options & NONBLOCKING != 0 {
            return match poll() {
                Err(Errno::EAGAIN) if self.has(libc::WNOHANG) => Ok(None),
                other => Ok(other.map(Some)?),
            };
        }
        let found = t
            .wait_on(&t.group().child_events, Ready::all(), None, poll)
            .await;
        found.map(Some).map_err(|stop| stop.restart())
    }

    fn matches(&self, pid: i32, node: &Node) -> bool {
        let who = match self.who {
            Who::Any => true,
            Who::Pid(p) => p == pid,
            Who::Group(g) => node.pgid == g,
        };
        let is_clone = node.group.exit_signal.load(Ordering::Relaxed) != libc::SIGCHLD;
        who && (self.options & libc::__WALL as u32 != 0
            || is_clone == (self.options & libc::__WCLONE as u32 != 0))
    }

    /// ECHILD: no such child; EAGAIN: none has anything to tell yet.
    fn look(&self, t: &Task) -> Result<Found> {
        let mut tree = t.kernel().tree.lock();
        let children = tree
            .node(t.pid())
            .map(|n| n.children.clone())
            .unwrap_or_default();
        let mut any = false;
        for pid in children {
            let Some(node) = tree.nodes.get_mut(&pid) else {
                continue;
            };
            if !self.matches(pid, node) {
                continue;
            }
            any = true;
            let take = !self.has(libc::WNOWAIT);
            if let Some(zombie) = node.zombie {
                if self.has(libc::WEXITED) {
                    if take {
                        reap(&mut tree, t.pid(), pid);
                    }
                    let event = ChildEvent::Ended(zombie.status);
                    return Ok(Found {
                        pid,
                        uid: zombie.uid,
                        event,
                        usage: zombie.usage,
                    });
                }
                continue;
            }
            let event = match (node.stop_report, node.continue_report) {
                (Some(signal), _) if self.has(libc::WUNTRACED) => {
                    node.stop_report = if take { None } else { node.stop_report };
                    ChildEvent::Stopped(signal)
                }
                (_, true) if self.has(libc::WCONTINUED) => {
                    node.continue_report = !take;
                    ChildEvent::Continued
                }
                _ => continue,
            };
            let group = node.group.clone();
            drop(tree);
            let uid = group.any_task().map_or(0, |task| task.creds().ruid.0);
            return Ok(Found {
                pid,
                uid,
                event,
                usage: group.usage(),
            });
        }
        Err(if any { Errno::EAGAIN } else { Errno::ECHILD })
    }
}

fn reap(tree: &mut Inner, parent: i32, pid: i32) {
    if let Some(node) = tree.reap(pid)
        && let Some(p) = tree.nodes.get_mut(&parent)
    {
        let used = node.zombie.map_or_else(Usage::default, |z| z.usage);
        p.children_usage = p.children_usage.plus(used).plus(node.children_usage);
    }
}

pub async fn getpid(t: &Task, _: &Args) -> SysResult {
    Ok(t.pid() as u64)
}

pub async fn gettid(t: &Task, _: &Args) -> SysResult {
    Ok(t.tid() as u64)
}

pub async fn getppid(t: &Task, _: &Args) -> SysResult {
    Ok(t.kernel().tree.relations(t.pid()).0 as u64)
}

pub async fn getpgrp(t: &Task, _: &Args) -> SysResult {
    Ok(t.kernel().tree.relations(t.pid()).1 as u64)
}

pub async fn getpgid(t: &Task, a: &Args) -> SysResult {
    let group = process(t, a.int(0))?;
    Ok(t.kernel().tree.relations(group.pid()).1 as u64)
}

pub async fn getsid(t: &Task, a: &Args) -> SysResult {
    let group = process(t, a.int(0))?;
    Ok(t.kernel().tree.relations(group.pid()).2 as u64)
}

/// The process of a task id, zombies included; 0 is the caller.
fn process(t: &Task, id: i32) -> Result<Arc<ThreadGroup>> {
    if id == 0 {
        return Ok(t.group().clone());
    }
    let tree = &t.kernel().tree;
    tree.task(id)
        .map(|task| task.group().clone())
        .or_else(|| tree.group(id))
        .ok_or(Errno::ESRCH)
}

pub async fn setpgid(t: &Task, a: &Args) -> SysResult {
    let (me, mut pid, mut pgid) = (t.pid(), a.int(0), a.int(1));
    if pid == 0 {
        pid = me;
    }
    if pgid == 0 {
        pgid = pid;
    }
    if pgid < 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut tree = t.kernel().tree.lock();
    let my_sid = tree.node(me).map_or(0, |n| n.sid);
    let node = tree.node(pid).ok_or(Errno::ESRCH)?;
    if pid != me {
        if node.parent != me {
            return Err(Errno::ESRCH.into());
        }
        if node.sid != my_sid {
            return Err(Errno::EPERM.into());
        }
        if node.group.did_exec.load(Ordering::Relaxed) {
            return Err(Errno::EACCES.into());
        }
    }
    if node.sid == pid {
        return Err(Errno::EPERM.into());
    }
    if pgid != pid
        && !tree
            .nodes
            .values()
            .any(|n| n.pgid == pgid && n.sid == my_sid)
    {
        return Err(Errno::EPERM.into());
    }
    if let Some(node) = tree.nodes.get_mut(&pid) {
        node.pgid = pgid;
    }
    Ok(0)
}

pub async fn setsid(t: &Task, _: &Args) -> SysResult {
    let me = t.pid();
    let mut tree = t.kernel().tree.lock();
    if tree.nodes.values().any(|n| n.pgid == me) {
        return Err(Errno::EPERM.into());
    }
    if let Some(node) = tree.nodes.get_mut(&me) {
        node.pgid = me;
        node.sid = me;
    }
    tree.sessions.entry(me).or_default();
    Ok(me as u64)
}

pub async fn set_tid_address(t: &Task, a: &Args) -> SysResult {
    t.addresses.lock().clear_child_tid = a.u64(0);
    Ok(t.tid() as u64)
}
