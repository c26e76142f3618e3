//! The Sentry's own access to guest memory.
//!
//! Everything goes through [`Mm::access`]: find the memory behind an address (faulting it in if
//! need be), then move bytes between its window and somewhere else. Small and large copies run
//! under the address space's lock, which costs less than pinning; transfers to and from host files
//! may take long and run on pinned memory.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use runsc_platform::Access;
use runsc_platform::memory::{AccessFault, Window};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::{Errno, Result};
use crate::mm::fault::{Force, check_access};
use crate::mm::io::UserMemory;
use crate::mm::pages::Held;
use crate::mm::types::{FutexKey, PAGE_SIZE, page_down};
use crate::mm::vma::Source;
use crate::mm::{Inner, Mm, windows};

/// Where guest bytes can be touched.
enum Spot<'a> {
    Window(&'a Window, usize),
    /// A mapped host file: descriptor and offset.
    Host(&'a OwnedFd, u64),
    /// The vDSO image.
    Text(&'a [u8]),
}

/// Memory behind an address.
enum Located<'a> {
    Memory(u64),
    Host(&'a Arc<OwnedFd>, u64),
    Text(u64),
}

/// Up to here copying twice costs less than pinning (measured: 0.1 against 0.25 µs for 4 KiB).
const SMALL: usize = 4096;

/// Most bytes a pinned transfer moves in one host call.
const MAX_TRANSFER: usize = 16 << 20;

fn vdso_text() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| runsc_platform::host::vdso_bytes().unwrap_or_default())
}

impl Inner {
    /// The memory behind `addr`, if it can be accessed without a fault: and how many bytes.
    fn locate(&self, addr: u64, access: Access, force: Force) -> Option<(Located<'_>, u64)> {
        let (start, vma) = self.vmas.find(addr)?;
        check_access(vma, access, force).ok()?;
        if let Source::Vdso { offset } = vma.source {
            return (access == Access::Read)
                .then_some((Located::Text(offset + (addr - start)), vma.end - addr));
        }
        let (piece_start, piece) = self.pages.find(addr)?;
        let writable = match &piece.held {
            Held::Private { cow, .. } => !cow,
            Held::Object { writable, .. } => vma.shared() && *writable,
        };
        if access == Access::Write && !writable {
            return None;
        }
        let len = piece.end.min(vma.end) - addr;
        let (fd, offset) = piece.held.place();
        let offset = offset + (addr - piece_start);
        if Arc::ptr_eq(fd, self.memory.fd()) {
            Some((Located::Memory(offset), len))
        } else {
            Some((Located::Host(fd, offset), len))
        }
    }
}

impl Mm {
    /// Calls `f(spot, bytes, done)` for contiguous pieces of `[addr, addr + len)` until one
    /// faults or `f` moves less than it was given; returns the bytes moved.
    fn access(
        &self,
        addr: u64,
        len: usize,
        access: Access,
        force: Force,
        mut f: impl FnMut(Spot<'_>, usize, usize) -> Result<(), AccessFault>,
    ) -> usize {
        let mut done = 0usize;
        // A hostile sibling thread can take pages away as fast as they are brought in.
        let mut idle = 0;
        while done < len && idle < 64 {
            let before = done;
            let moved = self.access_present(addr, len, access, force, &mut done, &mut f);
            if moved.is_err() || done >= len {
                break;
            }
            let Some(at) = addr.checked_add(done as u64) else {
                break;
            };
            let end = at.saturating_add((len - done) as u64);
            if self
                .with(|inner| inner.ensure(at, end, access, force))
                .is_err()
            {
                break;
            }
            idle = if done > before { 0 } else { idle + 1 };
        }
        done
    }

    /// The part of `access` that needs no fault: goes on until something is missing (Ok) or a
    /// touch failed (Err).
    fn access_present(
        &self,
        addr: u64,
        len: usize,
        access: Access,
        force: Force,
        done: &mut usize,
        f: &mut impl FnMut(Spot<'_>, usize, usize) -> Result<(), AccessFault>,
    ) -> Result<(), ()> {
        let inner = self.inner.read();
        while *done < len {
            let at = addr.checked_add(*done as u64).ok_or(())?;
            let Some((located, avail)) = inner.locate(at, access, force) else {
                return Ok(());
            };
            let want = usize::try_from(avail)
                .unwrap_or(usize::MAX)
                .min(len - *done);
            let (result, n) = match located {
                Located::Memory(offset) => {
                    let (window, pos, n) =
                        windows::window(&inner.memory, offset).map_err(|_| ())?;
                    let n = n.min(want);
                    (f(Spot::Window(&window, pos), n, *done), n)
                }
                Located::Host(fd, offset) => match recent_host(fd, offset, want, access) {
                    Some((window, pos, n)) => {
                        let n = n.min(want);
                        (f(Spot::Window(&window, pos), n, *done), n)
                    }
                    None => (f(Spot::Host(fd, offset), want, *done), want),
                },
                Located::Text(offset) => {
                    let text = vdso_text().get(offset as usize..).unwrap_or_default();
                    let n = want.min(text.len());
                    if n == 0 {
                        return Err(());
                    }
                    (f(Spot::Text(text), n, *done), n)
                }
            };
            match result {
                Ok(()) => *done += n,
                Err(fault) => {
                    *done += fault.done.min(n);
                    return Err(());
                }
            }
        }
        Ok(())
    }

    fn read_forced(&self, addr: u64, dst: &mut [u8], force: Force) -> usize {
        self.access(addr, dst.len(), Access::Read, force, |spot, n, done| {
            let dst = &mut dst[done..done + n];
            match spot {
                Spot::Window(window, pos) => window.read(pos, dst),
                Spot::Host(fd, offset) => read_file(fd, offset, dst),
                Spot::Text(text) => {
                    dst.copy_from_slice(&text[..n]);
                    Ok(())
                }
            }
        })
    }

    fn write_forced(&self, addr: u64, src: &[u8], force: Force) -> usize {
        self.access(addr, src.len(), Access::Write, force, |spot, n, done| {
            let src = &src[done..done + n];
            with_window(spot, n, |window, pos| window.write(pos, src))
        })
    }

    /// All of `dst`.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_bytes(&self, addr: u64, dst: &mut [u8]) -> Result<()> {
        whole(dst.len(), self.read_forced(addr, dst, Force::No))
    }

    /// All of `src`; what came before a bad page is written.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_bytes(&self, addr: u64, src: &[u8]) -> Result<()> {
        whole(src.len(), self.write_forced(addr, src, Force::No))
    }

