//! The free ranges of a file: the one that fits best, or one at a place.

use std::collections::{BTreeMap, BTreeSet};

use crate::mm::memory_file::LARGE_PAGE;

/// Free ranges, by place and by size.
#[derive(Default)]
pub(super) struct FreeSet {
    pub(super) by_start: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
    pub(super) bytes: u64,
}

impl FreeSet {
    fn remove(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
        self.bytes -= len;
    }

    fn add(&mut self, start: u64, len: u64) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
        self.bytes += len;
    }

    /// Adds a range, merged with its neighbours.
    pub(super) fn insert(&mut self, mut start: u64, mut len: u64) {
        if let Some((&s, &l)) = self.by_start.range(..start).next_back()
            && s + l == start
        {
            self.remove(s, l);
            start = s;
            len += l;
        }
        if let Some((&s, &l)) = self.by_start.range(start + len..).next()
            && s == start + len
        {
            self.remove(s, l);
            len += l;
        }
        self.add(start, len);
    }

    /// The smallest free range that fits, from its beginning.
    pub(super) fn take(&mut self, len: u64) -> Option<u64> {
        let &(l, start) = self.by_len.range((len, 0)..).next()?;
        self.remove(start, l);
        if l > len {
            self.add(start + len, l - len);
        }
        Some(start)
    }

    /// As `take`, at a place that is `addr` modulo [`LARGE_PAGE`].
    pub(super) fn take_like(&mut self, len: u64, addr: u64) -> Option<u64> {
        let room = len.checked_add(LARGE_PAGE)?;
        let &(_, start) = self.by_len.range((room, 0)..).next()?;
        let at = start + addr.wrapping_sub(start) % LARGE_PAGE;
        self.take_at(at, len).then_some(at)
    }

    /// Exactly this range, if it is free.
    pub(super) fn take_at(&mut self, at: u64, len: u64) -> bool {
        let Some((&s, &l)) = self.by_start.range(..=at).next_back() else {
            return false;
        };
        if s + l < at + len {
            return false;
        }
        self.remove(s, l);
        if s < at {
            self.add(s, at - s);
        }
        if s + l > at + len {
            self.add(at + len, s + l - (at + len));
        }
        true
    }
}
