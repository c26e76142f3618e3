//! What an overlay has changed: as a list, and as a tree for others to apply.
//!
//! The tree is that of an image layer (OCI image specification, "Representing Changes"): what was
//! added or changed lies at its path, an empty file `.wh.NAME` says that NAME was removed, and
//! `.wh..wh..opq` in a directory that nothing below it is left. Set-id bits are left out: what a
//! guest made is not to run as somebody else on the host.

use std::sync::Arc;

use super::OverlayFs;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::fs::copy::{Copier, Purpose, join};
use crate::fs::inode::{FileType, Inode, NewNode};
use crate::fs::mount::FileSystem;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

/// A changed name.
struct Change {
    path: Vec<u8>,
    kind: Kind,
    node: Option<Arc<Node>>,
    /// A directory that hides the one that was there, or that was moved here with all it holds.
    whole: bool,
}

/// Calls `each` with all changes of an overlay, in the order of their paths. ENOTSUP if `fs` is none.
pub fn list(fs: &FileSystem, each: &mut dyn FnMut(Kind, &[u8])) -> Result<()> {
    let root = Node::of(fs.root.inode()).map_err(|_| Errno::EOPNOTSUPP)?;
    for change in changes(&root)? {
        each(change.kind, &change.path);
    }
    Ok(())
}

/// Copies all changes of an overlay to the directory `to`. `problem` is told what could not be.
pub fn export(
    fs: &FileSystem,
    to: &Arc<dyn Inode>,
    problem: &mut dyn FnMut(&[u8], Errno),
) -> Result<()> {
    let root = Node::of(fs.root.inode()).map_err(|_| Errno::EOPNOTSUPP)?;
    let changes = changes(&root)?;
    let mut copier = Copier::new(Purpose::Host, problem);
    for change in &changes {
        if let Err(errno) = export_one(&root, change, to, &mut copier) {
            copier.problem(&change.path, errno);
        }
    }
    copier.finish();
    Ok(())
}

fn export_one(
    root: &Arc<Node>,
    change: &Change,
    to: &Arc<dyn Inode>,
    copier: &mut Copier<'_>,
) -> Result<()> {
    let (above, name) = split(&change.path);
    if name.starts_with(WHITEOUT) {
        // It would say that something else was removed.
        return Err(Errno::EINVAL);
    }
    let dir = directory(root, above, to, copier)?;
    let Some(node) = &change.node else {
        return mark(&dir, &[WHITEOUT, name].concat());
    };
    let inode: Arc<dyn Inode> = node.clone();
    if node.kind() != FileType::Dir {
        copier.one(&inode, &dir, name, &change.path);
        return Ok(());
    }
    let made = match dir.lookup(name) {
        Ok(made) => made,
        Err(_) => match copier.one(&inode, &dir, name, &change.path) {
            Some(made) => made,
            None => return Ok(()),
        },
    };
    if change.whole {
        if change.kind == Kind::Modified {
            mark(&made, OPAQUE)?;
        }
        copier.contents(&inode, &made, &change.path);
    }
    Ok(())
}

/// The directory at `path` in `to`, made like the overlay's where it is missing.
fn directory(
    root: &Arc<Node>,
    path: &[u8],
    to: &Arc<dyn Inode>,
    copier: &mut Copier<'_>,
) -> Result<Arc<dyn Inode>> {
    let mut at = to.clone();
    let mut from: Arc<dyn Inode> = root.clone();
    let mut so_far = Vec::new();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        from = from.lookup(name)?;
        so_far = join(&so_far, name);
        at = match at.lookup(name) {
            Ok(below) => below,
            Err(_) => copier.one(&from, &at, name, &so_far).ok_or(Errno::EIO)?,
        };
    }
    Ok(at)
}

fn mark(dir: &Arc<dyn Inode>, name: &[u8]) -> Result<()> {
    let owner = dir.attr()?;
    let new = NewNode {
        perm: 0o600,
        uid: owner.uid,
        gid: owner.gid,
    };
    dir.create(name, &new).map(drop)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    (&path[..at], path.get(at + 1..).unwrap_or_default())
}

fn changes(root: &Arc<Node>) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut left = vec![(root.clone(), Vec::new())];
    while let Some((dir, path)) = left.pop() {
        let entries: Vec<(Vec<u8>, Option<Arc<Node>>, bool)> = {
            let entries = dir.entries.lock();
            let all = entries.all();
            all.map(|(name, node, covers)| (name.to_vec(), node.cloned(), covers))
                .collect()
        };
        for (name, node, covers) in entries {
            let below = join(&path, &name);
            let Some(node) = node else {
                changes.push(Change {
                    path: below,
                    kind: Kind::Deleted,
                    node: None,
                    whole: false,
                });
                continue;
            };
            let is_dir = node.kind() == FileType::Dir;
            let here = covers && is_original(&dir, &name, &node);
            if is_dir && here {
                left.push((node.clone(), below.clone()));
            }
            if !here || has_changed(&node) {
                changes.push(Change {
                    path: below,
                    kind: if covers { Kind::Modified } else { Kind::Added },
                    whole: is_dir && !here,
                    node: Some(node),
                });
            }
        }
    }
    changes.extend(linked(&root.fs, root));
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes.dedup_by(|a, b| a.path == b.path);
    Ok(changes)
}

/// Is `node` what the lower directory has under that name?
fn is_original(dir: &Node, name: &[u8], node: &Node) -> bool {
    let (Some(lower), Some(own)) = (&dir.lower, &node.lower) else {
        return false;
    };
    let id = |inode: &Arc<dyn Inode>| inode.attr().map(|attr| (attr.dev, attr.ino)).ok();
    let there = lower.lookup(name).ok();
    there
        .as_ref()
        .and_then(id)
        .is_some_and(|there| Some(there) == id(own))
}

/// Does a file differ from the lower one that it covers? A directory does by what it holds, too;
/// that shows by itself.
fn has_changed(node: &Node) -> bool {
    let (Ok(now), Some(Ok(lower))) = (node.attr(), node.lower.as_ref().map(|l| l.attr())) else {
        return true;
    };
    let owner = (now.perm, now.uid, now.gid) != (lower.perm, lower.uid, lower.gid);
    owner
        || node.has_own_xattrs()
        || node.kind() != FileType::Dir && { node.has_own_content() || now.mtime != lower.mtime }
}

/// Changed files that have several names in the lower tree: no directory has an entry for them, they
/// are known by where they were found.
fn linked(fs: &OverlayFs, root: &Arc<Node>) -> Vec<Change> {
    let mut changes = Vec::new();
    for node in fs.pinned_links() {
        if !has_changed(&node) {
            continue;
        }
        let Some(path) = path_of(root, &node) else {
            continue;
        };
        changes.push(Change {
            path,
            kind: Kind::Modified,
            node: Some(node),
            whole: false,
        });
    }
    changes
}

/// The path by which a node was found, if it still leads there.
fn path_of(root: &Arc<Node>, node: &Arc<Node>) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    let mut at = node.clone();
    while !Arc::ptr_eq(&at, root) {
        let parent = {
            let place = at.place.lock();
            let place = place.as_ref()?;
            names.push(place.name.clone());
            place.parent.upgrade()?
        };
        at = parent;
    }
    let path = names
        .iter()
        .rev()
        .fold(Vec::new(), |path, name| join(&path, name));
    let mut found: Arc<dyn Inode> = root.clone();
    for name in names.iter().rev() {
        found = found.lookup(name).ok()?;
    }
    let same = Node::of(&found).is_ok_and(|found| Arc::ptr_eq(&found, node));
    same.then_some(path)
}
