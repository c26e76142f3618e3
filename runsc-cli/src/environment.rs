//! What the caller's process looks like: identity, limits, privileges.

use anyhow::{Context, Result};
use nix::{
    sys::{
        resource::{Resource, getrlimit},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, getgroups},
};
use runsc_sentry::config::Rlimit;

/// All capabilities Linux knows, as a set.
pub fn all_capabilities() -> u64 {
    caps::all()
        .into_iter()
        .fold(0, |set, capability| set | capability.bitmask())
}

/// Whether namespaces can be made without a user namespace around them.
pub fn is_privileged() -> bool {
    Uid::effective().is_root()
        && caps::has_cap(
            None,
            caps::CapSet::Effective,
            caps::Capability::CAP_SYS_ADMIN,
        )
        .unwrap_or(false)
}

/// The caller's supplementary groups.
pub fn groups() -> Result<Vec<u32>> {
    Ok(getgroups()
        .context("getgroups")?
        .into_iter()
        .map(Gid::as_raw)
        .collect())
}

/// The caller's file mode creation mask.
pub fn current_umask() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    mask.bits()
}

/// The caller's resource limits.
pub fn rlimits() -> Result<Vec<Rlimit>> {
    const ALL: [Resource; 16] = [
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_RSS,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_LOCKS,
        Resource::RLIMIT_SIGPENDING,
        Resource::RLIMIT_MSGQUEUE,
        Resource::RLIMIT_NICE,
        Resource::RLIMIT_RTPRIO,
        Resource::RLIMIT_RTTIME,
    ];
    ALL.into_iter()
        .map(|resource| {
            let (soft, hard) = getrlimit(resource).context("getrlimit")?;
            Ok(Rlimit {
                resource: resource as u32,
                soft,
                hard,
            })
        })
        .collect()
}
