//! Counts the host calls that a thread makes through a platform: their number per trap is what a
//! platform's speed comes down to.

use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Host calls the calling thread has made through its platform so far.
pub fn host_call_count() -> u64 {
    CALLS.get()
}

pub(crate) fn count() {
    CALLS.set(CALLS.get().wrapping_add(1));
}
