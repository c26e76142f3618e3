//! Faults: making a page accessible, or saying which signal it is.
//!
//! [`Inner::ensure`] is the one place where memory appears behind an address after mmap; guest
//! faults and the Sentry's own accesses both go through it.

use runsc_platform::{Access, Fault, Prot};

use crate::errno::Errno;
use crate::mm::mappable::WriteIntent;
use crate::mm::memory_file::{Contents, FileRange};
use crate::mm::pages::{Cow, Held, host_prot};
use crate::mm::types::{PAGE_SIZE, SignalInfo, page_down, page_up};
use crate::mm::vma::{GUARD_GAP, Source, Vma, VmaFlags};
use crate::mm::{Inner, Mm};

/// Pages are copied in aligned groups of this many bytes: a fault costs as much as that many
/// copies.
pub(super) const COPY_AROUND: u64 = 8 * PAGE_SIZE;
/// Memory of huge mappings appears in aligned pieces of this size.
const HUGE_PIECE: u64 = 64 << 20;
/// A shared mapping's pages are made writable in groups of this size.
const WRITE_AHEAD: u64 = 256 << 10;
/// Faults in a row at one address without any change in between.
const MAX_IDLE_FAULTS: u32 = 64;
/// A stack grows by this much at once if it may.
const STACK_STEP: u64 = 64 << 10;

/// Why an address cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No VMA there.
    NotMapped,
    /// The VMA's protection says no.
    Protection,
    /// Beyond the end of the file, or an I/O error.
    Bus,
    NoMemory,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOMEM => Refusal::NoMemory,
            _ => Refusal::Bus,
        }
    }
}

/// Whether protections count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    No,
    /// As FOLL_FORCE: a debugger may read anything readable by right and write private mappings.
    Yes,
}

impl Mm {
    /// Resolves a fault.
    ///
    /// # Errors
    /// The signal that it is.
    pub fn handle_fault(&self, fault: &Fault) -> Result<(), SignalInfo> {
        const SEGV_MAPERR: i32 = 1;
        const SEGV_ACCERR: i32 = 2;
        const SEGV_PKUERR: i32 = 4;
        const BUS_ADRERR: i32 = 2;
        let as_is = SignalInfo {
            no_memory: false,
            signo: fault.signal,
            code: fault.code,
            addr: fault.addr,
        };
        let refused = |signo, code| SignalInfo {
            no_memory: false,
            signo,
            code,
            addr: fault.addr,
        };
        let bus = fault.signal == libc::SIGBUS;
        let ours = match fault.signal {
            libc::SIGSEGV => matches!(fault.code, SEGV_MAPERR | SEGV_ACCERR | SEGV_PKUERR),
            libc::SIGBUS => fault.code == BUS_ADRERR,
            _ => false,
        };
        if !ours {
            return Err(as_is);
        }
        self.with(|inner| {
            let access = inner.guess_access(fault);
            let before = inner.changes;
            let no_memory = SignalInfo {
                no_memory: true,
                ..refused(libc::SIGBUS, BUS_ADRERR)
            };
            // The MemoryFile has no end: its pages are missing only where the host has none left.
            if bus && inner.is_memory(fault.addr) {
                return Err(no_memory);
            }
            if bus && !inner.host_file_moved(fault.addr) {
                return Err(refused(libc::SIGBUS, BUS_ADRERR));
            }
            match inner.ensure(fault.addr, fault.addr.saturating_add(1), access, Force::No) {
                Ok(_) if inner.batch.is_empty() => {
                    // Another thread was faster, or the host refuses what we think it allows.
                    if inner.idle_again(fault.addr, before) {
                        Ok(())
                    } else {
                        Err(refused(libc::SIGSEGV, SEGV_ACCERR))
                    }
                }
                Ok(_) => Ok(()),
                Err(Refusal::NotMapped) => Err(refused(libc::SIGSEGV, SEGV_MAPERR)),
                Err(Refusal::Protection) => Err(refused(libc::SIGSEGV, SEGV_ACCERR)),
                Err(Refusal::Bus) => Err(refused(libc::SIGBUS, BUS_ADRERR)),
                Err(Refusal::NoMemory) => Err(no_memory),
            }
        })
    }
}

