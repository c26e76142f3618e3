//! The network namespace that a sandbox is started in.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

/// See the module documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The caller's.
    Inherited,
    /// A new one.
    Own,
    /// The one a file stands for.
    At(PathBuf),
}

impl Network {
    /// Moves this process there. A new one has loopback, as runc's has.
    pub fn join(&self) -> Result<()> {
        match self {
            Self::Inherited => {}
            Self::Own => {
                unshare(CloneFlags::CLONE_NEWNET).context("network")?;
                runsc_gofer::network::raise_loopback().context("network: loopback")?;
            }
            Self::At(path) => {
                let what = || format!("network: {}", path.display());
                let file = File::open(path).with_context(what)?;
                setns(file, CloneFlags::CLONE_NEWNET).with_context(what)?;
            }
        }
        Ok(())
    }
}

/// Settings that decide what a program may do, and that whoever made a namespace may have changed.
const DECIDING: [&str; 4] = [
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
];

/// Adds to `sysctls` what is set in this process's network namespace, which others have as well: the
/// members of a pod go by the same settings.
pub fn add_shared(sysctls: &mut Vec<(String, String)>) {
    for name in DECIDING {
        if sysctls.iter().any(|(given, _)| given == name) {
            continue;
        }
        match fs::read_to_string(format!("/proc/sys/{name}")) {
            Ok(value) if !value.trim().is_empty() => {
                sysctls.push((name.to_owned(), value.trim().to_owned()));
            }
            Ok(_) => {}
            Err(error) => log::debug!("/proc/sys/{name}: {error}"),
        }
    }
}

/// Does something in the network namespace of process `pid`, and whether that is another one than
/// this thread's: of the container's namespaces the one that the host has as well.
pub fn inside<T>(pid: i32, what: impl FnOnce(Place) -> Result<T>) -> Result<T> {
    let open = |process: &str| {
        let path = format!("/proc/{process}/ns/net");
        File::open(&path).context(path)
    };
    let (own, theirs) = (open("thread-self")?, open(&pid.to_string())?);
    if own.metadata()?.ino() == theirs.metadata()?.ino() {
        return what(Place::Here);
    }
    setns(&theirs, CloneFlags::CLONE_NEWNET).context("the container's network namespace")?;
    let result = what(Place::There);
    setns(&own, CloneFlags::CLONE_NEWNET).context("this process's network namespace")?;
    result
}

/// Whose network namespace [`inside`] is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The caller's own, which is the container's as well.
    Here,
    /// The container's.
    There,
}

/// Sets what of `sysctls`, names with slashes and values, is a network's in the namespace of process
/// `pid`, unless that is the caller's own. The guest has them from the Sentry as well; this is for
/// the sockets that reach the outside.
pub fn set_sysctls(sysctls: &[(String, String)], pid: i32) -> Result<()> {
    let of_network = |(name, _): &&(String, String)| name.starts_with("net/");
    if !sysctls.iter().any(|setting| of_network(&setting)) {
        return Ok(());
    }
    inside(pid, |place| {
        for (name, value) in sysctls.iter().filter(of_network) {
            if place == Place::Here {
                continue;
            }
            if let Err(error) = fs::write(format!("/proc/sys/{name}"), value) {
                log::warn!("linux.sysctl: {name}: not set outside of the sandbox: {error}");
            }
        }
        Ok(())
    })
}
