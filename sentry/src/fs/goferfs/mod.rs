//! Trees of host files, served by the Gofer.
//!
//! [`Node`] is the inode: a place (parent and name) in a tree of the Gofer, from which the path of
//! each request is made. Regular files are opened by the Gofer and read, written and mapped here
//! through the host fd ([`file::HostFile`]); after an unlink they go on working by it.
//!
//! Of a [`Trust::Layer`] attributes and names are kept for a while, listings too as long as we do not
//! change the directory, and more is asked for than the guest wants just now ([`ahead`]). Of the
//! others, attributes are asked for by each system call that needs them, and names by each
//! ([`Trust::Shared`]) or after a while ([`Trust::Root`]). A file
//! is known again by its device, number and birth; one that lost its name to somebody outside is to
//! the guest a deleted one, though it may have been moved.

mod ahead;
mod file;
mod list;
mod names;
mod node;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use runsc_gofer::client::{Client, Error};
use runsc_gofer::protocol::{self, MountId, NodeRef};

use crate::errno::{Errno, Result};
use crate::fs::inode::{Attr, Dev, FileType, Inode, Timestamp};
use crate::fs::moment;
use crate::fs::mount::{FileSystem, anonymous_dev};
use crate::kernel::cred::{Gid, Uid};
pub use file::HostFile;
pub use node::Node;

/// How long names in a [`Trust::Root`] hold.
const ROOT_NAMES_NS: u64 = 1_000_000_000;

impl Trust {
    /// Of an overlay's lower tree that others may change. Each name that a guest uses all the time
    /// costs a trip so often.
    pub const LAYER: Trust = Trust::Layer(3_000_000_000);

    fn is_layer(self) -> bool {
        matches!(self, Trust::Layer(_))
    }

    /// Whether what was seen of a layer at `seen_ns` still holds.
    fn holds(self, seen_ns: u64) -> bool {
        match self {
            Trust::Layer(u64::MAX) => true,
            Trust::Layer(ns) => moment::now_ns().saturating_sub(seen_ns) < ns,
            Trust::Root | Trust::Shared => false,
        }
    }
}

/// Host fds kept for files that are opened again soon.
const KEPT_FDS: usize = 128;

/// Who else changes the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Seldom anybody, as it lies under an overlay: what was seen holds for so many nanoseconds.
    Layer(u64),
    /// The host's processes, seldom: a container's root that is written through.
    Root,
    /// The host's processes.
    Shared,
}

/// A tree of the Gofer.
pub struct GoferFs {
    client: Arc<Client>,
    mount: MountId,
    trust: Trust,
    dev: Dev,
    /// Devices below the root, with the numbers the guest sees.
    devices: Mutex<Vec<((u32, u32), Dev)>>,
    /// Files with several names, so that all of them lead to one inode.
    links: Mutex<HashMap<(Dev, u64), Weak<Node>>>,
    fds: Mutex<VecDeque<Arc<OwnedFd>>>,
    /// Used in layers only.
    ahead: ahead::Ahead,
    /// What the host answers about an extended attribute of a file that has none.
    without: Mutex<Vec<Without>>,
}

/// Device, type of file and name of the attribute; the answer.
type Without = ((Dev, FileType, Box<[u8]>), Errno);

/// Names of extended attributes for which that is kept.
const MAX_WITHOUT: usize = 32;

/// Error numbers of the Gofer are the host's.
fn errno(error: Error) -> Errno {
    Errno::from_raw(error.errno())
}

impl GoferFs {
    /// The root of tree `mount`.
    pub fn open(client: Arc<Client>, mount: MountId, trust: Trust) -> Result<Arc<Node>> {
        let attr = client.getattr(NodeRef::root(mount)).map_err(errno)?;
        let dev = anonymous_dev();
        let fs = Arc::new(GoferFs {
            client,
            mount,
            trust,
            dev,
            devices: Mutex::new(vec![((attr.dev_major, attr.dev_minor), dev)]),
            links: Mutex::default(),
            fds: Mutex::default(),
            ahead: ahead::Ahead::default(),
            without: Mutex::default(),
        });
        Node::root(fs, &attr)
    }

    /// As a file system ready to be mounted.
    pub fn mount(client: Arc<Client>, mount: MountId, trust: Trust) -> Result<Arc<FileSystem>> {
        let root = Self::open(client, mount, trust)?;
        let dev = root.attr()?.dev;
        Ok(FileSystem::new("9p", dev, root, String::new()))
    }

    /// The guest's number for a host device.
    fn device(&self, host: (u32, u32)) -> Dev {
        let mut devices = self.devices.lock();
        if let Some((_, dev)) = devices.iter().find(|(h, _)| *h == host) {
            return *dev;
        }
        let dev = anonymous_dev();
        devices.push((host, dev));
        dev
    }

    /// The answer about the extended attribute `name` of files like this that have none.
    fn without(&self, file: &Attr, name: &[u8]) -> Option<Errno> {
        let without = self.without.lock();
        let like = without
            .iter()
            .find(|((dev, kind, n), _)| (*dev, *kind, &**n) == (file.dev, file.kind, name));
        like.map(|(_, answer)| *answer)
    }

    fn learn_without(&self, file: &Attr, name: &[u8], answer: Errno) {
        let mut without = self.without.lock();
        if matches!(answer, Errno::ENODATA | Errno::EOPNOTSUPP) && without.len() < MAX_WITHOUT {
            without.push(((file.dev, file.kind, name.into()), answer));
        }
    }

    /// Keeps `fd` open for a while.
    fn keep(&self, fd: &Arc<OwnedFd>) {
        let mut fds = self.fds.lock();
        fds.push_back(fd.clone());
        let old = if fds.len() > KEPT_FDS {
            fds.pop_front()
        } else {
            None
        };
        drop(fds);
        drop(old);
    }

    fn attr(&self, attr: &protocol::Attr) -> Result<Attr> {
        let time = |t: protocol::Timestamp| Timestamp {
            sec: t.sec,
            nsec: t.nsec,
        };
        Ok(Attr {
            kind: FileType::from_mode(attr.mode).ok_or(Errno::EIO)?,
            perm: attr.mode & 0o7777,
            ino: attr.ino,
            dev: self.device((attr.dev_major, attr.dev_minor)),
            nlink: attr.nlink,
            uid: Uid(attr.uid),
            gid: Gid(attr.gid),
            rdev: Dev::new(attr.rdev_major, attr.rdev_minor),
            size: attr.size,
            blocks: attr.blocks,
            blksize: attr.blksize,
            atime: time(attr.atime),
            mtime: time(attr.mtime),
            ctime: time(attr.ctime),
            btime: attr.btime.map(time),
        })
    }

    /// What fstat(2) of an open host file says, as the guest sees it.
    fn attr_of_fd(&self, fd: &OwnedFd, old: &Attr) -> Result<Attr> {
        let stat = nix::sys::stat::fstat(fd)?;
        let time = |sec: i64, nsec: i64| Timestamp {
            sec,
            nsec: nsec as u32,
        };
        Ok(Attr {
            perm: stat.st_mode & 0o7777,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            ..*old
        })
    }
}
