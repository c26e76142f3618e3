//! TCP sockets (tcp(7)) to the sandbox's own addresses: a pair of byte queues, each socket reading
//! from its own inbox and writing into its peer's.
//!
//! Sockets refer to each other weakly; an open file, or a listener's queue of connections not yet
//! accepted, owns one. Of two sockets never both are locked, and nobody is woken and no guest memory
//! copied under a lock. `Tables::tcp` comes before a socket's state.
//!
//! What segments would show (windows, retransmissions, delayed acknowledgements) does not exist: a
//! FIN or RST is seen at once by the other side.

mod connect;
mod info;
mod listen;
mod outside;
mod socket;
mod timeout;
mod transfer;

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub(in crate::net::inet) use self::timeout::defer_seconds;
use self::transfer::Inbox;
use super::options::Values;
use super::outer::Outer;
use super::ports::{PortUser, Ports, Scope};
use super::{address, family};
use crate::errno::{Errno, Result};
use crate::executor::TimerHandle;
use crate::fs::sigio::Band;
use crate::kernel::wait::Ready;
use crate::net::options::Options;
use crate::net::outside::Domain;
use crate::net::socket::{Common, Kind};
use crate::net::stack::Stack;
use crate::net::traffic::Count;

/// Segments that packets would take: to begin a connection, to refuse one, to end one's half.
const HANDSHAKE: u64 = 3;
const REFUSAL: u64 = 2;
const FINISH: u64 = 2;
/// What a connection costs the sandbox besides its bytes: the socket and its entries in tables.
const COST: usize = 2048;
/// What each side's buffer holds unless the program sized it: Linux's grow with the connection to
/// megabytes; this much keeps two processes busy and stays in the processor's cache.
const QUEUE: usize = 256 * 1024;

/// The ports of TCP. Accepted connections have their listener's.
#[derive(Default)]
pub struct TcpPorts {
    bound: Ports<Tcp>,
    listeners: Ports<Tcp>,
    /// Local and remote address of all connections, both ends.
    connections: HashSet<(SocketAddr, SocketAddr)>,
}

impl TcpPorts {
    /// Connections in TIME_WAIT.
    pub fn lingering(&self) -> usize {
        self.bound.lingering()
    }
}

struct Listening {
    backlog: usize,
    pending: VecDeque<Arc<Tcp>>,
    /// Connections that are told of when data comes (TCP_DEFER_ACCEPT).
    deferred: Vec<Arc<Tcp>>,
    /// Sockets that connect and found the queue full.
    waiting: VecDeque<Weak<Tcp>>,
}

#[derive(Clone)]
struct Link {
    peer: Weak<Tcp>,
    remote: SocketAddr,
}

enum Phase {
    Closed,
    Listening(Listening),
    /// Waits for room in a listener's queue.
    Connecting(Link),
    Connected(Link),
    /// The host's socket is on its way to that address.
    Reaching(SocketAddr),
    /// The host's socket is connected to that address.
    Outside(SocketAddr),
    /// Was connected and is no more (reset).
    Done,
}

struct State {
    phase: Phase,
    local: Option<SocketAddr>,
    /// What bind(2) asked for; a port that connect(2) picked ends with the connection.
    bound: Option<SocketAddr>,
    error: Option<Errno>,
    /// connect(2) began and has not told yet how it ended.
    untold: bool,
    /// A FIN went out; first: before the peer's.
    shut_write: bool,
    first: bool,
}

/// See the module documentation.
pub struct Tcp {
    this: Weak<Tcp>,
    common: Common,
    domain: Domain,
    values: Mutex<Values>,
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    /// Where there is a way out.
    outer: Outer,
    /// What the send buffer adds to the peer's inbox, bytes.
    send_room: AtomicUsize,
    /// TCP_CORK.
    corked: AtomicBool,
    /// Ends a connection attempt, or the deferring of an accept(2).
    timer: Mutex<Option<TimerHandle>>,
    cork_timer: Mutex<Option<TimerHandle>>,
    /// Its memory is counted: that of a connection, which needs no descriptor at first.
    charged: bool,
}

impl PortUser for Tcp {
    fn common(&self) -> &Common {
        &self.common
    }

    fn listens(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Listening(_))
    }
}

impl Tcp {
    pub fn new(stack: &Arc<Stack>, domain: Domain) -> Arc<Tcp> {
        let (options, values) = {
            let settings = stack.settings.read();
            let options = Options {
                send_buffer: settings.tcp_wmem[1] as usize,
                receive_buffer: settings.tcp_rmem[1] as usize,
                ..Options::default()
            };
            (options, Values::new(&settings))
        };
        Tcp::make(stack, domain, options, values, None)
    }

