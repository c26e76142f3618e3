//! Extended attributes (xattr(7)).

use std::sync::Arc;

use super::read_path;
use crate::errno::{Errno, Result};
use crate::fs::attrs::{self, Target};
use crate::fs::file::File;
use crate::fs::inode::XattrFlags;
use crate::fs::namei::lookup;
use crate::fs::path::PathRef;
use crate::fs::walk::WalkFlags;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

/// XATTR_NAME_MAX and XATTR_SIZE_MAX, bytes.
const NAME_MAX: usize = 255;
const SIZE_MAX: usize = 65536;

fn read_name(t: &Task, addr: u64) -> Result<Vec<u8>> {
    let name = t.mm().read_cstr(addr, NAME_MAX + 1).map_err(|e| match e {
        Errno::ENAMETOOLONG => Errno::ERANGE,
        e => e,
    })?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

fn place(t: &Task, path: u64, walk: WalkFlags) -> Result<PathRef> {
    lookup(t, libc::AT_FDCWD, &read_path(t, path)?, walk)
}

fn file(t: &Task, a: &Args) -> Result<Arc<File>> {
    t.file(a.int(0))
}

/// Copies a value out; size 0 asks for the length.
fn give(t: &Task, addr: u64, size: usize, value: &[u8]) -> SysResult {
    if size != 0 {
        if value.len() > size {
            return Err(Errno::ERANGE.into());
        }
        t.mm().write_bytes(addr, value)?;
    }
    Ok(value.len() as u64)
}

fn set(t: &Task, target: Target<'_>, a: &Args) -> SysResult {
    let flags = XattrFlags::from_bits(a.int(4)).ok_or(Errno::EINVAL)?;
    if flags.contains(XattrFlags::CREATE | XattrFlags::REPLACE) {
        return Err(Errno::EINVAL.into());
    }
    let name = read_name(t, a.u64(1))?;
    if a.len(3) > SIZE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let mut value = vec![0u8; a.len(3)];
    t.mm().read_bytes(a.u64(2), &mut value)?;
    target_writable(target)?;
    attrs::set_xattr(target, &t.creds(), &name, &value, flags)?;
    Ok(0)
}

fn target_writable(target: Target<'_>) -> Result<()> {
    match target {
        Target::Path(path) => path.mount.check_writable(),
        Target::File(file) => file.path().mount.check_writable(),
    }
}

fn get(t: &Task, target: Target<'_>, a: &Args) -> SysResult {
    let name = read_name(t, a.u64(1))?;
    let value = attrs::get_xattr(target, &t.creds(), &name)?;
    give(t, a.u64(2), a.len(3), &value)
}

fn list(t: &Task, target: Target<'_>, a: &Args) -> SysResult {
    let names = attrs::list_xattr(target, &t.creds())?;
    give(t, a.u64(1), a.len(2), &names)
}

fn remove(t: &Task, target: Target<'_>, a: &Args) -> SysResult {
    let name = read_name(t, a.u64(1))?;
    target_writable(target)?;
    attrs::remove_xattr(target, &t.creds(), &name)?;
    Ok(0)
}

pub async fn setxattr(t: &Task, a: &Args) -> SysResult {
    set(t, Target::Path(&place(t, a.u64(0), WalkFlags::FOLLOW)?), a)
}

pub async fn lsetxattr(t: &Task, a: &Args) -> SysResult {
    set(t, Target::Path(&place(t, a.u64(0), WalkFlags::empty())?), a)
}

pub async fn fsetxattr(t: &Task, a: &Args) -> SysResult {
    set(t, Target::File(&*file(t, a)?), a)
}

pub async fn getxattr(t: &Task, a: &Args) -> SysResult {
    get(t, Target::Path(&place(t, a.u64(0), WalkFlags::FOLLOW)?), a)
}

pub async fn lgetxattr(t: &Task, a: &Args) -> SysResult {
    get(t, Target::Path(&place(t, a.u64(0), WalkFlags::empty())?), a)
}

pub async fn fgetxattr(t: &Task, a: &Args) -> SysResult {
    get(t, Target::File(&*file(t, a)?), a)
}

pub async fn listxattr(t: &Task, a: &Args) -> SysResult {
    list(t, Target::Path(&place(t, a.u64(0), WalkFlags::FOLLOW)?), a)
}

pub async fn llistxattr(t: &Task, a: &Args) -> SysResult {
    list(t, Target::Path(&place(t, a.u64(0), WalkFlags::empty())?), a)
}

pub async fn flistxattr(t: &Task, a: &Args) -> SysResult {
    list(t, Target::File(&*file(t, a)?), a)
}

pub async fn removexattr(t: &Task, a: &Args) -> SysResult {
    remove(t, Target::Path(&place(t, a.u64(0), WalkFlags::FOLLOW)?), a)
}

pub async fn lremovexattr(t: &Task, a: &Args) -> SysResult {
    remove(t, Target::Path(&place(t, a.u64(0), WalkFlags::empty())?), a)
}

pub async fn fremovexattr(t: &Task, a: &Args) -> SysResult {
    remove(t, Target::File(&*file(t, a)?), a)
}
