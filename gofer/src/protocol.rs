//! Types that both ends of the Gofer protocol speak, and their limits.
//!
//! A node (file, directory, symlink, ...) is named by the mount it lies in and the bytes of its
//! path below that mount's root: no leading slash, no empty component, no `.` or `..`; the empty
//! path is the mount's root. The server keeps no handles for the client, so there is nothing to
//! leak or to forge. What travels is in `wire`; how it is answered is in `server`.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// Longest path of a node below its mount's root, in bytes.
pub const MAX_PATH: usize = 4096;
/// Longest single component, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest message in either direction, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;
/// Longest extended attribute value that fits a message, in bytes.
pub const MAX_XATTR: usize = 60 * 1024;
/// Most components one walk may name.
pub const MAX_WALK: usize = 256;
/// Most directories one message lists.
pub const MAX_TREE: u32 = 1024;
/// Most files one message opens.
pub const MAX_OPEN: usize = 32;

/// Index of a mount in [`crate::server::ServerConfig::mounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MountId(pub u32);

/// Names a node: a mount and the path below its root (empty: the root itself).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRef<'a> {
    pub mount: MountId,
    #[serde(borrow)]
    pub path: &'a [u8],
}

impl<'a> NodeRef<'a> {
    pub fn new(mount: MountId, path: &'a [u8]) -> Self {
        Self { mount, path }
    }

    /// The root of `mount`.
    pub fn root(mount: MountId) -> Self {
        Self { mount, path: b"" }
    }
}

/// A Linux error number as the host gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Errno(pub i32);

impl Errno {
    /// The number, e.g. `libc::ENOENT`.
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

/// Seconds and nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp {
    pub sec: i64,
    pub nsec: u32,
}

/// What statx(2) says about a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Type and permission bits (`S_IFMT` and below).
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub ino: u64,
    pub dev_major: u32,
    pub dev_minor: u32,
    pub rdev_major: u32,
    pub rdev_minor: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Birth time, where the file system has one.
    pub btime: Option<Timestamp>,
}

impl Attr {
    /// `mode & S_IFMT`, e.g. `libc::S_IFREG`.
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    pub fn is_dir(&self) -> bool {
        self.file_type() == libc::S_IFDIR
    }

    pub fn is_regular(&self) -> bool {
        self.file_type() == libc::S_IFREG
    }

    pub fn is_symlink(&self) -> bool {
        self.file_type() == libc::S_IFLNK
    }
}

/// Which way a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

bitflags! {
    /// How a file is opened besides its access; values are Linux's `O_*` except `ALLOW_FIFO`.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        const APPEND = libc::O_APPEND as u32;
        const TRUNC = libc::O_TRUNC as u32;
        const DIRECT = libc::O_DIRECT as u32;
        const DSYNC = libc::O_DSYNC as u32;
        const SYNC = libc::O_SYNC as u32;
        const NOATIME = libc::O_NOATIME as u32;
        /// The client takes a fifo too; it is opened with `O_NONBLOCK`.
        const ALLOW_FIFO = 1 << 31;
    }

    /// Flags of renameat2(2).
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = libc::RENAME_NOREPLACE;
        const EXCHANGE = libc::RENAME_EXCHANGE;
    }
}

/// How to open a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenHow {
    pub access: Access,
    pub flags: OpenFlags,
}

impl OpenHow {
    pub fn new(access: Access, flags: OpenFlags) -> Self {
        Self { access, flags }
    }

    /// Plain `O_RDONLY`.
    pub fn read() -> Self {
        Self::new(Access::Read, OpenFlags::empty())
    }
}

/// Owner and group for a new node. Nothing is changed where the kernel's choice already fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// What mknod makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    Regular,
    Fifo,
    Socket,
    /// Only on mounts whose policy allows devices.
    Char {
        major: u32,
        minor: u32,
    },
    /// Only on mounts whose policy allows devices.
    Block {
        major: u32,
        minor: u32,
    },
}

/// Which of the host's unix sockets the client may have to do with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostSockets {
    #[default]
    None,
    /// It connects to those it finds in its mounts.
    Open,
    /// Those it makes there can be connected to from the host.
    Create,
    All,
}

impl HostSockets {
    pub fn opens(self) -> bool {
        matches!(self, Self::Open | Self::All)
    }

    pub fn creates(self) -> bool {
        matches!(self, Self::Create | Self::All)
    }
}

/// Type of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    Stream,
    Datagram,
    SeqPacket,
}

/// A new value for atime or mtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// `UTIME_OMIT`
    #[default]
    Omit,
    /// `UTIME_NOW`
    Now,
    To(Timestamp),
}

/// Changes to a node's attributes; applied in the order size, owner, mode, times (chown clears
/// set-uid bits that mode may want to keep). The first failure stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Regular files only.
    pub size: Option<u64>,
    pub atime: SetTime,
    pub mtime: SetTime,
}

/// Where a walk ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WalkEnd {
    /// Every component was reached.
    Complete,
    /// The component after the last of `attrs` does not exist.
    Missing,
    /// The last of `attrs` is a symlink (the walk's last component or an earlier one).
    Symlink(Vec<u8>),
    /// The last of `attrs` is neither a directory nor a symlink, and more components follow.
    NotDirectory,
    /// The component after the last of `attrs` could not be looked up.
    Failed(Errno),
}

/// Answer to a walk.
#[derive(Debug)]
pub struct Walk {
    /// One a component reached, in order.
    pub attrs: Vec<Attr>,
    pub end: WalkEnd,
    /// Set when an open was asked for and `end` is [`WalkEnd::Complete`].
    pub opened: Option<Result<std::os::fd::OwnedFd, Errno>>,
}

/// What readdir reports about each entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadDirDetail {
    /// Name, inode number and type.
    Names,
    /// Attributes of directories as well, and of entries whose type the file system does not tell.
    Directories,
    /// Attributes and link targets of all entries.
    Attributes,
    /// In a listed tree also which entries have no extended attributes.
    All,
}

/// One directory entry; `.` and `..` are never reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    pub name: Vec<u8>,
    pub ino: u64,
    /// `DT_*` of getdents64(2); may be `DT_UNKNOWN`.
    pub file_type: u8,
    /// Pass to readdir to go on after this entry.
    pub cookie: u64,
    /// If the detail asks for it; absent if the entry vanished meanwhile.
    pub attr: Option<Attr>,
    /// With [`ReadDirDetail::Attributes`], for symlinks.
    pub target: Option<Vec<u8>>,
}

/// A piece of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirChunk {
    pub entries: Vec<DirEntry>,
    /// Nothing follows the last entry.
    pub end: bool,
}

/// A directory of a listed tree.
#[derive(Debug)]
pub struct TreeDir {
    /// The one it lies in: an index of one before it; `None`: the directory asked about.
    pub above: Option<usize>,
    /// Its name there; empty: it is the directory asked about.
    pub name: Vec<u8>,
    pub listing: crate::listing::Listing,
}

/// What statfs(2) says, in its units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatFs {
    /// File system magic, e.g. `EXT4_SUPER_MAGIC`.
    pub magic: u64,
    pub block_size: u64,
    pub fragment_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u64,
    /// `ST_*` flags.
    pub flags: u64,
}

/// What setxattr demands of the attribute's earlier existence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    Any,
    /// `XATTR_CREATE`
    Create,
    /// `XATTR_REPLACE`
    Replace,
}

/// What sync writes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncScope {
    /// The file or directory: fsync(2). For directories above all: the client holds no fd of them.
    Node,
    /// The file system the node lies on: syncfs(2).
    FileSystem,
}
