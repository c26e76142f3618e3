//! Guest memory: address spaces, the MemoryFile, copy-on-write, access from the Sentry.
//!
//! An [`Mm`] is one guest address space: its VMAs (`vma.rs`, what the guest asked for) and its
//! pieces (`pages.rs`, where the bytes are and what the host maps). Private anonymous memory has
//! its place in the [`MemoryFile`] and in the host address space from mmap on, so the host serves
//! its page faults; file mappings show the file's own pages, read-only while they are private; the
//! Sentry sees a fault only for what is copied or not there yet (`fault.rs`). Changes reach the
//! host as operations queued on the platform's address space, each with the memory that must not
//! be reused before it was carried out.
//!
//! Locks, outermost first: the address space's own (`Mm::inner`), those of a mapped file
//! ([`mappable::Mappable::backing`] runs below it), the MemoryFile's. The first is held while bytes
//! are copied to or from memory found under it, which touches host mappings only and cannot come
//! back here; transfers to and from host files run without it, on pinned memory. A file must hold
//! none of its locks when it calls [`mappable::MappingOwner::invalidate`] or copies to a guest.
//!
//! Deliberately absent: swap, huge pages, NUMA policy; huge-page advice is accepted as a hint.

mod access;
mod change;
mod fault;
mod fork;
mod free_set;
pub mod io;
mod lock;
mod map;
pub mod mappable;
pub(crate) mod memory_file;
mod pages;
mod patch;
mod remap;
mod report;
mod segment;
pub mod shared;
mod table_memory;
#[cfg(test)]
pub(crate) mod tests;
pub mod types;
mod vma;
pub(crate) mod windows;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use runsc_platform::{AddressSpace, Platform, Prot};

use crate::errno::Result;
use crate::fs::file::File;
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};
pub(crate) use crate::mm::memory_file::{Contents, Near};
pub use crate::mm::memory_file::{FileRange, MemoryFile};
use crate::mm::pages::{Batch, Held, PageMap, host_prot};
pub use crate::mm::segment::Place;
pub use crate::mm::table_memory::TableMemory;
pub use crate::mm::types::*;
use crate::mm::vma::{Source, Vma, VmaFlags, VmaMap};

/// Most mappings of an address space (vm.max_map_count).
pub const MAX_MAP_COUNT: usize = 65530;
/// Lowest address without CAP_SYS_RAWIO (vm.mmap_min_addr).
pub const MMAP_MIN_ADDR: u64 = 65536;

/// One guest address space. Shared by the threads of a process (and by vfork).
pub struct Mm {
    id: u64,
    platform: Arc<dyn Platform>,
    memory: Arc<MemoryFile>,
    space: Arc<dyn AddressSpace>,
    inner: RwLock<Inner>,
}

/// What the lock guards.
struct Inner {
    memory: Arc<MemoryFile>,
    this: Weak<dyn MappingOwner>,
    vmas: VmaMap,
    pages: PageMap,
    batch: Batch,
    /// VMAs to be dropped once the lock is released: closing a file can take its time.
    trash: Vec<Vma>,
    layout: Layout,
    limits: Limits,
    /// What the platform allows to map.
    low: u64,
    high: u64,
    /// Where mmap starts looking, downwards.
    mmap_base: u64,
    /// mlockall(MCL_FUTURE).
    lock_future: VmaFlags,
    /// Address of the last fault for which nothing was to do, `changes` then, and how often.
    idle_faults: (u64, u64, u32),
    /// Counts flushed batches.
    changes: u64,
    rss_peak: u64,
    hot: fork::HotGroups,
    patched: patch::Patched,
    exe: Option<Arc<File>>,
    dumpable: u32,
}

/// A random number of pages below `pages`, in bytes.
pub(crate) fn random_pages(pages: u64) -> u64 {
    random_u64() % pages.max(1) * PAGE_SIZE
}

/// From the host's generator.
pub(crate) fn random_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Keys come from the host's getrandom once a thread and differ for each state; SipHash under a
    // secret key makes the outputs unpredictable.
    RandomState::new().build_hasher().finish()
}

/// Whether addresses are chosen at random (personality(2), ADDR_NO_RANDOMIZE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Randomize {
    No,
    Yes,
}

impl Mm {
    /// An empty address space, but for the vDSO.
    pub fn new(platform: &Arc<dyn Platform>, memory: &Arc<MemoryFile>, limits: Limits) -> Arc<Mm> {
        let mm = Self::bare(
            platform.clone(),
            memory.clone(),
            platform.new_address_space(),
            limits,
        );
        mm.with(|inner| {
            inner.place_mmap_base(Randomize::Yes);
            if let Some(v) = platform.vdso() {
                inner.insert_vdso(v);
            }
        });
        mm
    }

