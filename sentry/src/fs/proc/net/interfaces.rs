//! Tables of interfaces, addresses, routes and neighbours (proc_net(5)).

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

use crate::net::Stack;
use crate::net::interfaces::{Interfaces, Link};

/// RTF_*: route flags.
const UP: u32 = 1;
const GATEWAY: u32 = 2;
const HOST: u32 = 4;
const REJECT: u32 = 0x200;
const NO_NEXT_HOP: u32 = 0x0020_0000;
const LOCAL: u32 = 0x8000_0000;
/// Length of a line of /proc/net/route without its end.
const ROUTE_LINE: usize = 127;
/// ATF_COM, ATF_PERM.
const COMPLETE: u32 = 2;
const PERMANENT: u32 = 4;

fn name(interfaces: &Interfaces, link: u32) -> &str {
    interfaces.link(link).map_or("*", |l| &l.name)
}

fn hex(ip: Ipv6Addr) -> String {
    format!("{:032x}", ip.to_bits())
}

pub fn dev(stack: &Stack) -> String {
    stack.refresh();
    let mut text = String::new();
    for link in &stack.interfaces.read().links {
        let n = stack.counters(link.index);
        let _ = writeln!(
            text,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            link.name,
            n.rx_bytes,
            n.rx_packets,
            n.rx_errors,
            n.rx_dropped,
            0,
            0,
            0,
            0,
            n.tx_bytes,
            n.tx_packets,
            n.tx_errors,
            n.tx_dropped,
            0,
            0,
            0,
            0
        );
    }
    text
}

pub fn route(stack: &Stack) -> String {
    let interfaces = stack.interfaces.read();
    let mut text = String::new();
    for route in interfaces.tables() {
        let IpAddr::V4(to) = route.destination else {
            continue;
        };
        if route.table == libc::RT_TABLE_LOCAL {
            continue;
        }
        let mut flags = UP;
        let gateway = match route.gateway {
            Some(IpAddr::V4(ip)) => {
                flags |= GATEWAY;
                u32::from_ne_bytes(ip.octets())
            }
            _ => 0,
        };
        if route.prefix_len == 32 {
            flags |= HOST;
        }
        let shift = 32u32.saturating_sub(route.prefix_len.into());
        let mask = u32::MAX.checked_shl(shift).unwrap_or(0).to_be();
        let line = format!(
            "{}\t{:08X}\t{gateway:08X}\t{flags:04X}\t0\t0\t{}\t{mask:08X}\t0\t0\t0",
            name(&interfaces, route.link),
            u32::from_ne_bytes(to.octets()),
            route.metric,
        );
        let _ = writeln!(text, "{line:<ROUTE_LINE$}");
    }
    text
}

pub fn ipv6_route(stack: &Stack) -> String {
    let interfaces = stack.interfaces.read();
    let line = |to: Ipv6Addr, prefix_len, gateway: Ipv6Addr, metric: u32, flags: u32, link| {
        format!(
            "{} {prefix_len:02x} {} 00 {} {metric:08x} 00000001 00000000 {flags:08x} {:>8}\n",
            hex(to),
            hex(Ipv6Addr::UNSPECIFIED),
            hex(gateway),
            name(&interfaces, link),
        )
    };
    let nowhere = Ipv6Addr::UNSPECIFIED;
    // What an address without a route meets, at both ends of the table.
    let refuse = || line(nowhere, 0, nowhere, u32::MAX, REJECT | NO_NEXT_HOP, 1);
    let mut text = refuse();
    for route in interfaces.tables() {
        let IpAddr::V6(to) = route.destination else {
            continue;
        };
        let (gateway, mut flags) = match route.gateway {
            Some(IpAddr::V6(ip)) => (ip, UP | GATEWAY),
            _ => (nowhere, UP),
        };
        if route.table == libc::RT_TABLE_LOCAL {
            flags |= LOCAL | NO_NEXT_HOP;
        }
        text += &line(
            to,
            route.prefix_len,
            gateway,
            route.metric,
            flags,
            route.link,
        );
    }
    text += &refuse();
    text
}

