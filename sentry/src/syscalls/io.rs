//! Placeholder until the family lands.
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

macro_rules! missing { ($($name:ident)*) => { $(pub async fn $name(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) })* } }
missing! { read write lseek ioctl pread64 pwrite64 readv writev sendfile fsync fdatasync sync readahead fadvise64 splice tee sync_file_range vmsplice fallocate preadv pwritev syncfs copy_file_range preadv2 pwritev2 }
