//! Terminals: job control for any of them ([`job`]), the line discipline ([`line`]),
//! pseudo-terminals ([`pty`]) and the file system that names them ([`devpts`]).

mod devpts;
pub mod job;
pub mod line;
pub mod pty;
mod requests;

use std::sync::Arc;

pub use devpts::{Devpts, DevptsType};

use crate::errno::{Errno, Result};
use crate::fs::dev::{self, Device};
use crate::fs::file::File;
use crate::fs::inode::Dev;
use crate::fs::mount::MountNamespace;
use crate::fs::open::Special;
use crate::kernel::Kernel;
use crate::kernel::task::Task;

/// Major number of /dev/pts/N.
pub const PTS_MAJOR: u32 = 136;
const TTY: Dev = Dev::new(5, 0);
pub const PTMX: Dev = Dev::new(5, 2);

/// Makes terminals known: their device numbers, and devpts to mount(2).
pub fn register(kernel: &Arc<Kernel>, namespace: &MountNamespace) {
    let devpts = Devpts::new(kernel);
    dev::register(PTMX, Arc::new(Ptmx(devpts.clone())));
    dev::register_major(PTS_MAJOR, Arc::new(Slaves(devpts.clone())));
    dev::register(TTY, Arc::new(Tty));
    namespace.register(Arc::new(DevptsType(devpts)));
}

/// /dev/ptmx: each open makes a pseudo-terminal.
struct Ptmx(Arc<Devpts>);

impl Device for Ptmx {
    fn driver(&self) -> &'static str {
        "ptmx"
    }

    fn open(&self, task: &Task, special: &Special) -> Result<Arc<File>> {
        let pty = self.0.create(task.creds().fsuid)?;
        Ok(dev::opened(special, pty.master()))
    }
}

/// /dev/pts/N.
struct Slaves(Arc<Devpts>);

impl Device for Slaves {
    fn driver(&self) -> &'static str {
        "pts"
    }

    fn open(&self, task: &Task, special: &Special) -> Result<Arc<File>> {
        let pty = self.0.find(special.rdev.minor).ok_or(Errno::EIO)?;
        pty.open_slave(task, special)
    }
}

/// /dev/tty: the controlling terminal.
struct Tty;

impl Device for Tty {
    fn driver(&self) -> &'static str {
        "/dev/tty"
    }

    fn open(&self, task: &Task, special: &Special) -> Result<Arc<File>> {
        let terminal = job::controlling(task).ok_or(Errno::ENXIO)?;
        terminal.open(task, special)
    }
}
