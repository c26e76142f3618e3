//! udp(7), ip(7), ipv6(7) over loopback: error queues, control data of the sender's, stamps, datagrams
//! put together and cut, multicast.

use crate::case::*;
use crate::inet::*;
use std::net::Ipv6Addr;

const LO: u32 = 1;
const IPV6_RECVORIGDSTADDR: c_int = 74;

/// An address where nobody is.
fn nobody() -> Outcome<Address> {
    let (gone, to) = udp_bound()?;
    ok!(close(gone));
    Ok(to)
}

fn in_pktinfo(index: u32, source: [u8; 4]) -> Vec<u8> {
    [index.to_ne_bytes(), source, [0; 4]].concat()
}

/// struct ip_mreq on loopback.
fn request(group: [u8; 4]) -> Vec<u8> {
    [group, [127, 0, 0, 1]].concat()
}

/// struct ip_mreq_source on loopback.
fn source_request(group: [u8; 4], source: [u8; 4]) -> Vec<u8> {
    [group, [127, 0, 0, 1], source].concat()
}

/// struct group_req; with a source struct group_source_req.
fn group_request(index: u32, addresses: &[[u8; 4]]) -> Vec<u8> {
    let mut value = index.to_ne_bytes().to_vec();
    value.resize(8, 0);
    for ip in addresses {
        let start = value.len();
        value.extend((AF_INET as u16).to_ne_bytes());
        value.extend([0; 2]);
        value.extend(ip);
        value.resize(start + 128, 0);
    }
    value
}

/// One that sends to groups over loopback.
fn to_groups() -> Outcome<c_int> {
    let a = new_udp()?;
    let through = [127u8, 0, 0, 1];
    succeeded(
        "IP_MULTICAST_IF",
        set_bytes(a, IPPROTO_IP, IP_MULTICAST_IF, &through),
    )?;
    Ok(a)
}

/// One on all addresses, and its port.
fn everywhere() -> Outcome<(c_int, u16)> {
    let b = new_udp()?;
    succeeded("bind", bind_to(b, Address::v4([0, 0, 0, 0], 0)))?;
    Ok((b, name_of(b)?.port()))
}