/// Routing nodes, entries and what there is besides of IPv6.
pub fn rt6_stats(stack: &Stack) -> String {
    let tables = stack.interfaces.read().tables();
    let routes = tables.iter().filter(|r| r.destination.is_ipv6()).count();
    format!("{routes:04x} {routes:04x} 0000 {routes:04x} 0000 0000 0000\n")
}

pub fn if_inet6(stack: &Stack) -> String {
    let interfaces = stack.interfaces.read();
    let mut text = String::new();
    for address in &interfaces.addresses {
        let IpAddr::V6(ip) = address.ip else {
            continue;
        };
        // IPV6_ADDR_*, of which RT_SCOPE_* come.
        let scope = match address.scope {
            libc::RT_SCOPE_HOST => 0x10,
            libc::RT_SCOPE_LINK => 0x20,
            libc::RT_SCOPE_SITE => 0x40,
            _ => 0,
        };
        let _ = writeln!(
            text,
            "{} {:02x} {:02x} {scope:02x} {:02x} {:>8}",
            hex(ip),
            address.link,
            address.prefix_len,
            address.flags & 0xff,
            name(&interfaces, address.link),
        );
    }
    text
}

pub fn arp(stack: &Stack) -> String {
    const NUD_PERMANENT: u16 = 0x80;
    const NUD_NOARP: u16 = 0x40;
    stack.refresh();
    let interfaces = stack.interfaces.read();
    let mut text = String::new();
    for n in &interfaces.neighbours {
        if n.ip.is_ipv6() || n.state == NUD_NOARP {
            continue;
        }
        let mut flags = 0;
        if !n.hardware.is_empty() {
            flags |= COMPLETE;
        }
        if n.state & NUD_PERMANENT != 0 {
            flags |= PERMANENT;
        }
        let bytes: Vec<String> = n.hardware.iter().map(|b| format!("{b:02x}")).collect();
        let hardware = if bytes.is_empty() {
            "00:00:00:00:00:00".to_owned()
        } else {
            bytes.join(":")
        };
        let kind = interfaces.link(n.link).map_or(0, |l| l.kind);
        let _ = writeln!(
            text,
            "{:<16} 0x{kind:<10x}0x{flags:<10x}{hardware:<17}     *        {}",
            n.ip.to_string(),
            name(&interfaces, n.link),
        );
    }
    text
}

/// The groups of one family, by the links that are in them.
fn groups(interfaces: &Interfaces) -> Vec<(&Link, IpAddr)> {
    let of = |link| {
        let groups = interfaces.groups(link).into_iter();
        groups.map(move |g| (link, g))
    };
    interfaces.links.iter().flat_map(of).collect()
}

pub fn igmp(stack: &Stack) -> String {
    let mut text = String::new();
    let interfaces = stack.interfaces.read();
    for (link, group) in groups(&interfaces) {
        let IpAddr::V4(group) = group else { continue };
        let group = u32::from_ne_bytes(group.octets());
        let _ = writeln!(text, "{}\t{:<10}: {:5}      V3", link.index, link.name, 1);
        let _ = writeln!(text, "\t\t\t\t{group:08X} {:5} 0:{:08X}\t\t0", 1, 0);
    }
    text
}

pub fn igmp6(stack: &Stack) -> String {
    let mut text = String::new();
    let interfaces = stack.interfaces.read();
    for (link, group) in groups(&interfaces) {
        let IpAddr::V6(group) = group else { continue };
        // MAF_*: ready; of a group beyond the machine: also told to routers.
        let flags = if group.segments()[0] == 0xff01 {
            0x08
        } else if group.segments()[5] == 1 {
            0x04
        } else {
            0x0c
        };
        let _ = writeln!(
            text,
            "{:<4} {:<15} {} {:5} {flags:08X} 0",
            link.index,
            link.name,
            hex(group),
            1
        );
    }
    text
}
