//! mremap(2).

use crate::errno::{Errno, Result};
use crate::mm::pages::host_prot;
use crate::mm::types::{MapFlags, page_aligned, page_up};
use crate::mm::vma::{OwnerGuard, Source, Vma, VmaFlags};
use crate::mm::{Inner, MAX_MAP_COUNT, Mm};

bitflags::bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct RemapFlags: i32 {
        const MAYMOVE = libc::MREMAP_MAYMOVE;
        const FIXED = libc::MREMAP_FIXED;
        const DONTUNMAP = libc::MREMAP_DONTUNMAP;
    }
}

/// A checked call.
struct Remap {
    old: u64,
    old_len: u64,
    new_len: u64,
    flags: RemapFlags,
}

impl Mm {
    /// mremap(2): returns the new address.
    ///
    /// # Errors
    /// As mremap(2).
    pub fn mremap(
        &self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: i32,
        new: u64,
    ) -> Result<u64> {
        let flags = RemapFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let may_move = flags.contains(RemapFlags::MAYMOVE);
        if flags.contains(RemapFlags::FIXED) && !may_move
            || flags.contains(RemapFlags::DONTUNMAP) && (!may_move || old_len != new_len)
            || !page_aligned(old)
        {
            return Err(Errno::EINVAL);
        }
        let call = Remap {
            old,
            old_len: page_up(old_len).ok_or(Errno::EINVAL)?,
            new_len: page_up(new_len).filter(|&l| l > 0).ok_or(Errno::EINVAL)?,
            flags,
        };
        self.with(|inner| inner.mremap(call, new))
    }
}

impl Inner {
    fn mremap(&mut self, mut call: Remap, new: u64) -> Result<u64> {
        self.vmas.find(call.old).ok_or(Errno::EFAULT)?;
        if call
            .flags
            .intersects(RemapFlags::FIXED | RemapFlags::DONTUNMAP)
        {
            return self.mremap_to(call, new);
        }
        if call.old_len >= call.new_len {
            if call.old_len > call.new_len {
                self.munmap(call.old + call.new_len, call.old_len - call.new_len)?;
            }
            return Ok(call.old);
        }
        let (start, vma) = self.resizable(&call)?;
        let grow = call.new_len - call.old_len;
        let old_end = call.old + call.old_len;
        if old_end == vma.end && !vma.is_special() && self.can_extend(&vma, grow) {
            let source = continued(&vma, vma.end - start);
            let tail = Vma {
                end: vma.end + grow,
                source,
                ..vma.clone()
            };
            let mut trash = std::mem::take(&mut self.trash);
            self.vmas.insert(vma.end, tail, &mut trash);
            self.trash = trash;
            let populate = vma.flags.contains(VmaFlags::LOCKED);
            self.premap(vma.end, vma.end + grow, populate);
            return Ok(call.old);
        }
        if !call.flags.contains(RemapFlags::MAYMOVE) {
            return Err(Errno::ENOMEM);
        }
        let to = self.place_for(0, call.new_len, MapFlags::empty())?;
        call.flags = RemapFlags::MAYMOVE;
        self.move_to(&call, start, &vma, to)
    }

    fn can_extend(&self, vma: &Vma, by: u64) -> bool {
        vma.end.checked_add(by).is_some_and(|e| e <= self.high)
            && self.vmas.is_free(vma.end, vma.end + by)
    }

    fn mremap_to(&mut self, mut call: Remap, new: u64) -> Result<u64> {
        if !page_aligned(new) || call.new_len > self.high || new > self.high - call.new_len {
            return Err(Errno::EINVAL);
        }
        let old_end = call.old.checked_add(call.old_len).ok_or(Errno::EINVAL)?;
        if old_end > new && new + call.new_len > call.old {
            return Err(Errno::EINVAL);
        }
        if self.vmas.len() + 2 >= MAX_MAP_COUNT - 3 {
            return Err(Errno::ENOMEM);
        }
        if call.flags.contains(RemapFlags::FIXED) {
            if new < self.low {
                return Err(Errno::EPERM);
            }
            self.munmap(new, call.new_len)?;
        }
        if call.old_len > call.new_len {
            self.munmap(call.old + call.new_len, call.old_len - call.new_len)?;
            call.old_len = call.new_len;
        }
        let (start, vma) = self.resizable(&call)?;
        let flags = if call.flags.contains(RemapFlags::FIXED) {
            MapFlags::FIXED
        } else {
            MapFlags::empty()
        };
        let to = self.place_for(new, call.new_len, flags)?;
        self.move_to(&call, start, &vma, to)
    }

