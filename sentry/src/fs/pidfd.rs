//! Process descriptors (pidfd_open(2), CLONE_PIDFD): readable when the process has ended.

use std::any::Any;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::anon::{Anon, anon_file};
use crate::fs::fdtable::Exec;
use crate::fs::file::{File, FileOps, Positioned};
use crate::fs::inode::OpenFlags;
use crate::kernel::group::ThreadGroup;
use crate::kernel::task::Task;
use crate::kernel::wait::{Ready, WaitQueue};

/// See the module documentation.
pub struct PidFd {
    group: Arc<ThreadGroup>,
}

/// A descriptor of `task` for the process `group`, closed on execve(2). EMFILE.
pub fn install(task: &Task, group: &Arc<ThreadGroup>) -> Result<i32> {
    open(task, group, false)
}

/// As [`install`]; `nonblock`: PIDFD_NONBLOCK.
pub fn open(task: &Task, group: &Arc<ThreadGroup>, nonblock: bool) -> Result<i32> {
    let ops = Arc::new(PidFd {
        group: group.clone(),
    });
    let mut flags = OpenFlags::RDWR;
    flags.set(OpenFlags::NONBLOCK, nonblock);
    task.add_file(anon_file(Anon::Inode("[pidfd]"), ops, flags), Exec::Close)
}

/// The process behind descriptor `fd` of `task`, and whether it is non-blocking. EBADF if it is no
/// process descriptor.
pub fn group_of(task: &Task, fd: i32) -> Result<(Arc<ThreadGroup>, bool)> {
    let file = task.file(fd)?;
    let pidfd = file.downcast::<PidFd>().ok_or(Errno::EBADF)?;
    Ok((pidfd.group.clone(), file.nonblocking()))
}

impl PidFd {
    /// Waitable or gone.
    fn ended(&self) -> bool {
        self.group.is_dead() && {
            let tree = self.group.kernel().tree.lock();
            tree.node(self.group.pid())
                .is_none_or(|n| n.zombie.is_some() || !Arc::ptr_eq(&n.group, &self.group))
        }
    }
}

impl FileOps for PidFd {
    fn positioned(&self) -> Positioned {
        Positioned::Stream
    }

    fn ready(&self, _file: &File) -> Ready {
        if self.ended() {
            Ready::IN | Ready::RDNORM
        } else {
            Ready::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.group.exited)
    }

    fn fdinfo(&self, _file: &File) -> String {
        let pid = if self.ended() { -1 } else { self.group.pid() };
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
