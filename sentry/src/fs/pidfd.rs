//! Placeholder until process descriptors land.
use crate::errno::{Errno, Result};
use crate::kernel::{group::ThreadGroup, task::Task};
use std::sync::Arc;
pub fn install(_: &Task, _: &Arc<ThreadGroup>) -> Result<i32> {
    Err(Errno::ENOSYS)
}
pub fn open(_: &Task, _: &Arc<ThreadGroup>, _: bool) -> Result<i32> {
    Err(Errno::ENOSYS)
}
pub fn group_of(_: &Task, _: i32) -> Result<(Arc<ThreadGroup>, bool)> {
    Err(Errno::EBADF)
}
