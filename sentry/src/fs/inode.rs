//! What a file system offers: inodes.
//!
//! The VFS (`dentry`, `path`, `mount`) knows names, mounts, symlinks, permission checks and the
//! dentry cache; an [`Inode`] knows attributes and the operations on one file. Inode methods run
//! after the permission checks, never block on guest events (host work through the Gofer may take
//! its time), and never call back into the VFS.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use runsc_gofer::protocol::SocketKind;

use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps};
use crate::kernel::cred::{Gid, Uid};

/// File types, with the S_IF* values of inode(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum FileType {
    /// No type at all: what stands behind an epoll or eventfd descriptor.
    Anonymous = 0,
    Fifo = libc::S_IFIFO,
    Char = libc::S_IFCHR,
    Dir = libc::S_IFDIR,
    Block = libc::S_IFBLK,
    Regular = libc::S_IFREG,
    Symlink = libc::S_IFLNK,
    Socket = libc::S_IFSOCK,
}

impl FileType {
    /// From the type bits of a mode. None: no type Linux knows.
    pub fn from_mode(mode: u32) -> Option<FileType> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFCHR => FileType::Char,
            libc::S_IFDIR => FileType::Dir,
            libc::S_IFBLK => FileType::Block,
            libc::S_IFREG => FileType::Regular,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFSOCK => FileType::Socket,
            0 => FileType::Anonymous,
            _ => return None,
        })
    }

    /// d_type of getdents64(2).
    pub fn dirent_type(self) -> u8 {
        (self as u32 >> 12) as u8
    }
}

/// Seconds and nanoseconds since the epoch (CLOCK_REALTIME).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

impl Timestamp {
    /// The time by which Linux stamps files: that of the last timer tick. Asking for more costs as
    /// much as all else that a read of one byte does.
    pub fn now() -> Self {
        match nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE) {
            Ok(t) => Timestamp {
                sec: t.tv_sec(),
                nsec: t.tv_nsec() as u32,
            },
            Err(_) => Timestamp::default(),
        }
    }
}

/// Device number, split (makedev(3)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dev {
    pub major: u32,
    pub minor: u32,
}

impl Dev {
    pub const fn new(major: u32, minor: u32) -> Self {
        Dev { major, minor }
    }
    /// The 64-bit encoding of st_dev.
    pub fn encode(self) -> u64 {
        libc::makedev(self.major, self.minor)
    }
    pub fn decode(dev: u64) -> Self {
        Dev {
            major: libc::major(dev),
            minor: libc::minor(dev),
        }
    }
}

/// Attributes of a file (stat(2)). Sizes in bytes, `blocks` in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub kind: FileType,
    /// Permission bits including set-id and sticky (07777).
    pub perm: u32,
    pub ino: u64,
    pub dev: Dev,
    pub nlink: u32,
    pub uid: Uid,
    pub gid: Gid,
    pub rdev: Dev,
    pub size: u64,
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Option<Timestamp>,
}

impl Attr {
    pub fn mode(&self) -> u32 {
        self.kind as u32 | self.perm
    }
}

/// New value of a timestamp (utimensat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

/// Changes asked of [`Inode::set_attr`]; permission checks are already done by the VFS, which also
/// adds what follows from a change (clearing set-id bits on chown, and so on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub perm: Option<u32>,
    pub uid: Option<Uid>,
    pub gid: Option<Gid>,
    /// truncate(2): bytes.
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

/// What to create and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Permission bits with the umask applied.
    pub perm: u32,
    pub uid: Uid,
    pub gid: Gid,
}

/// statfs(2) of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// *_MAGIC (statfs(2)).
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_avail: u64,
    pub files: u64,
    pub files_free: u64,
    pub fsid: u64,
    pub name_max: u64,
}

/// One directory entry, as `FileOps::readdir` emits it. `next` is the position to continue from.
pub struct DirEntry<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    pub kind: Option<FileType>,
    pub next: u64,
}

bitflags::bitflags! {
    /// setxattr(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct XattrFlags: i32 {
        const CREATE = libc::XATTR_CREATE;
        const REPLACE = libc::XATTR_REPLACE;
    }
}

