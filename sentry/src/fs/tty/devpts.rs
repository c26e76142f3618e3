//! devpts: the directory of pseudo-terminals.
//!
//! One instance a sandbox, whatever is mounted how often: a name exists as long as its master is
//! open, or, for a terminal of the host's, as long as its [`HostName`].

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::pty::Pty;
use super::{PTMX, PTS_MAJOR};
use crate::errno::{Errno, Result};
use crate::fs::extra::InodeExtra;
use crate::fs::file::FileOps;
use crate::fs::inode::{
    Attr, Dev, DirEntry, FileType, Inode, OpenFlags, SetAttr, SetTime, StatFs, Timestamp,
};
use crate::fs::kernfs::{Dir, Entries, Head, Super, list_table};
use crate::fs::mount::{FileSystem, FileSystemType};
use crate::kernel::Kernel;
use crate::kernel::cred::{Gid, Uid};

/// DEVPTS_SUPER_MAGIC.
const MAGIC: u64 = 0x1cd1;
/// /proc/sys/kernel/pty/max.
const MAX_PTYS: usize = 4096;
/// Inode numbers: 1 the root, 2 ptmx, then the slaves.
const PTMX_INO: u64 = 2;
const FIRST_INO: u64 = 3;

struct Entry {
    pty: Weak<Pty>,
    node: Arc<Node>,
}

/// See the module documentation.
pub struct Devpts {
    kernel: Weak<Kernel>,
    sb: Arc<Super>,
    ptmx: Arc<Node>,
    entries: Mutex<BTreeMap<u32, Entry>>,
    /// Those of the first mount: there is one instance.
    settings: OnceLock<Settings>,
}

/// Mount options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    mode: u32,
    ptmx_mode: u32,
    /// Of new slaves; None: whoever makes them.
    uid: Option<u32>,
    gid: Option<u32>,
    max: usize,
}

impl Default for Settings {
    /// Those of Linux.
    fn default() -> Self {
        Settings {
            mode: 0o600,
            ptmx_mode: 0,
            uid: None,
            gid: None,
            max: MAX_PTYS,
        }
    }
}

impl Settings {
    /// EINVAL for what Linux does not know.
    fn parse(data: &[u8]) -> Result<Settings> {
        let mut settings = Settings::default();
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = |radix| u32::from_str_radix(value, radix).map_err(|_| Errno::EINVAL);
            match name {
                "mode" => settings.mode = number(8)? & 0o7777,
                "ptmxmode" => settings.ptmx_mode = number(8)? & 0o7777,
                "uid" => settings.uid = Some(number(10)?),
                "gid" => settings.gid = Some(number(10)?),
                "max" => settings.max = (number(10)? as usize).min(MAX_PTYS),
                "newinstance" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(settings)
    }

    /// For /proc/mounts, as Linux shows them.
    fn text(&self) -> String {
        let id = |name: &str, id: Option<u32>| id.map(|id| format!("{name}={id},"));
        format!(
            "{}{}mode={:03o},ptmxmode={:03o}",
            id("uid", self.uid).unwrap_or_default(),
            id("gid", self.gid).unwrap_or_default(),
            self.mode,
            self.ptmx_mode
        )
    }
}

impl Devpts {
    pub fn new(kernel: &Arc<Kernel>) -> Arc<Devpts> {
        Self::with_kernel(Arc::downgrade(kernel))
    }

    pub(super) fn with_kernel(kernel: Weak<Kernel>) -> Arc<Devpts> {
        let sb = Super::new(MAGIC, Errno::EPERM);
        Arc::new(Devpts {
            ptmx: Node::new(&sb, PTMX_INO, PTMX, 0o666, (Uid(0), Gid(0))),
            kernel,
            sb,
            entries: Mutex::default(),
            settings: OnceLock::new(),
        })
    }

    /// A new pseudo-terminal with the lowest free number. ENOSPC.
    pub fn create(self: &Arc<Self>, uid: Uid, gid: Gid) -> Result<Arc<Pty>> {
        let make = |index| Pty::new(index, self.kernel.clone(), Arc::downgrade(self));
        let (_, pty) = self.enter((uid, gid), |index| {
            let pty = make(index);
            (Arc::downgrade(&pty), pty)
        })?;
        Ok(pty)
    }