    /// Linux's vma_to_resize: may this part of a VMA become that long?
    fn resizable(&self, call: &Remap) -> Result<(u64, Vma)> {
        let (start, vma) = self.vmas.find(call.old).ok_or(Errno::EFAULT)?;
        if call.old_len == 0 && !vma.shared() {
            return Err(Errno::EINVAL);
        }
        if call.flags.contains(RemapFlags::DONTUNMAP) && vma.is_special() {
            return Err(Errno::EINVAL);
        }
        if call.old_len > vma.end - call.old {
            return Err(Errno::EFAULT);
        }
        if call.new_len == call.old_len {
            return Ok((start, vma.clone()));
        }
        if let Source::File(map) = &vma.source
            && map
                .offset
                .checked_add(call.old - start)
                .and_then(|o| o.checked_add(call.new_len))
                .is_none_or(|e| e > 1 << 63)
        {
            return Err(Errno::EINVAL);
        }
        if vma.is_special() {
            return Err(Errno::EFAULT);
        }
        let grow = call.new_len.saturating_sub(call.old_len);
        if vma.flags.contains(VmaFlags::LOCKED) {
            self.check_lock_limit(grow)?;
        }
        self.check_expand(self.high, grow, vma)?;
        Ok((start, vma.clone()))
    }

    /// Moves `old_len` bytes to `to`, where they become `new_len`.
    fn move_to(&mut self, call: &Remap, start: u64, vma: &Vma, to: u64) -> Result<u64> {
        if !self.patched.is_empty() {
            // What jumps out of it comes back to where it was.
            self.unpatch(call.old, call.old.saturating_add(call.old_len));
        }
        if vma.is_special() {
            // The host's own pages cannot be moved from here.
            return Err(Errno::EFAULT);
        }
        if self.vmas.len() + 3 > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let (from, from_end) = (call.old, call.old + call.old_len);
        let mut flags = vma.flags;
        if call.flags.contains(RemapFlags::DONTUNMAP) {
            flags -= VmaFlags::LOCKED | VmaFlags::LOCKONFAULT;
        }
        let moved = Vma {
            end: to + call.new_len,
            flags,
            source: continued(vma, from - start),
            ..vma.clone()
        };
        let pieces = self.pages.remove(from, from_end);
        if !call.flags.contains(RemapFlags::DONTUNMAP) && from < from_end {
            self.trash
                .extend(self.vmas.remove(from, from_end).into_iter().map(|(_, v)| v));
        }
        let mut trash = std::mem::take(&mut self.trash);
        self.vmas.insert(to, moved.clone(), &mut trash);
        self.trash = trash;
        let mut gone = Vec::with_capacity(pieces.len());
        for (s, piece) in pieces {
            let at = s - from + to;
            let len = piece.end - s;
            self.batch.map(
                at,
                len,
                host_prot(&moved, &piece.held),
                &piece.held,
                false,
                Vec::new(),
            );
            self.pages.insert(at, at + len, piece.held);
            gone.push((s, len));
        }
        for (s, len) in gone {
            self.batch.unmap(s, len, Vec::new());
        }
        let populate = flags.contains(VmaFlags::LOCKED);
        self.premap(to, to + call.new_len, populate);
        if call.flags.contains(RemapFlags::DONTUNMAP) {
            self.change_vmas(from, from_end, |v| {
                v.flags -= VmaFlags::LOCKED | VmaFlags::LOCKONFAULT;
            });
            self.premap(from, from_end, false);
        }
        Ok(to)
    }
}

/// The source of a VMA that begins `by` bytes into this one.
fn continued(vma: &Vma, by: u64) -> Source {
    let mut source = vma.source.clone();
    if let Source::File(map) = &mut source {
        map.offset += by;
    }
    source
}

/// Ties an object to another address space.
pub(super) fn adopt(source: &mut Source, inner: &Inner) {
    if let Source::File(map) = source {
        map.guard = OwnerGuard::new(map.mappable.clone(), inner.this.clone());
    }
}
