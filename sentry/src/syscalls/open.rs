//! Placeholder until the family lands.
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

macro_rules! missing { ($($name:ident)*) => { $(pub async fn $name(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) })* } }
pub use super::pipe::{pipe, pipe2};
missing! { open close dup dup2 fcntl flock creat openat dup3 memfd_create close_range openat2 }
