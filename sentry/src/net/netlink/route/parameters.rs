//! What protocols go by: RTM_GETNETCONF, RTM_GETNEIGHTBL, RTM_GETADDRLABEL. Nothing here can be
//! changed; the numbers are those of a new namespace on Linux.

use std::net::Ipv6Addr;

use super::{AF_INET, AF_INET6, Answer, Asker, head};
use crate::errno::Errno;
use crate::net::interfaces::Link;
use crate::net::netlink::message::{Request, Writer};
use crate::net::netlink::reply::Batch;

const RTM_NEWNETCONF: u16 = 80;
const RTM_NEWNEIGHTBL: u16 = libc::RTM_NEWNEIGHTBL;
const RTM_NEWADDRLABEL: u16 = libc::RTM_NEWADDRLABEL;

/// NETCONFA_*.
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
const NETCONFA_MC_FORWARDING: u16 = 4;
const NETCONFA_PROXY_NEIGH: u16 = 5;
const NETCONFA_IGNORE_LINKDOWN: u16 = 6;
const NETCONFA_BC_FORWARDING: u16 = 8;
/// What stands for all interfaces and for those to come.
const ALL: i32 = -1;
const DEFAULT: i32 = -2;

/// A sandbox forwards nothing and filters nothing.
fn write_netconf(w: &mut Writer, family: u8, index: i32) {
    w.bytes(&[family, 0, 0, 0]);
    w.attr(NETCONFA_IFINDEX, &index.to_ne_bytes());
    w.attr_u32(NETCONFA_FORWARDING, 0);
    if family == AF_INET {
        w.attr_u32(NETCONFA_RP_FILTER, 0);
    }
    w.attr_u32(NETCONFA_MC_FORWARDING, 0);
    if family == AF_INET {
        w.attr_u32(NETCONFA_BC_FORWARDING, 0);
    }
    w.attr_u32(NETCONFA_PROXY_NEIGH, 0);
    w.attr_u32(NETCONFA_IGNORE_LINKDOWN, 0);
}

/// Of the families that a request is about.
fn families(asked: u8) -> impl Iterator<Item = u8> {
    let all = [AF_INET, AF_INET6].into_iter();
    all.filter(move |f| !matches!(asked, AF_INET | AF_INET6) || asked == *f)
}

pub fn dump_netconf(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let [asked, ..] = head::<4>(asker, request, "Invalid header for netconf dump request")?;
    let interfaces = asker.stack.interfaces.read();
    for family in families(asked) {
        let links = interfaces.links.iter().map(|l| l.index as i32);
        for index in links.chain([ALL, DEFAULT]) {
            batch.put(RTM_NEWNETCONF, |w| write_netconf(w, family, index));
        }
    }
    Ok(())
}

pub fn get_netconf(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let [family, ..] = head::<4>(asker, request, "Invalid header for netconf get request")?;
    if !matches!(family, AF_INET | AF_INET6) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let index = request.attrs(4).u32(NETCONFA_IFINDEX);
    let index = index.ok_or(Errno::EINVAL)?.cast_signed();
    if !matches!(index, ALL | DEFAULT) {
        let interfaces = asker.stack.interfaces.read();
        let known = interfaces.link(index.cast_unsigned());
        // Linux's families do not agree.
        known.ok_or(match family {
            AF_INET => Errno::ENODEV,
            _ => Errno::EINVAL,
        })?;
    }
    batch.put(RTM_NEWNETCONF, |w| write_netconf(w, family, index));
    Ok(())
}

/// NDTA_*.
const NDTA_NAME: u16 = 1;
const NDTA_THRESH1: u16 = 2;
const NDTA_THRESH2: u16 = 3;
const NDTA_THRESH3: u16 = 4;
const NDTA_CONFIG: u16 = 5;
const NDTA_PARMS: u16 = 6;
const NDTA_STATS: u16 = 7;
const NDTA_GC_INTERVAL: u16 = 8;
/// NDTPA_IFINDEX; the others are in [`write_parameters`].
const NDTPA_IFINDEX: u16 = 1;
/// Numbers of struct ndt_stats.
const NDT_STATS: usize = 11;

