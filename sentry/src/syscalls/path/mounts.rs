//! mount(2), umount2(2).

use super::{Args, CWD, Errno, Result, Start, SysResult, Task, WalkFlags, path_at};
use crate::fs::mount::{Mount, MountFlags, MountNamespace};
use crate::fs::path::PathRef;
use crate::kernel::cred::Cap;

/// Requests about propagation: every mount is private here, whatever is asked.
const PROPAGATION: u64 = libc::MS_SHARED | libc::MS_PRIVATE | libc::MS_SLAVE | libc::MS_UNBINDABLE;

/// The flags of one mount among those of mount(2).
fn mount_flags(bits: u64) -> MountFlags {
    let mut flags = MountFlags::from_bits_truncate(bits as u32);
    if !flags.contains(MountFlags::NOATIME) && bits & libc::MS_STRICTATIME == 0 {
        flags |= MountFlags::RELATIME;
    } else {
        flags -= MountFlags::RELATIME;
    }
    flags
}

fn text(t: &Task, addr: u64) -> Result<Vec<u8>> {
    match addr {
        0 => Ok(Vec::new()),
        _ => path_at(t, addr),
    }
}

/// The options of the type: a string; other data (as some file systems take it) is not supported.
fn data(t: &Task, addr: u64) -> Result<Vec<u8>> {
    match addr {
        0 => Ok(Vec::new()),
        _ => match t.mm().read_cstr(addr, 4096) {
            Err(Errno::ENAMETOOLONG) => Err(Errno::EINVAL),
            other => other,
        },
    }
}

pub async fn mount(t: &Task, a: &Args) -> SysResult {
    let kind = text(t, a.u64(2))?;
    let source = text(t, a.u64(0))?;
    let options = data(t, a.u64(4))?;
    let mut bits = a.u64(3);
    // A magic number that programs from before Linux 2.4 put there.
    if bits & 0xffff_0000 == 0xC0ED_0000 {
        bits &= 0xffff;
    }
    let start = Start::new(t, CWD, a.u64(1))?;
    let at = start.lookup(WalkFlags::FOLLOW)?;
    if !start.ctx.creds.has_cap(Cap::SysAdmin) {
        return Err(Errno::EPERM.into());
    }
    let namespace = &start.ctx.namespace;
    if bits & libc::MS_REMOUNT != 0 {
        remount(&at, bits)?;
    } else if bits & libc::MS_BIND != 0 {
        let from = source_place(&start, &source)?;
        namespace.bind(&from, &at, bits & libc::MS_REC != 0)?;
    } else if bits & PROPAGATION != 0 {
        let kinds = (bits & PROPAGATION).count_ones();
        let others = bits & !(PROPAGATION | libc::MS_REC | libc::MS_SILENT);
        if kinds != 1 || others != 0 || !at.is_mount_root() {
            return Err(Errno::EINVAL.into());
        }
    } else if bits & libc::MS_MOVE != 0 {
        let from = source_place(&start, &source)?;
        namespace.move_mount(&from, &at)?;
    } else {
        if a.u64(2) == 0 {
            return Err(Errno::EINVAL.into());
        }
        new_mount(namespace, &kind, &source, &options, bits, &at)?;
    }
    Ok(0)
}

fn source_place(start: &Start, source: &[u8]) -> Result<PathRef> {
    if source.is_empty() {
        return Err(Errno::EINVAL);
    }
    let base = crate::fs::walk::Base::Cwd;
    start.ctx.lookup(&base, source, WalkFlags::FOLLOW)
}

fn new_mount(
    namespace: &MountNamespace,
    kind: &[u8],
    source: &[u8],
    options: &[u8],
    bits: u64,
    at: &PathRef,
) -> Result<()> {
    let kind = namespace.file_system_type(kind)?;
    let fs = kind.mount(source, options)?;
    fs.set_readonly(bits & libc::MS_RDONLY != 0);
    let mount = Mount::new(fs, source, mount_flags(bits));
    namespace.attach(&mount, at)
}

/// MS_REMOUNT: of one mount with MS_BIND, else of its file system too.
fn remount(at: &PathRef, bits: u64) -> Result<()> {
    if !at.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    if bits & libc::MS_BIND == 0 {
        at.mount.fs.set_readonly(bits & libc::MS_RDONLY != 0);
    }
    let mut flags = mount_flags(bits);
    let atime = libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME | libc::MS_NODIRATIME;
    if bits & atime == 0 {
        let kept = MountFlags::NOATIME | MountFlags::RELATIME | MountFlags::NODIRATIME;
        flags = (flags - kept) | (at.mount.flags() & kept);
    }
    at.mount.set_flags(flags);
    Ok(())
}

pub async fn umount2(t: &Task, a: &Args) -> SysResult {
    const UMOUNT_NOFOLLOW: i32 = 8;
    let flags = a.int(1);
    if flags & !(libc::MNT_FORCE | libc::MNT_DETACH | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let start = Start::new(t, CWD, a.u64(0))?;
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, flags & UMOUNT_NOFOLLOW == 0);
    let place = start.lookup(how)?;
    if !start.ctx.creds.has_cap(Cap::SysAdmin) {
        return Err(Errno::EPERM.into());
    }
    // The walk's own places must not count as use.
    let namespace = start.ctx.namespace.clone();
    drop(start);
    namespace.umount(place, flags & libc::MNT_DETACH != 0)?;
    Ok(0)
}
