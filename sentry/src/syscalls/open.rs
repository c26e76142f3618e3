//! Descriptors: opening, duplicating, closing, fcntl(2), locks on files.

mod fcntl;

pub use fcntl::*;

use std::sync::Arc;

use crate::errno::{Errno, Error, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::namei::base;
use crate::fs::open::{Opened, Special};
use crate::fs::walk::{Ctx, WalkFlags};
use crate::kernel::task::Task;
pub use crate::syscalls::memfd::memfd_create;
pub use crate::syscalls::pipe::{pipe, pipe2};
use crate::syscalls::path::read_path;
use crate::syscalls::process::read_extensible;
use crate::syscalls::{Args, SysResult};

/// Opens `path` and gives it a descriptor.
async fn open_at(t: &Task, dirfd: i32, path: &[u8], flags: OpenFlags, mode: u32, walk: WalkFlags) -> SysResult {
    let opened = Ctx::of(t).open(&base(t, dirfd, path)?, path, flags, mode & 0o7777, walk)?;
    let file = match opened {
        Opened::File(file) => file,
        Opened::Special(special) => open_special(t, special).await?,
    };
    Ok(t.add_file(file, Exec::from_flags(flags))? as u64)
}

/// FIFOs may have to wait for their other end; devices are looked up by number.
async fn open_special(t: &Task, special: Special) -> Result<Arc<File>, Error> {
    match special.kind {
        FileType::Fifo => crate::fs::pipe::open_fifo(t, special.path, special.flags).await,
        _ => Ok(crate::fs::dev::open(t, special)?),
    }
}

/// Bits that open(2) does not know are dropped, as Linux does.
fn open_flags(raw: i32) -> OpenFlags {
    OpenFlags::from_bits_truncate(raw)
}

pub async fn open(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(0))?;
    open_at(t, libc::AT_FDCWD, &path, open_flags(a.int(1)), a.uint(2), WalkFlags::empty()).await
}

pub async fn openat(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(1))?;
    open_at(t, a.int(0), &path, open_flags(a.int(2)), a.uint(3), WalkFlags::empty()).await
}

pub async fn creat(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(0))?;
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    open_at(t, libc::AT_FDCWD, &path, flags, a.uint(1), WalkFlags::empty()).await
}

pub async fn openat2(t: &Task, a: &Args) -> SysResult {
    const HOW_SIZE_VER0: usize = 24;
    if a.len(3) < HOW_SIZE_VER0 {
        return Err(Errno::EINVAL.into());
    }
    let [flags, mode, resolve] = read_extensible::<3>(t, a.u64(2), a.len(3))?;
    let bits = i32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    let flags = OpenFlags::from_bits(bits).ok_or(Errno::EINVAL)?;
    // O_TMPFILE is two bits; only together do they mean it.
    let makes = flags.contains(OpenFlags::CREAT) || flags.contains(OpenFlags::TMPFILE);
    if mode & !0o7777 != 0 || !makes && mode != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags.contains(OpenFlags::PATH) {
        let kept = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
        if !kept.contains(flags) {
            return Err(Errno::EINVAL.into());
        }
    }
    let mut walk = WalkFlags::empty();
    for (bit, flag) in [
        (libc::RESOLVE_NO_XDEV, WalkFlags::NO_XDEV),
        (libc::RESOLVE_NO_MAGICLINKS, WalkFlags::NO_MAGICLINKS),
        (libc::RESOLVE_NO_SYMLINKS, WalkFlags::NO_SYMLINKS),
        (libc::RESOLVE_BENEATH, WalkFlags::BENEATH),
        (libc::RESOLVE_IN_ROOT, WalkFlags::IN_ROOT),
        (libc::RESOLVE_CACHED, WalkFlags::CACHED),
    ] {
        walk.set(flag, resolve & bit != 0);
    }
    if resolve & !0x3f != 0 || walk.contains(WalkFlags::BENEATH | WalkFlags::IN_ROOT) {
        return Err(Errno::EINVAL.into());
    }
    let path = read_path(t, a.u64(1))?;
    open_at(t, a.int(0), &path, flags, mode as u32, walk).await
}

pub async fn close(t: &Task, a: &Args) -> SysResult {
    t.files().close(a.int(0))?;
    Ok(0)
}

pub async fn close_range(t: &Task, a: &Args) -> SysResult {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (a.uint(0), a.uint(1), a.uint(2));
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL.into());
    }
    if flags & UNSHARE != 0 {
        let own = t.files().fork();
        t.set_files(Some(own));
    }
    if flags & CLOEXEC != 0 {
        t.files().set_exec_range(first, last);
    } else {
        t.files().close_range(first, last);
    }
    Ok(0)
}

fn nofile(t: &Task) -> u64 {
    t.group().limits.lock().soft(libc::RLIMIT_NOFILE)
}

pub async fn dup(t: &Task, a: &Args) -> SysResult {
    let file = t.files().get_any(a.int(0))?;
    Ok(t.add_file(file, Exec::Keep)? as u64)
}

pub async fn dup2(t: &Task, a: &Args) -> SysResult {
    let file = t.files().get_any(a.int(0))?;
    if a.int(0) != a.int(1) {
        t.files().set(a.int(1), file, Exec::Keep, nofile(t))?;
    }
    Ok(a.int(1) as u64)
}

pub async fn dup3(t: &Task, a: &Args) -> SysResult {
    if a.int(2) & !libc::O_CLOEXEC != 0 || a.int(0) == a.int(1) {
        return Err(Errno::EINVAL.into());
    }
    let file = t.files().get_any(a.int(0))?;
    let exec = Exec::from_flags(OpenFlags::from_bits_truncate(a.int(2)));
    t.files().set(a.int(1), file, exec, nofile(t))?;
    Ok(a.int(1) as u64)
}

/// No file system here can make handles.
pub async fn name_to_handle_at(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(1))?;
    crate::fs::namei::lookup(t, a.int(0), &path, WalkFlags::EMPTY)?;
    Err(Errno::EOPNOTSUPP.into())
}