    fn bare(
        platform: Arc<dyn Platform>,
        memory: Arc<MemoryFile>,
        space: Arc<dyn AddressSpace>,
        limits: Limits,
    ) -> Arc<Mm> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (low, high) = platform.user_range();
        Arc::new_cyclic(|this: &Weak<Mm>| Mm {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            platform,
            memory: memory.clone(),
            space,
            inner: RwLock::new(Inner {
                memory,
                this: this.clone(),
                vmas: VmaMap::default(),
                pages: PageMap::default(),
                batch: Batch::default(),
                trash: Vec::new(),
                layout: Layout::default(),
                limits,
                low: low.max(MMAP_MIN_ADDR),
                high,
                mmap_base: high,
                lock_future: VmaFlags::empty(),
                idle_faults: (0, 0, 0),
                changes: 0,
                rss_peak: 0,
                hot: fork::HotGroups::default(),
                patched: patch::Patched::default(),
                exe: None,
                dumpable: 1,
            }),
        })
    }

    /// Unique while the sandbox lives.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }

    pub fn memory(&self) -> &Arc<MemoryFile> {
        &self.memory
    }

    /// Lowest and highest (exclusive) address that can be mapped.
    pub fn user_range(&self) -> (u64, u64) {
        let inner = self.inner.read();
        (inner.low, inner.high)
    }

    /// Where the vDSO's ELF image is (AT_SYSINFO_EHDR).
    pub(crate) fn vdso_image(&self) -> Option<u64> {
        self.platform.vdso().map(|v| v.image)
    }

    pub fn limits(&self) -> Limits {
        self.inner.read().limits
    }

    /// To be called at exec and when a memory rlimit changes; fork copies them.
    pub fn set_limits(&self, limits: Limits) {
        self.inner.write().limits = limits;
    }

    /// Chooses anew where mmap places things; for exec, once limits and personality are known.
    pub fn set_randomize(&self, randomize: Randomize) {
        self.inner.write().place_mmap_base(randomize);
    }

    /// Runs a change under the lock, queues the host operations it made, then drops what it threw
    /// away.
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.inner.write();
        let result = f(&mut inner);
        if !inner.batch.is_empty() {
            inner.changes += 1;
            inner.batch.flush(&*self.space);
        }
        let trash = std::mem::take(&mut inner.trash);
        for (start, end) in inner.patched.forgotten.drain(..) {
            self.space.forget_code(start, end);
        }
        drop(inner);
        drop(trash);
        result
    }
}

impl Inner {
    /// Linux's mmap_base(): below the stack's limit, but not too close and not too far.
    fn place_mmap_base(&mut self, randomize: Randomize) {
        const STACK_RANDOM: u64 = 16 << 30;
        let pad = vma::GUARD_GAP + STACK_RANDOM;
        let gap = self
            .limits
            .stack
            .saturating_add(pad)
            .clamp(128 << 20, self.high / 6 * 5);
        let random = match randomize {
            Randomize::Yes => random_pages(1 << 28),
            Randomize::No => 0,
        };
        self.mmap_base =
            page_down(self.high.saturating_sub(gap).saturating_sub(random)).max(self.low);
    }

    fn insert_vdso(&mut self, v: runsc_platform::VdsoRange) {
        let may = VmaFlags::MAYEXEC | VmaFlags::DONTDUMP;
        let mut trash = Vec::new();
        if v.start < v.image {
            self.vmas.insert(
                v.start,
                Vma {
                    end: v.image,
                    prot: Prot::READ,
                    flags: may,
                    source: Source::Vvar,
                },
                &mut trash,
            );
        }
        if v.image < v.end {
            self.vmas.insert(
                v.image,
                Vma {
                    end: v.end,
                    prot: Prot::READ | Prot::EXEC,
                    flags: may - VmaFlags::DONTDUMP,
                    source: Source::Vdso { offset: 0 },
                },
                &mut trash,
            );
        }
    }

    /// Puts memory behind `[start, end)`, where there is none, and maps it.
    fn place(&mut self, start: u64, end: u64, held: Held, vma: &Vma, populate: bool) {
        self.batch.map(
            start,
            end - start,
            host_prot(vma, &held),
            &held,
            populate,
            Vec::new(),
        );
        self.pages.insert(start, end, held);
    }

    /// Puts new memory in the place of what is behind `[start, end)`.
    fn replace(&mut self, start: u64, end: u64, held: Held, vma: &Vma, populate: bool) {
        let old = self.pages.remove(start, end);
        let old = old.into_iter().map(|(_, p)| p.held).collect();
        self.batch.map(
            start,
            end - start,
            host_prot(vma, &held),
            &held,
            populate,
            old,
        );
        self.pages.insert(start, end, held);
    }

    /// Takes the memory behind `[start, end)` away, and the host mappings with it.
    fn forget(&mut self, start: u64, end: u64) {
        for (s, piece) in self.pages.remove(start, end) {
            self.batch.unmap(s, piece.end - s, vec![piece.held]);
        }
    }

