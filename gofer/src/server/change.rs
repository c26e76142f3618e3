//! Operations that change a tree: create, mkdir, mknod, symlink, link, unlink, rename, setattr.
//!
//! All are refused with `EROFS` on mounts that are not to be written. New nodes get exactly the
//! mode and owner asked for, or are removed again.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, RenameFlags as HostRenameFlags, Timespec, Timestamps,
        UTIME_NOW, UTIME_OMIT, Uid,
    },
    io::Errno as HostErrno,
};

use super::{
    Devices, ids,
    lookup::How,
    mounts::{HostGuards, Mount, Mounts, Place, Result, open_at, pin_at, stat_fd},
    sys,
};
use crate::{
    protocol::{Attr, Errno, NodeKind, NodeRef, Owner, RenameFlags, SetAttr, SetTime},
    wire::RawHow,
};

const MODE_BITS: u32 = 0o7777;

/// Mode bits beyond the permissions are not the client's to choose.
pub(super) fn checked_mode(mode: u32) -> Result<Mode> {
    if mode & !MODE_BITS != 0 {
        return Err(Errno(libc::EINVAL));
    }
    Ok(Mode::from_raw_mode(mode))
}

/// -1 would mean "leave alone" to the host.
fn checked_id(id: u32) -> Result<u32> {
    if id == u32::MAX {
        Err(Errno(libc::EINVAL))
    } else {
        Ok(id)
    }
}

pub(super) fn create(
    mounts: &Mounts,
    node: NodeRef<'_>,
    how: RawHow,
    mode: u32,
    owner: Option<Owner>,
) -> Result<(OwnedFd, Attr)> {
    let (mount, path) = mounts.get_writable(node)?;
    let how = How::new(how)?;
    let wanted = checked_mode(mode)?;
    let place = mount.entry(path, libc::EEXIST)?;
    let flags = how.flags | OFlags::CREATE | OFlags::EXCL;
    let fd = mount.open(path, flags, wanted.as_raw_mode())?;
    let attr = keep_or_remove(
        &place,
        AtFlags::empty(),
        finish(mount, &place, &fd, mode, owner),
    )?;
    Ok((fd, attr))
}

pub(super) fn mkdir(
    mounts: &Mounts,
    node: NodeRef<'_>,
    mode: u32,
    owner: Option<Owner>,
) -> Result<Attr> {
    let (mount, path) = mounts.get_writable(node)?;
    let place = mount.entry(path, libc::EEXIST)?;
    rustix::fs::mkdirat(&place.dir, place.name, checked_mode(mode)?)?;
    let attr =
        pin_at(&place.dir, place.name).and_then(|pin| finish(mount, &place, &pin, mode, owner));
    keep_or_remove(&place, AtFlags::REMOVEDIR, attr)
}

pub(super) fn mknod(
    mounts: &Mounts,
    node: NodeRef<'_>,
    kind: NodeKind,
    mode: u32,
    owner: Option<Owner>,
) -> Result<Attr> {
    let (mount, path) = mounts.get_writable(node)?;
    let (file_type, device) = match kind {
        NodeKind::Regular => (FileType::RegularFile, 0),
        NodeKind::Fifo => (FileType::Fifo, 0),
        NodeKind::Socket => (FileType::Socket, 0),
        NodeKind::Char { .. } | NodeKind::Block { .. } if mount.devices == Devices::Refuse => {
            return Err(Errno(libc::EPERM));
        }
        NodeKind::Char { major, minor } => {
            (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
        }
        NodeKind::Block { major, minor } => {
            (FileType::BlockDevice, rustix::fs::makedev(major, minor))
        }
    };
    let place = mount.entry(path, libc::EEXIST)?;
    rustix::fs::mknodat(
        &place.dir,
        place.name,
        file_type,
        checked_mode(mode)?,
        device,
    )?;
    let attr =
        pin_at(&place.dir, place.name).and_then(|pin| finish(mount, &place, &pin, mode, owner));
    keep_or_remove(&place, AtFlags::empty(), attr)
}

pub(super) fn symlink(
    mounts: &Mounts,
    node: NodeRef<'_>,
    target: &[u8],
    owner: Option<Owner>,
) -> Result<Attr> {
    let (mount, path) = mounts.get_writable(node)?;
    if target.contains(&0) {
        return Err(Errno(libc::EINVAL));
    }
    let place = mount.entry(path, libc::EEXIST)?;
    rustix::fs::symlinkat(target, &place.dir, place.name)?;
    let attr = pin_at(&place.dir, place.name).and_then(|pin| own(&pin, owner));
    keep_or_remove(&place, AtFlags::empty(), attr)
}

/// Gives a new node its owner and mode (in this order: chown clears set-uid bits).
pub(super) fn finish(
    mount: &Mount,
    place: &Place<'_>,
    fd: &OwnedFd,
    mode: u32,
    owner: Option<Owner>,
) -> Result<Attr> {
    let attr = own(fd, owner)?;
    if attr.mode & MODE_BITS == mode {
        return Ok(attr);
    }
    chmod(mount, place, fd, mode)?;
    stat_fd(fd)
}

fn own(fd: &OwnedFd, owner: Option<Owner>) -> Result<Attr> {
    let attr = stat_fd(fd)?;
    match owner {
        Some(owner) if (owner.uid, owner.gid) != (attr.uid, attr.gid) => {
            chown(fd, Some(owner.uid), Some(owner.gid))?;
            stat_fd(fd)
        }
        _ => Ok(attr),
    }
}

pub(super) fn keep_or_remove(
    place: &Place<'_>,
    flags: AtFlags,
    result: Result<Attr>,
) -> Result<Attr> {
    if result.is_err() {
        // The first error is the one that counts.
        let _ = rustix::fs::unlinkat(&place.dir, place.name, flags);
    }
    result
}

fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let uid = uid.map(checked_id).transpose()?.map(ids::meant_uid);
    let gid = gid.map(checked_id).transpose()?.map(ids::meant_gid);
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    Ok(())
}

