//! Walks on behalf of a task: what system-call handlers call.

use crate::errno::Result;
use crate::fs::path::PathRef;
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::task::Task;

impl Ctx {
    /// The task's view at this moment.
    pub fn of(t: &Task) -> Ctx {
        t.with_fs(|fs| Ctx::new(fs, t.creds()))
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
    Ok(Base::At(t.any_file(dirfd)?.path().clone()))
}

/// The place a path of the guest leads to.
pub fn lookup(t: &Task, dirfd: i32, path: &[u8], flags: WalkFlags) -> Result<PathRef> {
    Ctx::of(t).lookup(&base(t, dirfd, path)?, path, flags)
}

/// The text of a symlink; of a magic link, the path it leads to (proc(5)).
///
/// # Errors
/// EINVAL if it is no symlink.
pub fn link_text(t: &Task, place: &PathRef) -> Result<Vec<u8>> {
    use crate::fs::file::File;
    use crate::fs::inode::MagicTarget;
    let display = |path: &PathRef| path.display(&t.fs().root());
    match place.inode().magic_link() {
        Some(target) => Ok(match target? {
            MagicTarget::Path(path) => display(&path),
            MagicTarget::File(file) => display(File::path(&file)),
        }),
        None => place.inode().readlink(),
    }
}
