//! A place in the tree: a dentry seen through a mount, and its text.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::dentry::Dentry;
use crate::fs::inode::Inode;
use crate::fs::mount::Mount;

/// A dentry and the mount it was reached through. Cheap to clone; keeps both alive.
#[derive(Clone)]
pub struct PathRef {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

/// A path as text (d_path).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathText {
    /// Absolute, seen from the given root; for anonymous files their name alone.
    pub text: Vec<u8>,
    /// False if the place lies outside of the given root or in a detached mount.
    pub reachable: bool,
    pub deleted: bool,
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

    /// True at the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.mount.root, &self.dentry)
    }

    /// The same place seen below the mounts it is the root of: where the topmost is mounted. None
    /// if the mount is attached nowhere.
    pub fn below_mounts(&self) -> Option<PathRef> {
        let mut at = self.clone();
        while at.is_mount_root() {
            at = at.mount.attached_to()?;
        }
        Some(at)
    }

    /// The path as seen by somebody whose root directory is `root`.
    pub fn text(&self, root: &PathRef) -> PathText {
        let deleted = self.dentry.is_deleted();
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut at = self.clone();
        let reachable = loop {
            if at.same(root) {
                break true;
            }
            if at.is_mount_root() {
                match at.mount.attached_to() {
                    Some(below) => at = below,
                    None => break false,
                }
                continue;
            }
            let (parent, name) = at.dentry.place();
            match parent {
                Some(parent) => {
                    names.push(name);
                    at.dentry = parent;
                }
                None => {
                    // An anonymous file.
                    if names.is_empty() && !name.is_empty() {
                        return PathText {
                            text: name.into_vec(),
                            reachable: true,
                            deleted,
                        };
                    }
                    break false;
                }
            }
        };
        let mut text = Vec::new();
        for name in names.iter().rev() {
            text.push(b'/');
            text.extend_from_slice(name);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        PathText {
            text,
            reachable,
            deleted,
        }
    }

    /// The text of /proc/PID/fd links, maps and the like: with " (deleted)" where that is so.
    pub fn display(&self, root: &PathRef) -> Vec<u8> {
        let mut path = self.text(root);
        if path.deleted {
            path.text.extend_from_slice(b" (deleted)");
        }
        path.text
    }

    /// What getcwd(2) returns, without the NUL. ENOENT if the directory was removed.
    pub fn cwd_text(&self, root: &PathRef) -> Result<Vec<u8>> {
        let path = self.text(root);
        if path.deleted {
            return Err(Errno::ENOENT);
        }
        if path.reachable {
            return Ok(path.text);
        }
        Ok([b"(unreachable)", &path.text[..]].concat())
    }
}
