//! devtmpfs: a tmpfs that starts with the nodes, links and directories a program expects in /dev.
//!
//! Unlike Linux's each mount is a tree of its own: containers do not share device names.

use std::sync::Arc;

use crate::errno::Result;
use crate::fs::inode::{Dev, FileType, Inode, NewNode};
use crate::fs::mount::{FileSystem, FileSystemType};
use crate::fs::tmpfs::{Options, Tmpfs};
use crate::kernel::Kernel;
use crate::kernel::cred::{Gid, Uid};

/// Group tty of Debian and most others; terminals belong to it.
const TTY_GROUP: Gid = Gid(5);

const NODES: [(&str, Dev, u32, Gid); 7] = [
    ("null", Dev::new(1, 3), 0o666, Gid(0)),
    ("zero", Dev::new(1, 5), 0o666, Gid(0)),
    ("full", Dev::new(1, 7), 0o666, Gid(0)),
    ("random", Dev::new(1, 8), 0o666, Gid(0)),
    ("urandom", Dev::new(1, 9), 0o666, Gid(0)),
    ("tty", Dev::new(5, 0), 0o666, TTY_GROUP),
    ("console", Dev::new(5, 1), 0o600, Gid(0)),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

const DIRS: [(&str, u32); 3] = [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)];

/// A new devtmpfs with everything in it.
pub fn mount(kernel: &Arc<Kernel>) -> Result<Arc<FileSystem>> {
    populated(&kernel.memory)
}

fn populated(memory: &Arc<crate::mm::MemoryFile>) -> Result<Arc<FileSystem>> {
    let options = Options {
        mode: Some(0o755),
        ..Options::default()
    };
    let tmpfs = Tmpfs::mount(memory.clone(), &options)?;
    let root = tmpfs.root.inode().clone();
    populate(&root)?;
    Ok(FileSystem::new(
        "devtmpfs",
        tmpfs.dev,
        root,
        tmpfs.options.clone(),
    ))
}

fn populate(root: &Arc<dyn Inode>) -> Result<()> {
    let node = |perm, gid| NewNode {
        perm,
        uid: Uid(0),
        gid,
    };
    for (name, dev, perm, gid) in NODES {
        root.mknod(name.as_bytes(), &node(perm, gid), FileType::Char, dev)?;
    }
    for (name, target) in LINKS {
        root.symlink(name.as_bytes(), &node(0o777, Gid(0)), target.as_bytes())?;
    }
    for (name, perm) in DIRS {
        root.mkdir(name.as_bytes(), &node(perm, Gid(0)))?;
    }
    Ok(())
}

/// mount(2) of type devtmpfs.
pub struct DevtmpfsType {
    pub memory: Arc<crate::mm::MemoryFile>,
}

impl FileSystemType for DevtmpfsType {
    fn name(&self) -> &'static str {
        "devtmpfs"
    }

    fn mount(&self, _source: &[u8], data: &[u8]) -> Result<Arc<FileSystem>> {
        // Only to refuse what tmpfs would refuse.
        Options::parse(data)?;
        populated(&self.memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::MemoryFile;

    #[test]
    fn a_new_one_has_the_usual_names() {
        let fs = populated(&MemoryFile::new().unwrap()).unwrap();
        let root = fs.root.inode();
        let null = root.lookup(b"null").unwrap().attr().unwrap();
        assert_eq!((null.kind, null.perm), (FileType::Char, 0o666));
        assert_eq!(null.rdev, Dev::new(1, 3));
        assert_eq!(
            root.lookup(b"fd").unwrap().readlink().unwrap(),
            b"/proc/self/fd"
        );
        assert_eq!(root.lookup(b"shm").unwrap().attr().unwrap().perm, 0o1777);
        assert_eq!(fs.kind, "devtmpfs");
        assert_eq!(fs.options, "mode=755");
    }
}
