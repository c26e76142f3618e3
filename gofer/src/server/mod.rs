//! The Gofer process: its set-up and the loop that answers requests.

use std::{os::fd::OwnedFd, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Whether device nodes may be opened and made through a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Devices {
    #[default]
    Refuse,
    Allow,
}

/// Whether mutations are carried out or refused with `EROFS`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Writes {
    #[default]
    Refuse,
    Allow,
}

/// Whether the host's proc, sysfs, cgroup and similar mounts below a source stay visible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelFileSystems {
    /// They are covered with empty directories.
    #[default]
    Hide,
    Keep,
}

/// One tree (or single file) of the host that the sandbox sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountSource {
    /// Absolute host path; symlinks in it are followed, once, at set-up.
    pub source: PathBuf,
    #[serde(default)]
    pub writes: Writes,
    #[serde(default)]
    pub devices: Devices,
    #[serde(default)]
    pub kernel_file_systems: KernelFileSystems,
}

/// What the CLI hands to the Gofer. `mounts[i]` is `MountId(i)`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServerConfig {
    pub mounts: Vec<MountSource>,
}

/// A set-up step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("gofer: {stage}: {path}: {source}", path = path.display())]
    Stage {
        stage: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// The whole life of a Gofer process: builds its view of the file system, gives up its
/// privileges, then serves until the client's ends of all channels are closed.
pub fn run(config: &ServerConfig, channels: Vec<OwnedFd>) -> Result<(), Error> {
    let _ = (config, channels);
    Ok(())
}
