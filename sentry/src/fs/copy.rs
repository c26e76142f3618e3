//! Copying trees from one file system to another, below the VFS: for a tmpfs that begins with what
//! it covers, and for the changes of an overlay that are to outlive the sandbox.
//!
//! Contents, types, owners, permission bits and modification times are copied; extended attributes
//! and further names of a file are not. What cannot be copied is told and left out.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::anon::internal_file;
use crate::fs::file::{File, Seek};
use crate::fs::inode::{Attr, FileType, Inode, NewNode, OpenFlags, SetAttr, SetTime};
use crate::mm::io::{Sink, Source};

/// Bytes copied at once.
const CHUNK: usize = 64 << 10;

/// What the copy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For the guest: everything is as it was.
    Guest,
    /// For the host: without set-id bits, and with owners as far as files may be given away.
    Host,
}

/// A copy under way.
pub struct Copier<'a> {
    purpose: Purpose,
    /// Told about what could not be copied: the path, and why.
    problem: &'a mut dyn FnMut(&[u8], Errno),
    /// Directories whose attributes are set at the end, when nothing is made in them any more.
    finish: Vec<(Arc<dyn Inode>, Vec<u8>, Attr)>,
}

impl<'a> Copier<'a> {
    pub fn new(purpose: Purpose, problem: &'a mut dyn FnMut(&[u8], Errno)) -> Copier<'a> {
        Copier {
            purpose,
            problem,
            finish: Vec::new(),
        }
    }

    /// Copies what is in `from` to `to`, both directories. No recursion: whoever made the tree
    /// decided how deep it is.
    pub fn contents(&mut self, from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, path: &[u8]) {
        let mut left = vec![(from.clone(), to.clone(), path.to_vec())];
        while let Some((from, to, path)) = left.pop() {
            for name in self.told(&path, names(&from)).unwrap_or_default() {
                let below = join(&path, &name);
                let Some(child) = self.told(&below, from.lookup(&name)) else {
                    continue;
                };
                if let Some(made) = self.one(&child, &to, &name, &below)
                    && child.kind() == FileType::Dir
                {
                    left.push((child, made, below));
                }
            }
        }
    }

    /// Copies one file, or makes an empty directory like it.
    pub fn one(
        &mut self,
        from: &Arc<dyn Inode>,
        to: &Arc<dyn Inode>,
        name: &[u8],
        path: &[u8],
    ) -> Option<Arc<dyn Inode>> {
        let made = self.make(from, to, name, path);
        self.told(path, made)
    }

    fn make(
        &mut self,
        from: &Arc<dyn Inode>,
        to: &Arc<dyn Inode>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Arc<dyn Inode>> {
        let attr = from.attr()?;
        let root = to.attr()?;
        // Whose the directory is may make something in it; the true owner follows.
        let new = NewNode {
            perm: match attr.kind {
                FileType::Dir => 0o700,
                _ => 0o600,
            },
            uid: root.uid,
            gid: root.gid,
        };
        let made = match attr.kind {
            FileType::Dir => to.mkdir(name, &new)?,
            FileType::Symlink => to.symlink(name, &new, &from.readlink()?)?,
            FileType::Regular => {
                let made = to.create(name, &new)?;
                copy_content(from, &made)?;
                made
            }
            FileType::Fifo => to.mknod(name, &new, attr.kind, attr.rdev)?,
            FileType::Char | FileType::Block => to.mknod(name, &new, attr.kind, attr.rdev)?,
            // It was somebody's to listen on.
            FileType::Socket | FileType::Anonymous => return Err(Errno::EOPNOTSUPP),
        };
        if attr.kind == FileType::Dir {
            self.finish.push((made.clone(), path.to_vec(), attr));
        } else {
            let set = self.attributes(&made, &attr);
            self.told(path, set);
        }
        Ok(made)
    }

    /// Tells about a problem of the caller's.
    pub fn problem(&mut self, path: &[u8], errno: Errno) {
        (self.problem)(path, errno);
    }

    /// Sets the attributes of directories, innermost first.
    pub fn finish(mut self) {
        while let Some((inode, path, attr)) = self.finish.pop() {
            let set = self.attributes(&inode, &attr);
            self.told(&path, set);
        }
    }

    fn attributes(&self, inode: &Arc<dyn Inode>, attr: &Attr) -> Result<()> {
        let now = inode.attr()?;
        let perm = match self.purpose {
            Purpose::Guest => attr.perm,
            Purpose::Host => attr.perm & 0o1777,
        };
        if (now.uid, now.gid) != (attr.uid, attr.gid) {
            let given = inode.set_attr(&SetAttr {
                uid: Some(attr.uid),
                gid: Some(attr.gid),
                ..Default::default()
            });
            match given {
                Err(Errno::EPERM | Errno::EINVAL) if self.purpose == Purpose::Host => {}
                given => given?,
            }
        }
        if attr.kind == FileType::Symlink {
            return Ok(());
        }
        inode.set_attr(&SetAttr {
            perm: Some(perm),
            ..Default::default()
        })?;
        inode.set_attr(&SetAttr {
            mtime: Some(SetTime::At(attr.mtime)),
            ..Default::default()
        })
    }

    fn told<T>(&mut self, path: &[u8], result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(errno) => {
                (self.problem)(path, errno);
                None
            }
        }
    }
}

pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

/// Names in a directory, without `.` and `..`.
pub fn names(dir: &Arc<dyn Inode>) -> Result<Vec<Vec<u8>>> {
    let file = internal_file(dir.clone(), OpenFlags::DIRECTORY)?;
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut pos = 0;
    loop {
        let mut more = false;
        file.ops().readdir(&file, pos, &mut |entry| {
            more = true;
            pos = entry.next;
            if !matches!(entry.name, b"." | b"..") {
                names.push(entry.name.to_vec());
            }
            true
        })?;
        if !more {
            return Ok(names);
        }
    }
}

fn copy_content(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>) -> Result<()> {
    let from = internal_file(from.clone(), OpenFlags::empty())?;
    let to = internal_file(to.clone(), OpenFlags::from_bits_retain(libc::O_WRONLY))?;
    let mut buf = vec![0; CHUNK];
    let mut at = 0;
    // Holes stay holes: a guest's file may be larger than any disk.
    while let Ok(data) = from.seek(Seek::Data, at) {
        let hole = from.seek(Seek::Hole, signed(data)?)?;
        copy_range(&from, &to, data, hole, &mut buf)?;
        at = signed(hole)?;
    }
    let size = Some(from.attr()?.size);
    let size = SetAttr {
        size,
        ..Default::default()
    };
    to.inode().set_attr(&size)
}

fn signed(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)
}

fn copy_range(from: &File, to: &File, mut at: u64, end: u64, buf: &mut [u8]) -> Result<()> {
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(buf.len());
        let n = from.pread(&mut Sink::kernel(&mut buf[..want]), at)?;
        if n == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < n {
            let offset = at + done as u64;
            match to.pwrite(&mut Source::kernel(&buf[done..n]), offset)? {
                0 => return Err(Errno::EIO),
                some => done += some,
            }
        }
        at += n as u64;
    }
    Ok(())
}
