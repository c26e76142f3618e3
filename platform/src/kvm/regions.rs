//! Ranges of files as guest-physical memory, shared by all guest address spaces.
//!
//! A file is cut into chunks; each chunk that some guest has mapped is one [`Slot`]. Chunks of the
//! MemoryFile are in use all the time; those of other files come and go, and since removing a slot
//! is slow, the last ones used are kept.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::slots::{Memory, Slot};
use crate::common::host_calls::count;

/// Length of a chunk of a large file, and of a small one.
pub(super) const LARGE: u64 = 64 << 20;
const SMALL: u64 = 2 << 20;
/// Chunks kept although no guest has them mapped. Half of them go together: after the first removal
/// of a slot there is little left for KVM to forget.
const KEPT: usize = 128;
/// The cache forgets what is gone when it has grown to this, then to twice what was left.
const SWEEP: usize = 256;

/// A chunk in use. It holds the file, so that its key cannot come to name another one.
pub(super) struct Chunk {
    pub slot: Slot,
    _file: Arc<OwnedFd>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Address of the file's `Arc`.
    file: usize,
    start: u64,
    size: u64,
    writable: bool,
}

#[derive(Default)]
struct Known {
    chunks: HashMap<Key, Weak<Chunk>>,
    sweep_at: usize,
    recent: VecDeque<Arc<Chunk>>,
}

pub(super) struct Regions {
    memory: Arc<Memory>,
    known: Mutex<Known>,
}

impl Regions {
    pub fn new(memory: &Arc<Memory>) -> Regions {
        Regions {
            memory: memory.clone(),
            known: Mutex::default(),
        }
    }

    /// The length of chunks to cut a file into.
    pub fn chunk_size(file: &OwnedFd) -> u64 {
        count();
        let stat = nix::sys::stat::fstat(file.as_fd());
        match stat {
            Ok(stat) if stat.st_size <= SMALL as i64 => SMALL,
            _ => LARGE,
        }
    }

    /// The chunk of `file` that begins at `start`, a multiple of `size`.
    pub fn chunk(
        &self,
        file: &Arc<OwnedFd>,
        start: u64,
        size: u64,
        writable: bool,
    ) -> io::Result<Arc<Chunk>> {
        let key = Key {
            file: Arc::as_ptr(file) as usize,
            start,
            size,
            writable,
        };
        let mut known = self.known.lock();
        if let Some(chunk) = known.chunks.get(&key).and_then(Weak::upgrade) {
            return Ok(chunk);
        }
        let make = || {
            let len = size as usize;
            self.memory.file(file.as_fd(), start, len, writable)
        };
        let slot = match make() {
            // Those kept for nobody go first.
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                known.recent.clear();
                make()
            }
            made => made,
        }?;
        let chunk = Arc::new(Chunk {
            slot,
            _file: file.clone(),
        });
        if known.chunks.len() >= known.sweep_at {
            known.chunks.retain(|_, chunk| chunk.strong_count() > 0);
            known.sweep_at = SWEEP.max(2 * known.chunks.len());
        }
        known.chunks.insert(key, Arc::downgrade(&chunk));
        known.recent.push_back(chunk.clone());
        let old: Vec<Arc<Chunk>> = match known.recent.len() > KEPT {
            true => known.recent.drain(..KEPT / 2).collect(),
            false => Vec::new(),
        };
        drop(known);
        // Not under the lock: it removes slots.
        drop(old);
        Ok(chunk)
    }

    /// A copy of a range of a file that belongs to one mapping alone.
    pub fn copy(&self, file: &Arc<OwnedFd>, start: u64, len: u64) -> io::Result<Arc<Chunk>> {
        let slot = self.memory.copy(file.as_fd(), start, len as usize)?;
        Ok(Arc::new(Chunk {
            slot,
            _file: file.clone(),
        }))
    }
}
