//! Names: attributes, directories, links, rename, extended attributes, mounts.

mod attrs;
mod mounts;
mod stat;
mod xattr;

pub use attrs::*;
pub use mounts::*;
pub use stat::*;
pub use xattr::*;

use crate::errno::{Errno, Result};
use crate::fs::change::{Make, RenameFlags};
use crate::fs::inode::{Dev, FileType};
use crate::fs::namei::{base, lookup};
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Ctx, WalkFlags};
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;
pub use crate::syscalls::inotify::*;
use crate::syscalls::{Args, SysResult};

const AT_FDCWD: i32 = libc::AT_FDCWD;

/// A path argument (path_resolution(7)). ENAMETOOLONG, EFAULT.
pub fn read_path(t: &Task, addr: u64) -> Result<Vec<u8>> {
    t.mm().read_cstr(addr, libc::PATH_MAX as usize)
}

/// What the AT_* flags of a call mean for the walk. EINVAL for flags outside `allowed`.
pub fn walk_flags(flags: i32, allowed: i32) -> Result<WalkFlags> {
    if flags & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & libc::AT_SYMLINK_NOFOLLOW == 0);
    walk.set(WalkFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    Ok(walk)
}

/// The place a path argument leads to, following a symlink at its end.
fn follow(t: &Task, addr: u64) -> Result<PathRef> {
    lookup(t, AT_FDCWD, &read_path(t, addr)?, WalkFlags::FOLLOW)
}

fn make_at(t: &Task, dirfd: i32, addr: u64, what: Make<'_>, mode: u32) -> SysResult {
    let path = read_path(t, addr)?;
    Ctx::of(t).make(&base(t, dirfd, &path)?, &path, what, mode)?;
    Ok(0)
}

pub async fn mkdir(t: &Task, a: &Args) -> SysResult {
    make_at(t, AT_FDCWD, a.u64(0), Make::Dir, a.uint(1))
}

pub async fn mkdirat(t: &Task, a: &Args) -> SysResult {
    make_at(t, a.int(0), a.u64(1), Make::Dir, a.uint(2))
}

fn mknod_at(t: &Task, dirfd: i32, addr: u64, mode: u32, dev: u32) -> SysResult {
    // The 32-bit encoding: 12 bits major, 20 bits minor.
    let dev = Dev::new(dev >> 8 & 0xfff, dev & 0xff | dev >> 12 & 0xfff00);
    let what = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Make::Regular,
        libc::S_IFDIR => return Err(Errno::EPERM.into()),
        other => match FileType::from_mode(other) {
            Some(kind @ (FileType::Fifo | FileType::Socket)) => Make::Node(kind, Dev::default()),
            Some(kind @ (FileType::Char | FileType::Block)) => {
                // Making a 0:0 character device is for everybody (whiteouts).
                let whiteout = kind == FileType::Char && dev == Dev::default();
                if !whiteout && !t.creds().has_cap(Cap::Mknod) {
                    return Err(Errno::EPERM.into());
                }
                Make::Node(kind, dev)
            }
            _ => return Err(Errno::EINVAL.into()),
        },
    };
    make_at(t, dirfd, addr, what, mode & 0o7777)
}

pub async fn mknod(t: &Task, a: &Args) -> SysResult {
    mknod_at(t, AT_FDCWD, a.u64(0), a.uint(1), a.uint(2))
}

pub async fn mknodat(t: &Task, a: &Args) -> SysResult {
    mknod_at(t, a.int(0), a.u64(1), a.uint(2), a.uint(3))
}

fn symlink_at(t: &Task, target: u64, dirfd: i32, addr: u64) -> SysResult {
    let target = read_path(t, target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    make_at(t, dirfd, addr, Make::Symlink(&target), 0o777)
}

pub async fn symlink(t: &Task, a: &Args) -> SysResult {
    symlink_at(t, a.u64(0), AT_FDCWD, a.u64(1))
}

pub async fn symlinkat(t: &Task, a: &Args) -> SysResult {
    symlink_at(t, a.u64(0), a.int(1), a.u64(2))
}

fn link_at(t: &Task, old: (i32, u64), new: (i32, u64), flags: i32) -> SysResult {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & libc::AT_SYMLINK_FOLLOW != 0);
    walk.set(WalkFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    let (old_path, new_path) = (read_path(t, old.1)?, read_path(t, new.1)?);
    if old_path.is_empty() && !t.creds().has_cap(Cap::DacReadSearch) {
        return Err(Errno::ENOENT.into());
    }
    let place = lookup(t, old.0, &old_path, walk)?;
    Ctx::of(t).link(&place, &base(t, new.0, &new_path)?, &new_path)?;
    Ok(0)
}

pub async fn link(t: &Task, a: &Args) -> SysResult {
    link_at(t, (AT_FDCWD, a.u64(0)), (AT_FDCWD, a.u64(1)), 0)
}

pub async fn linkat(t: &Task, a: &Args) -> SysResult {
    link_at(t, (a.int(0), a.u64(1)), (a.int(2), a.u64(3)), a.int(4))
}

pub async fn unlink(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(0))?;
    Ctx::of(t).unlink(&base(t, AT_FDCWD, &path)?, &path)?;
    Ok(0)
}

pub async fn rmdir(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(0))?;
    Ctx::of(t).rmdir(&base(t, AT_FDCWD, &path)?, &path)?;
    Ok(0)
}

pub async fn unlinkat(t: &Task, a: &Args) -> SysResult {
    let flags = a.int(2);
    if flags & !libc::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = read_path(t, a.u64(1))?;
    let (ctx, base) = (Ctx::of(t), base(t, a.int(0), &path)?);
    if flags & libc::AT_REMOVEDIR != 0 {
        ctx.rmdir(&base, &path)?;
    } else {
        ctx.unlink(&base, &path)?;
    }
    Ok(0)
}

