//! UDP sockets (udp(7)) to the sandbox's own addresses, its multicast groups and broadcast: a
//! datagram goes straight into the receiver's inbox, or is lost if that is full.
//!
//! Of two sockets never both are locked. `Tables::udp` comes before a socket's state.

mod control;
mod groups;
mod outside;
mod send;
mod socket;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use self::groups::Groups;
pub use self::groups::Members;
use self::send::Letter;

use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::wait::Ready;
use crate::net::inet::errors::Errors;
use crate::net::inet::options::Values;
use crate::net::inet::outer::{self, Outer};
use crate::net::inet::ports::{PortUser, Scope};
use crate::net::inet::{address, check_inside, family, source_for};
use crate::net::outside::Domain;
use crate::net::socket::{Common, Kind, Outgoing};
use crate::net::stack::Stack;
use crate::net::traffic;

/// Longest payload over IPv4: 65535 less the headers. Over IPv6 the header does not count.
const MAX_V4: usize = 65507;
const MAX_V6: usize = 65527;
/// What a datagram takes up besides its bytes, and the step that those are counted in: about what
/// Linux's buffers take.
const OVERHEAD: usize = 256;
const STEP: usize = 512;

struct Datagram {
    data: Vec<u8>,
    from: SocketAddr,
    to: SocketAddr,
    ttl: i32,
    tos: i32,
    /// Since the epoch, ns.
    time_ns: u64,
    /// How many were lost before it.
    lost: u32,
    /// Of how many bytes each it consists, if it is several in one (UDP_GRO).
    segment: usize,
}

impl Datagram {
    fn cost(&self) -> usize {
        self.data.len().next_multiple_of(STEP) + OVERHEAD
    }
}

#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<Datagram>,
    cost: usize,
    drops: u32,
    closed: bool,
}

struct State {
    local: Option<SocketAddr>,
    /// What bind(2) asked for.
    bound: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    groups: Groups,
    /// IP_MULTICAST_IF: the interface (0: by the route), and the address that it was named by.
    multicast: (u32, Ipv4Addr),
    error: Option<Errno>,
    errors: Errors,
    shut_read: bool,
    shut_write: bool,
    /// The host's socket is connected as well.
    outside: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            local: None,
            bound: None,
            remote: None,
            groups: Groups::default(),
            multicast: (0, Ipv4Addr::UNSPECIFIED),
            error: None,
            errors: Errors::default(),
            shut_read: false,
            shut_write: false,
            outside: false,
        }
    }
}

/// See the module documentation.
pub struct Udp {
    this: Weak<Udp>,
    common: Common,
    domain: Domain,
    values: Mutex<Values>,
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    /// What MSG_MORE or UDP_CORK holds back.
    corked: Mutex<Option<Letter>>,
    outer: Outer,
}

impl PortUser for Udp {
    fn common(&self) -> &Common {
        &self.common
    }

    fn listens(&self) -> bool {
        false
    }
}

impl Udp {
    pub fn new(stack: &Arc<Stack>, domain: Domain) -> Arc<Udp> {
        let values = Values::new(&stack.settings.read());
        Arc::new_cyclic(|this| Udp {
            this: this.clone(),
            common: Common::new(stack, family(domain), Kind::Datagram, libc::IPPROTO_UDP),
            domain,
            values: Mutex::new(values),
            state: Mutex::default(),
            inbox: Mutex::default(),
            corked: Mutex::default(),
            outer: Outer::default(),
        })
    }

    fn value(&self, level: i32, name: i32) -> i32 {
        self.values.lock().get(level, name)
    }

    fn v6_only(&self) -> bool {
        self.value(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) != 0
    }

    fn scope(&self, ip: IpAddr) -> Scope {
        Scope::new(self.domain, ip, self.v6_only())
    }

    /// Takes the port of `local`, inside only. EINVAL if it has one, EADDRINUSE.
    fn bind_inside(&self, local: SocketAddr) -> Result<SocketAddr> {
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let scope = self.scope(local.ip());
        let range = self.common.stack.settings.read().range();
        let mut tables = self.common.stack.inet.udp.lock();
        if self.state.lock().local.is_some() {
            return Err(Errno::EINVAL);
        }
        let port = tables.bind(&this, local.port(), scope, &range)?;
        let local = SocketAddr::new(local.ip(), port);
        self.state.lock().local = Some(local);
        Ok(local)
    }

    /// The own address; one is picked for a socket that has none.
    fn local(&self) -> Result<SocketAddr> {
        if let Some(local) = self.state.lock().local {
            return Ok(local);
        }
        match self.bind_inside(SocketAddr::new(address::any(self.domain), 0)) {
            Err(Errno::EINVAL) => self.state.lock().local.ok_or(Errno::EINVAL),
            // No port is free.
            Err(_) => Err(Errno::EAGAIN),
            ok => ok,
        }
    }

    fn set_local(&self, local: SocketAddr) {
        let scope = self.scope(local.ip());
        let mut tables = self.common.stack.inet.udp.lock();
        tables.rescope(local.port(), self.common.cookie, scope);
        self.state.lock().local = Some(local);
    }

