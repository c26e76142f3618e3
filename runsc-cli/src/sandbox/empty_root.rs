//! Leaving everything behind: the Sentry's last steps before it is the guest's kernel.

use anyhow::{Context, Result};
use caps::CapSet;
use nix::{
    errno::Errno,
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

/// Gives up the host's files, all capabilities and root's id. What remains are the fds.
pub fn enter() -> Result<()> {
    setsid().context("setsid")?;
    umask(Mode::empty());
    empty_root()?;
    limits()?;
    credentials()?;
    prctl::set_no_new_privs().context("no_new_privs")?;
    prctl::set_dumpable(false).context("not dumpable")?;
    Ok(())
}

/// Makes an empty read-only file system the root and the only mount there is.
fn empty_root() -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("making the mounts private")?;
    // Any directory will do; it is covered, in this mount namespace, and gone a moment later.
    let place = "/proc";
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("none"),
        place,
        Some("tmpfs"),
        flags,
        Some("mode=0555,size=4k,nr_inodes=1"),
    )
    .context("mounting the empty root")?;
    chdir(place).context("entering the empty root")?;
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
