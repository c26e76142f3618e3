//! Leaving everything behind: the Sentry's last steps before it is the guest's kernel.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use caps::CapSet;
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, chdir, pivot_root, setgroups, setresgid, setresuid, setsid},
};

/// The user and group id of a Sentry that root has started (nobody, nogroup).
pub const UNPRIVILEGED_ID: u32 = 65534;

/// Where file systems are mounted for a moment: any directory will do, it is covered in this mount
/// namespace only.
const PLACE: &str = "/proc";

/// A file for guest memory on a file system of its own, which nothing else leads to.
#[derive(Debug)]
pub struct Memory {
    /// Empty, without a name.
    pub file: OwnedFd,
    /// The root of the file system (O_PATH).
    pub root: OwnedFd,
}

/// What the file system holds where no limit is set, in bytes. It could not be given one later if it
/// had none.
pub const NO_LIMIT: u64 = 1 << 60;

/// Gives up the host's files, all capabilities and root's id. What remains are the fds. With
/// `memory`, guest memory is made of which the host holds that many bytes.
pub fn enter(memory: Option<u64>) -> Result<Option<Memory>> {
    setsid().context("setsid")?;
    umask(Mode::empty());
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("making the mounts private")?;
    let memory = memory.map(limited_memory).transpose()?;
    empty_root()?;
    limits()?;
    credentials()?;
    prctl::set_no_new_privs().context("no_new_privs")?;
    prctl::set_dumpable(false).context("not dumpable")?;
    Ok(memory)
}

/// The size of a file system for so many bytes.
pub fn memory_size(bytes: u64) -> u64 {
    const PAGE: u64 = 4096;
    // 0 would be no limit.
    (bytes / PAGE * PAGE).max(PAGE)
}

/// On a tmpfs of that size. Guest code is mapped from it, so it is not MS_NOEXEC.
fn limited_memory(bytes: u64) -> Result<Memory> {
    let what = || "making the guest's memory";
    let size = memory_size(bytes);
    let options = format!("mode=0700,size={size},nr_inodes=2");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("none"), PLACE, Some("tmpfs"), flags, Some(&*options)).with_context(what)?;
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = open(PLACE, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(PLACE, flags, Mode::empty());
    umount2(PLACE, MntFlags::MNT_DETACH).with_context(what)?;
    Ok(Memory {
        file: file.with_context(what)?,
        root: root.with_context(what)?,
    })
}

/// Makes an empty read-only file system the root and the only mount there is.
fn empty_root() -> Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("none"),
        PLACE,
        Some("tmpfs"),
        flags,
        Some("mode=0555,size=4k,nr_inodes=1"),
    )
    .context("mounting the empty root")?;
    chdir(PLACE).context("entering the empty root")?;
    // The old root ends up on top of the new one, at the same place.
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("unmounting the old root")?;
    chdir("/").context("entering the empty root")
}

/// As many fds as allowed (the guest's own limit is the Sentry's business), no core dumps: they
/// would hold the guest's memory.
fn limits() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("setrlimit")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("setrlimit")
}

fn credentials() -> Result<()> {
    // While there still is CAP_SETPCAP.
    caps::clear(None, CapSet::Bounding).context("dropping the bounding set")?;
    if Uid::current().is_root() {
        become_nobody()?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).with_context(|| format!("dropping capabilities: {set:?}"))?;
    }
    // Changing ids has cleared it.
    prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).context("PDEATHSIG")
}

/// Changes to the unprivileged id, unless the namespace does not map it.
fn become_nobody() -> Result<()> {
    let uid = Uid::from_raw(UNPRIVILEGED_ID);
    let gid = Gid::from_raw(UNPRIVILEGED_ID);
    match setresgid(gid, gid, gid) {
        Err(Errno::EINVAL) => return Ok(()),
        other => other.context("setresgid")?,
    }
    setgroups(&[]).context("setgroups")?;
    setresuid(uid, uid, uid).context("setresuid")
}