impl Inner {
    /// Counts a fault at `addr` with nothing to do. False if there were more than threads that
    /// wait for the same page can explain: then it is an access that the host will never allow,
    /// like executing what is not executable on a platform that cannot tell.
    fn idle_again(&mut self, addr: u64, changes: u64) -> bool {
        let count = match self.idle_faults {
            (a, c, count) if a == addr && c == changes => count + 1,
            _ => 1,
        };
        self.idle_faults = (addr, changes, count);
        count < MAX_IDLE_FAULTS
    }

    /// What the guest tried, if the platform cannot tell: a fault where the host maps something
    /// readable is taken for a write if writing is allowed.
    fn guess_access(&self, fault: &Fault) -> Access {
        if let Some(access) = fault.access {
            return access;
        }
        let Some((_, vma)) = self.vmas.find(fault.addr) else {
            return Access::Read;
        };
        match self.pages.find(fault.addr) {
            Some((_, piece)) => {
                let host = host_prot(vma, &piece.held);
                if !host.contains(Prot::WRITE) && !host.is_empty() {
                    Access::Write
                } else {
                    Access::Read
                }
            }
            // A second fault for the write would cost more than a copy.
            None if vma.is_anon() && vma.prot.contains(Prot::WRITE) => Access::Write,
            None => Access::Read,
        }
    }

    /// Is the page at `addr` one of the MemoryFile?
    fn is_memory(&self, addr: u64) -> bool {
        self.pages.find(page_down(addr)).is_some_and(|(_, piece)| {
            std::sync::Arc::ptr_eq(piece.held.place().0, self.memory.fd())
        })
    }

    /// After SIGBUS from the host: asks the file again where its page is. True if that changed
    /// something (the file was cut and grew again).
    fn host_file_moved(&mut self, addr: u64) -> bool {
        let page = page_down(addr);
        let Some((start, vma)) = self.vmas.find(page).map(|(s, v)| (s, v.clone())) else {
            return true;
        };
        let Source::File(map) = &vma.source else {
            return false;
        };
        let Some((piece_start, piece)) = self.pages.find(page) else {
            return true;
        };
        let Held::Object { fd, offset, .. } = &piece.held else {
            return false;
        };
        let now = Inner::ask(
            &*map.mappable,
            map.offset + (page - start),
            PAGE_SIZE,
            WriteIntent::Read,
        );
        match now {
            Ok(b) => {
                let moved = !std::sync::Arc::ptr_eq(&b.fd, fd)
                    || b.offset != *offset + (page - piece_start);
                if moved {
                    self.forget(page, page + PAGE_SIZE);
                }
                moved
            }
            Err(_) => false,
        }
    }

    /// Makes `[addr, want_end)` accessible, or a part of it from `addr` on; returns where that part
    /// ends (above `addr`).
    pub(super) fn ensure(
        &mut self,
        addr: u64,
        want_end: u64,
        access: Access,
        force: Force,
    ) -> Result<u64, Refusal> {
        let page = page_down(addr);
        if self.vmas.find(addr).is_none() {
            self.grow_stack(page)?;
        }
        let (start, vma) = self
            .vmas
            .find(addr)
            .map(|(s, v)| (s, v.clone()))
            .ok_or(Refusal::NotMapped)?;
        check_access(&vma, access, force)?;
        if vma.is_special() {
            return match vma.source {
                Source::Vdso { .. } => Ok(vma.end),
                _ => Err(Refusal::Bus),
            };
        }
        let want_end = page_up(want_end)
            .unwrap_or(vma.end)
            .min(vma.end)
            .max(page + PAGE_SIZE);
        if self.pages.find(page).is_none() {
            self.fill_around(page, want_end, start, &vma, access)?;
        }
        let (piece_start, piece) = self.pages.find(page).ok_or(Refusal::Bus)?;
        let piece_end = piece.end.min(vma.end);
        if access != Access::Write {
            return Ok(piece_end);
        }
        match &piece.held {
            Held::Private { cow: false, .. } => Ok(piece_end),
            Held::Private { .. } => {
                let low = piece_start.max(start);
                self.break_cow(page, want_end, low, piece_end, piece_start, &vma)
            }
            Held::Object { writable, .. } if vma.shared() => {
                if *writable {
                    return Ok(piece_end);
                }
                self.upgrade(page, want_end, start, piece_end, &vma)
            }
            Held::Object { .. } => {
                let low = piece_start.max(start);
                self.copy_object(page, want_end, low, piece_end, piece_start, &vma)
            }
        }
    }

