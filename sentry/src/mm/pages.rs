//! Where mapped bytes are, and the host mappings that follow from it.
//!
//! [`PageMap`] says for each piece of an address space which memory holds it. The invariant that
//! everything rests on: a piece is in the page map exactly if the host maps it, with the protection
//! [`host_prot`] computes (VMAs of the vDSO excepted, which the platform brought). A [`Batch`]
//! collects the host operations of one change and passes them on together with the references that
//! must outlive them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use runsc_platform::{AddressSpace, HostOp, Prot, Retired};

use crate::mm::memory_file::FileRange;
use crate::mm::vma::Vma;

/// The memory behind a piece.
pub enum Held {
    /// Pages of the MemoryFile that belong to this address space; with `cow` perhaps to another
    /// one too (the MemoryFile's counts know), so that they must not be written.
    Private { range: FileRange, cow: bool },
    /// Pages of a mapped object.
    Object {
        fd: Arc<OwnedFd>,
        offset: u64,
        /// None for host files.
        keep: Option<Retired>,
        /// May be mapped writable by shared mappings.
        writable: bool,
    },
}

impl Held {
    fn split_off(&mut self, by: u64) -> Held {
        match self {
            Held::Private { range, cow } => Held::Private {
                range: range.split_off(by),
                cow: *cow,
            },
            Held::Object {
                fd,
                offset,
                keep,
                writable,
            } => Held::Object {
                fd: fd.clone(),
                offset: *offset + by,
                keep: keep.clone(),
                writable: *writable,
            },
        }
    }

    /// The host descriptor and the offset in it.
    pub fn place(&self) -> (&Arc<OwnedFd>, u64) {
        match self {
            Held::Private { range, .. } => (range.fd(), range.offset()),
            Held::Object { fd, offset, .. } => (fd, *offset),
        }
    }

    /// A second reference to the same memory, for another address space or a pin.
    pub fn share(&self) -> Held {
        match self {
            Held::Private { range, cow } => Held::Private {
                range: range.share(0, range.len()),
                cow: *cow,
            },
            Held::Object {
                fd,
                offset,
                keep,
                writable,
            } => Held::Object {
                fd: fd.clone(),
                offset: *offset,
                keep: keep.clone(),
                writable: *writable,
            },
        }
    }

    /// Appends `next` (this one is `len` long), or gives it back.
    fn append(&mut self, len: u64, next: Held) -> Option<Held> {
        match (self, next) {
            (
                Held::Private { range, cow },
                Held::Private {
                    range: next,
                    cow: next_cow,
                },
            ) if *cow == next_cow => range.append(next).map(|range| Held::Private {
                range,
                cow: next_cow,
            }),
            (
                Held::Object {
                    fd,
                    offset,
                    keep,
                    writable,
                },
                Held::Object {
                    fd: next_fd,
                    offset: next_offset,
                    keep: next_keep,
                    writable: next_writable,
                },
            ) => {
                let same_keep = match (&*keep, &next_keep) {
                    (None, None) => true,
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    _ => false,
                };
                if same_keep
                    && Arc::ptr_eq(fd, &next_fd)
                    && *offset + len == next_offset
                    && *writable == next_writable
                {
                    return None;
                }
                Some(Held::Object {
                    fd: next_fd,
                    offset: next_offset,
                    keep: next_keep,
                    writable: next_writable,
                })
            }
            (_, next) => Some(next),
        }
    }
}

/// What the host maps for memory `held` in `vma`.
pub fn host_prot(vma: &Vma, held: &Held) -> Prot {
    let writable = match held {
        Held::Private { cow, .. } => !cow,
        Held::Object { writable, .. } => vma.shared() && *writable,
    };
    if writable {
        vma.prot
    } else {
        vma.prot - Prot::WRITE
    }
}

/// A piece of an address space and its memory. Its start is its key in [`PageMap`].
pub struct Piece {
    pub end: u64,
    pub held: Held,
}

/// The pieces of an address space, not overlapping.
#[derive(Default)]
pub struct PageMap {
    map: BTreeMap<u64, Piece>,
}

