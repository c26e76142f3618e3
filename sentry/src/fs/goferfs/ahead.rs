//! What is asked of the Gofer before the guest asks for it.
//!
//! Only in a tree that others seldom change: what was brought counts for a while, or until we change
//! something, and then all of it goes. Directories come in the order of a walk, several in one
//! message, once a guest lists one after the other; files of one directory come open, several in
//! one message, once a guest opens one after the other. How many is doubled as long as they are
//! used. What nobody asks for is pushed out by what comes later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use runsc_gofer::listing::Listing;
use runsc_gofer::protocol::{self, MAX_OPEN, MAX_TREE, ReadDirDetail};

use crate::fs::moment::now_ns;

/// Bytes of listings kept that nobody has asked for yet.
const MAX_BYTES: usize = 2 << 20;
/// Open files kept that nobody has asked for yet.
const MAX_FILES: usize = 2 * MAX_OPEN;
/// Messages that bring attributes after a guest has looked at some.
const ATTRIBUTES: u32 = 16;

/// A file that is open already.
pub(super) type OpenFile = (OwnedFd, protocol::Attr);

/// A listed directory, and how it is used.
pub(super) struct Directory {
    pub listing: Listing,
    pub detail: ReadDirDetail,
    /// When it was listed.
    pub at_ns: u64,
    /// Look-ups of entries whose attributes are not known.
    pub unknown: AtomicU32,
    /// Questions about extended attributes of entries of which not even that is known.
    pub unknown_xattrs: AtomicU32,
    /// The subdirectories, by index, whose listings were brought.
    pub brought: Mutex<HashSet<usize>>,
    /// The index of the file that comes after the one opened last.
    next_open: AtomicU32,
}

/// How much to bring with one message.
#[derive(Clone, Copy)]
struct Window {
    size: u32,
    max: u32,
    /// Since the last message: brought beyond what was asked for, used, and pushed out unused.
    brought: u32,
    used: u32,
    lost: u32,
}

/// How a file that is opened lies to the one opened before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The first of its directory.
    First,
    Next,
    Other,
}

struct Waiting {
    listings: HashMap<Vec<u8>, Arc<Directory>>,
    /// Their paths, the oldest first; some may be used already.
    order: VecDeque<Vec<u8>>,
    bytes: usize,
    files: VecDeque<(Vec<u8>, OpenFile)>,
    trees: Window,
    opens: Window,
}

pub(super) struct Ahead {
    waiting: Mutex<Waiting>,
    /// Changes of the tree so far: what was asked for before one is not kept after it.
    changes: AtomicU64,
    attributes: AtomicU32,
    xattrs: AtomicU32,
}

impl Directory {
    pub fn new(listing: Listing, detail: ReadDirDetail) -> Directory {
        Directory {
            listing,
            detail,
            at_ns: now_ns(),
            unknown: AtomicU32::new(0),
            unknown_xattrs: AtomicU32::new(0),
            brought: Mutex::default(),
            next_open: AtomicU32::new(u32::MAX),
        }
    }

    fn next_file(&self, from: usize) -> Option<usize> {
        let is_file = |e: runsc_gofer::listing::Listed<'_>| e.file_type == libc::DT_REG;
        let at = self.listing.from(from).position(is_file);
        at.map(|at| from.saturating_add(at))
    }

    /// The file with index `at` is being opened.
    fn opens(&self, at: usize) -> Turn {
        let next = self.next_file(at.saturating_add(1));
        let next = next.and_then(|next| u32::try_from(next).ok());
        let expected = self
            .next_open
            .swap(next.unwrap_or(u32::MAX), Ordering::Relaxed);
        if expected as usize == at {
            Turn::Next
        } else if self.next_file(0) == Some(at) {
            Turn::First
        } else {
            Turn::Other
        }
    }
}

impl Window {
    fn new(max: u32) -> Window {
        Window {
            size: 1,
            max,
            brought: 0,
            used: 0,
            lost: 0,
        }
    }

    /// The size of the next message.
    fn next(&mut self) -> u32 {
        if self.lost > self.used {
            self.size = (self.size / 4).max(1);
        } else if self.used * 2 >= self.brought {
            self.size = self.size.saturating_mul(4).min(self.max);
        }
        (self.brought, self.used, self.lost) = (0, 0, 0);
        self.size
    }
}

impl Default for Ahead {
    fn default() -> Ahead {
        Ahead {
            waiting: Mutex::new(Waiting {
                listings: HashMap::new(),
                order: VecDeque::new(),
                bytes: 0,
                files: VecDeque::new(),
                trees: Window::new(MAX_TREE),
                opens: Window::new(MAX_OPEN as u32),
            }),
            changes: AtomicU64::new(0),
            attributes: AtomicU32::new(0),
            xattrs: AtomicU32::new(0),
        }
    }
}