fn rename_at(t: &Task, old: (i32, u64), new: (i32, u64), flags: u32) -> SysResult {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let (old_path, new_path) = (read_path(t, old.1)?, read_path(t, new.1)?);
    let (old_base, new_base) = (base(t, old.0, &old_path)?, base(t, new.0, &new_path)?);
    Ctx::of(t).rename((&old_base, &old_path), (&new_base, &new_path), flags)?;
    Ok(0)
}

pub async fn rename(t: &Task, a: &Args) -> SysResult {
    rename_at(t, (AT_FDCWD, a.u64(0)), (AT_FDCWD, a.u64(1)), 0)
}

pub async fn renameat(t: &Task, a: &Args) -> SysResult {
    rename_at(t, (a.int(0), a.u64(1)), (a.int(2), a.u64(3)), 0)
}

pub async fn renameat2(t: &Task, a: &Args) -> SysResult {
    rename_at(t, (a.int(0), a.u64(1)), (a.int(2), a.u64(3)), a.uint(4))
}

fn read_link(t: &Task, dirfd: i32, path: u64, buf: u64, size: i32) -> SysResult {
    let size = usize::try_from(size).ok().filter(|s| *s > 0).ok_or(Errno::EINVAL)?;
    let path = read_path(t, path)?;
    let place = lookup(t, dirfd, &path, WalkFlags::EMPTY)?;
    if path.is_empty() && (dirfd == AT_FDCWD || place.inode().kind() != FileType::Symlink) {
        return Err(Errno::ENOENT.into());
    }
    let text = crate::fs::namei::link_text(t, &place)?;
    let n = text.len().min(size);
    t.mm().write_bytes(buf, &text[..n])?;
    Ok(n as u64)
}

pub async fn readlink(t: &Task, a: &Args) -> SysResult {
    read_link(t, AT_FDCWD, a.u64(0), a.u64(1), a.int(2))
}

pub async fn readlinkat(t: &Task, a: &Args) -> SysResult {
    read_link(t, a.int(0), a.u64(1), a.u64(2), a.int(3))
}

pub async fn getcwd(t: &Task, a: &Args) -> SysResult {
    let fs = t.fs();
    let mut text = fs.cwd().cwd_text(&fs.root())?;
    text.push(0);
    if text.len() > a.len(1) {
        return Err(Errno::ERANGE.into());
    }
    t.mm().write_bytes(a.u64(0), &text)?;
    Ok(text.len() as u64)
}

fn enter(t: &Task, place: PathRef) -> SysResult {
    perm::check(place.inode(), &t.creds(), Access::EXEC)?;
    t.fs().set_cwd(place);
    Ok(0)
}

pub async fn chdir(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(0))?;
    let place = lookup(t, AT_FDCWD, &path, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    enter(t, place)
}

pub async fn fchdir(t: &Task, a: &Args) -> SysResult {
    let place = t.files().get_any(a.int(0))?.path().clone();
    if place.inode().kind() != FileType::Dir {
        return Err(Errno::ENOTDIR.into());
    }
    enter(t, place)
}

pub async fn chroot(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(0))?;
    let place = lookup(t, AT_FDCWD, &path, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    perm::check(place.inode(), &t.creds(), Access::EXEC)?;
    if !t.creds().has_cap(Cap::SysChroot) {
        return Err(Errno::EPERM.into());
    }
    t.fs().set_root(place);
    Ok(0)
}

pub async fn umask(t: &Task, a: &Args) -> SysResult {
    Ok(t.fs().set_umask(a.uint(0) & 0o777).into())
}

/// Access as the real ids have it, unless AT_EACCESS says the effective ones.
fn access_at(t: &Task, dirfd: i32, path: u64, mode: i32, flags: i32) -> SysResult {
    const AT_EACCESS: i32 = 0x200;
    if mode & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let walk = walk_flags(flags & !AT_EACCESS, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let path = read_path(t, path)?;
    let mut creds = (*t.creds()).clone();
    if flags & AT_EACCESS == 0 {
        creds.fsuid = creds.ruid;
        creds.fsgid = creds.rgid;
        // The capabilities that the real user would have.
        creds.effective = if creds.ruid.0 == 0 { creds.permitted } else { crate::kernel::cred::CapSet::EMPTY };
    }
    let ctx = Ctx::new(&t.fs(), std::sync::Arc::new(creds));
    let place = ctx.lookup(&base(t, dirfd, &path)?, &path, walk)?;
    let mut want = Access::empty();
    want.set(Access::READ, mode & libc::R_OK != 0);
    want.set(Access::WRITE, mode & libc::W_OK != 0);
    want.set(Access::EXEC, mode & libc::X_OK != 0);
    let kind = place.inode().kind();
    use crate::fs::mount::MountFlags;
    if want.contains(Access::EXEC)
        && kind == FileType::Regular
        && place.mount.flags().contains(MountFlags::NOEXEC)
    {
        return Err(Errno::EACCES.into());
    }
    perm::check(place.inode(), &ctx.creds, want)?;
    if want.contains(Access::WRITE) && matches!(kind, FileType::Regular | FileType::Dir | FileType::Symlink) {
        place.mount.check_writable()?;
    }
    Ok(0)
}

pub async fn access(t: &Task, a: &Args) -> SysResult {
    access_at(t, AT_FDCWD, a.u64(0), a.int(1), 0)
}

pub async fn faccessat(t: &Task, a: &Args) -> SysResult {
    access_at(t, a.int(0), a.u64(1), a.int(2), 0)
}

pub async fn faccessat2(t: &Task, a: &Args) -> SysResult {
    access_at(t, a.int(0), a.u64(1), a.int(2), a.int(3))
}
