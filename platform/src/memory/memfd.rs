//! Anonymous files for guest memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// Linux 6.3: the file cannot be executed by execve, and that is sealed. Mapping it executable
/// still works.
const MFD_NOEXEC_SEAL: u32 = 8;

/// A memfd: grows on demand, sparse, gives memory back hole by hole. Offsets and lengths in bytes.
/// Touching a hole through a mapping allocates its page, even if only to read.
#[derive(Debug)]
pub struct MemFd {
    file: File,
}

impl MemFd {
    /// An empty, sparse file; `name` shows in the host's /proc/PID/maps.
    pub fn create(name: &CStr) -> io::Result<MemFd> {
        // Older kernels do not know the flag and say EINVAL.
        let fd = create(name, libc::MFD_CLOEXEC | MFD_NOEXEC_SEAL)
            .or_else(|_| create(name, libc::MFD_CLOEXEC))?;
        Ok(MemFd { file: fd.into() })
    }

    /// A file of the caller's, on a tmpfs.
    pub fn from_file(file: File) -> MemFd {
        MemFd { file }
    }

    /// Size of the file, holes included.
    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes the file `len` bytes long. Shrinking makes existing mappings of the end fault.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    /// Gives the pages of a range back to the host; they read as zero from then on, in every
    /// mapping. The range must be page aligned to free all of it.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        punch_hole(self.file.as_fd(), offset, len)
    }

    /// Allocates the pages of a range now, instead of at the first touch.
    pub fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        allocate(self.file.as_fd(), offset, len)
    }

    /// Bytes of host memory the file holds.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks().saturating_mul(512))
    }

    /// A second descriptor of the same file.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

/// [`MemFd::punch_hole`] of a descriptor.
pub(crate) fn punch_hole(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    fallocate(fd, mode, offset, len)
}

/// [`MemFd::allocate`] of a descriptor.
pub(crate) fn allocate(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

fn fallocate(fd: BorrowedFd<'_>, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    loop {
        // SAFETY: no memory of ours is passed.
        let rc = unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) };
        if rc == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl AsFd for MemFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn create(name: &CStr, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a terminated string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Window, install_fault_handler};

    #[test]
    fn holes_give_memory_back() {
        install_fault_handler().unwrap();
        let file = MemFd::create(c"test").unwrap();
        assert!(file.is_empty().unwrap());
        file.set_len(1 << 20).unwrap();
        assert_eq!(file.allocated_bytes().unwrap(), 0);
        let window = Window::map(file.as_fd(), 0, 1 << 20, true).unwrap();
        window.write(8192, &[7; 8192]).unwrap();
        assert_eq!(file.allocated_bytes().unwrap(), 8192);
        file.punch_hole(8192, 4096).unwrap();
        assert_eq!(file.allocated_bytes().unwrap(), 4096);
        assert_eq!(window.load_u8(8192).unwrap(), 0);
        assert_eq!(window.load_u8(12288).unwrap(), 7);
        file.allocate(0, 8192).unwrap();
        // Reading a hole through a mapping has allocated its page.
        assert_eq!(file.allocated_bytes().unwrap(), 4 * 4096);
    }

    #[test]
    fn code_in_a_memfd_can_be_mapped_executable() {
        let file = MemFd::create(c"code").unwrap();
        file.set_len(4096).unwrap();
        // SAFETY: a fresh mapping, nothing is replaced.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_SHARED,
                file.as_fd().as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: unmaps what was just mapped.
        unsafe { libc::munmap(at, 4096) };
    }
}
