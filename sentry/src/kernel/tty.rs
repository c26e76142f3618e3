//! What the process tree needs to know of a terminal.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::file::File;
use crate::fs::inode::OpenFlags;
use crate::fs::path::PathRef;

/// A terminal that can control a session.
pub trait Terminal: Send + Sync {
    /// The session's leader died or gave it up (TIOCNOTTY).
    fn disassociate(&self);
    /// tty_nr of /proc/PID/stat.
    fn device(&self) -> crate::fs::inode::Dev;
    /// The host's: the sandbox as a whole is one job among others there.
    fn is_host(&self) -> bool {
        false
    }
    /// Opens it through /dev/tty, whose node is at `path`. EIO if it is gone.
    fn open(&self, _path: &PathRef, _flags: OpenFlags) -> Result<Arc<File>> {
        Err(Errno::EIO)
    }
}
