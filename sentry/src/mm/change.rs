//! mprotect(2), madvise(2), msync(2), mincore(2) and names of anonymous memory.

use std::sync::Arc;

use runsc_platform::{Access, Prot};

use crate::errno::{Errno, Result};
use crate::mm::fault::{Force, Refusal};
use crate::mm::mappable::{Mappable, MappingOwner};
use crate::mm::pages::{Held, host_prot};
use crate::mm::types::{PAGE_SIZE, page_aligned, page_up};
use crate::mm::vma::{Source, Vma, VmaFlags};
use crate::mm::{Inner, MAX_MAP_COUNT, Mm};

const PROT_GROWSDOWN: i32 = 0x0100_0000;
const PROT_GROWSUP: i32 = 0x0200_0000;
const PROT_SEM: i32 = 8;

impl Mm {
    /// mprotect(2).
    ///
    /// # Errors
    /// As mprotect(2).
    pub fn mprotect(&self, addr: u64, len: u64, prot: i32) -> Result<()> {
        self.with(|inner| inner.mprotect(addr, len, prot))
    }

    /// madvise(2).
    ///
    /// # Errors
    /// As madvise(2). ENOMEM for unmapped parts is reported after the mapped ones were advised.
    pub fn madvise(&self, addr: u64, len: u64, advice: i32) -> Result<()> {
        self.with(|inner| inner.madvise(addr, len, advice))
    }

