//! From a fresh process in new namespaces to one that can reach its mounts and nothing else.
//!
//! The order matters. The sources are cloned as detached trees and restricted first, while host
//! paths still mean something; then a new root is laid over the old one, the trees are hung into
//! it, and the old root goes. Capabilities go last but for the filter, which needs the threads.
//! Needs Linux 5.12 (`mount_setattr`).

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags,
    },
    process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid},
};

use super::{
    Error, KernelFileSystems, MountSource, ServerConfig, Writes,
    mounts::{HostGuards, Mount, Mounts, Root, stat_fd},
    sys,
};
use crate::protocol::Errno;

/// Name of a single file in the directory that stands for its mount.
const FILE: &[u8] = b"file";
const EMPTY_DIR: &str = "empty-dir";
const EMPTY_FILE: &str = "empty-file";

/// File system types that show the host's kernel rather than files.
const KERNEL_TYPES: [&str; 20] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "securityfs",
    "bpf",
    "pstore",
    "efivarfs",
    "configfs",
    "fusectl",
    "binfmt_misc",
    "devpts",
    "mqueue",
    "selinuxfs",
    "rpc_pipefs",
    "nfsd",
    "autofs",
    "nsfs",
];

/// What a file owner needs; in a user namespace these reach no further than its own ids.
const KEPT: [caps::Capability; 7] = [
    caps::Capability::CAP_CHOWN,
    caps::Capability::CAP_DAC_OVERRIDE,
    caps::Capability::CAP_DAC_READ_SEARCH,
    caps::Capability::CAP_FOWNER,
    caps::Capability::CAP_FSETID,
    caps::Capability::CAP_MKNOD,
    caps::Capability::CAP_SETFCAP,
];

/// Names the stage and path of a failure.
pub(crate) fn stage<E: Into<std::io::Error>>(
    stage: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> Error {
    let path = path.as_ref().to_path_buf();
    move |source| Error::Stage {
        stage,
        path,
        source: source.into(),
    }
}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.raw())
    }
}

/// Ties this process to its parent and lifts what would limit it.
pub(crate) fn process() -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(stage("set parent death signal", ""))?;
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: hard,
            maximum: hard,
        },
    )
    .map_err(stage("raise RLIMIT_NOFILE", ""))?;
    rustix::process::umask(Mode::empty());
    sys::use_one_heap();
    Ok(())
}

/// A source on its way into the new root.
struct Tree {
    fd: OwnedFd,
    /// Places below it to cover.
    hidden: Vec<PathBuf>,
}

