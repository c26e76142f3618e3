//! What travels between unix sockets: bytes, credentials and open files ([`super::flight`]).

use std::sync::Arc;

use super::address::Address;
use super::flight::Rights;
use crate::errno::{Errno, Result};
use crate::fs::pidfd;
use crate::kernel::group::ThreadGroup;
use crate::kernel::task::Task;
use crate::net::buffer::Piece;

/// Most files in one message (SCM_MAX_FD).
pub const MAX_RIGHTS: usize = 253;

/// struct ucred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ucred {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Ucred {
    /// Of the task as it sends (effective ids).
    pub fn of(task: &Task) -> Ucred {
        task.with_creds(|creds| Ucred {
            pid: task.pid(),
            uid: creds.euid.0,
            gid: creds.egid.0,
        })
    }

    /// What is told of a sender that said nothing: nobody.
    pub const NOBODY: Ucred = Ucred {
        pid: 0,
        uid: 65534,
        gid: 65534,
    };

    /// What SO_PEERCRED tells where there is no peer.
    pub const UNKNOWN: Ucred = Ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };

    pub fn encode(self) -> [u8; 12] {
        let mut b = [0u8; 12];
        b[..4].copy_from_slice(&self.pid.to_ne_bytes());
        b[4..8].copy_from_slice(&self.uid.to_ne_bytes());
        b[8..].copy_from_slice(&self.gid.to_ne_bytes());
        b
    }
}

/// Who is at the other end of a connection, at the time when it was made.
#[derive(Clone)]
pub struct Peer {
    pub creds: Ucred,
    pub groups: Arc<[u32]>,
    process: Option<Arc<ThreadGroup>>,
}

impl Peer {
    pub fn of(task: &Task) -> Peer {
        Peer {
            creds: Ucred::of(task),
            groups: task.with_creds(|c| c.groups.iter().map(|g| g.0).collect()),
            process: Some(task.group().clone()),
        }
    }

    /// SO_PEERPIDFD: a descriptor of `task`'s for the process. ENODATA, EMFILE.
    pub fn descriptor(&self, task: &Task) -> Result<i32> {
        let process = self.process.as_ref().ok_or(Errno::ENODATA)?;
        pidfd::install(task, process)
    }
}

/// One of whom no more is known.
impl From<Ucred> for Peer {
    fn from(creds: Ucred) -> Peer {
        Peer {
            creds,
            groups: Arc::new([]),
            process: None,
        }
    }
}

/// Bytes sent together, and who sent them.
pub struct Message {
    /// What was not read yet.
    pub data: Piece,
    /// The one byte sent last with MSG_OOB; without data it was taken, and marks the place.
    pub urgent: bool,
    pub from: Option<Address>,
    pub creds: Ucred,
    /// If the receiver wanted to know.
    pub process: Option<Arc<ThreadGroup>>,
    pub rights: Rights,
}

/// What a message costs its sender besides its bytes, and the step that those are counted in: about
/// what Linux's buffers take.
const OVERHEAD: usize = 256;
const STEP: usize = 512;

impl Message {
    /// An urgent byte that was taken.
    pub fn is_mark(&self) -> bool {
        self.urgent && self.data.is_empty()
    }

    pub fn cost(&self) -> usize {
        self.data.len().next_multiple_of(STEP) + OVERHEAD
    }
}
