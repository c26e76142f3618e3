//! Names: the dentry cache.
//!
//! A [`Dentry`] is a name that exists; names known to be missing are negative entries of the
//! parent's table. An inode never changes under a dentry.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::fs::inode::Inode;

/// What a directory's dentry knows of one name.
pub enum Child {
    /// Known not to exist.
    Missing,
    There(Arc<Dentry>),
}

struct Place {
    name: Box<[u8]>,
    /// None for a root and for anonymous files.
    parent: Option<Arc<Dentry>>,
    /// Removed from the tree; path text ends in " (deleted)".
    unhashed: bool,
}

/// A name in the tree, see the module documentation.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    place: Mutex<Place>,
    children: Mutex<HashMap<Box<[u8]>, Child>>,
    this: Weak<Dentry>,
}

impl Dentry {
    /// The root of a file system, or an anonymous file (`name` like `pipe:[7]`, else empty).
    pub fn root(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Dentry> {
        Self::make(inode, name, None)
    }

    fn make(inode: Arc<dyn Inode>, name: &[u8], parent: Option<Arc<Dentry>>) -> Arc<Dentry> {
        Arc::new_cyclic(|this| Dentry {
            inode,
            place: Mutex::new(Place {
                name: name.into(),
                parent,
                unhashed: false,
            }),
            children: Mutex::new(HashMap::new()),
            this: this.clone(),
        })
    }

    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }

    pub fn name(&self) -> Box<[u8]> {
        self.place.lock().name.clone()
    }
}
