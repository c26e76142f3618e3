//! mmap(2), munmap(2) and brk(2), with the checks in the order Linux makes them.

use std::sync::Arc;

use runsc_platform::{Access, Prot};

use crate::errno::{Errno, Result};
use crate::mm::fault::Force;
use crate::mm::mappable::Mappable;
use crate::mm::shared::SharedAnon;
use crate::mm::types::{
    MapFile, MapFlags, MapRequest, PAGE_SIZE, page_aligned, page_down, page_up,
};
use crate::mm::vma::{FileMap, GUARD_GAP, OwnerGuard, Source, Vma, VmaFlags};
use crate::mm::{Inner, MAX_MAP_COUNT, Mm, Randomize, random_pages};

/// Flags that MAP_SHARED_VALIDATE knows.
const KNOWN: i32 = MapFlags::all().bits() | libc::MAP_SHARED_VALIDATE;

/// Sharing of a mapping (the MAP_TYPE bits).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Private,
    Shared,
    Validate,
}

impl Mm {
    /// mmap(2): maps and returns the address.
    ///
    /// # Errors
    /// As mmap(2); EBADF is the caller's.
    pub fn mmap(&self, req: MapRequest) -> Result<u64> {
        self.with(|inner| inner.mmap(req))
    }

    /// munmap(2).
    ///
    /// # Errors
    /// EINVAL; ENOMEM if splitting a mapping would make too many.
    pub fn munmap(&self, addr: u64, len: u64) -> Result<()> {
        self.with(|inner| inner.munmap(addr, len))
    }

    /// The program break after the call; unchanged if it failed, as the system call has it.
    pub fn brk(&self, addr: u64) -> u64 {
        self.with(|inner| inner.brk(addr))
    }

    /// Adds the initial stack of `len` bytes below `top`; exec only.
    ///
    /// # Errors
    /// ENOMEM if something is there, or by the limits.
    pub(crate) fn add_stack(&self, top: u64, len: u64, exec: bool) -> Result<()> {
        let mut prot = Prot::READ | Prot::WRITE;
        prot.set(Prot::EXEC, exec);
        self.with(|inner| inner.insert_stack(top, len, prot))
    }

    /// Sets where the heap begins (exec), up to 32 MiB (for `Yes`) above `end_of_program`.
    pub fn set_heap(&self, end_of_program: u64, randomize: Randomize) {
        self.with(|inner| {
            let start = page_up(end_of_program).unwrap_or(end_of_program);
            let random = match randomize {
                Randomize::Yes => random_pages((32 << 20) / PAGE_SIZE),
                Randomize::No => 0,
            };
            let start = start.saturating_add(random);
            inner.layout.start_brk = start;
            inner.layout.brk = start;
        });
    }
}