    /// A value of plain data.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_obj<T: FromBytes + IntoBytes>(&self, addr: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read_bytes(addr, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value of plain data.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_obj<T: IntoBytes + Immutable + ?Sized>(&self, addr: u64, value: &T) -> Result<()> {
        self.write_bytes(addr, value.as_bytes())
    }

    /// The NUL-terminated string at `addr`, without the NUL.
    ///
    /// # Errors
    /// ENAMETOOLONG if there is no NUL in `max` bytes, EFAULT if memory ends before.
    pub fn read_cstr(&self, addr: u64, max: usize) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut step = 256;
        while text.len() < max {
            let at = addr.checked_add(text.len() as u64).ok_or(Errno::EFAULT)?;
            let to_page_end = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let n = step.min(max - text.len()).min(to_page_end);
            let old = text.len();
            text.resize(old + n, 0);
            let got = self.read_forced(at, &mut text[old..], Force::No);
            if let Ok(found) = CStr::from_bytes_until_nul(&text[old..old + got]) {
                let nul = old + found.count_bytes();
                text.truncate(nul);
                return Ok(text);
            }
            if got < n {
                return Err(Errno::EFAULT);
            }
            step = PAGE_SIZE as usize;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// As `copy_in`, whatever the protection, and the code as its program has it (ptrace,
    /// /proc/PID/mem).
    pub fn forced_read(&self, addr: u64, dst: &mut [u8]) -> usize {
        let len = self.read_forced(addr, dst, Force::Yes);
        self.inner.read().patched.restore(addr, &mut dst[..len]);
        len
    }

    /// As `copy_out`, whatever the protection; private mappings get a copy of the page.
    pub fn forced_write(&self, addr: u64, src: &[u8]) -> usize {
        self.with(|inner| {
            if !inner.patched.is_empty() {
                inner.unpatch(addr, addr.saturating_add(src.len() as u64));
            }
        });
        self.write_forced(addr, src, Force::Yes)
    }

    /// Runs `f` on the aligned word at `addr`.
    fn word<R>(
        &self,
        addr: u64,
        access: Access,
        mut f: impl FnMut(&Window, usize) -> Result<R, AccessFault>,
    ) -> Result<R> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let mut result = None;
        self.access(addr, 4, access, Force::No, |spot, n, _| {
            result = Some(with_window(spot, n, &mut f)?);
            Ok(())
        });
        result.ok_or(Errno::EFAULT)
    }

    /// One load of an aligned word. EINVAL if not aligned, EFAULT.
    pub fn load_u32(&self, addr: u64) -> Result<u32> {
        self.word(addr, Access::Read, |w, pos| w.load_u32(pos))
    }

    /// One store. EINVAL, EFAULT.
    pub fn store_u32(&self, addr: u64, value: u32) -> Result<()> {
        self.word(addr, Access::Write, |w, pos| w.store_u32(pos, value))
    }

    /// Ok(Ok(old)) if exchanged, Ok(Err(actual)) if not. EINVAL, EFAULT.
    pub fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<Result<u32, u32>> {
        self.word(addr, Access::Write, |w, pos| {
            w.compare_exchange_u32(pos, old, new)
        })
    }

    /// Atomically replaces the word by a function of it and gives what was there (FUTEX_WAKE_OP).
    /// EINVAL, EFAULT.
    pub fn update_u32(&self, addr: u64, new: impl Fn(u32) -> u32) -> Result<u32> {
        self.word(addr, Access::Write, |w, pos| w.fetch_update_u32(pos, &new))
    }

    /// Which futex the word at `addr` is.
    ///
    /// # Errors
    /// EINVAL if not aligned; EFAULT if outside the address space, and for shared ones if nothing
    /// is mapped there.
    pub fn futex_key(&self, addr: u64, private: bool) -> Result<FutexKey> {
        if !addr.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let (_, high) = self.platform.user_range();
        if addr >= high {
            return Err(Errno::EFAULT);
        }
        let own = FutexKey::Private(self.id(), addr);
        if private {
            return Ok(own);
        }
        let inner = self.inner.read();
        let (start, vma) = inner.vmas.find(addr).ok_or(Errno::EFAULT)?;
        if !vma.readable() {
            return Err(Errno::EFAULT);
        }
        match &vma.source {
            Source::File(map) if vma.shared() => Ok(FutexKey::Shared(
                map.mappable.clone(),
                map.offset + (addr - start),
            )),
            _ => Ok(own),
        }
    }

    /// Finds and pins memory for a transfer: window, position, bytes, and what keeps it.
    fn pin(&self, addr: u64, len: usize, access: Access) -> Result<Pinned> {
        for _ in 0..64 {
            {
                let inner = self.inner.read();
                if let Some((located, avail)) = inner.locate(addr, access, Force::No) {
                    let want = usize::try_from(avail)
                        .unwrap_or(usize::MAX)
                        .min(len)
                        .min(MAX_TRANSFER);
                    let keep = inner.pages.find(addr).map(|(start, piece)| {
                        let page = page_down(addr);
                        let pages = (addr - page) + want as u64;
                        match &piece.held {
                            Held::Private { range, cow } => Held::Private {
                                range: range.share(page - start, pages.next_multiple_of(PAGE_SIZE)),
                                cow: *cow,
                            },
                            object => object.share(),
                        }
                    });
                    return match located {
                        Located::Memory(offset) => {
                            let (window, pos, n) = inner.memory.window(offset)?;
                            Ok(Pinned {
                                window,
                                pos,
                                len: n.min(want),
                                _keep: keep,
                            })
                        }
                        Located::Host(fd, offset) => {
                            let (window, pos) =
                                host_window(fd, offset, want, access).map_err(|_| Errno::EFAULT)?;
                            Ok(Pinned {
                                window: Arc::new(window),
                                pos,
                                len: want,
                                _keep: keep,
                            })
                        }
                        Located::Text(_) => Err(Errno::EFAULT),
                    };
                }
            }
            let end = addr.saturating_add(len as u64);
            self.with(|inner| inner.ensure(addr, end, access, Force::No))
                .map_err(|_| Errno::EFAULT)?;
        }
        Err(Errno::EFAULT)
    }

    /// Moves between a host file and guest memory piece by piece. A stream is asked once: a second
    /// call could block although the first gave something.
    fn transfer(
        &self,
        addr: u64,
        len: usize,
        access: Access,
        position: Option<u64>,
        call: impl Fn(&Pinned, usize, Option<u64>) -> std::io::Result<usize>,
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let step = addr
                .checked_add(done as u64)
                .ok_or(Errno::EFAULT)
                .and_then(|at| self.pin(at, len - done, access))
                .and_then(|pinned| {
                    let n = pinned.len.min(len - done);
                    let at = position.map(|p| p.saturating_add(done as u64));
                    match call(&pinned, n, at) {
                        Ok(moved) => Ok((moved, n)),
                        Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
                    }
                });
            match step {
                Ok((moved, n)) => {
                    done += moved;
                    if moved < n || position.is_none() {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

/// Guest memory that stays where it is for a host call.
struct Pinned {
    window: Arc<Window>,
    pos: usize,
    len: usize,
    _keep: Option<Held>,
}

impl UserMemory for Mm {
    fn copy_in(&self, addr: u64, dst: &mut [u8]) -> usize {
        self.read_forced(addr, dst, Force::No)
    }

    fn copy_out(&self, addr: u64, src: &[u8]) -> usize {
        self.write_forced(addr, src, Force::No)
    }

    fn zero_out(&self, addr: u64, len: usize) -> usize {
        self.access(addr, len, Access::Write, Force::No, |spot, n, _| {
            with_window(spot, n, |window, pos| window.zero(pos, n))
        })
    }

    fn copy_out_from(&self, addr: u64, src: &Window, off: usize, len: usize) -> usize {
        self.access(addr, len, Access::Write, Force::No, |spot, n, done| {
            with_window(spot, n, |window, pos| {
                src.copy_to(off + done, window, pos, n)
            })
        })
    }

    fn copy_in_to(&self, addr: u64, dst: &Window, off: usize, len: usize) -> usize {
        self.access(
            addr,
            len,
            Access::Read,
            Force::No,
            |spot, n, done| match spot {
                Spot::Text(text) => dst.write(off + done, &text[..n]),
                spot => with_window(spot, n, |window, pos| {
                    window.copy_to(pos, dst, off + done, n)
                }),
            },
        )
    }

    fn read_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        off: Option<u64>,
    ) -> Result<usize> {
        if let Some(at) = off
            && len <= SMALL
        {
            let mut buffer = [0; SMALL];
            let got = restarted(|| nix::sys::uio::pread(fd, &mut buffer[..len], signed(at)))?;
            return some_of(got, self.copy_out(addr, &buffer[..got]));
        }
        self.transfer(addr, len, Access::Write, off, |pinned, n, at| {
            pinned.window.fill_from(pinned.pos, n, fd, at)
        })
    }

    fn write_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        off: Option<u64>,
    ) -> Result<usize> {
        if let Some(at) = off
            && len <= SMALL
        {
            let mut buffer = [0; SMALL];
            let got = some_of(len, self.copy_in(addr, &mut buffer[..len]))?;
            return restarted(|| nix::sys::uio::pwrite(fd, &buffer[..got], signed(at)));
        }
        self.transfer(addr, len, Access::Read, off, |pinned, n, at| {
            pinned.window.drain_to(pinned.pos, n, fd, at)
        })
    }
}

/// A host call without those ends that are none.
fn restarted(mut call: impl FnMut() -> nix::Result<usize>) -> Result<usize> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

/// A position for the host, which refuses those that are too big.
fn signed(position: u64) -> i64 {
    position as i64
}

/// EFAULT if nothing was moved of what could have been.
fn some_of(wanted: usize, moved: usize) -> Result<usize> {
    if moved == 0 && wanted > 0 {
        Err(Errno::EFAULT)
    } else {
        Ok(moved)
    }
}

fn whole(wanted: usize, moved: usize) -> Result<()> {
    if moved == wanted {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// Reads a mapped host file; bytes of its last page beyond the end are zeros.
fn read_file(fd: &OwnedFd, offset: u64, dst: &mut [u8]) -> Result<(), AccessFault> {
    let mut done = 0;
    while done < dst.len() {
        let at = i64::try_from(offset + done as u64).map_err(|_| AccessFault { done })?;
        match nix::sys::uio::pread(fd.as_fd(), &mut dst[done..], at) {
            Ok(0) => {
                let next_page = (offset + done as u64).next_multiple_of(PAGE_SIZE);
                let pad = ((next_page - offset) as usize).min(dst.len());
                dst[done..pad].fill(0);
                done = pad;
                return if done == dst.len() {
                    Ok(())
                } else {
                    Err(AccessFault { done })
                };
            }
            Ok(n) => done += n,
            Err(nix::Error::EINTR) => {}
            Err(_) => return Err(AccessFault { done }),
        }
    }
    Ok(())
}

/// For a small read of a host file.
fn recent_host(
    fd: &Arc<OwnedFd>,
    offset: u64,
    len: usize,
    access: Access,
) -> Option<(Rc<windows::Recent>, usize, usize)> {
    match access {
        Access::Read if len <= SMALL => windows::host(fd, offset),
        _ => None,
    }
}

/// A window of its own on a host file, and the position of `offset` in it.
fn host_window(
    fd: &OwnedFd,
    offset: u64,
    len: usize,
    access: Access,
) -> Result<(Window, usize), AccessFault> {
    let none = AccessFault { done: 0 };
    let page = page_down(offset);
    let pos = (offset - page) as usize;
    let whole = (pos + len).next_multiple_of(PAGE_SIZE as usize);
    Window::map(fd.as_fd(), page, whole, access == Access::Write)
        .map(|w| (w, pos))
        .map_err(|_| none)
}

/// Runs `f` on a window for the spot.
fn with_window<R>(
    spot: Spot<'_>,
    len: usize,
    f: impl FnOnce(&Window, usize) -> Result<R, AccessFault>,
) -> Result<R, AccessFault> {
    match spot {
        Spot::Window(window, pos) => f(window, pos),
        Spot::Host(fd, offset) => {
            // Writable if the file is: a read-only one is never written through.
            let (window, pos) = host_window(fd, offset, len, Access::Write)
                .or_else(|_| host_window(fd, offset, len, Access::Read))?;
            f(&window, pos)
        }
        Spot::Text(_) => Err(AccessFault { done: 0 }),
    }
}