    /// `ends`: of an accepted connection, whose [`COST`] was charged: its own address and the link to
    /// its peer.
    fn make(
        stack: &Arc<Stack>,
        domain: Domain,
        options: Options,
        values: Values,
        ends: Option<(SocketAddr, Link)>,
    ) -> Arc<Tcp> {
        let common = Common::new(stack, family(domain), Kind::Stream, libc::IPPROTO_TCP);
        let send_room = transfer::room(options.send_buffer, options.send_locked);
        let capacity = transfer::room(options.receive_buffer, options.receive_locked);
        *common.options.lock() = options;
        let charged = ends.is_some();
        let (local, phase) = match ends {
            Some((local, link)) => (Some(local), Phase::Connected(link)),
            None => (None, Phase::Closed),
        };
        Arc::new_cyclic(|this| Tcp {
            this: this.clone(),
            common,
            domain,
            values: Mutex::new(values),
            state: Mutex::new(State {
                bound: local,
                phase,
                local,
                error: None,
                untold: false,
                shut_write: false,
                first: false,
            }),
            outer: Outer::default(),
            inbox: Mutex::new(Inbox::new(capacity)),
            send_room: AtomicUsize::new(send_room),
            corked: AtomicBool::new(false),
            timer: Mutex::default(),
            cork_timer: Mutex::default(),
            charged,
        })
    }

    fn v6_only(&self) -> bool {
        let values = self.values.lock();
        values.on(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)
    }

    fn scope(&self, ip: IpAddr) -> Scope {
        Scope::new(self.domain, ip, self.v6_only())
    }

    /// Takes the port of `local`. EINVAL if it has one, EADDRINUSE.
    fn bind_to(&self, local: SocketAddr) -> Result<()> {
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let scope = self.scope(local.ip());
        {
            let state = self.state.lock();
            if state.local.is_some() || !matches!(state.phase, Phase::Closed) {
                return Err(Errno::EINVAL);
            }
        }
        let stack = &self.common.stack;
        let range = stack.settings.read().range();
        let mut tables = stack.inet.tcp.lock();
        let port = tables.bound.bind(&this, local.port(), scope, &range)?;
        let mut state = self.state.lock();
        if state.local.is_some() {
            // Another thread was faster.
            drop(state);
            tables.bound.leave(port, self.common.cookie);
            return Err(Errno::EINVAL);
        }
        state.local = Some(SocketAddr::new(local.ip(), port));
        state.bound = state.local;
        Ok(())
    }

    /// Takes the connection out of the tables, and the port unless bind(2) asked for it.
    fn unlink(&self, tables: &mut TcpPorts, state: &mut State) {
        let Some(local) = state.local else {
            return;
        };
        if let Phase::Connected(link) | Phase::Connecting(link) = &state.phase {
            tables.connections.remove(&(local, link.remote));
        }
        state.local = state.bound;
        match state.bound {
            None => tables.bound.leave(local.port(), self.common.cookie),
            Some(bound) => {
                let scope = Scope::new(self.domain, bound.ip(), self.v6_only());
                tables
                    .bound
                    .rescope(bound.port(), self.common.cookie, scope);
            }
        }
    }

    /// The peer, as long as there is a connection.
    fn link(&self) -> Option<Link> {
        match &self.state.lock().phase {
            Phase::Connected(link) => Some(link.clone()),
            _ => None,
        }
    }

    /// Sends a FIN, if none was sent.
    fn finish(&self) {
        let peer_first = self.inbox.lock().fin;
        let link = {
            let mut state = self.state.lock();
            let Phase::Connected(link) = &state.phase else {
                return;
            };
            let link = link.clone();
            if state.shut_write {
                return;
            }
            state.shut_write = true;
            state.first = !peer_first;
            link
        };
        let Some(peer) = link.peer.upgrade() else {
            return;
        };
        let traffic = &self.common.stack.loopback;
        traffic.segments(self.wire(&peer), FINISH, 0);
        let closed = {
            let mut inbox = peer.inbox.lock();
            inbox.fin = true;
            inbox.held = 0;
            inbox.closed
        };
        peer.admit();
        if peer_first && !closed {
            // Both have: the one that began waits.
            let reuse = peer.common.options.lock().reuse_address;
            self.linger(link.remote, reuse);
        }
        let both = peer.state.lock().shut_write;
        let band = if both { Band::HangUp } else { Band::In };
        peer.common.tell(Ready::all(), band);
    }

    /// The port of `end` belongs to a connection in TIME_WAIT now.
    fn linger(&self, end: SocketAddr, reuse: bool) {
        let scope = Scope::new(self.domain, end.ip(), true);
        let mut tables = self.common.stack.inet.tcp.lock();
        tables.bound.linger(end.port(), scope, reuse);
    }

