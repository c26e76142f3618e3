//! UDP sockets (udp(7)) to the sandbox's own addresses, its multicast groups and broadcast: a
//! datagram goes straight into the receiver's inbox, or is lost if that is full.
//!
//! Of two sockets never both are locked. `Tables::udp` comes before a socket's state.

mod outside;

use std::any::Any;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::{Errno, Result};
use crate::fs::sigio::Band;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;
use crate::mm::io::{Sink, Source};
use crate::net::inet::options::Values;
use crate::net::inet::outer::{self, Outer};
use crate::net::inet::ports::{PortUser, Scope};
use crate::net::inet::{address, check_inside, decode_local, family, source_for};
use crate::net::interfaces::LOOPBACK;
use crate::net::options::{self, Stamp};
use crate::net::outside::Domain;
use crate::net::socket::{Common, Connect, Extra, Info, Kind, Name, Outgoing, Received, Socket};
use crate::net::stack::Stack;

/// Longest payload over IPv4: 65535 less the headers. Over IPv6 the header does not count.
const MAX_V4: usize = 65507;
const MAX_V6: usize = 65527;
/// What a datagram takes up besides its bytes, and the step that those are counted in: about what
/// Linux's buffers take.
const OVERHEAD: usize = 256;
const STEP: usize = 512;
/// Groups a socket may be in (/proc/sys/net/ipv4/igmp_max_memberships).
const MAX_GROUPS: usize = 20;

