//! Attributes in: chmod, chown, times, truncation.

use super::{follow, read_path, walk_flags};
use crate::errno::{Errno, Result};
use crate::fs::attrs::{self, Target};
use crate::fs::file::File;
use crate::fs::inode::{FileType, SetTime, Timestamp};
use crate::fs::namei::lookup;
use crate::fs::walk::WalkFlags;
use crate::kernel::cred::{Gid, Uid};
use crate::kernel::signal::send::send_to_task;
use crate::kernel::signal::{SigInfo, Signal};
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

const AT_FDCWD: i32 = libc::AT_FDCWD;

fn chmod_at(t: &Task, dirfd: i32, path: u64, mode: u32, walk: WalkFlags) -> SysResult {
    let place = lookup(t, dirfd, &read_path(t, path)?, walk)?;
    attrs::chmod(Target::Path(&place), &t.creds(), mode)?;
    Ok(0)
}

pub async fn chmod(t: &Task, a: &Args) -> SysResult {
    chmod_at(t, AT_FDCWD, a.u64(0), a.uint(1), WalkFlags::FOLLOW)
}

pub async fn fchmodat(t: &Task, a: &Args) -> SysResult {
    chmod_at(t, a.int(0), a.u64(1), a.uint(2), WalkFlags::FOLLOW)
}

pub async fn fchmodat2(t: &Task, a: &Args) -> SysResult {
    let walk = walk_flags(a.int(3), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    chmod_at(t, a.int(0), a.u64(1), a.uint(2), walk)
}

pub async fn fchmod(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    attrs::chmod(Target::File(&file), &t.creds(), a.uint(1))?;
    Ok(0)
}

/// -1 leaves an id as it is.
fn ids(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    ((uid != u32::MAX).then_some(Uid(uid)), (gid != u32::MAX).then_some(Gid(gid)))
}

fn chown_at(t: &Task, dirfd: i32, path: u64, owner: (u32, u32), walk: WalkFlags) -> SysResult {
    let place = lookup(t, dirfd, &read_path(t, path)?, walk)?;
    let (uid, gid) = ids(owner.0, owner.1);
    attrs::chown(Target::Path(&place), &t.creds(), uid, gid)?;
    Ok(0)
}

pub async fn chown(t: &Task, a: &Args) -> SysResult {
    chown_at(t, AT_FDCWD, a.u64(0), (a.uint(1), a.uint(2)), WalkFlags::FOLLOW)
}

pub async fn lchown(t: &Task, a: &Args) -> SysResult {
    chown_at(t, AT_FDCWD, a.u64(0), (a.uint(1), a.uint(2)), WalkFlags::empty())
}

pub async fn fchownat(t: &Task, a: &Args) -> SysResult {
    let walk = walk_flags(a.int(4), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    chown_at(t, a.int(0), a.u64(1), (a.uint(2), a.uint(3)), walk)
}

pub async fn fchown(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    let (uid, gid) = ids(a.uint(1), a.uint(2));
    attrs::chown(Target::File(&file), &t.creds(), uid, gid)?;
    Ok(0)
}

/// Length of a file after truncate(2). EINVAL, EFBIG with SIGXFSZ.
fn new_size(t: &Task, size: i64) -> Result<u64> {
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size > t.group().limits.lock().soft(libc::RLIMIT_FSIZE) {
        send_to_task(t, SigInfo::user(Signal::SIGXFSZ, t.pid(), t.creds().ruid.0));
        return Err(Errno::EFBIG);
    }
    Ok(size)
}

pub async fn truncate(t: &Task, a: &Args) -> SysResult {
    if a.i64(1) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let place = follow(t, a.u64(0))?;
    let size = new_size(t, a.i64(1))?;
    attrs::truncate(&place, &t.creds(), size)?;
    Ok(0)
}

pub async fn ftruncate(t: &Task, a: &Args) -> SysResult {
    if a.i64(1) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = t.file(a.int(0))?;
    if file.inode().kind() != FileType::Regular || !file.flags().writable() {
        return Err(Errno::EINVAL.into());
    }
    let size = new_size(t, a.i64(1))?;
    attrs::ftruncate(&file, &t.creds(), size)?;
    Ok(0)
}

type Times = (Option<SetTime>, Option<SetTime>);

const NOW: Times = (Some(SetTime::Now), Some(SetTime::Now));

/// Two timespecs with UTIME_NOW and UTIME_OMIT; NULL means now.
fn read_times(t: &Task, addr: u64) -> Result<Times> {
    if addr == 0 {
        return Ok(NOW);
    }
    let [asec, ansec, msec, mnsec]: [i64; 4] = t.mm().read_obj(addr)?;
    let one = |sec, nsec| match nsec {
        libc::UTIME_NOW => Ok(Some(SetTime::Now)),
        libc::UTIME_OMIT => Ok(None),
        0..1_000_000_000 => Ok(Some(SetTime::At(Timestamp { sec, nsec: nsec as u32 }))),
        _ => Err(Errno::EINVAL),
    };
    Ok((one(asec, ansec)?, one(msec, mnsec)?))
}

/// Two timevals.
fn read_timevals(t: &Task, addr: u64) -> Result<Times> {
    if addr == 0 {
        return Ok(NOW);
    }
    let [asec, ausec, msec, musec]: [i64; 4] = t.mm().read_obj(addr)?;
    let one = |sec, usec| match usec {
        0..1_000_000 => Ok(Some(SetTime::At(Timestamp { sec, nsec: usec as u32 * 1000 }))),
        _ => Err(Errno::EINVAL),
    };
    Ok((one(asec, ausec)?, one(msec, musec)?))
}

fn set_times_at(t: &Task, dirfd: i32, path: u64, times: Times, walk: WalkFlags) -> SysResult {
    // A NULL path means the descriptor itself (futimens(3)).
    if path == 0 && dirfd != AT_FDCWD {
        let file: std::sync::Arc<File> = t.file(dirfd)?;
        attrs::set_times(Target::File(&file), &t.creds(), times.0, times.1)?;
        return Ok(0);
    }
    let place = lookup(t, dirfd, &read_path(t, path)?, walk)?;
    attrs::set_times(Target::Path(&place), &t.creds(), times.0, times.1)?;
    Ok(0)
}

pub async fn utimensat(t: &Task, a: &Args) -> SysResult {
    let walk = walk_flags(a.int(3), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let times = read_times(t, a.u64(2))?;
    if times == (None, None) {
        return Ok(0);
    }
    set_times_at(t, a.int(0), a.u64(1), times, walk)
}

pub async fn utimes(t: &Task, a: &Args) -> SysResult {
    let times = read_timevals(t, a.u64(1))?;
    set_times_at(t, AT_FDCWD, a.u64(0), times, WalkFlags::FOLLOW)
}

pub async fn futimesat(t: &Task, a: &Args) -> SysResult {
    let times = read_timevals(t, a.u64(2))?;
    set_times_at(t, a.int(0), a.u64(1), times, WalkFlags::FOLLOW)
}

pub async fn utime(t: &Task, a: &Args) -> SysResult {
    let times = match a.u64(1) {
        0 => NOW,
        addr => {
            let [atime, mtime]: [i64; 2] = t.mm().read_obj(addr)?;
            let at = |sec| Some(SetTime::At(Timestamp { sec, nsec: 0 }));
            (at(atime), at(mtime))
        }
    };
    set_times_at(t, AT_FDCWD, a.u64(0), times, WalkFlags::FOLLOW)
}
