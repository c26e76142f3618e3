//! A clock for what happens at every trap: a third of what `clock_gettime` costs.
//!
//! Where the processor counts time at a constant rate (Intel SDM vol. 3 §18.17.1, "invariant TSC"),
//! a tick is a cycle of its time stamp counter; elsewhere a nanosecond of CLOCK_MONOTONIC. Only
//! differences mean something, and only within one process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A number of ticks, or a point in time as the ticks since some other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(pub u64);

/// How long ticks are counted before their rate counts as known: reading two clocks one after the
/// other is off by less than 0.1 µs, so the rate by less than 50 in a million.
const CALIBRATION: Duration = Duration::from_millis(2);
/// How often both clocks are read for one reading of both.
const READINGS: u32 = 8;

struct Start {
    counter: Counter,
    at: Instant,
    ticks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counter {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "x86-64 only"))]
    TimeStamp,
    Monotonic,
}

fn start() -> &'static Start {
    static START: OnceLock<Start> = OnceLock::new();
    START.get_or_init(|| {
        let counter = Counter::of_processor();
        let (at, ticks) = counter.read_with_time();
        Start { counter, at, ticks }
    })
}

impl Counter {
    #[cfg(target_arch = "x86_64")]
    fn of_processor() -> Counter {
        use std::arch::x86_64::__cpuid;
        const POWER: u32 = 0x8000_0007;
        const INVARIANT_TSC: u32 = 1 << 8;
        let largest = __cpuid(0x8000_0000).eax;
        if largest >= POWER && __cpuid(POWER).edx & INVARIANT_TSC != 0 {
            return Counter::TimeStamp;
        }
        Counter::Monotonic
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_processor() -> Counter {
        Counter::Monotonic
    }

    fn read(self, since: Instant) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: reads a counter.
            Counter::TimeStamp => unsafe { std::arch::x86_64::_rdtsc() },
            _ => u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// The time and the counter, read close to each other: a thread may be preempted in between, so
    /// the best of some readings counts.
    fn read_with_time(self) -> (Instant, u64) {
        let mut best = (Duration::MAX, (Instant::now(), 0));
        for _ in 0..READINGS {
            let at = Instant::now();
            let ticks = self.read(at);
            let took = at.elapsed();
            if took < best.0 {
                best = (took, (at, ticks));
            }
        }
        best.1
    }
}

impl Ticks {
    pub fn now() -> Ticks {
        let start = start();
        Ticks(start.counter.read(start.at))
    }

    /// Ticks from `earlier` to this; none if it is not earlier, which two cores may see.
    pub fn since(self, earlier: Ticks) -> Ticks {
        Ticks(self.0.saturating_sub(earlier.0))
    }

    pub fn as_ns(self) -> u64 {
        let ns = (u128::from(self.0) * u128::from(rate())) >> 32;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    pub fn of(duration: Duration) -> Ticks {
        let ticks = (duration.as_nanos() << 32) / u128::from(rate().max(1));
        Ticks(u64::try_from(ticks).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds a tick, times 2^32. The first call may take [`CALIBRATION`].
fn rate() -> u64 {
    static RATE: OnceLock<u64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let start = start();
        if start.counter == Counter::Monotonic {
            return 1 << 32;
        }
        while start.at.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let (at, ticks) = start.counter.read_with_time();
        let ticks = u128::from(ticks.saturating_sub(start.ticks)).max(1);
        let passed = at.saturating_duration_since(start.at).as_nanos();
        u64::try_from((passed << 32) / ticks).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_time() {
        let counter = start().counter;
        if counter == Counter::Monotonic {
            return;
        }
        let (began, ticks) = counter.read_with_time();
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (now, later) = counter.read_with_time();
        let counted = Ticks(later - ticks).as_ns();
        let passed = u64::try_from(now.duration_since(began).as_nanos()).unwrap();
        assert!(
            counted.abs_diff(passed) <= passed / 200,
            "{counted} {passed}"
        );
    }

    #[test]
    fn durations_and_back() {
        for us in [1, 60, 150, 1_000_000, 3_600_000_000] {
            let ns = Ticks::of(Duration::from_micros(us)).as_ns();
            let error = ns.abs_diff(us * 1000);
            assert!(error <= 1 + us / 1000, "{us} µs are {ns} ns");
        }
        assert_eq!(Ticks(1).since(Ticks(5)), Ticks(0));
    }
}
