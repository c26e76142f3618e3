//! The Gofer process: its set-up and the loop that answers requests.

mod change;
mod dir;
#[cfg(test)]
mod hostile_tests;
pub mod ids;
mod lookup;
mod mounts;
mod path;
mod serve;
pub(crate) mod setup;
mod sockets;
pub(crate) mod sys;
mod tree;
mod xattr;

use std::{
    convert::Infallible,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Barrier, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use ids::Disguise;
use mounts::{HostGuards, Mount, Mounts, Root};
use serde::{Deserialize, Serialize};

use crate::protocol::HostSockets;

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
    #[serde(default)]
    pub disguise: Disguise,
    #[serde(default)]
    pub sockets: HostSockets,
}

/// Why a Gofer did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("gofer: {stage} {path}: {source}", path = path.display())]
    Stage {
        stage: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("gofer: {0}")]
    Filter(#[from] runsc_platform::seccomp::Error),
}

/// Bytes of stack of a serving thread.
const STACK_BYTES: usize = 256 * 1024;
/// When what the start needed is given back, if the sandbox lives that long.
const SETTLED: Duration = Duration::from_millis(100);

/// The whole life of a Gofer process: builds its view of the file system, gives up its
/// privileges, then serves until the client's ends of all channels are closed.
///
/// The caller is the only thread of a process that is in its own mount namespace, with
/// `CAP_SYS_ADMIN` over it, and is good for nothing else afterwards.
///
/// # Errors
/// A step of the set-up failed; the process should end.
pub fn run(config: &ServerConfig, channels: Vec<OwnedFd>) -> Result<(), Error> {
    // Once while there is a /proc that says where the code lies.
    runsc_platform::process::release_start_up_memory();
    setup::process()?;
    ids::set(config.disguise);
    let mounts = Arc::new(setup::file_systems(config)?);
    setup::file_owner()?;
    // All threads exist and are prepared before the filter, and serve after it.
    let ready = Arc::new(Barrier::new(channels.len().saturating_add(1)));
    let mut threads = Vec::with_capacity(channels.len());
    let permitted = config.sockets;
    let (serving, served) = mpsc::channel::<Infallible>();
    for channel in channels {
        let (mounts, ready) = (Arc::clone(&mounts), Arc::clone(&ready));
        let serving = serving.clone();
        let thread = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let prepared = prepare(permitted);
                ready.wait();
                ready.wait();
                if prepared.is_ok() {
                    serve::serve(&mounts, &channel);
                }
                drop(serving);
            });
        threads.push(thread.map_err(|source| Error::Stage {
            stage: "start a thread",
            path: PathBuf::new(),
            source,
        })?);
    }
    ready.wait();
    crate::filter::gofer(config.sockets).install()?;
    ready.wait();
    drop(serving);
    // Most of a program's files are opened when it starts.
    if served.recv_timeout(SETTLED) == Err(mpsc::RecvTimeoutError::Timeout) {
        runsc_platform::process::release_start_up_memory();
    }
    for thread in threads {
        // A thread that panicked has closed its channel, which the client takes for our end.
        let _ = thread.join();
    }
    Ok(())
}

/// What a serving thread needs before the filter.
fn prepare(permitted: HostSockets) -> std::io::Result<()> {
    match permitted {
        HostSockets::None => Ok(()),
        _ => sockets::own_directory(),
    }
}

/// A directory to serve without any set-up.
#[derive(Debug)]
pub struct PlainMount {
    /// The tree's root directory (`O_PATH` will do).
    pub root: OwnedFd,
    pub writes: Writes,
    pub devices: Devices,
}

/// Serves directories from threads of this process, with its privileges and its view of the file
/// system: for tests, of the Gofer and of what speaks to it. The threads end when the client's
/// ends of the channels are closed.
pub fn spawn_unconfined(mounts: Vec<PlainMount>, channels: Vec<OwnedFd>) -> Vec<JoinHandle<()>> {
    spawn_with(mounts, HostSockets::None, channels)
}

fn spawn_with(
    mounts: Vec<PlainMount>,
    sockets: HostSockets,
    channels: Vec<OwnedFd>,
) -> Vec<JoinHandle<()>> {
    let mounts = mounts.into_iter().map(|mount| Mount {
        root: Root::Directory(mount.root),
        writes: mount.writes,
        devices: mount.devices,
        guards: HostGuards::Absent,
    });
    let mounts = Arc::new(Mounts {
        trees: mounts.collect(),
        sockets,
    });
    let serve = |channel: OwnedFd| {
        let mounts = Arc::clone(&mounts);
        std::thread::spawn(move || {
            if prepare(sockets).is_ok() {
                serve::serve(&mounts, &channel);
            }
        })
    };
    channels.into_iter().map(serve).collect()
}
