//! What memory mappings need of a file.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::errno::Result;
use crate::mm::types::VmaName;

/// Where the bytes of a piece of a file are on the host.
#[derive(Clone)]
pub struct Backing {
    /// The MemoryFile's fd or a host file's.
    pub fd: Arc<OwnedFd>,
    /// Offset in `fd`, bytes, page aligned.
    pub offset: u64,
    /// Length in bytes, page aligned; at least one page, at most what was asked for.
    pub len: u64,
    /// Keeps the memory from being reused while it is mapped (None for host files).
    pub keep: Option<runsc_platform::Retired>,
}

/// Someone who has mapped a file and must forget pages that are truncated away.
pub trait MappingOwner: Send + Sync {
    /// The pages of the file from byte `from` up to `to` are gone: unmap them now; the next touch
    /// faults and asks again.
    fn invalidate(&self, file: &dyn Mappable, from: u64, to: u64);
}

/// A file that can be mapped.
pub trait Mappable: Send + Sync {
    /// Where the file's bytes from `offset` (page aligned) are; the answer covers a prefix of
    /// `len`. With `write` holes are filled with memory of their own first.
    ///
    /// # Errors
    /// EFAULT beyond the last page of the file (SIGBUS for the guest), ENOMEM, ENOSPC, EIO.
    fn backing(&self, offset: u64, len: u64, write: WriteIntent) -> Result<Backing>;

    /// Remembers who maps it, for invalidation. One call a VMA; `remove_owner` undoes one.
    fn add_owner(&self, owner: std::sync::Weak<dyn MappingOwner>);
    fn remove_owner(&self, owner: &std::sync::Weak<dyn MappingOwner>);

    /// msync(2) with MS_SYNC.
    fn sync(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    /// madvise(2) with MADV_REMOVE: the bytes become a hole. Invalidates owners if pages move.
    fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(crate::errno::Errno::EOPNOTSUPP)
    }

    /// The same number for every handle on the same object, unique while it lives: futexes in
    /// shared memory are found by it. The default is for objects with one handle type.
    fn identity(&self) -> u64 {
        std::ptr::from_ref(self).cast::<()>() as u64
    }

    /// /dev/zero: a private mapping is anonymous memory, a shared one a new anonymous object.
    fn is_zero_device(&self) -> bool {
        false
    }

    /// Memory that is no file's: how /proc/PID/maps shows it.
    fn shown_as(&self) -> Option<VmaName> {
        None
    }

    /// A System V segment: its length in bytes. shmdt(2) takes no other mappings away.
    fn segment_len(&self) -> Option<u64> {
        None
    }

    /// May it be mapped shared and writable, or are writes refused (sealed memfd: EPERM)?
    fn check_shared_write(&self) -> Result<()> {
        Ok(())
    }
}

/// Whether a backing is asked for in order to write through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteIntent {
    Read,
    Write,
}