/// Builds the new root, moves into it, and opens the mounts.
pub(super) fn file_systems(config: &ServerConfig) -> Result<Mounts, Error> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(stage("make mounts private", "/"))?;
    let kernel_mounts = if config.mounts.iter().any(MountSource::hides) {
        kernel_mounts()?
    } else {
        Vec::new()
    };
    let trees = config
        .mounts
        .iter()
        .map(|mount| detach(mount, &kernel_mounts));
    let trees = trees.collect::<Result<Vec<_>, _>>()?;

    let root = tmpfs()?;
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", CWD, "/", onto)
        .map_err(stage("mount the new root", "/"))?;
    rustix::fs::mkdirat(&root, EMPTY_DIR, Mode::empty())
        .map_err(stage("make directory", EMPTY_DIR))?;
    make_file(&root, EMPTY_FILE.as_bytes()).map_err(stage("make file", EMPTY_FILE))?;
    let mut mounts = Vec::with_capacity(trees.len());
    for (index, (source, tree)) in config.mounts.iter().zip(trees).enumerate() {
        mounts.push(attach(&root, index, source, tree)?);
    }

    rustix::process::fchdir(&root).map_err(stage("enter the new root", "/"))?;
    rustix::process::pivot_root(".", ".").map_err(stage("pivot_root", "/"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(stage("unmount the old root", "/"))?;
    rustix::process::chdir("/").map_err(stage("enter the new root", "/"))?;
    sys::restrict_mount(
        &root,
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSYMFOLLOW,
    )
    .map_err(stage("seal the new root", "/"))?;
    let mounts = mounts
        .into_iter()
        .zip(&config.mounts)
        .map(|(root, source)| Mount {
            root,
            writes: source.writes,
            devices: source.devices,
            guards: HostGuards::Set,
        });
    Ok(Mounts {
        trees: mounts.collect(),
        sockets: config.sockets,
    })
}

/// Moves into a root that holds nothing.
pub(crate) fn empty_root() -> Result<(), Error> {
    file_systems(&ServerConfig::default()).map(drop)
}

impl MountSource {
    fn hides(&self) -> bool {
        self.kernel_file_systems == KernelFileSystems::Hide
    }

    /// What the host kernel itself shall refuse on this mount.
    fn restrictions(&self) -> u64 {
        let mut flags = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOSYMFOLLOW;
        if self.devices == super::Devices::Refuse {
            flags |= libc::MOUNT_ATTR_NODEV;
        }
        if self.writes == Writes::Refuse {
            flags |= libc::MOUNT_ATTR_RDONLY;
        }
        flags
    }
}

/// Clones a source with all that is mounted below it, and restricts the clone.
fn detach(source: &MountSource, kernel_mounts: &[PathBuf]) -> Result<Tree, Error> {
    let path = std::fs::canonicalize(&source.source).map_err(stage("find", &source.source))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let fd = rustix::mount::open_tree(CWD, &path, flags).map_err(stage("bind", &path))?;
    sys::restrict_mounts(&fd, source.restrictions()).map_err(stage("restrict", &path))?;
    let mut hidden: Vec<PathBuf> = Vec::new();
    if source.hides() {
        for mount in kernel_mounts {
            // One below another is gone with it; a source that is itself one was asked for.
            if let Ok(below) = mount.strip_prefix(&path)
                && !below.as_os_str().is_empty()
                && !hidden.iter().any(|above| below.starts_with(above))
            {
                hidden.push(below.to_path_buf());
            }
        }
    }
    Ok(Tree { fd, hidden })
}

/// Mount points of kernel file systems, parents before children.
fn kernel_mounts() -> Result<Vec<PathBuf>, Error> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let text = std::fs::read(MOUNTINFO).map_err(stage("read", MOUNTINFO))?;
    let mut found: Vec<PathBuf> = text
        .split(|byte| *byte == b'\n')
        .filter_map(kernel_mount)
        .collect();
    found.sort();
    Ok(found)
}

/// The mount point in a line of mountinfo, if it is of a kernel file system.
fn kernel_mount(line: &[u8]) -> Option<PathBuf> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    let file_system = fields.get(separator.checked_add(1)?)?;
    let known = KERNEL_TYPES
        .iter()
        .any(|kernel_type| kernel_type.as_bytes() == *file_system);
    let point = unescape(fields.get(4)?);
    known.then(|| PathBuf::from(OsStr::from_bytes(&point)))
}

/// Undoes the kernel's `\ooo` for blanks and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

fn tmpfs() -> Result<OwnedFd, Error> {
    let make = || {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&context, "mode", "0700")?;
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(stage("make tmpfs", "/"))
}

fn make_file(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::mknodat(
        dir,
        name,
        FileType::RegularFile,
        Mode::from_raw_mode(0o400),
        0,
    )
}

/// Hangs a tree into the new root and covers what is to be hidden.
fn attach(root: &OwnedFd, index: usize, source: &MountSource, tree: Tree) -> Result<Root, Error> {
    let path = &source.source;
    let name = index.to_string();
    rustix::fs::mkdirat(root, &name, Mode::from_raw_mode(0o700))
        .map_err(stage("make mount point", path))?;
    let is_dir = stat_fd(&tree.fd).map_err(stage("stat", path))?.is_dir();
    let (dir, point): (OwnedFd, &[u8]) = if is_dir {
        (
            open_path(root, b".").map_err(stage("open mount point", path))?,
            name.as_bytes(),
        )
    } else {
        let dir = open_path(root, name.as_bytes()).map_err(stage("open mount point", path))?;
        make_file(&dir, FILE).map_err(stage("make mount point", path))?;
        (dir, FILE)
    };
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree.fd, "", &dir, point, onto).map_err(stage("mount", path))?;
    for below in &tree.hidden {
        cover(root, &tree.fd, below)?;
    }
    Ok(if is_dir {
        Root::Directory(tree.fd)
    } else {
        Root::File(dir, FILE)
    })
}

