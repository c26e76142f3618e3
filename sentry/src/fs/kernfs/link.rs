//! Symlinks of synthetic trees, ordinary and magic ones.

use std::sync::Arc;

use super::{Head, inode_basics};
use crate::errno::{Errno, Result};
use crate::fs::file::FileOps;
use crate::fs::inode::{Attr, FileType, Inode, MagicTarget, OpenFlags};

type TextOf = Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
type TargetOf = Box<dyn Fn() -> Result<MagicTarget> + Send + Sync>;

/// A synthetic symlink.
pub struct Link {
    pub(super) head: Head,
    text: TextOf,
    target: Option<TargetOf>,
}

impl Link {
    /// Leads where its text says, which is made on each look.
    pub fn new(
        head: Head,
        text: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(Link {
            head,
            text: Box::new(text),
            target: None,
        })
    }

    /// Leads to `target` whatever its text.
    pub fn magic(
        head: Head,
        text: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        target: impl Fn() -> Result<MagicTarget> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(Link {
            head,
            text: Box::new(text),
            target: Some(Box::new(target)),
        })
    }

    /// With a text that never changes.
    pub fn fixed(head: Head, text: &'static str) -> Arc<dyn Inode> {
        Link::new(head, move || Ok(text.as_bytes().to_vec()))
    }
}

impl Inode for Link {
    fn attr(&self) -> Result<Attr> {
        Ok(self.head.attr(FileType::Symlink, 1))
    }

    fn kind(&self) -> FileType {
        FileType::Symlink
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        Err(Errno::ELOOP)
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        (self.text)()
    }

    fn magic_link(&self) -> Option<Result<MagicTarget>> {
        self.target.as_ref().map(|target| target())
    }

    inode_basics!();
}
