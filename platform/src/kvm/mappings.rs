//! What is mapped where in a guest address space, and the page tables that follow it lazily.
//!
//! A change goes into a list of areas; the page tables lose what it concerns and get entries back
//! when the guest touches a page, a block of pages at a time. Where guest address and place in the
//! file are alike modulo 2 MiB, and an area holds the whole block, one entry maps it. A change of
//! any part of such a block takes the whole entry away; what is left gets small ones at its next
//! touch.
//!
//! Taking an entry away is not enough: the processor remembers it, and a KVM without hardware page
//! tables has a copy of it that only writes *by the guest* would keep up to date. Both forget what
//! leads to a page when the host mapping behind that page goes. So the pages concerned are given up
//! in the mapping of ours that their slot lies over (madvise(2) MADV_DONTNEED; the file keeps their
//! content): one call a range, and it is over when that returns, whoever runs the guest. A walk of
//! the tables that began before is repeated by KVM, and finds the entry gone.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::regions::{Chunk, Regions};
use super::tables::{Full, LARGE_PAGE, Root, Tables};
use crate::common::PAGE;
use crate::common::host_calls::count;
use crate::{Access, Fault, HostOp, Prot};

/// Entries are made for all of an area within a block this long, when one of its pages is touched;
/// where large pages fit, for all of them within the chunk.
const BLOCK: u64 = LARGE_PAGE;

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

/// What came of entries that were to be made.
enum Made {
    Some,
    /// Page tables have to be given up first.
    TooMany,
}

/// Pages that are mapped alike.
#[derive(Clone)]
struct Area {
    end: u64,
    prot: Prot,
    file: Arc<OwnedFd>,
    /// Of the first byte, in the file.
    offset: u64,
    kind: Kind,
    chunk_size: u64,
    /// Chunks of the file that entries lead to, by their start in the file.
    chunks: BTreeMap<u64, Arc<Chunk>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shared {
        writable: bool,
    },
    /// Private, and never written so far.
    Unwritten,
    /// Private: `chunks` holds the one copy.
    Copy,
}

pub(super) struct Mappings {
    regions: Arc<Regions>,
    tables: Tables,
    areas: BTreeMap<u64, Area>,
    max_areas: usize,
    /// Guest-physical addresses of chunks that areas may hold, but for copies.
    chunks: HashSet<u64>,
}

impl Mappings {
    pub fn new(regions: &Arc<Regions>, tables: Tables, max_areas: usize) -> Mappings {
        Mappings {
            regions: regions.clone(),
            tables,
            areas: BTreeMap::new(),
            max_areas,
            chunks: HashSet::new(),
        }
    }

    pub fn root(&self) -> &Arc<Root> {
        self.tables.root()
    }

    /// Carries out a change. One that is refused has changed nothing.
    pub fn apply(&mut self, op: &HostOp) -> io::Result<()> {
        match op {
            HostOp::Map {
                addr,
                len,
                prot,
                file,
                offset,
                private,
                populate: _,
            } => self.map(*addr, *len, *prot, file, *offset, *private),
            HostOp::Unmap { addr, len } => self.unmap(*addr, *len),
            HostOp::Protect { addr, len, prot } => self.protect(*addr, *len, *prot),
        }
    }

    fn map(
        &mut self,
        addr: u64,
        len: u64,
        prot: Prot,
        file: &Arc<OwnedFd>,
        offset: u64,
        private: bool,
    ) -> io::Result<()> {
        let end = addr.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        if offset.checked_add(len).is_none_or(|end| end > 1 << 62) || !offset.is_multiple_of(PAGE) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let written = prot.contains(Prot::WRITE);
        let kind = match private {
            false => Kind::Shared { writable: written },
            true if written => Kind::Copy,
            true => Kind::Unwritten,
        };
        let mut area = Area {
            end,
            prot,
            file: file.clone(),
            offset,
            kind,
            chunk_size: Regions::chunk_size(file),
            chunks: BTreeMap::new(),
        };
        self.make_room(addr, end, 1)?;
        self.bound_chunks()?;
        // Whether the file can be mapped so shows at once.
        area.chunk(&self.regions, addr, addr)?;
        self.forget(addr, end);
        self.holds(&area);
        self.insert(addr, area);
        Ok(())
    }

