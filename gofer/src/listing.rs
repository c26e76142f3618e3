//! The entries of a directory, put together tightly: the client keeps those of whole trees.

use std::{cmp::Ordering, sync::OnceLock};

use crate::protocol::Attr;

/// Listings up to this long are searched from end to end.
const SHORT: usize = 16;

/// All entries of a directory at one moment, in the host's order; `.` and `..` are not among them.
#[derive(Debug, Default)]
pub struct Listing {
    /// The names, one after the other.
    names: Vec<u8>,
    entries: Vec<Slot>,
    known: Vec<Known>,
    /// Indices of the entries in the order of their names, once somebody has searched.
    by_name: OnceLock<Box<[u32]>>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    ino: u64,
    /// Where its name ends; it begins where the one before ends.
    end: u32,
    /// One more than its index among the known; 0: nothing known.
    known: u32,
    file_type: u8,
}

/// What is known of an entry beside its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub attr: Attr,
    /// Of a symlink.
    pub target: Option<Box<[u8]>>,
    /// It has no extended attributes for sure.
    pub plain: bool,
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    pub name: &'a [u8],
    pub ino: u64,
    /// `DT_*` of getdents64(2); may be `DT_UNKNOWN`.
    pub file_type: u8,
    pub known: Option<&'a Known>,
}

impl Listing {
    /// Adds an entry; what does not fit any more is left out (4 GiB of names).
    pub fn push(&mut self, name: &[u8], ino: u64, file_type: u8, known: Option<Known>) {
        let end = self.names.len().saturating_add(name.len());
        let Ok(end) = u32::try_from(end) else {
            return;
        };
        self.by_name.take();
        self.names.extend_from_slice(name);
        let known = known.map_or(0, |known| {
            self.known.push(known);
            u32::try_from(self.known.len()).unwrap_or(0)
        });
        self.entries.push(Slot {
            ino,
            end,
            known,
            file_type,
        });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory, about.
    pub fn bytes(&self) -> usize {
        self.names.len()
            + self.entries.len() * size_of::<Slot>()
            + self.known.len() * size_of::<Known>()
    }

    /// Gives back memory that is only good for adding more.
    pub fn shrink(&mut self) {
        self.names.shrink_to_fit();
        self.entries.shrink_to_fit();
        self.known.shrink_to_fit();
    }

    pub fn get(&self, index: usize) -> Option<Listed<'_>> {
        let slot = self.entries.get(index)?;
        let known = slot.known.checked_sub(1);
        Some(Listed {
            name: self.name(index),
            ino: slot.ino,
            file_type: slot.file_type,
            known: known.and_then(|at| self.known.get(at as usize)),
        })
    }

    /// The entries from `index` on.
    pub fn from(&self, index: usize) -> impl Iterator<Item = Listed<'_>> {
        (index..self.len()).filter_map(|index| self.get(index))
    }

    /// The index of the entry `name`.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        if self.len() <= SHORT {
            return (0..self.len()).find(|index| self.name(*index) == name);
        }
        let by_name = self.by_name.get_or_init(|| {
            let mut indices: Vec<u32> = (0..self.len()).map_while(|i| i.try_into().ok()).collect();
            indices.sort_unstable_by(|a, b| self.order(*a, self.name(*b as usize)));
            indices.into_boxed_slice()
        });
        let at = by_name.binary_search_by(|index| self.order(*index, name));
        at.ok()
            .and_then(|at| by_name.get(at))
            .map(|index| *index as usize)
    }

    fn order(&self, index: u32, name: &[u8]) -> Ordering {
        self.name(index as usize).cmp(name)
    }

    fn name(&self, index: usize) -> &[u8] {
        let end = |index: usize| self.entries.get(index).map_or(0, |slot| slot.end as usize);
        let start = index.checked_sub(1).map_or(0, end);
        self.names.get(start..end(index)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_name() {
        for count in [0_u64, 1, 15, 16, 17, 1000] {
            let mut listing = Listing::default();
            for i in 0..count {
                let attr = Attr {
                    ino: i,
                    ..Attr::default()
                };
                let known = (i % 3 == 0).then_some(Known {
                    attr,
                    target: None,
                    plain: false,
                });
                // In no order of their names.
                let name = format!("n{}", (i * 7919) % 10007);
                listing.push(name.as_bytes(), i, libc::DT_REG, known);
            }
            for i in 0..count {
                let name = format!("n{}", (i * 7919) % 10007);
                let at = listing.find(name.as_bytes());
                assert_eq!(at, Some(i as usize), "{name} of {count}");
                let entry = listing.get(i as usize).unwrap();
                assert_eq!((entry.name, entry.ino), (name.as_bytes(), i));
                let attr = entry.known.map(|known| known.attr.ino);
                assert_eq!(attr, (i % 3 == 0).then_some(i));
            }
            assert_eq!(listing.find(b"n"), None);
            assert_eq!(listing.find(b"x"), None);
            assert_eq!(listing.from(3).count() as u64, count.saturating_sub(3));
        }
    }
}