/// A table of neighbours: family, name, and the longest time that an answer of a proxy waits (ms).
const NEIGHBOUR_TABLES: [(u8, &str, u64); 2] =
    [(AF_INET, "arp_cache", 1000), (AF_INET6, "ndisc_cache", 0)];

fn write_parameters(w: &mut Writer, link: Option<&Link>, lock_time: u64) {
    if let Some(link) = link {
        w.attr_u32(NDTPA_IFINDEX, link.index);
    }
    // References, bytes and packets in the queue, proxies', probes of each kind.
    for (kind, value) in [
        (2, 1),
        (16, 212_992),
        (8, 101),
        (14, 64),
        (9, 0),
        (10, 3),
        (11, 3),
        (17, 0),
    ] {
        w.attr_u32(kind, value);
    }
    // Milliseconds: reachable, its base, stale, first probe, again, anycast, proxy, locked, between
    // probes of what is managed.
    for (kind, value) in [
        (3, 30_000_u64),
        (4, 30_000),
        (6, 60_000),
        (7, 5000),
        (5, 1000),
        (12, 1000),
        (13, 800),
        (15, lock_time),
        (19, 5000),
    ] {
        w.attr(kind, &value.to_ne_bytes());
    }
}

pub fn dump_neighbour_tables(
    asker: &Asker<'_>,
    request: &Request<'_>,
    batch: &mut Batch,
) -> Answer {
    let what = "Invalid header for neighbor table dump request";
    let [asked, ..] = head::<4>(asker, request, what)?;
    let interfaces = asker.stack.interfaces.read();
    for (family, name, lock_time) in NEIGHBOUR_TABLES {
        if families(asked).all(|f| f != family) {
            continue;
        }
        let of_family = |n: &&crate::net::interfaces::Neighbour| super::wants(family, n.ip);
        let entries = interfaces.neighbours.iter().filter(of_family).count() as u32;
        let key_len: u16 = if family == AF_INET { 4 } else { 16 };
        batch.put(RTM_NEWNEIGHTBL, |w| {
            w.bytes(&[family, 0, 0, 0]);
            w.attr_text(NDTA_NAME, name);
            w.attr(NDTA_GC_INTERVAL, &30_000_u64.to_ne_bytes());
            w.attr_u32(NDTA_THRESH1, 128);
            w.attr_u32(NDTA_THRESH2, 512);
            w.attr_u32(NDTA_THRESH3, 1024);
            w.nest(NDTA_CONFIG, |w| {
                w.bytes(&key_len.to_ne_bytes());
                // Size of an entry, which is of nobody's use.
                w.bytes(&[0; 2]);
                w.bytes(&entries.to_ne_bytes());
                w.bytes(&[0; 24]);
            });
            w.nest(NDTA_STATS, |w| w.bytes(&[0; NDT_STATS * 8]));
            w.nest(NDTA_PARMS, |w| write_parameters(w, None, lock_time));
        });
        for link in &interfaces.links {
            batch.put(RTM_NEWNEIGHTBL, |w| {
                w.bytes(&[family, 0, 0, 0]);
                w.attr_text(NDTA_NAME, name);
                w.nest(NDTA_PARMS, |w| write_parameters(w, Some(link), lock_time));
            });
        }
    }
    Ok(())
}

/// Labels of RFC 6724 as Linux has them: prefix, its length, label.
const LABELS: [([u16; 8], u8, u32); 10] = [
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, 0),
    ([0; 8], 96, 3),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, 4),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, 6),
    ([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, 7),
    ([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16, 12),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, 2),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, 11),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, 5),
    ([0; 8], 0, 1),
];
const IFAL_ADDRESS: u16 = 1;
const IFAL_LABEL: u16 = 2;

pub fn dump_labels(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let what = "Invalid header for address label dump request";
    head::<12>(asker, request, what)?;
    for (words, prefix_len, label) in LABELS {
        batch.put(RTM_NEWADDRLABEL, |w| {
            w.bytes(&[AF_INET6, 0, prefix_len, 0, 0, 0, 0, 0]);
            // Changes so far: one for each.
            w.bytes(&(LABELS.len() as u32).to_ne_bytes());
            w.attr(IFAL_ADDRESS, &Ipv6Addr::from(words).octets());
            w.attr_u32(IFAL_LABEL, label);
        });
    }
    Ok(())
}
