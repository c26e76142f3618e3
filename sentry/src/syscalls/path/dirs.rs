//! Directories: the current one, the root, reading entries. (inotify's calls are here too, see
//! [`crate::fs::inotify`].)

use super::{Args, CWD, Errno, Result, SysResult, Task, WalkFlags};
use crate::fs::file::File;
use crate::fs::inode::FileType;
use crate::fs::perm;
use crate::fs::readdir::read_dir;
use crate::kernel::cred::Cap;

pub async fn chdir(t: &Task, a: &Args) -> SysResult {
    let start = super::Start::new(t, CWD, a.u64(0))?;
    let place = start.lookup(WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    perm::check_search(place.inode(), &start.ctx.creds)?;
    t.fs().set_cwd(place);
    Ok(0)
}

pub async fn fchdir(t: &Task, a: &Args) -> SysResult {
    let place = t.any_file(a.int(0))?.path().clone();
    if !place.dentry.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    perm::check_search(place.inode(), &t.creds())?;
    t.fs().set_cwd(place);
    Ok(0)
}

pub async fn chroot(t: &Task, a: &Args) -> SysResult {
    let start = super::Start::new(t, CWD, a.u64(0))?;
    let place = start.lookup(WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    perm::check_search(place.inode(), &start.ctx.creds)?;
    if !start.ctx.creds.has_cap(Cap::SysChroot) {
        return Err(Errno::EPERM.into());
    }
    t.fs().set_root(place);
    Ok(0)
}

pub async fn getcwd(t: &Task, a: &Args) -> SysResult {
    let (root, cwd) = t.fs().places();
    let mut text = cwd.cwd_text(&root)?;
    text.push(0);
    if text.len() > libc::PATH_MAX as usize {
        return Err(Errno::ENAMETOOLONG.into());
    }
    if text.len() > a.len(1) {
        return Err(Errno::ERANGE.into());
    }
    t.mm().write_bytes(a.u64(0), &text)?;
    Ok(text.len() as u64)
}

/// Layout of the entries a call writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// struct linux_dirent: the type is the last byte.
    Old,
    /// struct linux_dirent64.
    New,
}

impl Layout {
    /// Bytes before the name.
    fn header(self) -> usize {
        match self {
            Layout::Old => 18,
            Layout::New => 19,
        }
    }

    fn record(self, out: &mut Vec<u8>, ino: u64, next: u64, kind: u8, name: &[u8]) {
        let start = out.len();
        let len = self.len(name);
        out.extend_from_slice(&ino.to_ne_bytes());
        out.extend_from_slice(&next.to_ne_bytes());
        out.extend_from_slice(&(len as u16).to_ne_bytes());
        if self == Layout::New {
            out.push(kind);
        }
        out.extend_from_slice(name);
        out.resize(start + len, 0);
        if self == Layout::Old {
            out[start + len - 1] = kind;
        }
    }

    /// Bytes of a record, a multiple of eight.
    fn len(self, name: &[u8]) -> usize {
        // NUL, and the type of the old layout.
        let tail = if self == Layout::Old { 2 } else { 1 };
        (self.header() + name.len() + tail).next_multiple_of(8)
    }
}

/// Most bytes of entries put together at once.
const MAX_BUFFER: usize = 256 << 10;

fn entries(t: &Task, a: &Args, layout: Layout) -> SysResult {
    let file = t.file(a.int(0))?;
    if file.inode().kind() != FileType::Dir {
        return Err(Errno::ENOTDIR.into());
    }
    if !file.flags().readable() {
        return Err(Errno::EBADF.into());
    }
    if file.path().dentry.is_deleted() {
        return Err(Errno::ENOENT.into());
    }
    let size = (a.len(2) & 0x7fff_ffff).min(MAX_BUFFER);
    let addr = a.u64(1);
    // Put together with the position locked, given to the guest afterwards.
    let (out, before) = collect(&file, layout, size)?;
    if let Err(e) = t.mm().write_bytes(addr, &out) {
        file.with_position(|pos| *pos = before);
        return Err(e.into());
    }
    Ok(out.len() as u64)
}

fn collect(file: &File, layout: Layout, size: usize) -> Result<(Vec<u8>, u64)> {
    file.with_position(|pos| {
        let before = *pos;
        let mut out = Vec::new();
        let mut full = false;
        read_dir(file, *pos, &mut |entry| {
            if out.len() + layout.len(entry.name) > size {
                full = true;
                return false;
            }
            let kind = entry.kind.map_or(0, FileType::dirent_type);
            layout.record(&mut out, entry.ino, entry.next, kind, entry.name);
            *pos = entry.next;
            true
        })?;
        if full && out.is_empty() {
            return Err(Errno::EINVAL);
        }
        Ok((out, before))
    })
}

pub async fn getdents(t: &Task, a: &Args) -> SysResult {
    entries(t, a, Layout::Old)
}

pub async fn getdents64(t: &Task, a: &Args) -> SysResult {
    entries(t, a, Layout::New)
}
