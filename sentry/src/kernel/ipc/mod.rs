//! System V IPC (sysvipc(7)): what all tasks of the sandbox share by number instead of by descriptor.
//!
//! [`ids`] has what the three kinds have in common: identifiers, keys, owners and permissions.
//! [`shm`] has the segments of shared memory, which [`crate::mm`] maps like any other object; [`sem`]
//! the sets of semaphores; [`msg`] the message queues.
//! Each kind has one lock. That of the segments is taken below an address space's; nothing is taken
//! below any of them but what drops no memory.

pub mod ids;
pub mod msg;
pub mod sem;
pub mod shm;

use std::sync::Arc;

use nix::time::ClockId;

use crate::kernel::time::clock_ns;
use crate::mm::MemoryFile;

/// The IPC namespace of all tasks.
pub struct Ipc {
    pub msg: msg::Queues,
    pub shm: Arc<shm::Segments>,
    pub sem: Arc<sem::Sets>,
}

impl Ipc {
    pub fn new(memory: &Arc<MemoryFile>) -> Ipc {
        Ipc {
            msg: msg::Queues::new(),
            shm: shm::Segments::new(memory),
            sem: sem::Sets::new(),
        }
    }
}

/// Seconds of the real clock, as the objects note them.
fn now() -> i64 {
    (clock_ns(ClockId::CLOCK_REALTIME) / 1_000_000_000) as i64
}

/// The process that the current task belongs to.
fn current_pid() -> i32 {
    crate::kernel::current::with(|task| task.map_or(0, |task| task.pid()))
}
