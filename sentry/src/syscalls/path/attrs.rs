//! chmod, chown, the time stamps, truncate, umask.

use super::{Args, CWD, Errno, NOFOLLOW, Result, SysResult, Task, place_at};
use crate::fs::attrs::{self, Target};
use crate::fs::inode::{FileType, SetTime, Timestamp};
use crate::kernel::cred::{Gid, Uid};

pub async fn chmod(t: &Task, a: &Args) -> SysResult {
    chmod_at(t, CWD, a.u64(0), a.uint(1), 0)
}

pub async fn fchmodat(t: &Task, a: &Args) -> SysResult {
    chmod_at(t, a.int(0), a.u64(1), a.uint(2), 0)
}

pub async fn fchmodat2(t: &Task, a: &Args) -> SysResult {
    if a.int(3) & !(NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    chmod_at(t, a.int(0), a.u64(1), a.uint(2), a.int(3))
}

fn chmod_at(t: &Task, dirfd: i32, path: u64, mode: u32, flags: i32) -> SysResult {
    let place = place_at(t, dirfd, path, flags)?;
    attrs::chmod(Target::Path(&place), &t.creds(), mode)?;
    Ok(0)
}

pub async fn fchmod(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    attrs::chmod(Target::File(&file), &t.creds(), a.uint(1))?;
    Ok(0)
}

/// The ids of a chown; -1 leaves one as it is.
fn ids(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    let given = |id: u32| (id != u32::MAX).then_some(id);
    (given(uid).map(Uid), given(gid).map(Gid))
}

fn chown_at(t: &Task, dirfd: i32, path: u64, uid: u32, gid: u32, flags: i32) -> SysResult {
    let place = place_at(t, dirfd, path, flags)?;
    let (uid, gid) = ids(uid, gid);
    attrs::chown(Target::Path(&place), &t.creds(), uid, gid)?;
    Ok(0)
}

pub async fn chown(t: &Task, a: &Args) -> SysResult {
    chown_at(t, CWD, a.u64(0), a.uint(1), a.uint(2), 0)
}

pub async fn lchown(t: &Task, a: &Args) -> SysResult {
    chown_at(t, CWD, a.u64(0), a.uint(1), a.uint(2), NOFOLLOW)
}

pub async fn fchownat(t: &Task, a: &Args) -> SysResult {
    let flags = a.int(4);
    if flags & !(NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    chown_at(t, a.int(0), a.u64(1), a.uint(2), a.uint(3), flags)
}

pub async fn fchown(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    let (uid, gid) = ids(a.uint(1), a.uint(2));
    attrs::chown(Target::File(&file), &t.creds(), uid, gid)?;
    Ok(0)
}

pub async fn umask(t: &Task, a: &Args) -> SysResult {
    Ok(u64::from(t.fs().set_umask(a.uint(0))))
}

/// New access and modification time; None leaves one as it is.
type Times = (Option<SetTime>, Option<SetTime>);

const NOW: Times = (Some(SetTime::Now), Some(SetTime::Now));

fn set_times(t: &Task, dirfd: i32, path: u64, flags: i32, times: Times) -> SysResult {
    let creds = t.creds();
    if path == 0 {
        // futimens(3).
        let file = t.file(dirfd)?;
        attrs::set_times(Target::File(&file), &creds, times.0, times.1)?;
        return Ok(0);
    }
    let place = place_at(t, dirfd, path, flags)?;
    attrs::set_times(Target::Path(&place), &creds, times.0, times.1)?;
    Ok(0)
}

pub async fn utimensat(t: &Task, a: &Args) -> SysResult {
    let (dirfd, path, addr, flags) = (a.int(0), a.u64(1), a.u64(2), a.int(3));
    let times = if addr == 0 {
        NOW
    } else {
        let raw: [i64; 4] = t.mm().read_obj(addr)?;
        let time = |sec: i64, nsec: i64| match nsec {
            libc::UTIME_NOW => Ok(Some(SetTime::Now)),
            libc::UTIME_OMIT => Ok(None),
            0..1_000_000_000 => Ok(Some(SetTime::At(Timestamp {
                sec,
                nsec: nsec as u32,
            }))),
            _ => Err(Errno::EINVAL),
        };
        (time(raw[0], raw[1])?, time(raw[2], raw[3])?)
    };
    if times == (None, None) {
        return Ok(0);
    }
    if flags & !(NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if path == 0 && (dirfd == CWD || flags != 0) {
        return Err(if dirfd == CWD {
            Errno::EFAULT
        } else {
            Errno::EINVAL
        }
        .into());
    }
    set_times(t, dirfd, path, flags, times)
}

/// A pair of struct timeval.
fn timevals(t: &Task, addr: u64) -> Result<Times> {
    if addr == 0 {
        return Ok(NOW);
    }
    let raw: [i64; 4] = t.mm().read_obj(addr)?;
    let time = |sec: i64, usec: i64| match usec {
        0..1_000_000 => Ok(Some(SetTime::At(Timestamp {
            sec,
            nsec: usec as u32 * 1000,
        }))),
        _ => Err(Errno::EINVAL),
    };
    Ok((time(raw[0], raw[1])?, time(raw[2], raw[3])?))
}

pub async fn utimes(t: &Task, a: &Args) -> SysResult {
    let times = timevals(t, a.u64(1))?;
    path_times(t, CWD, a.u64(0), times)
}

pub async fn futimesat(t: &Task, a: &Args) -> SysResult {
    let times = timevals(t, a.u64(2))?;
    if a.u64(1) == 0 && a.int(0) != CWD {
        return set_times(t, a.int(0), 0, 0, times);
    }
    path_times(t, a.int(0), a.u64(1), times)
}

fn path_times(t: &Task, dirfd: i32, path: u64, times: Times) -> SysResult {
    if path == 0 {
        return Err(Errno::EFAULT.into());
    }
    set_times(t, dirfd, path, 0, times)
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
    path_times(t, CWD, a.u64(0), times)
}

/// A new size. EINVAL if negative, EFBIG and SIGXFSZ above RLIMIT_FSIZE.
fn size(t: &Task, value: i64) -> Result<u64> {
    u64::try_from(value)
        .map_err(|_| Errno::EINVAL)
        .and_then(|size| {
            if size > t.group().limits.lock().soft(libc::RLIMIT_FSIZE) {
                t.raise(libc::SIGXFSZ);
                return Err(Errno::EFBIG);
            }
            Ok(size)
        })
}

pub async fn truncate(t: &Task, a: &Args) -> SysResult {
    if a.i64(1) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let place = place_at(t, CWD, a.u64(0), 0)?;
    attrs::truncate(&place, &t.creds(), size(t, a.i64(1))?)?;
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
    attrs::ftruncate(&file, &t.creds(), size(t, a.i64(1))?)?;
    Ok(0)
}
