//! Directories of an overlay: the table of names over the lower directory.

use std::collections::HashMap;
use std::sync::Arc;

use super::node::{Node, Place};
use crate::errno::{Errno, Result};
use crate::fs::anon::internal_file;
use crate::fs::inode::{Chain, Exchange, FileType, Inode, LookupHint, OpenFlags};
use crate::fs::meta::Meta;

/// Is told name, inode number and type of an entry; says whether to go on.
pub(super) type EachName<'a> = dyn FnMut(&[u8], u64, Option<FileType>) -> bool + 'a;

/// A name that differs from the lower directory.
pub(super) struct Entry {
    /// None: removed (a whiteout).
    pub node: Option<Arc<Node>>,
    /// The lower directory has the name too, so removing leaves a whiteout.
    covers: bool,
}

#[derive(Default)]
pub(super) struct Entries(HashMap<Box<[u8]>, Entry>);

impl Entries {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.0.get(name)
    }

    /// Keeps the node of a lower name. One that was removed meanwhile stays removed.
    pub fn pin(&mut self, name: &[u8], node: Arc<Node>) {
        self.0.entry(name.into()).or_insert(Entry {
            node: Some(node),
            covers: true,
        });
    }

    /// Puts `node` under `name`; `covers` if a lower node that is in no entry is replaced.
    fn put(&mut self, name: &[u8], node: Arc<Node>, covers: bool) {
        let covers = self.0.get(name).map_or(covers, |old| old.covers);
        let node = Some(node);
        self.0.insert(name.into(), Entry { node, covers });
    }

    /// Takes what is under `name` away; a name without entry is a lower one.
    fn take(&mut self, name: &[u8]) {
        let covers = self.0.get(name).is_none_or(|old| old.covers);
        if covers {
            let whiteout = Entry {
                node: None,
                covers: true,
            };
            self.0.insert(name.into(), whiteout);
        } else {
            self.0.remove(name);
        }
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&[u8], &Arc<Node>)> {
        self.0
            .iter()
            .filter_map(|(name, e)| Some((&name[..], e.node.as_ref()?)))
    }

    /// Every name that differs: its node unless it was removed, and whether the lower directory has
    /// the name, too.
    pub fn all(&self) -> impl Iterator<Item = (&[u8], Option<&Arc<Node>>, bool)> {
        let entries = self.0.iter();
        entries.map(|(name, entry)| (&name[..], entry.node.as_ref(), entry.covers))
    }

    pub fn into_nodes(self) -> Vec<Arc<Node>> {
        self.0.into_values().filter_map(|e| e.node).collect()
    }
}

impl Node {
    /// Whether it was found under `name` of `parent`.
    fn is_at(&self, parent: &Arc<Node>, name: &[u8]) -> bool {
        let place = self.place.lock();
        let here =
            |p: &Place| std::ptr::eq(p.parent.as_ptr(), Arc::as_ptr(parent)) && *p.name == *name;
        place.as_ref().is_some_and(here)
    }

    /// Looks up a chain of names: as far as the table knows them, then in the lower tree, of which
    /// `before` is what the first of them led to last.
    pub(super) fn chain(
        &self,
        names: &[&[u8]],
        hint: LookupHint,
        before: &[Arc<dyn Inode>],
    ) -> Result<Chain> {
        let mut chain = Chain::default();
        let mut at = self.arc()?;
        for (i, name) in names.iter().enumerate() {
            if at.kind() != FileType::Dir {
                if i == 0 {
                    return Err(Errno::ENOTDIR);
                }
                return Ok(chain);
            }
            let known = at.entries.lock().get(name).map(|e| e.node.clone());
            match known {
                Some(Some(node)) => {
                    chain.found.push(node.clone());
                    at = node;
                }
                Some(None) => {
                    chain.missing = true;
                    return Ok(chain);
                }
                None => {
                    let before = before.get(i..).unwrap_or_default();
                    return match at.lower_chain(&names[i..], hint, before, &mut chain) {
                        Err(_) if i > 0 => Ok(chain),
                        Err(e) => Err(e),
                        Ok(()) => Ok(chain),
                    };
                }
            }
        }
        Ok(chain)
    }