    /// A name for a terminal of the host's, which belongs to `uid`. ENOSPC.
    pub fn name_host_terminal(self: &Arc<Self>, uid: Uid) -> Result<HostName> {
        let (index, ()) = self.enter((uid, Gid(0)), |_| (Weak::new(), ()))?;
        let devpts = self.clone();
        Ok(HostName { devpts, index })
    }

    /// Enters what `make` gives for the lowest free number.
    fn enter<T>(
        &self,
        (uid, gid): (Uid, Gid),
        make: impl FnOnce(u32) -> (Weak<Pty>, T),
    ) -> Result<(u32, T)> {
        let mut entries = self.entries.lock();
        let settings = self.settings.get().copied().unwrap_or_default();
        if entries.len() >= settings.max {
            return Err(Errno::ENOSPC);
        }
        let index = (0..)
            .find(|i| !entries.contains_key(i))
            .ok_or(Errno::ENOSPC)?;
        let (pty, made) = make(index);
        let ino = FIRST_INO + u64::from(index);
        let rdev = Dev::new(PTS_MAJOR, index);
        let owner = (settings.uid.map_or(uid, Uid), settings.gid.map_or(gid, Gid));
        let node = Node::new(&self.sb, ino, rdev, settings.mode, owner);
        entries.insert(index, Entry { pty, node });
        Ok((index, made))
    }

    pub fn find(&self, index: u32) -> Option<Arc<Pty>> {
        self.entries.lock().get(&index)?.pty.upgrade()
    }

    pub(super) fn remove(&self, index: u32) {
        let gone = self.entries.lock().remove(&index);
        drop(gone);
    }

    /// What is mounted; the options count the first time.
    fn file_system(self: &Arc<Self>, settings: Settings) -> Arc<FileSystem> {
        let settings = *self.settings.get_or_init(|| settings);
        self.ptmx.attr.lock().perm = settings.ptmx_mode;
        let head = Head::numbered(&self.sb, 1, 0o755);
        let root = Dir::new(head, Names(self.clone()));
        FileSystem::new("devpts", self.sb.dev, root, settings.text())
    }
}

/// The name of a terminal of the host's; dropping it removes the name.
pub struct HostName {
    devpts: Arc<Devpts>,
    index: u32,
}

impl HostName {
    /// Below the mount.
    pub fn name(&self) -> String {
        self.index.to_string()
    }

    pub fn device(&self) -> Dev {
        Dev::new(PTS_MAJOR, self.index)
    }
}

impl Drop for HostName {
    fn drop(&mut self) {
        self.devpts.remove(self.index);
    }
}

/// mount(2) of type devpts.
pub struct DevptsType(pub Arc<Devpts>);

impl FileSystemType for DevptsType {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn mount(&self, _source: &[u8], data: &[u8]) -> Result<Arc<FileSystem>> {
        Ok(self.0.file_system(Settings::parse(data)?))
    }
}

struct Names(Arc<Devpts>);

impl Entries for Names {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if name == b"ptmx" {
            return Ok(self.0.ptmx.clone());
        }
        let index = crate::fs::kernfs::number(name).ok_or(Errno::ENOENT)?;
        let index = u32::try_from(index).map_err(|_| Errno::ENOENT)?;
        let entries = self.0.entries.lock();
        let entry = entries.get(&index).ok_or(Errno::ENOENT)?;
        Ok(entry.node.clone())
    }

    fn list(&self, pos: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let numbers: Vec<u32> = self.0.entries.lock().keys().copied().collect();
        let ptmx = std::iter::once((&b"ptmx"[..], PTMX_INO, FileType::Char));
        if !list_table(0, ptmx, pos, emit) {
            return Ok(());
        }
        // A position is the number behind, so that names that go do not shift others.
        for n in numbers {
            let at = u64::from(n) + 1;
            let name = n.to_string();
            let table =
                std::iter::once((name.as_bytes(), FIRST_INO + u64::from(n), FileType::Char));
            if !list_table(at, table, pos, emit) {
                break;
            }
        }
        Ok(())
    }
}

