//! Freezing: all guest code stops and nothing in the guest can tell (the cgroup freezer of Linux).
//!
//! A task that runs guest code is kicked out of it; one that waits in a system call goes on waiting,
//! and stops where it would return. SIGKILL ends a frozen process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};

/// Whether guest code may run.
#[derive(Default)]
pub struct Freezer {
    frozen: AtomicBool,
    thawed: WaitQueue,
}

impl Kernel {
    pub fn is_frozen(&self) -> bool {
        // Ordered against a task's own announcement that it is about to run.
        self.freezer.frozen.load(Ordering::SeqCst)
    }

    /// From now on no task starts to run guest code; those that do leave it soon.
    pub fn freeze(&self) {
        self.freezer.frozen.store(true, Ordering::SeqCst);
        for group in self.tree.groups() {
            for task in group.tasks() {
                if task.is_in_guest() {
                    task.interrupt();
                }
            }
        }
    }

    pub fn thaw(&self) {
        self.freezer.frozen.store(false, Ordering::SeqCst);
        self.freezer.thawed.wake_all();
    }

    /// Does any task run guest code right now?
    pub fn is_guest_running(&self) -> bool {
        let groups = self.tree.groups();
        groups
            .iter()
            .any(|group| group.tasks().iter().any(|task| task.is_in_guest()))
    }
}

/// A task waits here between two looks at the guest, until it may go on or has to end.
pub async fn wait_for_thaw(task: &Task) {
    let kernel = task.kernel();
    let over = || {
        if kernel.is_frozen() && task.group().must_exit(task.tid()).is_none() {
            Err(Errno::EAGAIN)
        } else {
            Ok(())
        }
    };
    // What interrupts has to wait as well: the mark is taken out of the way and put back.
    while task
        .wait_on(&kernel.freezer.thawed, Ready::all(), None, over)
        .await
        .is_err()
    {
        task.take_interrupt();
    }
    task.interrupt();
}
