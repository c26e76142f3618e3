//! Memory for the page tables that kvm needs for guests.

use std::sync::Arc;

use runsc_platform::kvm::Reserved;

use crate::mm::memory_file::MemoryFile;

/// Page tables of guests count as their memory.
pub struct TableMemory(pub Arc<MemoryFile>);

impl runsc_platform::kvm::TableMemory for TableMemory {
    fn reserve(&self, len: u64) -> std::io::Result<Reserved> {
        let no_memory = |_| std::io::ErrorKind::OutOfMemory;
        let range = self.0.allocate(len).map_err(no_memory)?;
        Ok(Reserved {
            file: self.0.fd().clone(),
            offset: range.offset(),
            range: Arc::new(range),
        })
    }
}
