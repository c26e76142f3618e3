//! The page tables of one guest address space.
//!
//! Four levels of 4 KiB tables (Intel SDM vol. 3 §4.5) in memory of the Sentry's, which the guest
//! cannot reach: no table maps it. They are written with the guest running. What KVM and the
//! processor remember of an entry that was taken away is made forgotten by the caller, see
//! [`super::space`].
//!
//! A table stays where it is until the address space goes, because what points to it may be
//! remembered as well. Its memory is then used for nothing else before the slot it lies in was
//! removed, which is done for many address spaces at a time ([`Graveyard`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::slots::{Memory, Slot};
use crate::Prot;
use crate::common::PAGE;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set ahead, so that nobody but us writes entries.
const ACCESSED_DIRTY: u64 = 0b11 << 5;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bytes of tables taken from the host at a time: first, and then.
const FIRST_SLAB: usize = 64 * PAGE as usize;
const SLAB: usize = 512 * PAGE as usize;
/// Tables an address space may have: they are memory that the host accounts to the Sentry.
const MAX_TABLES: usize = 16 * 1024;
/// So many dead slabs are removed together.
const GRAVES: usize = 32;

/// Slabs of address spaces that are gone.
#[derive(Default)]
pub(super) struct Graveyard(Mutex<Vec<Slot>>);

impl Graveyard {
    fn bury(&self, slabs: Vec<Slot>) {
        let mut graves = self.0.lock();
        graves.extend(slabs);
        if graves.len() >= GRAVES {
            let old = std::mem::take(&mut *graves);
            drop(graves);
            drop(old);
        }
    }
}

/// An entry that lets the kernel half of the tables hang below `table`.
pub(super) fn kernel_entry(table: u64) -> u64 {
    table | PRESENT | WRITE
}

/// A leaf entry of the kernel's own pages: not for user code.
pub(super) fn kernel_page(address: u64, writable: bool) -> u64 {
    let rights = if writable { WRITE | NO_EXECUTE } else { 0 };
    address | PRESENT | ACCESSED_DIRTY | rights
}

pub(super) struct Tables {
    memory: Arc<Memory>,
    graveyard: Arc<Graveyard>,
    slabs: Vec<Slot>,
    /// Tables taken from the last slab.
    used: u64,
    count: usize,
    root: u64,
}

impl Tables {
    /// Empty but for the page directory of ring 0, `kernel`, at [`super::ring0::BASE`].
    pub fn new(
        memory: &Arc<Memory>,
        graveyard: &Arc<Graveyard>,
        kernel: u64,
    ) -> io::Result<Tables> {
        let mut tables = Tables {
            memory: memory.clone(),
            graveyard: graveyard.clone(),
            slabs: vec![memory.anonymous(FIRST_SLAB)?],
            used: 0,
            count: 0,
            root: 0,
        };
        tables.root = tables.table()?;
        let base = super::ring0::BASE;
        let directory = tables.below(tables.root, index(base, 3))?;
        if let Some(entry) = tables.entry(directory, index(base, 2)) {
            entry.store(kernel_entry(kernel), Ordering::SeqCst);
        }
        Ok(tables)
    }

    /// Guest-physical address of the root: what CR3 is to be.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Maps the page at `addr` to guest-physical `page`.
    pub fn set(&mut self, addr: u64, page: u64, prot: Prot) -> io::Result<()> {
        let mut table = self.root;
        for level in [3, 2, 1] {
            table = self.below(table, index(addr, level))?;
        }
        let mut value = page & ADDRESS | PRESENT | USER | ACCESSED_DIRTY;
        if prot.contains(Prot::WRITE) {
            value |= WRITE;
        }
        if !prot.contains(Prot::EXEC) {
            value |= NO_EXECUTE;
        }
        if let Some(entry) = self.entry(table, index(addr, 0)) {
            entry.store(value, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Takes all mappings from `start` to `end` away. Whether there was one.
    pub fn clear(&self, start: u64, end: u64) -> bool {
        self.clear_below(self.root, 3, start, end)
    }

    fn clear_below(&self, table: u64, level: u32, start: u64, end: u64) -> bool {
        let size = PAGE << (9 * level);
        let mut found = false;
        let mut at = start;
        while at < end {
            let next = (at / size + 1) * size;
            if let Some(entry) = self.entry(table, index(at, level)) {
                let value = entry.load(Ordering::Relaxed);
                if value & PRESENT != 0 {
                    if level == 0 {
                        entry.store(0, Ordering::SeqCst);
                        found = true;
                    } else {
                        let below = value & ADDRESS;
                        found |= self.clear_below(below, level - 1, at, end.min(next));
                    }
                }
            }
            at = next;
        }
        found
    }

    fn below(&mut self, table: u64, index: usize) -> io::Result<u64> {
        let value = self
            .entry(table, index)
            .map_or(0, |entry| entry.load(Ordering::Relaxed));
        if value & PRESENT != 0 {
            return Ok(value & ADDRESS);
        }
        let new = self.table()?;
        if let Some(entry) = self.entry(table, index) {
            let value = new | PRESENT | WRITE | USER | ACCESSED_DIRTY;
            entry.store(value, Ordering::SeqCst);
        }
        Ok(new)
    }

    fn table(&mut self) -> io::Result<u64> {
        if self.count >= MAX_TABLES {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let full = |slab: &Slot| self.used * PAGE >= slab.len();
        if self.slabs.last().is_none_or(full) {
            self.slabs.push(self.memory.anonymous(SLAB)?);
            self.used = 0;
        }
        let address = self.slabs.last().map_or(0, Slot::address) + self.used * PAGE;
        self.used += 1;
        self.count += 1;
        Ok(address)
    }

    /// An entry of one of our tables.
    fn entry(&self, table: u64, index: usize) -> Option<&AtomicU64> {
        let within = |slab: &&Slot| {
            let offset = table.wrapping_sub(slab.address());
            offset < slab.len()
        };
        let slab = self.slabs.iter().rev().find(within)?;
        Some(word(slab, table - slab.address() + 8 * index as u64))
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        self.graveyard.bury(std::mem::take(&mut self.slabs));
    }
}

/// An aligned word of memory that the processor may read at any time.
pub(super) fn word(slot: &Slot, offset: u64) -> &AtomicU64 {
    let offset = offset.min(slot.len() - 8) & !7;
    // SAFETY: in bounds and aligned, in a mapping that lives as long as the slot; all accesses of
    // the process to it are atomic ones.
    unsafe { AtomicU64::from_ptr((slot.host() + offset) as *mut u64) }
}

fn index(addr: u64, level: u32) -> usize {
    (addr >> (12 + 9 * level)) as usize & 0x1ff
}
