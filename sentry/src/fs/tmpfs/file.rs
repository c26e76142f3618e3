//! Open files of tmpfs.

use std::any::Any;
use std::sync::Arc;

use super::data::Data;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps, Seek, WriteAt};
use crate::fs::inode::{DirEntry, Inode};
use crate::fs::meta::Meta;
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::Mappable;

/// An open regular file.
pub struct RegularFile {
    node: Arc<Node>,
    data: Arc<Data>,
}

impl RegularFile {
    pub(super) fn new(node: Arc<Node>) -> Result<RegularFile> {
        let data = node.data().ok_or(Errno::EINVAL)?.clone();
        Ok(RegularFile { node, data })
    }
}

impl FileOps for RegularFile {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        self.data.read_at(dst, offset)
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64)> {
        let done = self.data.write_at(src, at, u64::MAX)?;
        if done.0 > 0 {
            self.node.update(Meta::modified);
        }
        Ok(done)
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        self.data.seek(whence, offset, current)
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        Ok(self.data.clone())
    }

    fn sync(&self, _file: &File) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, _file: &File, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.data.allocate(mode, offset, len)?;
        self.node.update(Meta::modified);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory.
pub struct DirFile(pub(super) Arc<Node>);

impl FileOps for DirFile {
    fn readdir(
        &self,
        _file: &File,
        pos: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let entries = self.0.entries()?.lock();
        for (at, (name, node)) in entries.by_pos.range(pos..) {
            let go_on = emit(DirEntry {
                name,
                ino: node.ino(),
                kind: Some(node.kind()),
                next: at + 1,
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
