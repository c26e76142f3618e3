//! Attributes out: stat, statx, statfs, directory entries.

use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::{follow, read_path, walk_flags};
use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::{Attr, FileType, StatFs, Timestamp};
use crate::fs::mount::{Mount, MountFlags};
use crate::fs::namei::lookup;
use crate::fs::readdir::read_dir;
use crate::fs::walk::WalkFlags;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

/// struct stat of x86-64.
#[repr(C)]
#[derive(IntoBytes, Immutable, FromZeros)]
struct RawStat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: i64,
    blksize: i64,
    blocks: i64,
    times: [i64; 6],
    unused: [i64; 3],
}

fn write_stat(t: &Task, addr: u64, a: &Attr) -> SysResult {
    let pair = |ts: Timestamp| [ts.sec, i64::from(ts.nsec)];
    let ([as_, an], [ms, mn], [cs, cn]) = (pair(a.atime), pair(a.mtime), pair(a.ctime));
    let raw = RawStat {
        dev: a.dev.encode(),
        ino: a.ino,
        nlink: a.nlink.into(),
        mode: a.mode(),
        uid: a.uid.0,
        gid: a.gid.0,
        pad: 0,
        rdev: a.rdev.encode(),
        size: a.size as i64,
        blksize: a.blksize.into(),
        blocks: a.blocks as i64,
        times: [as_, an, ms, mn, cs, cn],
        unused: [0; 3],
    };
    t.mm().write_obj(addr, &raw)?;
    Ok(0)
}

pub async fn stat(t: &Task, a: &Args) -> SysResult {
    write_stat(t, a.u64(1), &follow(t, a.u64(0))?.inode().attr()?)
}

pub async fn lstat(t: &Task, a: &Args) -> SysResult {
    let path = read_path(t, a.u64(0))?;
    let place = lookup(t, libc::AT_FDCWD, &path, WalkFlags::empty())?;
    write_stat(t, a.u64(1), &place.inode().attr()?)
}

pub async fn fstat(t: &Task, a: &Args) -> SysResult {
    write_stat(t, a.u64(1), &t.files().get_any(a.int(0))?.attr()?)
}

const STAT_FLAGS: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT;

/// Attributes of what dirfd, path and AT_* flags name, and the mount it was reached through.
fn attr_at(t: &Task, dirfd: i32, path: &[u8], flags: WalkFlags) -> Result<(Attr, std::sync::Arc<Mount>)> {
    if path.is_empty() && flags.contains(WalkFlags::EMPTY) && dirfd != libc::AT_FDCWD {
        let file = t.files().get_any(dirfd)?;
        return Ok((file.attr()?, file.path().mount.clone()));
    }
    let place = lookup(t, dirfd, path, flags)?;
    Ok((place.inode().attr()?, place.mount.clone()))
}

pub async fn newfstatat(t: &Task, a: &Args) -> SysResult {
    let walk = walk_flags(a.int(3), STAT_FLAGS)?;
    // As of Linux 6.11 NULL counts as an empty path.
    let path = if a.u64(1) == 0 && walk.contains(WalkFlags::EMPTY) { Vec::new() } else { read_path(t, a.u64(1))? };
    let (attr, _) = attr_at(t, a.int(0), &path, walk)?;
    write_stat(t, a.u64(2), &attr)
}

#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: u32,
}

/// struct statx.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct RawStatx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    times: [StatxTime; 4],
    rdev: [u32; 2],
    dev: [u32; 2],
    mnt_id: u64,
    dio: [u32; 2],
    spare: [u64; 12],
}

pub async fn statx(t: &Task, a: &Args) -> SysResult {
    const AT_STATX_SYNC_TYPE: i32 = 0x6000;
    const STATX_RESERVED: u32 = 0x8000_0000;
    const STATX_BTIME: u32 = 0x800;
    const STATX_MNT_ID: u32 = 0x1000;
    const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
    let flags = a.int(2);
    if flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE || a.uint(3) & STATX_RESERVED != 0 {
        return Err(Errno::EINVAL.into());
    }
    let walk = walk_flags(flags & !AT_STATX_SYNC_TYPE, STAT_FLAGS)?;
    let path = if a.u64(1) == 0 && walk.contains(WalkFlags::EMPTY) { Vec::new() } else { read_path(t, a.u64(1))? };
    let (attr, mount) = attr_at(t, a.int(0), &path, walk)?;
    let time = |ts: Timestamp| StatxTime { sec: ts.sec, nsec: ts.nsec, pad: 0 };
    let is_root = mount.root.inode().attr().is_ok_and(|r| r.ino == attr.ino && r.dev == attr.dev);
    let raw = RawStatx {
        mask: libc::STATX_BASIC_STATS | STATX_MNT_ID | if attr.btime.is_some() { STATX_BTIME } else { 0 },
        blksize: attr.blksize,
        attributes: if is_root { STATX_ATTR_MOUNT_ROOT } else { 0 },
        nlink: attr.nlink,
        uid: attr.uid.0,
        gid: attr.gid.0,
        mode: attr.mode() as u16,
        pad: 0,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        times: [time(attr.atime), time(attr.btime.unwrap_or_default()), time(attr.ctime), time(attr.mtime)],
        rdev: [attr.rdev.major, attr.rdev.minor],
        dev: [attr.dev.major, attr.dev.minor],
        mnt_id: mount.id.into(),
        dio: [0; 2],
        spare: [0; 12],
    };
    t.mm().write_obj(a.u64(4), &raw)?;
    Ok(0)
}

