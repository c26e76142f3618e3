//! /proc/PID/ns (namespaces(7)): one namespace of each kind but the mount namespace, with the numbers
//! Linux gives its first ones.

use std::sync::{Arc, OnceLock};

use super::subject::{OwnerBits, ProcessOwner, Subject};
use crate::errno::{Errno, Result};
use crate::fs::dentry::Dentry;
use crate::fs::inode::{DirEntry, FileType, Inode, MagicTarget};
use crate::fs::kernfs::{Dir, Entries, Head, Link, Super, Text, list_table};
use crate::fs::mount::{FileSystem, Mount, MountFlags};
use crate::fs::path::PathRef;

const CLASS: u64 = 3;
/// NSFS_MAGIC.
const MAGIC: u64 = 0x6e73_6673;

/// Entry, kind and number; the mount namespace has its own.
const KINDS: [(&str, &str, u64); 10] = [
    ("net", "net", 0xEFFF_FFF9),
    ("uts", "uts", 0xEFFF_FFFE),
    ("ipc", "ipc", 0xEFFF_FFFF),
    ("pid", "pid", 0xEFFF_FFFC),
    ("pid_for_children", "pid", 0xEFFF_FFFC),
    ("user", "user", 0xEFFF_FFFD),
    ("mnt", "mnt", 0),
    ("cgroup", "cgroup", 0xEFFF_FFFB),
    ("time", "time", 0xEFFF_FFFA),
    ("time_for_children", "time", 0xEFFF_FFFA),
];

/// The mount of nsfs, which nobody sees.
fn nsfs() -> &'static (Arc<Super>, Arc<Mount>) {
    static NSFS: OnceLock<(Arc<Super>, Arc<Mount>)> = OnceLock::new();
    NSFS.get_or_init(|| {
        let sb = Super::new(MAGIC, Errno::EPERM);
        let root = Text::fixed(Head::new(&sb, 0o444), "");
        let fs = FileSystem::new("nsfs", sb.dev, root, String::new());
        let mount = Mount::new(fs, b"nsfs", MountFlags::empty());
        (sb, mount)
    })
}

/// A place that stands for a namespace.
fn place(kind: &str, id: u64) -> PathRef {
    let (sb, mount) = nsfs();
    let inode = Text::opened(Head::numbered(sb, id, 0o444), |_| {
        Ok(Arc::new(crate::fs::open::PathOnly))
    });
    let name = format!("{kind}:[{id}]");
    PathRef::new(mount.clone(), Dentry::root(inode, name.as_bytes()))
}

fn target(subject: &Subject, kind: &str, id: u64) -> Result<PathRef> {
    let id = match kind {
        "mnt" => subject.task()?.fs().namespace().id,
        _ => {
            subject.group()?;
            id
        }
    };
    Ok(place(kind, id))
}

/// The directory with number `ino`.
pub fn dir(sb: &Arc<Super>, subject: &Subject, ino: u64) -> Arc<dyn Inode> {
    Dir::new(
        Head::numbered(sb, ino, 0o511).owned(owner(subject)),
        Namespaces {
            sb: sb.clone(),
            subject: subject.clone(),
        },
    )
}

fn owner(subject: &Subject) -> Arc<ProcessOwner> {
    Arc::new(ProcessOwner {
        subject: subject.clone(),
        bits: OwnerBits::Private,
    })
}

struct Namespaces {
    sb: Arc<Super>,
    subject: Subject,
}

impl Entries for Namespaces {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let (index, (_, kind, id)) = KINDS
            .iter()
            .enumerate()
            .find(|(_, (entry, ..))| entry.as_bytes() == name)
            .ok_or(Errno::ENOENT)?;
        let ino = self.subject.ino(CLASS, index as u64);
        let head = Head::numbered(&self.sb, ino, 0o777).owned(owner(&self.subject));
        let subject = self.subject.clone();
        Ok(Link::magic(head, move || {
            subject.check_look()?;
            target(&subject, kind, *id).map(MagicTarget::Path)
        }))
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let rows = KINDS.iter().enumerate().map(|(index, (name, ..))| {
            let ino = self.subject.ino(CLASS, index as u64);
            (name.as_bytes(), ino, FileType::Symlink)
        });
        list_table(0, rows, pos, emit);
        Ok(())
    }

    fn open(&self) -> Result<()> {
        self.subject.check_look()
    }
}