/// What [`Inode::lookup_chain`] found.
#[derive(Default)]
pub struct Chain {
    /// One inode a name, from the first.
    pub found: Vec<Arc<dyn Inode>>,
    /// The name after those is known to be missing. Else: not looked at (behind a symlink or a
    /// file, or the look-up failed).
    pub missing: bool,
}

/// How long names that were looked up hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Until they are changed through the VFS.
    Kept,
    /// Others change them now and then: for so many nanoseconds.
    For(u64),
    /// Others change them: for one system call.
    Asked,
}

/// What the walk is for, so that a file system can do more in one trip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LookupHint {
    #[default]
    None,
    /// If the last name is a regular file it is about to be opened for reading.
    OpenRead,
}

/// A file, whatever its type. Defaults refuse with the errno Linux gives where a file system or
/// file type lacks the operation.
pub trait Inode: Any + Send + Sync {
    /// Current attributes. Cheap where the file system owns its tree alone.
    fn attr(&self) -> Result<Attr>;

    /// The file type, which never changes.
    fn kind(&self) -> FileType;

    fn set_attr(&self, _change: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// An open file on this inode. FIFOs, sockets and device nodes are opened by the VFS instead.
    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn FileOps>>;

    /// The child `name`. ENOENT if there is none, ENOTDIR if this is no directory.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }

    /// Looks up a chain of names in one go: as far as it gets without following symlinks.
    fn lookup_chain(&self, names: &[&[u8]], _hint: LookupHint) -> Result<Chain> {
        let Some(name) = names.first() else {
            return Ok(Chain::default());
        };
        match self.lookup(name) {
            Ok(child) => Ok(Chain {
                found: vec![child],
                missing: false,
            }),
            Err(Errno::ENOENT) => Ok(Chain {
                found: Vec::new(),
                missing: true,
            }),
            Err(e) => Err(e),
        }
    }

    /// As `lookup_chain`, with the inodes that these names led to when they were looked up last: the
    /// first of `known` belongs to the first name, and so on. What is still the same is found again
    /// as the same inode.
    fn lookup_again(
        &self,
        names: &[&[u8]],
        hint: LookupHint,
        _known: &[Arc<dyn Inode>],
    ) -> Result<Chain> {
        self.lookup_chain(names, hint)
    }

    /// How long the VFS may keep what a look-up in this directory answered (found or missing).
    fn names(&self) -> Names {
        Names::Kept
    }

    /// Whether `other`, found under a name that led here, is the same file.
    fn is_same(&self, other: &Arc<dyn Inode>) -> bool {
        let same =
            |a: Attr, b: Attr| (a.kind, a.dev, a.ino, a.btime) == (b.kind, b.dev, b.ino, b.btime);
        matches!((self.attr(), other.attr()), (Ok(a), Ok(b)) if same(a, b))
    }

    /// Others have taken the name `name` of `dir` from this file.
    fn name_lost(&self, _dir: &Arc<dyn Inode>, _name: &[u8]) {}

    /// Makes a regular file; EEXIST if the name is taken.
    fn create(&self, _name: &[u8], _node: &NewNode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    fn mkdir(&self, _name: &[u8], _node: &NewNode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    /// A regular file without a name (O_TMPFILE); `link` may give it one later.
    fn tmpfile(&self, _node: &NewNode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// FIFO, socket or device node.
    fn mknod(
        &self,
        _name: &[u8],
        _node: &NewNode,
        _kind: FileType,
        _rdev: Dev,
    ) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    /// A socket and, where the host may connect to it, the host's socket that is bound to it.
    fn bind_socket(
        &self,
        name: &[u8],
        node: &NewNode,
        _kind: SocketKind,
    ) -> Result<(Arc<dyn Inode>, Option<OwnedFd>)> {
        let made = self.mknod(name, node, FileType::Socket, Dev::default())?;
        Ok((made, None))
    }

    /// A new socket of the host's, connected to the one that this inode is. ECONNREFUSED: it is none
    /// of the host's, or not for us.
    fn connect_socket(&self, _kind: SocketKind) -> Result<OwnedFd> {
        Err(Errno::ECONNREFUSED)
    }

    fn symlink(&self, _name: &[u8], _node: &NewNode, _target: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }

    /// A new name for `target`, an inode of the same file system.
    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a name that is no directory. `child` is what the dentry cache holds for it.
    fn unlink(&self, _name: &[u8], _child: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory; ENOTEMPTY.
    fn rmdir(&self, _name: &[u8], _child: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Moves `name` of this directory, which is `moved`, to `new_name` of `new_dir` (same file
    /// system) in place of `replaced`; with `exchange` swaps the two. The VFS has checked types,
    /// loops and rights; emptiness is checked here (ENOTEMPTY).
    fn rename(
        &self,
        _name: &[u8],
        _moved: &Arc<dyn Inode>,
        _new_dir: &Arc<dyn Inode>,
        _new_name: &[u8],
        _replaced: Option<&Arc<dyn Inode>>,
        _exchange: Exchange,
    ) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Where a "magic" link (/proc/PID/fd/N, cwd, exe, root) leads, instead of by its text.
    fn magic_link(&self) -> Option<Result<MagicTarget>> {
        None
    }

    fn statfs(&self) -> Result<StatFs>;

    /// syncfs(2): everything of this file system.
    fn sync_fs(&self) -> Result<()> {
        Ok(())
    }

    fn get_xattr(&self, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _flags: XattrFlags) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Names, each without a trailing NUL.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    fn remove_xattr(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Its content was changed: it has no capabilities (security.capability) any more. Where the host
    /// sees to that there is nothing to do.
    fn drop_file_caps(&self) {}

    /// A read through an open file or of a directory or symlink: moves the access time by the rules
    /// of relatime, or always if `strict`. Where the host keeps access times there is nothing to do.
    fn accessed(&self, _strict: bool) {}

    /// A permission check by other rules than those of path_resolution(7) (procfs). None: those.
    fn check_access(
        &self,
        _creds: &crate::kernel::cred::Credentials,
        _want: crate::fs::perm::Access,
    ) -> Option<Result<()>> {
        None
    }

    /// Per-inode state that the VFS keeps for any file: locks, inotify watches, the FIFO pipe, the
    /// bound unix socket.
    fn extra(&self) -> &crate::fs::extra::InodeExtra;

    fn as_any(&self) -> &dyn Any;
}

/// Rename with RENAME_EXCHANGE or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    No,
    Yes,
}

/// Where a magic link leads.
pub enum MagicTarget {
    /// A place in the tree.
    Path(crate::fs::path::PathRef),
    /// An open file that has no place in the tree (a pipe, a memfd).
    File(Arc<File>),
}

bitflags::bitflags! {
    /// open(2) flags with Linux's x86-64 values. Unknown bits are dropped as Linux does, except by
    /// openat2(2), which refuses them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpenFlags: i32 {
        const WRONLY = libc::O_WRONLY;
        const RDWR = libc::O_RDWR;
        const CREAT = libc::O_CREAT;
        const EXCL = libc::O_EXCL;
        const NOCTTY = libc::O_NOCTTY;
        const TRUNC = libc::O_TRUNC;
        const APPEND = libc::O_APPEND;
        const NONBLOCK = libc::O_NONBLOCK;
        const DSYNC = libc::O_DSYNC;
        const ASYNC = libc::O_ASYNC;
        const DIRECT = libc::O_DIRECT;
        const LARGEFILE = 0o100000;
        const DIRECTORY = libc::O_DIRECTORY;
        const NOFOLLOW = libc::O_NOFOLLOW;
        const NOATIME = libc::O_NOATIME;
        const CLOEXEC = libc::O_CLOEXEC;
        /// O_SYNC without O_DSYNC.
        const SYNC = 0o4000000;
        const PATH = libc::O_PATH;
        /// O_TMPFILE without O_DIRECTORY.
        const TMPFILE = 0o20000000;
    }
}

impl OpenFlags {
    /// Access mode 3 (neither reading nor writing, ioctl only) counts as neither.
    pub fn readable(self) -> bool {
        matches!(self.bits() & libc::O_ACCMODE, libc::O_RDONLY | libc::O_RDWR)
            && !self.contains(Self::PATH)
    }
    pub fn writable(self) -> bool {
        matches!(self.bits() & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
            && !self.contains(Self::PATH)
    }
}
