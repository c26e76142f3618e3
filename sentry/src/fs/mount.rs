//! Mounts and the mount namespace.

use std::sync::Arc;

use crate::fs::dentry::Dentry;

/// A file system attached at a place.
pub struct Mount {
    /// mnt_id of /proc/PID/mountinfo.
    pub id: u32,
    pub root: Arc<Dentry>,
}
