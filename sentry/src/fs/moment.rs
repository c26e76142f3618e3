//! Moments: what was seen a moment ago still holds.
//!
//! Trees that others change, too, are looked at anew by each system call, but not more than once by
//! the same one: what it has seen in the beginning could as well have changed at its end. A moment is
//! the time in which a thread works on one system call without letting go of it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Moments of one thread: enough for years of system calls.
const PER_THREAD: u64 = 1 << 48;

thread_local! {
    /// The moment before, whose number no other thread has.
    static LAST: Cell<u64> = const { Cell::new(0) };
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// The number of a moment; 0: none, nothing that was seen holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// This thread's.
    pub fn now() -> Moment {
        Moment(NOW.get())
    }

    /// Whether it still lasts, on this thread.
    pub fn lasts(self) -> bool {
        self.0 != 0 && self == Moment::now()
    }
}

/// This thread begins with something new.
pub fn begin() {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    let mut last = LAST.get();
    if last == 0 {
        last = THREADS
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(PER_THREAD);
    }
    LAST.set(last + 1);
    NOW.set(last + 1);
}

/// What this thread does next is no part of it.
pub fn end() {
    NOW.set(0);
}

/// CLOCK_MONOTONIC, as of the last timer tick.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE);
    now.map_or(0, |t| Duration::from(t).as_nanos() as u64)
}
