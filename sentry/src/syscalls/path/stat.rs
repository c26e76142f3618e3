//! stat(2) in all forms, statx(2), access(2), statfs(2), readlink(2).

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Args, CWD, Errno, NOFOLLOW, Result, Start, SysResult, Task, WalkFlags, place_at};
use crate::fs::file::File;
use crate::fs::inode::{Attr, FileType, StatFs, Timestamp};
use crate::fs::mount::MountFlags;
use crate::fs::namei;
use crate::fs::path::PathRef;
use crate::fs::perm::{self, Access};
use crate::kernel::cred::CapSet;

/// struct stat of x86-64.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Stat {
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

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl From<&Attr> for Stat {
    fn from(attr: &Attr) -> Stat {
        let time = |t: Timestamp| [t.sec, i64::from(t.nsec)];
        let [a, m, c] = [time(attr.atime), time(attr.mtime), time(attr.ctime)];
        Stat {
            dev: attr.dev.encode(),
            ino: attr.ino,
            nlink: u64::from(attr.nlink),
            mode: attr.mode(),
            uid: attr.uid.0,
            gid: attr.gid.0,
            rdev: attr.rdev.encode(),
            size: signed(attr.size),
            blksize: i64::from(attr.blksize),
            blocks: signed(attr.blocks),
            times: [a[0], a[1], m[0], m[1], c[0], c[1]],
            ..Stat::default()
        }
    }
}

fn write_stat(t: &Task, addr: u64, attr: &Attr) -> SysResult {
    let out = Stat::from(attr);
    t.with_mm(|mm| mm.write_obj(addr, &out))?;
    Ok(0)
}

/// What is asked about.
enum Subject {
    Place(PathRef),
    Open(Arc<File>),
}

impl Subject {
    fn attr(&self) -> Result<Attr> {
        match self {
            Subject::Place(place) => place.inode().attr(),
            Subject::Open(file) => file.attr(),
        }
    }

    fn place(&self) -> &PathRef {
        match self {
            Subject::Place(place) => place,
            Subject::Open(file) => file.path(),
        }
    }
}

/// What is at a path or, with AT_EMPTY_PATH and an empty path, the open file itself.
fn subject(t: &Task, dirfd: i32, path: u64, flags: i32) -> Result<Subject> {
    if flags & libc::AT_EMPTY_PATH != 0 && dirfd != CWD {
        let empty = path == 0 || t.with_mm(|mm| mm.read_obj::<u8>(path))? == 0;
        if empty {
            return t.any_file(dirfd).map(Subject::Open);
        }
    }
    place_at(t, dirfd, path, flags).map(Subject::Place)
}

pub async fn stat(t: &Task, a: &Args) -> SysResult {
    let attr = subject(t, CWD, a.u64(0), 0)?.attr()?;
    write_stat(t, a.u64(1), &attr)
}

pub async fn lstat(t: &Task, a: &Args) -> SysResult {
    let attr = subject(t, CWD, a.u64(0), NOFOLLOW)?.attr()?;
    write_stat(t, a.u64(1), &attr)
}

pub async fn fstat(t: &Task, a: &Args) -> SysResult {
    let attr = t.any_file(a.int(0))?.attr()?;
    write_stat(t, a.u64(1), &attr)
}

pub async fn newfstatat(t: &Task, a: &Args) -> SysResult {
    let flags = a.int(3);
    if flags & !(NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let attr = subject(t, a.int(0), a.u64(1), flags)?.attr()?;
    write_stat(t, a.u64(2), &attr)
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: u32,
}

/// struct statx.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Statx {
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
    atime: StatxTime,
    btime: StatxTime,
    ctime: StatxTime,
    mtime: StatxTime,
    rdev_major: u32,
    rdev_minor: u32,
    dev_major: u32,
    dev_minor: u32,
    mnt_id: u64,
    rest: [u64; 13],
}

