//! Guest memory: address spaces, the MemoryFile, copy-on-write, access from the Sentry.

pub mod io;
pub mod mappable;
pub mod types;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use runsc_platform::memory::Window;
use runsc_platform::{AddressSpace, Fault, Platform};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Result};
use crate::mm::io::UserMemory;
use crate::mm::mappable::{Mappable, MappingOwner};
pub use crate::mm::types::*;

/// All guest memory that is not a host file. One a sandbox.
pub struct MemoryFile {}

/// A reference on a page range of the MemoryFile; the memory is free when the last one drops.
pub struct FileRange {}

impl MemoryFile {
    pub fn new() -> std::io::Result<Arc<MemoryFile>> {
        Ok(Arc::new(MemoryFile {}))
    }
    /// `len` zeroed bytes (rounded up to pages), sparse until touched.
    pub fn allocate(self: &Arc<Self>, _len: u64) -> Result<FileRange> {
        Err(Errno::ENOSYS)
    }
    /// Bytes of host memory in use.
    pub fn used(&self) -> u64 {
        0
    }
}

impl FileRange {
    /// The MemoryFile's fd, for a [`mappable::Backing`].
    pub fn fd(&self) -> &Arc<std::os::fd::OwnedFd> {
        unreachable!()
    }
    /// Offset in the MemoryFile, bytes.
    pub fn offset(&self) -> u64 {
        0
    }
    pub fn len(&self) -> u64 {
        0
    }
    /// A further reference on a part (bytes, page aligned, relative to this range).
    pub fn share(&self, _off: u64, _len: u64) -> FileRange {
        FileRange {}
    }
    /// The window to read and write byte `off` (relative to this range) through: window, position
    /// in it, and how many bytes from there are in both.
    pub fn window(&self, _off: u64) -> Result<(Arc<Window>, usize, usize)> {
        Err(Errno::ENOSYS)
    }
    /// Gives the memory of a part back to the host; it reads as zeros (FALLOC_FL_PUNCH_HOLE).
    pub fn punch(&self, _off: u64, _len: u64) -> Result<()> {
        Err(Errno::ENOSYS)
    }
}

/// One guest address space.
pub struct Mm {
    space: Arc<dyn AddressSpace>,
}

impl Mm {
    /// An empty address space, but for the vDSO.
    pub fn new(
        platform: &Arc<dyn Platform>,
        _memory: &Arc<MemoryFile>,
        _limits: Limits,
    ) -> Arc<Mm> {
        Arc::new(Mm {
            space: platform.new_address_space(),
        })
    }
    /// A copy-on-write copy (fork(2)).
    pub fn fork(&self) -> Result<Arc<Mm>> {
        Err(Errno::ENOSYS)
    }
    /// Unique while the sandbox lives.
    pub fn id(&self) -> u64 {
        0
    }
    pub fn space(&self) -> &Arc<dyn AddressSpace> {
        &self.space
    }
    pub fn memory(&self) -> &Arc<MemoryFile> {
        unreachable!()
    }
    /// To be called at exec and when a memory rlimit changes; fork copies them.
    pub fn set_limits(&self, _limits: Limits) {}
    /// Resolves a fault, or says which signal it is.
    pub fn handle_fault(&self, _fault: &Fault) -> Result<(), SignalInfo> {
        unreachable!()
    }