/// Changes the mode of `node` (an `O_PATH` fd will do), which is `place`. Before Linux 6.6 an
/// `O_PATH` fd will not do: the node is opened, or where that is forbidden, named, provided that
/// the host follows no symlink on this mount.
fn chmod(mount: &Mount, place: &Place<'_>, node: &OwnedFd, mode: u32) -> Result<()> {
    let wanted = checked_mode(mode)?;
    match sys::chmod_node(node, mode) {
        Err(Errno(libc::ENOSYS)) => {}
        other => return other,
    }
    let attr = stat_fd(node)?;
    if attr.is_symlink() {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    if mount.guards == HostGuards::Set {
        return Ok(rustix::fs::chmodat(
            &place.dir,
            place.name,
            wanted,
            AtFlags::empty(),
        )?);
    }
    if !attr.is_regular() && !attr.is_dir() {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    let fd = open_at(&place.dir, place.name, OFlags::RDONLY)?;
    Ok(rustix::fs::fchmod(fd, wanted)?)
}

pub(super) fn link(mounts: &Mounts, from: NodeRef<'_>, to: NodeRef<'_>) -> Result<Attr> {
    let (mount, to_path) = mounts.get_writable(to)?;
    let (_, from_path) = mounts.get(from)?;
    if from.mount != to.mount {
        return Err(Errno(libc::EXDEV));
    }
    let from = mount.entry(from_path, libc::EPERM)?;
    let to = mount.entry(to_path, libc::EEXIST)?;
    rustix::fs::linkat(&from.dir, from.name, &to.dir, to.name, AtFlags::empty())?;
    stat_fd(pin_at(&to.dir, to.name)?)
}

pub(super) fn unlink(mounts: &Mounts, node: NodeRef<'_>) -> Result<()> {
    remove(mounts, node, AtFlags::empty())
}

pub(super) fn rmdir(mounts: &Mounts, node: NodeRef<'_>) -> Result<()> {
    remove(mounts, node, AtFlags::REMOVEDIR)
}

fn remove(mounts: &Mounts, node: NodeRef<'_>, flags: AtFlags) -> Result<()> {
    let (mount, path) = mounts.get_writable(node)?;
    let place = mount.entry(path, libc::EBUSY)?;
    Ok(rustix::fs::unlinkat(&place.dir, place.name, flags)?)
}

pub(super) fn rename(
    mounts: &Mounts,
    from: NodeRef<'_>,
    to: NodeRef<'_>,
    flags: u32,
) -> Result<()> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno(libc::EINVAL))?;
    let (mount, from_path) = mounts.get_writable(from)?;
    let (_, to_path) = mounts.get_writable(to)?;
    if from.mount != to.mount {
        return Err(Errno(libc::EXDEV));
    }
    let from = mount.entry(from_path, libc::EBUSY)?;
    let to = mount.entry(to_path, libc::EBUSY)?;
    let flags = HostRenameFlags::from_bits_retain(flags.bits());
    Ok(rustix::fs::renameat_with(
        &from.dir, from.name, &to.dir, to.name, flags,
    )?)
}

pub(super) fn setattr(mounts: &Mounts, node: NodeRef<'_>, set: &SetAttr) -> Result<Attr> {
    let (mount, path) = mounts.get_writable(node)?;
    if let Some(mode) = set.mode {
        checked_mode(mode)?;
    }
    let times = Timestamps {
        last_access: timespec(set.atime)?,
        last_modification: timespec(set.mtime)?,
    };
    let place = mount.place(path)?;
    let pin = pin_at(&place.dir, place.name)?;
    if let Some(size) = set.size {
        truncate(&place, &pin, size)?;
    }
    if set.uid.is_some() || set.gid.is_some() {
        chown(&pin, set.uid, set.gid)?;
    }
    if let Some(mode) = set.mode {
        chmod(mount, &place, &pin, mode)?;
    }
    if set.atime != SetTime::Omit || set.mtime != SetTime::Omit {
        match rustix::fs::utimensat(&pin, c"", &times, AtFlags::EMPTY_PATH) {
            // Before Linux 5.8.
            Err(HostErrno::INVAL) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(&place.dir, place.name, &times, flags)?;
            }
            other => other?,
        }
    }
    stat_fd(&pin)
}

/// The file is opened for it; a client that may not (mode 0444) truncates through its own fd.
fn truncate(place: &Place<'_>, pin: &OwnedFd, size: u64) -> Result<()> {
    let attr = stat_fd(pin)?;
    if attr.is_dir() {
        return Err(Errno(libc::EISDIR));
    }
    if !attr.is_regular() || size > i64::MAX.unsigned_abs() {
        return Err(Errno(libc::EINVAL));
    }
    let fd = open_at(&place.dir, place.name, OFlags::WRONLY)?;
    if !stat_fd(&fd)?.is_regular() {
        return Err(Errno(libc::ESTALE));
    }
    Ok(rustix::fs::ftruncate(fd, size)?)
}

fn timespec(time: SetTime) -> Result<Timespec> {
    match time {
        SetTime::Omit => Ok(Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        }),
        SetTime::Now => Ok(Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        }),
        SetTime::To(time) if time.nsec < 1_000_000_000 => Ok(Timespec {
            tv_sec: time.sec,
            tv_nsec: time.nsec.into(),
        }),
        SetTime::To(_) => Err(Errno(libc::EINVAL)),
    }
}