    pub fn unmap(&mut self, addr: u64, len: u64) -> io::Result<()> {
        let end = addr.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        self.make_room(addr, end, 0)?;
        self.forget(addr, end);
        Ok(())
    }

    fn protect(&mut self, addr: u64, len: u64, prot: Prot) -> io::Result<()> {
        let end = addr.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        self.bound_chunks()?;
        let mut changed = Vec::new();
        for (start, area) in self.within(addr, end) {
            let mut piece = area.piece(start, start.max(addr), area.end.min(end));
            piece.1.prot = prot;
            if prot.contains(Prot::WRITE) {
                match piece.1.kind {
                    Kind::Shared { writable: false } => {
                        piece.1.kind = Kind::Shared { writable: true };
                        piece.1.chunks.clear();
                    }
                    Kind::Unwritten => {
                        piece.1.kind = Kind::Copy;
                        piece.1.chunks.clear();
                    }
                    _ => {}
                }
                piece.1.chunk(&self.regions, piece.0, piece.0)?;
            }
            changed.push(piece);
        }
        self.make_room(addr, end, changed.len())?;
        self.invalidate(addr, end);
        self.cut(addr, end);
        for (start, area) in changed {
            self.holds(&area);
            self.insert(start, area);
        }
        Ok(())
    }

    /// The guest touched `addr`, and its processor found no entry that allows it.
    pub fn fault(&mut self, addr: u64, access: Access) -> std::result::Result<(), Fault> {
        let fault = |signal, code, access| Fault {
            signal,
            code,
            addr,
            access,
        };
        let Some((&start, area)) = self.areas.range_mut(..=addr).next_back() else {
            return Err(fault(libc::SIGSEGV, SEGV_MAPERR, Some(access)));
        };
        if area.end <= addr {
            return Err(fault(libc::SIGSEGV, SEGV_MAPERR, Some(access)));
        }
        let (allowed, told) = match access {
            Access::Read => (!area.prot.is_empty(), Some(access)),
            Access::Write => (area.prot.contains(Prot::WRITE), Some(access)),
            Access::Execute => (area.prot.contains(Prot::EXEC), None),
        };
        if !allowed {
            return Err(fault(libc::SIGSEGV, SEGV_ACCERR, told));
        }
        let nothing = |_| fault(libc::SIGBUS, libc::BUS_ADRERR, Some(access));
        self.bound_chunks().map_err(nothing)?;
        match self.make_entries(start, addr).map_err(nothing)? {
            Made::Some => return Ok(()),
            Made::TooMany => self.start_over().map_err(nothing)?,
        }
        match self.make_entries(start, addr).map_err(nothing)? {
            Made::Some => Ok(()),
            Made::TooMany => Err(nothing(io::ErrorKind::OutOfMemory.into())),
        }
    }

    /// Entries for the page at `addr` and some around it, in the area that begins at `start`.
    fn make_entries(&mut self, start: u64, addr: u64) -> io::Result<Made> {
        let Some(area) = self.areas.get_mut(&start) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let page = addr & !(PAGE - 1);
        let (chunk, begin) = area.chunk(&self.regions, start, page)?;
        if area.kind != Kind::Copy {
            self.chunks.insert(chunk.slot.address());
        }
        // Beyond the end of the file, or no memory is left.
        let offset = begin + (addr - start);
        let chunk_start = area.chunk_start(offset);
        let touched = chunk.slot.touch(offset - chunk_start);
        touched.map_err(|_| io::ErrorKind::OutOfMemory)?;
        // What of the area lies in the chunk.
        let chunk_end = chunk_start + chunk.slot.len();
        let low = start + chunk_start.saturating_sub(begin);
        let high = area.end.min(start + (chunk_end - begin));
        let physical = |at: u64| chunk.slot.address() + (begin + (at - start) - chunk_start);
        let block = page / BLOCK * BLOCK;
        let whole = block >= low && block + BLOCK <= high;
        let (first, last) = match whole && physical(block).is_multiple_of(LARGE_PAGE) {
            true if self.tables.has_large_pages() => (
                low.next_multiple_of(LARGE_PAGE),
                high / LARGE_PAGE * LARGE_PAGE,
            ),
            _ => (block.max(low), high.min(block + BLOCK)),
        };
        match self.tables.map(first, last, physical(first), area.prot) {
            Ok(()) => Ok(Made::Some),
            Err(Full::Tables) => Ok(Made::TooMany),
            Err(Full::Memory(error)) => Err(error),
        }
    }

