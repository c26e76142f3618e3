//! Open files of an overlay.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::node::Node;
use crate::errno::Result;
use crate::fs::anon::internal_file;
use crate::fs::file::{File, FileOps, Seek, WriteAt};
use crate::fs::inode::{DirEntry, FileType, Inode, OpenFlags};
use crate::fs::meta::Meta;
use crate::fs::tmpfs::data::Data;
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::Mappable;

/// An open regular file; the same [`Data`] before and after it is copied up.
pub struct RegularFile {
    node: Arc<Node>,
    data: Arc<Data>,
}

impl RegularFile {
    pub(super) fn new(node: Arc<Node>, data: Arc<Data>) -> RegularFile {
        RegularFile { node, data }
    }
}

impl FileOps for RegularFile {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        self.data.read_at(dst, offset)
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64)> {
        let data = self.node.own_content(Some(&self.data))?;
        let done = data.write_at(src, at, u64::MAX)?;
        if done.0 > 0 {
            self.node.update(Meta::modified)?;
        }
        Ok(done)
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        if let Some(base) = self.data.pristine_base() {
            return base.ops().seek(&base, whence, offset, current);
        }
        self.data.seek(whence, offset, current)
    }

    fn mappable(&self, file: &File) -> Result<Arc<dyn Mappable>> {
        if file.flags().writable() {
            self.node.own_content(Some(&self.data))?;
        }
        Ok(self.data.clone())
    }

    fn sync(&self, _file: &File) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, _file: &File, mode: i32, offset: u64, len: u64) -> Result<()> {
        let data = self.node.own_content(Some(&self.data))?;
        data.allocate(mode, offset, len)?;
        self.node.update(Meta::modified)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What an open directory shows.
#[derive(Clone)]
enum Listing {
    /// What this file of the lower directory does: nothing has been changed in ours so far.
    Lower(Arc<File>),
    Merged(Arc<Vec<Listed>>),
}

struct Listed {
    name: Box<[u8]>,
    ino: u64,
    kind: Option<FileType>,
}

/// An open directory: the merged entries as they were when it was read from the start. Entries
/// removed since are left out, so that what is listed can be opened.
pub struct DirFile {
    node: Arc<Node>,
    listing: Mutex<Option<Listing>>,
}

impl DirFile {
    pub(super) fn new(node: Arc<Node>) -> DirFile {
        DirFile {
            node,
            listing: Mutex::new(None),
        }
    }

    fn list(&self) -> Result<Listing> {
        let unchanged = self.node.entries.lock().is_empty();
        if let (true, Some(lower)) = (unchanged, &self.node.lower) {
            let file = internal_file(lower.clone(), OpenFlags::DIRECTORY)?;
            return Ok(Listing::Lower(file));
        }
        let mut listing = Vec::new();
        self.node.each_lower(&mut |name, ino, kind| {
            let name = name.into();
            listing.push(Listed { name, ino, kind });
            true
        })?;
        for (name, node) in self.node.entries.lock().nodes() {
            listing.push(Listed {
                name: name.into(),
                ino: node.ino(),
                kind: Some(node.kind()),
            });
        }
        Ok(Listing::Merged(Arc::new(listing)))
    }

    fn is_gone(&self, name: &[u8]) -> bool {
        let entries = self.node.entries.lock();
        entries.get(name).is_some_and(|e| e.node.is_none())
    }
}

impl FileOps for DirFile {
    fn readdir(
        &self,
        _file: &File,
        pos: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let known = self.listing.lock().clone().filter(|_| pos != 0);
        let listing = match known {
            Some(listing) => listing,
            None => {
                let listing = self.list()?;
                *self.listing.lock() = Some(listing.clone());
                listing
            }
        };
        let listing = match listing {
            Listing::Lower(file) => {
                let mut each = |entry: DirEntry<'_>| self.is_gone(entry.name) || emit(entry);
                return file.ops().readdir(&file, pos, &mut each);
            }
            Listing::Merged(listing) => listing,
        };
        let from = usize::try_from(pos).unwrap_or(usize::MAX);
        for (i, entry) in listing.iter().enumerate().skip(from) {
            let go_on = self.is_gone(&entry.name)
                || emit(DirEntry {
                    name: &entry.name,
                    ino: entry.ino,
                    kind: entry.kind,
                    next: i as u64 + 1,
                });
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, _file: &File) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
