//! VMAs: what the guest asked to have mapped, as /proc/PID/maps shows it.
//!
//! [`VmaMap`] keeps them by start address, splits them where an operation begins or ends, merges
//! neighbours that Linux would merge, finds free places, and counts pages. It knows nothing of
//! where the bytes are (`pages.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use runsc_platform::Prot;

use crate::fs::file::File;
use crate::mm::mappable::{Mappable, MappingOwner};

/// Pages kept free below a VMA that grows down (the stack_guard_gap), bytes.
pub const GUARD_GAP: u64 = 256 * 4096;

bitflags::bitflags! {
    /// Properties of a VMA beside its protection (the VM_* flags that matter here).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VmaFlags: u32 {
        const SHARED = 1 << 0;
        const GROWSDOWN = 1 << 1;
        const LOCKED = 1 << 2;
        const LOCKONFAULT = 1 << 3;
        const NORESERVE = 1 << 4;
        const DONTFORK = 1 << 5;
        const WIPEONFORK = 1 << 6;
        const DONTDUMP = 1 << 7;
        const HUGEPAGE = 1 << 8;
        const NOHUGEPAGE = 1 << 9;
        const SEQ_READ = 1 << 11;
        const RAND_READ = 1 << 12;
        /// mprotect may add PROT_WRITE (a shared mapping of a file not open for writing may not).
        const MAYWRITE = 1 << 13;
        /// mprotect may add PROT_EXEC (a file on a noexec mount may not).
        const MAYEXEC = 1 << 14;
        /// Counted against the overcommit limit.
        const ACCOUNT = 1 << 15;
    }
}

/// Tells a file that somebody maps it, as long as it lives.
pub struct OwnerGuard {
    mappable: Arc<dyn Mappable>,
    owner: Weak<dyn MappingOwner>,
}

impl OwnerGuard {
    pub fn new(mappable: Arc<dyn Mappable>, owner: Weak<dyn MappingOwner>) -> Arc<OwnerGuard> {
        mappable.add_owner(owner.clone());
        Arc::new(OwnerGuard { mappable, owner })
    }
}

impl Drop for OwnerGuard {
    fn drop(&mut self) {
        self.mappable.remove_owner(&self.owner);
    }
}

/// A mapped object.
#[derive(Clone)]
pub struct FileMap {
    pub mappable: Arc<dyn Mappable>,
    pub file: Option<Arc<File>>,
    /// Offset of the VMA's first byte.
    pub offset: u64,
    pub guard: Arc<OwnerGuard>,
    /// Memory that is no file's: MAP_SHARED | MAP_ANONYMOUS, a System V segment.
    pub nameless: bool,
}

/// Where a VMA's bytes come from.
#[derive(Clone)]
pub enum Source {
    Anon {
        name: Option<Arc<[u8]>>,
    },
    File(FileMap),
    /// The vDSO's data pages; the host has them mapped, the Sentry never reads them.
    Vvar,
    /// The vDSO image, from byte `offset`.
    Vdso {
        offset: u64,
    },
}

/// A range of guest memory with one set of properties. Its start is its key in [`VmaMap`].
#[derive(Clone)]
pub struct Vma {
    pub end: u64,
    pub prot: Prot,
    pub flags: VmaFlags,
    pub source: Source,
}

impl Vma {
    pub fn shared(&self) -> bool {
        self.flags.contains(VmaFlags::SHARED)
    }

    pub fn is_anon(&self) -> bool {
        matches!(self.source, Source::Anon { .. })
    }

    pub fn is_special(&self) -> bool {
        matches!(self.source, Source::Vvar | Source::Vdso { .. })
    }

    /// Too big to reserve memory for at once: filled in as it is touched.
    pub fn is_huge(&self, len: u64) -> bool {
        self.is_anon()
            && (len > 64 << 30 || (self.flags.contains(VmaFlags::NORESERVE) && len > 1 << 30))
    }

    /// The x86 rule: what may be written or executed may be read.
    pub fn readable(&self) -> bool {
        !self.prot.is_empty()
    }

    /// Cuts the front off: what is left starts `by` bytes later.
    fn advance(&mut self, by: u64) {
        match &mut self.source {
            Source::File(f) => f.offset += by,
            Source::Vdso { offset } => *offset += by,
            Source::Anon { .. } | Source::Vvar => {}
        }
    }

    /// Whether `next`, which starts where this one ends, can be part of it; `len` is this one's.
    fn continues(&self, len: u64, next: &Vma) -> bool {
        if self.prot != next.prot || self.flags != next.flags {
            return false;
        }
        match (&self.source, &next.source) {
            (Source::Anon { name: a }, Source::Anon { name: b }) => a == b,
            (Source::File(a), Source::File(b)) => {
                a.mappable.identity() == b.mappable.identity()
                    && a.offset + len == b.offset
                    && match (&a.file, &b.file) {
                        (Some(a), Some(b)) => Arc::ptr_eq(&a.path().dentry, &b.path().dentry),
                        (None, None) => true,
                        _ => false,
                    }
            }
            (Source::Vdso { offset: a }, Source::Vdso { offset: b }) => a + len == *b,
            (Source::Vvar, Source::Vvar) => true,
            _ => false,
        }
    }

