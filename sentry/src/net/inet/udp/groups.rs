//! Multicast (ip(7), ipv6(7)): the groups that a socket is in, by interface, and whom of their senders
//! it hears; the interface that a multicast or broadcast datagram leaves by.
//!
//! Over loopback all of it is inside. Over another interface the host's socket is in the group, and
//! the host loops back what the sandbox sends there itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Udp;
use crate::errno::{Errno, Result};
use crate::net::inet::address;
use crate::net::interfaces::{Interfaces, LOOPBACK};
use crate::net::options::int;
use crate::net::outside::Domain;
use crate::net::socket::Name;

/// Groups a socket may be in, and senders a membership may name
/// (/proc/sys/net/ipv4/igmp_max_memberships, igmp_max_msf).
const MAX_GROUPS: usize = 20;
const MAX_SOURCES: usize = 10;
/// IPv6 has no limit but that of memory for options.
const MAX_GROUPS_V6: usize = 256;

/// Whom of a group's senders a member hears: those that are named, or all but those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    only: bool,
    sources: BTreeSet<IpAddr>,
    /// Sources were named once: the sense does not change any more.
    fixed: bool,
}

/// The memberships of a socket, in the order they were asked for.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<(IpAddr, u32, Filter)>);

/// What setsockopt(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Join,
    Leave,
    /// A source is not heard, or is again.
    Block,
    Unblock,
    /// A source is heard, or is not any more.
    JoinSource,
    LeaveSource,
}

/// A way to name an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Any,
    Index(u32),
    Address(Ipv4Addr),
}

/// A request about a group, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    verb: Verb,
    group: IpAddr,
    place: Place,
    source: Option<IpAddr>,
}

fn part<const N: usize>(value: &[u8], from: usize) -> Result<[u8; N]> {
    let found = value.get(from..).and_then(<[u8]>::first_chunk);
    found.copied().ok_or(Errno::EINVAL)
}

fn index(raw: [u8; 4]) -> Place {
    match u32::from_ne_bytes(raw) {
        0 => Place::Any,
        index => Place::Index(index),
    }
}

fn by_address(raw: [u8; 4]) -> Place {
    match Ipv4Addr::from(raw) {
        ip if ip.is_unspecified() => Place::Any,
        ip => Place::Address(ip),
    }
}

/// A struct sockaddr_storage of the option's family.
fn storage(level: i32, value: &[u8], from: usize) -> Result<IpAddr> {
    let raw: [u8; 128] = part(value, from)?;
    let (domain, otherwise) = match level {
        libc::IPPROTO_IP => (Domain::V4, Errno::EINVAL),
        _ => (Domain::V6, Errno::EADDRNOTAVAIL),
    };
    let name = Name::new(&raw)?;
    let address = address::decode(domain, &name).map_err(|_| otherwise)?;
    Ok(address.ip())
}

