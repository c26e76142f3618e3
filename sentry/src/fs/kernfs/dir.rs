//! Directories of synthetic trees.

use std::any::Any;
use std::sync::Arc;

use super::{Head, Super, inode_basics};
use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps};
use crate::fs::inode::{Attr, Dev, DirEntry, FileType, Inode, Names, NewNode, OpenFlags};

/// What a directory holds.
pub trait Entries: Send + Sync + 'static {
    /// ENOENT if there is no such name.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>>;

    /// Emits entries from position `pos` until `emit` says no.
    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()>;

    /// Do names come and go by themselves?
    fn changes(&self) -> bool {
        true
    }

    /// st_nlink.
    fn nlink(&self) -> u32 {
        2
    }

    /// May it be opened now?
    fn open(&self) -> Result<()> {
        Ok(())
    }

    /// st_size, where it is not zero.
    fn size(&self) -> u64 {
        0
    }
}

/// A synthetic directory.
pub struct Dir {
    pub(super) head: Head,
    entries: Box<dyn Entries>,
}

impl Dir {
    pub fn new(head: Head, entries: impl Entries) -> Arc<Dir> {
        Arc::new(Dir {
            head,
            entries: Box::new(entries),
        })
    }
}

impl Inode for Dir {
    fn attr(&self) -> Result<Attr> {
        let mut attr = self.head.attr(FileType::Dir, self.entries.nlink());
        attr.size = self.entries.size();
        Ok(attr)
    }

    fn kind(&self) -> FileType {
        FileType::Dir
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        self.entries.open()?;
        Ok(Arc::new(DirFile(self)))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.entries.lookup(name)
    }

    fn names(&self) -> Names {
        if self.entries.changes() {
            Names::Asked
        } else {
            Names::Kept
        }
    }

    fn create(&self, _name: &[u8], _node: &NewNode) -> Result<Arc<dyn Inode>> {
        Err(self.head.sb.fixed)
    }

    fn mkdir(&self, _name: &[u8], _node: &NewNode) -> Result<Arc<dyn Inode>> {
        Err(self.head.sb.fixed)
    }

    fn mknod(
        &self,
        _name: &[u8],
        _node: &NewNode,
        _kind: FileType,
        _rdev: Dev,
    ) -> Result<Arc<dyn Inode>> {
        Err(self.head.sb.fixed)
    }

    fn symlink(&self, _name: &[u8], _node: &NewNode, _target: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(self.head.sb.fixed)
    }

    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(self.head.sb.fixed)
    }

    inode_basics!();
}

/// An open synthetic directory.
struct DirFile(Arc<Dir>);

impl FileOps for DirFile {
    fn readdir(
        &self,
        _file: &File,
        pos: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        self.0.entries.list(pos, emit)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Emits a table of entries, whose positions are `first`, `first + 1` and so on. False if `emit`
/// said no.
pub fn list_table<'a>(
    first: u64,
    table: impl Iterator<Item = (&'a [u8], u64, FileType)>,
    pos: u64,
    emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
) -> bool {
    for ((name, ino, kind), at) in table.zip(first..) {
        if at < pos {
            continue;
        }
        let go_on = emit(DirEntry {
            name,
            ino,
            kind: Some(kind),
            next: at + 1,
        });
        if !go_on {
            return false;
        }
    }
    true
}

/// A name and what it stands for.
type Named = (Box<[u8]>, Arc<dyn Inode>);

/// A directory whose entries are made once, in the order added.
#[derive(Default)]
pub struct StaticDir {
    entries: Vec<Named>,
}

impl StaticDir {
    pub fn new() -> StaticDir {
        StaticDir::default()
    }

    #[must_use]
    pub fn with(mut self, name: &str, inode: Arc<dyn Inode>) -> StaticDir {
        self.add(name, inode);
        self
    }

    pub fn add(&mut self, name: &str, inode: Arc<dyn Inode>) {
        self.entries.push((name.as_bytes().into(), inode));
    }

    /// The finished directory, mode 0555.
    pub fn build(self, sb: &Arc<Super>) -> Arc<dyn Inode> {
        self.build_with(Head::new(sb, 0o555))
    }

    pub fn build_with(self, head: Head) -> Arc<dyn Inode> {
        Dir::new(head, self)
    }

    fn numbers(&self) -> impl Iterator<Item = (&[u8], u64, FileType)> {
        self.entries.iter().map(|(name, inode)| {
            let ino = inode.attr().map_or(0, |a| a.ino);
            (&name[..], ino, inode.kind())
        })
    }
}

impl Entries for StaticDir {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let found = self.entries.iter().find(|(n, _)| **n == *name);
        found.map(|(_, inode)| inode.clone()).ok_or(Errno::ENOENT)
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        list_table(0, self.numbers(), pos, emit);
        Ok(())
    }

    fn changes(&self) -> bool {
        false
    }

    fn nlink(&self) -> u32 {
        let dirs = self
            .entries
            .iter()
            .filter(|(_, i)| i.kind() == FileType::Dir);
        2 + u32::try_from(dirs.count()).unwrap_or(0)
    }
}
