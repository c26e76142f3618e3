//! /proc/PID/fd and fdinfo (proc_pid_fd(5), proc_pid_fdinfo(5)).

use std::sync::Arc;

use super::subject::{OwnerBits, ProcessOwner, Subject};
use crate::errno::{Errno, Result};
use crate::fs::fdtable::Exec;
use crate::fs::file::File;
use crate::fs::inode::{DirEntry, FileType, Inode, MagicTarget, OpenFlags};
use crate::fs::kernfs::{Dir, Entries, Head, Link, Super, Text, list_table, number};

/// st_size of a link in fd.
const LINK_SIZE: u64 = 64;
const CLASS_LINK: u64 = 100;
const CLASS_INFO: u64 = 101;

/// Which of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Links,
    Info,
}

struct Fds {
    sb: Arc<Super>,
    subject: Subject,
    kind: Kind,
}

/// The directory with number `ino`.
pub fn dir(sb: &Arc<Super>, subject: &Subject, kind: Kind, ino: u64) -> Arc<dyn Inode> {
    let (perm, bits) = match kind {
        Kind::Links => (0o500, OwnerBits::OwnThreads),
        Kind::Info => (0o555, OwnerBits::Private),
    };
    let head = Head::numbered(sb, ino, perm).owned(owner(subject, bits));
    Dir::new(
        head,
        Fds {
            sb: sb.clone(),
            subject: subject.clone(),
            kind,
        },
    )
}

fn owner(subject: &Subject, bits: OwnerBits) -> Arc<ProcessOwner> {
    Arc::new(ProcessOwner {
        subject: subject.clone(),
        bits,
    })
}

fn file(subject: &Subject, fd: i32) -> Result<Arc<File>> {
    let files = subject.files().map_err(|_| Errno::ENOENT)?;
    files.get_any(fd).map_err(|_| Errno::ENOENT)
}

impl Fds {
    /// A number may become another file: the bits are part of the inode's number.
    fn link(&self, fd: i32, flags: OpenFlags) -> Arc<dyn Inode> {
        let path = flags.contains(OpenFlags::PATH);
        let readable = if flags.readable() || path { 0o500 } else { 0 };
        let writable = if flags.writable() || path { 0o300 } else { 0 };
        let perm = readable | writable;
        let ino = self.link_ino(fd, perm);
        let head = Head::numbered(&self.sb, ino, perm)
            .owned(owner(&self.subject, OwnerBits::Private))
            .sized(LINK_SIZE);
        let subject = self.subject.clone();
        Link::magic(head, move || {
            subject.check_look()?;
            Ok(MagicTarget::File(file(&subject, fd)?))
        })
    }

    fn link_ino(&self, fd: i32, perm: u32) -> u64 {
        self.subject
            .ino(CLASS_LINK, (fd as u64) << 16 | u64::from(perm))
    }

    fn info(&self, fd: i32) -> Arc<dyn Inode> {
        let ino = self.subject.ino(CLASS_INFO, fd as u64);
        let head =
            Head::numbered(&self.sb, ino, 0o444).owned(owner(&self.subject, OwnerBits::Private));
        let subject = self.subject.clone();
        Text::made(head, move || info(&subject, fd))
    }
}

/// The text of /proc/PID/fdinfo/FD.
fn info(subject: &Subject, fd: i32) -> Result<Vec<u8>> {
    let files = subject.files().map_err(|_| Errno::ENOENT)?;
    let (file, exec) = files.get_with_exec(fd).map_err(|_| Errno::ENOENT)?;
    let mut flags = file.flags().bits();
    if exec == Exec::Close {
        flags |= libc::O_CLOEXEC;
    }
    // What open(2) sets on a 64-bit machine; pipes and the like are not opened.
    let opened = !matches!(
        file.path().mount.fs.kind,
        "pipefs" | "sockfs" | "anon_inodefs"
    );
    if opened {
        flags |= OpenFlags::LARGEFILE.bits();
    }
    let ino = file.attr().map_or(0, |a| a.ino);
    let mut text = format!(
        "pos:\t{}\nflags:\t0{:o}\nmnt_id:\t{}\nino:\t{ino}\n",
        file.position(),
        flags,
        file.path().mount.id,
    );
    text.push_str(&file.ops().fdinfo(&file));
    Ok(text.into_bytes())
}

impl Entries for Fds {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let fd = number(name).ok_or(Errno::ENOENT)?;
        let file = file(&self.subject, fd)?;
        Ok(match self.kind {
            Kind::Links => self.link(fd, file.flags()),
            Kind::Info => self.info(fd),
        })
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let files = match self.subject.files() {
            Ok(files) => files,
            // A zombie has none left.
            Err(e) => return self.subject.group().map(drop).map_err(|_| e),
        };
        // The position is the number, so that closing some on the way skips nothing.
        for fd in files.numbers() {
            if (fd as u64) < pos {
                continue;
            }
            let (ino, kind) = match self.kind {
                Kind::Links => (self.subject.ino(CLASS_LINK, fd as u64), FileType::Symlink),
                Kind::Info => (self.subject.ino(CLASS_INFO, fd as u64), FileType::Regular),
            };
            let name = fd.to_string();
            let one = std::iter::once((name.as_bytes(), ino, kind));
            if !list_table(fd as u64, one, pos, emit) {
                break;
            }
        }
        Ok(())
    }

    fn open(&self) -> Result<()> {
        match self.kind {
            Kind::Links => Ok(()),
            Kind::Info => self.subject.check_look(),
        }
    }

    fn size(&self) -> u64 {
        match (self.kind, self.subject.files()) {
            (Kind::Links, Ok(files)) => files.numbers().len() as u64,
            _ => 0,
        }
    }
}
