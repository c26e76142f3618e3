//! Open files of a Gofer tree.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::fcntl::FallocateFlags;
use nix::unistd::Whence;
use parking_lot::Mutex;

use super::ahead::Directory;
use super::list::kind;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps, Seek, WriteAt, default_seek};
use crate::fs::inode::{Attr, DirEntry, Inode, SetAttr};
use crate::mm::io::{Sink, Source};
use crate::mm::mappable::{Backing, Mappable, MappingOwner, WriteIntent};
use crate::mm::types::page_up;

/// A regular file that the host has open for us.
pub struct HostFile {
    node: Arc<Node>,
    fd: Arc<OwnedFd>,
}

impl HostFile {
    pub(super) fn new(node: Arc<Node>, fd: Arc<OwnedFd>) -> HostFile {
        HostFile { node, fd }
    }
}

fn signed(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Errno::EINVAL)
}

fn host_size(fd: &OwnedFd) -> Result<u64> {
    let size = nix::sys::stat::fstat(fd)?.st_size;
    Ok(u64::try_from(size).unwrap_or(0))
}

impl FileOps for HostFile {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        dst.put_host(self.fd.as_fd(), Some(offset), dst.remaining())
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64)> {
        let _append = (at == WriteAt::End).then(|| self.node.append.lock());
        let offset = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::End => host_size(&self.fd)?,
        };
        let done = src.take_host(self.fd.as_fd(), Some(offset), src.remaining());
        self.node.stale();
        let done = done?;
        Ok((done, offset.saturating_add(done as u64)))
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        let whence = match whence {
            Seek::Set | Seek::Cur => return default_seek(0, whence, offset, current),
            Seek::End => return default_seek(host_size(&self.fd)?, whence, offset, current),
            Seek::Data => Whence::SeekData,
            Seek::Hole => Whence::SeekHole,
        };
        // The host's position is not used for anything.
        let at = nix::unistd::lseek(&self.fd, offset, whence)?;
        u64::try_from(at).map_err(|_| Errno::EIO)
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        Ok(Arc::new(HostMapping {
            node: self.node.clone(),
            fd: self.fd.clone(),
        }))
    }

    fn sync(&self, _file: &File) -> Result<()> {
        Ok(nix::unistd::fsync(&self.fd)?)
    }

    fn set_attr(&self, file: &File, change: &SetAttr) -> Result<()> {
        let mut change = *change;
        if let Some(size) = change.size.take_if(|_| file.flags().writable()) {
            nix::unistd::ftruncate(&self.fd, signed(size)?)?;
            self.node.stale();
        }
        if change == SetAttr::default() {
            return Ok(());
        }
        self.node.set_attr(&change)
    }

    fn attr(&self, _file: &File) -> Result<Option<Attr>> {
        self.node.attr_by(&self.fd).map(Some)
    }

    fn allocate(&self, _file: &File, mode: i32, offset: u64, len: u64) -> Result<()> {
        let flags = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        let done = nix::fcntl::fallocate(&self.fd, flags, signed(offset)?, signed(len)?);
        self.node.stale();
        Ok(done?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A host file as memory: the host's page cache, shared with everybody who maps it.
struct HostMapping {
    node: Arc<Node>,
    fd: Arc<OwnedFd>,
}

impl Mappable for HostMapping {
    fn backing(&self, offset: u64, len: u64, write: WriteIntent) -> Result<Backing> {
        let end = page_up(host_size(&self.fd)?).ok_or(Errno::EFAULT)?;
        if offset >= end {
            return Err(Errno::EFAULT);
        }
        if write == WriteIntent::Write {
            self.node.stale();
        }
        Ok(Backing {
            fd: self.fd.clone(),
            offset,
            len: len.min(end - offset),
            keep: None,
        })
    }

    // What is truncated away faults on the host; the next look finds the new size.
    fn add_owner(&self, _owner: Weak<dyn MappingOwner>) {}
    fn remove_owner(&self, _owner: &Weak<dyn MappingOwner>) {}

    fn sync(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(nix::unistd::fdatasync(&self.fd)?)
    }

    fn identity(&self) -> u64 {
        Arc::as_ptr(&self.node) as u64
    }
}

/// An open directory: its entries as they were when it was read from the start.
pub struct DirFile {
    node: Arc<Node>,
    listing: Mutex<Option<Arc<Directory>>>,
}

impl DirFile {
    pub(super) fn new(node: Arc<Node>) -> DirFile {
        DirFile {
            node,
            listing: Mutex::new(None),
        }
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
            None if !self.node.has_name() => return Ok(()),
            None => {
                let listing = self.node.listing()?;
                *self.listing.lock() = Some(listing.clone());
                listing
            }
        };
        let from = usize::try_from(pos).unwrap_or(usize::MAX);
        for (entry, next) in listing.listing.from(from).zip(pos.saturating_add(1)..) {
            let go_on = emit(DirEntry {
                name: entry.name,
                ino: entry.ino,
                kind: kind(&entry),
                next,
            });
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, _file: &File) -> Result<()> {
        self.node.sync_node()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
