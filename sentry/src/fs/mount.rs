//! Mounts and the mount namespace.
//!
//! A [`FileSystem`] is a mounted instance (Linux's super block); a [`Mount`] attaches a tree of it,
//! or a part of one, at a place; a [`MountNamespace`] is the tree of mounts that a group of
//! processes sees. Which mount lies on a place is looked up by (mount, dentry).
//!
//! Deliberately absent: mount propagation. Every mount is private; requests to make one shared are
//! accepted and have no effect, as nothing could be propagated to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::errno::{Errno, Result};
use crate::fs::dentry::Dentry;
use crate::fs::device::DeviceTable;
use crate::fs::inode::{Dev, Inode};
use crate::fs::path::PathRef;

bitflags::bitflags! {
    /// Flags of one mount, with the MS_* values of mount(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MountFlags: u32 {
        const RDONLY = libc::MS_RDONLY as u32;
        const NOSUID = libc::MS_NOSUID as u32;
        const NODEV = libc::MS_NODEV as u32;
        const NOEXEC = libc::MS_NOEXEC as u32;
        const NOATIME = libc::MS_NOATIME as u32;
        const NODIRATIME = libc::MS_NODIRATIME as u32;
        const RELATIME = libc::MS_RELATIME as u32;
        const NOSYMFOLLOW = 256;
    }
}

/// A mounted instance of a file system.
pub struct FileSystem {
    /// The type in /proc/mounts.
    pub kind: &'static str,
    /// st_dev of its files, for mountinfo.
    pub dev: Dev,
    pub root: Arc<Dentry>,
    /// Options of the type for /proc/mounts, e.g. `size=64k,mode=700`; without ro/rw.
    pub options: String,
    readonly: AtomicBool,
}

/// A device number for a file system without a device.
pub fn anonymous_dev() -> Dev {
    static NEXT: AtomicU32 = AtomicU32::new(20);
    Dev::new(0, NEXT.fetch_add(1, Ordering::Relaxed))
}

impl FileSystem {
    pub fn new(
        kind: &'static str,
        dev: Dev,
        root: Arc<dyn Inode>,
        options: String,
    ) -> Arc<FileSystem> {
        Arc::new(FileSystem {
            kind,
            dev,
            root: Dentry::root(root, b""),
            options,
            readonly: AtomicBool::new(false),
        })
    }

    pub fn is_readonly(&self) -> bool {
        self.readonly.load(Ordering::Relaxed)
    }

    pub fn set_readonly(&self, readonly: bool) {
        self.readonly.store(readonly, Ordering::Relaxed);
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        self.root.shrink();
    }
}

/// A kind of file system that mount(2) can be asked for.
pub trait FileSystemType: Send + Sync {
    /// As in /proc/filesystems.
    fn name(&self) -> &'static str;

    /// A new instance; `data` are the options of the type.
    fn mount(&self, source: &[u8], data: &[u8]) -> Result<Arc<FileSystem>>;
}

/// A tree attached at a place.
pub struct Mount {
    /// mnt_id of /proc/PID/mountinfo.
    pub id: u32,
    pub root: Arc<Dentry>,
    pub fs: Arc<FileSystem>,
    /// First column of /proc/mounts.
    pub source: Vec<u8>,
    flags: AtomicU32,
    /// Where it is mounted: mount and dentry below it. None: a namespace's root, or detached.
    at: Mutex<Option<PathRef>>,
}

impl Mount {
    /// A mount of all of `fs` that is attached nowhere yet.
    pub fn new(fs: Arc<FileSystem>, source: &[u8], flags: MountFlags) -> Arc<Mount> {
        let root = fs.root.clone();
        Self::make(fs, root, source, flags)
    }

    fn make(
        fs: Arc<FileSystem>,
        root: Arc<Dentry>,
        source: &[u8],
        flags: MountFlags,
    ) -> Arc<Mount> {
        static NEXT: AtomicU32 = AtomicU32::new(21);
        Arc::new(Mount {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            root,
            fs,
            source: source.to_vec(),
            flags: AtomicU32::new(flags.bits()),
            at: Mutex::new(None),
        })
    }

    /// A mount of the same file system with another root, attached nowhere (a bind mount).
    pub fn bind(&self, root: &Arc<Dentry>) -> Arc<Mount> {
        Self::make(self.fs.clone(), root.clone(), &self.source, self.flags())
    }

    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Writes are refused, by the mount or its file system.
    pub fn is_readonly(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY) || self.fs.is_readonly()
    }

    /// EROFS on a read-only mount.
    pub fn check_writable(&self) -> Result<()> {
        if self.is_readonly() {
            Err(Errno::EROFS)
        } else {
            Ok(())
        }
    }

    /// The place it covers.
    pub fn attached_to(&self) -> Option<PathRef> {
        self.at.lock().clone()
    }

    /// Its root.
    pub fn root_path(self: &Arc<Self>) -> PathRef {
        PathRef::new(self.clone(), self.root.clone())
    }
}

