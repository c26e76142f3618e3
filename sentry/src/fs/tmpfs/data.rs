//! The content of a regular file in memory: pages of the MemoryFile, possibly over another file.
//!
//! Pages come in chunks (16 KiB at the start of a file, doubling up to 2 MiB), sparse on the host
//! until touched; a bit a page says whether it belongs to the file or is a hole.
//!
//! A file over a *base* (the lower file of an overlay) reads from it where it has no page of its
//! own. It begins *pristine*: reads and mappings go straight to the base, as if there were nothing
//! in between. [`Data::make_own`] ends that, before the first write: from then on a page is copied
//! when it is written or mapped, and everybody who had mapped the base's pages faults again and
//! finds the copies. So all descriptions and mappings of a file agree at any time, also those that
//! were opened before it was copied up (Linux's overlayfs leaves those behind).
//!
//! Locks: `io` orders writers and size changes, like Linux's inode lock, and is the one lock held
//! while guest memory is copied; faults never take it. `state` is held for moments, and for reading
//! the base when a page is copied.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::file::{File, Seek, WriteAt, default_seek};
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};
use crate::mm::types::{PAGE_SIZE, page_down, page_up};
use crate::mm::{FileRange, MemoryFile, Near, windows};

/// Smallest and largest chunk, bytes.
const MIN_CHUNK: u64 = 16 << 10;
const MAX_CHUNK: u64 = 2 << 20;
/// Most pages made present by one fault.
const FAULT_AHEAD: u64 = 16;
/// Largest size of a file.
pub const MAX_SIZE: u64 = i64::MAX as u64;
/// Bytes copied from a base at once.
const BOUNCE: u64 = 64 << 10;

bitflags::bitflags! {
    /// F_ADD_SEALS of fcntl(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Seals: u32 {
        const SEAL = 1;
        const SHRINK = 2;
        const GROW = 4;
        const WRITE = 8;
        const FUTURE_WRITE = 16;
        const EXEC = 32;
    }
}

/// Where pages come from and how many there may be; shared by the files of a file system.
pub struct Space {
    pub memory: Arc<MemoryFile>,
    /// Pages; `u64::MAX`: no limit.
    pub max_pages: u64,
    used: AtomicU64,
}

impl Space {
    pub fn new(memory: Arc<MemoryFile>, max_pages: u64) -> Arc<Space> {
        Arc::new(Space {
            memory,
            max_pages,
            used: AtomicU64::new(0),
        })
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn charge(&self, pages: u64) -> Result<()> {
        let fits = |used: u64| {
            let after = used.checked_add(pages)?;
            (after <= self.max_pages).then_some(after)
        };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(drop)
            .map_err(|_| Errno::ENOSPC)
    }

    fn uncharge(&self, pages: u64) {
        self.used.fetch_sub(pages, Ordering::Relaxed);
    }
}

struct Chunk {
    range: Arc<FileRange>,
    len: u64,
    /// A bit a page.
    present: Vec<u64>,
}

impl Chunk {
    fn has(&self, page: u64) -> bool {
        self.present[(page / 64) as usize] & (1 << (page % 64)) != 0
    }
    fn set(&mut self, page: u64) {
        self.present[(page / 64) as usize] |= 1 << (page % 64);
    }
    fn clear(&mut self, page: u64) {
        self.present[(page / 64) as usize] &= !(1 << (page % 64));
    }
    fn count(&self) -> u64 {
        self.present.iter().map(|w| u64::from(w.count_ones())).sum()
    }
}

/// Start and length of the chunk that holds byte `offset`.
fn chunk_of(offset: u64) -> (u64, u64) {
    if offset < MIN_CHUNK {
        (0, MIN_CHUNK)
    } else if offset >= MAX_CHUNK {
        (offset & !(MAX_CHUNK - 1), MAX_CHUNK)
    } else {
        let start = 1 << offset.ilog2();
        (start, start)
    }
}

struct Base {
    file: Arc<File>,
    /// Bytes of the base that still show through.
    len: u64,
}

struct State {
    size: u64,
    chunks: BTreeMap<u64, Chunk>,
    base: Option<Base>,
    pristine: bool,
    pages: u64,
    seals: Seals,
}

/// A run of bytes with one source.
enum Piece {
    Pages(Arc<FileRange>, u64, u64),
    Base(Arc<File>, u64),
    Hole(u64),
}

/// See the module documentation.
pub struct Data {
    space: Arc<Space>,
    io: Mutex<()>,
    state: Mutex<State>,
    owners: Mutex<Vec<Weak<dyn MappingOwner>>>,
}

impl Data {
    pub fn new(space: Arc<Space>) -> Arc<Data> {
        Self::make(space, None, 0)
    }

