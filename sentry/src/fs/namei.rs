//! Walks on behalf of a task: what system-call handlers and execve(2) call.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::mount::MountFlags;
use crate::fs::open::open_for_exec;
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::task::Task;

impl Ctx {
    /// The task's view at this moment.
    pub fn of(t: &Task) -> Ctx {
        Ctx::new(&t.fs(), t.creds())
    }
}

/// Where `path` starts: `dirfd` does not matter for absolute paths (and need not be open then).
///
/// # Errors
/// EBADF.
pub fn base(t: &Task, dirfd: i32, path: &[u8]) -> Result<Base> {
    if dirfd == libc::AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(Base::Cwd);
    }
    Ok(Base::At(t.files().get_any(dirfd)?.path().clone()))
}

/// The place a path of the guest leads to.
pub fn lookup(t: &Task, dirfd: i32, path: &[u8], flags: WalkFlags) -> Result<PathRef> {
    Ctx::of(t).lookup(&base(t, dirfd, path)?, path, flags)
}

/// Opens a program to run it. EACCES unless it is a regular file that may be executed.
pub fn open_exec(t: &Task, path: &[u8]) -> Result<Arc<File>> {
    open_exec_at(t, libc::AT_FDCWD, path, 0)
}

/// As [`open_exec`] for execveat(2), with its AT_* flags.
pub fn open_exec_at(t: &Task, dirfd: i32, path: &[u8], flags: i32) -> Result<Arc<File>> {
    let mut how = WalkFlags::OPEN_READ;
    if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
        how |= WalkFlags::FOLLOW;
    }
    if flags & libc::AT_EMPTY_PATH != 0 {
        how |= WalkFlags::EMPTY;
    }
    let ctx = Ctx::of(t);
    let place = ctx.lookup(&base(t, dirfd, path)?, path, how)?;
    match place.inode().kind() {
        FileType::Regular => {}
        FileType::Symlink => return Err(Errno::ELOOP),
        _ => return Err(Errno::EACCES),
    }
    if place.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    perm::check(place.inode(), &ctx.creds, Access::EXEC)?;
    open_for_exec(place, OpenFlags::empty())
}