    /// msync(2).
    ///
    /// # Errors
    /// As msync(2).
    pub fn msync(&self, addr: u64, len: u64, flags: i32) -> Result<()> {
        let known = libc::MS_ASYNC | libc::MS_INVALIDATE | libc::MS_SYNC;
        if flags & !known != 0
            || !page_aligned(addr)
            || flags & (libc::MS_ASYNC | libc::MS_SYNC) == libc::MS_ASYNC | libc::MS_SYNC
        {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        if len == 0 {
            return Ok(());
        }
        let mut files = Vec::new();
        let hole = {
            let inner = self.inner.read();
            for (start, vma) in inner.vmas.overlapping(addr, end) {
                if flags & libc::MS_INVALIDATE != 0 && vma.flags.contains(VmaFlags::LOCKED) {
                    return Err(Errno::EBUSY);
                }
                if let Source::File(map) = &vma.source
                    && vma.shared()
                    && flags & libc::MS_SYNC != 0
                {
                    let from = start.max(addr);
                    let offset = map.offset + (from - start);
                    files.push((map.mappable.clone(), offset, vma.end.min(end) - from));
                }
            }
            !inner.vmas.covers(addr, end)
        };
        for (file, offset, len) in files {
            file.sync(offset, len)?;
        }
        if hole { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// mincore(2): one byte a page.
    ///
    /// # Errors
    /// EINVAL, ENOMEM.
    pub fn mincore(&self, addr: u64, len: u64) -> Result<Vec<u8>> {
        if !page_aligned(addr) {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        let inner = self.inner.read();
        if addr > inner.high || len > inner.high - addr {
            return Err(Errno::ENOMEM);
        }
        if !inner.vmas.covers(addr, addr + len) {
            return Err(Errno::ENOMEM);
        }
        let mut resident = vec![0u8; (len / PAGE_SIZE) as usize];
        for (start, piece) in inner.pages.overlapping(addr, addr + len) {
            let (from, to) = (start.max(addr), piece.end.min(addr + len));
            let (fd, offset) = piece.held.place();
            let offset = offset + (from - start);
            let parts = if Arc::ptr_eq(fd, inner.memory.fd()) {
                inner.memory.extents(offset, offset + (to - from))
            } else {
                // The host's page cache holds what is mapped, as good as always.
                vec![(offset, offset + (to - from))]
            };
            for (s, e) in parts {
                let first = (from - addr + (s - offset)) / PAGE_SIZE;
                let last = (from - addr + (e - offset)).div_ceil(PAGE_SIZE);
                for byte in resident.iter_mut().take(last as usize).skip(first as usize) {
                    *byte = 1;
                }
            }
        }
        Ok(resident)
    }

    /// PR_SET_VMA_ANON_NAME.
    ///
    /// # Errors
    /// EINVAL, ENOMEM, EBADF for file mappings.
    pub fn set_anon_name(&self, addr: u64, len: u64, name: Option<&[u8]>) -> Result<()> {
        if !page_aligned(addr) {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::EINVAL)?;
        let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
        let name: Option<Arc<[u8]>> = name.map(Arc::from);
        self.with(|inner| {
            if inner.vmas.overlapping(addr, end).any(|(_, v)| !v.is_anon()) {
                return Err(Errno::EBADF);
            }
            inner.change_vmas(addr, end, |vma| {
                if let Source::Anon { name: old } = &mut vma.source {
                    *old = name.clone();
                }
            });
            if inner.vmas.covers(addr, end) {
                Ok(())
            } else {
                Err(Errno::ENOMEM)
            }
        })
    }
}

impl Inner {
    pub(super) fn change_vmas(&mut self, start: u64, end: u64, mut f: impl FnMut(&mut Vma)) {
        let mut trash = std::mem::take(&mut self.trash);
        self.vmas.change(start, end, &mut trash, |_, vma| f(vma));
        self.trash = trash;
    }

    fn mprotect(&mut self, addr: u64, len: u64, raw: i32) -> Result<()> {
        let grows = raw & (PROT_GROWSDOWN | PROT_GROWSUP);
        if grows == PROT_GROWSDOWN | PROT_GROWSUP || !page_aligned(addr) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        let known = Prot::all().bits() | PROT_SEM | PROT_GROWSDOWN | PROT_GROWSUP;
        if raw & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let prot = Prot::from_bits_truncate(raw);
        let mut addr = addr;
        if grows == PROT_GROWSDOWN {
            let (start, vma) = self.vmas.find_from(addr).ok_or(Errno::ENOMEM)?;
            if start >= end {
                return Err(Errno::ENOMEM);
            }
            if !vma.flags.contains(VmaFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            addr = start;
        } else {
            self.vmas.find(addr).ok_or(Errno::ENOMEM)?;
            if grows == PROT_GROWSUP {
                return Err(Errno::EINVAL);
            }
        }
        if self.vmas.len() + 2 > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        // Linux goes VMA by VMA and keeps what it did before an error.
        let mut done = addr;
        let mut result = Ok(());
        let mut more_data = 0;
        for (start, vma) in self.vmas.overlapping(addr, end) {
            if start > done {
                break;
            }
            let piece_end = vma.end.min(end);
            // The platform's own pages, which are the same everywhere; Linux may refuse here too
            // (it does for a part of the vDSO).
            if vma.is_special() && vma.end > self.high {
                result = Err(Errno::EINVAL);
                break;
            }
            if let Err(e) = may_protect(vma, prot) {
                result = Err(e);
                break;
            }
            let becomes_data = prot.contains(Prot::WRITE)
                && !vma.prot.contains(Prot::WRITE)
                && !vma.flags.intersects(VmaFlags::SHARED | VmaFlags::GROWSDOWN);
            if becomes_data {
                more_data += piece_end - done;
                let data = self.vmas.sums().data.saturating_add(more_data);
                let counted = !vma.flags.contains(VmaFlags::NORESERVE);
                if data > self.limits.data
                    || counted && self.check_overcommit(piece_end - done).is_err()
                {
                    result = Err(Errno::ENOMEM);
                    break;
                }
            }
            done = piece_end;
        }
        if result.is_ok() && done < end {
            result = Err(Errno::ENOMEM);
        }
        if done > addr {
            self.set_protection(addr, done, prot);
        }
        result
    }

    fn set_protection(&mut self, start: u64, end: u64, prot: Prot) {
        if prot.contains(Prot::WRITE) && !self.patched.is_empty() {
            self.unpatch(start, end);
        }
        let vmas: Vec<(u64, Vma)> = self
            .vmas
            .overlapping(start, end)
            .map(|(s, v)| (s, v.clone()))
            .collect();
        for (s, old) in vmas {
            let (from, to) = (s.max(start), old.end.min(end));
            if old.prot == prot {
                continue;
            }
            if old.is_special() {
                self.batch.protect(from, to - from, prot);
                continue;
            }
            let mut new = old.clone();
            new.prot = prot;
            for (piece_start, piece) in self.pages.overlapping(from, to) {
                let before = host_prot(&old, &piece.held);
                let after = host_prot(&new, &piece.held);
                let (a, b) = (piece_start.max(from), piece.end.min(to));
                if before != after {
                    self.batch.protect(a, b - a, after);
                }
            }
        }
        self.change_vmas(start, end, |vma| vma.prot = prot);
        if !prot.is_empty() {
            self.premap(start, end, false);
        }
    }

    fn madvise(&mut self, addr: u64, len: u64, advice: i32) -> Result<()> {
        if !advice_known(advice) || !page_aligned(addr) {
            return Err(Errno::EINVAL);
        }
        let rounded = page_up(len).ok_or(Errno::EINVAL)?;
        let end = addr.checked_add(rounded).ok_or(Errno::EINVAL)?;
        if end == addr {
            return Ok(());
        }
        if advice == libc::MADV_HWPOISON || advice == libc::MADV_SOFT_OFFLINE {
            return Err(Errno::EPERM);
        }
        if advice == libc::MADV_POPULATE_READ || advice == libc::MADV_POPULATE_WRITE {
            return self.populate(addr, end, advice);
        }
        let vmas: Vec<(u64, Vma)> = self
            .vmas
            .overlapping(addr, end)
            .map(|(s, v)| (s, v.clone()))
            .collect();
        for (start, vma) in &vmas {
            let (from, to) = ((*start).max(addr), vma.end.min(end));
            self.advise(*start, vma, from, to, advice)?;
        }
        if self.vmas.covers(addr, end) {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }

    fn advise(&mut self, start: u64, vma: &Vma, from: u64, to: u64, advice: i32) -> Result<()> {
        let set =
            |add: VmaFlags, remove: VmaFlags| move |v: &mut Vma| v.flags = (v.flags - remove) | add;
        let none = VmaFlags::empty();
        let reading = VmaFlags::SEQ_READ | VmaFlags::RAND_READ;
        let huge = VmaFlags::HUGEPAGE | VmaFlags::NOHUGEPAGE;
        match advice {
            libc::MADV_NORMAL => self.change_vmas(from, to, set(none, reading)),
            libc::MADV_SEQUENTIAL => self.change_vmas(from, to, set(VmaFlags::SEQ_READ, reading)),
            libc::MADV_RANDOM => self.change_vmas(from, to, set(VmaFlags::RAND_READ, reading)),
            libc::MADV_DONTFORK => self.change_vmas(from, to, set(VmaFlags::DONTFORK, none)),
            libc::MADV_DOFORK => {
                if vma.is_special() {
                    return Err(Errno::EINVAL);
                }
                self.change_vmas(from, to, set(none, VmaFlags::DONTFORK));
            }
            libc::MADV_WIPEONFORK => {
                if !vma.is_anon() || vma.shared() {
                    return Err(Errno::EINVAL);
                }
                self.change_vmas(from, to, set(VmaFlags::WIPEONFORK, none));
            }
            libc::MADV_KEEPONFORK => {
                if vma.flags.contains(VmaFlags::DONTDUMP) && vma.is_special() {
                    return Err(Errno::EINVAL);
                }
                self.change_vmas(from, to, set(none, VmaFlags::WIPEONFORK));
            }
            libc::MADV_DONTDUMP => self.change_vmas(from, to, set(VmaFlags::DONTDUMP, none)),
            libc::MADV_DODUMP => self.change_vmas(from, to, set(none, VmaFlags::DONTDUMP)),
            libc::MADV_HUGEPAGE => self.change_vmas(from, to, set(VmaFlags::HUGEPAGE, huge)),
            libc::MADV_NOHUGEPAGE => self.change_vmas(from, to, set(VmaFlags::NOHUGEPAGE, huge)),
            libc::MADV_DONTNEED | libc::MADV_FREE | MADV_DONTNEED_LOCKED => {
                if vma.is_special() {
                    return Err(Errno::EINVAL);
                }
                if advice != MADV_DONTNEED_LOCKED && vma.flags.contains(VmaFlags::LOCKED) {
                    return Err(Errno::EINVAL);
                }
                if advice == libc::MADV_FREE && !vma.is_anon() {
                    return Err(Errno::EINVAL);
                }
                // Free memory may be dropped at any time; at once is one of them.
                self.discard(from, to, vma);
            }
            libc::MADV_REMOVE => {
                if vma.flags.contains(VmaFlags::LOCKED) {
                    return Err(Errno::EINVAL);
                }
                let Source::File(map) = &vma.source else {
                    return Err(Errno::EINVAL);
                };
                if !vma.shared() || !vma.flags.contains(VmaFlags::MAYWRITE) {
                    return Err(Errno::EACCES);
                }
                map.mappable
                    .discard(map.offset + (from - start), to - from)?;
            }
            libc::MADV_COLD | libc::MADV_PAGEOUT
                if vma.flags.contains(VmaFlags::LOCKED) || vma.is_special() =>
            {
                return Err(Errno::EINVAL);
            }
            // MADV_WILLNEED, MADV_COLD: the host reads ahead by itself.
            _ => {}
        }
        Ok(())
    }

    /// Forgets private contents: what is read next is zeros or the file's bytes.
    fn discard(&mut self, from: u64, to: u64, vma: &Vma) {
        if vma.shared() {
            return;
        }
        let anon = vma.is_anon();
        let mut again = Vec::new();
        let mut at = from;
        while at < to {
            let Some((start, piece)) = self.pages.overlapping(at, to).next() else {
                break;
            };
            let begin = start.max(at);
            let mut end = piece.end.min(to);
            if let Held::Private { range, cow } = &piece.held {
                let (owners, _, run_end) = range.owners(begin - start);
                end = end.min(start + run_end);
                let punched =
                    anon && owners == 1 && range.punch(begin - start, end - begin).is_ok();
                if punched && *cow && vma.prot.contains(Prot::WRITE) {
                    self.pages.mark_cow(begin, end, crate::mm::pages::Cow::No);
                    self.batch.protect(begin, end - begin, vma.prot);
                }
                if !punched {
                    again.push((begin, end));
                }
            }
            at = end;
        }
        for (begin, end) in again {
            self.forget(begin, end);
            self.premap(begin, end, false);
        }
    }

    fn populate(&mut self, start: u64, end: u64, advice: i32) -> Result<()> {
        let access = if advice == libc::MADV_POPULATE_WRITE {
            Access::Write
        } else {
            Access::Read
        };
        let mut at = start;
        while at < end {
            let Some((_, vma)) = self.vmas.find(at) else {
                return Err(Errno::ENOMEM);
            };
            if vma.is_special() {
                return Err(Errno::EINVAL);
            }
            let vma_end = vma.end;
            at = match self.ensure(at, end.min(vma_end), access, Force::No) {
                Ok(to) => to,
                Err(Refusal::NotMapped) => return Err(Errno::ENOMEM),
                Err(Refusal::Protection) => return Err(Errno::EINVAL),
                Err(Refusal::Bus) => return Err(Errno::EFAULT),
                Err(Refusal::NoMemory) => return Err(Errno::ENOMEM),
            };
        }
        self.make_resident(start, end);
        Ok(())
    }
}

const MADV_DONTNEED_LOCKED: i32 = 24;
fn advice_known(advice: i32) -> bool {
    // Unknown, as on a kernel built without them: page merging (12, 13) and collapsing (25); guard
    // regions (102, 103), which came with Linux 6.13.
    matches!(advice, 0..=4 | 8..=11 | 14..=24)
        || matches!(advice, libc::MADV_HWPOISON | libc::MADV_SOFT_OFFLINE)
}

fn may_protect(vma: &Vma, prot: Prot) -> Result<()> {
    if prot.contains(Prot::WRITE) && !vma.flags.contains(VmaFlags::MAYWRITE)
        || prot.contains(Prot::EXEC) && !vma.flags.contains(VmaFlags::MAYEXEC)
    {
        return Err(Errno::EACCES);
    }
    if let Source::File(map) = &vma.source
        && vma.shared()
        && prot.contains(Prot::WRITE)
        && !vma.prot.contains(Prot::WRITE)
        && map.mappable.check_shared_write().is_err()
    {
        return Err(Errno::EACCES);
    }
    Ok(())
}

impl MappingOwner for Mm {
    fn invalidate(&self, file: &dyn Mappable, from: u64, to: u64) {
        let id = file.identity();
        self.with(|inner| inner.invalidate(id, from, to));
        self.space.shoot_down();
    }
}

impl Inner {
    /// Unmaps the file's own pages from byte `from` to `to`; private copies stay.
    fn invalidate(&mut self, identity: u64, from: u64, to: u64) {
        let mut ranges = Vec::new();
        for (start, vma) in self.vmas.iter() {
            let Source::File(map) = &vma.source else {
                continue;
            };
            if map.mappable.identity() != identity {
                continue;
            }
            let map_end = map.offset.saturating_add(vma.end - start);
            let (a, b) = (from.max(map.offset), to.min(map_end));
            if a < b {
                ranges.push((start + (a - map.offset), start + (b - map.offset)));
            }
        }
        for (a, b) in ranges {
            let (a, b) = (crate::mm::page_down(a), page_up(b).unwrap_or(b));
            let objects: Vec<(u64, u64)> = self
                .pages
                .overlapping(a, b)
                .filter(|(_, p)| matches!(p.held, Held::Object { .. }))
                .map(|(s, p)| (s.max(a), p.end.min(b)))
                .collect();
            for (s, e) in objects {
                self.forget(s, e);
            }
        }
    }
}
