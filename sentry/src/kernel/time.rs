//! Clocks as the Sentry uses them. Guest clocks are the host's (the vDSO reads them without us).

use nix::time::{ClockId, clock_gettime};

/// A point on CLOCK_MONOTONIC, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoTime(u64);

impl MonoTime {
    pub fn now() -> MonoTime {
        MonoTime(clock_ns(ClockId::CLOCK_MONOTONIC))
    }

    pub fn from_ns(ns: u64) -> MonoTime {
        MonoTime(ns)
    }

    pub fn as_ns(self) -> u64 {
        self.0
    }

    /// `ns` later; saturates at the end of time.
    #[must_use]
    pub fn after_ns(self, ns: u64) -> MonoTime {
        MonoTime(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to `self`, zero if it is not earlier.
    pub fn since_ns(self, earlier: MonoTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next representable point.
    #[must_use]
    pub fn next(self) -> MonoTime {
        self.after_ns(1)
    }
}

/// A host clock in nanoseconds; negative times read as zero.
pub fn clock_ns(clock: ClockId) -> u64 {
    match clock_gettime(clock) {
        Ok(t) => {
            let sec = u64::try_from(t.tv_sec()).unwrap_or(0);
            sec.saturating_mul(1_000_000_000)
                .saturating_add(t.tv_nsec() as u64)
        }
        Err(_) => 0,
    }
}

/// Nanoseconds since the machine was booted, suspended time included: the guest's CLOCK_BOOTTIME,
/// which it reads without us, so all that is told about uptime goes by it.
pub fn uptime_ns() -> u64 {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

/// A point on CLOCK_MONOTONIC as time since boot.
pub fn since_boot_ns(at: MonoTime) -> u64 {
    let ago = MonoTime::now().since_ns(at);
    uptime_ns().saturating_sub(ago)
}