/// A request about a group; None: the option is another one. EINVAL, EADDRNOTAVAIL.
pub(super) fn decode(level: i32, name: i32, value: &[u8]) -> Option<Result<Request>> {
    let verb = match (level, name) {
        (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP)
        | (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP)
        | (libc::IPPROTO_IP | libc::IPPROTO_IPV6, libc::MCAST_JOIN_GROUP) => Verb::Join,
        (libc::IPPROTO_IP, libc::IP_DROP_MEMBERSHIP)
        | (libc::IPPROTO_IPV6, libc::IPV6_DROP_MEMBERSHIP)
        | (libc::IPPROTO_IP | libc::IPPROTO_IPV6, libc::MCAST_LEAVE_GROUP) => Verb::Leave,
        (libc::IPPROTO_IP, libc::IP_BLOCK_SOURCE)
        | (libc::IPPROTO_IP | libc::IPPROTO_IPV6, libc::MCAST_BLOCK_SOURCE) => Verb::Block,
        (libc::IPPROTO_IP, libc::IP_UNBLOCK_SOURCE)
        | (libc::IPPROTO_IP | libc::IPPROTO_IPV6, libc::MCAST_UNBLOCK_SOURCE) => Verb::Unblock,
        (libc::IPPROTO_IP, libc::IP_ADD_SOURCE_MEMBERSHIP)
        | (libc::IPPROTO_IP | libc::IPPROTO_IPV6, libc::MCAST_JOIN_SOURCE_GROUP) => {
            Verb::JoinSource
        }
        (libc::IPPROTO_IP, libc::IP_DROP_SOURCE_MEMBERSHIP)
        | (libc::IPPROTO_IP | libc::IPPROTO_IPV6, libc::MCAST_LEAVE_SOURCE_GROUP) => {
            Verb::LeaveSource
        }
        _ => return None,
    };
    let sources = !matches!(verb, Verb::Join | Verb::Leave);
    let parts = || -> Result<Request> {
        let modern = (libc::MCAST_JOIN_GROUP..=libc::MCAST_LEAVE_SOURCE_GROUP).contains(&name);
        let (group, place, source) = match level {
            // struct group_req, group_source_req.
            _ if modern => {
                let source = sources.then(|| storage(level, value, 136)).transpose()?;
                (storage(level, value, 8)?, index(part(value, 0)?), source)
            }
            // struct ip_mreq_source.
            libc::IPPROTO_IP if sources => {
                let source = Ipv4Addr::from(part::<4>(value, 8)?);
                let group = Ipv4Addr::from(part::<4>(value, 0)?);
                let place = by_address(part(value, 4)?);
                (group.into(), place, Some(source.into()))
            }
            // struct ip_mreq, ip_mreqn.
            libc::IPPROTO_IP => {
                let group = Ipv4Addr::from(part::<4>(value, 0)?);
                let by_address = by_address(part(value, 4)?);
                let place = match part(value, 8).map(index) {
                    Ok(Place::Index(index)) => Place::Index(index),
                    _ => by_address,
                };
                (group.into(), place, None)
            }
            // struct ipv6_mreq.
            _ => {
                let group = Ipv6Addr::from(part::<16>(value, 0)?);
                (group.into(), index(part(value, 16)?), None)
            }
        };
        Ok(Request {
            verb,
            group,
            place,
            source,
        })
    };
    Some(parts())
}

impl Place {
    /// The interface; that of the route to the group, if none is named.
    fn link(self, interfaces: &Interfaces, group: IpAddr) -> Option<u32> {
        match self {
            Place::Index(index) => interfaces.link(index).map(|l| l.index),
            Place::Address(ip) => interfaces.own(ip.into()),
            Place::Any => interfaces.way_to(group),
        }
    }
}

impl Groups {
    /// Whether a member hears `from`; None: it is no member.
    pub fn hears(&self, group: IpAddr, link: u32, from: IpAddr) -> Option<bool> {
        let found = self.0.iter().find(|(g, l, _)| (*g, *l) == (group, link));
        found.map(|(_, _, filter)| filter.only == filter.sources.contains(&from))
    }

    pub fn has(&self, group: IpAddr, link: u32) -> bool {
        self.0.iter().any(|(g, l, _)| (*g, *l) == (group, link))
    }

    /// Carries out a request on `link`.
    ///
    /// # Errors
    /// EINVAL, EADDRINUSE, EADDRNOTAVAIL, ENOBUFS.
    fn change(&mut self, request: Request, link: u32) -> Result<()> {
        let Request { verb, group, .. } = request;
        let at = self
            .0
            .iter()
            .position(|(g, l, _)| (*g, *l) == (group, link));
        let mut filter = Filter::default();
        match (verb, at) {
            (Verb::Join, Some(_)) => return Err(Errno::EADDRINUSE),
            (Verb::Leave, None) => return Err(Errno::EADDRNOTAVAIL),
            (Verb::Leave, Some(at)) => {
                self.0.remove(at);
                return Ok(());
            }
            (Verb::Join | Verb::JoinSource, None) => {
                let max = match group {
                    IpAddr::V4(_) => MAX_GROUPS,
                    IpAddr::V6(_) => MAX_GROUPS_V6,
                };
                if self.0.len() >= max {
                    return Err(Errno::ENOBUFS);
                }
            }
            (_, Some(at)) => filter = self.0[at].2.clone(),
            (_, None) => return Err(Errno::EINVAL),
        }
        if let Some(source) = request.source {
            let only = matches!(verb, Verb::JoinSource | Verb::LeaveSource);
            if filter.fixed && filter.only != only {
                return Err(Errno::EINVAL);
            }
            filter.only = only;
            match verb {
                Verb::Block | Verb::JoinSource => {
                    if filter.sources.contains(&source) {
                        return Err(Errno::EADDRNOTAVAIL);
                    }
                    if filter.sources.len() >= MAX_SOURCES {
                        return Err(Errno::ENOBUFS);
                    }
                    filter.sources.insert(source);
                    filter.fixed = true;
                }
                _ if !filter.sources.remove(&source) => return Err(Errno::EADDRNOTAVAIL),
                // Who hears nobody is no member.
                _ if only && filter.sources.is_empty() => {
                    if let Some(at) = at {
                        self.0.remove(at);
                    }
                    return Ok(());
                }
                _ => {}
            }
        }
        match at {
            Some(at) => self.0[at].2 = filter,
            None => self.0.push((group, link, filter)),
        }
        Ok(())
    }

