//! What the children are told, and in which order their fds come.
//!
//! Fds 0 and 1 are /dev/null, 2 is our stderr (for last words only), 3 the payload, 4 the control
//! socket. The rest follows in the order of the payload's fields.

use std::{
    fs::File,
    io::Write,
    os::{
        fd::{OwnedFd, RawFd},
        unix::fs::FileExt,
    },
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use runsc_gofer::{
    network::{client::Ends, server::Channels},
    server::ServerConfig,
};
use runsc_sentry::config::{BootConfig, BootFds, LogLevel};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::logging::Format;

const FIRST_FD: RawFd = 3;

#[derive(Debug, Serialize, Deserialize)]
pub struct GoferPayload {
    pub server: ServerConfig,
    /// The namespace maps more than the caller: root has to be asked to be.
    pub is_mapped: bool,
    pub channels: usize,
    pub log: bool,
    pub log_format: Format,
    pub alive: bool,
    pub log_level: LogLevel,
}

#[derive(Debug)]
pub struct GoferFds {
    pub control: OwnedFd,
    pub channels: Vec<OwnedFd>,
    pub log: Option<OwnedFd>,
    /// Held for the life of the process (see `crate::state`).
    _alive: Option<OwnedFd>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct NetworkPayload {
    pub log: bool,
    pub log_format: Format,
    pub alive: bool,
    pub log_level: LogLevel,
}

#[derive(Debug)]
pub struct NetworkFds {
    pub control: OwnedFd,
    pub channels: Channels,
    pub log: Option<OwnedFd>,
    /// Held for the life of the process (see `crate::state`).
    _alive: Option<OwnedFd>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SentryPayload {
    pub boot: BootConfig,
    pub mode: Mode,
    pub channels: usize,
    /// There is a network Gofer.
    pub network: bool,
    pub stdio: [bool; 3],
    pub preserved: usize,
    pub memory_use: bool,
    pub kvm: bool,
    pub changes: bool,
    pub log: bool,
    pub log_format: Format,
    pub strace: bool,
    pub alive: bool,
}

/// What the Sentry process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Be the guest's kernel.
    Boot,
    /// The same, but the first program waits until it is asked for.
    Prepare,
    /// Write what it finds around itself to the guest's stdout.
    Probe,
    /// Then wait for a signal to be forwarded, and end as if it had killed the guest.
    ProbeAndHold,
}

impl GoferPayload {
    pub fn to_memfd(&self) -> Result<File> {
        to_memfd(self)
    }

    /// In the child: the payload and its fds.
    pub fn receive() -> Result<(Self, GoferFds)> {
        let payload: Self = from_memfd()?;
        let more = usize::from(payload.log) + usize::from(payload.alive);
        let mut fds = Fds::take(payload.channels + more)?;
        let fds = GoferFds {
            control: fds.next()?,
            channels: fds.several(payload.channels)?,
            log: fds.next_if(payload.log)?,
            _alive: fds.next_if(payload.alive)?,
        };
        Ok((payload, fds))
    }
}

impl NetworkPayload {
    pub fn to_memfd(&self) -> Result<File> {
        to_memfd(self)
    }

    /// In the child: the payload and its fds.
    pub fn receive() -> Result<(Self, NetworkFds)> {
        let payload: Self = from_memfd()?;
        let more = usize::from(payload.log) + usize::from(payload.alive);
        let mut fds = Fds::take(2 + more)?;
        let fds = NetworkFds {
            control: fds.next()?,
            channels: Channels {
                requests: fds.next()?,
                changes: fds.next()?,
            },
            log: fds.next_if(payload.log)?,
            _alive: fds.next_if(payload.alive)?,
        };
        Ok((payload, fds))
    }
}

impl SentryPayload {
    pub fn to_memfd(&self) -> Result<File> {
        to_memfd(self)
    }

    /// In the child: the payload and the fds the Sentry boots with.
    /// The last one is to be held for the life of the process (see `crate::state`).
    pub fn receive() -> Result<(Self, BootFds, Option<OwnedFd>)> {
        let payload: Self = from_memfd()?;
        let files = payload.stdio.iter().filter(|open| **open).count() + payload.preserved;
        let more = [
            payload.kvm,
            payload.changes,
            payload.log,
            payload.strace,
            payload.alive,
        ];
        let more = more.iter().filter(|there| **there).count();
        let pairs = 2 * (usize::from(payload.network) + usize::from(payload.memory_use));
        let mut fds = Fds::take(payload.channels + files + pairs + more)?;
        let boot = BootFds {
            control: fds.next()?,
            gofer: fds.several(payload.channels)?,
            network: match payload.network {
                true => Some(Ends {
                    requests: fds.next()?,
                    changes: fds.next()?,
                }),
                false => None,
            },
            stdio: [
                fds.next_if(payload.stdio[0])?,
                fds.next_if(payload.stdio[1])?,
                fds.next_if(payload.stdio[2])?,
            ],
            preserved: fds.several(payload.preserved)?,
            memory: None,
            memory_use: match payload.memory_use {
                true => Some([fds.next()?, fds.next()?]),
                false => None,
            },
            kvm: fds.next_if(payload.kvm)?,
            changes: fds.next_if(payload.changes)?,
            log: fds.next_if(payload.log)?,
            strace: fds.next_if(payload.strace)?,
        };
        let alive = fds.next_if(payload.alive)?;
        Ok((payload, boot, alive))
    }
}

pub fn to_memfd<T: Serialize>(payload: &T) -> Result<File> {
    let bytes = postcard::to_stdvec(payload).context("configuration")?;
    sealed(&bytes)
}

/// These bytes in a memfd that cannot change.
pub fn sealed(bytes: &[u8]) -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"runsc-rs-config", flags).context("memfd_create")?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).context("sealing the configuration")?;
    Ok(file)
}

/// Reads fd 3, which stays open for [`Fds::take`] to take over.
pub fn from_memfd<T: DeserializeOwned>() -> Result<T> {
    // Through /proc, because owning the fd is `Fds`'s business. The root is still the host's.
    let path = format!("/proc/self/fd/{FIRST_FD}");
    let Ok(file) = File::open(path) else {
        bail!("this command is started by the others, not by hand");
    };
    let is_ours = fcntl(&file, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals > 1);
    ensure!(
        is_ours,
        "this command is started by the others, not by hand"
    );
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    postcard::from_bytes(&bytes).context("configuration")
}

/// The received fds in their order.
pub struct Fds(std::vec::IntoIter<OwnedFd>);

impl Fds {
    /// Takes the payload (and closes it), the control socket and `more` fds.
    pub fn take(more: usize) -> Result<Self> {
        let fds = runsc_platform::process::received_fds(FIRST_FD, more + 2);
        let mut fds = Self(fds.context("inherited fds")?.into_iter());
        drop(fds.next()?);
        Ok(fds)
    }

    pub fn next(&mut self) -> Result<OwnedFd> {
        self.0.next().context("too few fds")
    }

    pub fn several(&mut self, count: usize) -> Result<Vec<OwnedFd>> {
        (0..count).map(|_| self.next()).collect()
    }

    pub fn next_if(&mut self, present: bool) -> Result<Option<OwnedFd>> {
        present.then(|| self.next()).transpose()
    }
}
