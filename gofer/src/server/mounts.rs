//! The trees a server serves, and the only ways from a client's path to a host fd.
//!
//! Every resolution starts at a mount's root fd, takes a checked path, and goes through
//! `openat2` with [`RESOLVE`], or through an `*at` call that is given an fd found that way and a
//! single component which it does not follow. The one exception reads attributes and link targets
//! by a whole path, on mounts where the host kernel follows no symlink ([`HostGuards::Set`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp};

use super::{Devices, Writes, ids, path::RelPath};
use crate::protocol::{Attr, Errno, HostSockets, MountId, NodeRef, Timestamp};

pub(super) type Result<T> = std::result::Result<T, Errno>;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);

/// What every open adds: no inheritance, no symlink, no waiting for a fifo's other end, no
/// controlling terminal.
const OPEN_BASE: OFlags = OFlags::CLOEXEC
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);
const PATH_BASE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::PATH);

/// What the mount's root is.
#[derive(Debug)]
pub(super) enum Root {
    Directory(OwnedFd),
    /// A single file: the directory it is mounted in, and its name there.
    File(OwnedFd, &'static [u8]),
}

/// What the host kernel refuses by itself on this mount (set-up in namespaces made it so).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostGuards {
    /// `nosymfollow` is set, and `nodev` unless devices are allowed.
    Set,
    Absent,
}

/// One tree.
#[derive(Debug)]
pub(super) struct Mount {
    pub root: Root,
    pub writes: Writes,
    pub devices: Devices,
    pub guards: HostGuards,
}

/// All trees, and what may be done with sockets in them.
#[derive(Debug)]
pub(super) struct Mounts {
    /// By [`MountId`].
    pub trees: Vec<Mount>,
    pub sockets: HostSockets,
}

/// A directory on the way: a mount's root, or opened for this request.
#[derive(Debug)]
pub(super) enum Dir<'a> {
    Root(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

/// A node by its directory and a component that is safe to hand to a call that does not follow
/// symlinks.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub dir: Dir<'a>,
    pub name: &'a [u8],
}

impl Mounts {
    pub fn get<'a>(&self, node: NodeRef<'a>) -> Result<(&Mount, RelPath<'a>)> {
        let path = RelPath::new(node.path)?;
        Ok((self.by_id(node.mount)?, path))
    }

    /// As [`Mounts::get`], for changing something: `EROFS` where that is not allowed.
    pub fn get_writable<'a>(&self, node: NodeRef<'a>) -> Result<(&Mount, RelPath<'a>)> {
        let (mount, path) = self.get(node)?;
        match mount.writes {
            Writes::Allow => Ok((mount, path)),
            Writes::Refuse => Err(Errno(libc::EROFS)),
        }
    }

    fn by_id(&self, id: MountId) -> Result<&Mount> {
        usize::try_from(id.0)
            .ok()
            .and_then(|index| self.trees.get(index))
            .ok_or(Errno(libc::EINVAL))
    }
}