impl PageMap {
    pub fn find(&self, addr: u64) -> Option<(u64, &Piece)> {
        let (&start, piece) = self.map.range(..=addr).next_back()?;
        (addr < piece.end).then_some((start, piece))
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.map.iter().map(|(&s, p)| (s, p))
    }

    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Piece)> {
        let first = self.find(start).map_or(start, |(s, _)| s);
        self.map.range(first..end.max(first)).map(|(&s, p)| (s, p))
    }

    /// The parts of `[start, end)` without memory.
    pub fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        for (s, piece) in self.overlapping(start, end) {
            if s > at {
                gaps.push((at, s));
            }
            at = piece.end;
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// The part without memory around `addr`, within `[low, high)`.
    pub fn gap_around(&self, addr: u64, low: u64, high: u64) -> (u64, u64) {
        let before = self.map.range(..=addr).next_back();
        let after = self.map.range(addr..).next();
        (
            before.map_or(low, |(_, p)| p.end.max(low)),
            after.map_or(high, |(&s, _)| s.min(high)),
        )
    }

    /// Makes `at` a boundary between pieces.
    pub fn split(&mut self, at: u64) {
        if let Some((&start, piece)) = self.map.range_mut(..at).next_back()
            && piece.end > at
        {
            let tail = Piece {
                end: piece.end,
                held: piece.held.split_off(at - start),
            };
            piece.end = at;
            self.map.insert(at, tail);
        }
    }

    fn join(&mut self, at: u64) {
        let Some(right) = self.map.remove(&at) else {
            return;
        };
        if let Some((&start, left)) = self.map.range_mut(..at).next_back()
            && left.end == at
        {
            match left.held.append(at - start, right.held) {
                None => left.end = right.end,
                Some(held) => {
                    self.map.insert(
                        at,
                        Piece {
                            end: right.end,
                            held,
                        },
                    );
                }
            }
            return;
        }
        self.map.insert(at, right);
    }

    /// Adds a piece where there is none, joined with its neighbours.
    pub fn insert(&mut self, start: u64, end: u64, held: Held) {
        self.map.insert(start, Piece { end, held });
        self.join(start);
        self.join(end);
    }

    /// Takes `[start, end)` out.
    pub fn remove(&mut self, start: u64, end: u64) -> Vec<(u64, Piece)> {
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.map.range(start..end).map(|(&s, _)| s).collect();
        keys.into_iter()
            .filter_map(|k| self.map.remove(&k).map(|p| (k, p)))
            .collect()
    }

    /// Sets or clears the copy-on-write mark of the private pieces in `[start, end)`.
    pub fn mark_cow(&mut self, start: u64, end: u64, value: Cow) {
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.map.range(start..end).map(|(&s, _)| s).collect();
        for key in &keys {
            if let Some(Piece {
                held: Held::Private { cow, .. },
                ..
            }) = self.map.get_mut(key)
            {
                *cow = value == Cow::Yes;
            }
        }
        for key in keys {
            self.join(key);
        }
        self.join(end);
    }
}

/// The copy-on-write mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cow {
    No,
    Yes,
}

/// Host operations of one change, in order, adjacent ones joined.
#[derive(Default)]
pub struct Batch {
    ops: Vec<(HostOp, Vec<Held>)>,
}

impl Batch {
    /// Maps a piece over whatever the host has there; `retire` is what was there.
    pub fn map(
        &mut self,
        addr: u64,
        len: u64,
        prot: Prot,
        held: &Held,
        populate: bool,
        retire: Vec<Held>,
    ) {
        let (fd, fd_offset) = held.place();
        if let Some((op, old)) = self.ops.last_mut() {
            match op {
                HostOp::Map {
                    addr: last_addr,
                    len: last_len,
                    prot: last_prot,
                    file,
                    offset,
                    populate: last_populate,
                    ..
                } if *last_addr + *last_len == addr
                    && *offset + *last_len == fd_offset
                    && *last_prot == prot
                    && *last_populate == populate
                    && Arc::ptr_eq(file, fd) =>
                {
                    *last_len += len;
                    old.extend(retire);
                    return;
                }
                // What is mapped over need not be changed first.
                HostOp::Unmap {
                    addr: last_addr,
                    len: last_len,
                }
                | HostOp::Map {
                    addr: last_addr,
                    len: last_len,
                    ..
                } if addr <= *last_addr && *last_addr + *last_len <= addr + len => {
                    old.extend(retire);
                    *op = HostOp::Map {
                        addr,
                        len,
                        prot,
                        file: fd.clone(),
                        offset: fd_offset,
                        private: false,
                        populate,
                    };
                    return;
                }
                _ => {}
            }
        }
        self.ops.push((
            HostOp::Map {
                addr,
                len,
                prot,
                file: fd.clone(),
                offset: fd_offset,
                private: false,
                populate,
            },
            retire,
        ));
    }

    pub fn unmap(&mut self, addr: u64, len: u64, retire: Vec<Held>) {
        if let Some((
            HostOp::Unmap {
                addr: last_addr,
                len: last_len,
            },
            old,
        )) = self.ops.last_mut()
            && *last_addr + *last_len == addr
        {
            *last_len += len;
            old.extend(retire);
            return;
        }
        self.ops.push((HostOp::Unmap { addr, len }, retire));
    }

    pub fn protect(&mut self, addr: u64, len: u64, prot: Prot) {
        if let Some((
            HostOp::Protect {
                addr: last_addr,
                len: last_len,
                prot: last_prot,
            },
            _,
        )) = self.ops.last_mut()
            && *last_addr + *last_len == addr
            && *last_prot == prot
        {
            *last_len += len;
            return;
        }
        self.ops
            .push((HostOp::Protect { addr, len, prot }, Vec::new()));
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Hands everything to the platform.
    pub fn flush(&mut self, space: &dyn AddressSpace) {
        for (op, retire) in self.ops.drain(..) {
            let retired: Option<Retired> = if retire.is_empty() {
                None
            } else {
                Some(Arc::new(retire))
            };
            space.queue(op, retired);
        }
    }
}
