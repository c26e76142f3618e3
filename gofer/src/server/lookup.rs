//! Operations that change nothing: walk, getattr, open, readlink, statfs, sync.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;

use super::{
    Devices, Writes,
    mounts::{Dir, HostGuards, Mount, Mounts, Place, Result, open_at, stat_at, stat_fd, step},
    path::walk_names,
};
use crate::{
    protocol::{Access, Attr, Errno, NodeRef, OpenFlags, StatFs, SyncScope, WalkEnd},
    wire::{RawHow, Reply, WalkOpen},
};

/// A client's flags, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub flags: OFlags,
    fifo: FifoPolicy,
    writes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FifoPolicy {
    Refuse,
    Allow,
}

impl How {
    /// `EINVAL` for flags nobody defined, `EROFS` for writing on a mount that refuses it.
    pub fn new(raw: RawHow, mount: &Mount) -> Result<Self> {
        let wanted = OpenFlags::from_bits(raw.flags).ok_or(Errno(libc::EINVAL))?;
        let fifo = if wanted.contains(OpenFlags::ALLOW_FIFO) {
            FifoPolicy::Allow
        } else {
            FifoPolicy::Refuse
        };
        let access = match raw.access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let others = wanted.difference(OpenFlags::ALLOW_FIFO).bits();
        let writes = raw.access != Access::Read || wanted.contains(OpenFlags::TRUNC);
        if writes && mount.writes == Writes::Refuse {
            return Err(Errno(libc::EROFS));
        }
        Ok(Self {
            flags: access | OFlags::from_bits_retain(others),
            fifo,
            writes,
        })
    }

    /// Whether a node of this type may be opened at all.
    fn admit(&self, mount: &Mount, attr: &Attr) -> Result<()> {
        match attr.file_type() {
            libc::S_IFREG => Ok(()),
            libc::S_IFDIR => Err(Errno(libc::EISDIR)),
            libc::S_IFLNK => Err(Errno(libc::ELOOP)),
            libc::S_IFSOCK => Err(Errno(libc::ENXIO)),
            libc::S_IFIFO if self.fifo == FifoPolicy::Allow => Ok(()),
            libc::S_IFIFO => Err(Errno(libc::ENXIO)),
            _ if mount.devices == Devices::Allow => Ok(()),
            _ => Err(Errno(libc::EACCES)),
        }
    }
}

pub(super) fn walk(
    mounts: &Mounts,
    dir: NodeRef<'_>,
    names: &[u8],
    open: Option<RawHow>,
) -> Result<(Reply, Option<OwnedFd>)> {
    let (mount, path) = mounts.get(dir)?;
    let names = walk_names(names)?;
    let Some((last, firsts)) = names.split_last() else {
        let opened = open.map(|how| {
            open_checked(
                mount,
                how,
                || mount.pin(path),
                |flags| mount.open(path, flags, 0),
            )
        });
        let (open, _, fd) = walk_open(opened);
        return Ok((
            Reply::Walk {
                attrs: Vec::new(),
                end: WalkEnd::Complete,
                open,
            },
            fd,
        ));
    };
    let mut at = mount.dir(path)?;
    let mut attrs = Vec::with_capacity(names.len());
    let mut end = WalkEnd::Complete;
    for name in firsts {
        match descend(&at, name, &mut attrs) {
            Ok(next) => at = Dir::Opened(next),
            Err(stopped) => {
                end = stopped;
                break;
            }
        }
    }
    if end == WalkEnd::Complete {
        match stat_at(&at, last) {
            Ok(attr) => {
                attrs.push(attr);
                if attr.is_symlink() {
                    end = link_end(&at, last);
                }
            }
            Err(errno) => end = absent(errno),
        }
    }
    let mut opened = None;
    if let (WalkEnd::Complete, Some(how), Some(attr)) = (&end, open, attrs.last().copied()) {
        opened = Some(
            How::new(how, mount)
                .and_then(|how| how.admit(mount, &attr).map(|()| how))
                .and_then(|how| {
                    let fd = open_at(&at, last, how.flags)?;
                    checked(mount, how, fd)
                }),
        );
    }
    let (open, attr, fd) = walk_open(opened);
    if let (Some(attr), Some(last)) = (attr, attrs.last_mut()) {
        *last = attr;
    }
    Ok((Reply::Walk { attrs, end, open }, fd))
}

/// One component that more follow. Its directory, or where the walk ends.
fn descend(
    at: &Dir<'_>,
    name: &[u8],
    attrs: &mut Vec<Attr>,
) -> std::result::Result<OwnedFd, WalkEnd> {
    let attr = stat_at(at, name).map_err(absent)?;
    attrs.push(attr);
    if attr.is_symlink() {
        return Err(link_end(at, name));
    }
    if !attr.is_dir() {
        return Err(WalkEnd::NotDirectory);
    }
    step(at, name).map_err(WalkEnd::Failed)
}