    /// Whether `to` can be sent to. ENETUNREACH, EACCES for broadcast that was not asked for.
    fn check_route(&self, to: IpAddr) -> Result<()> {
        if self.domain == Domain::V6 && to.is_ipv4() && self.v6_only() {
            return Err(Errno::ENETUNREACH);
        }
        let broadcast =
            matches!(to, IpAddr::V4(ip) if self.common.stack.interfaces.read().is_broadcast(ip));
        if broadcast {
            let allowed = self.common.options.lock().broadcast;
            return if allowed { Ok(()) } else { Err(Errno::EACCES) };
        }
        if to.is_multicast() || self.common.stack.way_out().is_some() {
            return Ok(());
        }
        check_inside(&self.common, to)
    }

    fn connect_to(&self, to: SocketAddr) -> Result<()> {
        let to = address::this_host(to);
        self.check_route(to.ip())?;
        let local = self.local()?;
        if !local.ip().is_unspecified() && local.is_ipv4() != to.is_ipv4() {
            return Err(Errno::ENETUNREACH);
        }
        if self.leads_outside(local, to) {
            return self.connect_outside(to);
        }
        if local.ip().is_unspecified() {
            let source = source_for(&self.common.stack, to.ip());
            self.set_local(SocketAddr::new(source, local.port()));
        }
        self.state.lock().remote = Some(to);
        Ok(())
    }

    fn disconnect(&self) {
        self.disconnect_outside();
        let (local, bound) = {
            let mut state = self.state.lock();
            state.remote = None;
            (state.local, state.bound)
        };
        match (local, bound) {
            (Some(_), Some(bound)) => self.set_local(bound),
            (Some(local), None) => {
                let mut tables = self.common.stack.inet.udp.lock();
                tables.leave(local.port(), self.common.cookie);
                self.state.lock().local = None;
            }
            _ => {}
        }
    }

    /// Whether what is sent there may be for several.
    fn is_to_many(&self, to: IpAddr) -> bool {
        let interfaces = self.common.stack.interfaces.read();
        to.is_multicast() || matches!(to, IpAddr::V4(ip) if interfaces.is_broadcast(ip))
    }

    /// Sockets that a datagram is for.
    fn receivers(&self, from: SocketAddr, to: SocketAddr) -> Vec<Arc<Udp>> {
        let stack = &self.common.stack;
        let many = self.is_to_many(to.ip());
        // Who listens on all addresses listens on the sandbox's own.
        if !many && stack.interfaces.read().own(to.ip()).is_none() {
            return Vec::new();
        }
        let found = stack.inet.udp.lock().answering(to);
        let mut fit: Vec<_> = found
            .into_iter()
            .filter_map(|(rank, socket)| {
                let state = socket.state.lock();
                let connected = match state.remote {
                    Some(remote) if remote != from => return None,
                    Some(_) => 4,
                    None => 0,
                };
                drop(state);
                if to.ip().is_multicast() && !socket.hears(to.ip(), from.ip()) {
                    return None;
                }
                Some((rank + connected, socket))
            })
            .collect();
        if many {
            return fit.into_iter().map(|(_, s)| s).collect();
        }
        let Some(best) = fit.iter().map(|(rank, _)| *rank).max() else {
            return Vec::new();
        };
        fit.retain(|(rank, _)| *rank == best);
        // SO_REUSEPORT: one of the group by the sender's port. SO_REUSEADDR: the last one.
        let group = fit.iter().all(|(_, s)| s.common.options.lock().reuse_port);
        let index = if group {
            usize::from(from.port()) % fit.len()
        } else {
            fit.len() - 1
        };
        vec![fit.swap_remove(index).1]
    }

    /// A datagram has come; it is lost if there is no room.
    fn deliver(&self, mut datagram: Datagram) {
        let (limit, count) = {
            let options = self.common.options.lock();
            (options.receive_buffer, options.receive_errors_count)
        };
        let cost = datagram.cost();
        {
            let mut inbox = self.inbox.lock();
            if inbox.closed {
                return;
            }
            // Linux: one may always go beyond.
            if inbox.cost > limit || !self.common.stack.pool.charge(cost) {
                inbox.drops = inbox.drops.wrapping_add(1);
                let traffic = &self.common.stack.loopback;
                traffic.udp(datagram.to.ip(), traffic::Udp::Dropped);
                return;
            }
            datagram.lost = if count { inbox.drops } else { 0 };
            inbox.cost += cost;
            inbox.datagrams.push_back(datagram);
        }
        self.common.tell(Ready::IN | Ready::RDNORM, Band::In);
    }

    /// The guest has got a datagram, unless it only looks.
    fn count_received(&self, to: IpAddr, flags: i32) {
        if flags & libc::MSG_PEEK == 0 {
            self.common.stack.loopback.udp(to, traffic::Udp::Received);
        }
    }

    fn take_pending(&self) -> Result<()> {
        let error = self.state.lock().error.take();
        error.map_or(Ok(()), Err)
    }

    fn destination(&self, out: &Outgoing) -> Result<SocketAddr> {
        let to = match &out.to {
            Some(name) => address::this_host(address::decode_destination(self.domain, name)?),
            None => self.state.lock().remote.ok_or(Errno::EDESTADDRREQ)?,
        };
        if to.port() == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(to)
    }
}