    /// Gives up all page tables, and what can be found again.
    fn start_over(&mut self) -> io::Result<()> {
        self.invalidate(0, super::ring0::BASE);
        self.tables.start_over()?;
        for area in self.areas.values_mut() {
            if area.kind != Kind::Copy {
                area.chunks.clear();
            }
        }
        self.chunks.clear();
        Ok(())
    }

    fn holds(&mut self, area: &Area) {
        if area.kind != Kind::Copy {
            let chunks = area.chunks.values().map(|chunk| chunk.slot.address());
            self.chunks.extend(chunks);
        }
    }

    /// Makes room for one more chunk.
    fn bound_chunks(&mut self) -> io::Result<()> {
        match self.chunks.len() >= self.tables.max_chunks() {
            true => self.start_over(),
            false => Ok(()),
        }
    }

    /// The host has no memory for a page that an entry leads to: the guest is to fault on it.
    pub fn take_all_back(&self) {
        self.invalidate(0, super::ring0::BASE);
    }

    /// The bytes at a guest address where code may be executed, as many as are there.
    pub fn code(&mut self, addr: u64, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for at in addr..addr.saturating_add(len) {
            let Some((&start, area)) = self.areas.range_mut(..=at).next_back() else {
                break;
            };
            if area.end <= at || !area.prot.contains(Prot::EXEC) {
                break;
            }
            let Ok((chunk, begin)) = area.chunk(&self.regions, start, at & !(PAGE - 1)) else {
                break;
            };
            let offset = begin + (at - start);
            match chunk.slot.touch(offset - area.chunk_start(offset)) {
                Ok(byte) => bytes.push(byte),
                Err(_) => break,
            }
        }
        bytes
    }

    /// Fails if cutting at `start` and `end` and adding `new` areas would make too many.
    fn make_room(&self, start: u64, end: u64, new: usize) -> io::Result<()> {
        let cuts = |at: u64| {
            let before = self.areas.range(..at).next_back();
            usize::from(before.is_some_and(|(_, area)| area.end > at))
        };
        let more = cuts(start) + cuts(end) + new;
        // What is covered entirely goes.
        let gone = self
            .areas
            .range(start..end)
            .take_while(|(_, area)| area.end <= end)
            .take(more)
            .count();
        if more > gone && self.areas.len() + (more - gone) > self.max_areas {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        Ok(())
    }

    /// Areas that have a part in a range.
    fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Area)> {
        let first = self.areas.range(..=start).next_back();
        let first = first.filter(|(at, area)| **at < start && area.end > start);
        let rest = self.areas.range(start..end.max(start));
        first.into_iter().chain(rest).map(|(&at, area)| (at, area))
    }

    /// Nothing is mapped from `start` to `end` any more.
    fn forget(&mut self, start: u64, end: u64) {
        self.invalidate(start, end);
        self.cut(start, end);
    }

    /// Nobody reaches memory by way of `start` to `end` until the next fault there.
    fn invalidate(&self, start: u64, end: u64) {
        for (at, area) in self.within(start, end) {
            let cleared = self.tables.clear(at.max(start), area.end.min(end));
            // A large page lies within one area.
            let Some((from, to)) = cleared.map(|(from, to)| (from.max(at), to.min(area.end)))
            else {
                continue;
            };
            let begin = area.offset;
            let (from, to) = (begin + (from - at), begin + (to - at));
            for (&chunk_start, chunk) in &area.chunks {
                let low = from.max(chunk_start);
                let high = to.min(chunk_start + chunk.slot.len());
                if low < high {
                    let host = chunk.slot.host() + (low - chunk_start);
                    give_up(host, high - low, area.kind);
                }
            }
        }
    }

