//! Operations that change nothing: walk, getattr, open, readlink, statfs, sync.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;

use super::{
    Devices, Writes,
    mounts::{
        Dir, HostGuards, Mount, Mounts, Place, Result, open_at, pin_at, stat_at, stat_fd, step,
    },
    path::{RelPath, walk_names},
};
use crate::{
    protocol::{
        Access, Attr, Errno, MAX_OPEN, MAX_PATH, NodeRef, OpenFlags, StatFs, SyncScope, WalkEnd,
    },
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
    /// `EINVAL` for flags nobody defined.
    pub fn new(raw: RawHow) -> Result<Self> {
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
        Ok(Self {
            flags: access | OFlags::from_bits_retain(others),
            fifo,
            writes,
        })
    }

    /// Whether a node of this type may be opened so. As in Linux a read-only mount is no obstacle
    /// to writing into a fifo or device.
    fn admit(&self, mount: &Mount, attr: &Attr) -> Result<()> {
        match attr.file_type() {
            libc::S_IFREG if self.writes && mount.writes == Writes::Refuse => {
                Err(Errno(libc::EROFS))
            }
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
    let length = names.len();
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
    let mut position = Position::start(mount, path, length)?;
    let mut attrs = Vec::with_capacity(names.len());
    let mut end = WalkEnd::Complete;
    for name in firsts {
        if let Err(stopped) = position.descend(name, &mut attrs) {
            end = stopped;
            break;
        }
    }
    if end == WalkEnd::Complete
        && let Err(stopped) = position.arrive(last, &mut attrs)
    {
        end = stopped;
    }
    let mut opened = None;
    if let (WalkEnd::Complete, Some(how), Some(attr)) = (&end, open, attrs.last()) {
        opened = Some(position.open(mount, how, attr));
    }
    let (open, attr, fd) = walk_open(opened);
    if let (Some(attr), Some(last)) = (attr, attrs.last_mut()) {
        *last = attr;
    }
    Ok((Reply::Walk { attrs, end, open }, fd))
}

/// Where a walk stands: at `path` from the directory `at`.
///
/// On guarded mounts, where the host follows no symlink anyway, `at` stays the root and `path`
/// grows, which takes a single host call a component. Elsewhere, and for paths beyond what the
/// host takes at once, `at` moves along and `path` is one component.
struct Position<'a> {
    at: Dir<'a>,
    path: Vec<u8>,
    moves: Moves,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moves {
    Path,
    Directory,
}

impl<'a> Position<'a> {
    /// At the directory `dir`, for `length` bytes of components to come.
    fn start(mount: &'a Mount, dir: RelPath<'_>, length: usize) -> Result<Self> {
        // A slash between, a NUL at the end.
        let whole = length.saturating_add(dir.bytes().len()).saturating_add(2);
        if mount.guards == HostGuards::Set && whole <= MAX_PATH {
            let path = dir.bytes().to_vec();
            return Ok(Self {
                at: mount.root_dir()?,
                path,
                moves: Moves::Path,
            });
        }
        Ok(Self {
            at: mount.dir(dir)?,
            path: Vec::new(),
            moves: Moves::Directory,
        })
    }

    /// Looks at `name`, which more components follow, and goes on below it.
    fn descend(&mut self, name: &[u8], attrs: &mut Vec<Attr>) -> std::result::Result<(), WalkEnd> {
        if !self.arrive(name, attrs)?.is_dir() {
            return Err(WalkEnd::NotDirectory);
        }
        if self.moves == Moves::Directory {
            self.at = Dir::Opened(step(&self.at, &self.path).map_err(WalkEnd::Failed)?);
            self.path.clear();
        }
        Ok(())
    }

    /// Looks at `name`.
    fn arrive(&mut self, name: &[u8], attrs: &mut Vec<Attr>) -> std::result::Result<Attr, WalkEnd> {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let attr = stat_at(&self.at, &self.path).map_err(absent)?;
        attrs.push(attr);
        if attr.is_symlink() {
            return Err(link_end(&self.at, &self.path));
        }
        Ok(attr)
    }

    /// Opens what was arrived at.
    fn open(&self, mount: &Mount, how: RawHow, attr: &Attr) -> Result<(OwnedFd, Attr)> {
        let how = How::new(how)?;
        how.admit(mount, attr)?;
        checked(mount, how, open_at(&self.at, &self.path, how.flags)?)
    }
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

/// Opens with the node's type checked: for reading on guarded mounts after the open only (a
/// device does not open, a fifo does not block), otherwise before it too.
fn open_checked(
    mount: &Mount,
    how: RawHow,
    pin: impl FnOnce() -> Result<OwnedFd>,
    open: impl FnOnce(OFlags) -> Result<OwnedFd>,
) -> Result<(OwnedFd, Attr)> {
    let how = How::new(how)?;
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

/// Opens regular files of the directory `dir` for reading: the attributes of each, or nothing
/// where that failed, and an fd for each that has attributes.
pub(super) fn open_many(
    mounts: &Mounts,
    dir: NodeRef<'_>,
    names: &[u8],
) -> Result<(Vec<Option<Attr>>, Vec<OwnedFd>)> {
    let (mount, path) = mounts.get(dir)?;
    let names = walk_names(names)?;
    if names.len() > MAX_OPEN {
        return Err(Errno(libc::E2BIG));
    }
    let dir = mount.dir(path)?;
    let how = RawHow {
        access: Access::Read,
        flags: 0,
    };
    let mut fds = Vec::with_capacity(names.len());
    let mut open = |name: &[u8]| {
        let (fd, attr) = open_checked(
            mount,
            how,
            || pin_at(&dir, name),
            |flags| open_at(&dir, name, flags),
        )
        .ok()?;
        // A device is opened for whoever asks for it by itself.
        attr.is_regular().then(|| {
            fds.push(fd);
            attr
        })
    };
    let attrs = names.iter().map(|name| open(name)).collect();
    Ok((attrs, fds))
}

pub(super) fn getattr(mounts: &Mounts, node: NodeRef<'_>) -> Result<Attr> {
    let (mount, path) = mounts.get(node)?;
    if mount.guards == HostGuards::Set && !path.is_root() {
        return stat_at(mount.root_dir()?, path.bytes());
    }
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