    /// A pristine file over `base`, of `len` bytes.
    pub fn over(space: Arc<Space>, base: Arc<File>, len: u64) -> Arc<Data> {
        Self::make(space, Some(Base { file: base, len }), len)
    }

    fn make(space: Arc<Space>, base: Option<Base>, size: u64) -> Arc<Data> {
        Arc::new(Data {
            space,
            io: Mutex::new(()),
            state: Mutex::new(State {
                size,
                chunks: BTreeMap::new(),
                pristine: base.is_some(),
                base,
                pages: 0,
                seals: Seals::SEAL,
            }),
            owners: Mutex::default(),
        })
    }

    /// Ends the pristine state: the file is about to be written.
    pub fn make_own(&self) {
        {
            let mut state = self.state.lock();
            if !state.pristine {
                return;
            }
            state.pristine = false;
            if let Some(base) = &mut state.base {
                if let Ok(attr) = base.file.attr() {
                    base.len = attr.size;
                }
                state.size = base.len;
            }
        }
        self.invalidate(0, u64::MAX);
    }

    /// Size in bytes and in units of 512 bytes. For a pristine file ask the base's attributes
    /// instead.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state.lock();
        let base = state.base.as_ref().map_or(0, |b| b.len.div_ceil(PAGE_SIZE));
        let blocks = state.pages.max(base).saturating_mul(PAGE_SIZE / 512);
        (state.size, blocks)
    }

    pub fn seals(&self) -> Seals {
        self.state.lock().seals
    }

    pub fn set_seals(&self, seals: Seals) {
        self.state.lock().seals = seals;
    }

    /// F_ADD_SEALS. EPERM, EBUSY.
    pub fn add_seals(&self, seals: Seals) -> Result<()> {
        let mapped = !self.owners.lock().is_empty();
        let _io = self.io.lock();
        let mut state = self.state.lock();
        if state.seals.contains(Seals::SEAL) {
            return Err(Errno::EPERM);
        }
        // Whether a mapping may write is not known here; any counts.
        if seals.contains(Seals::WRITE) && !state.seals.contains(Seals::WRITE) && mapped {
            return Err(Errno::EBUSY);
        }
        state.seals |= seals;
        Ok(())
    }

    fn piece(state: &State, offset: u64, len: u64) -> Piece {
        let (start, chunk_len) = chunk_of(offset);
        let len = len.min(start + chunk_len - offset);
        let base_len = state.base.as_ref().map_or(0, |b| b.len);
        let chunk = state.chunks.get(&start);
        // What the page at `at` is: 2 its own, 1 the base's, 0 a hole.
        let class = |at: u64| match chunk {
            Some(c) if c.has((at - start) / PAGE_SIZE) => 2,
            _ if page_down(at) < base_len => 1,
            _ => 0,
        };
        let kind = class(offset);
        let mut end = page_down(offset) + PAGE_SIZE;
        while end < offset + len && class(end) == kind {
            end += PAGE_SIZE;
        }
        let len = len.min(end - offset);
        match (kind, chunk, &state.base) {
            (2, Some(c), _) => Piece::Pages(c.range.clone(), offset - start, len),
            (1, _, Some(base)) if offset < base.len => {
                Piece::Base(base.file.clone(), len.min(base.len - offset))
            }
            _ => Piece::Hole(len),
        }
    }

