//! fcntl(2) and flock(2).

use std::sync::Arc;

use super::nofile;
use crate::errno::{Errno, Error, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::{AsyncOwner, File};
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::pipe::Pipe;
use crate::fs::locks::{self, Kind, Owner, Range, Waiting};
use crate::kernel::block::Stop;
use crate::kernel::signal::Signal;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::syscalls::{Args, SysResult};

/// What F_SETFL may change.
const SETTABLE: OpenFlags = OpenFlags::APPEND
    .union(OpenFlags::NONBLOCK)
    .union(OpenFlags::ASYNC)
    .union(OpenFlags::DIRECT)
    .union(OpenFlags::NOATIME);

const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;

pub async fn fcntl(t: &Task, a: &Args) -> SysResult {
    let (fd, cmd, arg) = (a.int(0), a.int(1), a.u64(2));
    let files = t.files();
    let (file, exec) = files.get_with_exec(fd)?;
    match cmd {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let exec = if cmd == libc::F_DUPFD { Exec::Keep } else { Exec::Close };
            if arg >= nofile(t) {
                return Err(Errno::EINVAL.into());
            }
            return Ok(files.add(file, exec, arg as i32, nofile(t))? as u64);
        }
        libc::F_GETFD => return Ok(u64::from(exec == Exec::Close)),
        libc::F_SETFD => {
            let close = arg & libc::FD_CLOEXEC as u64 != 0;
            files.set_exec(fd, if close { Exec::Close } else { Exec::Keep })?;
            return Ok(0);
        }
        // Every 64-bit program's files are large.
        libc::F_GETFL => return Ok(file.flags().bits() as u64),
        _ => {}
    }
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    match cmd {
        libc::F_SETFL => {
            let wanted = OpenFlags::from_bits_truncate(arg as i32);
            let old = file.flags();
            if wanted.contains(OpenFlags::NOATIME) && !old.contains(OpenFlags::NOATIME) {
                let attr = file.attr()?;
                if !crate::fs::perm::is_owner(&attr, &t.creds()) {
                    return Err(Errno::EPERM.into());
                }
            }
            file.set_flags(old - SETTABLE | wanted & SETTABLE);
        }
        libc::F_GETLK => get_lock(t, &file, arg, files.lock_owner())?,
        libc::F_OFD_GETLK => get_lock(t, &file, arg, Owner::Description(file.id()))?,
        libc::F_SETLK => set_lock(t, &file, arg, files.lock_owner(), t.pid(), Waiting::No).await?,
        libc::F_SETLKW => set_lock(t, &file, arg, files.lock_owner(), t.pid(), Waiting::Yes).await?,
        libc::F_OFD_SETLK | libc::F_OFD_SETLKW => {
            let waiting = if cmd == libc::F_OFD_SETLK { Waiting::No } else { Waiting::Yes };
            set_lock(t, &file, arg, Owner::Description(file.id()), -1, waiting).await?;
        }
        libc::F_SETOWN => {
            let id = arg as i32;
            let kind = if id < 0 { F_OWNER_PGRP } else { F_OWNER_PID };
            let mut owner = file.owner.lock();
            *owner = AsyncOwner { kind, id: id.checked_abs().ok_or(Errno::EINVAL)?, ..*owner };
        }
        libc::F_GETOWN => {
            let owner = *file.owner.lock();
            let id = if owner.kind == F_OWNER_PGRP { -owner.id } else { owner.id };
            return Ok(i64::from(id) as u64);
        }
        F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = t.mm().read_obj(arg)?;
            if !(0..=2).contains(&kind) {
                return Err(Errno::EINVAL.into());
            }
            let mut owner = file.owner.lock();
            *owner = AsyncOwner { kind, id, ..*owner };
        }
        F_GETOWN_EX => {
            let owner = *file.owner.lock();
            t.mm().write_obj(arg, &[owner.kind, owner.id])?;
        }
        F_SETSIG => {
            if arg != 0 && Signal::new(arg as i32).is_none() {
                return Err(Errno::EINVAL.into());
            }
            file.owner.lock().signal = arg as i32;
        }
        F_GETSIG => return Ok(file.owner.lock().signal as u64),
        F_GETOWNER_UIDS => return Err(Errno::EINVAL.into()),
        libc::F_SETLEASE => {
            // Leases cannot be broken from outside, so none are given.
            return Err(Errno::EINVAL.into());
        }
        libc::F_GETLEASE => return Ok(libc::F_UNLCK as u64),
        libc::F_NOTIFY => return Err(Errno::EINVAL.into()),
        libc::F_SETPIPE_SZ => {
            let pipe = Pipe::of(&file).ok_or(Errno::EBADF)?;
            return Ok(pipe.set_capacity(t, arg)? as u64);
        }
        libc::F_GETPIPE_SZ => return Ok(Pipe::of(&file).ok_or(Errno::EBADF)?.capacity() as u64),
        libc::F_ADD_SEALS => crate::syscalls::memfd::add_seals(&file, arg as u32)?,
        libc::F_GET_SEALS => return Ok(crate::syscalls::memfd::get_seals(&file)?.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// struct flock of x86-64: type and whence as shorts, start, length, pid.
struct RawLock {
    kind: i16,
    range: Range,
    pid: i32,
}

/// Reads it and turns its start into an offset from the beginning of the file.
fn read_lock(t: &Task, file: &File, addr: u64) -> Result<RawLock> {
    let raw: [u8; 32] = t.mm().read_obj(addr)?;
    let short = |at: usize| i16::from_ne_bytes([raw[at], raw[at + 1]]);
    let long = |at: usize| i64::from_ne_bytes(raw[at..at + 8].try_into().unwrap_or_default());
    let base = match i32::from(short(2)) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => i64::try_from(file.position()).map_err(|_| Errno::EOVERFLOW)?,
        libc::SEEK_END => i64::try_from(file.attr()?.size).map_err(|_| Errno::EOVERFLOW)?,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(long(8)).ok_or(Errno::EOVERFLOW)?;
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    let pid = i32::from_ne_bytes(raw[24..28].try_into().unwrap_or_default());
    Ok(RawLock { kind: short(0), range: Range::new(start, long(16))?, pid })
}

fn lock_kind(raw: i16) -> Result<Option<Kind>> {
    match i32::from(raw) {
        libc::F_RDLCK => Ok(Some(Kind::Shared)),
        libc::F_WRLCK => Ok(Some(Kind::Exclusive)),
        libc::F_UNLCK => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

fn get_lock(t: &Task, file: &File, addr: u64, owner: Owner) -> Result<()> {
    let raw = read_lock(t, file, addr)?;
    let Some(kind) = lock_kind(raw.kind)? else { return Err(Errno::EINVAL) };
    if matches!(owner, Owner::Description(_)) && raw.pid != 0 {
        return Err(Errno::EINVAL);
    }
    match file.inode().extra().locks().test(owner, kind, raw.range) {
        None => t.mm().write_obj(addr, &(libc::F_UNLCK as i16)),
        Some(found) => {
            let kind = if found.kind == Kind::Shared { libc::F_RDLCK } else { libc::F_WRLCK };
            let mut out = [0u8; 32];
            out[0..2].copy_from_slice(&(kind as i16).to_ne_bytes());
            out[8..16].copy_from_slice(&(found.range.start).to_ne_bytes());
            out[16..24].copy_from_slice(&(found.range.len()).to_ne_bytes());
            out[24..28].copy_from_slice(&found.pid.to_ne_bytes());
            t.mm().write_bytes(addr, &out)
        }
    }
}

async fn set_lock(t: &Task, file: &Arc<File>, addr: u64, owner: Owner, pid: i32, waiting: Waiting) -> Result<(), Error> {
    let raw = read_lock(t, file, addr)?;
    if matches!(owner, Owner::Description(_)) && raw.pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let locks = file.inode().extra().locks();
    let Some(kind) = lock_kind(raw.kind)? else {
        locks.unlock(owner, raw.range);
        return Ok(());
    };
    let allowed = match kind {
        Kind::Shared => file.flags().readable(),
        Kind::Exclusive => file.flags().writable(),
    };
    if !allowed {
        return Err(Errno::EBADF.into());
    }
    let once = || locks.lock(owner, pid, kind, raw.range, waiting);
    if waiting == Waiting::No {
        return Ok(once()?);
    }
    let result = t.wait_on(locks.queue(), Ready::all(), None, once).await;
    locks::stop_waiting(owner);
    result.map_err(Stop::restart)
}

pub async fn flock(t: &Task, a: &Args) -> SysResult {
    let operation = a.int(1);
    let nonblocking = operation & libc::LOCK_NB != 0;
    let kind = match operation & !libc::LOCK_NB {
        libc::LOCK_SH => Some(Kind::Shared),
        libc::LOCK_EX => Some(Kind::Exclusive),
        libc::LOCK_UN => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    let file = t.file(a.int(0))?;
    if file.inode().kind() == FileType::Anonymous {
        return Ok(0);
    }
    let locks = file.inode().extra().locks();
    let Some(kind) = kind else {
        locks.flock_release(file.id());
        return Ok(0);
    };
    let once = || locks.flock(file.id(), kind);
    if nonblocking {
        once()?;
    } else {
        t.wait_on(locks.queue(), Ready::all(), None, once).await.map_err(Stop::restart)?;
    }
    Ok(0)
}
