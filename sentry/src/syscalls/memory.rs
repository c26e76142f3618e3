//! Placeholder until the family lands.
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

macro_rules! missing { ($($name:ident)*) => { $(pub async fn $name(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) })* } }
missing! { mmap mprotect munmap brk mremap msync mincore madvise mlock munlock mlockall munlockall mbind set_mempolicy get_mempolicy mlock2 pkey_mprotect }