/// A device node.
struct Node {
    sb: Arc<Super>,
    attr: Mutex<Attr>,
    extra: InodeExtra,
}

impl Node {
    fn new(sb: &Arc<Super>, ino: u64, rdev: Dev, perm: u32, owner: (Uid, Gid)) -> Arc<Node> {
        let now = Timestamp::now();
        Arc::new(Node {
            sb: sb.clone(),
            attr: Mutex::new(Attr {
                kind: FileType::Char,
                perm,
                ino,
                dev: sb.dev,
                nlink: 1,
                uid: owner.0,
                gid: owner.1,
                rdev,
                size: 0,
                blocks: 0,
                blksize: 1024,
                atime: now,
                mtime: now,
                ctime: now,
                btime: None,
            }),
            extra: InodeExtra::default(),
        })
    }
}

impl Inode for Node {
    fn attr(&self) -> Result<Attr> {
        Ok(*self.attr.lock())
    }

    fn kind(&self) -> FileType {
        FileType::Char
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let mut attr = self.attr.lock();
        attr.perm = change.perm.unwrap_or(attr.perm);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        let now = Timestamp::now();
        let time = |new: Option<SetTime>, old| match new {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(t)) => t,
        };
        attr.atime = time(change.atime, attr.atime);
        attr.mtime = time(change.mtime, attr.mtime);
        attr.ctime = now;
        Ok(())
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(self.sb.statfs())
    }

    fn extra(&self) -> &InodeExtra {
        &self.extra
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::anon::internal_file;

    fn names(root: &Arc<dyn Inode>) -> Vec<String> {
        let file = internal_file(root.clone(), OpenFlags::empty()).unwrap();
        let mut names = Vec::new();
        let mut pos = 0;
        // One at a time, so that positions matter.
        loop {
            let before = pos;
            let mut one = |entry: DirEntry<'_>| {
                names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                pos = entry.next;
                false
            };
            file.ops().readdir(&file, before, &mut one).unwrap();
            if pos == before {
                return names;
            }
        }
    }

    #[test]
    fn names_come_and_go_with_their_masters() {
        let devpts = Devpts::with_kernel(Weak::new());
        let fs = devpts.file_system(Settings::default());
        let root = fs.root.inode();
        let ptys: Vec<_> = (0..3)
            .map(|_| devpts.create(Uid(7), Gid(8)).unwrap())
            .collect();
        assert_eq!(names(root), ["ptmx", "0", "1", "2"]);
        let attr = root.lookup(b"1").unwrap().attr().unwrap();
        assert_eq!((attr.rdev, attr.uid), (Dev::new(PTS_MAJOR, 1), Uid(7)));
        let master = crate::fs::anon::anon_file(
            crate::fs::anon::Anon::Inode("test"),
            ptys[1].master(),
            OpenFlags::RDWR,
        );
        drop(master);
        assert_eq!(names(root), ["ptmx", "0", "2"]);
        assert_eq!(root.lookup(b"1").err(), Some(Errno::ENOENT));
        assert_eq!(devpts.create(Uid(0), Gid(0)).unwrap().index(), 1);
        assert_eq!(root.lookup(b"01").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn a_terminal_of_the_host_has_a_name_for_a_while() {
        let devpts = Devpts::with_kernel(Weak::new());
        let fs = devpts.file_system(Settings::default());
        let name = devpts.name_host_terminal(Uid(7)).unwrap();
        let pty = devpts.create(Uid(0), Gid(0)).unwrap();
        assert_eq!((name.name(), pty.index()), ("0".to_owned(), 1));
        assert_eq!(names(fs.root.inode()), ["ptmx", "0", "1"]);
        let attr = fs.root.inode().lookup(b"0").unwrap().attr().unwrap();
        assert_eq!((attr.rdev, attr.uid), (name.device(), Uid(7)));
        assert!(devpts.find(0).is_none(), "it is no pseudo-terminal of ours");
        drop(name);
        assert_eq!(names(fs.root.inode()), ["ptmx", "1"]);
    }
}