pub async fn statx(t: &Task, a: &Args) -> SysResult {
    const STATX_MNT_ID: u32 = 0x1000;
    const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
    let (flags, mask) = (a.int(2), a.uint(3));
    let sync = libc::AT_STATX_SYNC_TYPE;
    let known = NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | sync;
    if mask & 0x8000_0000 != 0 || flags & sync == sync || flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let subject = subject(t, a.int(0), a.u64(1), flags)?;
    let (attr, place) = (subject.attr()?, subject.place());
    let time = |t: Timestamp| StatxTime {
        sec: t.sec,
        nsec: t.nsec,
        pad: 0,
    };
    let mut mask = libc::STATX_BASIC_STATS | STATX_MNT_ID;
    if attr.btime.is_some() {
        mask |= libc::STATX_BTIME;
    }
    let attributes = if place.is_mount_root() {
        STATX_ATTR_MOUNT_ROOT
    } else {
        0
    };
    let out = Statx {
        mask,
        blksize: attr.blksize,
        attributes,
        nlink: attr.nlink,
        uid: attr.uid.0,
        gid: attr.gid.0,
        mode: attr.mode() as u16,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        atime: time(attr.atime),
        btime: time(attr.btime.unwrap_or_default()),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: attr.rdev.major,
        rdev_minor: attr.rdev.minor,
        dev_major: attr.dev.major,
        dev_minor: attr.dev.minor,
        mnt_id: u64::from(place.mount.id),
        ..Statx::default()
    };
    t.with_mm(|mm| mm.write_obj(a.u64(4), &out))?;
    Ok(0)
}

pub async fn access(t: &Task, a: &Args) -> SysResult {
    check_access(t, CWD, a.u64(0), a.int(1), 0)
}

pub async fn faccessat(t: &Task, a: &Args) -> SysResult {
    check_access(t, a.int(0), a.u64(1), a.int(2), 0)
}

pub async fn faccessat2(t: &Task, a: &Args) -> SysResult {
    check_access(t, a.int(0), a.u64(1), a.int(2), a.int(3))
}

/// The ids that access(2) checks with: the real ones.
fn real_creds(t: &Task) -> crate::kernel::cred::Credentials {
    const SECURE_NO_SETUID_FIXUP: u32 = 1 << 2;
    let mut creds = (*t.creds()).clone();
    creds.fsuid = creds.ruid;
    creds.fsgid = creds.rgid;
    if creds.securebits & SECURE_NO_SETUID_FIXUP == 0 {
        creds.effective = if creds.ruid.0 == 0 {
            creds.permitted
        } else {
            CapSet::EMPTY
        };
    }
    creds
}

fn check_access(t: &Task, dirfd: i32, path: u64, mode: i32, flags: i32) -> SysResult {
    let known = libc::AT_EACCESS | NOFOLLOW | libc::AT_EMPTY_PATH;
    if mode & !7 != 0 || flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut start = if flags & libc::AT_EMPTY_PATH != 0 && dirfd != CWD {
        let path = super::path_at(t, path)?;
        Start {
            base: namei::base(t, dirfd, &path)?,
            ctx: crate::fs::walk::Ctx::of(t),
            path,
        }
    } else {
        Start::new(t, dirfd, path)?
    };
    if flags & libc::AT_EACCESS == 0 {
        start.ctx.creds = Arc::new(real_creds(t));
    }
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, flags & NOFOLLOW == 0);
    how.set(WalkFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    let place = start.lookup(how)?;
    let want = Access::from_bits_truncate(mode as u32);
    let inode = place.inode();
    let kind = inode.kind();
    if want.contains(Access::EXEC)
        && kind == FileType::Regular
        && place.mount.flags().contains(MountFlags::NOEXEC)
    {
        return Err(Errno::EACCES.into());
    }
    if want.is_empty() {
        return Ok(0);
    }
    perm::check(inode, &start.ctx.creds, want)?;
    let special = matches!(
        kind,
        FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket
    );
    if want.contains(Access::WRITE) && !special {
        place.mount.check_writable()?;
    }
    Ok(0)
}

