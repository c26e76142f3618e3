//! A writable layer in memory over a tree that is never changed: the container's root.
//!
//! A [`Node`] stands for one file of the merged tree. It begins as a mere reference to its lower
//! inode. The first change gives it attributes of its own (and, for content, pages of its own over
//! the lower file, see [`crate::fs::tmpfs::data`]); from then on it is *pinned*: its parent's table
//! holds it, and the parent is pinned too. Names made, moved or removed are entries of that table;
//! what the table does not mention is as in the lower directory. So renaming a lower directory moves
//! one entry, and what is below it is found through the node, wherever it went.
//!
//! st_ino and st_dev of a file are its lower file's for ever; new files count from [`FIRST_INO`].
//! Lower files with several names are one node for all of them, through a table by inode number.
//! Everything here is gone with the sandbox.

pub mod changes;
mod dir;
mod file;
mod node;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::Result;
use crate::fs::inode::{Dev, Inode, StatFs};
use crate::fs::mount::{FileSystem, anonymous_dev};
use crate::fs::tmpfs::Space;
use crate::mm::MemoryFile;
use crate::mm::types::PAGE_SIZE;
pub use node::Node;

/// OVERLAYFS_SUPER_MAGIC.
const MAGIC: u64 = 0x794c_7630;
/// Inode numbers of files that are in no lower tree start here, above those of real file systems.
const FIRST_INO: u64 = 1 << 48;

/// A lower file with several names.
enum Link {
    Unchanged(Weak<Node>),
    /// Changed: kept until its last name is gone.
    Pinned(Arc<Node>),
}

/// A mounted overlay.
pub struct OverlayFs {
    space: Arc<Space>,
    dev: Dev,
    next_ino: AtomicU64,
    /// Devices of the lower tree and what the guest sees for them.
    devices: Mutex<Vec<(Dev, Dev)>>,
    links: Mutex<HashMap<(Dev, u64), Link>>,
}

impl OverlayFs {
    /// Covers the tree below `lower`. `max_bytes` limits the content of changed files.
    pub fn mount(
        memory: Arc<MemoryFile>,
        lower: Arc<dyn Inode>,
        max_bytes: Option<u64>,
    ) -> Result<Arc<FileSystem>> {
        let dev = anonymous_dev();
        let total = nix::sys::sysinfo::sysinfo().map_or(1 << 32, |i| i.ram_total());
        let pages = max_bytes.unwrap_or(total / 2).div_ceil(PAGE_SIZE);
        let fs = Arc::new(OverlayFs {
            space: Space::new(memory, pages),
            dev,
            next_ino: AtomicU64::new(FIRST_INO),
            devices: Mutex::new(vec![(lower.attr()?.dev, dev)]),
            links: Mutex::default(),
        });
        let root = Node::lower(&fs, lower, None)?;
        root.set_pinned();
        Ok(FileSystem::new("overlay", dev, root, String::new()))
    }

    fn device(&self, lower: Dev) -> Dev {
        let mut devices = self.devices.lock();
        if let Some((_, dev)) = devices.iter().find(|(l, _)| *l == lower) {
            return *dev;
        }
        let dev = anonymous_dev();
        devices.push((lower, dev));
        dev
    }

    /// Changed lower files with several names.
    fn pinned_links(&self) -> Vec<Arc<Node>> {
        let links = self.links.lock();
        let pinned = links.values().filter_map(|link| match link {
            Link::Pinned(node) => Some(node.clone()),
            Link::Unchanged(_) => None,
        });
        pinned.collect()
    }

    fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    fn statfs(&self) -> StatFs {
        let free = self.space.max_pages.saturating_sub(self.space.used());
        StatFs {
            magic: MAGIC,
            block_size: PAGE_SIZE,
            blocks: self.space.max_pages,
            blocks_free: free,
            blocks_avail: free,
            files: self.space.max_pages,
            files_free: free,
            fsid: self.dev.encode(),
            name_max: 255,
        }
    }
}
