//! Names: everything that takes a path, and what shows or changes a file's attributes.

mod attrs;
mod dirs;
mod mounts;
mod names;
mod stat;
mod xattrs;

pub use attrs::*;
pub use dirs::*;
pub use mounts::*;
pub use names::*;
pub use stat::*;
pub use xattrs::*;

pub use super::inotify::*;

use super::open::path_at;
use super::{Args, SysResult};
use crate::errno::{Errno, Result};
use crate::fs::namei;
use crate::fs::path::PathRef;
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::task::Task;

/// A path argument and where it starts, for calls on a directory's entry.
struct Start {
    ctx: Ctx,
    base: Base,
    path: Vec<u8>,
}

impl Start {
    fn new(t: &Task, dirfd: i32, addr: u64) -> Result<Start> {
        let path = path_at(t, addr)?;
        Ok(Start {
            base: namei::base(t, dirfd, &path)?,
            ctx: Ctx::of(t),
            path,
        })
    }

    fn lookup(&self, flags: WalkFlags) -> Result<PathRef> {
        self.ctx.lookup(&self.base, &self.path, flags)
    }
}

/// The place an *at call with AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH among its flags is about.
fn place_at(t: &Task, dirfd: i32, addr: u64, flags: i32) -> Result<PathRef> {
    let mut how = WalkFlags::empty();
    if flags & libc::AT_SYMLINK_NOFOLLOW == 0 {
        how |= WalkFlags::FOLLOW;
    }
    if flags & libc::AT_EMPTY_PATH != 0 {
        how |= WalkFlags::EMPTY;
    }
    Start::new(t, dirfd, addr)?.lookup(how)
}

const CWD: i32 = libc::AT_FDCWD;
const NOFOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;
