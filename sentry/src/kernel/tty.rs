//! What the process tree needs to know of a terminal.

/// A terminal that can control a session.
pub trait Terminal: Send + Sync {
    /// The session's leader died or gave it up (TIOCNOTTY).
    fn disassociate(&self);
    /// tty_nr of /proc/PID/stat.
    fn device(&self) -> crate::fs::inode::Dev;
}
