//! Cursors that carry bulk data between guest memory and files.
//!
//! A file's `read_at` is handed a [`Sink`], its `write_at` a [`Source`]; both hide whether the bytes
//! live in guest memory (scattered by an iovec) or in a kernel buffer. A fault is noticed when
//! memory is touched: a transfer that moved something reports how much, one that moved nothing
//! fails with EFAULT.
//!
//! Touching guest memory can fault a page in, which may call into the file that backs it: no lock
//! of a file may be held across a call here.

use std::os::fd::BorrowedFd;

use runsc_platform::memory::Window;

use crate::errno::{Errno, Result};
use crate::mm::types::PAGE_SIZE;

/// Guest memory as the cursors see it. Counts are bytes; each call returns how many were moved
/// before the first bad address (zero if none).
pub trait UserMemory: Send + Sync {
    fn copy_in(&self, addr: u64, dst: &mut [u8]) -> usize;
    fn copy_out(&self, addr: u64, src: &[u8]) -> usize;
    fn zero_out(&self, addr: u64, len: usize) -> usize;
    /// From a window (page cache of an in-memory file) into guest memory.
    fn copy_out_from(&self, addr: u64, src: &Window, off: usize, len: usize) -> usize;
    /// From guest memory into a window.
    fn copy_in_to(&self, addr: u64, dst: &Window, off: usize, len: usize) -> usize;
    /// pread(2) of a host file straight into guest memory. `None`: use `read(2)`.
    /// Ok(0) is end of file; EFAULT if the first byte cannot be touched.
    fn read_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        off: Option<u64>,
    ) -> Result<usize>;
    /// pwrite(2) of guest memory straight into a host file.
    fn write_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        off: Option<u64>,
    ) -> Result<usize>;
}

/// One element of an iovec, already validated (readv(2)): address and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub addr: u64,
    pub len: usize,
}

/// A position in a list of segments.
struct Cursor<'a> {
    mem: &'a dyn UserMemory,
    segments: &'a [Segment],
    index: usize,
    within: usize,
}

