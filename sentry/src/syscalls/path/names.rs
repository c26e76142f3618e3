//! Making, removing and renaming names.

use super::{Args, CWD, Errno, Start, SysResult, Task, WalkFlags, path_at};
use crate::fs::change::{Make, RenameFlags};
use crate::fs::inode::{Dev, FileType};
use crate::kernel::cred::Cap;

pub async fn mkdir(t: &Task, a: &Args) -> SysResult {
    make(t, CWD, a.u64(0), Make::Dir, a.uint(1))
}

pub async fn mkdirat(t: &Task, a: &Args) -> SysResult {
    make(t, a.int(0), a.u64(1), Make::Dir, a.uint(2))
}

fn make(t: &Task, dirfd: i32, path: u64, what: Make<'_>, mode: u32) -> SysResult {
    let start = Start::new(t, dirfd, path)?;
    start.ctx.make(&start.base, &start.path, what, mode)?;
    Ok(0)
}

pub async fn mknod(t: &Task, a: &Args) -> SysResult {
    make_node(t, CWD, a.u64(0), a.uint(1), a.uint(2))
}

pub async fn mknodat(t: &Task, a: &Args) -> SysResult {
    make_node(t, a.int(0), a.u64(1), a.uint(2), a.uint(3))
}

fn make_node(t: &Task, dirfd: i32, path: u64, mode: u32, dev: u32) -> SysResult {
    let rdev = Dev::decode(u64::from(dev));
    let what = match FileType::from_mode(mode) {
        Some(FileType::Regular | FileType::Anonymous) => Make::Regular,
        Some(kind @ (FileType::Char | FileType::Block)) => Make::Node(kind, rdev),
        Some(kind @ (FileType::Fifo | FileType::Socket)) => Make::Node(kind, Dev::default()),
        Some(FileType::Dir) => return Err(Errno::EPERM.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    make(t, dirfd, path, what, mode)
}

pub async fn symlink(t: &Task, a: &Args) -> SysResult {
    make_symlink(t, a.u64(0), CWD, a.u64(1))
}

pub async fn symlinkat(t: &Task, a: &Args) -> SysResult {
    make_symlink(t, a.u64(0), a.int(1), a.u64(2))
}

fn make_symlink(t: &Task, target: u64, dirfd: i32, path: u64) -> SysResult {
    let target = path_at(t, target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    make(t, dirfd, path, Make::Symlink(&target), 0o777)
}

pub async fn link(t: &Task, a: &Args) -> SysResult {
    make_link(t, (CWD, a.u64(0)), (CWD, a.u64(1)), 0)
}

pub async fn linkat(t: &Task, a: &Args) -> SysResult {
    make_link(t, (a.int(0), a.u64(1)), (a.int(2), a.u64(3)), a.int(4))
}

fn make_link(t: &Task, old: (i32, u64), new: (i32, u64), flags: i32) -> SysResult {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, flags & libc::AT_SYMLINK_FOLLOW != 0);
    how.set(WalkFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    let from = Start::new(t, old.0, old.1)?;
    // A descriptor got from somebody else is not enough.
    if from.path.is_empty()
        && flags & libc::AT_EMPTY_PATH != 0
        && !t.creds().has_cap(Cap::DacReadSearch)
    {
        return Err(Errno::ENOENT.into());
    }
    let place = from.lookup(how)?;
    let to = Start::new(t, new.0, new.1)?;
    to.ctx.link(&place, &to.base, &to.path)?;
    Ok(0)
}

pub async fn unlink(t: &Task, a: &Args) -> SysResult {
    remove(t, CWD, a.u64(0), 0)
}

pub async fn rmdir(t: &Task, a: &Args) -> SysResult {
    remove(t, CWD, a.u64(0), libc::AT_REMOVEDIR)
}

pub async fn unlinkat(t: &Task, a: &Args) -> SysResult {
    remove(t, a.int(0), a.u64(1), a.int(2))
}

fn remove(t: &Task, dirfd: i32, path: u64, flags: i32) -> SysResult {
    if flags & !libc::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    let start = Start::new(t, dirfd, path)?;
    if flags & libc::AT_REMOVEDIR != 0 {
        start.ctx.rmdir(&start.base, &start.path)?;
    } else {
        start.ctx.unlink(&start.base, &start.path)?;
    }
    Ok(0)
}

pub async fn rename(t: &Task, a: &Args) -> SysResult {
    move_name(t, (CWD, a.u64(0)), (CWD, a.u64(1)), 0)
}

pub async fn renameat(t: &Task, a: &Args) -> SysResult {
    move_name(t, (a.int(0), a.u64(1)), (a.int(2), a.u64(3)), 0)
}

pub async fn renameat2(t: &Task, a: &Args) -> SysResult {
    move_name(t, (a.int(0), a.u64(1)), (a.int(2), a.u64(3)), a.uint(4))
}

fn move_name(t: &Task, old: (i32, u64), new: (i32, u64), flags: u32) -> SysResult {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let from = Start::new(t, old.0, old.1)?;
    let to = Start::new(t, new.0, new.1)?;
    from.ctx
        .rename((&from.base, &from.path), (&to.base, &to.path), flags)?;
    Ok(0)
}
