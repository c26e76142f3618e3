//! udp(7) over loopback: datagrams, errors that come back, control data, multicast and broadcast;
//! icmp(7) echo sockets.

use crate::case::*;
use crate::inet::*;
use std::net::Ipv6Addr;

pub static CASES: &[Case] = &[
    Case::new(
        "udp.datagrams",
        "udp(7)",
        "datagrams keep boundaries and tell their sender; the rest is cut off",
        || {
            let (a, from) = udp_bound()?;
            let (b, to) = udp_bound()?;
            eq("send", send_to(a, b"hello", to), 5)?;
            eq("send", send_to(a, b"", to), 0)?;
            eq("send", send_to(a, b"two", to), 3)?;
            let mut buf = [0u8; 16];
            let at = buf.as_mut_ptr().cast();
            let mut sender = zeroed::<sockaddr_in>();
            let mut len = 16;
            gives!(
                5,
                recvfrom(b, at, 16, 0, (&raw mut sender).cast(), &mut len)
            );
            eq("length", len, 16)?;
            eq("sender", u16::from_be(sender.sin_port), from.port())?;
            eq("empty", receive(b, 16, 0)?, vec![])?;
            gives!(3, recv(b, at, 2, MSG_TRUNC | MSG_PEEK));
            let cut = receive_message(b, 2, 0)?;
            eq("cut", cut.0.len(), 2)?;
            eq("MSG_TRUNC", cut.2, MSG_TRUNC)?;
            err!(EAGAIN, recv(b, at, 16, MSG_DONTWAIT));
            err!(EAGAIN, recv(b, at, 16, MSG_ERRQUEUE));
            Ok(())
        },
    ),
    Case::new(
        "udp.names",
        "udp(7)",
        "a port is picked by the first send; connect picks the address, disconnect drops both",
        || {
            let (_b, to) = udp_bound()?;
            let a = new_udp()?;
            eq("before", name_of(a)?.port(), 0)?;
            eq("send", send_to(a, b"x", to), 1)?;
            let port = name_of(a)?.port();
            ensure!(port != 0, "no port");
            eq("still any", name_of(a)?.ip(), "0.0.0.0".to_string())?;
            succeeded("connect", connect_to(a, to))?;
            eq("address", name_of(a)?.ip(), "127.0.0.1".to_string())?;
            eq("port", name_of(a)?.port(), port)?;
            eq("peer", peer_of(a)?.port(), to.port())?;
            succeeded("disconnect", connect_to(a, Address::unspecified()))?;
            eq("any again", name_of(a)?.ip(), "0.0.0.0".to_string())?;
            let mut len = 16;
            let mut addr = zeroed::<sockaddr_in>();
            err!(ENOTCONN, getpeername(a, (&raw mut addr).cast(), &mut len));
            Ok(())
        },
    ),
    Case::new(
        "udp.send_errors",
        "udp(7)",
        "EDESTADDRREQ, EMSGSIZE, EINVAL, EAFNOSUPPORT, EFAULT",
        || {
            let (a, to) = udp_bound()?;
            failed_with("send", send_text(a, b"x", 0), &[EDESTADDRREQ])?;
            failed_with("send", send_to(a, &[0; 65508], to), &[EMSGSIZE])?;
            eq("send", send_to(a, &[0; 65507], to), 65507)?;
            failed_with("port 0", send_to(a, b"x", Address::local(0)), &[EINVAL])?;
            let mut short = to;
            short.len = 8;
            failed_with("short", send_to(a, b"x", short), &[EINVAL])?;
            let six = Address::v6(Ipv6Addr::LOCALHOST, 9);
            failed_with("family", send_to(a, b"x", six), &[EAFNOSUPPORT])?;
            succeeded("connect", connect_to(a, to))?;
            err!(EFAULT, send(a, bad_ptr(), 4, 0));
            Ok(())
        },
    ),
    Case::new(
        "udp.refused",
        "udp(7)",
        "a connected socket hears that nobody is there: ECONNREFUSED once",
        || {
            let (gone, to) = udp_bound()?;
            ok!(close(gone));
            let a = new_udp()?;
            eq("unconnected", send_to(a, b"x", to), 1)?;
            eq("unconnected", send_to(a, b"x", to), 1)?;
            succeeded("connect", connect_to(a, to))?;
            eq("first", send_text(a, b"x", 0), 1)?;
            eq("poll", poll_for(a, POLLIN)? & POLLERR, POLLERR)?;
            failed_with("second", send_text(a, b"x", 0), &[ECONNREFUSED])?;
            eq("third", send_text(a, b"x", 0), 1)?;
            poll_for(a, POLLIN)?;
            let mut byte = 0u8;
            err!(ECONNREFUSED, recv(a, (&raw mut byte).cast(), 1, 0));
            err!(EAGAIN, recv(a, (&raw mut byte).cast(), 1, MSG_DONTWAIT));
            eq("SO_ERROR", socket_error(a)?, 0)
        },
    ),
    Case::new(
        "udp.connected_filters",
        "udp(7)",
        "a connected socket hears its peer only",
        || {
            let (a, to) = udp_bound()?;
            let (peer, from) = udp_bound()?;
            let (stranger, _) = udp_bound()?;
            succeeded("connect", connect_to(a, from))?;
            eq("stranger", send_to(stranger, b"no", to), 2)?;
            eq("peer", send_to(peer, b"yes", to), 3)?;
            eq("heard", receive(a, 9, 0)?, b"yes".to_vec())?;
            let mut byte = 0u8;
            err!(EAGAIN, recv(a, (&raw mut byte).cast(), 1, MSG_DONTWAIT));
            Ok(())
        },
    ),
    Case::new(
        "udp.full",
        "socket(7)",
        "what does not fit into the receive buffer is lost, and the sender does not wait",
        || {
            let (a, _) = udp_bound()?;
            let (b, to) = udp_bound()?;
            succeeded("SO_RCVBUF", set_int(b, SOL_SOCKET, SO_RCVBUF, 8192))?;
            for _ in 0..100 {
                eq("send", send_to(a, &[1; 1000], to), 1000)?;
            }
            let mut got = 0;
            let mut buf = [0u8; 2000];
            while raw!(recv(b, buf.as_mut_ptr().cast(), 2000, MSG_DONTWAIT)) > 0 {
                got += 1;
            }
            ensure!((1..60).contains(&got), "{got} of 100 arrived");
            Ok(())
        },
    ),
    Case::new(
        "udp.shutdown",
        "shutdown(2)",
        "ENOTCONN without a peer; EPIPE after SHUT_WR; readiness",
        || {
            let (a, to) = udp_bound()?;
            let all = POLLIN | POLLOUT | POLLRDHUP;
            eq("fresh", poll_now(a, all)?, POLLOUT)?;
            succeeded("connect", connect_to(a, to))?;
            ok!(shutdown(a, SHUT_WR));
            failed_with("send", send_text(a, b"x", MSG_NOSIGNAL), &[EPIPE])?;
            ok!(shutdown(a, SHUT_RD));
            eq("poll", poll_now(a, all)?, all | POLLHUP)?;
            eq("read", read_some(a, 9)?.len(), 0)?;
            err!(ENOTCONN, shutdown(new_udp()?, SHUT_RDWR));
            Ok(())
        },
    ),
    Case::new(
        "udp.control_data",
        "ip(7)",
        "IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, SO_TIMESTAMP come along",
        || {
            let (a, _) = udp_bound()?;
            let (b, to) = udp_bound()?;
            for name in [IP_PKTINFO, IP_RECVTTL, IP_RECVTOS] {
                set_on(b, IPPROTO_IP, name)?;
            }
            set_on(b, SOL_SOCKET, SO_TIMESTAMP)?;
            succeeded("IP_TTL", set_int(a, IPPROTO_IP, IP_TTL, 9))?;
            succeeded("IP_TOS", set_int(a, IPPROTO_IP, IP_TOS, 0x10))?;
            eq("send", send_to(a, b"x", to), 1)?;
            let got = receive_message(b, 9, 0)?;
            let info = control_of(&got, IPPROTO_IP, IP_PKTINFO)?;
            eq("pktinfo", info.len(), 12)?;
            eq("address", info[8..].to_vec(), vec![127, 0, 0, 1])?;
            let ttl = control_of(&got, IPPROTO_IP, IP_TTL)?;
            eq("ttl", ttl, 9i32.to_ne_bytes().to_vec())?;
            eq("tos", control_of(&got, IPPROTO_IP, IP_TOS)?, vec![0x10])?;
            let time = control_of(&got, SOL_SOCKET, SO_TIMESTAMP)?;
            let sec = i64::from_ne_bytes(time[..8].try_into().unwrap_or_default());
            let now = ns(now(CLOCK_REALTIME)?) / 1_000_000_000;
            ensure!((now as i64 - sec).abs() < 60, "stamped {sec} at {now}");
            Ok(())
        },
    ),
    Case::new(
        "udp.v6",
        "ipv6(7)",
        "dual-stack datagrams, IPV6_RECVPKTINFO and hop limit",
        || {
            let b = raw!(socket(AF_INET6, SOCK_DGRAM, 0));
            if b == -1 {
                skip!("no IPv6");
            }
            succeeded("bind", bind_to(b, Address::v6(Ipv6Addr::UNSPECIFIED, 0)))?;
            let port = name_of(b)?.port();
            set_on(b, IPPROTO_IPV6, IPV6_RECVPKTINFO)?;
            set_on(b, IPPROTO_IPV6, IPV6_RECVHOPLIMIT)?;
            let four = new_udp()?;
            eq("send", send_to(four, b"4", Address::local(port)), 1)?;
            let got = receive_message(b, 9, 0)?;
            let info = control_of(&got, IPPROTO_IPV6, IPV6_PKTINFO)?;
            eq(
                "mapped",
                info[10..16].to_vec(),
                vec![255, 255, 127, 0, 0, 1],
            )?;
            let six = ok!(socket(AF_INET6, SOCK_DGRAM, 0));
            let to = Address::v6(Ipv6Addr::LOCALHOST, port);
            eq("send", send_to(six, b"6", to), 1)?;
            let got = receive_message(b, 9, 0)?;
            let info = control_of(&got, IPPROTO_IPV6, IPV6_PKTINFO)?;
            eq("address", info[15], 1)?;
            let hops = control_of(&got, IPPROTO_IPV6, IPV6_HOPLIMIT)?;
            eq("hops", hops, 64i32.to_ne_bytes().to_vec())
        },
    ),
    Case::new(
        "udp.many",
        "sendmmsg(2)",
        "sendmmsg and recvmmsg carry several datagrams",
        || {
            let (a, _) = udp_bound()?;
            let (b, to) = udp_bound()?;
            succeeded("connect", connect_to(a, to))?;
            let mut texts = [*b"one", *b"two"];
            let vector = |texts: &mut [[u8; 3]; 2]| {
                let iov = texts.each_mut().map(|t| iovec {
                    iov_base: t.as_mut_ptr().cast(),
                    iov_len: 3,
                });
                Box::leak(Box::new(iov)).each_mut().map(|iov| {
                    let mut m = zeroed::<mmsghdr>();
                    m.msg_hdr.msg_iov = iov;
                    m.msg_hdr.msg_iovlen = 1;
                    m
                })
            };
            let mut sent = vector(&mut texts);
            gives!(2, sendmmsg(a, sent.as_mut_ptr(), 2, 0));
            eq("length", sent[1].msg_len, 3)?;
            let mut into = [[0u8; 3]; 2];
            let mut got = vector(&mut into);
            let no_time = std::ptr::null_mut();
            gives!(2, recvmmsg(b, got.as_mut_ptr(), 2, 0, no_time));
            eq("texts", into, [*b"one", *b"two"])
        },
    ),
    Case::new(
        "udp.multicast",
        "ip(7)",
        "members of a group on loopback hear it; IP_MULTICAST_LOOP 0 keeps it off",
        || {
            let b = new_udp()?;
            set_on(b, SOL_SOCKET, SO_REUSEADDR)?;
            succeeded("bind", bind_to(b, Address::v4([0, 0, 0, 0], 0)))?;
            let port = name_of(b)?.port();
            let request = [239u8, 7, 7, 7, 127, 0, 0, 1];
            let at = request.as_ptr().cast();
            ok!(setsockopt(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, at, 8));
            err!(
                EADDRINUSE,
                setsockopt(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, at, 8)
            );
            let a = new_udp()?;
            let through = [127u8, 0, 0, 1];
            ok!(setsockopt(
                a,
                IPPROTO_IP,
                IP_MULTICAST_IF,
                through.as_ptr().cast(),
                4
            ));
            let to = Address::v4([239, 7, 7, 7], port);
            eq("send", send_to(a, b"all", to), 3)?;
            eq("heard", receive(b, 9, 0)?, b"all".to_vec())?;
            ok!(setsockopt(b, IPPROTO_IP, IP_DROP_MEMBERSHIP, at, 8));
            err!(
                EADDRNOTAVAIL,
                setsockopt(b, IPPROTO_IP, IP_DROP_MEMBERSHIP, at, 8)
            );
            Ok(())
        },
    ),
    Case::new(
        "udp.broadcast",
        "socket(7)",
        "sending to the broadcast address needs SO_BROADCAST",
        || {
            let a = new_udp()?;
            let to = Address::v4([255, 255, 255, 255], 9);
            failed_with("send", send_to(a, b"x", to), &[EACCES, ENETUNREACH])
        },
    ),
    Case::new(
        "icmp.echo",
        "icmp(7)",
        "an echo request to loopback is answered with the same data",
        || {
            let fd = raw!(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
            if fd == -1 && errno() == EACCES {
                skip!("net.ipv4.ping_group_range does not allow it");
            }
            succeeded("socket", fd)?;
            let request = [8u8, 0, 0, 0, 0, 0, 0, 7, b'p', b'i', b'n', b'g'];
            let to = Address::local(0);
            failed_with("short", send_to(fd, &request[..4], to), &[EINVAL])?;
            eq("send", send_to(fd, &request, to), 12)?;
            let reply = receive(fd, 64, 0)?;
            eq("type", reply[0], 0)?;
            eq("data", reply[6..].to_vec(), request[6..].to_vec())?;
            let id = u16::from_be_bytes([reply[4], reply[5]]);
            eq("identifier", id, name_of(fd)?.port())?;
            let wrong = [13u8, 0, 0, 0, 0, 0, 0, 7];
            failed_with("no echo", send_to(fd, &wrong, to), &[EINVAL])
        },
    ),
];
