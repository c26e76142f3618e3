//! Timers of a process: setitimer(2), alarm(2), timer_create(2).

use std::sync::Weak;

use crate::kernel::group::ThreadGroup;

/// The timers of one thread group.
pub struct GroupTimers {
    group: Weak<ThreadGroup>,
}

impl GroupTimers {
    pub fn new(group: Weak<ThreadGroup>) -> Self {
        GroupTimers { group }
    }

    /// The group is ending: disarm everything.
    pub fn clear(&self) {
        let _ = &self.group;
    }
}
