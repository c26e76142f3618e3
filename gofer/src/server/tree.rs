//! Listing directories and what is below them, as much as fits one frame.
//!
//! The directories come in the order in which programs walk a tree (each before what is in it, in
//! the host's order), so that the client has the next ones before it is asked for them.

use std::{mem::MaybeUninit, os::fd::OwnedFd};

use rustix::fs::{OFlags, RawDir};

use super::{
    dir::{describe, dirent_type},
    mounts::{Dir, Mounts, Result, open_at},
    path::{Name, walk_names},
    xattr,
};
use crate::{
    protocol::{Errno, MAX_FRAME, MAX_TREE, NodeRef, ReadDirDetail},
    wire::TreeItem,
};

/// Room for the encoded directories; the rest of a frame is for what is before them.
const BODY_BYTES: usize = MAX_FRAME - 64;
/// How deep below its start a listing goes, and so how many directories are open at once.
const MAX_DEPTH: usize = 32;

/// A directory whose subdirectories are being listed.
struct Level<'a> {
    fd: Dir<'a>,
    /// Its number among the directories of the frame; `None`: the one asked about.
    number: Option<u32>,
    /// Subdirectories still to list, the next one last.
    left: Vec<Vec<u8>>,
}

/// The frame's body so far.
struct Body<'a> {
    bytes: &'a mut Vec<u8>,
    used: usize,
}

impl Body<'_> {
    /// `None`: the frame is full.
    fn put(&mut self, item: &TreeItem<'_>) -> Option<()> {
        let room = self.bytes.get_mut(self.used..)?;
        self.used += postcard::to_slice(item, room).ok()?.len();
        Some(())
    }
}

/// Lists `dir`, or if there are `names` those of its subdirectories, and what is below, at most
/// `count` directories, into `body`. A directory that cannot be read is left out, unless it is
/// the first. One that does not fit ends the listing; if it is the first, with `E2BIG`.
pub(super) fn list(
    mounts: &Mounts,
    dir: NodeRef<'_>,
    names: &[u8],
    count: u32,
    detail: ReadDirDetail,
    host_buffer: &mut [MaybeUninit<u8>],
    body: &mut Vec<u8>,
) -> Result<()> {
    let (mount, path) = mounts.get(dir)?;
    let names = walk_names(names)?;
    for name in &names {
        Name::new(name)?;
    }
    body.resize(BODY_BYTES, 0);
    let mut left = count.clamp(1, MAX_TREE);
    let mut next = 0;
    let mut body = Body {
        bytes: body,
        used: 0,
    };
    let mut levels = Vec::new();
    if names.is_empty() {
        let fd = mount.open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
        let head = TreeItem::Directory {
            above: None,
            name: b"",
        };
        let below = read(&fd, &head, detail, host_buffer, &mut body)?;
        left -= 1;
        next += 1;
        levels.push(Level {
            fd: Dir::Opened(fd),
            number: Some(0),
            left: below.ok_or(Errno(libc::E2BIG))?,
        });
    } else {
        levels.push(Level {
            fd: mount.dir(path)?,
            number: None,
            left: names.iter().rev().map(|name| name.to_vec()).collect(),
        });
    }
    while left > 0
        && let Some(level) = levels.last_mut()
    {
        let Some(name) = level.left.pop() else {
            levels.pop();
            continue;
        };
        let start = body.used;
        let head = TreeItem::Directory {
            above: level.number,
            name: &name,
        };
        let found = open_at(&level.fd, &name, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|fd| Ok((read(&fd, &head, detail, host_buffer, &mut body)?, fd)));
        match found {
            Ok((Some(below), fd)) => {
                if levels.len() < MAX_DEPTH && !below.is_empty() {
                    levels.push(Level {
                        fd: Dir::Opened(fd),
                        number: Some(next),
                        left: below,
                    });
                }
                left -= 1;
                next += 1;
            }
            Ok((None, _)) if next == 0 => return Err(Errno(libc::E2BIG)),
            Ok((None, _)) => {
                body.used = start;
                break;
            }
            Err(errno) if next == 0 => return Err(errno),
            Err(_) => {
                body.used = start;
                left -= 1;
            }
        }
    }
    let used = body.used;
    body.bytes.truncate(used);
    Ok(())
}

/// Lists one directory: the names of its subdirectories, the first one last; `None` if it does
/// not fit.
fn read(
    fd: &OwnedFd,
    head: &TreeItem<'_>,
    detail: ReadDirDetail,
    host_buffer: &mut [MaybeUninit<u8>],
    body: &mut Body<'_>,
) -> Result<Option<Vec<Vec<u8>>>> {
    if body.put(head).is_none() {
        return Ok(None);
    }
    let mut below = Vec::new();
    let mut raw = RawDir::new(fd, host_buffer);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let file_type = dirent_type(entry.file_type());
        let (attr, target) = describe(fd, name, file_type, detail);
        let item = TreeItem::Entry {
            name,
            ino: entry.ino(),
            file_type,
            attr,
            target: target.as_deref(),
            plain: detail == ReadDirDetail::All && xattr::is_plain(fd, entry.file_name()),
        };
        if body.put(&item).is_none() {
            return Ok(None);
        }
        if file_type == libc::DT_DIR {
            below.push(name.to_vec());
        }
    }
    below.reverse();
    Ok(Some(below))
}
