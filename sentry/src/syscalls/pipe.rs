//! Placeholder.
use crate::errno::{Errno,Result}; use crate::fs::file::File; use crate::kernel::task::Task; use crate::syscalls::{Args,SysResult};
pub async fn pipe(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) }
pub async fn pipe2(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) }
pub async fn memfd_create(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) }
pub fn add_seals(_: &File, _: u32) -> Result<()> { Err(Errno::EINVAL) }
pub fn get_seals(_: &File) -> Result<u32> { Err(Errno::EINVAL) }