    /// The options that make a socket of the host's a member of the groups that are not loopback's.
    fn outside(&self) -> Vec<(i32, i32, Vec<u8>)> {
        let mut options = Vec::new();
        let others = self.0.iter().filter(|(_, link, _)| *link != LOOPBACK);
        for (group, link, filter) in others {
            if !filter.only {
                options.push(encode(Verb::Join, *group, *link, None));
            }
            let verb = if filter.only {
                Verb::JoinSource
            } else {
                Verb::Block
            };
            let sources = filter.sources.iter();
            options.extend(sources.map(|s| encode(verb, *group, *link, Some(*s))));
        }
        options
    }
}

/// Level, name and value of setsockopt(2): struct group_req, group_source_req.
fn encode(verb: Verb, group: IpAddr, link: u32, source: Option<IpAddr>) -> (i32, i32, Vec<u8>) {
    let name = match verb {
        Verb::Join => libc::MCAST_JOIN_GROUP,
        Verb::Leave => libc::MCAST_LEAVE_GROUP,
        Verb::Block => libc::MCAST_BLOCK_SOURCE,
        Verb::Unblock => libc::MCAST_UNBLOCK_SOURCE,
        Verb::JoinSource => libc::MCAST_JOIN_SOURCE_GROUP,
        Verb::LeaveSource => libc::MCAST_LEAVE_SOURCE_GROUP,
    };
    let (level, domain) = match group {
        IpAddr::V4(_) => (libc::IPPROTO_IP, Domain::V4),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, Domain::V6),
    };
    let mut value = link.to_ne_bytes().to_vec();
    value.resize(8, 0);
    for ip in [Some(group), source].into_iter().flatten() {
        let start = value.len();
        let name = address::encode(domain, SocketAddr::new(ip, 0));
        value.extend(name.bytes());
        value.resize(start + 128, 0);
    }
    (level, name, value)
}

impl Udp {
    /// An option about groups, here and for the host's socket.
    pub(super) fn change_groups(&self, request: Request) -> Result<()> {
        let Request { group, place, .. } = request;
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        let stack = &self.common.stack;
        let link = place.link(&stack.interfaces.read(), group);
        let link = match (request.verb, link) {
            (Verb::Leave, None) if place != Place::Any => return Err(Errno::EADDRNOTAVAIL),
            (_, link) => link.ok_or(Errno::ENODEV)?,
        };
        let before = self.with_groups((group, link), |groups| groups.change(request, link))?;
        if link != LOOPBACK && self.common.stack.way_out().is_some() {
            let (level, name, value) = encode(request.verb, group, link, request.source);
            let open = self.outer.get();
            let changed = match &open {
                Some(host) => host.socket().set_option(level, name, &value),
                // Opened with all its groups.
                None => self.open_host().map(drop),
            };
            if let Err(e) = changed {
                if !before {
                    self.with_groups((group, link), |groups| {
                        groups.0.retain(|g| (g.0, g.1) != (group, link));
                        Ok(())
                    })?;
                }
                return Err(e);
            }
        }
        Ok(())
    }

    /// Changes what may be a membership, which is counted. Whether it was one before.
    fn with_groups(
        &self,
        key: (IpAddr, u32),
        change: impl FnOnce(&mut Groups) -> Result<()>,
    ) -> Result<bool> {
        let mut members = self.common.stack.inet.groups.lock();
        let mut state = self.state.lock();
        let before = state.groups.has(key.0, key.1);
        change(&mut state.groups)?;
        let after = state.groups.has(key.0, key.1);
        if before != after {
            members.change(key, after);
        }
        Ok(before)
    }

