//! Inodes of tmpfs.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::data::Data;
use super::file::{DirFile, RegularFile};
use super::{Tmpfs, is_special};
use crate::errno::{Errno, Result};
use crate::fs::extra::InodeExtra;
use crate::fs::file::FileOps;
use crate::fs::inode::{
    Attr, Dev, Exchange, FileType, Inode, NewNode, OpenFlags, SetAttr, StatFs, XattrFlags,
};
use crate::fs::meta::{Identity, Meta};

/// Most names of one file, and most subdirectories.
const LINK_MAX: u32 = u32::MAX - 1;
/// Size of a directory entry in st_size, as Linux's tmpfs counts it.
const ENTRY_SIZE: u64 = 20;

#[derive(Default)]
pub(super) struct Entries {
    by_name: HashMap<Box<[u8]>, u64>,
    /// By position: positions are never used again, so readdir does not see an entry twice.
    pub(super) by_pos: BTreeMap<u64, (Box<[u8]>, Arc<Node>)>,
    next: u64,
}

impl Entries {
    fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        let pos = self.by_name.get(name)?;
        self.by_pos.get(pos).map(|(_, node)| node)
    }

    fn insert(&mut self, name: &[u8], node: Arc<Node>) -> Option<Arc<Node>> {
        self.next += 1;
        let old = self.by_name.insert(name.into(), self.next);
        self.by_pos.insert(self.next, (name.into(), node));
        old.and_then(|pos| self.by_pos.remove(&pos)).map(|(_, n)| n)
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let pos = self.by_name.remove(name)?;
        self.by_pos.remove(&pos).map(|(_, node)| node)
    }
}

enum Body {
    Regular(Arc<Data>),
    Dir(Mutex<Entries>),
    Symlink(Box<[u8]>),
    Special(FileType, Dev),
}

/// A file of a tmpfs.
pub struct Node {
    fs: Arc<Tmpfs>,
    ino: u64,
    meta: Mutex<Meta>,
    body: Body,
    extra: InodeExtra,
}

impl Node {
    fn make(fs: &Arc<Tmpfs>, new: &NewNode, nlink: u32, body: Body) -> Result<Arc<Node>> {
        let ino = fs.charge_inode()?;
        Ok(Arc::new(Node {
            fs: fs.clone(),
            ino,
            meta: Mutex::new(Meta::new(new, nlink)),
            body,
            extra: InodeExtra::default(),
        }))
    }

    pub(super) fn dir(fs: &Arc<Tmpfs>, new: &NewNode) -> Result<Arc<Node>> {
        Self::make(fs, new, 2, Body::Dir(Mutex::default()))
    }

    pub(super) fn unnamed(fs: &Arc<Tmpfs>, new: &NewNode) -> Result<Arc<Node>> {
        Self::make(fs, new, 0, Body::Regular(Data::new(fs.space.clone())))
    }

    /// The content of a regular file.
    pub fn data(&self) -> Option<&Arc<Data>> {
        match &self.body {
            Body::Regular(data) => Some(data),
            _ => None,
        }
    }

    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    pub(super) fn entries(&self) -> Result<&Mutex<Entries>> {
        match &self.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Meta)) {
        change(&mut self.meta.lock());
    }

    fn add(&self, name: &[u8], node: Arc<Node>) -> Result<Arc<dyn Inode>> {
        let mut entries = self.entries()?.lock();
        if entries.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        entries.insert(name, node.clone());
        drop(entries);
        self.update(|meta| {
            meta.modified();
            if node.kind() == FileType::Dir {
                meta.nlink += 1;
            }
        });
        Ok(node)
    }

    /// A name of `self` is gone.
    fn dropped(&self) {
        self.update(|meta| {
            meta.changed();
            meta.nlink = match self.body {
                Body::Dir(_) => 0,
                _ => meta.nlink.saturating_sub(1),
            };
        });
    }

    fn is_empty(&self) -> bool {
        match &self.body {
            Body::Dir(entries) => entries.lock().by_pos.is_empty(),
            _ => true,
        }
    }
}

fn node(inode: &Arc<dyn Inode>) -> Result<Arc<Node>> {
    let any: Arc<dyn Any + Send + Sync> = inode.clone();
    any.downcast().map_err(|_| Errno::EXDEV)
}

impl Inode for Node {
    fn attr(&self) -> Result<Attr> {
        let (size, blocks, rdev) = match &self.body {
            Body::Regular(data) => {
                let (size, blocks) = data.usage();
                (size, blocks, Dev::default())
            }
            Body::Dir(entries) => {
                let count = entries.lock().by_pos.len() as u64;
                ((count + 2) * ENTRY_SIZE, 0, Dev::default())
            }
            Body::Symlink(target) => (target.len() as u64, 0, Dev::default()),
            Body::Special(_, rdev) => (0, 0, *rdev),
        };
        Ok(self.meta.lock().attr(Identity {
            kind: self.kind(),
            ino: self.ino,
            dev: self.fs.dev,
            rdev,
            size,
            blocks,
        }))
    }