/// struct statfs of x86-64.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct RawStatFs {
    kind: u64,
    bsize: u64,
    blocks: u64,
    bfree: u64,
    bavail: u64,
    files: u64,
    ffree: u64,
    fsid: u64,
    namelen: u64,
    frsize: u64,
    flags: u64,
    spare: [u64; 4],
}

fn write_statfs(t: &Task, addr: u64, s: &StatFs, mount: &Mount) -> SysResult {
    const ST_VALID: u64 = 0x20;
    let m = mount.flags();
    let mut flags = ST_VALID;
    for (flag, bit) in [
        (MountFlags::NOSUID, libc::ST_NOSUID),
        (MountFlags::NODEV, libc::ST_NODEV),
        (MountFlags::NOEXEC, libc::ST_NOEXEC),
        (MountFlags::NOATIME, libc::ST_NOATIME),
        (MountFlags::NODIRATIME, libc::ST_NODIRATIME),
        (MountFlags::RELATIME, libc::ST_RELATIME),
    ] {
        if m.contains(flag) {
            flags |= bit;
        }
    }
    if mount.is_readonly() {
        flags |= libc::ST_RDONLY;
    }
    let raw = RawStatFs {
        kind: s.magic,
        bsize: s.block_size,
        blocks: s.blocks,
        bfree: s.blocks_free,
        bavail: s.blocks_avail,
        files: s.files,
        ffree: s.files_free,
        fsid: s.fsid,
        namelen: s.name_max,
        frsize: s.block_size,
        flags,
        spare: [0; 4],
    };
    t.mm().write_obj(addr, &raw)?;
    Ok(0)
}

pub async fn statfs(t: &Task, a: &Args) -> SysResult {
    let place = follow(t, a.u64(0))?;
    write_statfs(t, a.u64(1), &place.inode().statfs()?, &place.mount)
}

pub async fn fstatfs(t: &Task, a: &Args) -> SysResult {
    let file = t.files().get_any(a.int(0))?;
    write_statfs(t, a.u64(1), &file.inode().statfs()?, &file.path().mount)
}

/// How a directory entry is laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// linux_dirent: d_type in the last byte.
    Old,
    /// linux_dirent64.
    Wide,
}

fn entry_bytes(layout: Layout, ino: u64, next: u64, kind: u8, name: &[u8]) -> Vec<u8> {
    let head = if layout == Layout::Wide { 19 } else { 18 };
    let tail = if layout == Layout::Wide { 1 } else { 2 };
    let len = (head + name.len() + tail).next_multiple_of(8);
    let mut raw = Vec::with_capacity(len);
    raw.extend_from_slice(&ino.to_ne_bytes());
    raw.extend_from_slice(&next.to_ne_bytes());
    raw.extend_from_slice(&(len as u16).to_ne_bytes());
    if layout == Layout::Wide {
        raw.push(kind);
    }
    raw.extend_from_slice(name);
    raw.resize(len, 0);
    if layout == Layout::Old {
        raw[len - 1] = kind;
    }
    raw
}

fn get_entries(t: &Task, a: &Args, layout: Layout) -> SysResult {
    let file = t.file(a.int(0))?;
    if !file.flags().readable() {
        return Err(Errno::EBADF.into());
    }
    if file.inode().kind() != FileType::Dir {
        return Err(Errno::ENOTDIR.into());
    }
    if file.path().dentry.is_deleted() {
        return Err(Errno::ENOENT.into());
    }
    let room = (a.uint(2) as usize).min(1 << 20);
    // Put together with the position locked, given to the guest afterwards.
    let (raw, before) = file.with_position(|pos| collect(&file, pos, layout, room))?;
    if let Err(e) = t.mm().write_bytes(a.u64(1), &raw) {
        file.with_position(|pos| *pos = before);
        return Err(e.into());
    }
    Ok(raw.len() as u64)
}

/// Entries from `pos` on that fit `room` bytes, and where `pos` was. EINVAL if not one fits.
fn collect(file: &File, pos: &mut u64, layout: Layout, room: usize) -> Result<(Vec<u8>, u64)> {
    let before = *pos;
    let mut raw = Vec::new();
    let mut too_small = false;
    read_dir(file, before, &mut |entry| {
        let kind = entry.kind.map_or(0, |k| k.dirent_type());
        let bytes = entry_bytes(layout, entry.ino, entry.next, kind, entry.name);
        if raw.len() + bytes.len() > room {
            too_small = raw.is_empty();
            return false;
        }
        raw.extend_from_slice(&bytes);
        *pos = entry.next;
        true
    })?;
    if too_small {
        return Err(Errno::EINVAL);
    }
    Ok((raw, before))
}

pub async fn getdents(t: &Task, a: &Args) -> SysResult {
    get_entries(t, a, Layout::Old)
}

pub async fn getdents64(t: &Task, a: &Args) -> SysResult {
    get_entries(t, a, Layout::Wide)
}