    /// The family that two sockets' packets would be of.
    fn wire(&self, peer: &Tcp) -> Domain {
        match (self.domain, peer.domain) {
            (Domain::V6, Domain::V6) => Domain::V6,
            _ => Domain::V4,
        }
    }

    /// Sends a RST, for which a connection is no more at both ends.
    fn send_reset(&self, peer: &Tcp) {
        let traffic = &self.common.stack.loopback;
        traffic.count(Count::TcpOutRsts);
        traffic.count(Count::TcpEstabResets);
        traffic.segments(self.wire(peer), 1, 0);
        peer.reset();
    }

    /// A RST has come.
    fn reset(&self) {
        let fin = self.inbox.lock().fin;
        {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Connected(_) | Phase::Connecting(_)) {
                return;
            }
            state.error = Some(if fin { Errno::EPIPE } else { Errno::ECONNRESET });
            if matches!(state.phase, Phase::Connected(_)) {
                self.common.stack.loopback.count(Count::TcpEstabResets);
            }
        }
        self.forget_deferred();
        self.give_up();
        self.common.subscribers.tell(Band::Error);
    }

    /// There is no connection any more.
    fn give_up(&self) {
        {
            let mut tables = self.common.stack.inet.tcp.lock();
            let mut state = self.state.lock();
            let phase = std::mem::replace(&mut state.phase, Phase::Done);
            state.shut_write = true;
            if let (Some(local), Phase::Connected(link) | Phase::Connecting(link)) =
                (state.local, phase)
            {
                tables.connections.remove(&(local, link.remote));
            }
        }
        self.inbox.lock().shut = true;
        self.common.queue.wake_all();
    }

    /// connect(2) with AF_UNSPEC: as new, but for the port that bind(2) asked for.
    fn disconnect(&self) {
        self.stop_listening();
        if let Some(peer) = self.link().and_then(|l| l.peer.upgrade()) {
            self.send_reset(&peer);
        }
        self.disconnect_outside();
        {
            let mut tables = self.common.stack.inet.tcp.lock();
            let mut state = self.state.lock();
            self.unlink(&mut tables, &mut state);
            state.phase = Phase::Closed;
            state.error = None;
            state.untold = false;
            state.shut_write = false;
        }
        let mut inbox = self.inbox.lock();
        inbox.queue.clear();
        inbox.restart();
        drop(inbox);
        self.common.queue.wake_all();
    }

    /// The open file is gone, or never was (a connection nobody accepted).
    fn end(&self, ending: Ending) {
        self.stop_listening();
        let (unread, peer_first) = {
            let mut inbox = self.inbox.lock();
            let unread = inbox.visible() > 0;
            inbox.closed = true;
            inbox.queue.clear();
            inbox.held = 0;
            (unread, inbox.fin)
        };
        let options = {
            let options = self.common.options.lock();
            (options.linger, options.reuse_address)
        };
        let reset = unread || options.0 == Some(0) || ending == Ending::Reset;
        if let Some(link) = self.link() {
            if reset {
                if let Some(peer) = link.peer.upgrade() {
                    if unread {
                        self.common.stack.loopback.count(Count::TcpAbortOnClose);
                    } else if ending == Ending::Orderly {
                        self.common.stack.loopback.count(Count::TcpAbortOnData);
                    }
                    self.send_reset(&peer);
                }
            } else {
                self.finish();
                let (local, first) = {
                    let state = self.state.lock();
                    (state.local, state.first)
                };
                if let Some(local) = local.filter(|_| first) {
                    self.linger(local, options.1);
                }
                // Whoever waits for room here learns that nobody reads.
                if let Some(peer) = link.peer.upgrade().filter(|_| !peer_first) {
                    peer.common.queue.wake_all();
                }
            }
        }
        self.leave();
        self.common.queue.wake_all();
    }

    /// Out of all tables, for good.
    fn leave(&self) {
        self.outer.close();
        let mut tables = self.common.stack.inet.tcp.lock();
        let mut state = self.state.lock();
        let phase = std::mem::replace(&mut state.phase, Phase::Done);
        if let Some(local) = state.local.take() {
            tables.bound.leave(local.port(), self.common.cookie);
            if let Phase::Connected(link) | Phase::Connecting(link) = phase {
                tables.connections.remove(&(local, link.remote));
            }
        }
    }
}

/// How close(2) ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// A FIN, but a RST if something was not read.
    Orderly,
    Reset,
}

impl Drop for Tcp {
    fn drop(&mut self) {
        if self.charged {
            self.common.stack.pool.uncharge(COST);
        }
    }
}