    /// Puts memory behind the gap around `page`.
    fn fill_around(
        &mut self,
        page: u64,
        want_end: u64,
        start: u64,
        vma: &Vma,
        access: Access,
    ) -> Result<(), Refusal> {
        let (mut from, mut to) = self.pages.gap_around(page, start, vma.end);
        let mut intent = WriteIntent::Read;
        if vma.is_anon() {
            if vma.is_huge(to - from) {
                let end = want_end.min(to);
                from = from.max(page / HUGE_PIECE * HUGE_PIECE);
                to = to
                    .min((page / HUGE_PIECE + 1).saturating_mul(HUGE_PIECE))
                    .max(end);
            }
        } else {
            // A file answers from the page on; what lies before is asked for when touched.
            from = page;
            if vma.shared() && access == Access::Write {
                intent = WriteIntent::Write;
                to = to.min(want_end.max(page.saturating_add(WRITE_AHEAD)));
            }
        }
        self.fill(start, vma, from, to, intent, false)?;
        Ok(())
    }

    /// Gives the page copies of its own, or, where nobody else has them any more, the right to
    /// write what is there.
    fn break_cow(
        &mut self,
        page: u64,
        want_end: u64,
        low: u64,
        high: u64,
        piece_start: u64,
        vma: &Vma,
    ) -> Result<u64, Refusal> {
        let Some((_, piece)) = self.pages.find(page) else {
            return Err(Refusal::Bus);
        };
        let Held::Private { range, .. } = &piece.held else {
            return Err(Refusal::Bus);
        };
        self.hot.note(page);
        let (owners, run_start, run_end) = range.owners(page - piece_start);
        let low = low.max(piece_start + run_start);
        let high = high.min(piece_start + run_end);
        if owners == 1 {
            self.pages.mark_cow(low, high, Cow::No);
            if vma.prot.contains(Prot::WRITE) {
                self.batch.protect(low, high - low, vma.prot);
            }
            return Ok(high);
        }
        let (from, to) = copy_window(page, want_end, low, high);
        let copy =
            self.memory
                .allocate_near(to - from, self.place_near(from, to), Contents::Any)?;
        copy.copy_from(0, range, from - piece_start, to - from)?;
        let held = Held::Private {
            range: copy,
            cow: false,
        };
        self.replace(from, to, held, vma, true);
        Ok(to)
    }

    /// Copies pages of a privately mapped object.
    fn copy_object(
        &mut self,
        page: u64,
        want_end: u64,
        low: u64,
        high: u64,
        piece_start: u64,
        vma: &Vma,
    ) -> Result<u64, Refusal> {
        let (from, to) = copy_window(page, want_end, low, high);
        let Some((_, piece)) = self.pages.find(page) else {
            return Err(Refusal::Bus);
        };
        let (fd, offset) = piece.held.place();
        let copy =
            self.memory
                .allocate_near(to - from, self.place_near(from, to), Contents::Any)?;
        copy_from_fd(self, &copy, fd, offset + (from - piece_start), to - from)?;
        let held = Held::Private {
            range: copy,
            cow: false,
        };
        self.replace(from, to, held, vma, true);
        Ok(to)
    }

