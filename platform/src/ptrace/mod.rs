//! The ptrace platform: guest code runs in tracees under PTRACE_SYSEMU.
//!
//! ```text
//! Sentry thread (worker) ── traces ──┬─ template: empty, filtered, never runs guest code
//!        │  wait4(-1)                ├─ stub A: one guest address space, a host thread per context
//!        └─ woken by a signal        └─ stub B ...
//! ```
//!
//! A trap costs four host calls: registers in, PTRACE_SYSEMU, wait4, registers out (five for
//! faults, whose siginfo is read too). Changes of mappings are carried out by the stub itself, many
//! in one round trip.
//!
//! - [`worker`]: waiting, making and ending threads; [`context`]: one guest thread;
//!   [`space`]: queued changes; [`thread`]: what is known of a host thread;
//! - [`stub`], [`command`], [`filter`]: the stub processes and how they are told what to do;
//! - [`waker`]: waking workers from other threads; [`cores`]: who runs where; [`fp`]: FP state;
//! - [`sys`]: the host calls;
//! - [`rules`]: the host calls a Sentry needs for this platform.
//!
//! A tracee belongs to the thread that made it: contexts are bound to their worker, and all
//! contexts of one address space to the same one. Process-wide, SIGUSR1 and SIGUSR2 and the action
//! of SIGCHLD belong to this platform.

mod command;
mod context;
mod cores;
mod filter;
mod fp;
mod rules;
mod space;
mod stub;
mod sys;
mod thread;
mod waker;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

pub use crate::common::host_calls::host_call_count;
pub use filter::describe as describe_stub_filter;
pub use rules::host_calls;

use crate::{
    AddressSpace, ContextId, Error, Platform, Result, VdsoRange, Worker, WorkerId, WorkerWaker,
};
use space::Space;
use stub::StubMemory;
use waker::Waker;
use worker::PtraceWorker;

/// What all workers share.
struct Shared {
    memory: StubMemory,
    /// The core of worker 0.
    first_core: i32,
    next: AtomicU64,
}

impl Shared {
    fn next_context(&self) -> ContextId {
        ContextId(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The platform. Make it, and all workers, before the Sentry's seccomp filter is installed and
/// while /proc can be read: then the Sentry itself never needs to clone.
pub struct PtracePlatform {
    shared: Arc<Shared>,
    wakers: Mutex<HashMap<WorkerId, Arc<Waker>>>,
}

impl PtracePlatform {
    /// Sets up what all stubs share and installs the wake signal's handler.
    pub fn new() -> Result<PtracePlatform> {
        waker::install_handlers().map_err(|source| Error::Host {
            what: "sigaction",
            source,
        })?;
        Ok(PtracePlatform {
            shared: Arc::new(Shared {
                memory: StubMemory::new()?,
                // SAFETY: no arguments.
                first_core: unsafe { libc::sched_getcpu() },
                next: AtomicU64::new(1),
            }),
            wakers: Mutex::default(),
        })
    }

    fn waker_of(&self, id: WorkerId) -> Arc<Waker> {
        self.wakers.lock().entry(id).or_default().clone()
    }
}

impl Platform for PtracePlatform {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn user_range(&self) -> (u64, u64) {
        let layout = &self.shared.memory.layout;
        (stub::Layout::USER_START, layout.user_end)
    }

    fn vdso(&self) -> Option<VdsoRange> {
        self.shared.memory.layout.vdso
    }

    fn new_address_space(&self) -> Arc<dyn AddressSpace> {
        Arc::new(Space::new())
    }

    fn new_worker(&self, id: WorkerId) -> Result<Box<dyn Worker>> {
        let worker = PtraceWorker::new(id, &self.shared, self.waker_of(id))?;
        Ok(Box::new(worker))
    }

    fn waker(&self, id: WorkerId) -> Arc<dyn WorkerWaker> {
        self.waker_of(id)
    }

    fn contexts_are_bound(&self) -> bool {
        true
    }
}
