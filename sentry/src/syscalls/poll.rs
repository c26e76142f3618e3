//! Placeholder until the family lands.
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

macro_rules! missing { ($($name:ident)*) => { $(pub async fn $name(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) })* } }
missing! { poll select epoll_create epoll_wait epoll_ctl pselect6 ppoll epoll_pwait signalfd timerfd_create eventfd timerfd_settime timerfd_gettime signalfd4 eventfd2 epoll_create1 epoll_pwait2 }
pub async fn poll_until(
    _: &Task,
    _: u64,
    _: u64,
    _: Option<crate::kernel::time::MonoTime>,
) -> SysResult {
    Err(Errno::ENOSYS.into())
}
