//! Where page tables lie: ranges of a file, so that whoever limits guest memory counts them too.
//!
//! A [`Slab`] is such a range as a slot of the virtual machine. Its pages are asked of the host
//! before they are used, a few at a time, because a table is written by plain stores: where no
//! memory is left, that shows as an error and not as a signal. When a slab is given up its memory
//! goes back at once; its slot, whose removal is slow, goes with many others ([`Graveyard`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::slots::{Memory, Slot};
use super::tables::word;
use crate::Retired;
use crate::common::PAGE;
use crate::common::host_calls::count;
use crate::memory::{MemFd, allocate, punch_hole};

/// Bytes asked of the host at a time.
const STEP: u64 = 16 * PAGE;
/// So many dead slabs are removed together.
const GRAVES: usize = 32;

/// A source of memory for page tables.
pub trait TableMemory: Send + Sync {
    /// `len` bytes of a file that nobody else uses: sparse, reading as zeros.
    ///
    /// # Errors
    /// There is no such range.
    fn reserve(&self, len: u64) -> io::Result<Reserved>;
}

/// A range of a file.
#[derive(Clone)]
pub struct Reserved {
    pub file: Arc<OwnedFd>,
    /// Bytes; a multiple of the page size.
    pub offset: u64,
    /// The range is free again when this is dropped.
    pub range: Retired,
}

/// Slabs of address spaces that are gone.
#[derive(Default)]
pub(super) struct Graveyard(Mutex<Vec<(Slot, Reserved)>>);

impl Graveyard {
    fn bury(&self, slot: Slot, reserved: Reserved) {
        let mut graves = self.0.lock();
        graves.push((slot, reserved));
        if graves.len() >= GRAVES {
            let old = std::mem::take(&mut *graves);
            drop(graves);
            drop(old);
        }
    }
}

pub(super) struct Slab {
    /// None only while it is dropped.
    slot: Option<(Slot, Reserved)>,
    graveyard: Arc<Graveyard>,
    /// Bytes that the host has given memory for, and that are in use.
    filled: AtomicU64,
    used: AtomicU64,
}

impl Slab {
    pub fn new(
        memory: &Arc<Memory>,
        graveyard: &Arc<Graveyard>,
        source: &dyn TableMemory,
        len: u64,
    ) -> io::Result<Slab> {
        let reserved = source.reserve(len)?;
        let slot = memory.file(reserved.file.as_fd(), reserved.offset, len as usize, true)?;
        Ok(Slab {
            slot: Some((slot, reserved)),
            graveyard: graveyard.clone(),
            filled: AtomicU64::new(0),
            used: AtomicU64::new(0),
        })
    }

    /// Guest-physical address of a zeroed page; None: it is used up. Called by one thread at a time.
    pub fn page(&self) -> io::Result<Option<u64>> {
        let Some((slot, reserved)) = &self.slot else {
            return Ok(None);
        };
        let used = self.used.load(Ordering::Relaxed);
        if used >= slot.len() {
            return Ok(None);
        }
        if used >= self.filled.load(Ordering::Relaxed) {
            count();
            allocate(reserved.file.as_fd(), reserved.offset + used, STEP)?;
            self.filled.store(used + STEP, Ordering::Relaxed);
        }
        self.used.store(used + PAGE, Ordering::Relaxed);
        Ok(Some(slot.address() + used))
    }

    pub fn holds(&self, table: u64) -> bool {
        self.slot.as_ref().is_some_and(|(slot, _)| {
            table.wrapping_sub(slot.address()) < self.used.load(Ordering::Relaxed)
        })
    }

    /// An entry of a table in this slab.
    pub fn entry(&self, table: u64, index: usize) -> Option<&AtomicU64> {
        let (slot, _) = self.slot.as_ref()?;
        let offset = table.wrapping_sub(slot.address());
        (offset < self.used.load(Ordering::Relaxed)).then(|| word(slot, offset + 8 * index as u64))
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        if let Some((slot, reserved)) = self.slot.take() {
            count();
            // Failing, it is given back with the range.
            let filled = self.filled.load(Ordering::Relaxed).max(PAGE);
            let _ = punch_hole(reserved.file.as_fd(), reserved.offset, filled);
            self.graveyard.bury(slot, reserved);
        }
    }
}

/// A file of our own, where nobody brings memory.
pub(super) struct OwnFile {
    file: Arc<OwnedFd>,
    free: Arc<Mutex<Free>>,
}

struct Free {
    next: u64,
    /// Offset and length.
    ranges: Vec<(u64, u64)>,
}

struct OwnRange {
    free: Arc<Mutex<Free>>,
    offset: u64,
    len: u64,
}

impl Drop for OwnRange {
    fn drop(&mut self) {
        self.free.lock().ranges.push((self.offset, self.len));
    }
}

impl OwnFile {
    pub fn new() -> io::Result<OwnFile> {
        let file = MemFd::create(c"page-tables")?;
        file.set_len(1 << 44)?;
        Ok(OwnFile {
            file: Arc::new(file.into_fd()),
            free: Arc::new(Mutex::new(Free {
                next: 0,
                ranges: Vec::new(),
            })),
        })
    }
}

impl TableMemory for OwnFile {
    fn reserve(&self, len: u64) -> io::Result<Reserved> {
        let mut free = self.free.lock();
        let found = free.ranges.iter().position(|range| range.1 == len);
        let offset = match found {
            Some(at) => free.ranges.swap_remove(at).0,
            None => {
                free.next += len;
                free.next - len
            }
        };
        drop(free);
        Ok(Reserved {
            file: self.file.clone(),
            offset,
            range: Arc::new(OwnRange {
                free: self.free.clone(),
                offset,
                len,
            }),
        })
    }
}