    fn kind(&self) -> FileType {
        match &self.body {
            Body::Regular(_) => FileType::Regular,
            Body::Dir(_) => FileType::Dir,
            Body::Symlink(_) => FileType::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        if let Some(size) = change.size {
            self.data().ok_or(Errno::EINVAL)?.resize(size)?;
        }
        self.update(|meta| meta.apply(change));
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        match &self.body {
            Body::Regular(_) => Ok(Arc::new(RegularFile::new(self)?)),
            Body::Dir(_) => Ok(Arc::new(DirFile(self))),
            _ => Err(Errno::ENXIO),
        }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        match self.entries()?.lock().get(name) {
            Some(node) => Ok(node.clone()),
            None => Err(Errno::ENOENT),
        }
    }

    fn create(&self, name: &[u8], new: &NewNode) -> Result<Arc<dyn Inode>> {
        let body = Body::Regular(Data::new(self.fs.space.clone()));
        self.add(name, Node::make(&self.fs, new, 1, body)?)
    }

    fn mkdir(&self, name: &[u8], new: &NewNode) -> Result<Arc<dyn Inode>> {
        if self.meta.lock().nlink >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        self.add(name, Node::dir(&self.fs, new)?)
    }

    fn tmpfile(&self, new: &NewNode) -> Result<Arc<dyn Inode>> {
        Ok(Node::unnamed(&self.fs, new)?)
    }

    fn mknod(
        &self,
        name: &[u8],
        new: &NewNode,
        kind: FileType,
        rdev: Dev,
    ) -> Result<Arc<dyn Inode>> {
        if kind == FileType::Regular {
            return self.create(name, new);
        }
        if !is_special(kind) {
            return Err(Errno::EINVAL);
        }
        self.add(
            name,
            Node::make(&self.fs, new, 1, Body::Special(kind, rdev))?,
        )
    }

    fn symlink(&self, name: &[u8], new: &NewNode, target: &[u8]) -> Result<Arc<dyn Inode>> {
        self.add(
            name,
            Node::make(&self.fs, new, 1, Body::Symlink(target.into()))?,
        )
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = node(target)?;
        if target.meta.lock().nlink >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        self.add(name, target.clone())?;
        target.update(|meta| {
            meta.nlink += 1;
            meta.changed();
        });
        Ok(())
    }

    fn unlink(&self, name: &[u8], _child: &Arc<dyn Inode>) -> Result<()> {
        let removed = self.entries()?.lock().remove(name).ok_or(Errno::ENOENT)?;
        removed.dropped();
        self.update(Meta::modified);
        Ok(())
    }

    fn rmdir(&self, name: &[u8], _child: &Arc<dyn Inode>) -> Result<()> {
        let removed = {
            let mut entries = self.entries()?.lock();
            let child = entries.get(name).ok_or(Errno::ENOENT)?;
            if !child.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            entries.remove(name)
        };
        if let Some(removed) = removed {
            removed.dropped();
        }
        self.update(|meta| {
            meta.modified();
            meta.nlink = meta.nlink.saturating_sub(1);
        });
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        _moved: &Arc<dyn Inode>,
        new_dir: &Arc<dyn Inode>,
        new_name: &[u8],
        _replaced: Option<&Arc<dyn Inode>>,
        exchange: Exchange,
    ) -> Result<()> {
        let new_dir = node(new_dir)?;
        let moved = self.entries()?.lock().get(name).cloned();
        let moved = moved.ok_or(Errno::ENOENT)?;
        let target = new_dir.entries()?.lock().get(new_name).cloned();
        let is_dir = |n: &Arc<Node>| i64::from(n.kind() == FileType::Dir);
        // Changes of the numbers of subdirectories.
        let (mut here, mut there) = (-is_dir(&moved), is_dir(&moved));
        if exchange == Exchange::Yes {
            let target = target.ok_or(Errno::ENOENT)?;
            here += is_dir(&target);
            there -= is_dir(&target);
            new_dir.entries()?.lock().insert(new_name, moved.clone());
            self.entries()?.lock().insert(name, target.clone());
            target.update(Meta::changed);
        } else {
            if let Some(target) = &target {
                if !target.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                there -= is_dir(target);
            }
            new_dir.entries()?.lock().insert(new_name, moved.clone());
            self.entries()?.lock().remove(name);
            if let Some(target) = target {
                target.dropped();
            }
        }
        let count = |meta: &mut Meta, by: i64| {
            meta.modified();
            meta.nlink = meta.nlink.saturating_add_signed(by as i32);
        };
        self.update(|meta| count(meta, here));
        new_dir.update(|meta| count(meta, there));
        moved.update(Meta::changed);
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(self.fs.statfs())
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.meta.lock().get_xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.meta.lock().set_xattr(name, value, flags)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.meta.lock().list_xattr())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.meta.lock().remove_xattr(name)
    }

    fn drop_file_caps(&self) {
        self.meta.lock().drop_file_caps();
    }

    fn accessed(&self, strict: bool) {
        self.meta.lock().accessed(strict);
    }

    fn extra(&self) -> &InodeExtra {
        &self.extra
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    /// A guest can nest directories without limit: they are taken apart one by one.
    fn drop(&mut self) {
        self.fs.uncharge_inode();
        let Body::Dir(entries) = &mut self.body else {
            return;
        };
        let mut left: Vec<Arc<Node>> = Vec::new();
        left.extend(
            std::mem::take(entries.get_mut())
                .by_pos
                .into_values()
                .map(|(_, n)| n),
        );
        while let Some(node) = left.pop() {
            if let Some(mut node) = Arc::into_inner(node)
                && let Body::Dir(entries) = &mut node.body
            {
                left.extend(
                    std::mem::take(entries.get_mut())
                        .by_pos
                        .into_values()
                        .map(|(_, n)| n),
                );
            }
        }
    }
}