    pub fn mmap(&self, _req: MapRequest) -> Result<u64> {
        Err(Errno::ENOSYS)
    }
    pub fn munmap(&self, _addr: u64, _len: u64) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn mprotect(&self, _addr: u64, _len: u64, _prot: i32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn mremap(
        &self,
        _old: u64,
        _old_len: u64,
        _new_len: u64,
        _flags: i32,
        _new: u64,
    ) -> Result<u64> {
        Err(Errno::ENOSYS)
    }
    /// The program break after the call; unchanged if it failed.
    pub fn brk(&self, _addr: u64) -> u64 {
        0
    }
    pub fn madvise(&self, _addr: u64, _len: u64, _advice: i32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn msync(&self, _addr: u64, _len: u64, _flags: i32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// One byte a page.
    pub fn mincore(&self, _addr: u64, _len: u64) -> Result<Vec<u8>> {
        Err(Errno::ENOSYS)
    }
    /// mlock2(2): MLOCK_ONFAULT or 0.
    pub fn mlock(&self, _addr: u64, _len: u64, _flags: i32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn munlock(&self, _addr: u64, _len: u64) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn mlockall(&self, _flags: i32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn munlockall(&self) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// PR_SET_VMA_ANON_NAME.
    pub fn set_anon_name(&self, _addr: u64, _len: u64, _name: Option<&[u8]>) -> Result<()> {
        Err(Errno::ENOSYS)
    }

    /// A value of plain data at `addr`. EFAULT.
    pub fn read_obj<T: FromBytes + IntoBytes>(&self, _addr: u64) -> Result<T> {
        Err(Errno::ENOSYS)
    }
    pub fn write_obj<T: IntoBytes + Immutable + ?Sized>(
        &self,
        _addr: u64,
        _value: &T,
    ) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// All of `dst` or EFAULT.
    pub fn read_bytes(&self, _addr: u64, _dst: &mut [u8]) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// All of `src` or EFAULT (what came before the bad page is written).
    pub fn write_bytes(&self, _addr: u64, _src: &[u8]) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// The NUL-terminated string at `addr`, without the NUL. ENAMETOOLONG if there is no NUL in
    /// `max` bytes, EFAULT if memory ends before.
    pub fn read_cstr(&self, _addr: u64, _max: usize) -> Result<Vec<u8>> {
        Err(Errno::ENOSYS)
    }
    /// Atomic access to an aligned u32 (EINVAL if not aligned). Also needs write access, except `load`.
    pub fn load_u32(&self, _addr: u64) -> Result<u32> {
        Err(Errno::ENOSYS)
    }
    pub fn store_u32(&self, _addr: u64, _value: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    /// Ok(Ok(old)) if exchanged, Ok(Err(actual)) if not.
    pub fn compare_exchange_u32(
        &self,
        _addr: u64,
        _old: u32,
        _new: u32,
    ) -> Result<Result<u32, u32>> {
        Err(Errno::ENOSYS)
    }
    /// EINVAL if not aligned, EFAULT if not mapped.
    pub fn futex_key(&self, _addr: u64, _private: bool) -> Result<FutexKey> {
        Err(Errno::ENOSYS)
    }
    /// As copy_in, whatever the protection (ptrace, /proc/PID/mem).
    pub fn forced_read(&self, _addr: u64, _dst: &mut [u8]) -> usize {
        0
    }
    /// As copy_out, whatever the protection; private mappings get their own copy of the page.
    pub fn forced_write(&self, _addr: u64, _src: &[u8]) -> usize {
        0
    }

    /// The lines of /proc/PID/maps.
    pub fn maps(&self) -> Vec<VmaInfo> {
        Vec::new()
    }
    /// What smaps adds for the VMA at `start`.
    pub fn vma_use(&self, _start: u64) -> VmaUse {
        VmaUse::default()
    }
    pub fn totals(&self) -> Totals {
        Totals::default()
    }
    pub fn layout(&self) -> Layout {
        Layout::default()
    }
    /// PR_SET_MM and the loader.
    pub fn set_layout(&self, _change: impl FnOnce(&mut Layout)) {}
    /// The program, for /proc/PID/exe.
    pub fn exe(&self) -> Option<Arc<crate::fs::file::File>> {
        None
    }
    pub fn set_exe(&self, _file: Option<Arc<crate::fs::file::File>>) {}
    /// PR_SET_DUMPABLE's value.
    pub fn dumpable(&self) -> u32 {
        1
    }
    pub fn set_dumpable(&self, _value: u32) {}
}

impl UserMemory for Mm {
    fn copy_in(&self, _addr: u64, _dst: &mut [u8]) -> usize {
        0
    }
    fn copy_out(&self, _addr: u64, _src: &[u8]) -> usize {
        0
    }
    fn zero_out(&self, _addr: u64, _len: usize) -> usize {
        0
    }
    fn copy_out_from(&self, _addr: u64, _src: &Window, _off: usize, _len: usize) -> usize {
        0
    }
    fn copy_in_to(&self, _addr: u64, _dst: &Window, _off: usize, _len: usize) -> usize {
        0
    }
    fn read_host(&self, _: u64, _: usize, _: BorrowedFd<'_>, _: Option<u64>) -> Result<usize> {
        Err(Errno::ENOSYS)
    }
    fn write_host(&self, _: u64, _: usize, _: BorrowedFd<'_>, _: Option<u64>) -> Result<usize> {
        Err(Errno::ENOSYS)
    }
}

impl MappingOwner for Mm {
    fn invalidate(&self, _file: &dyn Mappable, _from: u64, _to: u64) {}
}
