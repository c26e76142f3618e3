//! AF_UNIX sockets (unix(7)): streams, datagrams and sequenced packets between guest processes.
//!
//! A [`Unix`] has an inbox that its peers put [`Message`]s into, a connection state and a wait
//! queue. Sockets refer to each other weakly; an open file (or a listener's queue of connections not
//! yet accepted) owns one. At most one socket's lock is held at a time, and none while guest memory
//! is copied or somebody is woken. Reading frees room and wakes those who send to this socket.
//!
//! With `--host-uds` some lead to sockets of the host ([`outside`]).

pub mod address;
pub mod flight;
pub mod message;
mod outside;
mod socket;
#[cfg(test)]
mod tests;
mod transfer;
mod urgent;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

pub use self::address::Address;
pub use self::flight::Rights;
pub use self::message::{Message, Peer, Ucred};
pub use self::socket::{make, make_pair};
pub use self::transfer::Peek;
use crate::errno::{Errno, Result};
use crate::fs::inode::{Dev, Inode};
use crate::fs::sigio::Band;
use crate::kernel::current;
use crate::kernel::group::ThreadGroup;
use crate::kernel::wait::Ready;
use crate::net::host::Host;
use crate::net::socket::{Common, Kind, Socket};
use crate::net::stack::Stack;

/// Streams and sequenced packets.
fn connects(kind: Kind) -> bool {
    kind != Kind::Datagram
}

#[derive(Default)]
struct Inbox {
    messages: VecDeque<Message>,
    /// What the messages cost their senders.
    cost: usize,
    /// No more will come, or nobody wants it (shutdown(2)).
    shut: bool,
    closed: bool,
}

struct Listening {
    backlog: usize,
    pending: VecDeque<Arc<Unix>>,
    owner: Peer,
}

#[derive(Default)]
struct State {
    address: Option<Address>,
    /// The inode that an address in the file system stands for.
    inode: Option<Arc<dyn Inode>>,
    peer: Option<Weak<Unix>>,
    peer_address: Option<Address>,
    peer_process: Option<Peer>,
    /// Was connected at some time (streams).
    connected: bool,
    listening: Option<Listening>,
    shut_write: bool,
    error: Option<Errno>,
    /// Datagram sockets that send here by default.
    clients: Vec<Weak<Unix>>,
    /// The peer, where it stands for a socket of the host.
    stand_in: Option<Arc<Unix>>,
}

/// See the module documentation.
pub struct Unix {
    this: Weak<Unix>,
    common: Common,
    inbox: Mutex<Inbox>,
    state: Mutex<State>,
    closed: AtomicBool,
    /// SO_PASSPIDFD.
    pass_process: AtomicBool,
    /// See [`outside`].
    link: OnceLock<Host>,
    door: OnceLock<Host>,
}

/// What a socket inode remembers of the socket bound to it.
struct Bound(Weak<Unix>);

impl Unix {
    pub fn new(stack: &Arc<Stack>, kind: Kind) -> Arc<Unix> {
        Arc::new_cyclic(|this| Unix {
            this: this.clone(),
            common: Common::new(stack, libc::AF_UNIX, kind, 0),
            inbox: Mutex::default(),
            state: Mutex::default(),
            closed: AtomicBool::new(false),
            pass_process: AtomicBool::new(false),
            link: OnceLock::new(),
            door: OnceLock::new(),
        })
    }

    /// The unix socket that a socket is. None: of another family.
    pub fn of(socket: &dyn Socket) -> Option<&Unix> {
        socket.as_any().downcast_ref()
    }

    /// socketpair(2).
    pub fn pair(stack: &Arc<Stack>, kind: Kind, owner: &Peer) -> (Arc<Unix>, Arc<Unix>) {
        let (a, b) = (Unix::new(stack, kind), Unix::new(stack, kind));
        a.link(&b, None, owner.clone());
        b.link(&a, None, owner.clone());
        (a, b)
    }

    fn link(&self, peer: &Arc<Unix>, address: Option<Address>, process: Peer) {
        let mut state = self.state.lock();
        state.peer = Some(Arc::downgrade(peer));
        state.peer_address = address;
        state.peer_process = Some(process);
        state.connected = true;
    }

    pub fn kind(&self) -> Kind {
        self.common.kind
    }

    /// getsockname(2).
    pub fn address(&self) -> Option<Address> {
        self.state.lock().address.clone()
    }

    /// getpeername(2). ENOTCONN.
    pub fn peer_address(&self) -> Result<Option<Address>> {
        let state = self.state.lock();
        if state.peer.is_none() && self.link.get().is_none() {
            return Err(Errno::ENOTCONN);
        }
        Ok(state.peer_address.clone())
    }

