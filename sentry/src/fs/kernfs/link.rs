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
    body: Body,
}

enum Body {
    Text(TextOf),
    Place(TargetOf),
}

impl Link {
    /// Leads where its text says, which is made on each look.
    pub fn made(
        head: Head,
        text: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(Link {
            head,
            body: Body::Text(Box::new(text)),
        })
    }

    /// Leads to `target`; what text that has is the VFS's affair.
    pub fn magic(
        head: Head,
        target: impl Fn() -> Result<MagicTarget> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(Link {
            head,
            body: Body::Place(Box::new(target)),
        })
    }

    /// With a text that never changes.
    pub fn fixed(head: Head, text: &'static str) -> Arc<dyn Inode> {
        Link::made(head, move || Ok(text.as_bytes().to_vec()))
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
        match &self.body {
            Body::Text(text) => text(),
            Body::Place(_) => Err(Errno::EINVAL),
        }
    }

    fn magic_link(&self) -> Option<Result<MagicTarget>> {
        match &self.body {
            Body::Text(_) => None,
            Body::Place(target) => Some(target()),
        }
    }

    inode_basics!();
}
