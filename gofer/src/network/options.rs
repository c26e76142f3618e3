//! The socket options that may be set and read, by name: what servers and clients use (socket(7),
//! tcp(7), ip(7), ipv6(7)). An option that is not here is refused, here and by the filter.
//!
//! Groups (MCAST_*) are joined for the container's own namespace, as any of its programs could.
//!
//! Not here, because they reach further than the socket: `SO_MARK`, `SO_RCVBUFFORCE`, `IP_TRANSPARENT`
//! and their like, packet filters (`SO_ATTACH_*`), multicast routing, `IP_HDRINCL`.

use libc::{
    IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IPV6_MTU, IPV6_MTU_DISCOVER,
    IPV6_MULTICAST_ALL, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF, IPV6_MULTICAST_LOOP, IPV6_RECVERR,
    IPV6_RECVHOPLIMIT, IPV6_RECVPKTINFO, IPV6_RECVTCLASS, IPV6_TCLASS, IPV6_UNICAST_HOPS,
    IPV6_V6ONLY, SOL_SOCKET,
};

use super::protocol::OptionName;

/// linux/in6.h, not in libc.
const IPV6_RECVORIGDSTADDR: i32 = 74;

/// What may be done with an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Both,
}

const fn both(level: i32, name: i32) -> (OptionName, Access) {
    (OptionName { level, name }, Access::Both)
}

const fn read(level: i32, name: i32) -> (OptionName, Access) {
    (OptionName { level, name }, Access::Read)
}

/// All of them.
pub const OPTIONS: &[(OptionName, Access)] = &[
    both(SOL_SOCKET, libc::SO_REUSEADDR),
    both(SOL_SOCKET, libc::SO_REUSEPORT),
    both(SOL_SOCKET, libc::SO_KEEPALIVE),
    both(SOL_SOCKET, libc::SO_BROADCAST),
    both(SOL_SOCKET, libc::SO_LINGER),
    both(SOL_SOCKET, libc::SO_SNDBUF),
    both(SOL_SOCKET, libc::SO_RCVBUF),
    both(SOL_SOCKET, libc::SO_RCVLOWAT),
    both(SOL_SOCKET, libc::SO_OOBINLINE),
    both(SOL_SOCKET, libc::SO_TIMESTAMP),
    both(SOL_SOCKET, libc::SO_TIMESTAMPNS),
    both(SOL_SOCKET, libc::SO_TIMESTAMPING),
    both(SOL_SOCKET, libc::SO_RXQ_OVFL),
    both(SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE),
    both(SOL_SOCKET, libc::SO_PRIORITY),
    read(SOL_SOCKET, libc::SO_ERROR),
    both(IPPROTO_TCP, libc::TCP_NODELAY),
    both(IPPROTO_TCP, libc::TCP_MAXSEG),
    both(IPPROTO_TCP, libc::TCP_CORK),
    both(IPPROTO_TCP, libc::TCP_KEEPIDLE),
    both(IPPROTO_TCP, libc::TCP_KEEPINTVL),
    both(IPPROTO_TCP, libc::TCP_KEEPCNT),
    both(IPPROTO_TCP, libc::TCP_SYNCNT),
    both(IPPROTO_TCP, libc::TCP_LINGER2),
    both(IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    both(IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    both(IPPROTO_TCP, libc::TCP_QUICKACK),
    both(IPPROTO_TCP, libc::TCP_CONGESTION),
    both(IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    both(IPPROTO_TCP, libc::TCP_FASTOPEN),
    both(IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    read(IPPROTO_TCP, libc::TCP_INFO),
    both(IPPROTO_UDP, libc::UDP_GRO),
    both(IPPROTO_IP, libc::IP_TOS),
    both(IPPROTO_IP, libc::IP_TTL),
    both(IPPROTO_IP, libc::IP_PKTINFO),
    both(IPPROTO_IP, libc::IP_RECVTTL),
    both(IPPROTO_IP, libc::IP_RECVTOS),
    both(IPPROTO_IP, libc::IP_RECVERR),
    both(IPPROTO_IP, libc::IP_MTU_DISCOVER),
    both(IPPROTO_IP, libc::IP_FREEBIND),
    both(IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    both(IPPROTO_IP, libc::IP_MULTICAST_TTL),
    both(IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    both(IPPROTO_IP, libc::IP_MULTICAST_IF),
    both(IPPROTO_IP, libc::IP_MULTICAST_ALL),
    both(IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    both(IPPROTO_IP, libc::MCAST_JOIN_GROUP),
    both(IPPROTO_IP, libc::MCAST_LEAVE_GROUP),
    both(IPPROTO_IP, libc::MCAST_BLOCK_SOURCE),
    both(IPPROTO_IP, libc::MCAST_UNBLOCK_SOURCE),
    both(IPPROTO_IP, libc::MCAST_JOIN_SOURCE_GROUP),
    both(IPPROTO_IP, libc::MCAST_LEAVE_SOURCE_GROUP),
    read(IPPROTO_IP, libc::IP_MTU),
    both(IPPROTO_IPV6, IPV6_V6ONLY),
    both(IPPROTO_IPV6, IPV6_UNICAST_HOPS),
    both(IPPROTO_IPV6, IPV6_TCLASS),
    both(IPPROTO_IPV6, IPV6_RECVPKTINFO),
    both(IPPROTO_IPV6, IPV6_RECVHOPLIMIT),
    both(IPPROTO_IPV6, IPV6_RECVTCLASS),
    both(IPPROTO_IPV6, IPV6_RECVERR),
    both(IPPROTO_IPV6, IPV6_MTU_DISCOVER),
    both(IPPROTO_IPV6, IPV6_MULTICAST_HOPS),
    both(IPPROTO_IPV6, IPV6_MULTICAST_LOOP),
    both(IPPROTO_IPV6, IPV6_MULTICAST_IF),
    both(IPPROTO_IPV6, IPV6_MULTICAST_ALL),
    both(IPPROTO_IPV6, IPV6_RECVORIGDSTADDR),
    both(IPPROTO_IPV6, libc::MCAST_JOIN_GROUP),
    both(IPPROTO_IPV6, libc::MCAST_LEAVE_GROUP),
    both(IPPROTO_IPV6, libc::MCAST_BLOCK_SOURCE),
    both(IPPROTO_IPV6, libc::MCAST_UNBLOCK_SOURCE),
    both(IPPROTO_IPV6, libc::MCAST_JOIN_SOURCE_GROUP),
    both(IPPROTO_IPV6, libc::MCAST_LEAVE_SOURCE_GROUP),
    read(IPPROTO_IPV6, IPV6_MTU),
];

/// What may be done with that option, if anything.
pub fn access(option: OptionName) -> Option<Access> {
    let known = OPTIONS.iter().find(|(known, _)| *known == option);
    known.map(|(_, access)| *access)
}
