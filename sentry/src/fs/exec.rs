//! Opening files to execute them (execve(2)).

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::mount::MountFlags;
use crate::fs::open::open_plain;
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, WalkFlags};

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
    open_plain(place, OpenFlags::empty())
}