/// Mounts something empty over `below` in `tree`. Where an ordinary user cannot get there, over the
/// directory that he cannot search: it may be opened to him later.
fn cover(root: &OwnedFd, tree: &OwnedFd, below: &Path) -> Result<(), Error> {
    let mut path = below;
    let target = loop {
        match open_path(tree, path.as_os_str().as_bytes()) {
            // A later mount on a parent hides it already.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            Err(rustix::io::Errno::ACCESS) if path.components().count() > 1 => {
                path = path.parent().unwrap_or(path);
            }
            other => break other.map_err(stage("find what to hide", below))?,
        }
    };
    let is_dir = stat_fd(&target).map_err(stage("stat", below))?.is_dir();
    let empty = if is_dir { EMPTY_DIR } else { EMPTY_FILE };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let empty = rustix::mount::open_tree(root, empty, flags).map_err(stage("hide", below))?;
    let restrict = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSYMFOLLOW;
    sys::restrict_mounts(&empty, restrict).map_err(stage("hide", below))?;
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&empty, "", &target, "", onto).map_err(stage("hide", below))
}

fn open_path(dir: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve)
}

/// What the owner of the container's files keeps.
pub(super) fn file_owner() -> Result<(), Error> {
    privileges(&KEPT)
}

/// Turns root into nobody, who has the same capabilities, unless the namespace knows no such user.
pub(crate) fn become_nobody() -> Result<(), Error> {
    const NOBODY: u32 = 65534;
    if !rustix::process::getuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_keep_capabilities(true).map_err(stage("become nobody", ""))?;
    match rustix::thread::set_thread_res_gid(gid, gid, gid) {
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        other => other.map_err(stage("become nobody", ""))?,
    }
    rustix::thread::set_thread_groups(&[]).map_err(stage("become nobody", ""))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(stage("become nobody", ""))?;
    // The change of id has taken them out of use.
    let caps_error = |error: caps::errors::CapsError| std::io::Error::other(error.to_string());
    caps::read(None, caps::CapSet::Permitted)
        .and_then(|permitted| caps::set(None, caps::CapSet::Effective, &permitted))
        .map_err(caps_error)
        .map_err(stage("become nobody", ""))
}

/// Keeps only these capabilities, of those there are, and gives up gaining any.
pub(crate) fn privileges(kept: &[caps::Capability]) -> Result<(), Error> {
    let caps_error = |error: caps::errors::CapsError| std::io::Error::other(error.to_string());
    let kept: caps::CapsHashSet = kept.iter().copied().collect();
    let have = caps::read(None, caps::CapSet::Permitted)
        .map_err(caps_error)
        .map_err(stage("read capabilities", ""))?;
    if caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap_or(false)
    {
        for capability in caps::all() {
            if !kept.contains(&capability)
                && caps::has_cap(None, caps::CapSet::Bounding, capability).unwrap_or(false)
            {
                caps::drop(None, caps::CapSet::Bounding, capability)
                    .map_err(caps_error)
                    .map_err(stage("limit capabilities", capability.to_string()))?;
            }
        }
    }
    let keep = &kept & &have;
    let none = caps::CapsHashSet::new();
    for (set, value) in [
        (caps::CapSet::Inheritable, &none),
        (caps::CapSet::Effective, &keep),
        (caps::CapSet::Permitted, &keep),
    ] {
        caps::set(None, set, value)
            .map_err(caps_error)
            .map_err(stage("drop capabilities", ""))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(stage("set no_new_privs", ""))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(stage("forbid core dumps", ""))?;
    // Dropping privileges may have cleared it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(stage("set parent death signal", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let cases: &[(&str, Option<&str>)] = &[
            (
                "24 30 0:22 / /proc rw,nosuid shared:13 - proc proc rw",
                Some("/proc"),
            ),
            (
                "24 30 0:22 / /a\\040b\\134 rw - sysfs none rw",
                Some("/a b\\"),
            ),
            ("30 1 254:0 / / rw,relatime - ext4 /dev/root rw", None),
            ("30 1 254:0 / / rw,relatime", None),
            ("", None),
        ];
        for (line, point) in cases {
            assert_eq!(
                kernel_mount(line.as_bytes()),
                point.map(PathBuf::from),
                "{line}"
            );
        }
    }
}
