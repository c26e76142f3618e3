//! Files without a place in the tree: pipes, sockets, eventfd and the like, memfd.
//!
//! Each has an inode of its own with the attributes Linux shows for its kind, and a path whose text
//! is like `pipe:[7]` or `anon_inode:[eventfd]`.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::dentry::Dentry;
use crate::fs::extra::InodeExtra;
use crate::fs::file::{File, FileOps};
use crate::fs::inode::{
    Attr, Dev, FileType, Inode, OpenFlags, SetAttr, SetTime, StatFs, Timestamp,
};
use crate::fs::mount::{FileSystem, Mount, MountFlags};
use crate::fs::path::PathRef;
use crate::kernel::cred::{Gid, Uid};

/// What an anonymous file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anon {
    /// `pipe:[N]`, S_IFIFO.
    Pipe,
    /// `socket:[N]`, S_IFSOCK.
    Socket,
    /// `anon_inode:NAME`, e.g. `[eventfd]`; no file type at all, as on Linux.
    Inode(&'static str),
    /// Looks like the given name and type, e.g. a host terminal or pipe on stdin.
    Host(FileType, &'static str),
}

impl Anon {
    fn file_type(self) -> FileType {
        match self {
            Anon::Pipe => FileType::Fifo,
            Anon::Socket => FileType::Socket,
            Anon::Inode(_) => FileType::Anonymous,
            Anon::Host(kind, _) => kind,
        }
    }

    fn file_system(self) -> usize {
        match self {
            Anon::Pipe => 0,
            Anon::Socket => 1,
            Anon::Inode(_) | Anon::Host(..) => 2,
        }
    }

    fn magic(self) -> u64 {
        match self {
            Anon::Pipe => 0x5049_5045,
            Anon::Socket => 0x534F_434B,
            Anon::Inode(_) | Anon::Host(..) => 0x0904_1934,
        }
    }

    fn text(self, ino: u64) -> Vec<u8> {
        match self {
            Anon::Pipe => format!("pipe:[{ino}]").into_bytes(),
            Anon::Socket => format!("socket:[{ino}]").into_bytes(),
            Anon::Inode(name) => format!("anon_inode:{name}").into_bytes(),
            Anon::Host(_, name) => name.as_bytes().to_vec(),
        }
    }
}

/// The object behind an anonymous inode that opening it again through /proc/PID/fd leads to (a file
/// of the host on stdin, say). Whoever has the link has the file: no permission is asked again.
pub struct Reopen(pub Arc<dyn FileOps>);

/// The inode of an anonymous file.
pub struct AnonInode {
    kind: Anon,
    attr: Mutex<Attr>,
    extra: InodeExtra,
}

/// The mounts nobody sees: pipefs, sockfs, anon_inodefs. Nothing in them changes.
fn mounts() -> &'static [Arc<Mount>; 3] {
    static MOUNTS: OnceLock<[Arc<Mount>; 3]> = OnceLock::new();
    MOUNTS.get_or_init(|| {
        [("pipefs", 13), ("sockfs", 8), ("anon_inodefs", 14)].map(|(name, minor)| {
            let dev = Dev::new(0, minor);
            let root = AnonInode::new(Anon::Inode(""), 0, dev, Uid(0), Gid(0));
            let fs = FileSystem::new(name, dev, root, String::new());
            Mount::new(fs, name.as_bytes(), MountFlags::empty())
        })
    })
}

impl AnonInode {
    fn new(kind: Anon, ino: u64, dev: Dev, uid: Uid, gid: Gid) -> Arc<AnonInode> {
        let now = Timestamp::now();
        let perm = if kind == Anon::Socket { 0o777 } else { 0o600 };
        let attr = Attr {
            kind: kind.file_type(),
            perm,
            ino,
            dev,
            nlink: 1,
            uid,
            gid,
            rdev: Dev::default(),
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: None,
        };
        Arc::new(AnonInode {
            kind,
            attr: Mutex::new(attr),
            extra: InodeExtra::default(),
        })
    }
}

/// A number for an anonymous inode.
fn next_ino() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A place for an anonymous file; the two ends of a pipe share one.
pub fn anon_path(kind: Anon, uid: Uid, gid: Gid) -> PathRef {
    let mount = &mounts()[kind.file_system()];
    let ino = match kind {
        // Linux has one inode for all of these.
        Anon::Inode(_) => 1024,
        _ => next_ino(),
    };
    let inode = AnonInode::new(kind, ino, mount.fs.dev, uid, gid);
    PathRef::new(mount.clone(), Dentry::root(inode, &kind.text(ino)))
}

/// An open anonymous file owned by the superuser.
pub fn anon_file(kind: Anon, ops: Arc<dyn FileOps>, flags: OpenFlags) -> Arc<File> {
    File::new(ops, anon_path(kind, Uid(0), Gid(0)), flags)
}

/// An open file on `inode`, which has no name in any tree (a memfd: `memfd:NAME`).
pub fn unlinked_file(
    inode: Arc<dyn Inode>,
    name: &[u8],
    ops: Arc<dyn FileOps>,
    flags: OpenFlags,
) -> Arc<File> {
    let mount = mounts()[2].clone();
    let dentry = Dentry::unlinked(inode, name, None);
    File::new(ops, PathRef::new(mount, dentry), flags)
}

/// As [`unlinked_file`]; the caller has counted it with `InodeExtra::get_write`.
pub(in crate::fs) fn unlinked_writer(
    inode: Arc<dyn Inode>,
    name: &[u8],
    ops: Arc<dyn FileOps>,
    flags: OpenFlags,
) -> Arc<File> {
    let mount = mounts()[2].clone();
    let dentry = Dentry::unlinked(inode, name, None);
    File::new_writer(ops, PathRef::new(mount, dentry), flags)
}

/// Operations over `inode` outside of any tree, for one file system that uses another.
pub fn internal_file(inode: Arc<dyn Inode>, flags: OpenFlags) -> Result<Arc<File>> {
    let ops = inode.clone().open(flags)?;
    Ok(unlinked_file(inode, b"", ops, flags))
}

impl Inode for AnonInode {
    fn attr(&self) -> Result<Attr> {
        Ok(*self.attr.lock())
    }

    fn kind(&self) -> FileType {
        self.kind.file_type()
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut attr = self.attr.lock();
        attr.perm = change.perm.unwrap_or(attr.perm);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        let now = Timestamp::now();
        let time = |new: Option<SetTime>, old: Timestamp| match new {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(t)) => t,
        };
        attr.atime = time(change.atime, attr.atime);
        attr.mtime = time(change.mtime, attr.mtime);
        attr.ctime = now;
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs {
            magic: self.kind.magic(),
            block_size: 4096,
            name_max: 255,
            ..StatFs::default()
        })
    }

    fn extra(&self) -> &InodeExtra {
        &self.extra
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
