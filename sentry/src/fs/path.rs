//! A place in the tree: a dentry seen through a mount.

use std::sync::Arc;

use crate::fs::dentry::Dentry;
use crate::fs::inode::Inode;
use crate::fs::mount::Mount;

/// A dentry and the mount it was reached through. Cheap to clone; keeps both alive.
#[derive(Clone)]
pub struct PathRef {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl PathRef {
    pub fn new(mount: Arc<Mount>, dentry: Arc<Dentry>) -> Self {
        PathRef { mount, dentry }
    }

    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// The same place: same dentry through the same mount.
    pub fn same(&self, other: &PathRef) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }
}
