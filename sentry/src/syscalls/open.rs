//! Placeholder until the family lands.
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

macro_rules! missing { ($($name:ident)*) => { $(pub async fn $name(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) })* } }
missing! { open close pipe dup dup2 fcntl flock creat openat dup3 pipe2 memfd_create close_range openat2 }