    /// Asks the file for memory that a shared mapping may write.
    fn upgrade(
        &mut self,
        page: u64,
        want_end: u64,
        start: u64,
        piece_end: u64,
        vma: &Vma,
    ) -> Result<u64, Refusal> {
        let Source::File(map) = &vma.source else {
            return Err(Refusal::Bus);
        };
        let end = piece_end.min(want_end.max(page.saturating_add(WRITE_AHEAD)));
        let offset = map.offset + (page - start);
        let backing = Inner::ask(&*map.mappable, offset, end - page, WriteIntent::Write)?;
        let held = Held::Object {
            fd: backing.fd,
            offset: backing.offset,
            keep: backing.keep,
            writable: true,
        };
        let end = page + backing.len;
        self.replace(page, end, held, vma, false);
        Ok(end)
    }

    /// Lets the stack above `page` grow down to it.
    fn grow_stack(&mut self, page: u64) -> Result<(), Refusal> {
        let (start, vma) = self
            .vmas
            .find_from(page)
            .map(|(s, v)| (s, v.clone()))
            .ok_or(Refusal::NotMapped)?;
        if !vma.flags.contains(VmaFlags::GROWSDOWN) || page < self.low {
            return Err(Refusal::NotMapped);
        }
        let lowest_by_limit = vma.end.saturating_sub(self.limits.stack);
        let mut lowest = page_up(lowest_by_limit).unwrap_or(start).max(self.low);
        if let Some((before_start, before)) = self.vmas.previous(start) {
            let gap = if before.prot.is_empty() || before.flags.contains(VmaFlags::GROWSDOWN) {
                0
            } else {
                GUARD_GAP
            };
            lowest = lowest.max(before.end.saturating_add(gap).max(before_start));
        }
        let sums = self.vmas.sums();
        let left = self.limits.address_space.saturating_sub(sums.vm);
        lowest = lowest.max(page_up(start.saturating_sub(left)).unwrap_or(start));
        if vma.flags.contains(VmaFlags::LOCKED) && !self.limits.may_lock {
            let left = self.limits.memlock.saturating_sub(sums.locked);
            lowest = lowest.max(page_up(start.saturating_sub(left)).unwrap_or(start));
        }
        if page < lowest {
            return Err(Refusal::NotMapped);
        }
        let new_start = page.min(start.saturating_sub(STACK_STEP)).max(lowest);
        self.vmas.grow_down(start, new_start);
        Ok(())
    }
}

/// The group of pages around `page` that is copied at once: within `[low, high)`, and reaching to
/// `want_end` if that is further.
fn copy_window(page: u64, want_end: u64, low: u64, high: u64) -> (u64, u64) {
    let from = page / COPY_AROUND * COPY_AROUND;
    let to = from.saturating_add(COPY_AROUND).max(want_end);
    (from.max(low), to.min(high))
}

/// May the VMA be accessed so?
pub(super) fn check_access(vma: &Vma, access: Access, force: Force) -> Result<(), Refusal> {
    let allowed = match access {
        Access::Read => vma.readable() || force == Force::Yes,
        Access::Write => vma.prot.contains(Prot::WRITE) || (force == Force::Yes && !vma.shared()),
        Access::Execute => vma.prot.contains(Prot::EXEC),
    };
    if allowed {
        Ok(())
    } else {
        Err(Refusal::Protection)
    }
}

/// Fills `copy` with `len` bytes of a host file or the MemoryFile; beyond the end of a file with
/// zeros.
pub(super) fn copy_from_fd(
    inner: &Inner,
    copy: &FileRange,
    fd: &std::sync::Arc<std::os::fd::OwnedFd>,
    offset: u64,
    len: u64,
) -> Result<(), Errno> {
    use std::os::fd::AsFd;
    let in_memory = std::sync::Arc::ptr_eq(fd, inner.memory.fd());
    let mut done = 0;
    while done < len {
        if in_memory {
            let (from, pos, n) = inner.memory.window(offset + done)?;
            done += copy.put(done, &from, pos, n.min((len - done) as usize))? as u64;
            continue;
        }
        let (to, to_pos, n) = copy.window(done)?;
        let n = n.min((len - done) as usize);
        let got = to
            .fill_from(to_pos, n, fd.as_fd(), Some(offset + done))
            .map_err(|_| Errno::EIO)?;
        if got == 0 {
            return copy.zero(done, len - done);
        }
        done += got as u64;
    }
    Ok(())
}