#[derive(Default)]
struct Table {
    mounts: BTreeMap<u32, Arc<Mount>>,
    /// Mount and dentry (its address; the mount on it keeps it alive) to what lies there.
    on: HashMap<(u32, usize), Arc<Mount>>,
    root: Option<Arc<Mount>>,
}

fn key(at: &PathRef) -> (u32, usize) {
    (at.mount.id, Arc::as_ptr(&at.dentry) as usize)
}

impl Table {
    fn attach(&mut self, mount: &Arc<Mount>, at: &PathRef) {
        at.dentry.count_mount();
        *mount.at.lock() = Some(at.clone());
        self.on.insert(key(at), mount.clone());
        self.mounts.insert(mount.id, mount.clone());
    }

    fn detach(&mut self, mount: &Arc<Mount>) {
        self.mounts.remove(&mount.id);
        if let Some(at) = mount.at.lock().take() {
            at.dentry.uncount_mount();
            self.on.remove(&key(&at));
        }
    }

    fn children(&self, of: &Mount) -> Vec<Arc<Mount>> {
        let on = |m: &&Arc<Mount>| m.at.lock().as_ref().is_some_and(|at| at.mount.id == of.id);
        self.mounts.values().filter(on).cloned().collect()
    }

    /// The mount and everything mounted below it, parents first.
    fn subtree(&self, top: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut all = vec![top.clone()];
        let mut i = 0;
        while let Some(mount) = all.get(i).cloned() {
            all.extend(self.children(&mount));
            i += 1;
        }
        all
    }
}

/// The mounts that a group of processes sees.
pub struct MountNamespace {
    /// Its number in /proc/PID/ns/mnt.
    pub id: u64,
    table: RwLock<Table>,
    types: Arc<RwLock<BTreeMap<&'static str, Arc<dyn FileSystemType>>>>,
    devices: Arc<DeviceTable>,
}

/// Most mounts of a namespace (/proc/sys/fs/mount-max).
const MOUNT_MAX: usize = 100_000;

