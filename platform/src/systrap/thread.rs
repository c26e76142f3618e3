//! A host thread of a stub that runs guest code.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::layout::area;
use super::shared::{Shared, state};

pub(super) struct Thread {
    /// Index of its area.
    pub index: u64,
    pub tid: i32,
    pub area: Shared,
    /// The core it is bound to; `NO_CORE`: none.
    pub core: AtomicUsize,
}

pub(super) const NO_CORE: usize = usize::MAX;

impl Thread {
    pub fn new(index: u64, tid: i32, area: Shared) -> Arc<Thread> {
        Arc::new(Thread {
            index,
            tid,
            area,
            core: AtomicUsize::new(NO_CORE),
        })
    }

    /// Whether it waits for an answer.
    pub fn has_stopped(&self) -> bool {
        let state = self.area.u32(area::STATE).load(Ordering::Acquire);
        matches!(state, state::TRAPPED | state::PARKED)
    }
}
