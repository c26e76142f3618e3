//! Opening files to execute them (execve(2)).

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::mount::MountFlags;
use crate::fs::namei;
use crate::fs::open::open_for_exec;
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::task::Task;

/// Opens `path`, relative to the task's current directory, for execution.
///
/// # Errors
/// EACCES unless it is a regular file with execute permission on a mount that allows it.
pub fn open_exec(t: &Task, path: &[u8]) -> Result<Arc<File>> {
    open_exec_at(t, libc::AT_FDCWD, path, 0)
}

/// As [`open_exec`] for execveat(2): `flags` are AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW.
pub fn open_exec_at(t: &Task, dirfd: i32, path: &[u8], flags: i32) -> Result<Arc<File>> {
    let ctx = Ctx::of(t);
    let base = namei::base(t, dirfd, path)?;
    let mut how = WalkFlags::OPEN_READ;
    if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
        how |= WalkFlags::FOLLOW;
    }
    if flags & libc::AT_EMPTY_PATH != 0 {
        how |= WalkFlags::EMPTY;
    }
    open_place(&ctx, ctx.lookup(&base, path, how)?)
}

/// Opens a program for the first process of a container, before there is a task.
pub fn open_first(ctx: &Ctx, path: &[u8]) -> Result<Arc<File>> {
    open_place(
        ctx,
        ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW | WalkFlags::OPEN_READ)?,
    )
}

fn open_place(ctx: &Ctx, place: PathRef) -> Result<Arc<File>> {
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
