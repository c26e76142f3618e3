//! Placeholder.
use crate::errno::Errno; use crate::kernel::task::Task; use crate::syscalls::{Args,SysResult};
pub async fn inotify_init(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) }
pub async fn inotify_init1(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) }
pub async fn inotify_add_watch(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) }
pub async fn inotify_rm_watch(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) }
