//! Files whose content is made when they are read, and writes that change a setting.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Head, inode_basics};
use crate::errno::{Errno, Result};
use crate::fs::file::{File, FileOps, Seek, WriteAt, default_seek};
use crate::fs::inode::{Attr, FileType, Inode, OpenFlags};
use crate::mm::io::{Sink, Source};

/// Most bytes of one write.
const MAX_WRITE: usize = 64 << 10;

type Read = dyn Fn() -> Result<Vec<u8>> + Send + Sync;
type Write = dyn Fn(&[u8]) -> Result<usize> + Send + Sync;
type Open = dyn Fn(OpenFlags) -> Result<Arc<dyn FileOps>> + Send + Sync;

enum Body {
    Text {
        read: Arc<Read>,
        write: Option<Arc<Write>>,
    },
    /// Open files of their own.
    Open(Box<Open>),
}

/// A synthetic regular file.
pub struct Text {
    pub(super) head: Head,
    body: Body,
}

impl Text {
    /// Read only.
    pub fn made(
        head: Head,
        read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(Text {
            head,
            body: Body::Text {
                read: Arc::new(read),
                write: None,
            },
        })
    }

    /// `write` gets what one write(2) passes and says how much of it it took.
    pub fn writable(
        head: Head,
        read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        write: impl Fn(&[u8]) -> Result<usize> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(Text {
            head,
            body: Body::Text {
                read: Arc::new(read),
                write: Some(Arc::new(write)),
            },
        })
    }

    /// With a text that never changes.
    pub fn fixed(head: Head, text: impl Into<Vec<u8>>) -> Arc<dyn Inode> {
        let text = text.into();
        Text::made(head, move || Ok(text.clone()))
    }

    /// What is open is up to `open`.
    pub fn opened(
        head: Head,
        open: impl Fn(OpenFlags) -> Result<Arc<dyn FileOps>> + Send + Sync + 'static,
    ) -> Arc<dyn Inode> {
        Arc::new(Text {
            head,
            body: Body::Open(Box::new(open)),
        })
    }
}

impl Inode for Text {
    fn attr(&self) -> Result<Attr> {
        Ok(self.head.attr(FileType::Regular, 1))
    }

    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        match &self.body {
            Body::Text { read, write } => Ok(Arc::new(Generated {
                read: read.clone(),
                write: write.clone(),
                unwritable: match self.head.owner {
                    Some(_) => Errno::EINVAL,
                    None => Errno::EIO,
                },
                text: Mutex::default(),
            })),
            Body::Open(open) => open(flags),
        }
    }

    inode_basics!();
}

/// An open file with made content: made anew by each read from the start, kept for the reads that
/// go on from there, so that these fit together.
pub struct Generated {
    read: Arc<Read>,
    write: Option<Arc<Write>>,
    /// What a write fails with where none is possible.
    unwritable: Errno,
    text: Mutex<Option<Arc<Vec<u8>>>>,
}

impl Generated {
    /// For [`Text::opened`].
    pub fn ops(read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Arc<dyn FileOps> {
        Arc::new(Generated {
            read: Arc::new(read),
            write: None,
            unwritable: Errno::EINVAL,
            text: Mutex::default(),
        })
    }

    fn text(&self, offset: u64) -> Result<Arc<Vec<u8>>> {
        let kept = self.text.lock().clone();
        if let (Some(text), true) = (kept, offset > 0) {
            return Ok(text);
        }
        let text = Arc::new((self.read)()?);
        *self.text.lock() = Some(text.clone());
        Ok(text)
    }
}

impl FileOps for Generated {
    fn read_at(&self, _file: &File, dst: &mut Sink<'_>, offset: u64) -> Result<usize> {
        let text = self.text(offset)?;
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(text.len());
        let n = dst.remaining().min(text.len() - from);
        if n == 0 {
            return Ok(0);
        }
        dst.put(&text[from..from + n])
    }

    fn write_at(&self, _file: &File, src: &mut Source<'_>, at: WriteAt) -> Result<(usize, u64)> {
        let write = self.write.as_ref().ok_or(self.unwritable)?;
        let mut data = vec![0; src.remaining().min(MAX_WRITE)];
        let n = src.take(&mut data)?;
        data.truncate(n);
        let taken = write(&data)?;
        let from = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::End => 0,
        };
        Ok((taken, from.saturating_add(taken as u64)))
    }

    fn seek(&self, _file: &File, whence: Seek, offset: i64, current: u64) -> Result<u64> {
        match whence {
            Seek::Set | Seek::Cur => default_seek(0, whence, offset, current),
            Seek::End | Seek::Data | Seek::Hole => Err(Errno::EINVAL),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