    /// Asks a file for its bytes at `offset`, checking what it answers.
    fn ask(mappable: &dyn Mappable, offset: u64, len: u64, intent: WriteIntent) -> Result<Backing> {
        let mut backing = mappable.backing(offset, len, intent)?;
        backing.len = page_down(backing.len).min(len);
        if backing.len == 0 || !page_aligned(backing.offset) {
            return Err(crate::errno::Errno::EIO);
        }
        Ok(backing)
    }

    /// Puts memory behind the gap `[start, end)` of `vma` (which begins at `vma_start`) and maps
    /// it, as far as there is any.
    ///
    /// # Errors
    /// What kept it from placing the first page: EFAULT beyond the end of the file, ENOMEM, EIO.
    fn fill(
        &mut self,
        vma_start: u64,
        vma: &Vma,
        start: u64,
        end: u64,
        intent: WriteIntent,
        populate: bool,
    ) -> Result<()> {
        /// How many separate backings of one file are looked up ahead.
        const AHEAD: usize = 64;
        match &vma.source {
            Source::Anon { .. } => {
                let near = self.place_near(start, end);
                let range =
                    self.memory
                        .allocate_near(end - start, near, memory_file::Contents::Zero)?;
                let held = Held::Private { range, cow: false };
                self.place(start, end, held, vma, populate);
            }
            Source::File(map) => {
                let mut at = start;
                for _ in 0..AHEAD {
                    if at >= end {
                        break;
                    }
                    let offset = map.offset + (at - vma_start);
                    let backing = match Self::ask(&*map.mappable, offset, end - at, intent) {
                        Ok(backing) => backing,
                        Err(e) if at == start => return Err(e),
                        Err(_) => break,
                    };
                    let held = Held::Object {
                        fd: backing.fd,
                        offset: backing.offset,
                        writable: vma.shared()
                            && vma.flags.contains(VmaFlags::MAYWRITE)
                            && (backing.keep.is_none() || intent == WriteIntent::Write),
                        keep: backing.keep,
                    };
                    self.place(at, at + backing.len, held, vma, populate);
                    at += backing.len;
                }
            }
            Source::Vvar | Source::Vdso { .. } => {}
        }
        Ok(())
    }

    /// Where memory for `[start, end)` would be contiguous with the memory before or after it, if
    /// there is any.
    fn place_near(&self, start: u64, end: u64) -> Near {
        let found = self.neighbour(start, end);
        found.map_or(Near::Address(start), Near::Offset)
    }

    fn neighbour(&self, start: u64, end: u64) -> Option<u64> {
        let private = |piece: &pages::Piece| match &piece.held {
            Held::Private { range, .. } => Some((range.offset(), range.len())),
            Held::Object { .. } => None,
        };
        if let Some((_, before)) = self.pages.find(start.wrapping_sub(1))
            && let Some((offset, len)) = private(before)
        {
            return Some(offset + len);
        }
        let (_, after) = self.pages.find(end)?;
        private(after)?.0.checked_sub(end - start)
    }

    /// Maps ahead what `[start, end)` may use, so that the host can serve its faults.
    fn premap(&mut self, start: u64, end: u64, populate: bool) {
        let vmas: Vec<(u64, Vma)> = self
            .vmas
            .overlapping(start, end)
            .filter(|(_, v)| {
                !v.prot.is_empty() && !v.is_special() && (populate || !v.is_huge(end - start))
            })
            .map(|(s, v)| (s, v.clone()))
            .collect();
        for (s, vma) in vmas {
            let intent = match &vma.source {
                Source::File(map) if map.nameless => WriteIntent::Write,
                _ => WriteIntent::Read,
            };
            for (from, to) in self.pages.gaps(start.max(s), end.min(vma.end)) {
                if let Err(e) = self.fill(s, &vma, from, to, intent, populate) {
                    // The fault will tell, if it ever comes.
                    log::debug!("nothing mapped ahead at {from:#x}: {e:?}");
                }
            }
        }
    }

    /// Takes `[start, end)` out of the address space.
    fn unmap(&mut self, start: u64, end: u64) {
        if !self.patched.is_empty() {
            self.forget_patches(start, end);
        }
        self.forget(start, end);
        for (s, vma) in self.vmas.remove(start, end) {
            if vma.is_special() {
                self.batch.unmap(s, vma.end - s, Vec::new());
            }
            self.trash.push(vma);
        }
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        // Memory stays referred to until the host address space is gone, in case somebody still
        // holds that one.
        let inner = self.inner.get_mut();
        let (low, high) = (inner.low, inner.high);
        let held: Vec<Held> = inner
            .pages
            .remove(low, high)
            .into_iter()
            .map(|(_, piece)| piece.held)
            .collect();
        if !held.is_empty() {
            inner.batch.unmap(low, high - low, held);
            inner.batch.flush(&*self.space);
        }
    }
}
