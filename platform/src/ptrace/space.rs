//! Guest address spaces: the queue of changes, and the stub process that holds the mappings.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::command;
use super::stub::{Layout, StubMemory};
use super::thread::Thread;
use crate::common::changes::Changes;
use crate::common::kick::Kick;
use crate::{AddressSpace, HostOp, Result, Retired, WorkerId};

/// The stub process of an address space.
pub(super) struct Process {
    pub worker: WorkerId,
    pub tgid: i32,
    pub slot: u64,
    /// Contexts that exist.
    pub contexts: usize,
    /// All host threads but those that are exiting, the group leader first.
    pub threads: Vec<Arc<Thread>>,
    pub parked: Vec<Arc<Thread>>,
}

/// Life of the stub of an address space.
pub(super) enum Home {
    /// No context was made yet.
    Unborn,
    Alive(Process),
    /// The last context was dropped.
    Gone,
}

pub(super) struct SpaceCore {
    pub changes: Changes,
    pub home: Mutex<Home>,
    /// Kick handles of all contexts.
    kicks: Mutex<Vec<Weak<Kick>>>,
}

/// What the Sentry holds.
pub(super) struct Space {
    pub core: Arc<SpaceCore>,
}

impl Space {
    pub fn new() -> Space {
        Space {
            core: Arc::new(SpaceCore {
                changes: Changes::default(),
                home: Mutex::new(Home::Unborn),
                kicks: Mutex::default(),
            }),
        }
    }
}

impl AddressSpace for Space {
    fn queue(&self, op: HostOp, retired: Option<Retired>) {
        self.core.changes.push(op, retired);
    }

    fn shoot_down(&self) {
        for kick in self.core.kicks.lock().iter().filter_map(Weak::upgrade) {
            kick.kick_if_running();
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl SpaceCore {
    pub fn add_kick(&self, kick: &Arc<Kick>) {
        let mut kicks = self.kicks.lock();
        kicks.retain(|kick| kick.strong_count() > 0);
        kicks.push(Arc::downgrade(kick));
    }

    /// Carries out what is queued, on the stopped thread `tid`, whose registers are the stub's
    /// afterwards.
    pub fn flush(&self, memory: &StubMemory, slot: u64, tid: i32) -> Result<()> {
        let user = (Layout::USER_START, memory.layout.user_end);
        self.changes.flush(user, |commands, _| {
            command::batch(memory, slot, tid, commands)
        })
    }
}
