//! tmpfs: a file system in memory (tmpfs(5)), and memfd.
//!
//! [`Node`] is its inode, [`data::Data`] the content of a regular file. Sizes are counted in pages,
//! inodes one by one; both have limits. Names live in the directories' tables, so dentries of a
//! tmpfs can be dropped at any time.

pub mod data;
mod file;
mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::errno::{Errno, Result};
use crate::fs::anon;
use crate::fs::file::File;
use crate::fs::inode::{Dev, FileType, Inode, NewNode, OpenFlags, StatFs};
use crate::fs::mount::{FileSystem, FileSystemType, anonymous_dev};
use crate::kernel::cred::{Gid, Uid};
use crate::mm::MemoryFile;
use crate::mm::types::PAGE_SIZE;
pub use data::{Seals, Space};
pub use file::RegularFile;
pub use node::Node;

/// TMPFS_MAGIC.
pub const MAGIC: u64 = 0x0102_1994;

/// Mount options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes; None: half of the memory, the sandbox's if that is limited.
    pub size: Option<u64>,
    /// None: one for each page of half of the memory.
    pub nr_inodes: Option<u64>,
    /// Of the root; default 01777.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A mounted tmpfs.
pub struct Tmpfs {
    pub(in crate::fs) space: Arc<Space>,
    dev: Dev,
    max_inodes: u64,
    inodes: AtomicU64,
    next_ino: AtomicU64,
}

impl Options {
    /// From the data of mount(2). EINVAL for what tmpfs does not know.
    pub fn parse(data: &[u8]) -> Result<Options> {
        let mut options = Options::default();
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|o| !o.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = |radix| u32::from_str_radix(value, radix).map_err(|_| Errno::EINVAL);
            match name {
                "size" => options.size = Some(parse_size(value)?),
                "nr_blocks" => {
                    let size = parse_size(value)?.checked_mul(PAGE_SIZE);
                    options.size = Some(size.ok_or(Errno::EINVAL)?);
                }
                "nr_inodes" => options.nr_inodes = Some(parse_size(value)?),
                "mode" => options.mode = Some(number(8)? & 0o7777),
                "uid" => options.uid = Some(number(10)?),
                "gid" => options.gid = Some(number(10)?),
                "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(size) = self.size {
            parts.push(format!("size={}k", size / 1024));
        }
        if let Some(inodes) = self.nr_inodes {
            parts.push(format!("nr_inodes={inodes}"));
        }
        // Linux does not show what is usual.
        if let Some(mode) = self.mode.filter(|mode| *mode != 0o1777) {
            parts.push(format!("mode={mode:o}"));
        }
        for (name, id) in [("uid", self.uid), ("gid", self.gid)] {
            if let Some(id) = id.filter(|id| *id != 0) {
                parts.push(format!("{name}={id}"));
            }
        }
        parts.join(",")
    }
}

/// `10`, `4k`, `2M`, `1G`, `50%` (of the memory).
fn parse_size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let value: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "%" => return Ok(host_memory() / 100 * value.min(100)),
        _ => return Err(Errno::EINVAL),
    };
    value.checked_mul(factor).ok_or(Errno::EINVAL)
}

fn host_memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(1 << 32, |i| i.ram_total())
}

impl Tmpfs {
    /// An empty one, not mounted.
    pub fn new(memory: Arc<MemoryFile>, options: &Options) -> Arc<Tmpfs> {
        let half = memory.limit().unwrap_or_else(host_memory) / 2;
        // Zero means no limit.
        let limit = |value: u64| if value == 0 { u64::MAX } else { value };
        let pages = limit(options.size.unwrap_or(half).div_ceil(PAGE_SIZE));
        Arc::new(Tmpfs {
            space: Space::new(memory, pages),
            dev: anonymous_dev(),
            max_inodes: limit(options.nr_inodes.unwrap_or(half / PAGE_SIZE)),
            inodes: AtomicU64::new(0),
            next_ino: AtomicU64::new(1),
        })
    }

    /// A new file system, ready to be mounted.
    pub fn mount(memory: Arc<MemoryFile>, options: &Options) -> Result<Arc<FileSystem>> {
        let fs = Self::new(memory, options);
        let node = NewNode {
            perm: options.mode.unwrap_or(0o1777),
            uid: Uid(options.uid.unwrap_or(0)),
            gid: Gid(options.gid.unwrap_or(0)),
        };
        let root = Node::dir(&fs, &node)?;
        Ok(FileSystem::new("tmpfs", fs.dev, root, options.text()))
    }

    pub fn dev(&self) -> Dev {
        self.dev
    }

    fn charge_inode(&self) -> Result<u64> {
        let fits = |n: u64| (n < self.max_inodes).then_some(n + 1);
        self.inodes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|_| Errno::ENOSPC)?;
        Ok(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }

    fn uncharge_inode(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }

    fn statfs(&self) -> StatFs {
        let limited = |max: u64| if max == u64::MAX { 0 } else { max };
        let blocks = limited(self.space.max_pages);
        let files = limited(self.max_inodes);
        let free = blocks.saturating_sub(self.space.used());
        StatFs {
            magic: MAGIC,
            block_size: PAGE_SIZE,
            blocks,
            blocks_free: free,
            blocks_avail: free,
            files,
            files_free: files.saturating_sub(self.inodes.load(Ordering::Relaxed)),
            fsid: self.dev.encode(),
            name_max: 255,
        }
    }

    /// memfd_create(2): an open file without a name in this tree. `sealing`: MFD_ALLOW_SEALING.
    pub fn memfd(
        self: &Arc<Self>,
        name: &[u8],
        owner: (Uid, Gid),
        sealing: bool,
    ) -> Result<Arc<File>> {
        let node = NewNode {
            perm: 0o777,
            uid: owner.0,
            gid: owner.1,
        };
        let node = Node::unnamed(self, &node)?;
        if let Some(data) = node.data()
            && sealing
        {
            data.set_seals(Seals::empty());
        }
        let flags = OpenFlags::RDWR | OpenFlags::LARGEFILE;
        node.extra().get_write()?;
        let inode: Arc<dyn Inode> = node;
        let ops = inode.clone().open(flags)?;
        let name = [b"/memfd:", name].concat();
        Ok(anon::unlinked_writer(inode, &name, ops, flags))
    }
}

/// The content behind an open file of a tmpfs, for F_ADD_SEALS and F_GET_SEALS. EINVAL for others.
pub fn seals_of(file: &File) -> Result<Arc<data::Data>> {
    let node = file.inode().as_any().downcast_ref::<Node>();
    node.and_then(|n| n.data().cloned()).ok_or(Errno::EINVAL)
}

/// mount(2) of type tmpfs (and devtmpfs-like empty trees).
pub struct TmpfsType {
    pub memory: Arc<MemoryFile>,
}

impl FileSystemType for TmpfsType {
    fn name(&self) -> &'static str {
        "tmpfs"
    }

    fn mount(&self, _source: &[u8], data: &[u8]) -> Result<Arc<FileSystem>> {
        Tmpfs::mount(self.memory.clone(), &Options::parse(data)?)
    }
}

/// A node of any type but directory and regular file, as mknod makes it.
fn is_special(kind: FileType) -> bool {
    matches!(
        kind,
        FileType::Fifo | FileType::Socket | FileType::Char | FileType::Block
    )
}
