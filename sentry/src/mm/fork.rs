//! fork(2): a copy of an address space that shares its memory until somebody writes.
//!
//! A process that forks again and again (a shell) writes to the same few pages after each fork, at
//! the price of a fault here and one in the child. [`HotGroups`] remembers them; fork copies them
//! at once, which is much cheaper.

use std::sync::Arc;

use runsc_platform::Prot;

use crate::errno::Result;
use crate::mm::fault::COPY_AROUND;
use crate::mm::memory_file::{Contents, FileRange, MemoryFile, Near};
use crate::mm::pages::{Cow, Held, host_prot};
use crate::mm::remap::adopt;
use crate::mm::vma::{Source, Vma, VmaFlags};
use crate::mm::{Inner, Mm};

/// Most groups remembered: what one fork copies at once, at most.
const MAX_HOT: usize = 8;
/// Forks after which a group must prove again that it is written to.
const HOT_FORKS: u8 = 16;

/// Groups of pages (of [`COPY_AROUND`] bytes) that were written to soon after a fork.
#[derive(Clone, Default)]
pub(super) struct HotGroups {
    /// Address and how many more forks it is believed for.
    groups: Vec<(u64, u8)>,
}

impl HotGroups {
    /// A page that fork had marked copy-on-write was written to.
    pub fn note(&mut self, page: u64) {
        let group = page / COPY_AROUND * COPY_AROUND;
        if self.groups.len() < MAX_HOT && !self.groups.iter().any(|g| g.0 == group) {
            self.groups.push((group, HOT_FORKS));
        }
    }

    /// The first part of `[from, to)` that is all hot or all not: its end, and which.
    fn part(&self, from: u64, to: u64) -> (u64, Hot) {
        let group = from / COPY_AROUND * COPY_AROUND;
        if self.groups.iter().any(|g| g.0 == group) {
            return (to.min(group + COPY_AROUND), Hot::Yes);
        }
        let next = self.groups.iter().map(|g| g.0).filter(|&g| g > from).min();
        (to.min(next.unwrap_or(to)), Hot::No)
    }

    fn age(&mut self) {
        self.groups.retain_mut(|g| {
            g.1 -= 1;
            g.1 > 0
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hot {
    No,
    Yes,
}

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
            self.platform.fork_address_space(&*self.space),
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
        child.patched = self.patched.clone();
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
                    let (begin, end) = (s.max(start), piece.end.min(vma.end));
                    let own = matches!(piece.held, Held::Private { cow: false, .. });
                    let written = own && vma.prot.contains(Prot::WRITE);
                    let mut from = begin;
                    while from < end {
                        let (to, hot) = if written {
                            self.hot.part(from, end)
                        } else {
                            (end, Hot::No)
                        };
                        let copied = match &piece.held {
                            Held::Private { range, .. } if hot == Hot::Yes => {
                                copy_now(&self.memory, range, from - s, to - from)
                            }
                            _ => None,
                        };
                        let populate = copied.is_some();
                        let held = match copied {
                            Some(range) => Held::Private { range, cow: false },
                            None => share_part(&piece.held, from - s, to - from),
                        };
                        if own && !populate {
                            if written {
                                let prot = vma.prot - Prot::WRITE;
                                self.batch.protect(from, to - from, prot);
                            }
                            match to_mark.last_mut() {
                                Some(last) if last.1 == from => last.1 = to,
                                _ => to_mark.push((from, to)),
                            }
                        }
                        let prot = host_prot(&copy, &held);
                        child
                            .batch
                            .map(from, to - from, prot, &held, populate, Vec::new());
                        child.pages.insert(from, to, held);
                        from = to;
                    }
                }
            }
            let mut trash = Vec::new();
            child.vmas.insert(start, copy, &mut trash);
            child.trash.append(&mut trash);
        }
        for (from, to) in to_mark {
            self.pages.mark_cow(from, to, Cow::Yes);
        }
        self.hot.age();
        child.hot = self.hot.clone();
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

/// A copy of part of a range; None if there is no memory for it.
fn copy_now(memory: &Arc<MemoryFile>, range: &FileRange, off: u64, len: u64) -> Option<FileRange> {
    let copy = memory
        .allocate_near(len, Near::Anywhere, Contents::Any)
        .ok()?;
    copy.copy_from(0, range, off, len).ok()?;
    Some(copy)
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
