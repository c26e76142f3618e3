//! Terminals: job control for any of them ([`job`]), the line discipline ([`line`]),
//! pseudo-terminals ([`pty`]) and the file system that names them ([`devpts`]).

mod devpts;
pub mod job;
pub mod line;
pub mod pty;
mod requests;

use std::sync::Arc;

pub use devpts::{Devpts, DevptsType, HostName};

use crate::errno::{Errno, Result};
use crate::fs::device::Device;
use crate::fs::file::File;
use crate::fs::inode::{Dev, FileType, OpenFlags};
use crate::fs::mount::MountNamespace;
use crate::fs::path::PathRef;
use crate::kernel::Kernel;
use crate::kernel::task::Task;

/// Major number of /dev/pts/N.
pub const PTS_MAJOR: u32 = 136;
const TTY: Dev = Dev::new(5, 0);
pub const PTMX: Dev = Dev::new(5, 2);

/// Makes terminals known: their device numbers, and devpts to mount(2).
pub fn register(kernel: &Arc<Kernel>, namespace: &MountNamespace) {
    let devpts = Devpts::new(kernel);
    // The one that is there first.
    let _ = kernel.devpts.set(devpts.clone());
    let devices = namespace.devices();
    devices.register(FileType::Char, PTMX, Arc::new(Ptmx(devpts.clone())));
    devices.register_major(FileType::Char, PTS_MAJOR, Arc::new(Slaves(devpts.clone())));
    devices.register(FileType::Char, TTY, Arc::new(Tty));
    namespace.register(Arc::new(DevptsType(devpts)));
}

/// /dev/ptmx: each open makes a pseudo-terminal.
struct Ptmx(Arc<Devpts>);

impl Device for Ptmx {
    fn driver(&self) -> &'static str {
        "ptmx"
    }

    fn open(&self, t: &Task, path: &PathRef, dev: Dev, flags: OpenFlags) -> Result<Arc<File>> {
        debug_assert_eq!(dev, PTMX);
        let pty = self.0.create(t.creds().fsuid, t.creds().fsgid)?;
        Ok(File::new(pty.master(), path.clone(), flags))
    }
}

/// /dev/pts/N.
struct Slaves(Arc<Devpts>);

impl Device for Slaves {
    fn driver(&self) -> &'static str {
        "pts"
    }

    fn open(&self, t: &Task, path: &PathRef, dev: Dev, flags: OpenFlags) -> Result<Arc<File>> {
        let pty = self.0.find(dev.minor).ok_or(Errno::EIO)?;
        pty.open_slave(t, path, flags)
    }
}

/// /dev/tty: the controlling terminal.
struct Tty;

impl Device for Tty {
    fn driver(&self) -> &'static str {
        "/dev/tty"
    }

    fn open(&self, t: &Task, path: &PathRef, dev: Dev, flags: OpenFlags) -> Result<Arc<File>> {
        debug_assert_eq!(dev, TTY);
        let terminal = job::controlling(t).ok_or(Errno::ENXIO)?;
        terminal.open(path, flags)
    }
}