fn absent(errno: Errno) -> WalkEnd {
    match errno {
        Errno(libc::ENOENT) => WalkEnd::Missing,
        other => WalkEnd::Failed(other),
    }
}

fn link_end(at: &Dir<'_>, name: &[u8]) -> WalkEnd {
    match link_target(at, name) {
        Ok(target) => WalkEnd::Symlink(target),
        // It was a symlink a moment ago: let the client look again.
        Err(Errno(libc::EINVAL | libc::ENOENT)) => WalkEnd::Failed(Errno(libc::ESTALE)),
        Err(errno) => WalkEnd::Failed(errno),
    }
}

pub(super) fn link_target(dir: impl AsFd, name: &[u8]) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::with_capacity(128))?.into_bytes())
}

fn walk_open(opened: Option<Result<(OwnedFd, Attr)>>) -> (WalkOpen, Option<Attr>, Option<OwnedFd>) {
    match opened {
        None => (WalkOpen::NotTried, None, None),
        Some(Ok((fd, attr))) => (WalkOpen::Opened, Some(attr), Some(fd)),
        Some(Err(errno)) => (WalkOpen::Failed(errno), None, None),
    }
}

/// Opens with the node's type checked: on guarded mounts after the open (a device does not open,
/// a fifo does not block), otherwise before it too.
fn open_checked(
    mount: &Mount,
    how: RawHow,
    pin: impl FnOnce() -> Result<OwnedFd>,
    open: impl FnOnce(OFlags) -> Result<OwnedFd>,
) -> Result<(OwnedFd, Attr)> {
    let how = How::new(how, mount)?;
    let opens_devices = mount.guards == HostGuards::Absent || mount.devices == Devices::Allow;
    if opens_devices || how.writes {
        how.admit(mount, &stat_fd(pin()?)?)?;
    }
    checked(mount, how, open(how.flags)?)
}

fn checked(mount: &Mount, how: How, fd: OwnedFd) -> Result<(OwnedFd, Attr)> {
    let attr = stat_fd(&fd)?;
    how.admit(mount, &attr)?;
    Ok((fd, attr))
}

pub(super) fn open(mounts: &Mounts, node: NodeRef<'_>, how: RawHow) -> Result<(OwnedFd, Attr)> {
    let (mount, path) = mounts.get(node)?;
    open_checked(
        mount,
        how,
        || mount.pin(path),
        |flags| mount.open(path, flags, 0),
    )
}

pub(super) fn getattr(mounts: &Mounts, node: NodeRef<'_>) -> Result<Attr> {
    let (mount, path) = mounts.get(node)?;
    let place = mount.place(path)?;
    stat_at(place.dir, place.name)
}

pub(super) fn readlink(mounts: &Mounts, node: NodeRef<'_>) -> Result<Vec<u8>> {
    let (mount, path) = mounts.get(node)?;
    let place = mount.place(path)?;
    link_target(place.dir, place.name)
}

pub(super) fn statfs(mounts: &Mounts, node: NodeRef<'_>) -> Result<StatFs> {
    let (mount, path) = mounts.get(node)?;
    let s = rustix::fs::fstatfs(mount.pin(path)?)?;
    // The kernel's own unsigned values; the signed types of some architectures do not matter.
    Ok(StatFs {
        magic: s.f_type as u64,
        block_size: s.f_bsize as u64,
        fragment_size: s.f_frsize as u64,
        blocks: s.f_blocks,
        blocks_free: s.f_bfree,
        blocks_available: s.f_bavail,
        files: s.f_files,
        files_free: s.f_ffree,
        name_max: s.f_namelen as u64,
        flags: s.f_flags as u64,
    })
}

pub(super) fn sync(mounts: &Mounts, node: NodeRef<'_>, scope: SyncScope) -> Result<()> {
    let (mount, path) = mounts.get(node)?;
    let place = mount.place(path)?;
    let (fd, _) = open_plain(&place)?;
    match scope {
        SyncScope::Node => rustix::fs::fsync(fd)?,
        SyncScope::FileSystem => rustix::fs::syncfs(fd)?,
    }
    Ok(())
}

/// Opens a regular file or directory for reading, for the server's own use; `EOPNOTSUPP` for
/// anything else.
pub(super) fn open_plain(place: &Place<'_>) -> Result<(OwnedFd, Attr)> {
    let plain = |attr: Attr| match attr.is_regular() || attr.is_dir() {
        true => Ok(attr),
        false => Err(Errno(libc::EOPNOTSUPP)),
    };
    plain(stat_at(&place.dir, place.name)?)?;
    let fd = open_at(&place.dir, place.name, OFlags::RDONLY)?;
    let attr = plain(stat_fd(&fd)?)?;
    Ok((fd, attr))
}