impl Cursor<'_> {
    fn remaining(&self) -> usize {
        let left: usize = self.segments[self.index..].iter().map(|s| s.len).sum();
        left - self.within
    }

    /// The next contiguous piece, at most `max` bytes; None at the end.
    fn piece(&mut self, max: usize) -> Option<(u64, usize)> {
        while let Some(s) = self.segments.get(self.index) {
            if self.within < s.len {
                return Some((s.addr + self.within as u64, (s.len - self.within).min(max)));
            }
            self.index += 1;
            self.within = 0;
        }
        None
    }

    /// Runs `step(addr, len, done)` over the pieces until `len` bytes are moved or one falls short.
    fn run(
        &mut self,
        len: usize,
        mut step: impl FnMut(&dyn UserMemory, u64, usize, usize) -> Result<usize>,
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let Some((addr, n)) = self.piece(len - done) else {
                break;
            };
            match step(self.mem, addr, n, done) {
                Ok(moved) => {
                    self.within += moved;
                    done += moved;
                    if moved < n {
                        break;
                    }
                }
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// As `run` for steps that fall short only because of a fault.
    fn run_memory(
        &mut self,
        len: usize,
        mut step: impl FnMut(&dyn UserMemory, u64, usize, usize) -> usize,
    ) -> Result<usize> {
        self.run(len, |mem, addr, n, done| match step(mem, addr, n, done) {
            0 => Err(Errno::EFAULT),
            moved => Ok(moved),
        })
    }
}

enum SinkKind<'a> {
    User(Cursor<'a>),
    Kernel { buf: &'a mut [u8], done: usize },
}

/// Where a read puts its bytes.
pub struct Sink<'a>(SinkKind<'a>);

impl<'a> Sink<'a> {
    pub fn user(mem: &'a dyn UserMemory, segments: &'a [Segment]) -> Self {
        Sink(SinkKind::User(Cursor {
            mem,
            segments,
            index: 0,
            within: 0,
        }))
    }

    pub fn kernel(buf: &'a mut [u8]) -> Self {
        Sink(SinkKind::Kernel { buf, done: 0 })
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        match &self.0 {
            SinkKind::User(c) => c.remaining(),
            SinkKind::Kernel { buf, done } => buf.len() - done,
        }
    }

    /// What comes next begins a page of the guest's. A transfer between guest memory and a host file
    /// may be cut there, for memory that lies in several places of the Sentry's.
    pub fn is_at_page(&mut self) -> bool {
        match &mut self.0 {
            SinkKind::User(c) => c.piece(1).is_some_and(|(addr, _)| addr % PAGE_SIZE == 0),
            SinkKind::Kernel { .. } => false,
        }
    }

    /// Puts as much of `data` as fits; returns the bytes put.
    ///
    /// # Errors
    /// EFAULT if there was room and nothing could be put.
    pub fn put(&mut self, data: &[u8]) -> Result<usize> {
        match &mut self.0 {
            SinkKind::User(c) => c.run_memory(data.len(), |mem, addr, n, done| {
                mem.copy_out(addr, &data[done..done + n])
            }),
            SinkKind::Kernel { buf, done } => {
                let n = data.len().min(buf.len() - *done);
                buf[*done..*done + n].copy_from_slice(&data[..n]);
                *done += n;
                Ok(n)
            }
        }
    }

    /// Puts up to `len` zero bytes.
    pub fn put_zeros(&mut self, len: usize) -> Result<usize> {
        match &mut self.0 {
            SinkKind::User(c) => c.run_memory(len, |mem, addr, n, _| mem.zero_out(addr, n)),
            SinkKind::Kernel { buf, done } => {
                let n = len.min(buf.len() - *done);
                buf[*done..*done + n].fill(0);
                *done += n;
                Ok(n)
            }
        }
    }

    /// Puts up to `len` bytes of `src` from `off`.
    pub fn put_window(&mut self, src: &Window, off: usize, len: usize) -> Result<usize> {
        match &mut self.0 {
            SinkKind::User(c) => c.run_memory(len, |mem, addr, n, done| {
                mem.copy_out_from(addr, src, off + done, n)
            }),
            SinkKind::Kernel { buf, done } => {
                let n = len.min(buf.len() - *done);
                src.read(off, &mut buf[*done..*done + n])
                    .map_err(|_| Errno::EIO)?;
                *done += n;
                Ok(n)
            }
        }
    }

    /// Reads up to `len` bytes from a host fd (`off`: pread). Short at its end.
    pub fn put_host(&mut self, fd: BorrowedFd<'_>, off: Option<u64>, len: usize) -> Result<usize> {
        match &mut self.0 {
            SinkKind::User(c) => c.run(len, |mem, addr, n, done| {
                mem.read_host(addr, n, fd, off.map(|o| o.saturating_add(done as u64)))
            }),
            SinkKind::Kernel { buf, done } => {
                let n = len.min(buf.len() - *done);
                let dst = &mut buf[*done..*done + n];
                let got = match off {
                    Some(o) => {
                        nix::sys::uio::pread(fd, dst, i64::try_from(o).map_err(|_| Errno::EINVAL)?)?
                    }
                    None => nix::unistd::read(fd, dst)?,
                };
                *done += got;
                Ok(got)
            }
        }
    }
}

enum SourceKind<'a> {
    User(Cursor<'a>),
    Kernel { buf: &'a [u8], done: usize },
}

/// Where a write takes its bytes from.
pub struct Source<'a>(SourceKind<'a>);

impl<'a> Source<'a> {
    pub fn user(mem: &'a dyn UserMemory, segments: &'a [Segment]) -> Self {
        Source(SourceKind::User(Cursor {
            mem,
            segments,
            index: 0,
            within: 0,
        }))
    }

    pub fn kernel(buf: &'a [u8]) -> Self {
        Source(SourceKind::Kernel { buf, done: 0 })
    }

    /// Bytes not yet taken.
    pub fn remaining(&self) -> usize {
        match &self.0 {
            SourceKind::User(c) => c.remaining(),
            SourceKind::Kernel { buf, done } => buf.len() - done,
        }
    }

    /// All of it lies in one place.
    pub fn is_one_piece(&self) -> bool {
        match &self.0 {
            SourceKind::User(c) => {
                let first = c.segments.get(c.index);
                first.is_none_or(|first| first.len - c.within == c.remaining())
            }
            SourceKind::Kernel { .. } => true,
        }
    }

    /// Takes up to `dst.len()` bytes; returns the bytes taken.
    ///
    /// # Errors
    /// EFAULT if there was something to take and nothing could be read.
    pub fn take(&mut self, dst: &mut [u8]) -> Result<usize> {
        match &mut self.0 {
            SourceKind::User(c) => c.run_memory(dst.len(), |mem, addr, n, done| {
                mem.copy_in(addr, &mut dst[done..done + n])
            }),
            SourceKind::Kernel { buf, done } => {
                let n = dst.len().min(buf.len() - *done);
                dst[..n].copy_from_slice(&buf[*done..*done + n]);
                *done += n;
                Ok(n)
            }
        }
    }

    /// As [`take`](Self::take), but the bytes stay: a second look gives the same (unless the guest
    /// changes them). [`skip`](Self::skip) what was used.
    pub fn peek(&mut self, dst: &mut [u8]) -> Result<usize> {
        match &mut self.0 {
            SourceKind::User(c) => {
                let place = (c.index, c.within);
                let result = c.run_memory(dst.len(), |mem, addr, n, done| {
                    mem.copy_in(addr, &mut dst[done..done + n])
                });
                (c.index, c.within) = place;
                result
            }
            SourceKind::Kernel { buf, done } => {
                let n = dst.len().min(buf.len() - *done);
                dst[..n].copy_from_slice(&buf[*done..*done + n]);
                Ok(n)
            }
        }
    }

    /// Passes over up to `len` bytes.
    pub fn skip(&mut self, len: usize) {
        match &mut self.0 {
            SourceKind::User(c) => {
                let mut left = len;
                while let Some((_, n)) = c.piece(left) {
                    c.within += n;
                    left -= n;
                    if left == 0 {
                        break;
                    }
                }
            }
            SourceKind::Kernel { buf, done } => *done += len.min(buf.len() - *done),
        }
    }

    /// Takes up to `len` bytes into `dst` at `off`.
    pub fn take_window(&mut self, dst: &Window, off: usize, len: usize) -> Result<usize> {
        match &mut self.0 {
            SourceKind::User(c) => c.run_memory(len, |mem, addr, n, done| {
                mem.copy_in_to(addr, dst, off + done, n)
            }),
            SourceKind::Kernel { buf, done } => {
                let n = len.min(buf.len() - *done);
                dst.write(off, &buf[*done..*done + n])
                    .map_err(|_| Errno::ENOSPC)?;
                *done += n;
                Ok(n)
            }
        }
    }

    /// Writes up to `len` bytes to a host fd (`off`: pwrite).
    pub fn take_host(&mut self, fd: BorrowedFd<'_>, off: Option<u64>, len: usize) -> Result<usize> {
        match &mut self.0 {
            SourceKind::User(c) => c.run(len, |mem, addr, n, done| {
                mem.write_host(addr, n, fd, off.map(|o| o.saturating_add(done as u64)))
            }),
            SourceKind::Kernel { buf, done } => {
                let n = len.min(buf.len() - *done);
                let src = &buf[*done..*done + n];
                let put = match off {
                    Some(o) => nix::sys::uio::pwrite(
                        fd,
                        src,
                        i64::try_from(o).map_err(|_| Errno::EINVAL)?,
                    )?,
                    None => nix::unistd::write(fd, src)?,
                };
                *done += put;
                Ok(put)
            }
        }
    }
}