impl Inner {
    fn mmap(&mut self, req: MapRequest) -> Result<u64> {
        if !page_aligned(req.offset) {
            return Err(Errno::EINVAL);
        }
        if req.flags & libc::MAP_HUGETLB != 0 {
            // No huge page pool: as on a host whose pool is empty; only hugetlbfs files take it.
            return Err(if req.flags & libc::MAP_ANONYMOUS != 0 {
                Errno::ENOMEM
            } else {
                Errno::EINVAL
            });
        }
        let flags = MapFlags::from_bits_retain(req.flags);
        let prot = Prot::from_bits_truncate(req.prot);
        if req.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_up(req.len).ok_or(Errno::ENOMEM)?;
        if req.offset.checked_add(len).is_none_or(|e| e > 1 << 63) && req.file.is_some() {
            return Err(Errno::EOVERFLOW);
        }
        if self.vmas.len() > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let addr = self.place_for(req.addr, len, flags)?;
        if flags.contains(MapFlags::FIXED_NOREPLACE)
            && self.vmas.overlapping(addr, addr + len).next().is_some()
        {
            return Err(Errno::EEXIST);
        }
        let mut vma_flags = self.lock_future;
        if flags.contains(MapFlags::LOCKED) {
            if !self.limits.may_lock && self.limits.memlock == 0 {
                return Err(Errno::EPERM);
            }
            vma_flags |= VmaFlags::LOCKED;
        }
        if vma_flags.contains(VmaFlags::LOCKED) {
            self.check_lock_limit(len)?;
        }
        let share = match req.flags & 0xf {
            libc::MAP_SHARED => Share::Shared,
            libc::MAP_PRIVATE => Share::Private,
            libc::MAP_SHARED_VALIDATE => Share::Validate,
            _ => return Err(Errno::EINVAL),
        };
        let (source, may) = match &req.file {
            Some(file) => {
                let may = check_file(file, share, req.flags, prot)?;
                if flags.contains(MapFlags::GROWSDOWN) {
                    return Err(Errno::EINVAL);
                }
                let mappable = file.mappable.clone()?;
                if may.contains(VmaFlags::SHARED)
                    && may.contains(VmaFlags::MAYWRITE)
                    && prot.contains(Prot::WRITE)
                {
                    mappable.check_shared_write()?;
                }
                self.file_source(file, mappable, req.offset, len, may)?
            }
            None => {
                let may = VmaFlags::MAYWRITE | VmaFlags::MAYEXEC;
                match share {
                    Share::Private => (Source::Anon { name: None }, may),
                    Share::Shared if flags.contains(MapFlags::GROWSDOWN) => {
                        return Err(Errno::EINVAL);
                    }
                    Share::Shared => (self.new_shared(len)?, may | VmaFlags::SHARED),
                    Share::Validate => return Err(Errno::EINVAL),
                }
            }
        };
        vma_flags |= may;
        if flags.contains(MapFlags::GROWSDOWN) {
            vma_flags |= VmaFlags::GROWSDOWN;
        }
        if flags.contains(MapFlags::NORESERVE) {
            vma_flags |= VmaFlags::NORESERVE;
        }
        let vma = Vma {
            end: addr + len,
            prot,
            flags: vma_flags,
            source,
        };
        self.check_expand(addr, len, &vma)?;
        if flags.contains(MapFlags::FIXED) {
            self.unmap(addr, addr + len);
        }
        let populate = vma_flags.contains(VmaFlags::LOCKED)
            && !vma_flags.contains(VmaFlags::LOCKONFAULT)
            || flags.contains(MapFlags::POPULATE) && !flags.contains(MapFlags::NONBLOCK);
        let mut trash = std::mem::take(&mut self.trash);
        self.vmas.insert(addr, vma, &mut trash);
        self.trash = trash;
        if flags.contains(MapFlags::DENYWRITE) {
            self.copy_ahead(addr, addr + len);
        }
        self.premap(addr, addr + len, populate);
        Ok(addr)
    }

    /// Copies a small private mapping of a file that may be written at once. With MAP_DENYWRITE, which
    /// dynamic linkers use, it is the data of a program or library, about to be relocated: its
    /// faults would cost more, and nobody changes the file meanwhile.
    fn copy_ahead(&mut self, start: u64, end: u64) {
        const SMALL: u64 = 128 << 10;
        let Some((_, vma)) = self.vmas.find(start) else {
            return;
        };
        let written = matches!(vma.source, Source::File(_))
            && !vma.shared()
            && vma.prot.contains(Prot::WRITE);
        if !written || end - start > SMALL {
            return;
        }
        let mut at = start;
        while at < end {
            // What cannot be brought in faults when it is touched.
            match self.ensure(at, end, Access::Write, Force::No) {
                Ok(to) => at = to,
                Err(_) => return,
            }
        }
    }