/// struct statfs.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct StatfsOut {
    kind: i64,
    bsize: i64,
    blocks: u64,
    bfree: u64,
    bavail: u64,
    files: u64,
    ffree: u64,
    fsid: u64,
    namelen: i64,
    frsize: i64,
    flags: i64,
    spare: [i64; 4],
}

fn write_statfs(t: &Task, addr: u64, place: &PathRef) -> SysResult {
    const ST_VALID: u32 = 0x20;
    const ST_RELATIME: u32 = 0x1000;
    let s: StatFs = place.inode().statfs()?;
    let mount = place.mount.flags();
    let same = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut flags = ST_VALID | (mount & same).bits();
    for (on, bit) in [
        (place.mount.is_readonly(), 1),
        (mount.contains(MountFlags::NOATIME), 0x400),
        (mount.contains(MountFlags::NODIRATIME), 0x800),
        (mount.contains(MountFlags::RELATIME), ST_RELATIME),
        (mount.contains(MountFlags::NOSYMFOLLOW), 0x2000),
    ] {
        if on {
            flags |= bit;
        }
    }
    let out = StatfsOut {
        kind: signed(s.magic),
        bsize: signed(s.block_size),
        blocks: s.blocks,
        bfree: s.blocks_free,
        bavail: s.blocks_avail,
        files: s.files,
        ffree: s.files_free,
        fsid: s.fsid,
        namelen: signed(s.name_max),
        frsize: signed(s.block_size),
        flags: i64::from(flags),
        spare: [0; 4],
    };
    t.mm().write_obj(addr, &out)?;
    Ok(0)
}

pub async fn statfs(t: &Task, a: &Args) -> SysResult {
    let place = place_at(t, CWD, a.u64(0), 0)?;
    write_statfs(t, a.u64(1), &place)
}

pub async fn fstatfs(t: &Task, a: &Args) -> SysResult {
    let file = t.any_file(a.int(0))?;
    write_statfs(t, a.u64(1), file.path())
}

pub async fn readlink(t: &Task, a: &Args) -> SysResult {
    read_link(t, CWD, a.u64(0), a.u64(1), a.int(2))
}

pub async fn readlinkat(t: &Task, a: &Args) -> SysResult {
    read_link(t, a.int(0), a.u64(1), a.u64(2), a.int(3))
}

fn read_link(t: &Task, dirfd: i32, path: u64, buf: u64, size: i32) -> SysResult {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if size == 0 {
        return Err(Errno::EINVAL.into());
    }
    let start = Start::new(t, dirfd, path)?;
    let place = start.lookup(WalkFlags::EMPTY)?;
    let inode = place.inode();
    if inode.kind() != FileType::Symlink {
        // An empty path names the descriptor itself, which then has to be a symlink.
        return Err(if start.path.is_empty() {
            Errno::ENOENT
        } else {
            Errno::EINVAL
        }
        .into());
    }
    let text = match inode.magic_link() {
        // The text is as the reader sees the place.
        Some(target) => match (inode.readlink(), target) {
            (Ok(text), _) => text,
            (Err(_), Ok(crate::fs::inode::MagicTarget::Path(p))) => p.display(&t.fs().root()),
            (Err(_), Ok(crate::fs::inode::MagicTarget::File(f))) => {
                f.path().display(&t.fs().root())
            }
            (Err(_), Err(e)) => return Err(e.into()),
        },
        None => inode.readlink()?,
    };
    if !place.mount.flags().contains(MountFlags::NOATIME) && !place.mount.is_readonly() {
        inode.accessed(false);
    }
    let n = text.len().min(size);
    t.mm().write_bytes(buf, &text[..n])?;
    Ok(n as u64)
}