    /// Private and writable: counted as data.
    fn is_data(&self) -> bool {
        self.prot.contains(Prot::WRITE)
            && !self
                .flags
                .intersects(VmaFlags::SHARED | VmaFlags::GROWSDOWN)
    }
}

/// Sums over all VMAs, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmaSums {
    pub vm: u64,
    pub vm_peak: u64,
    pub data: u64,
    pub stack: u64,
    pub exec: u64,
    pub locked: u64,
}

/// The VMAs of an address space, not overlapping.
#[derive(Default)]
pub struct VmaMap {
    map: BTreeMap<u64, Vma>,
    sums: VmaSums,
    packed: Packed,
}

/// Nothing is free between the two addresses. Mappings pile up below where mmap starts looking, so
/// that a search from there would pass all of them.
#[derive(Clone, Copy, Default)]
struct Packed {
    low: u64,
    high: u64,
}

impl Packed {
    /// `[.., end)` has become free.
    fn freed(&mut self, end: u64) {
        self.low = self.low.max(end.min(self.high));
    }

    /// Where a search down from `high` can begin.
    fn start(self, high: u64) -> u64 {
        if self.high == high { self.low } else { high }
    }
}

impl VmaMap {
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn sums(&self) -> VmaSums {
        self.sums
    }

    /// The VMA that contains `addr`, with its start.
    pub fn find(&self, addr: u64) -> Option<(u64, &Vma)> {
        let (&start, vma) = self.map.range(..=addr).next_back()?;
        (addr < vma.end).then_some((start, vma))
    }

    /// The first VMA that ends above `addr` (Linux's find_vma).
    pub fn find_from(&self, addr: u64) -> Option<(u64, &Vma)> {
        self.find(addr)
            .or_else(|| self.map.range(addr..).next().map(|(&s, v)| (s, v)))
    }

    /// The last VMA that ends at or below `addr`.
    pub fn previous(&self, addr: u64) -> Option<(u64, &Vma)> {
        let (&start, vma) = self.map.range(..addr).next_back()?;
        (vma.end <= addr).then_some((start, vma))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &Vma)> {
        self.map.iter().map(|(&s, v)| (s, v))
    }

