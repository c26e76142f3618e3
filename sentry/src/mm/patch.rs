//! Guest code that the platform has changed, so that system calls cost less.
//!
//! The guest's pages get the new bytes on copies of their own, each put in place whole. The bytes
//! they replace are kept here: a debugger sees them ([`Mm::forced_read`]), they come back before
//! code may be written, moved or is written by a debugger, and are forgotten with the mapping. What
//! the guest itself reads of its code are the new bytes.

use std::collections::BTreeMap;

use runsc_platform::{Access, Code, Patch, Prot};

use crate::errno::{Errno, Result};
use crate::mm::fault::{Force, copy_from_fd};
use crate::mm::memory_file::{Contents, Near};
use crate::mm::pages::Held;
use crate::mm::types::{PAGE_SIZE, page_down};
use crate::mm::{Inner, Mm};

/// How far around a site the platform looks.
const AROUND: u64 = 4096;
const LEN: usize = 7;

/// The original bytes of what is patched, by address; and ranges the platform is to be told of.
#[derive(Clone, Default)]
pub(super) struct Patched {
    originals: BTreeMap<u64, [u8; LEN]>,
    pub(super) forgotten: Vec<(u64, u64)>,
}

impl Patched {
    pub fn is_empty(&self) -> bool {
        self.originals.is_empty()
    }

    fn within(&self, start: u64, end: u64) -> Vec<(u64, [u8; LEN])> {
        let from = start.saturating_sub(LEN as u64 - 1);
        self.originals
            .range(from..end)
            .map(|(&at, &bytes)| (at, bytes))
            .collect()
    }

    /// Puts the original bytes into `bytes`, read at `addr`.
    pub fn restore(&self, addr: u64, bytes: &mut [u8]) {
        let end = addr.saturating_add(bytes.len() as u64);
        for (at, original) in self.within(addr, end) {
            for (n, byte) in original.into_iter().enumerate() {
                let place = (at + n as u64).checked_sub(addr);
                let place = place.and_then(|place| usize::try_from(place).ok());
                if let Some(slot) = place.and_then(|place| bytes.get_mut(place)) {
                    *slot = byte;
                }
            }
        }
    }
}

impl Mm {
    /// Offers the code around `site` to the platform and changes what it asks for. Nothing happens
    /// if the code can be written, or is not there any more.
    pub fn patch_code(&self, site: u64, plan: impl FnOnce(Code<'_>) -> Option<Patch>) {
        let Some((start, end)) = self.inner.read().code_around(site) else {
            return;
        };
        let mut bytes = vec![0; (end - start) as usize];
        let len = self.forced_read(start, &mut bytes);
        bytes.truncate(len);
        self.with(|inner| {
            if inner.code_around(site) != Some((start, end)) {
                return;
            }
            let code = Code {
                start,
                bytes: &bytes,
            };
            let Some(patch) = plan(code) else { return };
            let at = patch.addr.wrapping_sub(start) as usize;
            let Some(original) = bytes.get(at..at + LEN) else {
                return;
            };
            match inner.replace_code(patch.addr, original, &patch.bytes) {
                Ok(()) => {
                    let mut kept = [0; LEN];
                    kept.copy_from_slice(original);
                    inner.patched.originals.insert(patch.addr, kept);
                }
                Err(e) => log::debug!("code at {site:#x} stays as it is: {e:?}"),
            }
        });
    }
}

impl Inner {
    /// The part of the mapping around the end of a call that matters, if code there may be changed.
    fn code_around(&self, site: u64) -> Option<(u64, u64)> {
        let (start, vma) = self.vmas.find(site.checked_sub(1)?)?;
        let fixed = vma.prot.contains(Prot::EXEC) && !vma.prot.contains(Prot::WRITE);
        if !fixed || vma.shared() || vma.is_special() {
            return None;
        }
        let from = site.saturating_sub(AROUND).max(start);
        let to = site.saturating_add(AROUND).min(vma.end);
        Some((from, to))
    }

    /// Puts a copy of the page, with `new` in the place of `old`, behind the code at `addr`. EAGAIN
    /// if something else is there.
    fn replace_code(&mut self, addr: u64, old: &[u8], new: &[u8]) -> Result<()> {
        let page = page_down(addr);
        self.ensure(page, page + PAGE_SIZE, Access::Read, Force::Yes)
            .map_err(|_| Errno::EFAULT)?;
        let (_, vma) = self.vmas.find(addr).ok_or(Errno::EFAULT)?;
        let vma = vma.clone();
        let (piece_start, piece) = self.pages.find(page).ok_or(Errno::EFAULT)?;
        let copy = self
            .memory
            .allocate_near(PAGE_SIZE, Near::Anywhere, Contents::Any)?;
        match &piece.held {
            Held::Private { range, .. } => {
                copy.copy_from(0, range, page - piece_start, PAGE_SIZE)?;
            }
            Held::Object { fd, offset, .. } => {
                copy_from_fd(self, &copy, fd, offset + (page - piece_start), PAGE_SIZE)?;
            }
        }
        let (window, pos, _) = copy.window(addr - page)?;
        let mut found = vec![0; old.len()];
        let fault = |_| Errno::EFAULT;
        window.read(pos, &mut found).map_err(fault)?;
        if found != old {
            return Err(Errno::EAGAIN);
        }
        window.write(pos, new).map_err(fault)?;
        let held = Held::Private {
            range: copy,
            cow: false,
        };
        self.replace(page, page + PAGE_SIZE, held, &vma, true);
        Ok(())
    }

    /// Brings the original code of a range back, which is about to be changed by the guest.
    pub(super) fn unpatch(&mut self, start: u64, end: u64) {
        for (at, original) in self.patched.within(start, end) {
            let mut now = [0; LEN];
            self.patched.originals.remove(&at);
            let page = page_down(at);
            let Some((piece_start, piece)) = self.pages.find(page) else {
                continue;
            };
            // Dropped pages show the file again, which has the original.
            let Held::Private { range, .. } = &piece.held else {
                continue;
            };
            let read = range
                .window(at - piece_start)
                .is_ok_and(|(window, pos, _)| window.read(pos, &mut now).is_ok());
            if read && let Err(e) = self.replace_code(at, &now, &original) {
                log::debug!("original code at {at:#x}: {e:?}");
            }
        }
        self.forget_patches(start, end);
    }

    /// Something else will be mapped from `start` to `end`, or nothing.
    pub(super) fn forget_patches(&mut self, start: u64, end: u64) {
        for (at, _) in self.patched.within(start, end) {
            self.patched.originals.remove(&at);
        }
        self.patched.forgotten.push((start, end));
    }
}