impl MountNamespace {
    /// A namespace whose root is `root`.
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        let mut table = Table::default();
        table.mounts.insert(root.id, root.clone());
        table.root = Some(root);
        Arc::new(MountNamespace {
            id: next_namespace(),
            table: RwLock::new(table),
            types: Arc::default(),
            devices: Arc::default(),
        })
    }

    /// What device nodes stand for; the same for all namespaces made from this one.
    pub fn devices(&self) -> &Arc<DeviceTable> {
        &self.devices
    }

    /// Makes a type known to mount(2).
    pub fn register(&self, kind: Arc<dyn FileSystemType>) {
        self.types.write().insert(kind.name(), kind);
    }

    pub fn types(&self) -> Vec<&'static str> {
        self.types.read().keys().copied().collect()
    }

    /// ENODEV if there is no such type.
    pub fn file_system_type(&self, name: &[u8]) -> Result<Arc<dyn FileSystemType>> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENODEV)?;
        self.types.read().get(name).cloned().ok_or(Errno::ENODEV)
    }

    /// The root of the tree, with what is mounted over it.
    pub fn root(&self) -> PathRef {
        #[expect(
            clippy::expect_used,
            reason = "set at construction, only ever replaced"
        )]
        let root = self
            .table
            .read()
            .root
            .clone()
            .expect("namespace has a root");
        self.cross(root.root_path())
    }

    /// What is mounted at `place`, through all layers; `place` itself if nothing is.
    pub fn cross(&self, mut place: PathRef) -> PathRef {
        while place.dentry.is_mount_point() {
            let Some(mount) = self.table.read().on.get(&key(&place)).cloned() else {
                break;
            };
            place = mount.root_path();
        }
        place
    }

    /// True if something of this namespace is mounted exactly there.
    pub fn is_mounted_on(&self, place: &PathRef) -> bool {
        place.dentry.is_mount_point() && self.table.read().on.contains_key(&key(place))
    }

    pub fn contains(&self, mount: &Mount) -> bool {
        self.table.read().mounts.contains_key(&mount.id)
    }

    /// Attaches a new mount on `at`. ENOTDIR, EINVAL, ENOSPC, as mount(2).
    pub fn attach(&self, mount: &Arc<Mount>, at: &PathRef) -> Result<()> {
        if mount.root.is_dir() != at.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if at.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        let at = self.cross(at.clone());
        let mut table = self.table.write();
        if !table.mounts.contains_key(&at.mount.id) {
            return Err(Errno::EINVAL);
        }
        if table.mounts.len() >= MOUNT_MAX {
            return Err(Errno::ENOSPC);
        }
        table.attach(mount, &at);
        Ok(())
    }

    /// MS_BIND, with MS_REC for `recursive`: the tree at `from` also appears at `at`.
    pub fn bind(&self, from: &PathRef, at: &PathRef, recursive: bool) -> Result<()> {
        if from.dentry.is_dir() != at.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if !self.contains(&from.mount) {
            return Err(Errno::EINVAL);
        }
        let below = if recursive {
            self.table.read().subtree(&from.mount)
        } else {
            vec![from.mount.clone()]
        };
        let top = from.mount.bind(&from.dentry);
        self.attach(&top, at)?;
        let mut copies = HashMap::from([(from.mount.id, top)]);
        for mount in below.iter().skip(1) {
            let Some(place) = mount.attached_to() else {
                continue;
            };
            let inside =
                place.mount.id != from.mount.id || from.dentry.is_ancestor_of(&place.dentry);
            if let (true, Some(parent)) = (inside, copies.get(&place.mount.id).cloned()) {
                let copy = mount.bind(&mount.root);
                let place = PathRef::new(parent, place.dentry);
                self.table.write().attach(&copy, &place);
                copies.insert(mount.id, copy);
            }
        }
        Ok(())
    }

    /// MS_MOVE: `from` must be the root of a mount. EINVAL, ELOOP.
    pub fn move_mount(&self, from: &PathRef, at: &PathRef) -> Result<()> {
        if !from.is_mount_root() || from.mount.attached_to().is_none() {
            return Err(Errno::EINVAL);
        }
        if from.dentry.is_dir() != at.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let mut table = self.table.write();
        if !table.mounts.contains_key(&from.mount.id) || !table.mounts.contains_key(&at.mount.id) {
            return Err(Errno::EINVAL);
        }
        if table
            .subtree(&from.mount)
            .iter()
            .any(|m| m.id == at.mount.id)
        {
            return Err(Errno::ELOOP);
        }
        let mut target = at.clone();
        while let Some(on) = table.on.get(&key(&target)) {
            target = on.root_path();
        }
        table.detach(&from.mount);
        table.attach(&from.mount, &target);
        Ok(())
    }

    /// umount2(2) of the mount whose root `place` is. EINVAL if it is none; EBUSY if it is in use,
    /// unless `lazy` (MNT_DETACH).
    pub fn umount(&self, place: PathRef, lazy: bool) -> Result<()> {
        if !place.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        let mount = place.mount.clone();
        drop(place);
        let mut table = self.table.write();
        if !table.mounts.contains_key(&mount.id) || mount.at.lock().is_none() {
            return Err(Errno::EINVAL);
        }
        let all = table.subtree(&mount);
        if !lazy {
            // In the two tables, here and in `all`.
            if all.len() > 1 || Arc::strong_count(&mount) > 4 {
                return Err(Errno::EBUSY);
            }
        }
        for mount in all.iter().rev() {
            table.detach(mount);
        }
        drop(table);
        Ok(())
    }

    /// pivot_root(2), the part that concerns the tree: `new_root` becomes the root, the old one is
    /// mounted at `put_old`.
    pub fn pivot_root(&self, root: &PathRef, new_root: &PathRef, put_old: &PathRef) -> Result<()> {
        if !new_root.is_mount_root() || !root.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        if Arc::ptr_eq(&new_root.mount, &root.mount) || Arc::ptr_eq(&put_old.mount, &root.mount) {
            return Err(Errno::EBUSY);
        }
        let mut table = self.table.write();
        if !table
            .subtree(&new_root.mount)
            .iter()
            .any(|m| m.id == put_old.mount.id)
        {
            return Err(Errno::EINVAL);
        }
        let was_root = table.root.as_ref().is_some_and(|r| r.id == root.mount.id);
        let place = root.mount.attached_to();
        if !was_root && place.is_none() {
            return Err(Errno::EINVAL);
        }
        table.detach(&new_root.mount);
        table.detach(&root.mount);
        match place {
            Some(place) => table.attach(&new_root.mount, &place),
            None => {
                table
                    .mounts
                    .insert(new_root.mount.id, new_root.mount.clone());
                table.root = Some(new_root.mount.clone());
            }
        }
        table.attach(&root.mount, put_old);
        Ok(())
    }

    /// A copy of the tree, and `places` in it.
    pub fn copy(&self, places: &[PathRef]) -> (Arc<MountNamespace>, Vec<PathRef>) {
        let table = self.table.read();
        let mut copies: HashMap<u32, Arc<Mount>> = HashMap::new();
        for mount in table.mounts.values() {
            copies.insert(mount.id, mount.bind(&mount.root));
        }
        let mut new = Table::default();
        for mount in table.mounts.values() {
            let Some(copy) = copies.get(&mount.id) else {
                continue;
            };
            match mount.attached_to() {
                Some(at) => {
                    if let Some(parent) = copies.get(&at.mount.id) {
                        new.attach(copy, &PathRef::new(parent.clone(), at.dentry));
                    }
                }
                None => {
                    new.mounts.insert(copy.id, copy.clone());
                }
            }
        }
        new.root = table.root.as_ref().and_then(|r| copies.get(&r.id).cloned());
        let translate = |p: &PathRef| match copies.get(&p.mount.id) {
            Some(mount) => PathRef::new(mount.clone(), p.dentry.clone()),
            None => p.clone(),
        };
        let places = places.iter().map(translate).collect();
        drop(table);
        let namespace = MountNamespace {
            id: next_namespace(),
            table: RwLock::new(new),
            types: self.types.clone(),
            devices: self.devices.clone(),
        };
        (Arc::new(namespace), places)
    }

    /// All mounts, oldest first.
    pub fn list(&self) -> Vec<Arc<Mount>> {
        self.table.read().mounts.values().cloned().collect()
    }

    /// The text of /proc/PID/mountinfo for a process with this root.
    pub fn mountinfo(&self, root: &PathRef) -> Vec<u8> {
        let mut text = Vec::new();
        for mount in self.list() {
            let at = mount.root_path().text(root);
            if !at.reachable {
                continue;
            }
            let parent = mount.attached_to().map_or(mount.id, |p| p.mount.id);
            let inner = PathRef::new(mount.clone(), mount.root.clone());
            text.extend_from_slice(
                format!(
                    "{} {} {}:{} ",
                    mount.id, parent, mount.fs.dev.major, mount.fs.dev.minor
                )
                .as_bytes(),
            );
            escape(&mut text, &inside_file_system(&inner));
            text.push(b' ');
            escape(&mut text, &at.text);
            text.extend_from_slice(format!(" {} - {} ", mount.options(), mount.fs.kind).as_bytes());
            escape(&mut text, mount.source_text());
            text.extend_from_slice(format!(" {}\n", mount.fs.options_text()).as_bytes());
        }
        text
    }

    /// The text of /proc/PID/mounts.
    pub fn mounts(&self, root: &PathRef) -> Vec<u8> {
        let mut text = Vec::new();
        for mount in self.list() {
            let at = mount.root_path().text(root);
            if !at.reachable {
                continue;
            }
            escape(&mut text, mount.source_text());
            text.push(b' ');
            escape(&mut text, &at.text);
            let super_options = match mount.fs.options.as_str() {
                "" => String::new(),
                options => format!(",{options}"),
            };
            let line = format!(
                " {} {}{super_options} 0 0\n",
                mount.fs.kind,
                mount.options()
            );
            text.extend_from_slice(line.as_bytes());
        }
        text
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let table = self.table.get_mut();
        let all: Vec<_> = table.mounts.values().cloned().collect();
        for mount in all.iter().rev() {
            table.detach(mount);
        }
    }
}

