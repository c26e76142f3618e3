//! Placeholder until the family lands.
use crate::errno::Errno;
use crate::kernel::task::Task;
use crate::syscalls::{Args, SysResult};

macro_rules! missing { ($($name:ident)*) => { $(pub async fn $name(_: &Task, _: &Args) -> SysResult { Err(Errno::ENOSYS.into()) })* } }
pub use super::inotify::{inotify_add_watch, inotify_init, inotify_init1, inotify_rm_watch};
missing! { stat fstat lstat access truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir link unlink symlink readlink chmod fchmod chown fchown lchown umask utime mknod statfs fstatfs chroot mount umount2 setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr getdents64 utimes mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat faccessat utimensat renameat2 statx faccessat2 fchmodat2 }