impl Ahead {
    /// To be given to what keeps the answer of a question that is about to be asked.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The tree has changed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let mut waiting = self.waiting.lock();
        let listings = std::mem::take(&mut waiting.listings);
        let files = std::mem::take(&mut waiting.files);
        waiting.order.clear();
        waiting.bytes = 0;
        drop(waiting);
        drop((listings, files));
    }

    /// What listings should tell of each entry.
    pub fn detail(&self) -> ReadDirDetail {
        let wanted = |left: &AtomicU32| {
            let less = |left: u32| left.checked_sub(1);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
        };
        match (wanted(&self.xattrs), wanted(&self.attributes)) {
            (true, _) => ReadDirDetail::All,
            (false, true) => ReadDirDetail::Attributes,
            (false, false) => ReadDirDetail::Directories,
        }
    }

    /// A guest looks at extended attributes of what it has listed.
    pub fn use_xattrs(&self) {
        self.xattrs.store(ATTRIBUTES, Ordering::Relaxed);
    }

    /// A guest looks at attributes of what it has listed.
    pub fn use_attributes(&self) {
        self.attributes.store(ATTRIBUTES, Ordering::Relaxed);
    }

    pub fn wants_attributes(&self) -> bool {
        self.attributes.load(Ordering::Relaxed) != 0
    }

    /// Whether there is any listing that nobody has asked for yet.
    pub fn has_listings(&self) -> bool {
        !self.waiting.lock().listings.is_empty()
    }

    /// The listing of the directory at `path`, if it was brought.
    pub fn take(&self, path: &[u8]) -> Option<Arc<Directory>> {
        let mut waiting = self.waiting.lock();
        let found = waiting.listings.remove(path)?;
        waiting.bytes = waiting.bytes.saturating_sub(found.listing.bytes());
        waiting.trees.used += 1;
        if waiting.listings.is_empty() {
            waiting.order.clear();
        }
        Some(found)
    }

    /// How many directories to bring with the next listing of a walk.
    pub fn tree_window(&self) -> u32 {
        self.waiting.lock().trees.next()
    }

    /// Keeps listings that came with one that was asked for.
    pub fn put(&self, changes: u64, brought: Vec<(Vec<u8>, Arc<Directory>)>) {
        let mut old = Vec::new();
        let mut waiting = self.waiting.lock();
        if self.changes() != changes {
            return;
        }
        waiting.trees.brought += brought.len() as u32;
        for (path, directory) in brought {
            waiting.bytes += directory.listing.bytes();
            waiting.order.push_back(path.clone());
            old.extend(waiting.listings.insert(path, directory));
        }
        while waiting.bytes > MAX_BYTES
            && let Some(path) = waiting.order.pop_front()
        {
            let lost = waiting.listings.remove(&path);
            waiting.trees.lost += u32::from(lost.is_some());
            old.extend(lost);
            let gone: usize = old.drain(..).map(|d| d.listing.bytes()).sum();
            waiting.bytes = waiting.bytes.saturating_sub(gone);
        }
        drop(waiting);
    }

    /// The file at `path`, the one with index `at` of `directory`, if it was brought. Else: how
    /// many to bring with it.
    pub fn open(&self, directory: &Directory, at: usize, path: &[u8]) -> Result<OpenFile, u32> {
        let turn = directory.opens(at);
        let mut waiting = self.waiting.lock();
        if let Some(i) = waiting.files.iter().position(|(p, _)| p == path)
            && let Some((_, file)) = waiting.files.remove(i)
        {
            waiting.opens.used += 1;
            return Ok(file);
        }
        match turn {
            // Worth a guess if that went well in other directories.
            Turn::First if waiting.opens.size == 1 => Err(1),
            Turn::First | Turn::Next => Err(waiting.opens.next()),
            Turn::Other => Err(1),
        }
    }

    /// Keeps files that came with one that was asked for.
    pub fn put_files(&self, changes: u64, brought: Vec<(Vec<u8>, OpenFile)>) {
        let mut waiting = self.waiting.lock();
        if self.changes() != changes {
            return;
        }
        waiting.opens.brought += brought.len() as u32;
        waiting.files.extend(brought);
        let over = waiting.files.len().saturating_sub(MAX_FILES);
        waiting.opens.lost += over as u32;
        let old: Vec<_> = waiting.files.drain(..over).collect();
        drop(waiting);
        drop(old);
    }
}
