//! Shared anonymous memory: MAP_SHARED | MAP_ANONYMOUS, shared mappings of /dev/zero, System V
//! segments.

use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};
use crate::mm::memory_file::{FileRange, MemoryFile};
use crate::mm::types::VmaName;

/// A nameless object of fixed size in the MemoryFile, sparse until touched.
pub struct SharedAnon {
    range: Arc<FileRange>,
}

impl SharedAnon {
    /// `len` zeroed bytes, rounded up to pages. ENOMEM.
    pub fn new(memory: &Arc<MemoryFile>, len: u64) -> Result<Arc<SharedAnon>> {
        Ok(Arc::new(SharedAnon {
            range: Arc::new(memory.allocate(len)?),
        }))
    }

    /// Bytes that take memory of the host.
    pub fn resident(&self) -> u64 {
        self.range.resident()
    }
}

impl Mappable for SharedAnon {
    fn backing(&self, offset: u64, len: u64, _write: WriteIntent) -> Result<Backing> {
        let left = self.range.len().saturating_sub(offset);
        if left == 0 {
            return Err(Errno::EFAULT);
        }
        Ok(Backing {
            fd: self.range.fd().clone(),
            offset: self.range.offset() + offset,
            len: len.min(left),
            keep: Some(self.range.clone()),
        })
    }

    fn add_owner(&self, _owner: Weak<dyn MappingOwner>) {}

    fn remove_owner(&self, _owner: &Weak<dyn MappingOwner>) {}

    fn shown_as(&self) -> Option<VmaName> {
        Some(VmaName::DevZero)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.range.punch(offset, len)
    }
}
