//! The page tables of one guest address space.
//!
//! Four levels of tables (Intel SDM vol. 3 §4.5) with pages of 4 KiB and 2 MiB, in memory that the
//! guest cannot reach: no table maps it. They are written with the guest running. What KVM and the
//! processor remember of an entry that was taken away is made forgotten by the caller, see
//! [`super::mappings`].
//!
//! A table stays where it is, and what points to it stays as it is, until all tables are given up
//! together: KVM may remember either, and where the processor does not walk our tables itself it
//! finds out about neither. An entry for 2 MiB is the only one that may come to point elsewhere, or
//! to a table; if KVM has copies of our tables ([`Copies`]), all of them are thrown away before.
//!
//! Tables follow from what is mapped, so they can be made again: an address space that would have
//! too many starts over with none ([`Full`]). A vCPU that still runs with the old ones
//! keeps them, empty as they are, by its hold on their [`Root`].

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Machine;
use super::pages::Slab;
use super::slots::Slot;
use crate::Prot;
use crate::common::PAGE;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set ahead, so that nobody but us writes entries.
const ACCESSED_DIRTY: u64 = 0b11 << 5;
/// In an entry of level 1: it maps [`LARGE_PAGE`] bytes.
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What one table of the lowest level maps, and one large page.
pub(super) const LARGE_PAGE: u64 = PAGE << 9;
/// Bytes of tables reserved at a time: first, and then.
const FIRST_SLAB: u64 = 64 * PAGE;
const SLAB: u64 = 512 * PAGE;
/// An address space with no more than this has nothing to give up.
const FEW: usize = 32;

/// Each address space leaves so much for others that one with hundreds before it still finds some.
const PART_OF_SLOTS: usize = 8;
/// With no more it can hardly run.
const FEW_CHUNKS: usize = 4;

/// Whether KVM copies our tables, or the processor walks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copies {
    None,
    /// It does; large pages are then worth little.
    Made,
}

/// Why there is no further table.
#[derive(Debug)]
pub(super) enum Full {
    /// The address space has as many as it may, or the host has no memory for more.
    Tables,
    /// As above, but it has hardly any: starting over gives nothing back.
    Memory(io::Error),
}

impl Full {
    pub fn into_error(self) -> io::Error {
        match self {
            Full::Memory(error) => error,
            Full::Tables => io::ErrorKind::OutOfMemory.into(),
        }
    }
}

/// An entry that lets the kernel half of the tables hang below `table`.
pub(super) fn kernel_entry(table: u64) -> u64 {
    table | PRESENT | WRITE
}

/// As [`kernel_entry`], where guests may have pages.
pub(super) fn user_entry(table: u64) -> u64 {
    table | PRESENT | WRITE | USER | ACCESSED_DIRTY
}

/// A leaf entry of the kernel's own pages: not for user code.
pub(super) fn kernel_page(address: u64, writable: bool) -> u64 {
    let rights = if writable { WRITE | NO_EXECUTE } else { 0 };
    address | PRESENT | ACCESSED_DIRTY | rights
}

/// The tables as a vCPU has them: they exist as long as somebody holds this.
pub(super) struct Root {
    address: u64,
    slabs: Mutex<Vec<Arc<Slab>>>,
}

impl Root {
    /// Guest-physical address: what CR3 is to be.
    pub fn address(&self) -> u64 {
        self.address
    }
}

pub(super) struct Tables {
    machine: Arc<Machine>,
    root: Arc<Root>,
    slabs: Vec<Arc<Slab>>,
    count: usize,
    /// What the entries of a page directory last led to, as far as KVM may remember it: nothing, or
    /// the address of a large page with bit 0 set. Kept where KVM has copies.
    linked: HashMap<u64, Box<[u64; 512]>>,
}

impl Tables {
    /// Empty but for the page directory of ring 0, at [`super::ring0::BASE`].
    pub fn new(machine: &Arc<Machine>) -> io::Result<Tables> {
        let mut tables = Tables {
            machine: machine.clone(),
            root: Arc::new(Root {
                address: 0,
                slabs: Mutex::default(),
            }),
            slabs: Vec::new(),
            count: 0,
            linked: HashMap::new(),
        };
        tables.start()?;
        Ok(tables)
    }