    /// SO_PEERCRED and its like: of a listener itself. ENODATA.
    pub fn peer_process(&self) -> Result<Peer> {
        let state = self.state.lock();
        let own = state.listening.as_ref().map(|l| &l.owner);
        let known = state.peer_process.as_ref().or(own).cloned();
        known.ok_or(Errno::ENODATA)
    }

    /// SO_PEERCRED.
    pub fn peer_creds(&self) -> Ucred {
        self.peer_process().map_or(Ucred::UNKNOWN, |p| p.creds)
    }

    /// Whether what a process receives says which process it is from.
    pub fn passes_process(&self) -> bool {
        self.pass_process.load(Ordering::Relaxed)
    }

    /// The process that says to be sending to this socket, if the receiver wants to know.
    fn sender(&self, creds: Ucred) -> Option<Arc<ThreadGroup>> {
        if !self.passes_process() {
            return None;
        }
        current::with(|task| task.and_then(|t| t.kernel().tree.group(creds.pid)))
    }

    /// The files that wait here, or for connections not yet accepted.
    fn files_waiting(&self) -> Vec<u64> {
        let mut ids = Vec::new();
        self.each_inbox(|inbox| {
            ids.extend(inbox.messages.iter().flat_map(|m| m.rights.ids()));
        });
        ids
    }

    /// Gives up those files, and what came with them.
    fn give_up_files(&self, to: &mut Vec<Message>) {
        self.each_inbox(|inbox| {
            let all = std::mem::take(&mut inbox.messages);
            let (others, with): (VecDeque<_>, _) =
                all.into_iter().partition(|m| m.rights.is_empty());
            let with: Vec<Message> = with.into();
            inbox.messages = others;
            inbox.cost -= with.iter().map(Message::cost).sum::<usize>();
            to.extend(with);
        });
    }

    fn each_inbox(&self, mut look: impl FnMut(&mut Inbox)) {
        look(&mut self.inbox.lock());
        let pending: Vec<_> = match &self.state.lock().listening {
            Some(listening) => listening.pending.iter().cloned().collect(),
            None => return,
        };
        for child in pending {
            look(&mut child.inbox.lock());
        }
    }

    /// The inode of the socket it is connected to: 0 if nobody accepted the connection yet.
    pub fn peer_ino(&self) -> Option<u64> {
        self.peer().map(|p| p.common.ino())
    }

    /// The file system (st_dev) and number of the inode it is bound to.
    pub fn place(&self) -> Option<(Dev, u64)> {
        let inode = self.state.lock().inode.clone();
        let attr = inode?.attr().ok()?;
        Some((attr.dev, attr.ino))
    }

    /// What shutdown(2) ended: RCV_SHUTDOWN 1, SEND_SHUTDOWN 2.
    pub fn shut_bits(&self) -> u8 {
        let write = self.state.lock().shut_write;
        let read = self.inbox.lock().shut;
        u8::from(read) | u8::from(write) << 1
    }

    fn peer(&self) -> Option<Arc<Unix>> {
        self.state.lock().peer.as_ref().and_then(Weak::upgrade)
    }

    /// bind(2) to an abstract name; None: any free one (no effect on a socket that has a name).
    ///
    /// # Errors
    /// EINVAL if it has a name, EADDRINUSE.
    pub fn bind_abstract(&self, name: Option<&[u8]>) -> Result<()> {
        let mut state = self.state.lock();
        if state.address.is_some() {
            return if name.is_none() {
                Ok(())
            } else {
                Err(Errno::EINVAL)
            };
        }
        let mut names = self.common.stack.unix_names.lock();
        state.address = Some(match name {
            Some(name) => {
                names.claim(self.kind(), name, self.this.clone())?;
                Address::Abstract(name.to_vec())
            }
            None => names.claim_any(self.kind(), &self.this)?,
        });
        Ok(())
    }

    /// bind(2) to a name in the file system, whose inode was just made; `door`: the host's socket of that
    /// name. EINVAL.
    pub fn bind_inode(
        &self,
        path: Vec<u8>,
        inode: &Arc<dyn Inode>,
        door: Option<Host>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        if state.address.is_some() {
            return Err(Errno::EINVAL);
        }
        inode
            .extra()
            .set_object(Some(Arc::new(Bound(self.this.clone()))));
        state.address = Some(Address::Path(path));
        state.inode = Some(inode.clone());
        if let Some(door) = door {
            let _ = self.door.set(door);
        }
        Ok(())
    }

