//! What changed, told to those who are in the groups of rtnetlink(7): the difference of what there
//! was and what there is, in messages as a dump has them.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use super::{address, link, neighbour, routes};
use crate::net::interfaces::{Interfaces, Link};
use crate::net::netlink::message::{Header, Request, Writer};
use crate::net::stack::Stack;

/// RTNLGRP_*.
const LINK: u32 = 1;
const NEIGH: u32 = 3;
const IPV4_IFADDR: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV6_IFADDR: u32 = 9;
const IPV6_ROUTE: u32 = 11;

/// The request that a change comes from, whose numbers some messages repeat.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cause {
    seq: u32,
    port: u32,
}

impl Cause {
    pub(in crate::net::netlink) fn new(request: &Request<'_>, port: u32) -> Cause {
        Cause {
            seq: request.header.seq,
            port,
        }
    }
}

/// One of two groups, by the family of an address.
fn by_family(ip: IpAddr, v4: u32, v6: u32) -> u32 {
    if ip.is_ipv4() { v4 } else { v6 }
}

/// What is in one list only, in its order.
fn only_in<'a, T: Hash + Eq>(list: &'a [T], other: &[T]) -> Vec<&'a T> {
    let other: HashSet<&T> = other.iter().collect();
    list.iter().filter(|t| !other.contains(t)).collect()
}

struct Teller<'a> {
    stack: &'a Stack,
}

impl Teller<'_> {
    fn say(&self, group: u32, header: Header, fill: impl FnOnce(&mut Writer)) {
        let mut w = Writer::new(header);
        fill(&mut w);
        let message = w.finish();
        super::super::tell(self.stack, libc::NETLINK_ROUTE, group, 0, 0, &message);
    }

    fn links(&self, kind: u16, links: &[(&Link, u32)]) {
        for (link, change) in links {
            let stats = self.stack.counters(link.index);
            let header = of(kind);
            self.say(LINK, header, |w| {
                link::write(w, link, *change, Some(stats));
            });
        }
    }
}

fn of(kind: u16) -> Header {
    Header {
        kind,
        ..Header::default()
    }
}

/// Tells who listens what is different. The caller sees to it that changes are told in their order.
pub fn tell(stack: &Stack, before: &Interfaces, after: &Interfaces, cause: Cause) {
    let ports = stack.netlink_ports.lock();
    let nobody = ports.listeners(libc::NETLINK_ROUTE).is_empty();
    drop(ports);
    if nobody {
        return;
    }
    let teller = Teller { stack };
    let were: HashMap<u32, &Link> = before.links.iter().map(|l| (l.index, l)).collect();
    let are: HashSet<u32> = after.links.iter().map(|l| l.index).collect();
    let news = only_in(&after.links, &before.links).into_iter();
    let news: Vec<(&Link, u32)> = news
        .map(|l| match were.get(&l.index) {
            Some(was) => (l, was.flags ^ l.flags),
            None => (l, u32::MAX),
        })
        .collect();
    teller.links(libc::RTM_NEWLINK, &news);

    let tables = (before.tables(), after.tables());
    let caused = |kind: u16, ip: IpAddr| Header {
        kind,
        // IPv6 addresses come from nobody.
        seq: if ip.is_ipv4() { cause.seq } else { 0 },
        port: if ip.is_ipv4() { cause.port } else { 0 },
        flags: 0,
    };
    for (kind, list, other, interfaces) in [
        (
            libc::RTM_DELADDR,
            &before.addresses,
            &after.addresses,
            before,
        ),
        (
            libc::RTM_NEWADDR,
            &after.addresses,
            &before.addresses,
            after,
        ),
    ] {
        for a in only_in(list, other) {
            let group = by_family(a.ip, IPV4_IFADDR, IPV6_IFADDR);
            teller.say(group, caused(kind, a.ip), |w| {
                address::write(w, interfaces, a);
            });
        }
        let (kind, flags, list, other) = if kind == libc::RTM_DELADDR {
            (libc::RTM_DELROUTE, 0, &tables.0, &tables.1)
        } else {
            let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
            (libc::RTM_NEWROUTE, flags, &tables.1, &tables.0)
        };
        for route in only_in(list, other) {
            let group = by_family(route.destination, IPV4_ROUTE, IPV6_ROUTE);
            let header = Header { flags, ..of(kind) };
            teller.say(group, header, |w| routes::write(w, route));
        }
    }

    // A neighbour that has another state or address is one message.
    let key = |n: &crate::net::interfaces::Neighbour| (n.link, n.ip);
    let kept: HashSet<_> = after.neighbours.iter().map(key).collect();
    for n in only_in(&before.neighbours, &after.neighbours) {
        if !kept.contains(&key(n)) {
            teller.say(NEIGH, of(libc::RTM_DELNEIGH), |w| neighbour::write(w, n));
        }
    }
    for n in only_in(&after.neighbours, &before.neighbours) {
        teller.say(NEIGH, of(libc::RTM_NEWNEIGH), |w| neighbour::write(w, n));
    }

    let gone = before.links.iter().filter(|l| !are.contains(&l.index));
    let gone: Vec<(&Link, u32)> = gone.map(|l| (l, u32::MAX)).collect();
    teller.links(libc::RTM_DELLINK, &gone);
}