    /// Makes a new socket of the host's a member of the groups that this one is in.
    pub(super) fn join_outside(&self, host: &crate::net::host::Host) -> Result<()> {
        let options = self.state.lock().groups.outside();
        for (level, name, value) in options {
            host.socket().set_option(level, name, &value)?;
        }
        Ok(())
    }

    /// The socket is no more.
    pub(super) fn leave_groups(&self) {
        let groups = std::mem::take(&mut self.state.lock().groups);
        let mut members = self.common.stack.inet.groups.lock();
        for (group, link, _) in groups.0 {
            members.change((group, link), false);
        }
    }

    /// Whether this socket gets what came to a group over loopback.
    pub(super) fn hears(&self, group: IpAddr, from: IpAddr) -> bool {
        if let Some(hears) = self.state.lock().groups.hears(group, LOOPBACK, from) {
            return hears;
        }
        // Who has not joined hears what others have.
        let all = match group {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL),
        };
        let members = self.common.stack.inet.groups.lock();
        self.value(all.0, all.1) != 0 && members.is_some((group, LOOPBACK))
    }

    /// IP_MULTICAST_IF. EINVAL, EADDRNOTAVAIL.
    pub(super) fn set_multicast_link(&self, value: &[u8]) -> Result<()> {
        // struct in_addr, ip_mreq or ip_mreqn.
        let at = if value.len() >= 8 { 4 } else { 0 };
        let ip = Ipv4Addr::from(part::<4>(value, at)?);
        let place = match part(value, 8).map(index) {
            Ok(Place::Index(index)) => Place::Index(index),
            _ => by_address(ip.octets()),
        };
        let link = match place {
            Place::Any => 0,
            _ => {
                let interfaces = self.common.stack.interfaces.read();
                let link = place.link(&interfaces, ip.into());
                link.ok_or(Errno::EADDRNOTAVAIL)?
            }
        };
        self.state.lock().multicast = (link, ip);
        Ok(())
    }

    /// IPV6_MULTICAST_IF. EINVAL, ENODEV.
    pub(super) fn check_multicast_link_v6(&self, value: &[u8]) -> Result<()> {
        let link = u32::try_from(int(value)?).map_err(|_| Errno::ENODEV)?;
        let interfaces = self.common.stack.interfaces.read();
        match link == 0 || interfaces.link(link).is_some() {
            true => Ok(()),
            false => Err(Errno::ENODEV),
        }
    }

    /// The interface that a datagram to many leaves by. `asked`: what the sender said of it.
    ///
    /// # Errors
    /// ENETUNREACH.
    pub(super) fn link_for(&self, to: SocketAddr, asked: Option<u32>) -> Result<u32> {
        let device = self.common.options.lock().device;
        let scope = match to {
            SocketAddr::V6(to) => to.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let by_option = match to.ip() {
            IpAddr::V4(ip) if ip.is_multicast() => self.state.lock().multicast.0,
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => self
                .value(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF)
                .cast_unsigned(),
        };
        let said = [asked.unwrap_or(0), device, scope, by_option];
        let interfaces = self.common.stack.interfaces.read();
        let link = said
            .into_iter()
            .find(|link| *link != 0)
            .or_else(|| interfaces.way_to(to.ip()));
        match link {
            // Loopback has no route to groups of IPv6.
            Some(LOOPBACK) if to.is_ipv6() => Err(Errno::ENETUNREACH),
            Some(link) if interfaces.link(link).is_some() => Ok(link),
            _ => Err(Errno::ENETUNREACH),
        }
    }
}

/// How many sockets are in each group on each interface.
#[derive(Default)]
pub struct Members(BTreeMap<(IpAddr, u32), usize>);

impl Members {
    fn change(&mut self, key: (IpAddr, u32), more: bool) {
        let count = self.0.entry(key).or_default();
        *count = match more {
            true => *count + 1,
            false => count.saturating_sub(1),
        };
        if *count == 0 {
            self.0.remove(&key);
        }
    }

    fn is_some(&self, key: (IpAddr, u32)) -> bool {
        self.0.contains_key(&key)
    }
}
