//! What travels between unix sockets: bytes, credentials and open files.
//!
//! Files in flight are counted per user, so that sockets sent over each other in a circle, which
//! nothing ever frees, cannot be more than one user's limit. Dropping a message may drop sockets
//! with messages of their own: that is done in a loop, not by recursion.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::address::Address;
use crate::errno::{Errno, Result};
use crate::fs::file::File;
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
    pub fn of(task: &crate::kernel::task::Task) -> Ucred {
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

static IN_FLIGHT: Mutex<Option<HashMap<u32, u64>>> = Mutex::new(None);

thread_local! {
    /// Files to be dropped by the outermost drop of this thread.
    static DROPPING: RefCell<Option<Vec<Arc<File>>>> = const { RefCell::new(None) };
}

/// Open files in flight (SCM_RIGHTS).
#[derive(Default)]
pub struct Rights {
    files: Vec<Arc<File>>,
    uid: u32,
}

impl Rights {
    /// `limit`: RLIMIT_NOFILE of the sender.
    ///
    /// # Errors
    /// ETOOMANYREFS if the user has more than that in flight.
    pub fn new(files: Vec<Arc<File>>, uid: u32, limit: u64) -> Result<Rights> {
        let count = files.len() as u64;
        if count > 0 {
            let mut all = IN_FLIGHT.lock();
            let own = all.get_or_insert_default().entry(uid).or_default();
            if own.saturating_add(count) > limit {
                return Err(Errno::ETOOMANYREFS);
            }
            *own += count;
        }
        Ok(Rights { files, uid })
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files, for MSG_PEEK.
    pub fn look(&self) -> Vec<Arc<File>> {
        self.files.clone()
    }

    /// The files, no longer in flight.
    pub fn take(&mut self) -> Vec<Arc<File>> {
        let files = std::mem::take(&mut self.files);
        landed(self.uid, files.len());
        files
    }
}

fn landed(uid: u32, count: usize) {
    if count == 0 {
        return;
    }
    let mut all = IN_FLIGHT.lock();
    let users = all.get_or_insert_default();
    if let Some(own) = users.get_mut(&uid) {
        *own = own.saturating_sub(count as u64);
        if *own == 0 {
            users.remove(&uid);
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        drop_flat(self.take());
    }
}

/// Drops files without recursion, however deep sockets lie in sockets.
pub fn drop_flat(files: Vec<Arc<File>>) {
    if files.is_empty() {
        return;
    }
    let outermost = DROPPING.with(|d| match &mut *d.borrow_mut() {
        Some(list) => {
            list.extend(files);
            false
        }
        none => {
            *none = Some(files);
            true
        }
    });
    if !outermost {
        return;
    }
    while let Some(file) = DROPPING.with(|d| d.borrow_mut().as_mut().and_then(Vec::pop)) {
        drop(file);
    }
    DROPPING.with(|d| *d.borrow_mut() = None);
}

/// Bytes sent together, and who sent them.
pub struct Message {
    /// What was not read yet.
    pub data: Piece,
    /// The one byte sent last with MSG_OOB; without data it was taken, and marks the place.
    pub urgent: bool,
    pub from: Option<Address>,
    pub creds: Ucred,
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