    /// Reads; short at the end of the file.
    pub fn read_at(&self, dst: &mut Sink<'_>, mut offset: u64) -> Result<usize> {
        let mut done = 0;
        while dst.remaining() > 0 {
            let (piece, straight) = {
                let state = self.state.lock();
                if state.pristine {
                    (None, state.base.as_ref().map(|b| b.file.clone()))
                } else if offset >= state.size {
                    break;
                } else {
                    let len = (dst.remaining() as u64).min(state.size - offset);
                    (Some(Self::piece(&state, offset, len)), None)
                }
            };
            let step = match (piece, straight) {
                (None, Some(base)) => return base.ops().read_at(&base, dst, offset),
                (Some(piece), _) => Self::read_piece(&self.space.memory, dst, piece, offset),
                (None, None) => break,
            };
            match step {
                Ok((moved, wanted)) => {
                    done += moved;
                    offset += moved as u64;
                    if moved < wanted {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Bytes moved, and how many should have been.
    fn read_piece(
        memory: &MemoryFile,
        dst: &mut Sink<'_>,
        piece: Piece,
        offset: u64,
    ) -> Result<(usize, usize)> {
        match piece {
            Piece::Pages(range, at, len) => {
                let (window, pos, avail) = windows::of_range(memory, &range, at)?;
                let len = (len as usize).min(avail);
                Ok((dst.put_window(&window, pos, len)?, len))
            }
            Piece::Hole(len) => {
                let len = len as usize;
                Ok((dst.put_zeros(len)?, len))
            }
            Piece::Base(base, len) => {
                let mut buffer = vec![0; len.min(BOUNCE) as usize];
                read_full(&base, offset, &mut buffer)?;
                Ok((dst.put(&buffer)?, buffer.len()))
            }
        }
    }

    /// Makes the pages under `offset..offset+len` (within one chunk) the file's own.
    fn own_pages(&self, state: &mut State, offset: u64, len: u64) -> Result<(Arc<FileRange>, u64)> {
        let (start, chunk_len) = chunk_of(offset);
        let range = match state.chunks.get(&start) {
            Some(chunk) => chunk.range.clone(),
            None => {
                // Right behind the chunk before, if possible: then the host's mappings join.
                let before = state.chunks.range(..start).next_back();
                let near = before
                    .filter(|(s, c)| *s + c.len == start)
                    .map_or(Near::Anywhere, |(_, c)| {
                        Near::Offset(c.range.offset() + c.len)
                    });
                let range = Arc::new(self.space.memory.allocate_near(
                    chunk_len,
                    near,
                    crate::mm::Contents::Zero,
                )?);
                let words = (chunk_len / PAGE_SIZE).div_ceil(64) as usize;
                state.chunks.insert(
                    start,
                    Chunk {
                        range: range.clone(),
                        len: chunk_len,
                        present: vec![0; words],
                    },
                );
                range
            }
        };
        let first = (offset - start) / PAGE_SIZE;
        let last = (offset - start + len.max(1) - 1) / PAGE_SIZE;
        for page in first..=last {
            let State { chunks, base, .. } = &mut *state;
            let Some(chunk) = chunks.get_mut(&start) else {
                return Err(Errno::EIO);
            };
            if chunk.has(page) {
                continue;
            }
            self.space.charge(1)?;
            let at = start + page * PAGE_SIZE;
            if let Some(base) = base
                && at < base.len
            {
                let mut buffer = vec![0; (base.len - at).min(PAGE_SIZE) as usize];
                let copied = read_full(&base.file, at, &mut buffer)
                    .and_then(|()| write_range(&range, page * PAGE_SIZE, &buffer));
                if let Err(e) = copied {
                    self.space.uncharge(1);
                    return Err(e);
                }
            }
            chunk.set(page);
            state.pages += 1;
        }
        Ok((range, offset - start))
    }

    /// Writes; the caller has ended the pristine state. Returns bytes and the position after them.
    pub fn write_at(&self, src: &mut Source<'_>, at: WriteAt, limit: u64) -> Result<(usize, u64)> {
        let _io = self.io.lock();
        let (mut offset, size, seals) = {
            let state = self.state.lock();
            let offset = match at {
                WriteAt::Offset(o) => o,
                WriteAt::End => state.size,
            };
            (offset, state.size, state.seals)
        };
        if src.remaining() == 0 {
            return Ok((0, offset));
        }
        let max = MAX_SIZE.min(limit);
        if offset >= max {
            return Err(Errno::EFBIG);
        }
        if seals.intersects(Seals::WRITE | Seals::FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        let wanted = (src.remaining() as u64).min(max - offset);
        if seals.contains(Seals::GROW) && offset + wanted > size {
            return Err(Errno::EPERM);
        }
        if offset > size {
            self.clear_tail(&mut self.state.lock(), size)?;
        }
        let end = offset + wanted;
        let mut done = 0;
        while offset < end {
            match self.write_step(src, offset, end) {
                Ok((moved, wanted)) => {
                    done += moved;
                    offset += moved as u64;
                    let mut state = self.state.lock();
                    state.size = state.size.max(offset);
                    if moved < wanted {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok((done, offset))
    }

    fn write_step(&self, src: &mut Source<'_>, offset: u64, end: u64) -> Result<(usize, usize)> {
        let (start, chunk_len) = chunk_of(offset);
        let mut len = (end - offset).min(start + chunk_len - offset);
        let owned = self.own_pages(&mut self.state.lock(), offset, len);
        let (range, at) = match owned {
            Ok(found) => found,
            // What fits on the page is written when space runs out.
            Err(Errno::ENOSPC) => {
                len = len.min(page_down(offset) + PAGE_SIZE - offset);
                self.own_pages(&mut self.state.lock(), offset, len)?
            }
            Err(e) => return Err(e),
        };
        let (window, pos, avail) = windows::of_range(&self.space.memory, &range, at)?;
        let len = (len as usize).min(avail);
        Ok((src.take_window(&window, pos, len)?, len))
    }

    /// Clears what lies behind the end of the file in its last page.
    fn clear_tail(&self, state: &mut State, size: u64) -> Result<()> {
        if size.is_multiple_of(PAGE_SIZE) {
            return Ok(());
        }
        let len = PAGE_SIZE - size % PAGE_SIZE;
        let (start, _) = chunk_of(size);
        if let Some(chunk) = state.chunks.get(&start)
            && chunk.has((size - start) / PAGE_SIZE)
        {
            write_range(&chunk.range, size - start, &vec![0; len as usize])?;
        }
        Ok(())
    }

    /// ftruncate(2); the caller has ended the pristine state.
    pub fn resize(&self, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let _io = self.io.lock();
        {
            let mut state = self.state.lock();
            let old = state.size;
            if size < old && state.seals.contains(Seals::SHRINK)
                || size > old && state.seals.contains(Seals::GROW)
            {
                return Err(Errno::EPERM);
            }
            if size >= old {
                self.clear_tail(&mut state, old)?;
                state.size = size;
                return Ok(());
            }
            state.size = size;
            if let Some(base) = &mut state.base {
                base.len = base.len.min(size);
            }
            if state.base.as_ref().is_some_and(|b| b.len == 0) {
                state.base = None;
            }
            let keep = page_up(size).unwrap_or(u64::MAX);
            let gone = state.chunks.split_off(&keep);
            let freed: u64 = gone.values().map(Chunk::count).sum();
            state.pages -= freed;
            self.space.uncharge(freed);
            if let Some((&start, chunk)) = state.chunks.range(..keep).next_back()
                && start + chunk.len > keep
            {
                let end = start + chunk.len;
                self.free_pages(&mut state, keep, end)?;
            }
            self.clear_tail(&mut state, size)?;
        }
        self.invalidate(page_up(size).unwrap_or(u64::MAX), u64::MAX);
        Ok(())
    }

    /// Makes whole pages `from..to`, within one chunk, holes again.
    fn free_pages(&self, state: &mut State, from: u64, to: u64) -> Result<()> {
        let (start, _) = chunk_of(from);
        let base_len = state.base.as_ref().map_or(0, |b| b.len);
        let Some(chunk) = state.chunks.get_mut(&start) else {
            return Ok(());
        };
        chunk.range.punch(from - start, to - from)?;
        let mut freed = 0;
        for page in (from - start) / PAGE_SIZE..(to - start) / PAGE_SIZE {
            // Above a base a hole needs a page of zeros.
            if chunk.has(page) && start + page * PAGE_SIZE >= base_len {
                chunk.clear(page);
                freed += 1;
            }
        }
        state.pages -= freed;
        self.space.uncharge(freed);
        Ok(())
    }

    /// fallocate(2). The caller has ended the pristine state and checked `offset + len`.
    pub fn allocate(&self, mode: i32, offset: u64, len: u64) -> Result<()> {
        if mode & !(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(len).filter(|e| *e <= MAX_SIZE);
        let end = end.ok_or(Errno::EFBIG)?;
        let _io = self.io.lock();
        if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 {
            return self.punch(offset, end);
        }
        let (size, seals) = {
            let state = self.state.lock();
            (state.size, state.seals)
        };
        let grows = mode & libc::FALLOC_FL_KEEP_SIZE == 0 && end > size;
        if grows && seals.contains(Seals::GROW) {
            return Err(Errno::EPERM);
        }
        let first = page_down(offset);
        let pages = (end - first).div_ceil(PAGE_SIZE);
        if pages > self.space.max_pages.saturating_sub(self.space.used())
            && pages > self.space.max_pages
        {
            return Err(Errno::ENOSPC);
        }
        let mut at = first;
        while at < end {
            let (start, chunk_len) = chunk_of(at);
            let step = (end - at).min(start + chunk_len - at);
            self.own_pages(&mut self.state.lock(), at, step)?;
            at += step;
        }
        if grows {
            let mut state = self.state.lock();
            self.clear_tail(&mut state, size)?;
            state.size = end;
        }
        Ok(())
    }

    fn punch(&self, offset: u64, end: u64) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.seals.intersects(Seals::WRITE | Seals::FUTURE_WRITE) {
                return Err(Errno::EPERM);
            }
            let covered = page_up(state.size).unwrap_or(MAX_SIZE);
            let end = end.min(covered);
            let base_len = state.base.as_ref().map_or(0, |b| b.len);
            let mut at = offset;
            while at < end {
                let (start, chunk_len) = chunk_of(at);
                let step_end = end.min(start + chunk_len);
                if at < base_len {
                    // A hole over a base is a page of zeros.
                    self.own_pages(&mut state, at, step_end - at)?;
                }
                let first = page_up(at).unwrap_or(u64::MAX).min(step_end);
                let last = page_down(step_end).max(first);
                for (from, to) in [(at, first), (last, step_end)] {
                    if from < to
                        && let Some(chunk) = state.chunks.get(&start)
                        && chunk.has((from - start) / PAGE_SIZE)
                    {
                        write_range(&chunk.range, from - start, &vec![0; (to - from) as usize])?;
                    }
                }
                if first < last {
                    self.free_pages(&mut state, first, last)?;
                }
                at = step_end;
            }
        }
        self.invalidate(page_up(offset).unwrap_or(u64::MAX), page_down(end));
        Ok(())
    }

    /// lseek(2).
    pub fn seek(&self, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        let state = self.state.lock();
        let (want_data, mut at) = match (whence, u64::try_from(offset)) {
            (Seek::Data, Ok(at)) => (true, at),
            (Seek::Hole, Ok(at)) => (false, at),
            _ => return default_seek(state.size, whence, offset, current),
        };
        if at >= state.size {
            return Err(Errno::ENXIO);
        }
        while at < state.size {
            let (is_data, len) = match Self::piece(&state, at, state.size - at) {
                Piece::Hole(len) => (false, len),
                Piece::Pages(_, _, len) | Piece::Base(_, len) => (true, len),
            };
            if is_data == want_data {
                return Ok(at);
            }
            at += len;
            // Whole chunks that do not exist are skipped at once.
            if want_data && !is_data && state.base.is_none() {
                let next = state.chunks.range(at..).next().map(|(s, _)| *s);
                let here = state.chunks.contains_key(&chunk_of(at).0);
                if !here {
                    at = next.unwrap_or(state.size).max(at);
                }
            }
        }
        if want_data {
            Err(Errno::ENXIO)
        } else {
            Ok(state.size)
        }
    }

    fn invalidate(&self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let mut owners: Vec<Arc<dyn MappingOwner>> = Vec::new();
        for owner in self.owners.lock().iter().filter_map(Weak::upgrade) {
            if !owners.iter().any(|o| Arc::ptr_eq(o, &owner)) {
                owners.push(owner);
            }
        }
        for owner in owners {
            owner.invalidate(self, from, to);
        }
    }

    /// The base, while the file is pristine.
    pub fn pristine_base(&self) -> Option<Arc<File>> {
        let state = self.state.lock();
        let base = state.base.as_ref().filter(|_| state.pristine)?;
        Some(base.file.clone())
    }
}

impl Mappable for Data {
    fn backing(&self, offset: u64, len: u64, write: WriteIntent) -> Result<Backing> {
        if let Some(base) = self.pristine_base() {
            return base.ops().mappable(&base)?.backing(offset, len, write);
        }
        let mut state = self.state.lock();
        let end = page_up(state.size).ok_or(Errno::EFAULT)?;
        if offset >= end {
            return Err(Errno::EFAULT);
        }
        let (start, chunk_len) = chunk_of(offset);
        let most = len.min(end - offset).min(start + chunk_len - offset);
        let run = |state: &State| match Self::piece(state, offset, most) {
            Piece::Pages(range, at, len) => Some((range, at, len)),
            _ => None,
        };
        let (range, at, len) = match run(&state) {
            Some(run) => run,
            None => {
                let ahead = most.min(FAULT_AHEAD * PAGE_SIZE);
                if self.own_pages(&mut state, offset, ahead).is_err() {
                    self.own_pages(&mut state, offset, PAGE_SIZE)?;
                }
                run(&state).ok_or(Errno::EIO)?
            }
        };
        Ok(Backing {
            fd: range.fd().clone(),
            offset: range.offset() + at,
            len: page_up(len).ok_or(Errno::EFAULT)?,
            keep: Some(range as Arc<dyn Any + Send + Sync>),
        })
    }

    fn add_owner(&self, owner: Weak<dyn MappingOwner>) {
        self.owners.lock().push(owner);
    }

    fn remove_owner(&self, owner: &Weak<dyn MappingOwner>) {
        let mut owners = self.owners.lock();
        if let Some(i) = owners.iter().position(|o| o.ptr_eq(owner)) {
            owners.swap_remove(i);
        }
    }

    fn check_shared_write(&self) -> Result<()> {
        if self.seals().intersects(Seals::WRITE | Seals::FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.space.uncharge(self.state.get_mut().pages);
    }
}

/// Fills `buffer` from `file`; what is behind its end stays zero.
fn read_full(file: &Arc<File>, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let mut sink = Sink::kernel(&mut buffer[done..]);
        match file.ops().read_at(file, &mut sink, offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(())
}

/// Writes into a range of the MemoryFile.
fn write_range(range: &FileRange, mut at: u64, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let (window, pos, avail) = range.window(at)?;
        let (now, later) = bytes.split_at(bytes.len().min(avail));
        window.write(pos, now).map_err(|_| Errno::ENOMEM)?;
        at += now.len() as u64;
        bytes = later;
    }
    Ok(())
}