    /// All that overlap `[start, end)`, in order.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Vma)> {
        let first = self.find(start).map_or(start, |(s, _)| s);
        self.map.range(first..end.max(first)).map(|(&s, v)| (s, v))
    }

    /// True if every byte of `[start, end)` is in a VMA.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for (s, vma) in self.overlapping(start, end) {
            if s > at {
                return false;
            }
            at = vma.end;
        }
        at >= end
    }

    fn count(&mut self, len: u64, vma: &Vma, add: bool) {
        let change = |sum: &mut u64| {
            *sum = if add {
                *sum + len
            } else {
                sum.saturating_sub(len)
            }
        };
        change(&mut self.sums.vm);
        if vma.is_data() {
            change(&mut self.sums.data);
        }
        if vma.flags.contains(VmaFlags::GROWSDOWN) {
            change(&mut self.sums.stack);
        }
        if vma.prot.contains(Prot::EXEC) && !vma.prot.contains(Prot::WRITE) {
            change(&mut self.sums.exec);
        }
        if vma.flags.contains(VmaFlags::LOCKED) {
            change(&mut self.sums.locked);
        }
        self.sums.vm_peak = self.sums.vm_peak.max(self.sums.vm);
    }

    /// Makes `at` a boundary between VMAs.
    pub fn split(&mut self, at: u64) {
        if let Some((&start, vma)) = self.map.range_mut(..at).next_back()
            && vma.end > at
        {
            let mut tail = vma.clone();
            vma.end = at;
            tail.advance(at - start);
            self.map.insert(at, tail);
        }
    }

    /// Joins the VMA that starts at `at` with the one before, if they are alike.
    fn join(&mut self, at: u64) -> Option<Vma> {
        let right = self.map.get(&at)?;
        let (&start, left) = self.map.range(..at).next_back()?;
        if left.end != at || !left.continues(at - start, right) {
            return None;
        }
        let right = self.map.remove(&at)?;
        if let Some(left) = self.map.get_mut(&start) {
            left.end = right.end;
        }
        Some(right)
    }

    /// Joins whatever can be joined at the boundaries in `[start, end]`. What became superfluous
    /// goes to `trash` (its file must not be closed under a lock).
    pub fn join_range(&mut self, start: u64, end: u64, trash: &mut Vec<Vma>) {
        let mut from = start;
        while from <= end
            && let Some((&at, _)) = self.map.range(from..=end).next()
        {
            trash.extend(self.join(at));
            from = at + 1;
        }
    }

    /// Adds a VMA where there is none, joined with its neighbours.
    pub fn insert(&mut self, start: u64, vma: Vma, trash: &mut Vec<Vma>) {
        let end = vma.end;
        self.count(end - start, &vma, true);
        self.map.insert(start, vma);
        trash.extend(self.join(start));
        trash.extend(self.join(end));
    }

    /// Takes `[start, end)` out.
    pub fn remove(&mut self, start: u64, end: u64) -> Vec<(u64, Vma)> {
        self.split(start);
        self.split(end);
        let mut removed = Vec::new();
        while let Some((&key, _)) = self.map.range(start..end).next()
            && let Some(vma) = self.map.remove(&key)
        {
            self.count(vma.end - key, &vma, false);
            removed.push((key, vma));
        }
        self.packed.freed(end);
        removed
    }

    /// Changes the properties of all VMAs in `[start, end)`, splitting and joining as needed.
    pub fn change(
        &mut self,
        start: u64,
        end: u64,
        trash: &mut Vec<Vma>,
        mut f: impl FnMut(u64, &mut Vma),
    ) {
        self.split(start);
        self.split(end);
        let mut map = std::mem::take(&mut self.map);
        for (&s, vma) in map.range_mut(start..end) {
            self.count(vma.end - s, vma, false);
            f(s, vma);
            self.count(vma.end - s, vma, true);
        }
        self.map = map;
        self.join_range(start, end, trash);
    }

    /// Lets the VMA at `start` begin at `new_start` below (stack growth).
    pub fn grow_down(&mut self, start: u64, new_start: u64) {
        if let Some(vma) = self.map.remove(&start) {
            self.count(start - new_start, &vma, true);
            self.map.insert(new_start, vma);
        }
    }

    /// Highest free place of `len` bytes within `[low, high)`.
    pub fn find_top_down(&mut self, len: u64, low: u64, high: u64) -> Option<u64> {
        let from = self.packed.start(high);
        let mut top = from;
        if let Some((s, vma)) = self.find_from(high.saturating_sub(1)) {
            top = top.min(below(s, vma));
        }
        // A stack among what is passed over may want a gap that reaches further down.
        for (&s, vma) in self.map.range(from..high.min(from + GUARD_GAP)) {
            top = top.min(below(s, vma));
        }
        let mut packed = top;
        for (&s, vma) in self.map.range(..from).rev() {
            if vma.end <= top && top - vma.end >= len {
                break;
            }
            let passed_none = packed == top && vma.end >= top;
            top = top.min(below(s, vma));
            if passed_none {
                packed = top;
            }
            if top < low {
                return None;
            }
        }
        self.packed = Packed { low: packed, high };
        let at = top.checked_sub(len)?;
        (at >= low).then_some(at)
    }

    /// Lowest free place of `len` bytes within `[low, high)`.
    pub fn find_bottom_up(&self, len: u64, low: u64, high: u64) -> Option<u64> {
        let mut at = match self.find(low) {
            Some((_, vma)) => vma.end,
            None => low,
        };
        for (&s, vma) in self.map.range(low..) {
            if below(s, vma) >= at.checked_add(len)? {
                break;
            }
            at = at.max(vma.end);
        }
        (at.checked_add(len)? <= high).then_some(at)
    }

    /// True if nothing is mapped in `[start, end)` and no stack's guard gap reaches into it.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        match self.find_from(start) {
            Some((s, vma)) => below(s, vma) >= end,
            None => true,
        }
    }
}

/// The lowest address that something below this VMA may not use.
fn below(start: u64, vma: &Vma) -> u64 {
    if vma.flags.contains(VmaFlags::GROWSDOWN) {
        start.saturating_sub(GUARD_GAP)
    } else {
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::types::PAGE_SIZE;

    const LOW: u64 = 16 * PAGE_SIZE;
    const HIGH: u64 = 4096 * PAGE_SIZE;

    fn vma(end: u64, stack: bool, prot: Prot) -> Vma {
        let flags = if stack {
            VmaFlags::GROWSDOWN
        } else {
            VmaFlags::empty()
        };
        Vma {
            end,
            prot,
            flags,
            source: Source::Anon { name: None },
        }
    }

    /// What a search finds that remembers nothing.
    fn forgetful(map: &VmaMap, len: u64, high: u64) -> Option<u64> {
        let mut copy = VmaMap::default();
        for (start, vma) in map.iter() {
            copy.map.insert(start, vma.clone());
        }
        copy.find_top_down(len, LOW, high)
    }

    #[test]
    fn what_a_search_remembers_does_not_change_what_is_found() {
        let mut map = VmaMap::default();
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            (seed >> 33) % below
        };
        for round in 0..20_000 {
            let len = (1 + random(40)) * PAGE_SIZE;
            // Now and then from somewhere else, as for mmap's second try.
            let high = HIGH - random(20).saturating_sub(18) * 64 * PAGE_SIZE;
            let found = map.find_top_down(len, LOW, high);
            assert_eq!(found, forgetful(&map, len, high), "round {round}");
            let mut trash = Vec::new();
            match (found, random(3)) {
                (Some(at), 0 | 1) => {
                    let prot = [Prot::READ, Prot::empty()][random(2) as usize];
                    let stack = random(16) == 0;
                    map.insert(at, vma(at + len, stack, prot), &mut trash);
                }
                _ => {
                    let at = random(HIGH / PAGE_SIZE) * PAGE_SIZE;
                    map.remove(at, at + 4 * len);
                }
            }
        }
    }
}
