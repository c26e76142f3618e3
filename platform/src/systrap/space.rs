//! Guest address spaces: the queue of changes, and the stub process that holds the mappings.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::patch::Patches;
use super::process::{Outcome, Stub, Wait};
use super::title;
use crate::common::changes::{Batch, Carried, Changes, Command};
use crate::common::kick::Kick;
use crate::{AddressSpace, ContextId, Error, HostOp, Result, Retired};

/// Life of the stub of an address space.
pub(super) enum Home {
    /// No context was made yet.
    Unborn,
    Alive(Arc<Stub>),
    /// The last context was dropped; the stub that held its memory may take a moment to be gone.
    Gone(Arc<Stub>),
}

pub(super) struct SpaceCore {
    pub changes: Changes,
    /// Held from when changes are taken from the queue until they are carried out or posted: those
    /// taken later must not come before them.
    pub carrying: Mutex<()>,
    /// Changes that a thread waits for, or waited for last, and whose thread that is (0: nobody's).
    posted: Mutex<Option<Batch>>,
    pub poster: AtomicU64,
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
                carrying: Mutex::default(),
                posted: Mutex::default(),
                poster: AtomicU64::new(0),
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
        if let Home::Gone(stub) = &*self.core.home.lock() {
            if let Some(retired) = retired {
                stub.keep(retired);
            }
            return;
        }
        self.core.changes.push(op, retired);
    }

    fn shoot_down(&self) {
        for kick in self.core.kicks.lock().iter().filter_map(Weak::upgrade) {
            kick.kick_if_running();
        }
    }

    fn kill(&self) {
        if let Home::Alive(stub) = &*self.core.home.lock() {
            stub.kill();
        }
    }

    fn host_process(&self) -> Option<i32> {
        let stub = self.core.stub()?;
        (!stub.is_dead()).then_some(stub.pid)
    }

    fn show_as(&self, name: &[u8], arguments: &[u8]) {
        if let Some(stub) = self.core.stub() {
            title::set(&stub, name, arguments);
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

    fn stub(&self) -> Option<Arc<Stub>> {
        match &*self.home.lock() {
            Home::Alive(stub) => Some(stub.clone()),
            Home::Unborn | Home::Gone(_) => None,
        }
    }

    pub fn add_kick(&self, kick: &Arc<Kick>) {
        let mut kicks = self.kicks.lock();
        kicks.retain(|kick| kick.strong_count() > 0);
        kicks.push(Arc::downgrade(kick));
    }

    /// Carries out what is queued. What it retires is dropped when the mapper has really done it.
    pub fn flush(&self, stub: &Stub, wait: Wait) -> Result<()> {
        let _carrying = self.carrying.lock();
        let user = stub.memory.layout.user();
        self.changes.flush(user, |commands, retires| {
            carry(stub, commands, retires, wait)
        })
    }

    /// Carries a batch out now.
    pub fn carry_out(&self, stub: &Stub, batch: Batch, wait: Wait) -> Result<()> {
        match carry(stub, &batch.commands, batch.retires(), wait)? {
            (_, None) => Ok(()),
            (done, Some(source)) => Err(self.changes.failed(batch, done, source, |c, retires| {
                carry(stub, c, retires, wait)
            })),
        }
    }

    /// Takes what is queued, for context `id`; with `carrying` held.
    pub fn take(&self, stub: &Stub, id: ContextId) -> Result<Option<Batch>> {
        // Before the queue is empty: whoever finds it so asks for this.
        self.poster.store(id.0, Ordering::SeqCst);
        self.changes.take(stub.memory.layout.user())
    }

    /// Whether another context than `id` waits for changes that are perhaps not in force yet.
    pub fn is_posted_by_another(&self, id: ContextId) -> bool {
        let poster = self.poster.load(Ordering::SeqCst);
        poster != 0 && poster != id.0
    }

    /// Returns when what others have taken from the queue is in force.
    pub fn await_others(&self, stub: &Stub) -> Result<()> {
        let _carrying = self.carrying.lock();
        if stub.settle()? != Outcome::Done {
            // Its thread was to hear of it; the process cannot go on in any case.
            stub.kill();
            return Err(Error::Gone);
        }
        self.poster.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Lets the thread at rest with this area go on once the changes are carried out.
    pub fn post(&self, stub: &Stub, batch: Batch, index: u64) -> Result<()> {
        stub.post(&batch.commands, index)?;
        // The order before was carried out, or this one could not have been posted.
        *self.posted.lock() = Some(batch);
        Ok(())
    }

    /// Why the host refused what was posted last.
    pub fn refused(&self, stub: &Stub) -> Error {
        let Some(batch) = self.posted.lock().take() else {
            return Error::Gone;
        };
        match stub.settle() {
            Ok(Outcome::Failed(done)) => {
                self.changes.failed(batch, done, stub.why(), |c, retires| {
                    carry(stub, c, retires, Wait::Sleep)
                })
            }
            // The guest says so, and it is not true.
            Ok(Outcome::Done) => {
                stub.kill();
                Error::Gone
            }
            Err(error) => error,
        }
    }

    /// The stub is about to be gone: so is what waits for it.
    pub fn clear(&self, stub: &Stub) {
        let posted = self.posted.lock().take();
        for retired in self.changes.clear(posted) {
            stub.keep(retired);
        }
    }

    /// Drops what a posted change has retired, if that has been carried out.
    pub fn clean_up(&self, stub: &Stub) -> Result<()> {
        let mut posted = self.posted.lock();
        if !posted.as_ref().is_some_and(Batch::retires) {
            return Ok(());
        }
        match stub.outcome_so_far() {
            None => {}
            Some(Outcome::Done) => {
                let batch = posted.take();
                drop(posted);
                drop(batch);
            }
            // The guest went on all the same.
            Some(Outcome::Failed(_)) => {
                stub.kill();
                return Err(Error::Gone);
            }
        }
        Ok(())
    }
}

fn carry(stub: &Stub, commands: &[Command], retires: bool, wait: Wait) -> Result<Carried> {
    let carried = stub.carry(commands, wait)?;
    // A failure that was told was settled then.
    if retires && carried.1.is_none() && stub.settle()? != Outcome::Done {
        stub.kill();
        return Err(Error::Gone);
    }
    Ok(carried)
}