    /// The socket bound to an inode. ECONNREFUSED.
    pub fn at_inode(inode: &dyn Inode) -> Result<Arc<Unix>> {
        let bound = inode.extra().object::<Bound>();
        bound.and_then(|b| b.0.upgrade()).ok_or(Errno::ECONNREFUSED)
    }

    /// listen(2).
    ///
    /// # Errors
    /// EOPNOTSUPP for datagrams, EINVAL without a name or when connected.
    pub fn start_listening(&self, backlog: i32, owner: Peer) -> Result<()> {
        if !connects(self.kind()) {
            return Err(Errno::EOPNOTSUPP);
        }
        let backlog = self.common.stack.settings.read().backlog(backlog);
        {
            let mut state = self.state.lock();
            if state.address.is_none() || state.connected {
                return Err(Errno::EINVAL);
            }
            if let Some(door) = self.door.get() {
                rustix::net::listen(door.socket().fd(), backlog)?;
            }
            let backlog = usize::try_from(backlog).unwrap_or(0);
            match &mut state.listening {
                Some(listening) => listening.backlog = backlog,
                none => {
                    *none = Some(Listening {
                        backlog,
                        pending: VecDeque::new(),
                        owner,
                    });
                }
            }
        }
        self.common.queue.wake_all();
        Ok(())
    }

    /// accept(2): the next connection. EAGAIN, EINVAL if it does not listen.
    pub fn next_connection(&self) -> Result<Arc<Unix>> {
        if !connects(self.kind()) {
            return Err(Errno::EOPNOTSUPP);
        }
        let child = {
            let mut state = self.state.lock();
            let listening = state.listening.as_mut().ok_or(Errno::EINVAL)?;
            listening.pending.pop_front()
        };
        let Some(child) = child else {
            let door = self.door.get().ok_or(Errno::EAGAIN)?;
            return self.accept_outside(door);
        };
        self.common.queue.wake(Ready::OUT | Ready::WRNORM);
        Ok(child)
    }

    /// connect(2) to `target`.
    ///
    /// # Errors
    /// EAGAIN if the backlog is full, ECONNREFUSED, EPROTOTYPE, EISCONN, EINVAL.
    pub fn connect_to(&self, target: &Arc<Unix>, own: &Peer) -> Result<()> {
        if self.kind() != target.kind() {
            return Err(Errno::EPROTOTYPE);
        }
        if !connects(self.kind()) {
            return self.connect_datagram(target);
        }
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        self.check_connects()?;
        let own_address = self.address();
        let child = Unix::new(&self.common.stack, self.kind());
        let (address, server) = {
            let mut state = target.state.lock();
            let address = state.address.clone();
            let listening = state.listening.as_mut().ok_or(Errno::ECONNREFUSED)?;
            if target.closed.load(Ordering::Acquire) {
                return Err(Errno::ECONNREFUSED);
            }
            if listening.pending.len() > listening.backlog {
                return Err(Errno::EAGAIN);
            }
            listening.pending.push_back(child.clone());
            (address, listening.owner.clone())
        };
        child.state.lock().address = address.clone();
        child.link(&this, own_address, own.clone());
        let wanted = target.passes_process();
        child.pass_process.store(wanted, Ordering::Relaxed);
        child.common.options.lock().pass_creds = target.common.options.lock().pass_creds;
        self.link(&child, address, server);
        target.common.tell(Ready::IN | Ready::RDNORM, Band::In);
        self.common.queue.wake(Ready::OUT | Ready::WRNORM);
        Ok(())
    }

    fn connect_datagram(&self, target: &Arc<Unix>) -> Result<()> {
        if target.closed.load(Ordering::Acquire) {
            return Err(Errno::ECONNREFUSED);
        }
        // A socket that is connected hears its peer only.
        let (address, reserved) = {
            let state = target.state.lock();
            let other = state
                .peer
                .as_ref()
                .is_some_and(|p| p.strong_count() > 0 && !p.ptr_eq(&self.this));
            (state.address.clone(), other)
        };
        if reserved {
            return Err(Errno::EPERM);
        }
        {
            let mut state = target.state.lock();
            state.clients.retain(|c| c.strong_count() > 0);
            state.clients.push(self.this.clone());
        }
        {
            let mut state = self.state.lock();
            state.peer = Some(Arc::downgrade(target));
            state.peer_address = address;
            state.stand_in = None;
            state.connected = true;
        }
        self.common.queue.wake_all();
        Ok(())
    }

