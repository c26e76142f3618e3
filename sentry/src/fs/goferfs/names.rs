//! The names of a node, which lead to it from the tree's root.

use std::sync::Arc;

use super::node::Node;
use crate::errno::{Errno, Result};

/// A name of a node.
#[derive(Clone)]
pub(super) struct Name {
    pub parent: Arc<Node>,
    pub name: Box<[u8]>,
}

impl Node {
    /// `new` comes first: it is there for sure.
    pub(super) fn add_name(&self, new: Name) {
        let mut names = self.names.lock();
        let known = |n: &Name| Arc::ptr_eq(&n.parent, &new.parent) && n.name == new.name;
        let at = names.iter().position(known).unwrap_or_else(|| {
            names.push(new);
            names.len() - 1
        });
        names.swap(0, at);
    }

    pub(super) fn drop_name(&self, parent: &Node, name: &[u8]) {
        let mut names = self.names.lock();
        let i = names
            .iter()
            .position(|n| std::ptr::eq(&*n.parent, parent) && &*n.name == name);
        let dropped = i.map(|i| names.swap_remove(i));
        drop(names);
        drop(dropped);
        self.stale();
    }

    /// The path below the tree's root. ESTALE when the last name is gone.
    pub(super) fn path(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = self.name()?;
        while let Some(Name { parent, name }) = at {
            names.push(name);
            at = parent.name()?;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    pub(super) fn name(&self) -> Result<Option<Name>> {
        match self.names.lock().first() {
            Some(name) => Ok(Some(name.clone())),
            None if self.is_root => Ok(None),
            None => Err(Errno::ESTALE),
        }
    }

    pub(super) fn child_path(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut path = self.path()?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(path)
    }

    pub(super) fn has_name(&self) -> bool {
        self.is_root || !self.names.lock().is_empty()
    }

    /// Whether `name` of `parent` is one of its names, which is there for sure.
    pub(super) fn is_at(&self, parent: &Arc<Node>, name: &[u8]) -> bool {
        let mut names = self.names.lock();
        let at = |n: &Name| Arc::ptr_eq(&n.parent, parent) && *n.name == *name;
        let found = names.iter().position(at);
        if let Some(at) = found {
            names.swap(0, at);
        }
        found.is_some()
    }
}
