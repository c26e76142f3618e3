//! fork(2): a copy of an address space that shares its memory until somebody writes.

use std::sync::Arc;

use runsc_platform::Prot;

use crate::errno::Result;
use crate::mm::pages::{Cow, Held, host_prot};
use crate::mm::remap::adopt;
use crate::mm::vma::{Source, Vma, VmaFlags};
use crate::mm::{Inner, Mm};

impl Mm {
    /// A copy-on-write copy, with the same layout, limits and program.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn fork(&self) -> Result<Arc<Mm>> {
        let limits = self.inner.read().limits;
        let child = Mm::bare(
            self.platform.clone(),
            self.memory.clone(),
            self.platform.new_address_space(),
            limits,
        );
        self.with(|parent| {
            child.with(|copy| {
                parent.copy_to(copy);
                if let Some(v) = self.platform.vdso() {
                    copy.match_vdso(v);
                }
            });
        });
        // Another thread may still write to what is shared now.
        self.space.shoot_down();
        Ok(child)
    }
}

impl Inner {
    fn copy_to(&mut self, child: &mut Inner) {
        child.layout = self.layout.clone();
        child.mmap_base = self.mmap_base;
        child.exe = self.exe.clone();
        child.dumpable = self.dumpable;
        let mut to_mark: Vec<(u64, u64)> = Vec::new();
        let mut wiped = Vec::new();
        for (start, vma) in self.vmas.iter() {
            if vma.flags.contains(VmaFlags::DONTFORK) {
                continue;
            }
            let mut copy: Vma = vma.clone();
            copy.flags -= VmaFlags::LOCKED | VmaFlags::LOCKONFAULT;
            adopt(&mut copy.source, child);
            if vma.flags.contains(VmaFlags::WIPEONFORK) {
                wiped.push((start, vma.end));
            } else {
                for (s, piece) in self.pages.overlapping(start, vma.end) {
                    let (from, to) = (s.max(start), piece.end.min(vma.end));
                    if let Held::Private { cow: false, .. } = piece.held {
                        if vma.prot.contains(Prot::WRITE) {
                            self.batch.protect(from, to - from, vma.prot - Prot::WRITE);
                        }
                        match to_mark.last_mut() {
                            Some(last) if last.1 == from => last.1 = to,
                            _ => to_mark.push((from, to)),
                        }
                    }
                    let held = share_part(&piece.held, from - s, to - from);
                    child.batch.map(
                        from,
                        to - from,
                        host_prot(&copy, &held),
                        &held,
                        false,
                        Vec::new(),
                    );
                    child.pages.insert(from, to, held);
                }
            }
            let mut trash = Vec::new();
            child.vmas.insert(start, copy, &mut trash);
            child.trash.append(&mut trash);
        }
        for (from, to) in to_mark {
            self.pages.mark_cow(from, to, Cow::Yes);
        }
        for (from, to) in wiped {
            child.premap(from, to, false);
        }
    }

    /// The platform maps the vDSO into every address space; takes away what the parent had not.
    fn match_vdso(&mut self, v: runsc_platform::VdsoRange) {
        let mut at = v.start;
        let special: Vec<(u64, u64, Prot, Prot)> = self
            .vmas
            .overlapping(v.start, v.end)
            .filter_map(|(s, vma)| match vma.source {
                Source::Vvar => Some((s, vma.end, vma.prot, Prot::READ)),
                Source::Vdso { .. } => Some((s, vma.end, vma.prot, Prot::READ | Prot::EXEC)),
                _ => None,
            })
            .collect();
        let mut missing = Vec::new();
        for (s, e, prot, initial) in special {
            if s > at {
                missing.push((at, s));
            }
            if prot != initial {
                self.batch.protect(s, e - s, prot);
            }
            at = e;
        }
        if at < v.end {
            missing.push((at, v.end));
        }
        for (s, e) in missing {
            // Something else of the guest's may lie there by now.
            for (a, b) in self.pages.gaps(s, e) {
                self.batch.unmap(a, b - a, Vec::new());
            }
        }
    }
}

/// A further reference on part of a piece, marked copy-on-write.
fn share_part(held: &Held, off: u64, len: u64) -> Held {
    match held {
        Held::Private { range, .. } => Held::Private {
            range: range.share(off, len),
            cow: true,
        },
        Held::Object {
            fd,
            offset,
            keep,
            writable,
        } => Held::Object {
            fd: fd.clone(),
            offset: offset + off,
            keep: keep.clone(),
            writable: *writable,
        },
    }
}
