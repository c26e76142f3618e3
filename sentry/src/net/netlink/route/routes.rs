//! RTM_GETROUTE (the tables, or the way to one address) and RTM_GETRULE.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AF_INET, AF_INET6, Answer, Asker, family_of, head, octets, parse_ip, wants};
use crate::errno::Errno;
use crate::net::interfaces::{Address, Interfaces, LOOPBACK, Route};
use crate::net::netlink::message::{Request, Writer};
use crate::net::netlink::reply::{Batch, Refused};

/// sizeof(struct rtmsg), which rules have too.
const INFO: usize = 12;
const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
const RTM_F_CLONED: u32 = 0x200;
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTCF_LOCAL: u32 = 0x8000_0000;
const RTCF_BROADCAST: u32 = 0x1000_0000;
const RTA_PREF: u16 = 20;
const RTA_UID: u16 = 25;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
const DEFAULT_TABLE: u8 = 253;

struct Ask {
    family: u8,
    destination_len: u8,
    table: u32,
    protocol: u8,
    kind: u8,
    flags: u32,
    link: u32,
}

fn ask(asker: &Asker<'_>, request: &Request<'_>, words: &'static str) -> Answer<Ask> {
    let raw = head::<INFO>(asker, request, words)?;
    let attrs = request.attrs(INFO);
    Ok(Ask {
        family: raw[0],
        destination_len: raw[1],
        table: attrs.u32(libc::RTA_TABLE).unwrap_or(raw[4].into()),
        protocol: raw[5],
        kind: raw[7],
        flags: u32::from_ne_bytes([raw[8], raw[9], raw[10], raw[11]]),
        link: attrs.u32(libc::RTA_OIF).unwrap_or(0),
    })
}

fn cache_info(w: &mut Writer, references: u32) {
    w.nest(libc::RTA_CACHEINFO, |w| {
        w.bytes(&references.to_ne_bytes());
        w.bytes(&[0; 28]);
    });
}

pub fn write(w: &mut Writer, route: &Route) {
    let family = family_of(route.destination);
    w.bytes(&[family, route.prefix_len, 0, 0]);
    w.bytes(&[route.table, route.protocol, route.scope, route.kind]);
    w.bytes(&[0; 4]);
    w.attr_u32(libc::RTA_TABLE, route.table.into());
    if route.prefix_len > 0 {
        w.attr(libc::RTA_DST, &octets(route.destination));
    }
    let v6 = family == AF_INET6;
    if !v6 && route.metric != 0 {
        w.attr_u32(libc::RTA_PRIORITY, route.metric);
    }
    if let Some(source) = route.source {
        w.attr(libc::RTA_PREFSRC, &octets(source));
    }
    if v6 {
        w.attr_u32(libc::RTA_PRIORITY, route.metric);
    }
    if let Some(gateway) = route.gateway {
        w.attr(libc::RTA_GATEWAY, &octets(gateway));
    }
    w.attr_u32(libc::RTA_OIF, route.link);
    if v6 {
        cache_info(w, 0);
        w.attr_u8(RTA_PREF, 0);
    }
}

pub fn dump(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let mut ask = ask(asker, request, "Invalid header for FIB dump request")?;
    // Routes that were used once are kept nowhere.
    if ask.flags & RTM_F_CLONED != 0 {
        return Ok(());
    }
    if asker.manners.strict {
        if ask.destination_len != 0 {
            return Err(Refused::with(
                Errno::EINVAL,
                "Invalid values in header for FIB dump request",
            ));
        }
        let filters = [ask.table, ask.protocol.into(), ask.kind.into(), ask.link];
        if filters.iter().any(|f| *f != 0) {
            batch.filtered();
        }
    } else {
        (ask.table, ask.protocol, ask.kind, ask.link) = (0, 0, 0, 0);
    }
    let interfaces = asker.stack.interfaces.read();
    if ask.link != 0 {
        interfaces.link(ask.link).ok_or(Errno::ENODEV)?;
    }
    let known = [0, libc::RT_TABLE_MAIN, libc::RT_TABLE_LOCAL].map(u32::from);
    if !known.contains(&ask.table) {
        let words = match ask.family {
            AF_INET => "ipv4: FIB table does not exist",
            AF_INET6 => "FIB table does not exist",
            _ => return Ok(()),
        };
        return Err(Refused::with(Errno::ENOENT, words));
    }
    let any = |filter: u32, value: u32| filter == 0 || filter == value;
    for route in interfaces.tables() {
        let shown = wants(ask.family, route.destination)
            && any(ask.table, route.table.into())
            && any(ask.protocol.into(), route.protocol.into())
            && any(ask.kind.into(), route.kind.into())
            && any(ask.link, route.link);
        if shown {
            batch.put(RTM_NEWROUTE, |w| write(w, &route));
        }
    }
    Ok(())
}

