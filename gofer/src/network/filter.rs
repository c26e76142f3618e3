//! What the network Gofer may ask the host kernel for: its seccomp allow-list, with a reason each.
//!
//! Families, types, protocols and options are checked by the host kernel once more, so that a
//! mistake in the server does not widen what the Sentry can have.

use runsc_platform::{
    rule,
    seccomp::{ArgCheck, Filter, RUNTIME, Rule},
};

use super::options::{Access, OPTIONS};

const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

/// Types as they are passed: nothing made here blocks, or survives an exec.
pub(super) const STREAM: i32 = libc::SOCK_STREAM | FLAGS;
pub(super) const DATAGRAM: i32 = libc::SOCK_DGRAM | FLAGS;
const FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

/// Type and protocol.
const KINDS: [(i32, i32); 4] = [
    (STREAM, libc::IPPROTO_TCP),
    (DATAGRAM, libc::IPPROTO_UDP),
    (DATAGRAM, libc::IPPROTO_ICMP),
    (DATAGRAM, libc::IPPROTO_ICMPV6),
];

/// The network Gofer's filter.
pub fn filter() -> Filter {
    let mut rules = [BASE, RUNTIME].concat();
    for family in FAMILIES {
        for (kind, protocol) in KINDS {
            rules.push(checked(
                libc::SYS_socket,
                "SYS_socket",
                [(0, family), (1, kind), (2, protocol)],
                "TCP, UDP and echo sockets",
            ));
        }
    }
    for (option, access) in OPTIONS {
        let checks = [(1, option.level), (2, option.name)];
        let why = "options on the list";
        rules.push(checked(libc::SYS_getsockopt, "SYS_getsockopt", checks, why));
        if *access == Access::Both {
            rules.push(checked(libc::SYS_setsockopt, "SYS_setsockopt", checks, why));
        }
    }
    for name in [libc::SO_DOMAIN, libc::SO_PROTOCOL] {
        rules.push(checked(
            libc::SYS_getsockopt,
            "SYS_getsockopt",
            [(1, libc::SOL_SOCKET), (2, name)],
            "what a socket is that comes along",
        ));
    }
    Filter::new("network-gofer", rules)
}

/// A rule whose arguments come from a table.
fn checked<const N: usize>(
    syscall: i64,
    name: &'static str,
    args: [(u8, i32); N],
    why: &'static str,
) -> Rule {
    let args = args.map(|(index, value)| ArgCheck::eq(index, value.cast_unsigned()));
    Rule {
        syscall,
        name,
        // Once a process, which keeps its filter for good.
        args: Box::leak(Box::new(args)),
        why,
    }
}

const BASE: &[Rule] = &[
    rule!(SYS_poll, "waiting for requests and changes"),
    rule!(
        SYS_ppoll,
        "waiting for requests and changes, where there is no poll"
    ),
    rule!(
        SYS_recvmsg,
        [ArgCheck::eq(2, libc::MSG_CMSG_CLOEXEC as u32)],
        "requests, with a socket"
    ),
    rule!(
        SYS_sendmsg,
        [ArgCheck::eq(2, libc::MSG_NOSIGNAL as u32)],
        "replies, with a socket"
    ),
    rule!(SYS_bind, "bind"),
    rule!(SYS_connect, "connect, also to nobody"),
    rule!(SYS_listen, "listen"),
    rule!(SYS_getsockname, "a socket's address, which bind chose"),
    rule!(
        SYS_sendto,
        [ArgCheck::eq(
            3,
            (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as u32
        )],
        "asking for the namespace's view; telling that it changed"
    ),
    rule!(
        SYS_recvfrom,
        [ArgCheck::eq(3, libc::MSG_TRUNC as u32)],
        "the namespace's view"
    ),
    rule!(
        SYS_recvfrom,
        [ArgCheck::eq(
            3,
            (libc::MSG_TRUNC | libc::MSG_DONTWAIT) as u32
        )],
        "changes of the view"
    ),
    rule!(SYS_close, "what a request made or brought"),
    rule!(SYS_write, "the log, and messages to stderr"),
    rule!(SYS_exit, "the end"),
];
