//! Which host core a worker and its stubs run on.
//!
//! A trap is two context switches. On one core they cost a few microseconds, between two cores
//! several times that, because the other core sleeps and has to be woken. So worker and stubs are
//! bound to one core, worker N to the Nth core counted from the one the platform was made on.
//!
//! That is wrong when several guest threads compute: they would share the core while others idle.
//! When the worker goes to sleep with two or more bound guest threads running, it arms a one-shot
//! timer. Those that have not trapped once when it expires compute: they are let loose on all
//! cores, but one thread stays bound. A thread let loose whose runs have become short again is
//! taken back. A sandbox in which less than two guest threads run arms no timer.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::thread::{Local, Thread};
use super::waker::WAKE_SIGNAL;
use super::worker::WorkerCore;
use crate::{WorkerId, host};

/// How long guest threads share a core before they are let loose.
const PATIENCE: Duration = Duration::from_millis(3);
/// Runs shorter than this do not pay for the trip to another core.
const SHORT_RUN: Duration = Duration::from_micros(300);
/// So many short runs in a row take a thread back.
const SHORT_RUNS: u32 = 16;

pub(super) struct Cores {
    all: Vec<usize>,
    /// The worker's own core; empty if nothing is bound.
    home: Vec<usize>,
    timer: Option<libc::timer_t>,
    /// Set by the handler of the timer's signal.
    fired: &'static AtomicBool,
    armed: AtomicBool,
    /// Counts resumes, so that it can be told who has run since when.
    resumes: AtomicU64,
    armed_at: AtomicU64,
    /// Bound threads that run guest code now.
    bound: AtomicUsize,
}

// SAFETY: a timer id is a number for the kernel, not a pointer into our memory.
unsafe impl Send for Cores {}
// SAFETY: as above.
unsafe impl Sync for Cores {}

impl Cores {
    /// Binds the calling thread, and with it all stubs it will make, to the core that lies `id`
    /// cores after `first`. Where the host does not allow that, it does without.
    pub fn bind(id: WorkerId, first: i32) -> Cores {
        let mut cores = Cores {
            all: host::affinity().unwrap_or_default(),
            home: Vec::new(),
            timer: None,
            // Leaked, because a signal may be underway when the worker ends.
            fired: Box::leak(Box::new(AtomicBool::new(false))),
            armed: AtomicBool::new(false),
            resumes: AtomicU64::new(0),
            armed_at: AtomicU64::new(0),
            bound: AtomicUsize::new(0),
        };
        if cores.all.len() < 2 {
            return cores;
        }
        let first = cores.all.iter().position(|&core| core as i32 == first);
        let at = first.unwrap_or(0).wrapping_add(id.0) % cores.all.len();
        cores.timer = timer(cores.fired);
        if cores.timer.is_some() && host::set_affinity(0, &cores.all[at..=at]).is_ok() {
            cores.home = vec![cores.all[at]];
        }
        cores
    }

    /// A thread is about to run guest code.
    pub fn resumed(&self, local: &mut Local) {
        local.resumed = self.resumes.load(Ordering::Relaxed).wrapping_add(1);
        self.resumes.store(local.resumed, Ordering::Relaxed);
        if local.spread {
            local.resumed_at = Some(Instant::now());
        } else {
            local.bound_run = true;
            self.bound.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A thread that ran guest code does not any more.
    pub fn ran(&self, local: &mut Local) {
        if std::mem::take(&mut local.bound_run) {
            self.bound.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The worker is about to sleep, or was woken by a signal.
    pub fn look(&self, worker: &WorkerCore) {
        if self.armed.load(Ordering::Relaxed) {
            if !self.fired.swap(false, Ordering::AcqRel) {
                return;
            }
            self.armed.store(false, Ordering::Relaxed);
            self.spread(worker);
        }
        if self.home.is_empty() || self.bound.load(Ordering::Relaxed) < 2 {
            return;
        }
        let Some(timer) = self.timer else { return };
        self.armed.store(true, Ordering::Relaxed);
        let now = self.resumes.load(Ordering::Relaxed);
        self.armed_at.store(now, Ordering::Relaxed);
        // SAFETY: all-zero is a valid value.
        let mut value: libc::itimerspec = unsafe { MaybeUninit::zeroed().assume_init() };
        value.it_value.tv_nsec = PATIENCE.as_nanos() as i64;
        // SAFETY: the timer is ours and `value` is valid.
        unsafe { libc::timer_settime(timer, 0, &value, std::ptr::null_mut()) };
    }

    fn spread(&self, worker: &WorkerCore) {
        let mut threads = bound(worker);
        // The one resumed last stays.
        threads.sort_by_key(|thread| thread.local.lock().resumed);
        threads.pop();
        let armed_at = self.armed_at.load(Ordering::Relaxed);
        for thread in threads {
            let mut local = thread.local.lock();
            if local.resumed <= armed_at && host::set_affinity(thread.tid, &self.all).is_ok() {
                self.ran(&mut local);
                local.spread = true;
                local.short_runs = 0;
                local.resumed_at = None;
            }
        }
    }

    /// A thread let loose has trapped.
    pub fn trapped(&self, thread: &Thread, local: &mut Local) {
        let Some(since) = local.resumed_at.take() else {
            return;
        };
        if Instant::now().duration_since(since) > SHORT_RUN {
            local.short_runs = 0;
            return;
        }
        local.short_runs += 1;
        if local.short_runs >= SHORT_RUNS {
            self.take_back(thread, local);
        }
    }

    /// Binds a thread again, if it was let loose.
    pub fn take_back(&self, thread: &Thread, local: &mut Local) {
        if local.spread && host::set_affinity(thread.tid, &self.home).is_ok() {
            local.spread = false;
        }
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // SAFETY: the timer is ours and not used any more.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

fn bound(worker: &WorkerCore) -> Vec<Arc<Thread>> {
    let mut threads = worker.running_threads();
    threads.retain(|thread| !thread.local.lock().spread);
    threads
}

/// A timer that sends the wake signal to the calling thread, whose handler sets `fired`.
fn timer(fired: &'static AtomicBool) -> Option<libc::timer_t> {
    // SAFETY: all-zero is a valid value.
    let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = WAKE_SIGNAL;
    event.sigev_notify_thread_id = host::gettid();
    event.sigev_value.sival_ptr = std::ptr::from_ref(fired).cast_mut().cast();
    let mut timer = std::ptr::null_mut();
    // SAFETY: both pointers are valid.
    let rc = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
    (rc == 0).then_some(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_start_on_different_cores() {
        // On threads of their own, because binding lasts.
        let home = |id, first| {
            let bind = move || Cores::bind(WorkerId(id), first).home.clone();
            std::thread::spawn(bind).join().unwrap()
        };
        let all = host::affinity().unwrap();
        if all.len() < 2 {
            return;
        }
        for first in &all {
            let first = *first as i32;
            assert_eq!(home(0, first), [first as usize]);
            assert_ne!(home(1, first), home(0, first));
            assert_eq!(home(all.len(), first), home(0, first));
        }
        // The platform may have been made where workers may not run.
        assert_eq!(home(0, i32::MAX), all[..1]);
    }
}
