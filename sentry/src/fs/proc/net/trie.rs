//! /proc/net/fib_trie and fib_triestat: IPv4 routes by prefix. Linux keeps them in a trie that is
//! compressed by levels; here there is a list, shown as a trie of one level.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use crate::net::Stack;
use crate::net::interfaces::Route;

/// As long as there are no rules of one's own Linux keeps both tables in one trie.
const TABLES: [&str; 2] = ["Main", "Local"];

fn leaves(stack: &Stack) -> BTreeMap<Ipv4Addr, Vec<Route>> {
    let mut leaves: BTreeMap<Ipv4Addr, Vec<Route>> = BTreeMap::new();
    for route in stack.interfaces.read().tables() {
        if let IpAddr::V4(to) = route.destination {
            leaves.entry(to).or_default().push(route);
        }
    }
    for routes in leaves.values_mut() {
        routes.sort_by_key(|r| std::cmp::Reverse(r.prefix_len));
        routes.dedup_by_key(|r| (r.prefix_len, r.kind, r.scope));
    }
    leaves
}

fn scope(route: &Route) -> String {
    match route.scope {
        libc::RT_SCOPE_UNIVERSE => "universe".to_owned(),
        libc::RT_SCOPE_SITE => "site".to_owned(),
        libc::RT_SCOPE_LINK => "link".to_owned(),
        libc::RT_SCOPE_HOST => "host".to_owned(),
        libc::RT_SCOPE_NOWHERE => "nowhere".to_owned(),
        other => format!("scope={other}"),
    }
}

fn kind(route: &Route) -> String {
    match route.kind {
        libc::RTN_UNICAST => "UNICAST".to_owned(),
        libc::RTN_LOCAL => "LOCAL".to_owned(),
        libc::RTN_BROADCAST => "BROADCAST".to_owned(),
        libc::RTN_MULTICAST => "MULTICAST".to_owned(),
        libc::RTN_BLACKHOLE => "BLACKHOLE".to_owned(),
        libc::RTN_UNREACHABLE => "UNREACHABLE".to_owned(),
        libc::RTN_PROHIBIT => "PROHIBIT".to_owned(),
        other => format!("type {other}"),
    }
}

pub fn fib_trie(stack: &Stack) -> String {
    let leaves = leaves(stack);
    let mut text = String::new();
    for table in TABLES {
        // Bits that tell children apart, and how many have and lack some.
        let _ = writeln!(text, "{table}:\n  +-- 0.0.0.0/0 1 0 0");
        for (to, routes) in &leaves {
            let _ = writeln!(text, "     |-- {to}");
            for route in routes {
                let len = route.prefix_len;
                let _ = writeln!(text, "        /{len} {} {}", scope(route), kind(route));
            }
        }
    }
    text
}

pub fn fib_triestat(stack: &Stack) -> String {
    let leaves = leaves(stack);
    let prefixes: usize = leaves.values().map(Vec::len).sum();
    let depth = usize::from(!leaves.is_empty());
    let mut text = "Basic info: size of leaf: 48 bytes, size of tnode: 40 bytes.\n".to_owned();
    for table in TABLES {
        let _ = writeln!(
            text,
            "{table}:\n\tAver depth:     {depth}.00\n\tMax depth:      {depth}\n\tLeaves:         {}\n\t\
             Prefixes:       {prefixes}\n\tInternal nodes: 1\n\t  1: 1\n\tPointers: 2\n\
             Null ptrs: 0\nTotal size: 1  kB",
            leaves.len()
        );
    }
    text
}
