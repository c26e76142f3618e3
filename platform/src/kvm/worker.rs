//! Workers: reporting traps, and running guest code meanwhile.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::context::{KvmContext, Outcome};
use super::sched::{Line, Ring, Sched};
use super::space::Space;
use super::vcpu::Vcpu;
use crate::{AddressSpace, Context, Error, Event, Result, Wait, Worker, WorkerId, WorkerWaker};

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The worker that this thread is, if it is one.
pub(super) fn current() -> Option<usize> {
    CURRENT.get()
}

pub(super) struct Waker {
    pub worker: usize,
    pub sched: Arc<Sched>,
}

impl WorkerWaker for Waker {
    fn wake(&self) {
        self.sched.ring(self.worker, Ring::Wake);
    }
}

pub(super) struct KvmWorker {
    index: usize,
    sched: Arc<Sched>,
    vcpu: Arc<Vcpu>,
}

impl KvmWorker {
    /// For the calling thread.
    pub fn new(id: WorkerId, sched: &Arc<Sched>, vcpu: Arc<Vcpu>) -> KvmWorker {
        vcpu.is_mine();
        CURRENT.set(Some(id.0));
        sched.line(id.0).sit(Some(&vcpu));
        sched.arrive();
        KvmWorker {
            index: id.0,
            sched: sched.clone(),
            vcpu,
        }
    }

    fn line(&self) -> &Line {
        self.sched.line(self.index)
    }

    fn look(&self) -> Result<Option<Event>> {
        if self.sched.has_ended() {
            return Err(Error::Gone);
        }
        let line = self.line();
        loop {
            let run = line.stopped.lock().pop_front();
            match run {
                Some(run) if run.claim() => return Ok(Some(Event::Trap(run.id))),
                Some(_) => {}
                None => break,
            }
        }
        if line.woken.swap(false, Ordering::SeqCst) {
            return Ok(Some(Event::Woken));
        }
        Ok(None)
    }
}

impl Worker for KvmWorker {
    fn new_context(&mut self, space: &Arc<dyn AddressSpace>) -> Result<Box<dyn Context>> {
        let space = space.as_any().downcast_ref::<Space>();
        let space = space.ok_or(Error::Gone)?;
        Ok(Box::new(KvmContext::new(
            &self.sched,
            &space.core,
            self.index,
        )?))
    }

    fn wait(&mut self, mode: Wait) -> Result<Event> {
        loop {
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            if mode == Wait::Poll {
                return Ok(Event::Nothing);
            }
            let line = self.line();
            if let Some(run) = self.sched.take(self.index) {
                let called = || line.is_called();
                let outcome = self.sched.execute(line.seat(), &self.vcpu, &run, &called);
                match outcome {
                    Outcome::Stopped if run.claim() => return Ok(Event::Trap(run.id)),
                    Outcome::MakesRoom => self.sched.offer(run),
                    Outcome::Stopped | Outcome::Dead => {}
                }
                continue;
            }
            let (sched, index) = (&self.sched, self.index);
            line.sleep(|| line.is_called() || sched.has_ended() || sched.is_something_ready(index));
        }
    }
}

impl Drop for KvmWorker {
    fn drop(&mut self) {
        self.line().sit(None);
        CURRENT.set(None);
        self.sched.depart();
    }
}
