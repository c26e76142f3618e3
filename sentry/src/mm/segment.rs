//! shmat(2) and shmdt(2): System V segments in an address space. The segments themselves are
//! [`crate::kernel::ipc::shm`]'s; here they are objects like any other that is mapped.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::mm::mappable::Mappable;
use crate::mm::types::{MapFile, MapRequest, page_up};
use crate::mm::vma::{Source, Vma};
use crate::mm::{Inner, Mm};

/// Where a segment is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Anywhere,
    /// EINVAL if something is there.
    Free(u64),
    /// In place of what is there (SHM_REMAP).
    Over(u64),
}

impl Mm {
    /// Maps all of a segment with protection `prot` (PROT_*); returns the address.
    ///
    /// # Errors
    /// EINVAL (the place is taken), and as mmap(2).
    pub fn attach(&self, segment: Arc<dyn Mappable>, place: Place, prot: i32) -> Result<u64> {
        let len = segment.segment_len().ok_or(Errno::EINVAL)?;
        let (addr, fixed) = match place {
            Place::Anywhere => (0, 0),
            Place::Free(addr) => (addr, libc::MAP_FIXED_NOREPLACE),
            Place::Over(addr) => (addr, libc::MAP_FIXED),
        };
        if addr.checked_add(len).is_none() {
            return Err(Errno::EINVAL);
        }
        let mapped = self.mmap(MapRequest {
            addr,
            len,
            prot,
            flags: libc::MAP_SHARED | fixed,
            file: Some(MapFile {
                mappable: Ok(segment),
                file: None,
                readable: true,
                writable: prot & libc::PROT_WRITE != 0,
                noexec: false,
            }),
            offset: 0,
        });
        match mapped {
            Err(Errno::EEXIST) => Err(Errno::EINVAL),
            mapped => mapped,
        }
    }

    /// Takes away what is left of the segment that was attached at `addr`.
    ///
    /// # Errors
    /// EINVAL: there is none.
    pub fn detach(&self, addr: u64) -> Result<()> {
        self.with(|inner| inner.detach(addr))
    }
}

impl Inner {
    fn detach(&mut self, addr: u64) -> Result<()> {
        // Pieces may have been unmapped, the first one too: what matters is where it began.
        let attached = |start: u64, vma: &Vma| match &vma.source {
            Source::File(map) if start.checked_sub(map.offset) == Some(addr) => {
                Some((map.mappable.segment_len()?, map.mappable.identity()))
            }
            _ => None,
        };
        let first = self.vmas.overlapping(addr, self.high);
        let first = first
            .filter(|(start, _)| *start >= addr)
            .find_map(|(start, vma)| attached(start, vma));
        let (len, identity) = first.ok_or(Errno::EINVAL)?;
        let end = page_up(len)
            .and_then(|len| addr.checked_add(len))
            .ok_or(Errno::EINVAL)?;
        let pieces: Vec<(u64, u64)> = self
            .vmas
            .overlapping(addr, end)
            .filter(|(start, vma)| attached(*start, vma).is_some_and(|(_, id)| id == identity))
            .map(|(start, vma)| (start, vma.end.min(end)))
            .collect();
        for (start, end) in pieces {
            self.unmap(start, end);
        }
        Ok(())
    }
}