    fn lower_chain(
        self: &Arc<Self>,
        names: &[&[u8]],
        hint: LookupHint,
        before: &[Arc<dyn Inode>],
        chain: &mut Chain,
    ) -> Result<()> {
        let Some(lower) = &self.lower else {
            chain.missing = true;
            return Ok(());
        };
        let before: Vec<_> = before.iter().map_while(|n| Node::of(n).ok()).collect();
        let known: Vec<_> = before.iter().map_while(|n| n.lower.clone()).collect();
        let below = lower.lookup_again(names, hint, &known)?;
        let mut parent = self.clone();
        for (i, (inode, name)) in below.found.into_iter().zip(names).enumerate() {
            let same = |n: &&Arc<Node>| n.lower.as_ref().is_some_and(|l| Arc::ptr_eq(l, &inode));
            if let Some(node) = before
                .get(i)
                .filter(same)
                .filter(|n| n.is_at(&parent, name))
            {
                chain.found.push(node.clone());
                parent = node.clone();
                continue;
            }
            let place = Place {
                parent: Arc::downgrade(&parent),
                name: (*name).into(),
            };
            let node = Node::lower(&self.fs, inode, Some(place))?;
            chain.found.push(node.clone());
            // A node of several names may have changed: it ends the chain anyway.
            parent = node;
        }
        chain.missing = below.missing;
        Ok(())
    }

    /// A new name. The VFS has looked: it does not exist.
    pub(super) fn add(&self, name: &[u8], node: Arc<Node>) -> Result<Arc<dyn Inode>> {
        let is_dir = node.kind() == FileType::Dir;
        self.entries.lock().put(name, node.clone(), false);
        self.update(|meta| {
            meta.modified();
            meta.nlink = meta.nlink.saturating_add(u32::from(is_dir));
        })?;
        Ok(node)
    }

    /// Removes a name.
    pub(super) fn remove(&self, name: &[u8], child: &Arc<Node>) -> Result<()> {
        {
            let mut place = child.place.lock();
            *place = None;
            self.entries.lock().take(name);
        }
        child.dropped();
        let is_dir = child.kind() == FileType::Dir;
        self.update(|meta| {
            meta.modified();
            meta.nlink = meta.nlink.saturating_sub(u32::from(is_dir));
        })
    }

    pub(super) fn move_entry(
        &self,
        name: &[u8],
        moved: &Arc<Node>,
        new_dir: &Arc<Node>,
        new_name: &[u8],
        replaced: Option<&Arc<Node>>,
        exchange: Exchange,
    ) -> Result<()> {
        let is_dir = |n: &Arc<Node>| i32::from(n.kind() == FileType::Dir);
        let (mut here, mut there) = (-is_dir(moved), is_dir(moved));
        // Pins both where they are, so that their entries exist.
        moved.update(Meta::changed)?;
        match (replaced, exchange) {
            (Some(other), Exchange::Yes) => {
                other.update(Meta::changed)?;
                here += is_dir(other);
                there -= is_dir(other);
                *other.place.lock() = Some(Place {
                    parent: self.me.clone(),
                    name: name.into(),
                });
                new_dir.entries.lock().put(new_name, moved.clone(), true);
                self.entries.lock().put(name, other.clone(), true);
            }
            (None, Exchange::Yes) => return Err(Errno::ENOENT),
            (replaced, Exchange::No) => {
                if let Some(other) = replaced {
                    if other.kind() == FileType::Dir && !other.is_empty()? {
                        return Err(Errno::ENOTEMPTY);
                    }
                    there -= is_dir(other);
                    *other.place.lock() = None;
                }
                let covers = replaced.is_some();
                new_dir.entries.lock().put(new_name, moved.clone(), covers);
                self.entries.lock().take(name);
                if let Some(other) = replaced {
                    other.dropped();
                }
            }
        }
        *moved.place.lock() = Some(Place {
            parent: new_dir.me.clone(),
            name: new_name.into(),
        });
        let count = |meta: &mut Meta, by: i32| {
            meta.modified();
            meta.nlink = meta.nlink.saturating_add_signed(by);
        };
        self.update(|meta| count(meta, here))?;
        new_dir.update(|meta| count(meta, there))
    }

    /// Calls `each` with the lower directory's names that still show, until it says no.
    pub(super) fn each_lower(&self, each: &mut EachName<'_>) -> Result<()> {
        let Some(lower) = &self.lower else {
            return Ok(());
        };
        let file = internal_file(lower.clone(), OpenFlags::DIRECTORY)?;
        let mut pos = 0;
        loop {
            // The lower tree may be far away: nothing is locked while it is read.
            let mut some: Vec<(Box<[u8]>, u64, Option<FileType>)> = Vec::new();
            file.ops().readdir(&file, pos, &mut |entry| {
                some.push((entry.name.into(), entry.ino, entry.kind));
                pos = entry.next;
                some.len() < 1024
            })?;
            if some.is_empty() {
                return Ok(());
            }
            for (name, ino, kind) in some {
                let differs = self.entries.lock().get(&name).is_some();
                if !differs && !each(&name, ino, kind) {
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        if self.entries.lock().nodes().next().is_some() {
            return Ok(false);
        }
        let mut empty = true;
        self.each_lower(&mut |_, _, _| {
            empty = false;
            false
        })?;
        Ok(empty)
    }
}