    /// Takes a range out of the list.
    fn cut(&mut self, start: u64, end: u64) {
        let touched: Vec<u64> = self.within(start, end).map(|(at, _)| at).collect();
        for at in touched {
            let Some(area) = self.areas.remove(&at) else {
                continue;
            };
            if at < start {
                let (at, piece) = area.piece(at, at, start);
                self.areas.insert(at, piece);
            }
            if area.end > end {
                let (at, piece) = area.piece(at, end, area.end);
                self.areas.insert(at, piece);
            }
        }
    }

    /// Adds an area where nothing is, joining it with the one before where they are alike.
    fn insert(&mut self, start: u64, mut area: Area) {
        if let Some((&at, before)) = self.areas.range_mut(..start).next_back()
            && before.end == start
            && before.prot == area.prot
            && before.kind == area.kind
            && before.kind != Kind::Copy
            && before.chunk_size == area.chunk_size
            && Arc::ptr_eq(&before.file, &area.file)
            && before.offset + (start - at) == area.offset
        {
            before.end = area.end;
            before.chunks.append(&mut area.chunks);
            return;
        }
        self.areas.insert(start, area);
    }
}

impl Area {
    /// Start of the chunk that holds an offset.
    fn chunk_start(&self, offset: u64) -> u64 {
        match self.kind {
            Kind::Copy => self.chunks.keys().next().copied().unwrap_or(offset),
            _ => offset / self.chunk_size * self.chunk_size,
        }
    }

    /// The chunk behind the page at `addr` of this area, which lies at `start`; and the area's offset.
    fn chunk(&mut self, regions: &Regions, start: u64, addr: u64) -> io::Result<(Arc<Chunk>, u64)> {
        let begin = self.offset;
        let offset = begin + (addr - start);
        if self.kind == Kind::Copy {
            if let Some(chunk) = self.chunks.values().next() {
                return Ok((chunk.clone(), begin));
            }
            let chunk = regions.copy(&self.file, begin, self.end - start)?;
            self.chunks.insert(begin, chunk.clone());
            return Ok((chunk, begin));
        }
        let at = self.chunk_start(offset);
        if let Some(chunk) = self.chunks.get(&at) {
            return Ok((chunk.clone(), begin));
        }
        let writable = self.kind == Kind::Shared { writable: true };
        let chunk = regions.chunk(&self.file, at, self.chunk_size, writable)?;
        self.chunks.insert(at, chunk.clone());
        Ok((chunk, begin))
    }

    /// The part from `from` to `to` of this area, which lies at `start`.
    fn piece(&self, start: u64, from: u64, to: u64) -> (u64, Area) {
        let mut piece = self.clone();
        piece.offset += from - start;
        piece.end = to;
        if piece.kind != Kind::Copy {
            let (low, high) = (piece.offset, piece.offset + (to - from));
            let size = piece.chunk_size;
            piece.chunks.retain(|&at, _| at < high && at + size > low);
        }
        (from, piece)
    }
}

/// Makes KVM and processors forget what leads to host pages of a chunk.
fn give_up(host: u64, len: u64, kind: Kind) {
    count();
    if kind != Kind::Copy {
        // SAFETY: a shared mapping of a file in a slot of ours; its content stays in the file.
        unsafe { libc::madvise(host as *mut _, len as usize, libc::MADV_DONTNEED) };
        return;
    }
    // What was written lives in these pages alone, so they only change their rights for a moment.
    for prot in [libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE] {
        count();
        // SAFETY: a private mapping of ours that only guests and guarded routines touch.
        unsafe { libc::mprotect(host as *mut _, len as usize, prot) };
    }
}
