//! Placeholder until the family lands.
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

macro_rules! missing { ($($name:ident)*) => { $(pub async fn $name(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) })* } }
missing! { sendto recvfrom sendmsg recvmsg shutdown getsockname getpeername socketpair setsockopt getsockopt recvmmsg sendmmsg }