fn unspecified(family: u8) -> IpAddr {
    if family == AF_INET {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

pub fn get(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(asker, request, "Invalid header for get route request")?;
    if !matches!(ask.family, AF_INET | AF_INET6) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let ip = match request.attrs(INFO).find(libc::RTA_DST) {
        Some(value) => parse_ip(ask.family, value)?,
        None => unspecified(ask.family),
    };
    let interfaces = asker.stack.interfaces.read();
    if ask.link != 0 {
        interfaces.link(ask.link).ok_or(Errno::ENODEV)?;
    }
    let route = interfaces.route_to(ip).ok_or(Errno::ENETUNREACH)?;
    if matches!(route.kind, libc::RTN_UNREACHABLE) {
        return Err(Errno::EHOSTUNREACH.into());
    }
    if ask.flags & RTM_F_FIB_MATCH != 0 {
        batch.put(RTM_NEWROUTE, |w| write(w, &route));
        return Ok(());
    }
    let source = interfaces.source_for(&route, ip);
    batch.put(RTM_NEWROUTE, |w| match ip {
        IpAddr::V4(_) => way_v4(w, ip, &route, source, asker.task.with_creds(|c| c.fsuid.0)),
        IpAddr::V6(_) => way_v6(w, ip, &route, source),
    });
    Ok(())
}

fn way_v4(w: &mut Writer, ip: IpAddr, route: &Route, source: Option<IpAddr>, uid: u32) {
    let flags = match route.kind {
        libc::RTN_LOCAL => RTCF_LOCAL | RTM_F_CLONED,
        libc::RTN_BROADCAST => RTCF_LOCAL | RTCF_BROADCAST | RTM_F_CLONED,
        _ => RTM_F_CLONED,
    };
    w.bytes(&[AF_INET, 32, 0, 0, libc::RT_TABLE_MAIN, 0, 0, route.kind]);
    w.bytes(&flags.to_ne_bytes());
    w.attr_u32(libc::RTA_TABLE, libc::RT_TABLE_MAIN.into());
    w.attr(libc::RTA_DST, &octets(ip));
    w.attr_u32(libc::RTA_OIF, route.link);
    if let Some(source) = source {
        w.attr(libc::RTA_PREFSRC, &octets(source));
    }
    if let Some(gateway) = route.gateway {
        w.attr(libc::RTA_GATEWAY, &octets(gateway));
    }
    w.attr_u32(RTA_UID, uid);
    cache_info(w, if ip.is_unspecified() { 1 } else { 2 });
}

fn way_v6(w: &mut Writer, ip: IpAddr, route: &Route, source: Option<IpAddr>) {
    w.bytes(&[AF_INET6, 128, 128, 0]);
    w.bytes(&[route.table, route.protocol, route.scope, route.kind]);
    w.bytes(&[0; 4]);
    w.attr_u32(libc::RTA_TABLE, route.table.into());
    w.attr(libc::RTA_DST, &octets(ip));
    w.attr(libc::RTA_SRC, &[0; 16]);
    if let Some(source) = source {
        w.attr(libc::RTA_PREFSRC, &octets(source));
    }
    w.attr_u32(libc::RTA_PRIORITY, route.metric);
    if let Some(gateway) = route.gateway {
        w.attr(libc::RTA_GATEWAY, &octets(gateway));
    }
    w.attr_u32(libc::RTA_OIF, route.link);
    cache_info(w, 2);
    w.attr_u8(RTA_PREF, 0);
}

/// The rules that every network starts with; there are no others.
pub fn dump_rules(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let raw = head::<INFO>(asker, request, "Invalid header for fib rule dump request")?;
    for (family, table, priority) in [
        (AF_INET, libc::RT_TABLE_LOCAL, 0),
        (AF_INET, libc::RT_TABLE_MAIN, 32766),
        (AF_INET, DEFAULT_TABLE, 32767),
        (AF_INET6, libc::RT_TABLE_LOCAL, 0),
        (AF_INET6, libc::RT_TABLE_MAIN, 32766),
    ] {
        if !wants(raw[0], unspecified(family)) {
            continue;
        }
        batch.put(libc::RTM_NEWRULE, |w| {
            w.bytes(&[family, 0, 0, 0, table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
            w.attr_u32(FRA_TABLE, table.into());
            w.attr_u32(FRA_SUPPRESS_PREFIXLEN, u32::MAX);
            w.attr_u8(FRA_PROTOCOL, libc::RTPROT_KERNEL);
            if priority != 0 {
                w.attr_u32(FRA_PRIORITY, priority);
            }
        });
    }
    Ok(())
}

/// Routes of the main table that a packet may take, and those that an address implies: what
/// interfaces give besides their own list.
impl Interfaces {
    /// All routes, the main table before the local one and IPv4 before IPv6, as Linux lists them.
    pub fn tables(&self) -> Vec<Route> {
        let local = |r: &&Route| r.table == libc::RT_TABLE_LOCAL;
        // Those of the local table follow from the addresses.
        let main = self.routes.iter().filter(|r| !local(r)).cloned();
        let main = main.chain(self.loopback_networks());
        let mut all: Vec<Route> = main.chain(self.local_routes()).collect();
        all.sort_by_key(|r| r.destination.is_ipv6());
        all
    }

    /// The routes to the IPv6 networks of loopback, unless the host has told of them.
    fn loopback_networks(&self) -> impl Iterator<Item = Route> {
        let networks = self.addresses.iter().filter_map(|a| match a.ip {
            IpAddr::V6(ip) if a.link == LOOPBACK && a.prefix_len < 128 => {
                let mask = u128::MAX << (128 - u32::from(a.prefix_len.max(1)));
                let network = Ipv6Addr::from_bits(ip.to_bits() & mask);
                Some((IpAddr::from(network), a.prefix_len))
            }
            _ => None,
        });
        let told = |key| {
            self.routes
                .iter()
                .any(|r| (r.destination, r.prefix_len) == key)
        };
        let mut seen = HashSet::new();
        let networks = networks.filter(move |key| !told(*key) && seen.insert(*key));
        networks.map(|(destination, prefix_len)| Route {
            destination,
            prefix_len,
            gateway: None,
            source: None,
            link: LOOPBACK,
            metric: 256,
            table: libc::RT_TABLE_MAIN,
            protocol: libc::RTPROT_KERNEL,
            scope: libc::RT_SCOPE_UNIVERSE,
            kind: libc::RTN_UNICAST,
        })
    }

    fn local_routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        for address in &self.addresses {
            let mut add = |destination: IpAddr, prefix_len, kind, scope| {
                routes.push(Route {
                    destination,
                    prefix_len,
                    gateway: None,
                    source: destination
                        .is_ipv4()
                        .then(|| self.first_of_network(address)),
                    link: address.link,
                    metric: 0,
                    table: libc::RT_TABLE_LOCAL,
                    protocol: libc::RTPROT_KERNEL,
                    scope,
                    kind,
                });
            };
            match address.ip {
                IpAddr::V4(ip) => {
                    let mask = mask_v4(address.prefix_len);
                    let network = Ipv4Addr::from_bits(ip.to_bits() & mask);
                    let (local, host) = (libc::RTN_LOCAL, libc::RT_SCOPE_HOST);
                    // What is the network's the first address has brought.
                    let first = address.flags & libc::IFA_F_SECONDARY == 0;
                    if address.link == LOOPBACK && address.prefix_len < 32 && first {
                        add(network.into(), address.prefix_len, local, host);
                    }
                    add(ip.into(), 32, local, host);
                    if address.prefix_len < 31 && first {
                        let last = Ipv4Addr::from_bits(ip.to_bits() | !mask);
                        let (kind, scope) = (libc::RTN_BROADCAST, libc::RT_SCOPE_LINK);
                        add(last.into(), 32, kind, scope);
                    }
                }
                IpAddr::V6(ip) => {
                    add(ip.into(), 128, libc::RTN_LOCAL, libc::RT_SCOPE_UNIVERSE);
                }
            }
        }
        // IPv4 as Linux walks its table.
        routes.sort_by_key(|r| match r.destination {
            IpAddr::V4(ip) => (ip.to_bits(), r.prefix_len),
            IpAddr::V6(_) => (u32::MAX, 0),
        });
        routes
    }

    /// The route that an address takes: the longest prefix, then the least metric; the local
    /// table first.
    pub fn route_to(&self, ip: IpAddr) -> Option<Route> {
        let ip = match ip {
            ip if !ip.is_unspecified() => ip,
            // As Linux: oneself.
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let tables = self.tables();
        let of = |local: bool| {
            tables
                .iter()
                .filter(move |r| (r.table == libc::RT_TABLE_LOCAL) == local)
                .filter(|r| covers(r.destination, r.prefix_len, ip))
                .max_by_key(|r| (r.prefix_len, std::cmp::Reverse(r.metric)))
        };
        of(true).or_else(|| of(false)).cloned()
    }

    /// The own address that a packet by this route is from.
    pub fn source_for(&self, route: &Route, to: IpAddr) -> Option<IpAddr> {
        let next = route.gateway.unwrap_or(to);
        let own = |a: &&Address| a.link == route.link && a.ip.is_ipv4() == to.is_ipv4();
        let near = self.addresses.iter().filter(own);
        let near = near.rev().max_by_key(|a| a.is_near(next));
        if let (libc::RTN_LOCAL, IpAddr::V6(_)) = (route.kind, to) {
            return Some(to);
        }
        route.source.or(near.map(|a| a.ip))
    }
}

impl Address {
    /// Whether an address is in the network that this one is in.
    pub fn is_near(&self, ip: IpAddr) -> bool {
        covers(self.ip, self.prefix_len, ip)
    }
}

fn mask_v4(prefix_len: u8) -> u32 {
    u32::MAX
        .checked_shl(32u32.saturating_sub(prefix_len.into()))
        .unwrap_or(0)
}

fn covers(network: IpAddr, prefix_len: u8, ip: IpAddr) -> bool {
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) => {
            (network.to_bits() ^ ip.to_bits()) & mask_v4(prefix_len) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) => {
            let shift = 128u32.saturating_sub(prefix_len.into());
            let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
            (network.to_bits() ^ ip.to_bits()) & mask == 0
        }
        _ => false,
    }
}
