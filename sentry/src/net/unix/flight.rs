//! Open files in flight (SCM_RIGHTS): counted by user, and given up where nobody can receive them.
//!
//! A socket in a message may be all that keeps the socket alive in whose inbox the message lies, and
//! in a circle they keep each other. [`collect`] finds, as Linux does, the sockets that only messages
//! refer to and that no socket outside of them can receive, and takes the files from their inboxes.
//!
//! The lock held then is the outermost of this family's: messages with files are neither made nor
//! dropped, nor files taken from one, while the lock of a socket or an inbox is held. So whoever has
//! a file that was in flight when a collection began got it before that, and is seen to have it.
//!
//! Dropping a message may drop sockets with messages of their own: that is done in a loop, not by
//! recursion.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use super::Unix;
use crate::errno::{Errno, Result};
use crate::fs::file::File;

/// With fewer sockets in flight than that, the end of any socket is the time to collect.
const FEW: usize = 64;

/// Identity of an open file ([`File::id`]).
type Id = u64;

#[derive(Default)]
struct Flight {
    /// Files in flight, by user.
    users: HashMap<u32, u64>,
    /// Unix sockets in flight.
    sockets: HashMap<Id, InFlight>,
    /// Collections not made since the last one.
    skipped: usize,
    /// With so many sockets in flight it is time whatever happens.
    due: usize,
}

struct InFlight {
    file: Weak<File>,
    /// Messages that it lies in.
    count: usize,
}

static FLIGHT: LazyLock<Mutex<Flight>> = LazyLock::new(Mutex::default);
/// Sockets in flight, to be looked at without the lock.
static SOCKETS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Files to be dropped by the outermost drop of this thread.
    static DROPPING: RefCell<Option<Vec<Arc<File>>>> = const { RefCell::new(None) };
}

/// Open files in flight.
#[derive(Default)]
pub struct Rights {
    files: Vec<Arc<File>>,
    uid: u32,
}

/// Whether an open file is a unix socket, and which.
fn unix(file: &File) -> Option<&Unix> {
    crate::net::of(file).ok().and_then(|s| Unix::of(&**s))
}

impl Rights {
    /// Files that the user `uid` sends.
    ///
    /// # Errors
    /// ETOOMANYREFS if the user has more than `limit` in flight.
    pub fn new(files: Vec<Arc<File>>, uid: u32, limit: u64) -> Result<Rights> {
        if files.is_empty() {
            return Ok(Rights::default());
        }
        let due = {
            let flight = FLIGHT.lock();
            flight.many(uid) > limit || flight.sockets.len() > flight.due.max(FEW)
        };
        if due {
            collect();
        }
        let mut flight = FLIGHT.lock();
        if flight.many(uid) > limit {
            return Err(Errno::ETOOMANYREFS);
        }
        *flight.users.entry(uid).or_default() += files.len() as u64;
        for file in files.iter().filter(|f| unix(f).is_some()) {
            let socket = flight.sockets.entry(file.id()).or_insert_with(|| InFlight {
                file: Arc::downgrade(file),
                count: 0,
            });
            socket.count += 1;
        }
        SOCKETS.store(flight.sockets.len(), Ordering::Relaxed);
        Ok(Rights { files, uid })
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files, for MSG_PEEK; before they are handed to anybody, [`looked`].
    pub fn look(&self) -> Vec<Arc<File>> {
        self.files.clone()
    }

    /// The files, no longer in flight.
    pub fn take(&mut self) -> Vec<Arc<File>> {
        let files = std::mem::take(&mut self.files);
        if !files.is_empty() {
            FLIGHT.lock().land(self.uid, &files);
        }
        files
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        self.files.iter().map(|f| f.id())
    }
}

/// To be called with what was got by [`Rights::look`], with no lock held: a collection that has not seen
/// these references ends first.
pub fn looked(files: &[Arc<File>]) {
    if !files.is_empty() {
        drop(FLIGHT.lock());
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        drop_flat(self.take());
    }
}

impl Flight {
    /// Files of a user in flight.
    fn many(&self, uid: u32) -> u64 {
        self.users.get(&uid).copied().unwrap_or(0)
    }

    fn land(&mut self, uid: u32, files: &[Arc<File>]) {
        if let Some(own) = self.users.get_mut(&uid) {
            *own = own.saturating_sub(files.len() as u64);
            if *own == 0 {
                self.users.remove(&uid);
            }
        }
        for id in files.iter().map(|f| f.id()) {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.count = socket.count.saturating_sub(1);
                if socket.count == 0 {
                    self.sockets.remove(&id);
                }
            }
        }
        SOCKETS.store(self.sockets.len(), Ordering::Relaxed);
    }

    /// The sockets that nobody can receive.
    fn unreachable(&self) -> Vec<Arc<File>> {
        // Those that only messages refer to: an open file has no references to come by otherwise.
        let alone = |s: &&InFlight| s.file.strong_count() == s.count;
        let alone: Vec<_> = self.sockets.values().filter(alone).collect();
        let files = alone
            .iter()
            .filter_map(|s| Some((s.file.upgrade()?, s.count)));
        let files: HashMap<Id, _> = files.map(|(f, n)| (f.id(), (f, n))).collect();
        // What lies in whose inbox, looked at once.
        let inside: HashMap<Id, Vec<Id>> = files
            .iter()
            .filter_map(|(id, (file, _))| Some((*id, unix(file)?.files_waiting())))
            .collect();
        let mut elsewhere: HashMap<Id, usize> =
            files.iter().map(|(id, (_, count))| (*id, *count)).collect();
        for id in inside.values().flatten() {
            if let Some(n) = elsewhere.get_mut(id) {
                *n = n.saturating_sub(1);
            }
        }
        // Who lies elsewhere as well can be received, and then what lies in its inbox.
        let found = elsewhere.iter().filter(|(_, n)| **n > 0);
        let mut next: Vec<Id> = found.map(|(id, _)| *id).collect();
        let mut reached: HashSet<Id> = next.iter().copied().collect();
        while let Some(id) = next.pop() {
            for id in inside.get(&id).into_iter().flatten() {
                if reached.insert(*id) {
                    next.push(*id);
                }
            }
        }
        let lost = files.into_iter().filter(|(id, _)| !reached.contains(id));
        lost.map(|(_, (file, _))| file).collect()
    }
}

/// Gives up the files that nobody can receive any more.
pub fn collect() {
    let mut messages = Vec::new();
    let lost = {
        let mut flight = FLIGHT.lock();
        flight.skipped = 0;
        flight.due = flight.sockets.len().saturating_mul(2);
        let lost = flight.unreachable();
        for socket in lost.iter().filter_map(|f| unix(f)) {
            socket.give_up_files(&mut messages);
        }
        lost
    };
    drop(messages);
    drop_flat(lost);
}

/// A socket has ended, which is the time to collect; with many in flight not each time.
pub fn socket_ended() {
    if SOCKETS.load(Ordering::Relaxed) == 0 {
        return;
    }
    {
        let mut flight = FLIGHT.lock();
        flight.skipped += 1;
        if flight.sockets.len() > FEW && flight.skipped < flight.sockets.len() {
            return;
        }
    }
    collect();
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