    fn start(&mut self) -> io::Result<()> {
        let address = self.table().map_err(Full::into_error)?;
        self.root = Arc::new(Root {
            address,
            slabs: Mutex::new(self.slabs.clone()),
        });
        let base = super::ring0::BASE;
        let directory = self.below(address, 3, base).map_err(Full::into_error)?;
        let kernel = self.machine.ring0.directory();
        if let Some(entry) = self.entry(directory, index(base, 2)) {
            entry.store(user_entry(kernel), Ordering::SeqCst);
        }
        Ok(())
    }

    pub fn root(&self) -> &Arc<Root> {
        &self.root
    }

    /// Another root with the same below it.
    pub fn other_root(&mut self) -> Result<u64, Full> {
        let other = self.table()?;
        for index in 0..512 {
            if let Some(entry) = self.entry(other, index) {
                entry.store(self.load(self.root.address, index), Ordering::SeqCst);
            }
        }
        Ok(other)
    }

    /// How many slots of files the address space may have now: of what is left for all, a part.
    pub fn max_chunks(&self) -> usize {
        let part = self.machine.memory.left() / PART_OF_SLOTS;
        self.machine.bounds.chunks.min(part.max(FEW_CHUNKS))
    }

    pub fn has_large_pages(&self) -> bool {
        self.machine.large_pages()
    }

