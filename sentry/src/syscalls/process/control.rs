//! What a process sets about itself: prctl(2), arch_prctl(2), personality(2), namespaces.

use std::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::kernel::cred::{CAP_LAST, Cap, CapSet, Credentials};
use crate::kernel::group::ThreadGroup;
use crate::kernel::signal::NSIG;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult, seccomp};

const SECBIT_KEEP_CAPS: u32 = 1 << 4;
const SECBITS_ALL: u32 = 0xff;
const PR_SET_VMA: i32 = 0x5356_4d41;
const PR_SET_VMA_ANON_NAME: u64 = 0;
const PR_GET_AUXV: i32 = 0x4155_5856;

pub async fn prctl(t: &Task, a: &Args) -> SysResult {
    let creds = t.creds();
    let unused = |from: usize| {
        if (from..5).any(|i| a.u64(i) != 0) {
            Err(Errno::EINVAL)
        } else {
            Ok(())
        }
    };
    match a.int(0) {
        libc::PR_SET_PDEATHSIG => {
            if a.u64(1) > NSIG as u64 {
                return Err(Errno::EINVAL.into());
            }
            t.pdeathsig.store(a.int(1), Ordering::Relaxed);
        }
        libc::PR_GET_PDEATHSIG => t
            .mm()
            .write_obj(a.u64(1), &t.pdeathsig.load(Ordering::Relaxed))?,
        libc::PR_GET_DUMPABLE => return Ok(t.group().dumpable.load(Ordering::Relaxed) as u64),
        libc::PR_SET_DUMPABLE => {
            if a.u64(1) > 1 {
                return Err(Errno::EINVAL.into());
            }
            t.group().dumpable.store(a.int(1), Ordering::Relaxed);
        }
        libc::PR_GET_KEEPCAPS => return Ok(u64::from(creds.securebits & SECBIT_KEEP_CAPS != 0)),
        libc::PR_SET_KEEPCAPS => {
            const SECBIT_KEEP_CAPS_LOCKED: u32 = 1 << 5;
            if a.u64(1) > 1 {
                return Err(Errno::EINVAL.into());
            }
            if creds.securebits & SECBIT_KEEP_CAPS_LOCKED != 0 {
                return Err(Errno::EPERM.into());
            }
            let bits = creds.securebits & !SECBIT_KEEP_CAPS;
            let securebits = if a.u64(1) == 1 {
                bits | SECBIT_KEEP_CAPS
            } else {
                bits
            };
            t.set_creds(Credentials {
                securebits,
                ..(*creds).clone()
            });
        }
        libc::PR_SET_NAME => t.set_comm(&read_name(t, a.u64(1))?),
        libc::PR_GET_NAME => t.mm().write_bytes(a.u64(1), &t.comm())?,
        libc::PR_GET_TIMING => return Ok(libc::PR_TIMING_STATISTICAL as u64),
        libc::PR_SET_TIMING => {
            if a.int(1) != libc::PR_TIMING_STATISTICAL {
                return Err(Errno::EINVAL.into());
            }
        }
        libc::PR_CAPBSET_READ => {
            check_cap(a.u64(1))?;
            return Ok(creds.bounding.0 >> a.u64(1) & 1);
        }
        libc::PR_CAPBSET_DROP => {
            if !creds.has_cap(Cap::Setpcap) {
                return Err(Errno::EPERM.into());
            }
            check_cap(a.u64(1))?;
            let bounding = CapSet(creds.bounding.0 & !(1 << a.u64(1)));
            t.set_creds(Credentials {
                bounding,
                ..(*creds).clone()
            });
        }
        libc::PR_GET_SECUREBITS => return Ok(creds.securebits.into()),
        libc::PR_SET_SECUREBITS => set_securebits(t, &creds, a.u64(1))?,
        libc::PR_GET_TIMERSLACK => return Ok(t.timer_slack_ns.load(Ordering::Relaxed)),
        libc::PR_SET_TIMERSLACK => {
            let slack = if a.i64(1) <= 0 { 50_000 } else { a.u64(1) };
            t.timer_slack_ns.store(slack, Ordering::Relaxed);
        }
        libc::PR_SET_NO_NEW_PRIVS => {
            if a.u64(1) != 1 {
                return Err(Errno::EINVAL.into());
            }
            unused(2)?;
            t.set_creds(Credentials {
                no_new_privs: true,
                ..(*creds).clone()
            });
        }
        libc::PR_GET_NO_NEW_PRIVS => {
            unused(1)?;
            return Ok(creds.no_new_privs.into());
        }
        libc::PR_SET_CHILD_SUBREAPER => t.group().subreaper.store(a.u64(1) != 0, Ordering::Relaxed),
        libc::PR_GET_CHILD_SUBREAPER => {
            t.mm().write_obj(
                a.u64(1),
                &i32::from(t.group().subreaper.load(Ordering::Relaxed)),
            )?;
        }
        libc::PR_GET_TID_ADDRESS => {
            let address = t.addresses.lock().clear_child_tid;
            t.mm().write_obj(a.u64(1), &address)?;
        }
        libc::PR_GET_THP_DISABLE => {
            unused(1)?;
        }
        libc::PR_SET_THP_DISABLE => unused(2)?,
        libc::PR_CAP_AMBIENT => return ambient(t, &creds, a),
        libc::PR_SET_PTRACER => {}
        libc::PR_GET_SECCOMP => return Ok(t.seccomp().map_or(0, |s| s.mode()).into()),
        libc::PR_SET_SECCOMP => return seccomp::set_mode(t, a.u64(1), a.u64(2)),
        PR_SET_VMA if a.u64(1) == PR_SET_VMA_ANON_NAME => {
            let name = match a.u64(4) {
                0 => None,
                addr => Some(t.mm().read_cstr(addr, 80).map_err(|_| Errno::EINVAL)?),
            };
            t.mm().set_anon_name(a.u64(2), a.u64(3), name.as_deref())?;
        }
        libc::PR_SET_MM | PR_GET_AUXV => return Err(Errno::EPERM.into()),
        libc::PR_MCE_KILL_GET => return Ok(libc::PR_MCE_KILL_DEFAULT as u64),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// Up to 15 bytes; longer names are cut, not refused.
fn read_name(t: &Task, addr: u64) -> Result<Vec<u8>> {
    match t.mm().read_cstr(addr, 16) {
        Err(Errno::ENAMETOOLONG) => {
            let mut cut = [0u8; 15];
            t.mm().read_bytes(addr, &mut cut)?;
            Ok(cut.to_vec())
        }
        other => other,
    }
}

fn check_cap(cap: u64) -> Result<()> {
    if cap <= u64::from(CAP_LAST) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// Each bit has a lock bit above it that keeps it as it is.
fn set_securebits(t: &Task, creds: &Credentials, bits: u64) -> Result<()> {
    let new = u32::try_from(bits).map_err(|_| Errno::EPERM)?;
    let old = creds.securebits;
    let locked = (old & 0xaa) >> 1 | old & 0xaa;
    if !creds.has_cap(Cap::Setpcap) || new & !SECBITS_ALL != 0 || (old ^ new) & locked != 0 {
        return Err(Errno::EPERM);
    }
    t.set_creds(Credentials {
        securebits: new,
        ..creds.clone()
    });
    Ok(())
}

fn ambient(t: &Task, creds: &Credentials, a: &Args) -> SysResult {
    const SECBIT_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
    if a.u64(3) != 0 || a.u64(4) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if a.int(1) == libc::PR_CAP_AMBIENT_CLEAR_ALL {
        if a.u64(2) != 0 {
            return Err(Errno::EINVAL.into());
        }
        t.set_creds(Credentials {
            ambient: CapSet::EMPTY,
            ..creds.clone()
        });
        return Ok(0);
    }
    check_cap(a.u64(2))?;
    let bit = 1u64 << a.u64(2);
    let ambient = match a.int(1) {
        libc::PR_CAP_AMBIENT_IS_SET => return Ok(u64::from(creds.ambient.0 & bit != 0)),
        libc::PR_CAP_AMBIENT_LOWER => creds.ambient.0 & !bit,
        libc::PR_CAP_AMBIENT_RAISE => {
            if creds.permitted.0 & creds.inheritable.0 & bit == 0
                || creds.securebits & SECBIT_NO_CAP_AMBIENT_RAISE != 0
            {
                return Err(Errno::EPERM.into());
            }
            creds.ambient.0 | bit
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    t.set_creds(Credentials {
        ambient: CapSet(ambient),
        ..creds.clone()
    });
    Ok(0)
}

pub async fn arch_prctl(t: &Task, a: &Args) -> SysResult {
    const ARCH_SET_GS: i32 = 0x1001;
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    const ARCH_GET_CPUID: i32 = 0x1011;
    let code = a.int(0);
    match code {
        ARCH_SET_FS | ARCH_SET_GS => {
            let (_, end) = t.platform().user_range();
            if a.u64(1) >= end {
                return Err(Errno::EPERM.into());
            }
            let mut regs = t.regs.lock();
            if code == ARCH_SET_FS {
                regs.fs_base = a.u64(1);
            } else {
                regs.gs_base = a.u64(1);
            }
        }
        ARCH_GET_FS | ARCH_GET_GS => {
            let regs = *t.regs.lock();
            let base = if code == ARCH_GET_FS {
                regs.fs_base
            } else {
                regs.gs_base
            };
            t.mm().write_obj(a.u64(1), &base)?;
        }
        ARCH_GET_CPUID => return Ok(1),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// Kept and inherited. Of the flags only ADDR_NO_RANDOMIZE could matter and does not yet.
pub async fn personality(t: &Task, a: &Args) -> SysResult {
    const QUERY: u32 = 0xffff_ffff;
    let old = match a.uint(0) {
        QUERY => t.personality.load(Ordering::Relaxed),
        new => t.personality.swap(new, Ordering::Relaxed),
    };
    Ok(old.into())
}

/// New namespaces cannot be made; sharing less of a thread's own state can.
pub async fn unshare(t: &Task, a: &Args) -> SysResult {
    let flags = a.uint(0);
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u32
        | 0x80;
    let own = (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_SYSVSEM) as u32;
    let alone = (libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM) as u32;
    if flags & !(namespaces | own | alone) != 0 || flags & alone != 0 && t.group().task_count() > 1
    {
        return Err(Errno::EINVAL.into());
    }
    if flags & namespaces != 0 {
        return Err(Errno::EPERM.into());
    }
    if flags & libc::CLONE_SYSVSEM as u32 != 0 {
        t.end_sem_undo();
    }
    if flags & libc::CLONE_FILES as u32 != 0 {
        let own = t.files().fork();
        t.set_files(Some(own));
    }
    if flags & libc::CLONE_FS as u32 != 0 {
        let own = t.fs().fork();
        t.set_fs(own);
    }
    Ok(0)
}

pub async fn setns(t: &Task, a: &Args) -> SysResult {
    t.file(a.int(0))?;
    Err(Errno::EINVAL.into())
}

pub async fn pidfd_open(t: &Task, a: &Args) -> SysResult {
    let flags = a.uint(1);
    if flags & !(libc::O_NONBLOCK as u32) != 0 || a.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let tree = &t.kernel().tree;
    let group = match tree.group(a.int(0)) {
        Some(group) => group,
        // A thread that leads no group.
        None if tree.task(a.int(0)).is_some() => return Err(Errno::ENOENT.into()),
        None => return Err(Errno::ESRCH.into()),
    };
    Ok(crate::fs::pidfd::open(t, &group, flags & libc::O_NONBLOCK as u32 != 0)? as u64)
}

pub async fn pidfd_getfd(t: &Task, a: &Args) -> SysResult {
    if a.uint(2) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (group, _) = crate::fs::pidfd::group_of(t, a.int(0))?;
    let task = group.any_task().ok_or(Errno::ESRCH)?;
    if !may_trace(t, &group) {
        return Err(Errno::EPERM.into());
    }
    let file = task.try_files()?.get(a.int(1))?;
    Ok(t.add_file(file, crate::fs::fdtable::Exec::Close)? as u64)
}

/// ptrace(2), "Ptrace access mode checking", PTRACE_MODE_ATTACH_REALCREDS.
pub fn may_trace(t: &Task, group: &ThreadGroup) -> bool {
    if std::ptr::eq(group, &**t.group()) {
        return true;
    }
    let me = t.creds();
    if me.has_cap(Cap::SysPtrace) {
        return true;
    }
    let Some(task) = group.any_task() else {
        return false;
    };
    let them = task.creds();
    let same = [them.ruid, them.euid, them.suid]
        .iter()
        .all(|u| *u == me.ruid)
        && [them.rgid, them.egid, them.sgid]
            .iter()
            .all(|g| *g == me.rgid);
    same && group.dumpable.load(Ordering::Relaxed) == 1 && them.permitted.0 & !me.permitted.0 == 0
}
