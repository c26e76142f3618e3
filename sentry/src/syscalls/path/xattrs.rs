//! Extended attributes (xattr(7)).

use super::{Args, CWD, Errno, NOFOLLOW, Result, SysResult, Task, place_at};
use crate::fs::attrs::{self, Target, XATTR_NAME_MAX, XATTR_SIZE_MAX};
use crate::fs::inode::XattrFlags;

fn name(t: &Task, addr: u64) -> Result<Vec<u8>> {
    let name = match t.mm().read_cstr(addr, XATTR_NAME_MAX + 1) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        other => other,
    }?;
    if name.is_empty() {
        return Err(Errno::ERANGE);
    }
    Ok(name)
}

/// Runs `f` on the place or the open file that argument 0 names.
fn on_path<T>(
    t: &Task,
    a: &Args,
    flags: i32,
    f: impl FnOnce(Target<'_>) -> Result<T>,
) -> Result<T> {
    let place = place_at(t, CWD, a.u64(0), flags)?;
    f(Target::Path(&place))
}

fn on_file<T>(t: &Task, a: &Args, f: impl FnOnce(Target<'_>) -> Result<T>) -> Result<T> {
    let file = t.file(a.int(0))?;
    f(Target::File(&file))
}

/// What a set call sets.
struct Setting {
    name: Vec<u8>,
    value: Vec<u8>,
    flags: XattrFlags,
}

impl Setting {
    fn read(t: &Task, a: &Args) -> Result<Setting> {
        let flags = XattrFlags::from_bits(a.int(4)).ok_or(Errno::EINVAL)?;
        let name = name(t, a.u64(1))?;
        let size = a.len(3);
        if size > XATTR_SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        let mut value = vec![0; size];
        t.mm().read_bytes(a.u64(2), &mut value)?;
        Ok(Setting { name, value, flags })
    }

    fn apply(&self, t: &Task, target: Target<'_>) -> Result<()> {
        attrs::set_xattr(target, &t.creds(), &self.name, &self.value, self.flags)
    }
}

pub async fn setxattr(t: &Task, a: &Args) -> SysResult {
    let setting = Setting::read(t, a)?;
    on_path(t, a, 0, |target| setting.apply(t, target))?;
    Ok(0)
}

pub async fn lsetxattr(t: &Task, a: &Args) -> SysResult {
    let setting = Setting::read(t, a)?;
    on_path(t, a, NOFOLLOW, |target| setting.apply(t, target))?;
    Ok(0)
}

pub async fn fsetxattr(t: &Task, a: &Args) -> SysResult {
    let setting = Setting::read(t, a)?;
    on_file(t, a, |target| setting.apply(t, target))?;
    Ok(0)
}

/// Gives a value or a list to the guest; with size 0 only its length. ERANGE.
fn give(t: &Task, addr: u64, size: usize, bytes: &[u8]) -> SysResult {
    if size != 0 {
        if bytes.len() > size {
            return Err(Errno::ERANGE.into());
        }
        t.mm().write_bytes(addr, bytes)?;
    }
    Ok(bytes.len() as u64)
}

pub async fn getxattr(t: &Task, a: &Args) -> SysResult {
    let name = name(t, a.u64(1))?;
    let value = on_path(t, a, 0, |p| attrs::get_xattr(p, &t.creds(), &name))?;
    give(t, a.u64(2), a.len(3), &value)
}

pub async fn lgetxattr(t: &Task, a: &Args) -> SysResult {
    let name = name(t, a.u64(1))?;
    let value = on_path(t, a, NOFOLLOW, |p| attrs::get_xattr(p, &t.creds(), &name))?;
    give(t, a.u64(2), a.len(3), &value)
}

pub async fn fgetxattr(t: &Task, a: &Args) -> SysResult {
    let name = name(t, a.u64(1))?;
    let value = on_file(t, a, |p| attrs::get_xattr(p, &t.creds(), &name))?;
    give(t, a.u64(2), a.len(3), &value)
}

pub async fn listxattr(t: &Task, a: &Args) -> SysResult {
    let list = on_path(t, a, 0, |p| attrs::list_xattr(p, &t.creds()))?;
    give(t, a.u64(1), a.len(2), &list)
}

pub async fn llistxattr(t: &Task, a: &Args) -> SysResult {
    let list = on_path(t, a, NOFOLLOW, |p| attrs::list_xattr(p, &t.creds()))?;
    give(t, a.u64(1), a.len(2), &list)
}

pub async fn flistxattr(t: &Task, a: &Args) -> SysResult {
    let list = on_file(t, a, |p| attrs::list_xattr(p, &t.creds()))?;
    give(t, a.u64(1), a.len(2), &list)
}

pub async fn removexattr(t: &Task, a: &Args) -> SysResult {
    let name = name(t, a.u64(1))?;
    on_path(t, a, 0, |p| attrs::remove_xattr(p, &t.creds(), &name))?;
    Ok(0)
}

pub async fn lremovexattr(t: &Task, a: &Args) -> SysResult {
    let name = name(t, a.u64(1))?;
    on_path(t, a, NOFOLLOW, |p| {
        attrs::remove_xattr(p, &t.creds(), &name)
    })?;
    Ok(0)
}

pub async fn fremovexattr(t: &Task, a: &Args) -> SysResult {
    let name = name(t, a.u64(1))?;
    on_file(t, a, |p| attrs::remove_xattr(p, &t.creds(), &name))?;
    Ok(0)
}
