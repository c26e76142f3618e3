//! mount(2) and umount2(2).

use super::{follow, read_path};
use crate::errno::{Errno, Result};
use crate::fs::mount::{Mount, MountFlags};
use crate::fs::namei::lookup;
use crate::fs::walk::{Ctx, WalkFlags};
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

fn optional_string(t: &Task, addr: u64, max: usize) -> Result<Vec<u8>> {
    if addr == 0 { Ok(Vec::new()) } else { t.mm().read_cstr(addr, max) }
}

pub async fn mount(t: &Task, a: &Args) -> SysResult {
    const MS_MGC_VAL: u64 = 0xc0ed_0000;
    let mut flags = a.u64(3);
    if flags & 0xffff_0000 == MS_MGC_VAL {
        flags &= 0xffff;
    }
    let kind = optional_string(t, a.u64(2), 4096)?;
    let source = optional_string(t, a.u64(0), 4096)?;
    let target = follow(t, a.u64(1))?;
    if !t.creds().has_cap(Cap::SysAdmin) {
        return Err(Errno::EPERM.into());
    }
    let namespace = t.fs().namespace();
    let mount_flags = MountFlags::from_bits_truncate(flags as u32);
    let has = |bit: u64| flags & bit != 0;
    if has(libc::MS_REMOUNT) {
        if !target.is_mount_root() {
            return Err(Errno::EINVAL.into());
        }
        target.mount.set_flags(mount_flags);
        return Ok(0);
    }
    if has(libc::MS_BIND) {
        let from = lookup(t, libc::AT_FDCWD, &source, WalkFlags::FOLLOW)?;
        namespace.bind(&from, &target, has(libc::MS_REC))?;
        return Ok(0);
    }
    if has(libc::MS_SHARED | libc::MS_SLAVE | libc::MS_UNBINDABLE | libc::MS_PRIVATE) {
        // Everything is private and stays so.
        let private = has(libc::MS_PRIVATE) || has(libc::MS_SLAVE);
        return if private { Ok(0) } else { Err(Errno::EINVAL.into()) };
    }
    if has(libc::MS_MOVE) {
        let from = lookup(t, libc::AT_FDCWD, &source, WalkFlags::FOLLOW)?;
        namespace.move_mount(&from, &target)?;
        return Ok(0);
    }
    let data = if a.u64(4) == 0 { Vec::new() } else { read_options(t, a.u64(4))? };
    let fs = namespace.file_system_type(&kind)?.mount(&source, &data)?;
    let source: &[u8] = if source.is_empty() { b"none" } else { &source };
    namespace.attach(&Mount::new(fs, source, mount_flags), &target)?;
    Ok(0)
}

/// A page of options at most; what lies behind its end does not matter.
fn read_options(t: &Task, addr: u64) -> Result<Vec<u8>> {
    match t.mm().read_cstr(addr, 4096) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::EINVAL),
        other => other,
    }
}

pub async fn umount2(t: &Task, a: &Args) -> SysResult {
    const UMOUNT_NOFOLLOW: i32 = 8;
    let flags = a.int(1);
    if flags & !(libc::MNT_FORCE | libc::MNT_DETACH | libc::MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if !t.creds().has_cap(Cap::SysAdmin) {
        return Err(Errno::EPERM.into());
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & UMOUNT_NOFOLLOW == 0);
    let place = Ctx::of(t).lookup(&crate::fs::walk::Base::Cwd, &read_path(t, a.u64(0))?, walk)?;
    if !place.is_mount_root() {
        return Err(Errno::EINVAL.into());
    }
    if flags & libc::MNT_EXPIRE != 0 {
        return Err(Errno::EAGAIN.into());
    }
    t.fs().namespace().umount(place, flags & libc::MNT_DETACH != 0)?;
    Ok(0)
}
