//! mlock(2) and its family: accounting and residency. Guest memory is never swapped out by the
//! Sentry; whether the host swaps is the host's affair.

use runsc_platform::{Access, Prot};

use crate::errno::{Errno, Result};
use crate::mm::fault::Force;
use crate::mm::types::{page_down, page_up};
use crate::mm::vma::VmaFlags;
use crate::mm::{Inner, Mm};

const MLOCK_ONFAULT: i32 = 1;
const MCL_CURRENT: i32 = 1;
const MCL_FUTURE: i32 = 2;
const MCL_ONFAULT: i32 = 4;

impl Mm {
    /// mlock2(2): `flags` is MLOCK_ONFAULT or 0.
    ///
    /// # Errors
    /// As mlock(2).
    pub fn mlock(&self, addr: u64, len: u64, flags: i32) -> Result<()> {
        if flags & !MLOCK_ONFAULT != 0 {
            return Err(Errno::EINVAL);
        }
        let mut add = VmaFlags::LOCKED;
        if flags & MLOCK_ONFAULT != 0 {
            add |= VmaFlags::LOCKONFAULT;
        }
        self.with(|inner| {
            inner.may_lock_at_all()?;
            let (start, end) = lock_range(addr, len)?;
            let already: u64 = inner
                .vmas
                .overlapping(start, end)
                .filter(|(_, v)| v.flags.contains(VmaFlags::LOCKED))
                .map(|(s, v)| v.end.min(end) - s.max(start))
                .sum();
            let total = inner.vmas.sums().locked - already + (end - start);
            if !inner.limits.may_lock && total > inner.limits.memlock {
                return Err(Errno::ENOMEM);
            }
            inner.set_locked(start, end, add)
        })
    }

    /// munlock(2).
    ///
    /// # Errors
    /// As munlock(2).
    pub fn munlock(&self, addr: u64, len: u64) -> Result<()> {
        self.with(|inner| {
            let (start, end) = lock_range(addr, len)?;
            inner.set_locked(start, end, VmaFlags::empty())
        })
    }

    /// mlockall(2).
    ///
    /// # Errors
    /// As mlockall(2).
    pub fn mlockall(&self, flags: i32) -> Result<()> {
        if flags == 0
            || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0
            || flags == MCL_ONFAULT
        {
            return Err(Errno::EINVAL);
        }
        self.with(|inner| {
            inner.may_lock_at_all()?;
            if flags & MCL_CURRENT != 0
                && !inner.limits.may_lock
                && inner.vmas.sums().vm > inner.limits.memlock
            {
                return Err(Errno::ENOMEM);
            }
            let mut add = VmaFlags::LOCKED;
            if flags & MCL_ONFAULT != 0 {
                add |= VmaFlags::LOCKONFAULT;
            }
            inner.lock_future = if flags & MCL_FUTURE != 0 {
                add
            } else {
                VmaFlags::empty()
            };
            if flags & MCL_CURRENT != 0 {
                inner.lock_all(add);
            }
            Ok(())
        })
    }

    /// munlockall(2).
    ///
    /// # Errors
    /// None.
    pub fn munlockall(&self) -> Result<()> {
        self.with(|inner| {
            inner.lock_future = VmaFlags::empty();
            inner.lock_all(VmaFlags::empty());
        });
        Ok(())
    }
}

fn lock_range(addr: u64, len: u64) -> Result<(u64, u64)> {
    let start = page_down(addr);
    let len = len
        .checked_add(addr - start)
        .and_then(page_up)
        .ok_or(Errno::EINVAL)?;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    Ok((start, end))
}

impl Inner {
    fn may_lock_at_all(&self) -> Result<()> {
        if self.limits.may_lock || self.limits.memlock > 0 {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    fn lock_all(&mut self, add: VmaFlags) {
        let ranges: Vec<(u64, u64)> = self.vmas.iter().map(|(s, v)| (s, v.end)).collect();
        for (start, end) in ranges {
            // Only a hole in the range can make it fail.
            let _ = self.set_locked(start, end, add);
        }
    }

    fn set_locked(&mut self, start: u64, end: u64, add: VmaFlags) -> Result<()> {
        if start == end {
            return Ok(());
        }
        let mut at = start;
        for (s, vma) in self.vmas.overlapping(start, end) {
            if s > at {
                break;
            }
            at = vma.end.min(end);
        }
        if at == start {
            return Err(Errno::ENOMEM);
        }
        self.change_vmas(start, at, |vma| {
            if !vma.is_special() {
                vma.flags -= VmaFlags::LOCKED | VmaFlags::LOCKONFAULT;
                vma.flags |= add;
            }
        });
        if add == VmaFlags::LOCKED {
            self.make_resident(start, at);
        }
        if at < end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Touches what is accessible, as mlock and MAP_POPULATE do; failures show at the fault.
    pub(super) fn make_resident(&mut self, start: u64, end: u64) {
        let vmas: Vec<(u64, u64, Prot)> = self
            .vmas
            .overlapping(start, end)
            .filter(|(_, v)| !v.prot.is_empty() && !v.is_special())
            .map(|(s, v)| (s.max(start), v.end.min(end), v.prot))
            .collect();
        for (from, to, prot) in vmas {
            let private = self.vmas.find(from).is_some_and(|(_, v)| !v.shared());
            let access = if prot.contains(Prot::WRITE) && private {
                Access::Write
            } else {
                Access::Read
            };
            let mut at = from;
            while at < to {
                let Ok(next) = self.ensure(at, to, access, Force::No) else {
                    break;
                };
                at = next;
            }
            let memory = self.memory.clone();
            for (s, piece) in self.pages.overlapping(from, to) {
                let (fd, offset) = piece.held.place();
                if std::sync::Arc::ptr_eq(fd, memory.fd()) {
                    let (a, b) = (s.max(from), piece.end.min(to));
                    memory.populate(offset + (a - s), b - a);
                }
            }
        }
    }
}
