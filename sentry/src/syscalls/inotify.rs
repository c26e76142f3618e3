//! inotify_init(2), inotify_add_watch(2), inotify_rm_watch(2).

use crate::errno::Errno;
use crate::fs::fdtable::Exec;
use crate::fs::inode::{FileType, OpenFlags};
use crate::fs::inotify::{Inotify, inotify};
use crate::fs::perm::{self, Access};
use crate::fs::walk::{Base, Ctx, WalkFlags};
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

/// Everything inotify_add_watch(2) accepts.
const KNOWN: u32 = libc::IN_ALL_EVENTS
    | libc::IN_UNMOUNT
    | libc::IN_Q_OVERFLOW
    | libc::IN_IGNORED
    | libc::IN_ONLYDIR
    | libc::IN_DONT_FOLLOW
    | libc::IN_EXCL_UNLINK
    | libc::IN_MASK_CREATE
    | libc::IN_MASK_ADD
    | libc::IN_ISDIR
    | libc::IN_ONESHOT;

fn init(t: &Task, bits: i32) -> SysResult {
    let flags = OpenFlags::from_bits_retain(bits);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let file = inotify(flags - OpenFlags::CLOEXEC)?;
    Ok(t.add_file(file, Exec::from_flags(flags))? as u64)
}

pub async fn inotify_init(t: &Task, _: &Args) -> SysResult {
    init(t, 0)
}

pub async fn inotify_init1(t: &Task, a: &Args) -> SysResult {
    init(t, a.int(0))
}

pub async fn inotify_add_watch(t: &Task, a: &Args) -> SysResult {
    let mask = a.uint(2);
    if mask & KNOWN == 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = t.file(a.int(0))?;
    let add_or_create = libc::IN_MASK_ADD | libc::IN_MASK_CREATE;
    if mask & add_or_create == add_or_create {
        return Err(Errno::EINVAL.into());
    }
    let instance = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    let path = t.mm().read_cstr(a.u64(1), libc::PATH_MAX as usize)?;
    let mut how = WalkFlags::empty();
    if mask & libc::IN_DONT_FOLLOW == 0 {
        how |= WalkFlags::FOLLOW;
    }
    if mask & libc::IN_ONLYDIR != 0 {
        how |= WalkFlags::DIRECTORY;
    }
    let ctx = Ctx::new(&t.fs(), t.creds());
    let place = ctx.lookup(&Base::Cwd, &path, how)?;
    if mask & libc::IN_ONLYDIR != 0 && place.inode().kind() != FileType::Dir {
        return Err(Errno::ENOTDIR.into());
    }
    perm::check(place.inode(), &ctx.creds, Access::READ)?;
    Ok(instance.add(&place.dentry, mask)? as u64)
}

pub async fn inotify_rm_watch(t: &Task, a: &Args) -> SysResult {
    let file = t.file(a.int(0))?;
    let instance = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    instance.remove(a.int(1))?;
    Ok(0)
}
