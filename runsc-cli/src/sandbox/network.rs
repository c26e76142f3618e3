//! The network namespace that a sandbox is started in.

use std::{
    fs::{self, File},
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
    /// Moves this process there. A new one has loopback, as runc's has. `sysctls`, names with slashes
    /// and values: what of them is a network's is set in a namespace that is the container's.
    pub fn join(&self, sysctls: &[(String, String)]) -> Result<()> {
        match self {
            Self::Inherited => return Ok(()),
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
        for (name, value) in sysctls.iter().filter(|(name, _)| name.starts_with("net/")) {
            // The guest has it from the Sentry as well; this is for the sockets that reach the outside.
            if let Err(error) = fs::write(format!("/proc/sys/{name}"), value) {
                log::warn!("linux.sysctl: {name}: not set outside of the sandbox: {error}");
            }
        }
        Ok(())
    }
}
