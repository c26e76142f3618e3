//! How commands speak with the monitor of a container.
//!
//! A SOCK_SEQPACKET connection to `ROOT/ID/control.sock`, one postcard message a packet
//! ([`runsc_sentry::control::End`]): [`Ask`]s to the monitor, each with the version of this protocol,
//! [`Tell`]s back. What is asked is answered in order; only [`Tell::Exited`] comes by itself, to whoever
//! started a process with that connection, and [`Tell::OutOfMemory`] to who has asked for it. The monitor outlives updates of this program, so another
//! version is refused by name.
//!
//! Either side speaks only with processes of its own user, or of root.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::{
    socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
        setsockopt, socket, sockopt,
    },
    time::{TimeVal, TimeValLike},
};
use nix::unistd::Uid;
use runsc_sentry::{
    config::GuestLimits,
    control::{End, ExitStatus, ProcessInfo, Stats},
};
use serde::{Deserialize, Serialize};

use crate::failure::Report;

/// Changes whenever a message does.
pub const VERSION: u32 = 3;

/// Name of the socket in a container's directory.
pub const SOCKET: &str = "control.sock";

/// How long one side waits for room in the other's buffer, so that one that hangs holds nobody up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Commands' end of a connection.
pub type Connection = End<Envelope, Tell>;

/// The monitor's end.
pub type Visitor = End<Tell, Envelope>;

/// What is asked, by a command of which version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    version: u32,
    ask: Ask,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// From now on the container lives on without the command that created it.
    Detach,
    /// Lets the first program run: [`Tell::Started`] or [`Tell::NotStarted`].
    Start,
    /// [`Tell::Done`].
    Signal { signo: i32, all: bool },
    /// [`Tell::Done`].
    Pause,
    /// [`Tell::Done`].
    Resume,
    /// [`Tell::Processes`], perhaps several.
    Processes,
    /// [`Tell::HostProcesses`], perhaps several.
    HostProcesses,
    /// [`Tell::Stats`].
    Stats,
    /// Other limits for the guest: [`Tell::Done`].
    Limits(Box<GuestLimits>),
    /// The file system that holds the guest's memory: [`Tell::Done`] with its root (O_PATH).
    Memory,
    /// From now on [`Tell::OutOfMemory`] comes when that happens: [`Tell::Done`].
    Watch,
    /// Starts a process: [`Tell::Started`] or [`Tell::NotStarted`]. The message's fds are those of
    /// [`runsc_sentry::control::Request::Join`]. The process ends with the connection.
    Exec { files: Vec<i32> },
    /// A signal for what this connection has started; no answer.
    Forward { signo: i32, foreground: bool },
    /// The same for the first process's terminal; no answer.
    Foreground(bool),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// To the command that creates: the container waits for its start.
    Ready {
        /// What the user should know.
        warning: Option<String>,
    },
    Done,
    Refused(String),
    Started {
        /// Inside.
        pid: i32,
    },
    NotStarted {
        exit_code: u8,
        message: String,
    },
    Processes {
        list: Vec<ProcessInfo>,
        more: bool,
    },
    /// By their ids in the Sentry's pid namespace.
    HostProcesses {
        list: Vec<i32>,
        more: bool,
    },
    Stats(Stats),
    Exited(ExitStatus),
    /// A process was ended for lack of memory. Comes by itself, to who watches.
    OutOfMemory {
        /// Inside.
        pid: i32,
    },
    /// The sandbox could not be started, or failed. Nothing follows.
    Broken(Report),
}

impl Envelope {
    pub fn new(ask: Ask) -> Self {
        let version = VERSION;
        Self { version, ask }
    }

    pub fn open(self) -> Result<Ask> {
        let theirs = self.version;
        ensure!(
            theirs == VERSION,
            "this container is kept by a runsc-rs that speaks version {VERSION} of the control \
             protocol, not {theirs}"
        );
        Ok(self.ask)
    }
}

/// The address of the socket in `directory`, whose path may be longer than an address can be.
fn address(directory: &File) -> Result<UnixAddr> {
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    Ok(UnixAddr::new(path.as_str())?)
}

fn open(directory: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(directory);
    opened.with_context(|| directory.display().to_string())
}

fn new_socket() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).context("socket")
}

/// The monitor's socket in the container's directory.
pub fn serve(directory: &Path) -> Result<OwnedFd> {
    let directory = open(directory)?;
    let fd = new_socket()?;
    bind(fd.as_raw_fd(), &address(&directory)?).context("control socket")?;
    listen(&fd, Backlog::new(64)?).context("control socket")?;
    Ok(fd)
}

/// Accepts one connection; `None` if it is nobody we speak with.
pub fn accept(listener: &OwnedFd) -> Result<Option<Visitor>> {
    let fd = match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
        Ok(fd) => fd,
        // It has gone again, or there are too many.
        Err(errno) => {
            log::warn!("control socket: {}", io::Error::from(errno));
            return Ok(None);
        }
    };
    let peer = getsockopt(&fd, sockopt::PeerCredentials)?;
    let own = Uid::effective().as_raw();
    if peer.uid() != own && peer.uid() != 0 {
        log::warn!("control socket: user {} is turned away", peer.uid());
        return Ok(None);
    }
    limit_waiting(&fd)?;
    Ok(Some(Visitor::new(fd)))
}

/// Bounds how long `fd`'s buffer may stay full.
pub fn limit_waiting(fd: &OwnedFd) -> Result<()> {
    let patience = TimeVal::milliseconds(PATIENCE.as_millis() as i64);
    setsockopt(fd, sockopt::SendTimeout, &patience).context("control socket")
}

/// A connection to the monitor of the container in that directory; `None` if it has none.
pub fn reach(directory: &Path) -> Result<Option<Connection>> {
    let directory = open(directory)?;
    let fd = new_socket()?;
    match connect(fd.as_raw_fd(), &address(&directory)?) {
        Ok(()) => {}
        Err(nix::Error::ENOENT | nix::Error::ECONNREFUSED) => return Ok(None),
        Err(errno) => return Err(errno).context("control socket"),
    }
    let peer = getsockopt(&fd, sockopt::PeerCredentials)?;
    let own = Uid::effective().as_raw();
    if peer.uid() != own && peer.uid() != 0 && own != 0 {
        bail!("control socket: belongs to user {}", peer.uid());
    }
    limit_waiting(&fd)?;
    Ok(Some(Connection::new(fd)))
}

/// Bounds how long the next answers may take.
pub fn expect_within(connection: &Connection, limit: Duration) -> Result<()> {
    let limit = TimeVal::milliseconds(limit.as_millis() as i64);
    setsockopt(&connection.as_fd(), sockopt::ReceiveTimeout, &limit).context("control socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_reached_however_long_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(200));
        std::fs::create_dir(&long).unwrap();
        assert!(reach(&long).unwrap().is_none());
        let listener = serve(&long).unwrap();
        let connection = reach(&long).unwrap().unwrap();
        connection.send(&Envelope::new(Ask::Pause)).unwrap();
        let visitor = accept(&listener).unwrap().unwrap();
        assert_eq!(visitor.recv().unwrap().open().unwrap(), Ask::Pause);
        visitor.send(&Tell::Done).unwrap();
        assert_eq!(connection.recv().unwrap(), Tell::Done);
        drop((listener, visitor));
        assert!(reach(&long).unwrap().is_none(), "nobody listens any more");
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let envelope = Envelope {
            version: VERSION + 1,
            ask: Ask::Start,
        };
        let text = envelope.open().unwrap_err().to_string();
        assert!(text.contains(&format!("not {}", VERSION + 1)), "{text}");
    }
}
