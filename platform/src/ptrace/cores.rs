//! Which host core a worker and its stubs run on.
//!
//! A trap is two context switches. On one core they cost a few microseconds, between two cores
//! several times that, because the other core sleeps and has to be woken. So worker and stubs are
//! bound to one core, worker N to the Nth core counted from the one it was started on.
//!
//! That is wrong when several guest threads compute: they would share the core while others idle.
//! When the worker goes to sleep with two or more bound guest threads running, it arms a one-shot
//! timer. If that expires in the same state, all of them but the one that was there first are let
//! loose on all cores. A thread let loose whose runs have become short again is taken back. A
//! sandbox in which nothing runs arms no timer.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
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
    home: Vec<usize>,
    timer: Option<libc::timer_t>,
    armed: AtomicBool,
}

// SAFETY: a timer id is a number for the kernel, not a pointer into our memory.
unsafe impl Send for Cores {}
// SAFETY: as above.
unsafe impl Sync for Cores {}

impl Cores {
    /// Binds the calling thread, and with it all stubs it will make. Where the host does not allow
    /// that, it does without.
    pub fn bind(id: WorkerId) -> Cores {
        let mut cores = Cores {
            all: host::affinity().unwrap_or_default(),
            home: Vec::new(),
            timer: None,
            armed: AtomicBool::new(false),
        };
        if cores.all.len() < 2 {
            return cores;
        }
        // SAFETY: no arguments.
        let now = unsafe { libc::sched_getcpu() };
        let first = cores.all.iter().position(|&core| core as i32 == now);
        let at = first.unwrap_or(0).wrapping_add(id.0) % cores.all.len();
        cores.timer = timer();
        if cores.timer.is_some() && host::set_affinity(0, &cores.all[at..=at]).is_ok() {
            cores.home = vec![cores.all[at]];
        }
        cores
    }

    /// The worker is about to sleep.
    pub fn before_sleep(&self, worker: &WorkerCore) {
        if self.home.is_empty()
            || worker.running.load(Ordering::Relaxed) < 2
            || self.armed.load(Ordering::Relaxed)
            || bound(worker).len() < 2
        {
            return;
        }
        let Some(timer) = self.timer else { return };
        self.armed.store(true, Ordering::Relaxed);
        // SAFETY: all-zero is a valid value.
        let mut value: libc::itimerspec = unsafe { MaybeUninit::zeroed().assume_init() };
        value.it_value.tv_nsec = PATIENCE.as_nanos() as i64;
        // SAFETY: the timer is ours and `value` is valid.
        unsafe { libc::timer_settime(timer, 0, &value, std::ptr::null_mut()) };
    }

    /// The worker was woken by a signal, perhaps the timer's.
    pub fn after_signal(&self, worker: &WorkerCore) {
        if !self.armed.load(Ordering::Relaxed) {
            return;
        }
        let Some(timer) = self.timer else { return };
        // SAFETY: all-zero is a valid value.
        let mut left: libc::itimerspec = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: the timer is ours and `left` is valid.
        let rc = unsafe { libc::timer_gettime(timer, &mut left) };
        if rc != 0 || left.it_value.tv_nsec != 0 {
            return;
        }
        self.armed.store(false, Ordering::Relaxed);
        for thread in bound(worker).iter().skip(1) {
            if host::set_affinity(thread.tid, &self.all).is_ok() {
                let mut local = thread.local.lock();
                local.spread = true;
                local.short_runs = 0;
                local.resumed = None;
            }
        }
    }

    /// A thread let loose has trapped.
    pub fn ran(&self, thread: &Thread, local: &mut Local) {
        let Some(since) = local.resumed.take() else {
            return;
        };
        if Instant::now().duration_since(since) > SHORT_RUN {
            local.short_runs = 0;
            return;
        }
        local.short_runs += 1;
        if local.short_runs >= SHORT_RUNS && host::set_affinity(thread.tid, &self.home).is_ok() {
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

fn bound(worker: &WorkerCore) -> Vec<std::sync::Arc<Thread>> {
    let mut threads = worker.running_threads();
    threads.retain(|thread| !thread.local.lock().spread);
    threads
}

/// A timer that sends the wake signal to the calling thread.
fn timer() -> Option<libc::timer_t> {
    // SAFETY: all-zero is a valid value.
    let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = WAKE_SIGNAL;
    event.sigev_notify_thread_id = host::gettid();
    let mut timer = std::ptr::null_mut();
    // SAFETY: both pointers are valid.
    let rc = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
    (rc == 0).then_some(timer)
}