fn hears(fd: c_int) -> Outcome<bool> {
    let mut byte = 0u8;
    match raw!(recv(fd, (&raw mut byte).cast(), 1, MSG_DONTWAIT)) {
        -1 if errno() == EAGAIN => Ok(false),
        n => succeeded("recv", n).map(|_| true),
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "udp.error_queue",
        "ip(7)",
        "IP_RECVERR: MSG_ERRQUEUE tells what was sent, where to, and why it did not arrive",
        || {
            let to = nobody()?;
            let a = new_udp()?;
            set_on(a, IPPROTO_IP, IP_RECVERR)?;
            eq("send", send_to(a, b"hello", to), 5)?;
            eq("poll", poll_for(a, POLLIN | POLLPRI)?, POLLERR)?;
            let got = receive_message(a, 100, MSG_ERRQUEUE)?;
            eq("quoted", got.0.clone(), b"hello".to_vec())?;
            eq("flags", got.2, MSG_ERRQUEUE)?;
            eq("went to", got.3.port(), to.port())?;
            let error = control_of(&got, IPPROTO_IP, IP_RECVERR)?;
            let mut wanted = ECONNREFUSED.to_ne_bytes().to_vec();
            // From ICMP, port unreachable; then the one who said so.
            wanted.extend([2, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            wanted.extend((AF_INET as u16).to_ne_bytes());
            wanted.extend([0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
            eq("error", error, wanted)?;
            eq("poll", poll_now(a, POLLIN)?, 0)?;
            eq("SO_ERROR", socket_error(a)?, 0)?;
            let mut byte = 0u8;
            err!(EAGAIN, recv(a, (&raw mut byte).cast(), 1, MSG_ERRQUEUE));
            Ok(())
        },
    ),
    Case::new(
        "udp.error_queue_order",
        "ip(7)",
        "the queue outlives the socket's error, which becomes that of the next; MSG_PEEK takes, too",
        || {
            let to = nobody()?;
            let a = new_udp()?;
            set_on(a, IPPROTO_IP, IP_RECVERR)?;
            eq("send", send_to(a, &[7; 2000], to), 2000)?;
            eq("poll", poll_for(a, POLLERR)?, POLLERR)?;
            failed_with("told first", send_to(a, b"2", to), &[ECONNREFUSED])?;
            eq("send", send_to(a, b"3", to), 1)?;
            let cut = receive_message(a, 10, MSG_ERRQUEUE | MSG_PEEK)?;
            eq("cut", (cut.0.len(), cut.2), (10, MSG_ERRQUEUE | MSG_TRUNC))?;
            eq("the next one's", socket_error(a)?, ECONNREFUSED)?;
            let next = receive_message(a, 10, MSG_ERRQUEUE)?;
            eq("next", next.0, b"3".to_vec())?;
            eq("none left", socket_error(a)?, 0)?;
            eq("send", send_to(a, &[7; 2000], to), 2000)?;
            let whole = receive_message(a, 3000, MSG_ERRQUEUE)?;
            eq("as much as ICMP quotes", whole.0.len(), 520)?;
            eq("send", send_to(a, b"x", to), 1)?;
            succeeded("off", set_int(a, IPPROTO_IP, IP_RECVERR, 0))?;
            let mut byte = 0u8;
            err!(EAGAIN, recv(a, (&raw mut byte).cast(), 1, MSG_ERRQUEUE));
            eq("the error stays", socket_error(a)?, ECONNREFUSED)
        },
    ),
    Case::new(
        "udp.error_queue_whose",
        "ip(7)",
        "a connected socket hears of its own peer only; SO_SELECT_ERR_QUEUE adds POLLPRI",
        || {
            let to = nobody()?;
            let (_peer, at) = udp_bound()?;
            let a = new_udp()?;
            set_on(a, IPPROTO_IP, IP_RECVERR)?;
            succeeded("connect", connect_to(a, at))?;
            eq("elsewhere", send_to(a, b"x", to), 1)?;
            eq("poll", poll_now(a, POLLIN)?, 0)?;
            let b = new_udp()?;
            set_on(b, IPPROTO_IP, IP_RECVERR)?;
            set_on(b, SOL_SOCKET, SO_SELECT_ERR_QUEUE)?;
            set_on(b, IPPROTO_IP, IP_RECVTTL)?;
            eq("send", send_to(b, b"x", to), 1)?;
            eq("poll", poll_for(b, POLLPRI)?, POLLERR | POLLPRI)?;
            let got = receive_message(b, 9, MSG_ERRQUEUE)?;
            let ttl = control_of(&got, IPPROTO_IP, IP_TTL)?;
            eq("of the complaint", ttl, 64i32.to_ne_bytes().to_vec())
        },
    ),
    Case::new(
        "udp.error_queue_v6",
        "ipv6(7)",
        "IPV6_RECVERR tells of ICMPv6, and on a dual-stack socket IP_RECVERR of ICMP",
        || {
            let gone = raw!(socket(AF_INET6, SOCK_DGRAM, 0));
            if gone == -1 || bind_to(gone, Address::v6(Ipv6Addr::LOCALHOST, 0)) == -1 {
                skip!("no IPv6");
            }
            let to = name_of(gone)?;
            ok!(close(gone));
            let a = ok!(socket(AF_INET6, SOCK_DGRAM, 0));
            set_on(a, IPPROTO_IPV6, IPV6_RECVERR)?;
            eq("send", send_to(a, &[1; 3000], to), 3000)?;
            let got = receive_message(a, 3000, MSG_ERRQUEUE)?;
            eq("quoted", got.0.len(), 1184)?;
            eq("went to", got.3.ip(), "::1".to_string())?;
            let error = control_of(&got, IPPROTO_IPV6, IPV6_RECVERR)?;
            eq("length", error.len(), 44)?;
            eq(
                "ICMPv6, port unreachable",
                error[4..8].to_vec(),
                vec![3, 1, 4, 0],
            )?;
            let four = nobody()?;
            let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1);
            let to = Address::v6(mapped, four.port());
            eq("send", send_to(a, b"x", to), 1)?;
            eq("not asked", poll_now(a, POLLIN)?, 0)?;
            set_on(a, IPPROTO_IP, IP_RECVERR)?;
            eq("send", send_to(a, b"x", to), 1)?;
            let got = receive_message(a, 9, MSG_ERRQUEUE)?;
            let error = control_of(&got, IPPROTO_IPV6, IPV6_RECVERR)?;
            eq("ICMP", error[4..8].to_vec(), vec![2, 3, 3, 0])?;
            eq(
                "said by",
                error[34..40].to_vec(),
                vec![255, 255, 127, 0, 0, 1],
            )
        },
    ),
    Case::new(
        "udp.source_by_pktinfo",
        "ip(7)",
        "IP_PKTINFO and IPV6_PKTINFO choose the sender's address; those of others do not do",
        || {
            let (b, to) = udp_bound()?;
            set_on(b, IPPROTO_IP, IP_RECVORIGDSTADDR)?;
            let a = new_udp()?;
            let kind = (IPPROTO_IP, IP_PKTINFO);
            let from = in_pktinfo(0, [127, 0, 0, 9]);
            eq("send", send_with(a, b"x", to, kind, &from), 1)?;
            let got = receive_message(b, 9, 0)?;
            eq("sender", got.3.ip(), "127.0.0.9".to_string())?;
            let name = control_of(&got, IPPROTO_IP, IP_ORIGDSTADDR)?;
            eq("IP_ORIGDSTADDR", name[2..8].to_vec(), {
                let port = to.port().to_be_bytes();
                vec![port[0], port[1], 127, 0, 0, 1]
            })?;
            let by_link = in_pktinfo(LO, [0; 4]);
            eq("send", send_with(a, b"y", to, kind, &by_link), 1)?;
            receive(b, 9, 0)?;
            let send = |value: &[u8]| send_with(a, b"x", to, kind, value);
            failed_with("no interface", send(&in_pktinfo(9999, [0; 4])), &[ENODEV])?;
            let foreign = send(&in_pktinfo(0, [192, 0, 2, 1]));
            failed_with("foreign", foreign, &[ENETUNREACH, EINVAL])?;
            failed_with("a group", send(&in_pktinfo(0, [239, 1, 1, 1])), &[EINVAL])?;
            failed_with("short", send(&[0; 4]), &[EINVAL])?;
            let c = raw!(socket(AF_INET6, SOCK_DGRAM, 0));
            if c == -1 || bind_to(c, Address::v6(Ipv6Addr::LOCALHOST, 0)) == -1 {
                return Ok(());
            }
            let to = name_of(c)?;
            set_on(c, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR)?;
            let d = ok!(socket(AF_INET6, SOCK_DGRAM, 0));
            let kind = (IPPROTO_IPV6, IPV6_PKTINFO);
            let info = |ip: Ipv6Addr, index: u32| [&ip.octets()[..], &index.to_ne_bytes()].concat();
            let own = info(Ipv6Addr::LOCALHOST, LO);
            eq("send", send_with(d, b"x", to, kind, &own), 1)?;
            let got = receive_message(c, 9, 0)?;
            let name = control_of(&got, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR)?;
            eq("IPV6_ORIGDSTADDR", name.len(), 28)?;
            let foreign = info(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 0);
            failed_with("foreign", send_with(d, b"x", to, kind, &foreign), &[EINVAL])?;
            let nowhere = info(Ipv6Addr::UNSPECIFIED, 9999);
            failed_with(
                "no interface",
                send_with(d, b"x", to, kind, &nowhere),
                &[ENODEV],
            )
        },
    ),
    Case::new(
        "udp.header_by_control",
        "ip(7)",
        "IP_TTL and IP_TOS for one datagram, within bounds; other levels are not looked at",
        || {
            let (b, to) = udp_bound()?;
            set_on(b, IPPROTO_IP, IP_RECVTTL)?;
            set_on(b, IPPROTO_IP, IP_RECVTOS)?;
            let a = new_udp()?;
            let send = |kind, data: &[u8]| send_with(a, b"x", to, kind, data);
            let (ttl, tos) = ((IPPROTO_IP, IP_TTL), (IPPROTO_IP, IP_TOS));
            eq("ttl", send(ttl, &9i32.to_ne_bytes()), 1)?;
            let got = receive_message(b, 9, 0)?;
            let told = control_of(&got, IPPROTO_IP, IP_TTL)?;
            eq("ttl", told, 9i32.to_ne_bytes().to_vec())?;
            eq("tos", send(tos, &[0x20]), 1)?;
            let got = receive_message(b, 9, 0)?;
            eq("tos", control_of(&got, IPPROTO_IP, IP_TOS)?, vec![0x20])?;
            let told = control_of(&got, IPPROTO_IP, IP_TTL)?;
            eq("ttl as ever", told, 64i32.to_ne_bytes().to_vec())?;
            for (what, kind, data) in [
                ("a byte", ttl, &[9u8][..]),
                ("no ttl", ttl, &0i32.to_ne_bytes()),
                ("much ttl", ttl, &256i32.to_ne_bytes()),
                ("much tos", tos, &256i32.to_ne_bytes()),
                ("odd tos", tos, &[1, 2, 3]),
                ("unknown", (IPPROTO_IP, 77), &[0; 4]),
                ("unknown of the socket", (SOL_SOCKET, 99), &[0; 4]),
            ] {
                failed_with(what, send(kind, data), &[EINVAL])?;
            }
            eq("another level", send((IPPROTO_TCP, 1), &[0; 4]), 1)
        },
    ),
    Case::new(
        "udp.stamps",
        "socket(7)",
        "SO_TIMESTAMPING in software; SO_TIMESTAMP and SO_TIMESTAMPNS exclude each other",
        || {
            let (b, to) = udp_bound()?;
            let a = new_udp()?;
            let software = (SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE) as c_int;
            succeeded("set", set_int(b, SOL_SOCKET, SO_TIMESTAMPING, software))?;
            failed_with(
                "unknown",
                set_int(b, SOL_SOCKET, SO_TIMESTAMPING, 1 << 30),
                &[EINVAL],
            )?;
            eq("told", get_int(b, SOL_SOCKET, SO_TIMESTAMPING)?, software)?;
            set_on(b, SOL_SOCKET, SO_TIMESTAMPNS)?;
            // The host begins to stamp a moment after it was asked to.
            let got = loop {
                eq("send", send_to(a, b"x", to), 1)?;
                let got = receive_message(b, 9, 0)?;
                if control_of(&got, SOL_SOCKET, SO_TIMESTAMPING).is_ok() {
                    break got;
                }
            };
            let stamps = control_of(&got, SOL_SOCKET, SO_TIMESTAMPING)?;
            eq("three, of which one is there", stamps.len(), 48)?;
            eq("no hardware", stamps[16..].to_vec(), vec![0; 32])?;
            let stamp = control_of(&got, SOL_SOCKET, SO_TIMESTAMPNS)?;
            eq("the same", stamps[..16].to_vec(), stamp)?;
            set_on(b, SOL_SOCKET, SO_TIMESTAMP)?;
            eq("off", get_int(b, SOL_SOCKET, SO_TIMESTAMPNS)?, 0)
        },
    ),
    Case::new(
        "udp.lost",
        "socket(7)",
        "SO_RXQ_OVFL tells with the next datagram how many found no room",
        || {
            let (b, to) = udp_bound()?;
            set_on(b, SOL_SOCKET, SO_RXQ_OVFL)?;
            succeeded("SO_RCVBUF", set_int(b, SOL_SOCKET, SO_RCVBUF, 2304))?;
            let a = new_udp()?;
            for _ in 0..50 {
                eq("send", send_to(a, &[0; 500], to), 500)?;
            }
            let mut heard = 0u32;
            while hears(b)? {
                heard += 1;
            }
            ensure!((1..50).contains(&heard), "{heard} of 50");
            eq("send", send_to(a, b"x", to), 1)?;
            let got = receive_message(b, 9, 0)?;
            let lost = control_of(&got, SOL_SOCKET, SO_RXQ_OVFL)?;
            eq("lost", lost, (50 - heard).to_ne_bytes().to_vec())
        },
    ),
    Case::new(
        "udp.cork",
        "udp(7)",
        "MSG_MORE and UDP_CORK gather one datagram, to where the first part went",
        || {
            let (b, to) = udp_bound()?;
            let (c, elsewhere) = udp_bound()?;
            let a = new_udp()?;
            succeeded("connect", connect_to(a, to))?;
            eq("more", send_text(a, b"one ", MSG_MORE), 4)?;
            eq("nothing yet", hears(b)?, false)?;
            eq("rest", send_to(a, b"two", elsewhere), 3)?;
            eq("whole", receive(b, 99, 0)?, b"one two".to_vec())?;
            eq("nothing there", hears(c)?, false)?;
            set_on(a, IPPROTO_UDP, UDP_CORK)?;
            eq("held", send_text(a, b"1", 0), 1)?;
            eq("held", send_text(a, b"2", 0), 1)?;
            eq("nothing yet", hears(b)?, false)?;
            succeeded("uncork", set_int(a, IPPROTO_UDP, UDP_CORK, 0))?;
            eq("whole", receive(b, 99, 0)?, b"12".to_vec())?;
            eq("more", send_text(a, &[0; 65000], MSG_MORE), 65000)?;
            failed_with("too much", send_text(a, &[0; 1000], 0), &[EMSGSIZE])?;
            eq("all of it is gone", send_text(a, b"x", 0), 1)?;
            eq("alone", receive(b, 99, 0)?, b"x".to_vec())
        },
    ),
    Case::new(
        "udp.segment",
        "udp(7)",
        "UDP_SEGMENT makes several datagrams of one send; UDP_GRO takes them together again",
        || {
            let (b, to) = udp_bound()?;
            let a = new_udp()?;
            let kind = (IPPROTO_UDP, UDP_SEGMENT);
            let three = 3u16.to_ne_bytes();
            let sent = send_with(a, b"abcdefgh", to, kind, &three);
            if sent == -1 && errno() == EIO {
                skip!("loopback has no checksum offload");
            }
            eq("send", sent, 8)?;
            for part in ["abc", "def", "gh"] {
                eq("part", receive(b, 99, 0)?, part.as_bytes().to_vec())?;
            }
            succeeded("option", set_int(a, IPPROTO_UDP, UDP_SEGMENT, 4))?;
            eq("told", get_int(a, IPPROTO_UDP, UDP_SEGMENT)?, 4)?;
            eq("send", send_to(a, b"abcdefgh", to), 8)?;
            eq("first", receive(b, 99, 0)?, b"abcd".to_vec())?;
            eq("second", receive(b, 99, 0)?, b"efgh".to_vec())?;
            failed_with(
                "too many",
                send_with(a, &[0; 2000], to, kind, &1u16.to_ne_bytes()),
                &[EINVAL],
            )?;
            failed_with("short", send_with(a, b"x", to, kind, &[1]), &[EINVAL])?;
            failed_with(
                "range",
                set_int(a, IPPROTO_UDP, UDP_SEGMENT, 65536),
                &[EINVAL],
            )?;
            set_on(b, IPPROTO_UDP, UDP_GRO)?;
            eq("send", send_with(a, b"abcdefgh", to, kind, &three), 8)?;
            let got = receive_message(b, 99, 0)?;
            eq("together", got.0.clone(), b"abcdefgh".to_vec())?;
            let size = control_of(&got, IPPROTO_UDP, UDP_GRO)?;
            eq("of three bytes each", size, 3i32.to_ne_bytes().to_vec())
        },
    ),
    Case::new(
        "multicast.memberships",
        "ip(7)",
        "joining and leaving groups by every name, and what is refused",
        || {
            let (b, _) = everywhere()?;
            let set = |name, value: &[u8]| set_bytes(b, IPPROTO_IP, name, value);
            let (join, leave) = (IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP);
            let group = request([239, 7, 7, 7]);
            succeeded("join", set(join, &group))?;
            failed_with("twice", set(join, &group), &[EADDRINUSE])?;
            failed_with("no group", set(join, &request([10, 1, 1, 1])), &[EINVAL])?;
            let foreign = [239, 7, 7, 7, 192, 0, 2, 1];
            failed_with("foreign", set(join, &foreign), &[ENODEV])?;
            failed_with("foreign", set(leave, &foreign), &[EADDRNOTAVAIL])?;
            failed_with("short", set(join, &group[..4]), &[EINVAL])?;
            succeeded("leave", set(leave, &group))?;
            failed_with("twice", set(leave, &group), &[EADDRNOTAVAIL])?;
            let group = group_request(LO, &[[239, 3, 3, 3]]);
            succeeded("MCAST_JOIN_GROUP", set(MCAST_JOIN_GROUP, &group))?;
            failed_with("twice", set(MCAST_JOIN_GROUP, &group), &[EADDRINUSE])?;
            let nowhere = group_request(9999, &[[239, 3, 3, 3]]);
            failed_with("nowhere", set(MCAST_JOIN_GROUP, &nowhere), &[ENODEV])?;
            failed_with(
                "nowhere",
                set(MCAST_LEAVE_GROUP, &nowhere),
                &[EADDRNOTAVAIL],
            )?;
            failed_with("short", set(MCAST_JOIN_GROUP, &group[..20]), &[EINVAL])?;
            let mut other = group.clone();
            other[8] = AF_INET6 as u8;
            failed_with("family", set(MCAST_JOIN_GROUP, &other), &[EINVAL])?;
            succeeded("MCAST_LEAVE_GROUP", set(MCAST_LEAVE_GROUP, &group))?;
            failed_with("twice", set(MCAST_LEAVE_GROUP, &group), &[EADDRNOTAVAIL])?;
            for i in 0..20 {
                succeeded("join", set(join, &request([239, 9, 9, i])))?;
            }
            failed_with("too many", set(join, &request([239, 9, 9, 20])), &[ENOBUFS])
        },
    ),
    Case::new(
        "multicast.sources",
        "ip(7)",
        "a membership hears all but some senders, or some only",
        || {
            let (b, port) = everywhere()?;
            let a = to_groups()?;
            let set = |name, group, source| {
                set_bytes(
                    b,
                    IPPROTO_IP,
                    name,
                    &source_request([239, 1, 1, group], source),
                )
            };
            let (one, two) = ([127, 0, 0, 1], [127, 0, 0, 2]);
            let from = |group, source| {
                let to = Address::v4([239, 1, 1, group], port);
                let sent = send_with(
                    a,
                    b"x",
                    to,
                    (IPPROTO_IP, IP_PKTINFO),
                    &in_pktinfo(LO, source),
                );
                eq("send", sent, 1)?;
                hears(b)
            };
            failed_with("not joined", set(IP_BLOCK_SOURCE, 1, one), &[EINVAL])?;
            succeeded("source", set(IP_ADD_SOURCE_MEMBERSHIP, 1, one))?;
            failed_with(
                "twice",
                set(IP_ADD_SOURCE_MEMBERSHIP, 1, one),
                &[EADDRNOTAVAIL],
            )?;
            failed_with("other sense", set(IP_BLOCK_SOURCE, 1, one), &[EINVAL])?;
            eq("heard", from(1, one)?, true)?;
            eq("not heard", from(1, two)?, false)?;
            let by_group = group_request(LO, &[[239, 1, 1, 1], two]);
            let joined = set_bytes(b, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &by_group);
            succeeded("MCAST_JOIN_SOURCE_GROUP", joined)?;
            eq("heard", from(1, two)?, true)?;
            failed_with(
                "unknown",
                set(IP_DROP_SOURCE_MEMBERSHIP, 1, [127, 0, 0, 9]),
                &[EADDRNOTAVAIL],
            )?;
            succeeded("drop", set(IP_DROP_SOURCE_MEMBERSHIP, 1, two))?;
            succeeded("drop", set(IP_DROP_SOURCE_MEMBERSHIP, 1, one))?;
            failed_with("left", set(IP_DROP_SOURCE_MEMBERSHIP, 1, one), &[EINVAL])?;
            let joined = set_bytes(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request([239, 1, 1, 2]));
            succeeded("join", joined)?;
            failed_with(
                "not blocked",
                set(IP_UNBLOCK_SOURCE, 2, one),
                &[EADDRNOTAVAIL],
            )?;
            succeeded("block", set(IP_BLOCK_SOURCE, 2, one))?;
            failed_with("twice", set(IP_BLOCK_SOURCE, 2, one), &[EADDRNOTAVAIL])?;
            eq("not heard", from(2, one)?, false)?;
            eq("heard", from(2, two)?, true)?;
            succeeded("unblock", set(IP_UNBLOCK_SOURCE, 2, one))?;
            eq("heard", from(2, one)?, true)
        },
    ),
    Case::new(
        "multicast.who_hears",
        "ip(7)",
        "IP_MULTICAST_ALL: groups that others joined; IP_MULTICAST_IF chooses the way",
        || {
            let (b, port) = everywhere()?;
            let (c, other) = everywhere()?;
            let a = to_groups()?;
            let join = set_bytes(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request([239, 7, 7, 7]));
            succeeded("join", join)?;
            eq(
                "send",
                send_to(a, b"x", Address::v4([239, 7, 7, 7], port)),
                1,
            )?;
            eq("a member", hears(b)?, true)?;
            let to = Address::v4([239, 7, 7, 7], other);
            eq("send", send_to(a, b"x", to), 1)?;
            eq("of others'", hears(c)?, true)?;
            succeeded("only mine", set_int(c, IPPROTO_IP, IP_MULTICAST_ALL, 0))?;
            eq("send", send_to(a, b"x", to), 1)?;
            eq("not a member", hears(c)?, false)?;
            eq(
                "send",
                send_to(a, b"x", Address::v4([239, 7, 7, 8], port)),
                1,
            )?;
            eq("nobody is in it", hears(b)?, false)?;
            let told = get_int(a, IPPROTO_IP, IP_MULTICAST_IF)?;
            eq("IP_MULTICAST_IF", told.to_ne_bytes(), [127, 0, 0, 1])?;
            let set = |value: &[u8]| set_bytes(a, IPPROTO_IP, IP_MULTICAST_IF, value);
            failed_with("foreign", set(&[192, 0, 2, 1]), &[EADDRNOTAVAIL])?;
            let by_index = |index: u32| [&[0; 8][..], &index.to_ne_bytes()].concat();
            failed_with("nowhere", set(&by_index(9999)), &[EADDRNOTAVAIL])?;
            failed_with("short", set(&[127, 0]), &[EINVAL])?;
            succeeded("by index", set(&by_index(LO)))?;
            // What is sent over loopback comes back whatever IP_MULTICAST_LOOP says.
            succeeded("no loop", set_int(a, IPPROTO_IP, IP_MULTICAST_LOOP, 0))?;
            eq(
                "send",
                send_to(a, b"x", Address::v4([239, 7, 7, 7], port)),
                1,
            )?;
            eq("a member", hears(b)?, true)?;
            let six = raw!(socket(AF_INET6, SOCK_DGRAM, 0));
            if six == -1 {
                return Ok(());
            }
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x77);
            let member = |index: u32| [&group.octets()[..], &index.to_ne_bytes()].concat();
            let set = |name, value: &[u8]| set_bytes(six, IPPROTO_IPV6, name, value);
            succeeded("IPV6_JOIN_GROUP", set(IPV6_ADD_MEMBERSHIP, &member(LO)))?;
            failed_with(
                "twice",
                set(IPV6_ADD_MEMBERSHIP, &member(LO)),
                &[EADDRINUSE],
            )?;
            failed_with(
                "nowhere",
                set(IPV6_ADD_MEMBERSHIP, &member(9999)),
                &[ENODEV],
            )?;
            succeeded("leave", set(IPV6_DROP_MEMBERSHIP, &member(LO)))?;
            failed_with(
                "twice",
                set(IPV6_DROP_MEMBERSHIP, &member(LO)),
                &[EADDRNOTAVAIL],
            )?;
            failed_with(
                "nowhere",
                set_int(six, IPPROTO_IPV6, IPV6_MULTICAST_IF, 9999),
                &[ENODEV],
            )
        },
    ),
    Case::new(
        "broadcast.loopback",
        "socket(7)",
        "the broadcast address of loopback is heard by all, once SO_BROADCAST is set",
        || {
            let (b, port) = everywhere()?;
            let a = new_udp()?;
            let to = Address::v4([127, 255, 255, 255], port);
            failed_with("send", send_to(a, b"x", to), &[EACCES])?;
            failed_with("connect", connect_to(a, to), &[EACCES])?;
            set_on(a, SOL_SOCKET, SO_BROADCAST)?;
            eq("send", send_to(a, b"x", to), 1)?;
            eq("heard", hears(b)?, true)
        },
    ),
];
