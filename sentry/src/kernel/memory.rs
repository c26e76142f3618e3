//! A task's memory as the cursors of [`crate::mm::io`] see it: the address space it has when a byte
//! moves, looked up for each piece, so that a cursor counts no reference on it.

use std::os::fd::BorrowedFd;

use runsc_platform::memory::Window;

use crate::errno::Result;
use crate::kernel::task::Task;
use crate::mm::io::UserMemory;

impl UserMemory for Task {
    fn copy_in(&self, addr: u64, dst: &mut [u8]) -> usize {
        self.with_mm(|mm| mm.copy_in(addr, dst))
    }

    fn copy_out(&self, addr: u64, src: &[u8]) -> usize {
        self.with_mm(|mm| mm.copy_out(addr, src))
    }

    fn zero_out(&self, addr: u64, len: usize) -> usize {
        self.with_mm(|mm| mm.zero_out(addr, len))
    }

    fn copy_out_from(&self, addr: u64, src: &Window, off: usize, len: usize) -> usize {
        self.with_mm(|mm| mm.copy_out_from(addr, src, off, len))
    }

    fn copy_in_to(&self, addr: u64, dst: &Window, off: usize, len: usize) -> usize {
        self.with_mm(|mm| mm.copy_in_to(addr, dst, off, len))
    }

    fn read_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        off: Option<u64>,
    ) -> Result<usize> {
        self.with_mm(|mm| mm.read_host(addr, len, fd, off))
    }

    fn write_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        off: Option<u64>,
    ) -> Result<usize> {
        self.with_mm(|mm| mm.write_host(addr, len, fd, off))
    }
}
