//! [`Window`]: a shared mapping of a file range, accessed only through fault-safe routines.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::AccessFault;
use super::access::{self, Word};
use crate::common::PAGE;

/// A MAP_SHARED mapping of part of a file. Offsets and lengths are bytes from the window's start.
///
/// The guest and other threads write the same memory at any time: what is read is a snapshot that
/// must be checked after copying, never before. An access outside the window is refused with
/// `done: 0` and touches nothing; one to a page that is gone reports how far it came.
#[derive(Debug)]
pub struct Window {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only reached through
// routines that treat it as memory shared with hostile writers.
unsafe impl Send for Window {}
// SAFETY: as above; no `&self` method makes a Rust reference to the memory.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `len` bytes of `fd` from `offset` (a multiple of the page size). The file may be
    /// shorter: touching what is beyond its end faults until it grows.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<Window> {
        Window::map_as(fd, offset, len, writable, libc::MAP_SHARED)
    }

    /// As [`Window::map`], but what is written stays here (MAP_PRIVATE).
    pub(crate) fn map_copy(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Window> {
        Window::map_as(
            fd,
            offset,
            len,
            true,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        )
    }

    fn map_as(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        writable: bool,
        flags: i32,
    ) -> io::Result<Window> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let offset = i64::try_from(offset).map_err(|_| invalid())?;
        let prot = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                flags,
                fd.as_raw_fd(),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Window {
            base: base.cast(),
            len,
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which pages of a part are in the host's memory, in order. `offset`: bytes, a multiple of the
    /// page size.
    ///
    /// # Errors
    /// What mincore(2) says; EINVAL for a part that is not within the window.
    pub fn resident(&self, offset: usize, len: usize) -> io::Result<Vec<bool>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let page = PAGE as usize;
        if end.is_none() || !offset.is_multiple_of(page) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut pages = vec![0u8; len.div_ceil(page)];
        // SAFETY: the offset is within the mapping, see above.
        let start = unsafe { self.base.add(offset) };
        // SAFETY: the part is mapped, and there is a byte for each of its pages.
        match unsafe { libc::mincore(start.cast(), len, pages.as_mut_ptr()) } {
            0 => Ok(pages.into_iter().map(|page| page & 1 != 0).collect()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Copies out of the window.
    pub fn read(&self, off: usize, to: &mut [u8]) -> Result<(), AccessFault> {
        let from = self.range(off, to.len())?;
        // SAFETY: `to` is ours and does not overlap the window; faults on `from` are caught.
        let left = unsafe { access::runsc_guarded_copy(to.as_mut_ptr(), from, to.len()) };
        stopped(to.len(), left)
    }

    /// Copies into the window.
    pub fn write(&self, off: usize, from: &[u8]) -> Result<(), AccessFault> {
        let to = self.range(off, from.len())?;
        // SAFETY: `from` is ours and does not overlap the window; faults on `to` are caught.
        let left = unsafe { access::runsc_guarded_copy(to, from.as_ptr(), from.len()) };
        stopped(from.len(), left)
    }

    /// Clears a range.
    pub fn zero(&self, off: usize, len: usize) -> Result<(), AccessFault> {
        let to = self.range(off, len)?;
        // SAFETY: the range lies in the window; faults are caught.
        let left = unsafe { access::runsc_guarded_zero(to, len) };
        stopped(len, left)
    }

    /// Copies from this window to another (or to another place of this one; if the two ranges
    /// overlap the result is that of an upward byte copy).
    pub fn copy_to(
        &self,
        off: usize,
        other: &Window,
        other_off: usize,
        len: usize,
    ) -> Result<(), AccessFault> {
        let from = self.range(off, len)?;
        let to = other.range(other_off, len)?;
        // SAFETY: both ranges lie in their windows; faults on either side are caught.
        let left = unsafe { access::runsc_guarded_copy(to, from, len) };
        stopped(len, left)
    }

    pub fn load_u8(&self, off: usize) -> Result<u8, AccessFault> {
        let at = self.range(off, 1)?;
        // SAFETY: the byte lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_load8(at) };
        value(word).map(|v| v as u8)
    }

    /// One load, not torn if aligned.
    pub fn load_u32(&self, off: usize) -> Result<u32, AccessFault> {
        let at = self.range(off, 4)?;
        // SAFETY: the word lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_load32(at) };
        value(word).map(|v| v as u32)
    }

    /// One load, not torn if aligned.
    pub fn load_u64(&self, off: usize) -> Result<u64, AccessFault> {
        let at = self.range(off, 8)?;
        // SAFETY: the word lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_load64(at) };
        value(word)
    }

    /// One store, not torn if aligned.
    pub fn store_u32(&self, off: usize, new: u32) -> Result<(), AccessFault> {
        let at = self.range(off, 4)?;
        // SAFETY: the word lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_store32(at, new) };
        value(word).map(|_| ())
    }

    /// One store, not torn if aligned.
    pub fn store_u64(&self, off: usize, new: u64) -> Result<(), AccessFault> {
        let at = self.range(off, 8)?;
        // SAFETY: the word lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_store64(at, new) };
        value(word).map(|_| ())
    }

    /// Atomically replaces `old` by `new`: `Ok(old)` if it did, `Err(found)` if something else was
    /// there. Like all atomic operations here: full barrier, and `off` must be aligned.
    pub fn compare_exchange_u32(
        &self,
        off: usize,
        old: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, AccessFault> {
        let at = self.aligned(off)?;
        // SAFETY: the word lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_cas32(at, old, new) };
        let found = value(word)? as u32;
        Ok(if found == old { Ok(found) } else { Err(found) })
    }

    /// Atomically replaces the word and gives what was there (FUTEX_OP_SET).
    pub fn swap_u32(&self, off: usize, new: u32) -> Result<u32, AccessFault> {
        let at = self.aligned(off)?;
        // SAFETY: the word lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_swap32(at, new) };
        value(word).map(|v| v as u32)
    }

    /// Atomically adds, wrapping, and gives what was there (FUTEX_OP_ADD).
    pub fn fetch_add_u32(&self, off: usize, operand: u32) -> Result<u32, AccessFault> {
        let at = self.aligned(off)?;
        // SAFETY: the word lies in the window; a fault is caught.
        let word = unsafe { access::runsc_guarded_add32(at, operand) };
        value(word).map(|v| v as u32)
    }

    /// FUTEX_OP_OR.
    pub fn fetch_or_u32(&self, off: usize, operand: u32) -> Result<u32, AccessFault> {
        self.fetch_update_u32(off, |found| found | operand)
    }

    /// FUTEX_OP_ANDN when given the complement.
    pub fn fetch_and_u32(&self, off: usize, operand: u32) -> Result<u32, AccessFault> {
        self.fetch_update_u32(off, |found| found & operand)
    }

    /// FUTEX_OP_XOR.
    pub fn fetch_xor_u32(&self, off: usize, operand: u32) -> Result<u32, AccessFault> {
        self.fetch_update_u32(off, |found| found ^ operand)
    }

    /// Atomically replaces the word by a function of it and gives what was there. The guest can
    /// make this retry by writing all the time, so it gives up (as a fault) after many attempts.
    pub fn fetch_update_u32(
        &self,
        off: usize,
        new: impl Fn(u32) -> u32,
    ) -> Result<u32, AccessFault> {
        const ATTEMPTS: usize = 10_000;
        let mut found = self.load_u32(off)?;
        for _ in 0..ATTEMPTS {
            match self.compare_exchange_u32(off, found, new(found))? {
                Ok(old) => return Ok(old),
                Err(other) => found = other,
            }
        }
        Err(AccessFault { done: 0 })
    }

    /// Reads from a host file straight into the window, at `position` or (None) where the file
    /// stands. The host reports EFAULT for pages that are gone.
    pub fn fill_from(
        &self,
        off: usize,
        len: usize,
        fd: BorrowedFd<'_>,
        position: Option<u64>,
    ) -> io::Result<usize> {
        let to = self.io_range(off, len)?;
        transfer(|| match position {
            // SAFETY: the host writes only inside the window, which nothing borrows.
            None => unsafe { libc::read(fd.as_raw_fd(), to.cast(), len) },
            // SAFETY: the host writes only inside the window, which nothing borrows.
            Some(at) => unsafe { libc::pread(fd.as_raw_fd(), to.cast(), len, at as i64) },
        })
    }

    /// Writes a range of the window straight to a host file, at `position` or (None) where the
    /// file stands.
    pub fn drain_to(
        &self,
        off: usize,
        len: usize,
        fd: BorrowedFd<'_>,
        position: Option<u64>,
    ) -> io::Result<usize> {
        let from = self.io_range(off, len)?;
        transfer(|| match position {
            // SAFETY: the host reads only inside the window, which nothing borrows.
            None => unsafe { libc::write(fd.as_raw_fd(), from.cast(), len) },
            // SAFETY: the host reads only inside the window, which nothing borrows.
            Some(at) => unsafe { libc::pwrite(fd.as_raw_fd(), from.cast(), len, at as i64) },
        })
    }

    /// Host address of the window's start, for host calls that take pointers (futex, iovec).
    pub fn address(&self) -> usize {
        self.base as usize
    }

    fn range(&self, off: usize, len: usize) -> Result<*mut u8, AccessFault> {
        match off.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.base.wrapping_add(off)),
            _ => Err(AccessFault { done: 0 }),
        }
    }

    fn aligned(&self, off: usize) -> Result<*mut u8, AccessFault> {
        // A locked access across cache lines stalls the whole machine or raises SIGBUS.
        if !off.is_multiple_of(4) {
            return Err(AccessFault { done: 0 });
        }
        self.range(off, 4)
    }

    fn io_range(&self, off: usize, len: usize) -> io::Result<*mut u8> {
        self.range(off, len)
            .map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no pointer into it outlives the window.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

fn stopped(len: usize, left: usize) -> Result<(), AccessFault> {
    match left {
        0 => Ok(()),
        left => Err(AccessFault {
            done: len.saturating_sub(left),
        }),
    }
}

fn value(word: Word) -> Result<u64, AccessFault> {
    match word.faulted {
        0 => Ok(word.value),
        _ => Err(AccessFault { done: 0 }),
    }
}

fn transfer(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemFd, install_fault_handler};
    use std::os::fd::AsFd;

    const PAGE: usize = 4096;

    fn window(pages: usize) -> (MemFd, Window) {
        install_fault_handler().unwrap();
        let file = MemFd::create(c"window").unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        let window = Window::map(file.as_fd(), 0, pages * PAGE, true).unwrap();
        (file, window)
    }

    #[test]
    fn copies_of_every_small_length_round_trip() {
        let (_file, window) = window(1);
        let data: Vec<u8> = (0..200u8).collect();
        for len in 0..=200 {
            window.zero(0, PAGE).unwrap();
            window.write(3, &data[..len]).unwrap();
            let mut back = vec![0xee; len];
            window.read(3, &mut back).unwrap();
            assert_eq!(back, &data[..len], "length {len}");
            assert_eq!(window.load_u8(3 + len).unwrap(), 0);
        }
    }

    #[test]
    fn faults_report_the_bytes_done_exactly() {
        let (file, window) = window(3);
        file.set_len(PAGE as u64).unwrap();
        for (len, inside) in [(8, 3), (16, 8), (64, 13), (65, 20), (5000, 100), (7, 0)] {
            let off = PAGE - inside;
            let fault = Err(AccessFault { done: inside });
            assert_eq!(window.read(off, &mut vec![0; len]), fault, "read {len}");
            assert_eq!(window.write(off, &vec![1; len]), fault, "write {len}");
            assert_eq!(window.zero(off, len), fault, "zero {len}");
            assert_eq!(window.copy_to(off, &window, 0, len.min(PAGE)), fault);
        }
        let gone = AccessFault { done: 0 };
        assert_eq!(window.load_u8(PAGE), Err(gone));
        assert_eq!(window.load_u32(PAGE), Err(gone));
        assert_eq!(window.load_u64(PAGE), Err(gone));
        assert_eq!(window.store_u32(PAGE, 1), Err(gone));
        assert_eq!(window.store_u64(PAGE, 1), Err(gone));
        assert_eq!(window.swap_u32(PAGE, 1), Err(gone));
        assert_eq!(window.fetch_add_u32(PAGE, 1), Err(gone));
        assert_eq!(window.compare_exchange_u32(PAGE, 0, 1), Err(gone));
        // The window works again once the file has grown.
        file.set_len(3 * PAGE as u64).unwrap();
        assert_eq!(window.load_u32(PAGE), Ok(0));
    }

    #[test]
    fn out_of_bounds_is_refused_before_touching() {
        let (_file, window) = window(1);
        let none = Err(AccessFault { done: 0 });
        for (off, len) in [(PAGE, 1), (0, PAGE + 1), (usize::MAX, 2), (PAGE - 1, 2)] {
            assert_eq!(window.write(off, &vec![1; len]), none, "{off} {len}");
            assert_eq!(window.zero(off, len), none, "{off} {len}");
        }
        assert_eq!(window.load_u8(PAGE - 1), Ok(0));
        assert_eq!(window.swap_u32(2, 1), Err(AccessFault { done: 0 }));
    }

    #[test]
    fn a_read_only_window_cannot_be_written() {
        let (file, _window) = window(1);
        let window = Window::map(file.as_fd(), 0, PAGE, false).unwrap();
        assert_eq!(window.write(0, b"x"), Err(AccessFault { done: 0 }));
        assert_eq!(window.load_u8(0), Ok(0));
    }

    #[test]
    fn atomics_give_the_old_value() {
        let (_file, window) = window(1);
        window.store_u32(8, 5).unwrap();
        assert_eq!(window.compare_exchange_u32(8, 4, 9), Ok(Err(5)));
        assert_eq!(window.compare_exchange_u32(8, 5, 9), Ok(Ok(5)));
        assert_eq!(window.fetch_add_u32(8, u32::MAX), Ok(9));
        assert_eq!(window.fetch_or_u32(8, 0x10), Ok(8));
        assert_eq!(window.fetch_and_u32(8, 0x11), Ok(0x18));
        assert_eq!(window.fetch_xor_u32(8, 0xff), Ok(0x10));
        assert_eq!(window.swap_u32(8, 1), Ok(0xef));
        assert_eq!(window.load_u64(8), Ok(1));
        assert_eq!(window.load_u32(12), Ok(0));
    }

    #[test]
    fn host_files_are_read_and_written_in_place() {
        let (_file, window) = window(1);
        let host = MemFd::create(c"host").unwrap();
        host.set_len(100).unwrap();
        window.write(10, b"hello").unwrap();
        assert_eq!(window.drain_to(10, 5, host.as_fd(), Some(50)).unwrap(), 5);
        assert_eq!(window.fill_from(0, 60, host.as_fd(), Some(48)).unwrap(), 52);
        let mut back = [0; 7];
        window.read(0, &mut back).unwrap();
        assert_eq!(&back, b"\0\0hello");
        let error = window.fill_from(PAGE, 1, host.as_fd(), None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }
}
