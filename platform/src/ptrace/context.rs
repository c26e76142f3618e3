//! A guest thread: one host thread of a stub.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::command::lost;
use super::space::SpaceCore;
use super::sys::{self, PTRACE_SYSEMU};
use super::thread::{Phase, Stop, Thread};
use super::worker::WorkerCore;
use crate::arch::{FpState, Registers};
use crate::common::kick::Kick;
use crate::common::regs::{self, Change};
use crate::{Context, ContextId, Error, Kicker, Result, Trap};

pub(super) struct PtraceContext {
    id: ContextId,
    core: Arc<WorkerCore>,
    space: Arc<SpaceCore>,
    thread: Arc<Thread>,
    kick: Arc<Kick>,
    /// Command page of the stub.
    slot: u64,
}

impl PtraceContext {
    pub fn new(
        id: ContextId,
        core: Arc<WorkerCore>,
        space: Arc<SpaceCore>,
        thread: Arc<Thread>,
        kick: Arc<Kick>,
        slot: u64,
    ) -> Self {
        PtraceContext {
            id,
            core,
            space,
            thread,
            kick,
            slot,
        }
    }

    /// Fails unless the guest thread is stopped and this is its worker.
    fn at_rest(&self) -> Result<()> {
        let misuse = |what| Error::Host {
            what,
            source: std::io::Error::from_raw_os_error(libc::EBUSY),
        };
        if !self.core.is_owner() {
            return Err(misuse("a context was used off its worker"));
        }
        match self.thread.local.lock().phase {
            Phase::Rest => Ok(()),
            Phase::Running => Err(misuse("a context was used while it runs")),
            Phase::Parked | Phase::Leaving | Phase::Exiting => {
                Err(Error::Lost(format!("stub thread {}", self.thread.tid)))
            }
        }
    }

    fn carry_out_pending(&self) -> Result<()> {
        if !self.space.changes.pending() {
            return Ok(());
        }
        self.core.borrow(&self.thread)?;
        self.space
            .flush(self.core.memory(), self.slot, self.thread.tid)
    }
}

impl Context for PtraceContext {
    fn id(&self) -> ContextId {
        self.id
    }

    fn resume(&mut self, regs: &Registers) -> Result<()> {
        self.at_rest()?;
        let (regs, fault) = regs::sanitise(regs);
        let stop = loop {
            self.carry_out_pending()?;
            if let Some(fault) = fault {
                break Some(Stop::Fault(fault));
            }
            if !self.kick.start() {
                break Some(Stop::Interrupted);
            }
            if !self.space.changes.pending() {
                break None;
            }
            self.kick.not_started();
        };
        let tid = self.thread.tid;
        let mut local = self.thread.local.lock();
        if let Some(stop) = stop {
            local.stopped_before(stop, &regs);
            self.core.report(self.id);
            return Ok(());
        }
        let change = match local.untouched && local.captured {
            true => regs::change(&local.regs, &regs),
            false => Change::All,
        };
        match change {
            Change::Nothing => Ok(()),
            Change::OnlyRax => sys::set_rax(tid, regs.rax),
            Change::All => sys::set_registers(tid, &regs),
        }
        .map_err(|source| lost("PTRACE_SETREGS", tid, source))?;
        sys::restart(PTRACE_SYSEMU, tid).map_err(|source| lost("PTRACE_SYSEMU", tid, source))?;
        local.phase = Phase::Running;
        self.core.cores.resumed(&mut local);
        self.core.running.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn trap(&mut self, regs: &mut Registers) -> Result<Trap> {
        self.at_rest()?;
        let mut local = self.thread.local.lock();
        local
            .capture(self.thread.tid)
            .map_err(|source| lost("PTRACE_GETREGS", self.thread.tid, source))?;
        *regs = local.regs;
        Ok(local.trap())
    }

    fn flush(&mut self) -> Result<()> {
        self.at_rest()?;
        self.carry_out_pending()
    }

    fn fp_state(&mut self) -> Result<FpState> {
        self.at_rest()?;
        let tid = self.thread.tid;
        let xstate = &self.core.template.xstate;
        xstate
            .get(tid)
            .map_err(|source| lost("PTRACE_GETREGSET", tid, source))
    }

    fn set_fp_state(&mut self, state: &FpState) -> Result<()> {
        self.at_rest()?;
        let tid = self.thread.tid;
        let xstate = &self.core.template.xstate;
        xstate
            .set(tid, state)
            .map_err(|source| lost("PTRACE_SETREGSET", tid, source))
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.kick.clone()
    }
}

impl Drop for PtraceContext {
    fn drop(&mut self) {
        self.kick.retire();
        self.core.release(&self.thread, &self.space);
    }
}