    /// connect(2) with AF_UNSPEC: datagram sockets lose their peer.
    pub fn disconnect(&self) -> Result<()> {
        if connects(self.kind()) {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        state.peer = None;
        state.peer_address = None;
        state.stand_in = None;
        state.connected = false;
        Ok(())
    }

    /// shutdown(2). As on Linux no peer is needed.
    pub fn shut(&self, read: bool, write: bool) {
        if let Some(link) = self.link.get() {
            // One that the host has ended is shut already.
            let _ = link.shutdown(read, write);
        }
        let peer = {
            let mut state = self.state.lock();
            state.shut_write |= write;
            state.peer.as_ref().and_then(Weak::upgrade)
        };
        if read {
            self.inbox.lock().shut = true;
        }
        if let Some(peer) = peer.filter(|_| connects(self.kind())) {
            if write {
                peer.inbox.lock().shut = true;
            }
            if read {
                peer.state.lock().shut_write = true;
            }
            peer.common.queue.wake_all();
            if write {
                let band = if read { Band::HangUp } else { Band::In };
                peer.common.subscribers.tell(band);
            }
        }
        self.common.queue.wake_all();
    }

    /// The open file is gone.
    fn end(&self) {
        self.closed.store(true, Ordering::Release);
        let (address, inode, peer, listening, clients) = {
            let mut state = self.state.lock();
            (
                state.address.clone(),
                state.inode.take(),
                state.peer.take(),
                state.listening.take(),
                std::mem::take(&mut state.clients),
            )
        };
        // An accepted socket shows its listener's name and does not own it.
        if let Some(Address::Abstract(name)) = &address {
            let mut names = self.common.stack.unix_names.lock();
            names.release(self.kind(), name, &self.this);
        }
        if let Some(inode) = inode {
            inode.extra().set_object(None);
        }
        let unread = {
            let mut inbox = self.inbox.lock();
            inbox.closed = true;
            inbox.shut = true;
            inbox.cost = 0;
            std::mem::take(&mut inbox.messages)
        };
        for child in listening.into_iter().flat_map(|l| l.pending) {
            child.close_reset();
        }
        if let Some(peer) = peer.and_then(|p| p.upgrade())
            && connects(self.kind())
        {
            peer.peer_closed(unread.iter().any(|m| !m.is_mark()));
        }
        for client in clients.iter().filter_map(Weak::upgrade) {
            client.common.queue.wake_all();
        }
        // Whoever waits to send here finds it closed.
        self.common.queue.wake_all();
        drop(unread);
        flight::socket_ended();
    }

    /// A connection that nobody accepted.
    fn close_reset(&self) {
        let peer = self.peer();
        self.end();
        if let Some(peer) = peer {
            peer.state.lock().error = Some(Errno::ECONNRESET);
            peer.common.queue.wake_all();
        }
    }

    fn peer_closed(&self, lost_data: bool) {
        self.inbox.lock().shut = true;
        {
            let mut state = self.state.lock();
            state.shut_write = true;
            if lost_data {
                state.error = Some(Errno::ECONNRESET);
            }
        }
        self.common.tell(Ready::all(), Band::HangUp);
    }

    /// What poll(2) shows.
    fn readiness(&self) -> Ready {
        let readable = Ready::IN | Ready::RDNORM;
        let writable = Ready::OUT | Ready::WRNORM | Ready::WRBAND;
        if let Some(link) = self.link.get() {
            return link.ready();
        }
        let mut ready = Ready::empty();
        if let Some(door) = self.door.get() {
            ready |= door.ready() & readable;
        }
        let (connected, shut_write, peer) = {
            let state = self.state.lock();
            if let Some(listening) = &state.listening {
                return if listening.pending.is_empty() {
                    ready
                } else {
                    readable
                };
            }
            if state.error.is_some() {
                ready |= Ready::ERR;
            }
            let peer = state.peer.as_ref().and_then(Weak::upgrade);
            (state.connected, state.shut_write, peer)
        };
        {
            let inbox = self.inbox.lock();
            if inbox.messages.iter().any(|m| !m.is_mark()) {
                ready |= readable;
            }
            if inbox.has_urgent() {
                ready |= Ready::PRI;
            }
            if inbox.shut {
                ready |= readable | Ready::RDHUP;
            }
            if inbox.shut && shut_write {
                ready |= Ready::HUP;
            }
        }
        if connects(self.kind()) && !connected {
            return ready | Ready::HUP | writable;
        }
        // Linux: as long as no more than a quarter of the buffer is in use.
        let limit = self.common.options.lock().send_buffer / 4;
        let room = peer.is_none_or(|p| match p.link.get() {
            Some(link) => link.ready().contains(Ready::OUT),
            None => p.inbox.lock().cost <= limit,
        });
        if room {
            ready |= writable;
        }
        ready
    }
}
