//! Interrupting guest code from other threads.
//!
//! A kick of running code is a signal that the platform catches. Signals are slow and can arrive
//! late, so a word per context says what a kick has to do and what an arriving signal means:
//!
//! | state    | `kick`                        | the signal arrives       | another trap     |
//! |----------|-------------------------------|--------------------------|------------------|
//! | Rest     | → RestKicked, no host call    | stale: swallowed         | —                |
//! | Running  | → RunKicked, sends the signal | stale: swallowed         | → Rest           |
//! | RunKicked| nothing                       | reported as Interrupted  | → Rest (it came) |
//! | RestKicked| nothing                      | stale: swallowed         | —                |
//!
//! `resume` turns RestKicked into an immediate Interrupted without entering the guest.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use super::host_calls::count;
use crate::Kicker;

/// The signal sent to stub threads. Any would do that is not raised by exceptions.
pub(crate) const KICK_SIGNAL: i32 = libc::SIGUSR1;

const REST: u32 = 0;
const RUNNING: u32 = 1;
const RUN_KICKED: u32 = 2;
const REST_KICKED: u32 = 3;

/// What the state is kept in; the model of `systrap::model` keeps it in a word of its own.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, value: u32, order: Ordering);
    fn compare_exchange(
        &self,
        old: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32>;
}

impl Word for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    fn compare_exchange(
        &self,
        old: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        self.compare_exchange(old, new, success, failure)
    }
}

/// The table above, without the signals.
#[derive(Default)]
pub(crate) struct States<W>(W);

impl<W: Word> States<W> {
    pub fn start(&self) -> bool {
        // Sequentially consistent with the queue of changes, see `Changes::pending`.
        let moved = self
            .0
            .compare_exchange(REST, RUNNING, Ordering::SeqCst, Ordering::Acquire);
        if moved.is_err() {
            self.0.store(REST, Ordering::Release);
        }
        moved.is_ok()
    }

    pub fn not_started(&self) {
        let moved = self
            .0
            .compare_exchange(RUNNING, REST, Ordering::AcqRel, Ordering::Acquire);
        if moved.is_err() {
            self.0.store(REST_KICKED, Ordering::Release);
        }
    }

    pub fn trapped(&self) {
        self.0.store(REST, Ordering::Release);
    }

    fn arrived(&self) -> bool {
        self.0
            .compare_exchange(RUN_KICKED, REST, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether the signal is to be sent.
    #[must_use]
    pub fn kick_if_running(&self) -> bool {
        self.0
            .compare_exchange(RUNNING, RUN_KICKED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Whether the signal is to be sent again.
    #[must_use]
    pub fn repeat(&self) -> bool {
        self.0.load(Ordering::SeqCst) == RUN_KICKED
    }

    /// Whether the signal is to be sent.
    #[must_use]
    pub fn kick(&self) -> bool {
        let mut state = self.0.load(Ordering::Acquire);
        loop {
            let next = match state {
                REST => REST_KICKED,
                RUNNING => RUN_KICKED,
                _ => return false,
            };
            match self
                .0
                .compare_exchange(state, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return state == RUNNING,
                Err(found) => state = found,
            }
        }
    }
}

/// Kick state of one context.
pub(crate) struct Kick {
    states: States<AtomicU32>,
    /// Thread group and thread to signal; None when the context is gone, because its numbers may
    /// then name somebody else.
    target: Mutex<Option<(i32, i32)>>,
}

impl Kick {
    pub fn new(tgid: i32, tid: i32) -> Self {
        Kick {
            states: States(AtomicU32::new(REST)),
            target: Mutex::new(Some((tgid, tid))),
        }
    }

    /// About to run guest code. False: it was kicked while at rest and must not; the kick is used
    /// up.
    pub fn start(&self) -> bool {
        self.states.start()
    }

    /// Takes `start` back, before guest code ran. A kick that came meanwhile stays.
    pub fn not_started(&self) {
        self.states.not_started();
    }

    /// It trapped for another reason, which serves as the kick too.
    pub fn trapped(&self) {
        self.states.trapped();
    }

    /// The signal arrived. True if it means anything; at rest from then on.
    pub fn arrived(&self) -> bool {
        self.states.arrived()
    }

    /// No signal is sent any more once this returns.
    pub fn retire(&self) {
        *self.target.lock() = None;
    }

    /// Sends the signal if guest code runs now, and otherwise does nothing.
    pub fn kick_if_running(&self) {
        if self.states.kick_if_running() {
            self.signal();
        }
    }

    /// Sends the signal again if a kick came since `start`: the first one may have found the thread
    /// still waiting for its answer, for which it means nothing.
    pub fn repeat(&self) {
        if self.states.repeat() {
            self.signal();
        }
    }

    fn signal(&self) {
        let target = self.target.lock();
        if let Some((tgid, tid)) = *target {
            // Fails only if the stub is dead, which its worker reports.
            count();
            // SAFETY: no memory is passed.
            unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, KICK_SIGNAL) };
        }
    }
}

impl Kicker for Kick {
    fn kick(&self) {
        if self.states.kick() {
            self.signal();
        }
    }
}
