//! Attributes and extended attributes of an inode that lives in memory.

use std::collections::BTreeMap;

use crate::errno::{Errno, Result};
use crate::fs::inode::{Attr, Dev, FileType, NewNode, SetAttr, SetTime, Timestamp, XattrFlags};
use crate::kernel::cred::{Gid, Uid};
use crate::kernel::exec_creds::FILE_CAPS;

/// Most bytes of names and values of one inode's extended attributes.
const MAX_XATTRS: usize = 128 << 10;

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Meta {
    pub perm: u32,
    pub uid: Uid,
    pub gid: Gid,
    pub nlink: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Option<Timestamp>,
    xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

/// What an inode knows of itself that never changes, and its size.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub kind: FileType,
    pub ino: u64,
    pub dev: Dev,
    pub rdev: Dev,
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
}

impl Meta {
    pub fn new(node: &NewNode, nlink: u32) -> Meta {
        let now = Timestamp::now();
        Meta {
            perm: node.perm,
            uid: node.uid,
            gid: node.gid,
            nlink,
            atime: now,
            mtime: now,
            ctime: now,
            btime: Some(now),
            xattrs: BTreeMap::new(),
        }
    }

    /// A copy of another inode's attributes.
    pub fn copy_of(attr: &Attr) -> Meta {
        Meta {
            perm: attr.perm,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
            xattrs: BTreeMap::new(),
        }
    }

    pub fn attr(&self, id: Identity) -> Attr {
        Attr {
            kind: id.kind,
            perm: self.perm,
            ino: id.ino,
            dev: id.dev,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: id.rdev,
            size: id.size,
            blocks: id.blocks,
            blksize: 4096,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
        }
    }

    /// Everything of `change` but the size.
    pub fn apply(&mut self, change: &SetAttr) {
        let now = Timestamp::now();
        let time = |new: Option<SetTime>, old: Timestamp| match new {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(t)) => t,
        };
        self.perm = change.perm.unwrap_or(self.perm);
        self.uid = change.uid.unwrap_or(self.uid);
        self.gid = change.gid.unwrap_or(self.gid);
        self.atime = time(change.atime, self.atime);
        self.mtime = time(change.mtime, self.mtime);
        if change.size.is_some() && change.mtime.is_none() {
            self.mtime = now;
        }
        self.ctime = now;
    }

    /// The content changed.
    pub fn modified(&mut self) {
        let now = Timestamp::now();
        self.mtime = now;
        self.ctime = now;
    }

    /// Something but the content changed.
    pub fn changed(&mut self) {
        self.ctime = Timestamp::now();
    }

    /// The content was read. Relatime: noted only if it was not read since the last change, or not
    /// for a day.
    pub fn accessed(&mut self, strict: bool) {
        let now = Timestamp::now();
        let stale = self.atime <= self.mtime
            || self.atime <= self.ctime
            || now.sec.saturating_sub(self.atime.sec) >= 24 * 3600;
        if strict || stale {
            self.atime = now;
        }
    }

    pub fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let value = self.xattrs.get(name).ok_or(Errno::ENODATA)?;
        Ok(value.to_vec())
    }

    pub fn set_xattr(&mut self, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        if name.starts_with(b"system.") {
            return Err(Errno::EOPNOTSUPP);
        }
        let exists = self.xattrs.contains_key(name);
        if flags.contains(XattrFlags::CREATE) && exists {
            return Err(Errno::EEXIST);
        }
        if flags.contains(XattrFlags::REPLACE) && !exists {
            return Err(Errno::ENODATA);
        }
        let used: usize = self.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
        if used.saturating_add(name.len() + value.len()) > MAX_XATTRS {
            return Err(Errno::ENOSPC);
        }
        self.xattrs.insert(name.into(), value.into());
        self.changed();
        Ok(())
    }

    pub fn list_xattr(&self) -> Vec<Vec<u8>> {
        self.xattrs.keys().map(|n| n.to_vec()).collect()
    }

    pub fn remove_xattr(&mut self, name: &[u8]) -> Result<()> {
        self.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        self.changed();
        Ok(())
    }

    pub fn drop_file_caps(&mut self) {
        if !self.xattrs.is_empty() {
            self.xattrs.remove(FILE_CAPS);
        }
    }

    /// Takes over an attribute of the file this is a copy of.
    pub fn copy_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.xattrs.insert(name.into(), value.into());
    }
}
