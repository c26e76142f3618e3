//! Guest address spaces: the queue of changes and what they are carried out on.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Machine;
use super::kick::Kick;
use super::mappings::Mappings;
use super::ring0;
use super::tables::{Root, Tables};
use crate::common::PAGE;
use crate::common::changes::{Changes, Command};
use crate::{Access, AddressSpace, Error, Fault, HostOp, Result, Retired};

/// Lowest address that can be mapped, as vm.mmap_min_addr has it.
pub(super) const USER_START: u64 = 0x1_0000;
/// Lowest and highest (exclusive) address that guests may map.
pub(super) const USER: (u64, u64) = (USER_START, ring0::BASE);

enum Home {
    /// No context was made yet.
    Unborn,
    Alive {
        mappings: Mappings,
        contexts: usize,
    },
    /// The last context was dropped.
    Gone,
}

pub(super) struct SpaceCore {
    machine: Arc<Machine>,
    pub changes: Changes,
    home: Mutex<Home>,
    kicks: Mutex<Vec<Weak<Kick>>>,
}

/// What the Sentry holds.
pub(super) struct Space {
    pub core: Arc<SpaceCore>,
}

impl Space {
    pub fn new(machine: &Arc<Machine>) -> Space {
        Space {
            core: Arc::new(SpaceCore {
                machine: machine.clone(),
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
    /// A context was made.
    pub fn enter(&self, kick: &Arc<Kick>) -> Result<()> {
        let mut home = self.home.lock();
        match &mut *home {
            Home::Alive { contexts, .. } => *contexts += 1,
            Home::Unborn => {
                let machine = &self.machine;
                let refused = |source| Error::Refused {
                    op: "an address space".to_owned(),
                    source,
                };
                let tables = Tables::new(machine).map_err(refused)?;
                *home = Home::Alive {
                    mappings: Mappings::new(&machine.regions, tables, machine.max_areas),
                    contexts: 1,
                };
            }
            Home::Gone => return Err(Error::Gone),
        }
        drop(home);
        let mut kicks = self.kicks.lock();
        kicks.retain(|kick| kick.strong_count() > 0);
        kicks.push(Arc::downgrade(kick));
        Ok(())
    }

    /// A context was dropped.
    pub fn leave(&self) {
        let mut home = self.home.lock();
        if let Home::Alive { contexts, .. } = &mut *home {
            *contexts -= 1;
            if *contexts > 0 {
                return;
            }
        }
        let old = std::mem::replace(&mut *home, Home::Gone);
        let retired = self.changes.clear(None);
        drop(home);
        // First what reaches memory, then the memory.
        drop(old);
        drop(retired);
    }

    /// Carries out what is queued.
    pub fn flush(&self) -> Result<()> {
        if !self.changes.pending() {
            return Ok(());
        }
        let mut home = self.home.lock();
        let Home::Alive { mappings, .. } = &mut *home else {
            return Err(Error::Gone);
        };
        // Under the lock, so that changes are carried out in the order they were queued.
        let Some(batch) = self.changes.take(USER)? else {
            return Ok(());
        };
        let mut failed = None;
        for (done, op) in batch.host_ops().enumerate() {
            if let Err(source) = mappings.apply(op) {
                failed = Some((done, source));
                break;
            }
        }
        let Some((done, source)) = failed else {
            drop(home);
            // What is retired may do anything when it is dropped.
            drop(batch);
            return Ok(());
        };
        let unmap = |commands: &[Command], _retires| {
            for command in commands {
                let [addr, len, ..] = command.args;
                if let Err(error) = mappings.unmap(addr, len) {
                    return Ok((0, Some(error)));
                }
            }
            Ok((commands.len(), None))
        };
        Err(self.changes.failed(batch, done, source, unmap))
    }

    /// The page tables, until the next [`SpaceCore::fault`].
    pub fn root(&self) -> Option<Arc<Root>> {
        match &*self.home.lock() {
            Home::Alive { mappings, .. } => Some(mappings.root().clone()),
            _ => None,
        }
    }

    /// The guest could not reach `addr`. Ok: now it can.
    pub fn fault(&self, addr: u64, access: Access) -> std::result::Result<(), Fault> {
        match &mut *self.home.lock() {
            Home::Alive { mappings, .. } if addr < ring0::BASE => mappings.fault(addr, access),
            _ => {
                let vdso = self.machine.vdso();
                let mapped = vdso.is_some_and(|vdso| (vdso.start..vdso.end).contains(&addr));
                Err(Fault {
                    signal: libc::SIGSEGV,
                    // SEGV_ACCERR, SEGV_MAPERR.
                    code: if mapped { 2 } else { 1 },
                    addr,
                    access: Some(access),
                })
            }
        }
    }

    /// See [`Mappings::take_all_back`].
    pub fn take_all_back(&self) {
        if let Home::Alive { mappings, .. } = &*self.home.lock() {
            mappings.take_all_back();
        }
    }

    /// See [`Mappings::code`].
    pub fn code(&self, addr: u64, len: u64) -> Vec<u8> {
        match &mut *self.home.lock() {
            Home::Alive { mappings, .. } if addr < ring0::BASE - PAGE => mappings.code(addr, len),
            _ => Vec::new(),
        }
    }
}