    /// Maps what lies from `start` to `end` to guest-physical addresses from `page` on: by large
    /// pages where both allow that and there is no table yet.
    pub fn map(&mut self, start: u64, end: u64, page: u64, prot: Prot) -> Result<(), Full> {
        let mut at = start;
        while at < end {
            let next = end.min((at / LARGE_PAGE + 1) * LARGE_PAGE);
            let page = page + (at - start);
            let large = next - at == LARGE_PAGE
                && page.is_multiple_of(LARGE_PAGE)
                && self.machine.large_pages();
            if !(large && self.map_large(at, page, prot)?) {
                self.map_small(at, next, page, prot)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Within what one table maps.
    fn map_small(&mut self, start: u64, end: u64, page: u64, prot: Prot) -> Result<(), Full> {
        let directory = self.directory(start)?;
        let table = self.below(directory, 1, start)?;
        let Some(slab) = self.slab_of(table) else {
            return Ok(());
        };
        for at in (start..end).step_by(PAGE as usize) {
            if let Some(entry) = slab.entry(table, index(at, 0)) {
                entry.store(user_page(page + (at - start), prot), Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// False: there is a table for smaller ones.
    fn map_large(&mut self, at: u64, page: u64, prot: Prot) -> Result<bool, Full> {
        let directory = self.directory(at)?;
        let value = self.load(directory, index(at, 1));
        if value & PRESENT != 0 && value & LARGE == 0 {
            return Ok(false);
        }
        self.link(directory, index(at, 1), page | 1)?;
        if let Some(entry) = self.entry(directory, index(at, 1)) {
            entry.store(user_page(page, prot) | LARGE, Ordering::SeqCst);
        }
        Ok(true)
    }

    fn directory(&mut self, addr: u64) -> Result<u64, Full> {
        let pointers = self.below(self.root.address, 3, addr)?;
        self.below(pointers, 2, addr)
    }

    /// Takes all mappings from `start` to `end` away, and whatever else large pages there mapped.
    /// Gives the range to make forgotten, if anything was mapped.
    pub fn clear(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let mut gone = None;
        self.clear_below(self.root.address, 3, (start, end), &mut gone);
        gone
    }

    fn clear_below(
        &self,
        table: u64,
        level: u32,
        range: (u64, u64),
        gone: &mut Option<(u64, u64)>,
    ) {
        let Some(slab) = self.slab_of(table) else {
            return;
        };
        let size = PAGE << (9 * level);
        let mut at = range.0;
        while at < range.1 {
            let next = (at / size + 1) * size;
            if let Some(entry) = slab.entry(table, index(at, level)) {
                let value = entry.load(Ordering::Relaxed);
                if value & PRESENT != 0 {
                    if level == 0 || value & LARGE != 0 {
                        entry.store(0, Ordering::SeqCst);
                        let first = gone.map_or(next - size, |(first, _)| first);
                        *gone = Some((first, next));
                    } else {
                        let part = (at, range.1.min(next));
                        self.clear_below(value & ADDRESS, level - 1, part, gone);
                    }
                }
            }
            at = next;
        }
    }

    /// Gives up all tables; there must be nothing in them any more. The next ones are empty.
    pub fn start_over(&mut self) -> io::Result<()> {
        // Failing, the old ones are good for as much.
        *self = Tables::new(&self.machine)?;
        Ok(())
    }

    /// The table that the entry for `addr` in `table`, one of `level`, leads to.
    fn below(&mut self, table: u64, level: u32, addr: u64) -> Result<u64, Full> {
        let index = index(addr, level);
        let value = self.load(table, index);
        if value & PRESENT != 0 && value & LARGE == 0 {
            return Ok(value & ADDRESS);
        }
        if value & PRESENT != 0 {
            // Who takes a part of a large page away takes all of it.
            return Err(Full::Tables);
        }
        let new = self.table()?;
        if level == 1 {
            self.link(table, index, 0)?;
        }
        if let Some(entry) = self.entry(table, index) {
            entry.store(user_entry(new), Ordering::SeqCst);
        }
        Ok(new)
    }

    /// An entry of a page directory, empty now, is to lead to something (see `linked`).
    fn link(&mut self, directory: u64, index: usize, to: u64) -> Result<(), Full> {
        let known = self.linked.get(&directory).map_or(0, |known| known[index]);
        if self.machine.copies() == Copies::None || known == to {
            return Ok(());
        }
        if known != 0 {
            self.machine.memory.forget_all().map_err(Full::Memory)?;
            let slabs = &self.slabs;
            for (directory, known) in &mut self.linked {
                for (index, known) in known.iter_mut().enumerate() {
                    if load(slabs, *directory, index) & LARGE == 0 {
                        *known = 0;
                    }
                }
            }
        }
        if to != 0 {
            if !self.linked.contains_key(&directory) {
                // As much memory as a table.
                self.one_more()?;
            }
            self.linked
                .entry(directory)
                .or_insert_with(|| Box::new([0; 512]))[index] = to;
        }
        Ok(())
    }

    fn one_more(&mut self) -> Result<(), Full> {
        if self.count >= self.machine.bounds.tables {
            return Err(Full::Tables);
        }
        self.count += 1;
        Ok(())
    }

    fn table(&mut self) -> Result<u64, Full> {
        self.one_more()?;
        self.page().map_err(|error| {
            self.count -= 1;
            match self.count {
                ..FEW => Full::Memory(error),
                _ => Full::Tables,
            }
        })
    }

    fn page(&mut self) -> io::Result<u64> {
        if let Some(slab) = self.slabs.last()
            && let Some(page) = slab.page()?
        {
            return Ok(page);
        }
        let len = if self.slabs.is_empty() {
            FIRST_SLAB
        } else {
            SLAB
        };
        let machine = &self.machine;
        let slab = Slab::new(
            &machine.memory,
            &machine.graveyard,
            &*machine.table_memory,
            len,
        )?;
        let page = slab.page()?.ok_or(io::ErrorKind::OutOfMemory)?;
        let slab = Arc::new(slab);
        self.root.slabs.lock().push(slab.clone());
        self.slabs.push(slab);
        Ok(page)
    }

    fn slab_of(&self, table: u64) -> Option<&Slab> {
        slab_of(&self.slabs, table)
    }

    /// An entry of one of our tables.
    fn entry(&self, table: u64, index: usize) -> Option<&AtomicU64> {
        self.slab_of(table)?.entry(table, index)
    }

    fn load(&self, table: u64, index: usize) -> u64 {
        load(&self.slabs, table, index)
    }
}

fn slab_of(slabs: &[Arc<Slab>], table: u64) -> Option<&Slab> {
    let found = slabs.iter().rev().find(|slab| slab.holds(table));
    found.map(|slab| &**slab)
}

fn load(slabs: &[Arc<Slab>], table: u64, index: usize) -> u64 {
    let entry = slab_of(slabs, table).and_then(|slab| slab.entry(table, index));
    entry.map_or(0, |entry| entry.load(Ordering::Relaxed))
}

/// A leaf entry of a guest's page.
pub(super) fn user_page(page: u64, prot: Prot) -> u64 {
    let mut value = page & ADDRESS | PRESENT | USER | ACCESSED_DIRTY;
    if prot.contains(Prot::WRITE) {
        value |= WRITE;
    }
    if !prot.contains(Prot::EXEC) {
        value |= NO_EXECUTE;
    }
    value
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
