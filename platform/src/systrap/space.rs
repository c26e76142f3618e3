//! Guest address spaces: the queue of changes, and the stub process that holds the mappings.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::patch::Patches;
use super::process::{Stub, Wait};
use crate::common::changes::Changes;
use crate::common::kick::Kick;
use crate::{AddressSpace, HostOp, Result, Retired};

/// Life of the stub of an address space.
pub(super) enum Home {
    /// No context was made yet.
    Unborn,
    Alive(Arc<Stub>),
    /// The last context was dropped, or the stub died.
    Gone,
}

pub(super) struct SpaceCore {
    pub changes: Changes,
    pub patches: Mutex<Patches>,
    /// The process whose patched code this one has a copy of.
    parent: Mutex<Option<Arc<Stub>>>,
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
                patches: Mutex::default(),
                parent: Mutex::default(),
                home: Mutex::new(Home::Unborn),
                kicks: Mutex::default(),
            }),
        }
    }
}

impl Space {
    /// Of a process with the same code.
    pub fn fork(parent: &Space) -> Space {
        let child = Space::new();
        let patches = parent.core.patches.lock();
        if !patches.is_empty()
            && let Home::Alive(stub) = &*parent.core.home.lock()
        {
            *child.core.patches.lock() = patches.for_child();
            *child.core.parent.lock() = Some(stub.clone());
        }
        child
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

    fn forget_code(&self, start: u64, end: u64) {
        self.core.patches.lock().forget(start, end);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl SpaceCore {
    /// The address space lives in this process from now on.
    pub fn move_in(&self, stub: &Stub) {
        if let Some(parent) = self.parent.lock().take() {
            self.patches.lock().copy_pages(&parent, stub);
        }
    }

    pub fn add_kick(&self, kick: &Arc<Kick>) {
        let mut kicks = self.kicks.lock();
        kicks.retain(|kick| kick.strong_count() > 0);
        kicks.push(Arc::downgrade(kick));
    }

    /// Carries out what is queued. What it retires is dropped when the mapper has really done it.
    pub fn flush(&self, stub: &Stub, wait: Wait) -> Result<()> {
        let user = stub.memory.layout.user();
        self.changes.flush(user, |commands, retires| {
            let carried = stub.carry(commands, wait)?;
            if retires {
                stub.settle()?;
            }
            Ok(carried)
        })
    }
}