impl Mount {
    /// Where `openat2` starts and the path it takes.
    fn start<'a>(&'a self, path: RelPath<'a>) -> Result<(&'a OwnedFd, &'a [u8])> {
        match &self.root {
            Root::Directory(root) if path.is_root() => Ok((root, b".")),
            Root::Directory(root) => Ok((root, path.bytes())),
            Root::File(dir, name) if path.is_root() => Ok((dir, name)),
            Root::File(..) => Err(Errno(libc::ENOTDIR)),
        }
    }

    /// Opens what `path` names.
    pub fn open(&self, path: RelPath<'_>, flags: OFlags, mode: u32) -> Result<OwnedFd> {
        let (root, name) = self.start(path)?;
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::openat2(
            root,
            name,
            OPEN_BASE | flags,
            mode,
            RESOLVE,
        )?)
    }

    /// An `O_PATH` fd of what `path` names, symlinks included.
    pub fn pin(&self, path: RelPath<'_>) -> Result<OwnedFd> {
        let (root, name) = self.start(path)?;
        Ok(rustix::fs::openat2(
            root,
            name,
            PATH_BASE,
            Mode::empty(),
            RESOLVE,
        )?)
    }

    /// The root directory; `ENOTDIR` for a single file.
    pub fn root_dir(&self) -> Result<Dir<'_>> {
        match &self.root {
            Root::Directory(root) => Ok(Dir::Root(root.as_fd())),
            Root::File(..) => Err(Errno(libc::ENOTDIR)),
        }
    }

    /// An `O_PATH` fd of the directory `path`.
    pub fn dir(&self, path: RelPath<'_>) -> Result<Dir<'_>> {
        let Root::Directory(root) = &self.root else {
            return Err(Errno(libc::ENOTDIR));
        };
        if path.is_root() {
            return Ok(Dir::Root(root.as_fd()));
        }
        Ok(Dir::Opened(step(root, path.bytes())?))
    }

    /// The directory that `path` lies in and its last component. For the root: itself and `.`,
    /// or for a single file its place.
    pub fn place<'a>(&'a self, path: RelPath<'a>) -> Result<Place<'a>> {
        match (path.split_last(), &self.root) {
            (Some((parent, name)), _) => Ok(Place {
                dir: self.dir(parent)?,
                name: name.bytes(),
            }),
            (None, Root::Directory(root)) => Ok(Place {
                dir: Dir::Root(root.as_fd()),
                name: b".",
            }),
            (None, Root::File(dir, name)) => Ok(Place {
                dir: Dir::Root(dir.as_fd()),
                name,
            }),
        }
    }

    /// As [`Mount::place`], but the root is not a name one could make, move or remove: `refusal`.
    pub fn entry<'a>(&'a self, path: RelPath<'a>, refusal: i32) -> Result<Place<'a>> {
        if path.is_root() {
            return Err(Errno(refusal));
        }
        self.place(path)
    }
}

/// An `O_PATH` fd of the directory `path` (checked, not empty) below `dir`.
pub(super) fn step(dir: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    let flags = PATH_BASE | OFlags::DIRECTORY;
    Ok(rustix::fs::openat2(
        dir,
        path,
        flags,
        Mode::empty(),
        RESOLVE,
    )?)
}

/// An `O_PATH` fd of `name` in `dir`.
pub(super) fn pin_at(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        dir,
        name,
        PATH_BASE,
        Mode::empty(),
        RESOLVE,
    )?)
}

/// Opens `name` in `dir`.
pub(super) fn open_at(dir: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        dir,
        name,
        OPEN_BASE | flags,
        Mode::empty(),
        RESOLVE,
    )?)
}

/// The attributes of the single component `name` in `dir`; on guarded mounts a path will do.
pub(super) fn stat_at(dir: impl AsFd, name: &[u8]) -> Result<Attr> {
    stat(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
}

/// The attributes of what `fd` (`O_PATH` or not) refers to.
pub(super) fn stat_fd(fd: impl AsFd) -> Result<Attr> {
    stat(fd, c"".to_bytes(), AtFlags::EMPTY_PATH)
}

fn stat(dir: impl AsFd, name: &[u8], flags: AtFlags) -> Result<Attr> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(attr(&rustix::fs::statx(dir, name, flags, wanted)?))
}

fn attr(statx: &Statx) -> Attr {
    let time = |time: &StatxTimestamp| Timestamp {
        sec: time.tv_sec,
        nsec: time.tv_nsec,
    };
    let has_btime = statx.stx_mask & StatxFlags::BTIME.bits() != 0;
    Attr {
        mode: statx.stx_mode.into(),
        nlink: statx.stx_nlink,
        uid: ids::shown_uid(statx.stx_uid),
        gid: ids::shown_gid(statx.stx_gid),
        ino: statx.stx_ino,
        dev_major: statx.stx_dev_major,
        dev_minor: statx.stx_dev_minor,
        rdev_major: statx.stx_rdev_major,
        rdev_minor: statx.stx_rdev_minor,
        size: statx.stx_size,
        blocks: statx.stx_blocks,
        blksize: statx.stx_blksize,
        atime: time(&statx.stx_atime),
        mtime: time(&statx.stx_mtime),
        ctime: time(&statx.stx_ctime),
        btime: has_btime.then(|| time(&statx.stx_btime)),
    }
}