impl Mount {
    fn source_text(&self) -> &[u8] {
        if self.source.is_empty() {
            b"none"
        } else {
            &self.source
        }
    }

    /// `rw,nosuid,...` of /proc/mounts.
    pub fn options(&self) -> String {
        let flags = self.flags();
        let names = [
            (MountFlags::NOSUID, "nosuid"),
            (MountFlags::NODEV, "nodev"),
            (MountFlags::NOEXEC, "noexec"),
            (MountFlags::NOATIME, "noatime"),
            (MountFlags::NODIRATIME, "nodiratime"),
            (MountFlags::RELATIME, "relatime"),
            (MountFlags::NOSYMFOLLOW, "nosymfollow"),
        ];
        let mut text = String::from(if self.is_readonly() { "ro" } else { "rw" });
        for (_, name) in names.iter().filter(|(flag, _)| flags.contains(*flag)) {
            text.push(',');
            text.push_str(name);
        }
        text
    }
}

impl FileSystem {
    fn options_text(&self) -> String {
        let mode = if self.is_readonly() { "ro" } else { "rw" };
        match self.options.as_str() {
            "" => mode.to_string(),
            options => format!("{mode},{options}"),
        }
    }
}

fn next_namespace() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0xF000_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The path of a mount's root below the root of its file system.
fn inside_file_system(place: &PathRef) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = place.dentry.clone();
    while let (Some(parent), name) = at.place() {
        names.push(name);
        at = parent;
    }
    let mut text = Vec::new();
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    text
}

/// Octal for what separates fields (proc(5)).
fn escape(to: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
            to.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            to.push(byte);
        }
    }
}
