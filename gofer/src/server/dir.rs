//! Reading directories in pieces.
//!
//! A request names the directory and a cookie, so any channel can answer it. A channel remembers
//! the directory it read last: asked to go on there, it goes on in the same open directory, which
//! saves the open and, on file systems whose cookies are mere positions (overlayfs, older tmpfs),
//! keeps a removal between two pieces from hiding an entry.

use std::{mem::MaybeUninit, os::fd::OwnedFd};

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom};

use super::{
    lookup::link_target,
    mounts::{Mounts, Result, stat_at},
    tree,
};
use crate::protocol::{
    Attr, DirChunk, DirEntry, Errno, MAX_FRAME, MountId, NodeRef, ReadDirDetail,
};

/// Room for the encoded entries of a piece; the rest of a frame is for what is around them.
const CHUNK_BYTES: usize = MAX_FRAME - 64;
/// Bytes of directory asked from the host at once.
const HOST_BYTES: usize = 32 * 1024;

/// A directory being read.
#[derive(Debug)]
struct Stream {
    mount: MountId,
    path: Vec<u8>,
    fd: OwnedFd,
    /// Where the next piece starts.
    cookie: u64,
}

/// One channel's reader.
#[derive(Debug, Default)]
pub(super) struct Reader {
    last: Option<Stream>,
    host_buffer: Vec<MaybeUninit<u8>>,
    /// What follows [`crate::wire::Reply::Tree`].
    body: Vec<u8>,
}

impl Reader {
    pub fn read(
        &mut self,
        mounts: &Mounts,
        node: NodeRef<'_>,
        cookie: u64,
        detail: ReadDirDetail,
    ) -> Result<DirChunk> {
        let mut stream = self.stream(mounts, node, cookie)?;
        self.host_buffer.resize(HOST_BYTES, MaybeUninit::uninit());
        let chunk = fill(&mut stream, &mut self.host_buffer, detail)?;
        if !chunk.end {
            self.last = Some(stream);
        }
        Ok(chunk)
    }

    /// See [`tree::list`]; [`Reader::body`] is the answer.
    pub fn list_tree(
        &mut self,
        mounts: &Mounts,
        dir: NodeRef<'_>,
        names: &[u8],
        count: u32,
        detail: ReadDirDetail,
    ) -> Result<()> {
        self.host_buffer.resize(HOST_BYTES, MaybeUninit::uninit());
        let (buffer, body) = (&mut self.host_buffer, &mut self.body);
        let listed = tree::list(mounts, dir, names, count, detail, buffer, body);
        if listed.is_err() {
            self.body.clear();
        }
        listed
    }

    /// The rest of the frame that is about to be sent.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub fn clear_body(&mut self) {
        self.body.clear();
    }

    /// The stream that stands at `cookie`.
    fn stream(&mut self, mounts: &Mounts, node: NodeRef<'_>, cookie: u64) -> Result<Stream> {
        if let Some(last) = self.last.take()
            && cookie != 0
            && (last.mount, &last.path[..], last.cookie) == (node.mount, node.path, cookie)
        {
            return Ok(last);
        }
        let (mount, path) = mounts.get(node)?;
        let fd = mount.open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
        if cookie != 0 {
            rustix::fs::seek(&fd, SeekFrom::Start(cookie))?;
        }
        Ok(Stream {
            mount: node.mount,
            path: node.path.to_vec(),
            fd,
            cookie,
        })
    }
}

/// Reads entries until a frame is full or the directory ends.
fn fill(
    stream: &mut Stream,
    host_buffer: &mut [MaybeUninit<u8>],
    detail: ReadDirDetail,
) -> Result<DirChunk> {
    let mut entries = Vec::new();
    let mut room = CHUNK_BYTES;
    let mut raw = RawDir::new(&stream.fd, host_buffer);
    let full = loop {
        let Some(entry) = raw.next() else {
            break false;
        };
        let entry = entry?;
        let cookie = entry.next_entry_cookie();
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            stream.cookie = cookie;
            continue;
        }
        let file_type = dirent_type(entry.file_type());
        let (attr, target) = describe(&stream.fd, name, file_type, detail);
        let found = DirEntry {
            name: name.to_vec(),
            ino: entry.ino(),
            file_type,
            cookie,
            attr,
            target,
        };
        let size = postcard::experimental::serialized_size(&found);
        match size.ok().and_then(|size| room.checked_sub(size)) {
            Some(rest) => room = rest,
            None if entries.is_empty() => return Err(Errno(libc::EIO)),
            None => break true,
        }
        stream.cookie = cookie;
        entries.push(found);
    };
    if full {
        // The host has read ahead of what fits.
        rustix::fs::seek(&stream.fd, SeekFrom::Start(stream.cookie))?;
    }
    Ok(DirChunk {
        entries,
        end: !full,
    })
}

/// What `detail` asks about the entry `name` of `dir`.
pub(super) fn describe(
    dir: &OwnedFd,
    name: &[u8],
    file_type: u8,
    detail: ReadDirDetail,
) -> (Option<Attr>, Option<Vec<u8>>) {
    let wanted = match detail {
        ReadDirDetail::Names => false,
        ReadDirDetail::Directories => matches!(file_type, libc::DT_DIR | libc::DT_UNKNOWN),
        ReadDirDetail::Attributes | ReadDirDetail::All => true,
    };
    if !wanted {
        return (None, None);
    }
    let attr = stat_at(dir, name).ok();
    let is_symlink = attr.is_some_and(|attr| attr.is_symlink());
    let target = is_symlink.then(|| link_target(dir, name).ok());
    (attr, target.flatten())
}

pub(super) fn dirent_type(file_type: FileType) -> u8 {
    match file_type {
        FileType::RegularFile => libc::DT_REG,
        FileType::Directory => libc::DT_DIR,
        FileType::Symlink => libc::DT_LNK,
        FileType::Fifo => libc::DT_FIFO,
        FileType::Socket => libc::DT_SOCK,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::BlockDevice => libc::DT_BLK,
        FileType::Unknown => libc::DT_UNKNOWN,
    }
}