struct Datagram {
    data: Vec<u8>,
    from: SocketAddr,
    to: SocketAddr,
    ttl: i32,
    tos: i32,
    /// Since the epoch, ns.
    time_ns: u64,
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

#[derive(Default)]
struct State {
    local: Option<SocketAddr>,
    /// What bind(2) asked for.
    bound: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    groups: BTreeSet<IpAddr>,
    error: Option<Errno>,
    shut_read: bool,
    shut_write: bool,
    /// The host's socket is connected as well.
    outside: bool,
}

/// See the module documentation.
pub struct Udp {
    this: Weak<Udp>,
    common: Common,
    domain: Domain,
    values: Mutex<Values>,
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
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
        Arc::new_cyclic(|this| Udp {
            this: this.clone(),
            common: Common::new(stack, family(domain), Kind::Datagram, libc::IPPROTO_UDP),
            domain,
            values: Mutex::default(),
            state: Mutex::default(),
            inbox: Mutex::default(),
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
        let range = self.common.stack.settings.read().local_ports;
        let mut tables = self.common.stack.inet.udp.lock();
        if self.state.lock().local.is_some() {
            return Err(Errno::EINVAL);
        }
        let port = tables.bind(&this, local.port(), scope, range)?;
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

    /// Sockets that a datagram is for.
    fn receivers(&self, from: SocketAddr, to: SocketAddr) -> Vec<Arc<Udp>> {
        let stack = &self.common.stack;
        let many = to.ip().is_multicast()
            || matches!(to.ip(), IpAddr::V4(ip) if stack.interfaces.read().is_broadcast(ip));
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
                if to.ip().is_multicast() && !state.groups.contains(&to.ip()) {
                    return None;
                }
                drop(state);
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
    fn deliver(&self, datagram: Datagram) {
        let limit = self.common.options.lock().receive_buffer;
        let cost = datagram.cost();
        {
            let mut inbox = self.inbox.lock();
            if inbox.closed {
                return;
            }
            // Linux: one may always go beyond.
            if inbox.cost > limit || !self.common.stack.pool.charge(cost) {
                inbox.drops = inbox.drops.wrapping_add(1);
                return;
            }
            inbox.cost += cost;
            inbox.datagrams.push_back(datagram);
        }
        self.common.tell(Ready::IN | Ready::RDNORM, Band::In);
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

    /// TTL and traffic class, by options and control data.
    fn header(&self, to: IpAddr, extra: &[Extra]) -> Result<(i32, i32)> {
        let values = self.values.lock();
        let (level, ttl, tos) = match to {
            IpAddr::V4(ip) if ip.is_multicast() => {
                (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, libc::IP_TOS)
            }
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS),
            IpAddr::V6(_) => (
                libc::IPPROTO_IPV6,
                libc::IPV6_UNICAST_HOPS,
                libc::IPV6_TCLASS,
            ),
        };
        let mut ttl = values.get(level, ttl);
        let mut tos = values.get(level, tos);
        drop(values);
        for e in extra.iter().filter(|e| e.level == level) {
            match e.kind {
                libc::IP_TTL if level == libc::IPPROTO_IP => ttl = options::int(&e.data)?,
                libc::IP_TOS if level == libc::IPPROTO_IP => {
                    tos = i32::from(*e.data.first().ok_or(Errno::EINVAL)?);
                }
                libc::IPV6_HOPLIMIT if level == libc::IPPROTO_IPV6 => {
                    ttl = options::int(&e.data)?;
                }
                libc::IPV6_TCLASS if level == libc::IPPROTO_IPV6 => tos = options::int(&e.data)?,
                // The source is the one that the destination gives.
                libc::IP_PKTINFO if level == libc::IPPROTO_IP => {}
                libc::IPV6_PKTINFO if level == libc::IPPROTO_IPV6 => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok((ttl, tos))
    }

    /// The control messages that the receiver asked for.
    fn extras(&self, datagram: &Datagram) -> Vec<Extra> {
        let mut extra = Vec::new();
        let mut put = |level, kind, data: &[u8]| {
            extra.push(Extra {
                level,
                kind,
                data: data.to_vec(),
            });
        };
        let stamp = self.common.options.lock().stamp;
        let (sec, ns) = (
            datagram.time_ns / 1_000_000_000,
            datagram.time_ns % 1_000_000_000,
        );
        let pair = |a: u64, b: u64| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
        match stamp {
            Stamp::None => {}
            Stamp::Micro => put(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &pair(sec, ns / 1000)),
            Stamp::Nano => put(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &pair(sec, ns)),
        }
        let values = self.values.lock();
        let on = |level, name| values.on(level, name);
        let int = |v: i32| v.to_ne_bytes();
        let index = (LOOPBACK as i32).to_ne_bytes();
        let v4 = match (self.domain, datagram.to.ip()) {
            (_, IpAddr::V4(ip)) => Some(ip),
            _ => None,
        };
        if let Some(ip) = v4 {
            if on(libc::IPPROTO_IP, libc::IP_PKTINFO) {
                let local = if ip.is_multicast() || ip.is_broadcast() {
                    Ipv4Addr::LOCALHOST
                } else {
                    ip
                };
                let data = [&index[..], &local.octets(), &ip.octets()].concat();
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            if on(libc::IPPROTO_IP, libc::IP_RECVTTL) {
                put(libc::IPPROTO_IP, libc::IP_TTL, &int(datagram.ttl));
            }
            if on(libc::IPPROTO_IP, libc::IP_RECVTOS) {
                put(libc::IPPROTO_IP, libc::IP_TOS, &[datagram.tos as u8]);
            }
            if on(libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR) {
                let name = address::encode(Domain::V4, datagram.to);
                put(libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, name.bytes());
            }
        }
        if self.domain == Domain::V6 {
            let ip = match datagram.to.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            if on(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) {
                let data = [&ip.octets()[..], &index].concat();
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
            }
            if v4.is_none() && on(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) {
                put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &int(datagram.ttl));
            }
            if v4.is_none() && on(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS) {
                put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &int(datagram.tos));
            }
        }
        extra
    }

    /// IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP and their opposites.
    fn change_groups(&self, join: bool, group: IpAddr) -> Result<()> {
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        if join {
            if state.groups.len() >= MAX_GROUPS {
                return Err(Errno::ENOBUFS);
            }
            if !state.groups.insert(group) {
                return Err(Errno::EADDRINUSE);
            }
        } else if !state.groups.remove(&group) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        Ok(())
    }
}

/// The first address of a struct.
fn leading<const N: usize>(value: &[u8]) -> Result<[u8; N]> {
    value.first_chunk().copied().ok_or(Errno::EINVAL)
}

impl Socket for Udp {
    fn common(&self) -> &Common {
        &self.common
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn bind(&self, t: &Task, address: &Name) -> Result<()> {
        let local = decode_local(t, &self.common, self.domain, self.v6_only(), address)?;
        let local = self.bind_to(local)?;
        self.state.lock().bound = Some(local);
        Ok(())
    }

    fn connect(&self, _t: &Task, to: &Name) -> Result<Connect> {
        match to.family() {
            None => return Err(Errno::EINVAL),
            Some(libc::AF_UNSPEC) => self.disconnect(),
            Some(_) => {
                let to = match (self.domain, to.family()) {
                    (Domain::V6, Some(libc::AF_INET)) => {
                        address::decode_destination(self.domain, to)?
                    }
                    _ => address::decode(self.domain, to)?,
                };
                self.connect_to(to)?;
            }
        }
        Ok(Connect::Done)
    }

    fn send(&self, src: &mut Source<'_>, out: &mut Outgoing) -> Result<usize> {
        if out.flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let len = src.remaining();
        if len > 0xffff {
            return Err(Errno::EMSGSIZE);
        }
        let to = self.destination(out)?;
        self.take_pending()?;
        if self.state.lock().shut_write {
            return Err(Errno::EPIPE);
        }
        let (ttl, tos) = self.header(to.ip(), &out.extra)?;
        self.check_route(to.ip())?;
        let max = if to.is_ipv4() { MAX_V4 } else { MAX_V6 };
        if len > max {
            return Err(Errno::EMSGSIZE);
        }
        let own = self.local()?;
        let ip = if own.ip().is_unspecified() {
            source_for(&self.common.stack, to.ip())
        } else if own.is_ipv4() == to.is_ipv4() {
            own.ip()
        } else {
            return Err(Errno::ENETUNREACH);
        };
        let from = SocketAddr::new(ip, own.port());
        let receivers = self.receivers(from, to);
        let mut data = vec![0u8; len];
        let outside = receivers.is_empty() && self.leads_outside(own, to);
        // What waits for room is not lost.
        if len > 0 && src.peek(&mut data)? < len {
            return Err(Errno::EFAULT);
        }
        if outside && let Some(host) = self.way_out()? {
            self.send_outside(&host, &data, to, out)?;
            src.skip(len);
            return Ok(len);
        }
        src.skip(len);
        if receivers.is_empty() && !to.ip().is_multicast() {
            // Port unreachable: told to those who are connected.
            let mut state = self.state.lock();
            let asked = self.value(libc::IPPROTO_IP, libc::IP_RECVERR) != 0;
            if state.remote == Some(to) || asked {
                state.error = Some(Errno::ECONNREFUSED);
                drop(state);
                self.common.tell(Ready::ERR, Band::Error);
            }
            return Ok(len);
        }
        let looped = self.value(libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP) != 0;
        if to.ip().is_multicast() && !looped {
            return Ok(len);
        }
        let time_ns = crate::kernel::time::clock_ns(nix::time::ClockId::CLOCK_REALTIME);
        if !receivers.is_empty() {
            self.common.stack.loopback.datagram(to.ip(), len);
        }
        let mut left = receivers.len();
        for receiver in receivers {
            left -= 1;
            let data = if left == 0 {
                std::mem::take(&mut data)
            } else {
                data.clone()
            };
            receiver.deliver(Datagram {
                data,
                from,
                to,
                ttl,
                tos,
                time_ns,
            });
        }
        Ok(len)
    }

    fn receive(&self, dst: &mut Sink<'_>, flags: i32) -> Result<Received> {
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags & libc::MSG_ERRQUEUE != 0 {
            return match self.way_in() {
                Some(host) => outer::receive(&host, self.domain, dst, flags),
                None => Err(Errno::EAGAIN),
            };
        }
        self.take_pending()?;
        let mut got = Received::default();
        let taken = {
            let mut inbox = self.inbox.lock();
            if flags & libc::MSG_PEEK != 0 {
                inbox.datagrams.front().map(|d| Datagram {
                    data: d.data[..d.data.len().min(dst.remaining())].to_vec(),
                    ..*d
                })
            } else {
                let taken = inbox.datagrams.pop_front();
                if let Some(d) = &taken {
                    inbox.cost -= d.cost();
                    self.common.stack.pool.uncharge(d.cost());
                }
                taken
            }
        };
        let full = self.first_len(flags, &taken);
        let Some(datagram) = taken else {
            if let Some(host) = self.way_in() {
                match outer::receive(&host, self.domain, dst, flags) {
                    Err(Errno::EAGAIN) => {}
                    other => return other,
                }
            }
            return if self.state.lock().shut_read {
                Ok(got)
            } else {
                Err(Errno::EAGAIN)
            };
        };
        let n = datagram.data.len().min(dst.remaining());
        got.full = full;
        got.from = Some(address::encode(self.domain, datagram.from));
        got.extra = self.extras(&datagram);
        got.count = if n == 0 {
            0
        } else {
            dst.put(&datagram.data[..n])?
        };
        Ok(got)
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let connected = {
            let mut state = self.state.lock();
            state.shut_read |= read;
            state.shut_write |= write;
            state.remote.is_some()
        };
        if let Some(host) = self.outer.get().filter(|_| connected) {
            // Not connected, if the other end is inside.
            let _ = host.shutdown(read, write);
        }
        self.common.queue.wake_all();
        if connected {
            Ok(())
        } else {
            Err(Errno::ENOTCONN)
        }
    }

    fn local_name(&self) -> Result<Name> {
        let local = self.state.lock().local;
        let any = || SocketAddr::new(address::any(self.domain), 0);
        Ok(address::encode(self.domain, local.unwrap_or_else(any)))
    }

    fn peer_name(&self) -> Result<Name> {
        let remote = self.state.lock().remote.ok_or(Errno::ENOTCONN)?;
        Ok(address::encode(self.domain, remote))
    }

    fn ready(&self) -> Ready {
        let mut ready = Ready::OUT | Ready::WRNORM | Ready::WRBAND;
        if !self.inbox.lock().datagrams.is_empty() {
            ready |= Ready::IN | Ready::RDNORM;
        }
        if let Some(host) = self.way_in() {
            ready |= host.ready() & (Ready::IN | Ready::RDNORM | Ready::ERR);
        }
        let state = self.state.lock();
        if state.error.is_some() {
            ready |= Ready::ERR;
        }
        if state.shut_read {
            ready |= Ready::IN | Ready::RDNORM | Ready::RDHUP;
        }
        if state.shut_read && state.shut_write {
            ready |= Ready::HUP;
        }
        ready
    }

    fn set_option(&self, t: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        match (level, name) {
            (libc::IPPROTO_IPV6, _) if self.domain == Domain::V4 => Err(Errno::ENOPROTOOPT),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if self.state.lock().local.is_some() => {
                Err(Errno::EINVAL)
            }
            (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP) => {
                // struct ip_mreq: the group, then an interface, of which loopback is the only one.
                let group = Ipv4Addr::from(leading::<4>(value)?);
                leading::<8>(value)?;
                self.change_groups(name == libc::IP_ADD_MEMBERSHIP, group.into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP) => {
                let group = std::net::Ipv6Addr::from(leading::<16>(value)?);
                leading::<20>(value)?;
                self.change_groups(name == libc::IPV6_ADD_MEMBERSHIP, group.into())
            }
            (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) => {
                // struct in_addr, ip_mreq or ip_mreqn.
                let at = if value.len() >= 8 { 4 } else { 0 };
                let ip = Ipv4Addr::from(leading::<4>(value.get(at..).unwrap_or(&[]))?);
                let known = ip.is_unspecified()
                    || self.common.stack.interfaces.read().own(ip.into()).is_some();
                if known {
                    Ok(())
                } else {
                    Err(Errno::EADDRNOTAVAIL)
                }
            }
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => {
                self.values.lock().set(level, name, value)?;
                self.outer.set_option(level, name, value);
                Ok(())
            }
            // UDP_CORK and segmentation offload are not for queues.
            (libc::IPPROTO_UDP, _) => Err(Errno::ENOPROTOOPT),
            _ => {
                options::set(&self.common, t, level, name, value)?;
                self.outer.set_option(level, name, value);
                Ok(())
            }
        }
    }

    fn option(&self, _t: &Task, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        match (level, name) {
            (libc::IPPROTO_IPV6, _) if self.domain == Domain::V4 => Err(Errno::ENOPROTOOPT),
            (libc::IPPROTO_IP, libc::IP_MULTICAST_IF) => Ok(vec![0; 4]),
            (libc::IPPROTO_IP | libc::IPPROTO_IPV6, _) => {
                self.values.lock().told(level, name, room)
            }
            _ => options::get(self, level, name),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        let error = self.state.lock().error.take();
        error.or_else(|| {
            let host = self.outer.get()?;
            let failed = host.ready().contains(Ready::ERR);
            failed.then(|| outer::take_error(&host)).flatten()
        })
    }

    fn ioctl(&self, t: &Task, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541B;
        const TIOCOUTQ: u32 = 0x5411;
        let n = match cmd {
            FIONREAD => {
                let inbox = self.inbox.lock();
                match inbox.datagrams.front() {
                    Some(datagram) => datagram.data.len(),
                    None => self.way_in().map_or(0, |h| h.unread().unwrap_or(0)),
                }
            }
            TIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        t.mm()
            .write_obj(arg, &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn info(&self) -> Info {
        const ESTABLISHED: u8 = 1;
        const CLOSE: u8 = 7;
        let peer = self.peer_name().ok();
        let inbox = self.inbox.lock();
        Info {
            local: self.local_name().ok(),
            peer,
            state: if peer.is_some() { ESTABLISHED } else { CLOSE },
            receive_queue: u32::try_from(inbox.cost).unwrap_or(u32::MAX),
            send_queue: 0,
            drops: inbox.drops,
        }
    }

    fn close(&self) {
        let mut tables = self.common.stack.inet.udp.lock();
        if let Some(local) = self.state.lock().local.take() {
            tables.leave(local.port(), self.common.cookie);
        }
        drop(tables);
        self.outer.close();
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        self.common.stack.pool.uncharge(inbox.cost);
        inbox.cost = 0;
        inbox.datagrams.clear();
    }
}

impl Udp {
    /// Length of the whole datagram that was taken or looked at.
    fn first_len(&self, flags: i32, taken: &Option<Datagram>) -> usize {
        let own = taken.as_ref().map_or(0, |d| d.data.len());
        if flags & libc::MSG_PEEK == 0 {
            return own;
        }
        let inbox = self.inbox.lock();
        inbox.datagrams.front().map_or(own, |d| d.data.len())
    }
}