    /// The object behind a file mapping, and the flags that follow from the file.
    fn file_source(
        &mut self,
        file: &MapFile,
        mappable: Arc<dyn Mappable>,
        offset: u64,
        len: u64,
        may: VmaFlags,
    ) -> Result<(Source, VmaFlags)> {
        if mappable.is_zero_device() {
            let source = if may.contains(VmaFlags::SHARED) {
                self.new_shared(len)?
            } else {
                Source::Anon { name: None }
            };
            return Ok((source, may));
        }
        let guard = OwnerGuard::new(mappable.clone(), self.this.clone());
        let nameless = mappable.shown_as().is_some();
        Ok((
            Source::File(FileMap {
                mappable,
                file: file.file.clone(),
                offset,
                guard,
                nameless,
            }),
            may,
        ))
    }

    fn new_shared(&mut self, len: u64) -> Result<Source> {
        let mappable: Arc<dyn Mappable> = SharedAnon::new(&self.memory, len)?;
        let guard = OwnerGuard::new(mappable.clone(), self.this.clone());
        Ok(Source::File(FileMap {
            mappable,
            file: None,
            offset: 0,
            guard,
            nameless: true,
        }))
    }

    /// Linux's get_unmapped_area: where a mapping goes.
    pub(super) fn place_for(&mut self, hint: u64, len: u64, flags: MapFlags) -> Result<u64> {
        if len > self.high {
            return Err(Errno::ENOMEM);
        }
        if flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE) {
            if hint > self.high - len {
                return Err(Errno::ENOMEM);
            }
            if !page_aligned(hint) {
                return Err(Errno::EINVAL);
            }
            if hint < self.low {
                return Err(Errno::EPERM);
            }
            return Ok(hint);
        }
        if flags.contains(MapFlags::BITS_32) {
            return self
                .vmas
                .find_bottom_up(len, self.low.max(0x4000_0000), (1u64 << 31).min(self.high))
                .ok_or(Errno::ENOMEM);
        }
        if hint != 0 {
            let hint = page_up(hint).unwrap_or(hint).max(self.low);
            if hint <= self.high - len
                && self.vmas.is_free(hint, hint + len)
                && self.clear_of_guard(hint)
            {
                return Ok(hint);
            }
        }
        self.vmas
            .find_top_down(len, self.low, self.mmap_base)
            .or_else(|| self.vmas.find_bottom_up(len, self.mmap_base, self.high))
            .ok_or(Errno::ENOMEM)
    }

    fn clear_of_guard(&self, addr: u64) -> bool {
        self.vmas.previous(addr).is_none_or(|(_, v)| v.end <= addr)
    }

    /// RLIMIT_MEMLOCK for `more` locked bytes.
    pub(super) fn check_lock_limit(&self, more: u64) -> Result<()> {
        let total = self.vmas.sums().locked.saturating_add(more);
        if !self.limits.may_lock && total > self.limits.memlock {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// RLIMIT_AS, RLIMIT_DATA and overcommit for a new mapping that replaces what is there.
    pub(super) fn check_expand(&self, addr: u64, len: u64, vma: &Vma) -> Result<()> {
        let replaced: u64 = self
            .vmas
            .overlapping(addr, addr + len)
            .map(|(s, v)| v.end.min(addr + len) - s.max(addr))
            .sum();
        let sums = self.vmas.sums();
        if sums.vm.saturating_sub(replaced).saturating_add(len) > self.limits.address_space {
            return Err(Errno::ENOMEM);
        }
        let private_write = vma.prot.contains(Prot::WRITE) && !vma.shared();
        if private_write
            && !vma.flags.contains(VmaFlags::GROWSDOWN)
            && sums.data.saturating_add(len) > self.limits.data
        {
            return Err(Errno::ENOMEM);
        }
        // The memory of a segment was counted when it was made.
        let anonymous = matches!(&vma.source, Source::File(map)
            if map.nameless && map.mappable.segment_len().is_none());
        let counted = private_write || vma.shared() && anonymous;
        if counted && !vma.flags.contains(VmaFlags::NORESERVE) {
            self.check_overcommit(len)?;
        }
        Ok(())
    }

    /// vm.overcommit_memory = 0: refuses only what is obviously too much.
    pub(super) fn check_overcommit(&self, len: u64) -> Result<()> {
        if len > self.memory.total_memory() {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    pub(super) fn munmap(&mut self, addr: u64, len: u64) -> Result<()> {
        if !page_aligned(addr) || addr > self.high || len > self.high - addr {
            return Err(Errno::EINVAL);
        }
        let end = addr + page_up(len).ok_or(Errno::EINVAL)?;
        if end == addr {
            return Err(Errno::EINVAL);
        }
        if let Some((s, v)) = self.vmas.find(addr)
            && s < addr
            && v.end > end
            && self.vmas.len() >= MAX_MAP_COUNT
        {
            return Err(Errno::ENOMEM);
        }
        self.unmap(addr, end);
        Ok(())
    }

    fn brk(&mut self, addr: u64) -> u64 {
        let (start, old) = (self.layout.start_brk, self.layout.brk);
        if addr < start {
            return old;
        }
        let data = self.layout.end_data.saturating_sub(self.layout.start_data);
        if (addr - start).saturating_add(data) > self.limits.data {
            return old;
        }
        let (Some(old_end), Some(new_end)) = (page_up(old), page_up(addr)) else {
            return old;
        };
        if new_end < old_end {
            self.unmap(new_end, old_end);
        } else if new_end > old_end && self.grow_heap(old_end, new_end).is_err() {
            return old;
        }
        self.layout.brk = addr;
        addr
    }

    fn grow_heap(&mut self, from: u64, to: u64) -> Result<()> {
        if to > self.high - GUARD_GAP || !self.vmas.is_free(from, to + PAGE_SIZE) {
            return Err(Errno::ENOMEM);
        }
        let vma = Vma {
            end: to,
            prot: Prot::READ | Prot::WRITE,
            flags: VmaFlags::MAYWRITE | VmaFlags::MAYEXEC | self.lock_future,
            source: Source::Anon { name: None },
        };
        if vma.flags.contains(VmaFlags::LOCKED) {
            self.check_lock_limit(to - from)?;
        }
        self.check_expand(from, to - from, &vma)?;
        if self.vmas.len() > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let populate = vma.flags.contains(VmaFlags::LOCKED);
        let mut trash = std::mem::take(&mut self.trash);
        self.vmas.insert(from, vma, &mut trash);
        self.trash = trash;
        self.premap(from, to, populate);
        Ok(())
    }

    /// Adds the initial stack, growing down from `top`; exec only.
    fn insert_stack(&mut self, top: u64, len: u64, prot: Prot) -> Result<()> {
        let start = page_down(top - len);
        let vma = Vma {
            end: top,
            prot,
            flags: VmaFlags::MAYWRITE | VmaFlags::MAYEXEC | VmaFlags::GROWSDOWN,
            source: Source::Anon { name: None },
        };
        if !self.vmas.is_free(start, top) {
            return Err(Errno::ENOMEM);
        }
        self.check_expand(start, len, &vma)?;
        let mut trash = std::mem::take(&mut self.trash);
        self.vmas.insert(start, vma, &mut trash);
        self.trash = trash;
        self.premap(start, top, false);
        Ok(())
    }
}

/// What Linux checks of a mapped file; the flags the VMA gets.
fn check_file(file: &MapFile, share: Share, flags: i32, prot: Prot) -> Result<VmaFlags> {
    let mut may = VmaFlags::MAYWRITE | VmaFlags::MAYEXEC;
    if share == Share::Validate && flags & (!KNOWN | libc::MAP_SYNC) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if share != Share::Private {
        if prot.contains(Prot::WRITE) && !file.writable {
            return Err(Errno::EACCES);
        }
        may |= VmaFlags::SHARED;
        if !file.writable {
            may -= VmaFlags::MAYWRITE;
        }
    }
    if !file.readable {
        return Err(Errno::EACCES);
    }
    if file.noexec {
        if prot.contains(Prot::EXEC) {
            return Err(Errno::EPERM);
        }
        may -= VmaFlags::MAYEXEC;
    }
    Ok(may)
}
