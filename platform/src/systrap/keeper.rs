//! The thread that makes stubs ahead and buries those that nobody needs any more.
//!
//! A new process costs the host the copy of a process, a thread and a filter, and an old one the
//! taking down of its memory: together as long as many small programs run. Done here, on whatever
//! core is free, the guest that forks, executes or exits waits for neither.
//!
//! Stubs that are ready are fresh: they have never run guest code. With nothing to do the thread
//! sleeps.

use std::io;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::process::Stub;
use crate::Result;

/// Stubs kept ready once the sandbox has shown that it makes processes.
const READY: usize = 2;
/// So many processes show that.
const SHOWN: usize = 3;
/// More than this are not left to the thread: it cannot keep up.
const MAX_DEPARTED: usize = 16;

#[derive(Default)]
pub(super) struct Keeper {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    ready: Vec<Arc<Stub>>,
    /// To be killed.
    departed: Vec<Arc<Stub>>,
    /// Stubs asked for so far, up to [`SHOWN`].
    asked: usize,
    /// The host refused one more: not tried again until somebody asks.
    refused: bool,
    asleep: bool,
    ended: bool,
}

impl Work {
    fn wants_more(&self) -> bool {
        self.asked >= SHOWN && self.ready.len() < READY && !self.refused
    }
}

impl Keeper {
    /// A stub that is ready, if there is one.
    pub fn take(&self) -> Option<Arc<Stub>> {
        let mut work = self.work.lock();
        work.asked = (work.asked + 1).min(SHOWN);
        work.refused = false;
        let stub = loop {
            match work.ready.pop() {
                Some(stub) if stub.is_dead() => {}
                other => break other,
            }
        };
        self.notify(&work);
        stub
    }

    /// Takes charge of the end of a process that nobody needs.
    pub fn bury(&self, stub: &Arc<Stub>) {
        let mut work = self.work.lock();
        if work.ended || work.departed.len() >= MAX_DEPARTED {
            drop(work);
            stub.dismiss();
            return;
        }
        work.departed.push(stub.clone());
        self.notify(&work);
    }

    fn notify(&self, work: &Work) {
        if work.asleep {
            self.changed.notify_one();
        }
    }

    fn end(&self) {
        let mut work = self.work.lock();
        work.ended = true;
        self.changed.notify_one();
    }

    /// What is to be done next; None: nothing ever.
    fn next(&self) -> Option<Job> {
        let mut work = self.work.lock();
        loop {
            if work.ended {
                return None;
            }
            if !work.departed.is_empty() {
                return Some(Job::Bury(std::mem::take(&mut work.departed)));
            }
            if work.wants_more() {
                return Some(Job::Make);
            }
            work.asleep = true;
            self.changed.wait(&mut work);
            work.asleep = false;
        }
    }

    fn made(&self, stub: Result<Arc<Stub>>) {
        let mut work = self.work.lock();
        match stub {
            Ok(stub) => work.ready.push(stub),
            Err(_) => work.refused = true,
        }
    }
}

enum Job {
    Bury(Vec<Arc<Stub>>),
    Make,
}

/// The thread; dropped with the platform.
pub(super) struct Running {
    keeper: Arc<Keeper>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.keeper.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Running> {
    let keeper = shared.keeper.clone();
    let weak = Arc::downgrade(shared);
    // Starting a thread takes host calls that a Sentry's filter does not allow any more.
    let (started, start) = sync_channel(1);
    let own = keeper.clone();
    let thread = std::thread::Builder::new()
        .name("keeper".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            let _ = started.send(());
            while let Some(job) = own.next() {
                carry_out(&own, &weak, job);
            }
        })?;
    let _ = start.recv();
    Ok(Running {
        keeper,
        thread: Some(thread),
    })
}

fn carry_out(keeper: &Keeper, shared: &Weak<Shared>, job: Job) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    shared.cores.chore();
    match job {
        Job::Bury(stubs) => {
            for stub in stubs {
                shared.cores.release(&stub);
                stub.dismiss();
            }
        }
        Job::Make => keeper.made(shared.new_stub()),
    }
}
