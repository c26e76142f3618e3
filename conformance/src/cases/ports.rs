//! Who may have which port: bind(2), SO_REUSEADDR, SO_REUSEPORT, TIME_WAIT; and the options of
//! internet sockets (socket(7), ip(7), tcp(7)).

use crate::case::*;
use crate::inet::*;

const ANY: [u8; 4] = [0, 0, 0, 0];

fn sized(fd: c_int, name: c_int, value: c_int) -> Outcome<c_int> {
    succeeded("setsockopt", set_int(fd, SOL_SOCKET, name, value))?;
    get_int(fd, SOL_SOCKET, name)
}

pub static CASES: &[Case] = &[
    Case::new(
        "ports.bind_errors",
        "bind(2)",
        "EINVAL twice, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EACCES",
        || {
            let (_server, taken) = tcp_listener(1)?;
            let fd = new_tcp()?;
            failed_with("taken", bind_to(fd, taken), &[EADDRINUSE])?;
            let any = Address::v4(ANY, taken.port());
            failed_with("taken by one", bind_to(fd, any), &[EADDRINUSE])?;
            let other = Address::v4([127, 0, 0, 2], taken.port());
            succeeded("another address", bind_to(fd, other))?;
            failed_with("again", bind_to(fd, Address::local(0)), &[EINVAL])?;
            let fd = new_tcp()?;
            let foreign = Address::v4([192, 0, 2, 1], 0);
            failed_with("foreign", bind_to(fd, foreign), &[EADDRNOTAVAIL])?;
            let six = Address::v6(std::net::Ipv6Addr::LOCALHOST, 0);
            failed_with("family", bind_to(fd, six), &[EAFNOSUPPORT])?;
            let mut short = Address::local(0);
            short.len = 15;
            failed_with("short", bind_to(fd, short), &[EINVAL])?;
            // UDP has ports of its own.
            succeeded("udp", bind_to(new_udp()?, taken))?;
            Ok(())
        },
    ),
    Case::new(
        "ports.privileged",
        "ip(7)",
        "ports below ip_unprivileged_port_start need CAP_NET_BIND_SERVICE",
        || {
            let start = slurp("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
            if start.trim() != "1024" || !is_root() {
                skip!("needs root and the usual ip_unprivileged_port_start");
            }
            let pid = child(|| {
                if raw!(setresuid(65534, 65534, 65534)) == -1 {
                    return 9;
                }
                let Ok(fd) = new_tcp() else { return 8 };
                let seen = bind_to(fd, Address::local(81));
                i32::from(seen == -1 && errno() == EACCES)
            })?;
            expect_exit(pid, 1)
        },
    ),
    Case::new(
        "ports.reuse_address",
        "socket(7)",
        "SO_REUSEADDR on both shares a port until one listens",
        || {
            let (a, b) = (new_tcp()?, new_tcp()?);
            set_on(a, SOL_SOCKET, SO_REUSEADDR)?;
            succeeded("bind", bind_to(a, Address::local(0)))?;
            let port = name_of(a)?;
            failed_with("only one", bind_to(b, port), &[EADDRINUSE])?;
            set_on(b, SOL_SOCKET, SO_REUSEADDR)?;
            succeeded("both", bind_to(b, port))?;
            ok!(listen(a, 1));
            err!(EADDRINUSE, listen(b, 1));
            let c = new_tcp()?;
            set_on(c, SOL_SOCKET, SO_REUSEADDR)?;
            failed_with("listening", bind_to(c, port), &[EADDRINUSE])
        },
    ),
    Case::new(
        "ports.reuse_port",
        "socket(7)",
        "SO_REUSEPORT: several listeners share the connections, several sockets the datagrams",
        || {
            let (a, b) = (new_tcp()?, new_tcp()?);
            for fd in [a, b] {
                set_on(fd, SOL_SOCKET, SO_REUSEPORT)?;
                nonblocking(fd)?;
            }
            succeeded("bind", bind_to(a, Address::local(0)))?;
            let port = name_of(a)?;
            succeeded("bind", bind_to(b, port))?;
            ok!(listen(a, 64));
            ok!(listen(b, 64));
            for _ in 0..40 {
                succeeded("connect", connect_to(new_tcp()?, port))?;
            }
            let count = |fd| {
                (0..)
                    .take_while(|_| {
                        raw!(accept(fd, std::ptr::null_mut(), std::ptr::null_mut())) >= 0
                    })
                    .count()
            };
            let seen = (count(a), count(b));
            eq("connections", seen.0 + seen.1, 40)?;
            ensure!(seen.0 > 0 && seen.1 > 0, "all went one way: {seen:?}");
            failed_with("without", bind_to(new_tcp()?, port), &[EADDRINUSE])?;

            let (a, b) = (new_udp()?, new_udp()?);
            for fd in [a, b] {
                set_on(fd, SOL_SOCKET, SO_REUSEPORT)?;
                nonblocking(fd)?;
            }
            succeeded("bind", bind_to(a, Address::local(0)))?;
            let port = name_of(a)?;
            succeeded("bind", bind_to(b, port))?;
            for _ in 0..40 {
                eq("send", send_to(new_udp()?, b"x", port), 1)?;
            }
            let count = |fd| {
                (0..)
                    .take_while(|_| receive(fd, 9, MSG_DONTWAIT).is_ok())
                    .count()
            };
            let seen = (count(a), count(b));
            eq("datagrams", seen.0 + seen.1, 40)?;
            ensure!(seen.0 > 0 && seen.1 > 0, "all went one way: {seen:?}");
            Ok(())
        },
    ),
    Case::new(
        "ports.time_wait",
        "tcp(7)",
        "the port of the side that closed first stays taken, but for SO_REUSEADDR",
        || {
            let (server, address) = tcp_listener(1)?;
            let client = new_tcp()?;
            succeeded("connect", connect_to(client, address))?;
            let peer = accept_one(server)?;
            ok!(close(server));
            let again = new_tcp()?;
            failed_with("connected", bind_to(again, address), &[EADDRINUSE])?;
            ok!(close(peer));
            eq("end", read_some(client, 1)?.len(), 0)?;
            ok!(close(client));
            failed_with("time wait", bind_to(again, address), &[EADDRINUSE])?;
            // Both sockets have to have said it.
            set_on(again, SOL_SOCKET, SO_REUSEADDR)?;
            failed_with("one side", bind_to(again, address), &[EADDRINUSE])?;

            let server = new_tcp()?;
            set_on(server, SOL_SOCKET, SO_REUSEADDR)?;
            succeeded("bind", bind_to(server, Address::local(0)))?;
            ok!(listen(server, 1));
            let address = name_of(server)?;
            let client = new_tcp()?;
            succeeded("connect", connect_to(client, address))?;
            let peer = accept_one(server)?;
            for fd in [server, peer, client] {
                ok!(close(fd));
            }
            succeeded("a restart", bind_to(again, address))?;
            ok!(listen(again, 1));
            Ok(())
        },
    ),
    Case::new(
        "ports.same_connection",
        "connect(2)",
        "a second connection between the same addresses: EADDRNOTAVAIL",
        || {
            let (_server, address) = tcp_listener(5)?;
            let (a, b) = (new_tcp()?, new_tcp()?);
            for fd in [a, b] {
                set_on(fd, SOL_SOCKET, SO_REUSEADDR)?;
            }
            succeeded("bind", bind_to(a, Address::local(0)))?;
            succeeded("bind", bind_to(b, name_of(a)?))?;
            succeeded("connect", connect_to(a, address))?;
            failed_with("connect", connect_to(b, address), &[EADDRNOTAVAIL])
        },
    ),
    Case::new(
        "ports.loopback_is_a_network",
        "ip(7)",
        "all of 127.0.0.0/8 is this host; 0.0.0.0 too",
        || {
            let server = new_tcp()?;
            succeeded("bind", bind_to(server, Address::v4(ANY, 0)))?;
            ok!(listen(server, 9));
            let port = name_of(server)?.port();
            for (to, peer) in [
                ([127, 0, 0, 1], "127.0.0.1"),
                ([127, 5, 6, 7], "127.5.6.7"),
                (ANY, "127.0.0.1"),
            ] {
                let client = new_tcp()?;
                succeeded("connect", connect_to(client, Address::v4(to, port)))?;
                eq("peer", peer_of(client)?.ip(), peer.to_string())?;
                eq("source", name_of(client)?.ip(), "127.0.0.1".to_string())?;
                let end = accept_one(server)?;
                eq("server", name_of(end)?.ip(), peer.to_string())?;
            }
            Ok(())
        },
    ),
    Case::new(
        "ports.range",
        "ip(7)",
        "picked ports are in ip_local_port_range",
        || {
            let range = slurp("/proc/sys/net/ipv4/ip_local_port_range")?;
            let bounds: Vec<u16> = range
                .split_whitespace()
                .filter_map(|w| w.parse().ok())
                .collect();
            let [low, high] = bounds[..] else {
                fail!("ip_local_port_range is {range:?}");
            };
            for _ in 0..20 {
                let port = udp_bound()?.1.port();
                ensure!((low..=high).contains(&port), "{port} is not in {range}");
            }
            Ok(())
        },
    ),
    Case::new(
        "inet.buffers",
        "socket(7)",
        "SO_RCVBUF and SO_SNDBUF are doubled, and have a least and a greatest size",
        || {
            for fd in [new_tcp()?, new_udp()?] {
                eq("SO_RCVBUF", sized(fd, SO_RCVBUF, 10_000)?, 20_000)?;
                eq("SO_SNDBUF", sized(fd, SO_SNDBUF, 10_000)?, 20_000)?;
                eq("least", sized(fd, SO_RCVBUF, 1)?, 2304)?;
                eq("least", sized(fd, SO_SNDBUF, 1)?, 4608)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "inet.socket_options",
        "socket(7)",
        "defaults and values of the options at SOL_SOCKET",
        || {
            let fd = new_tcp()?;
            for (name, default) in [
                (SO_TYPE, SOCK_STREAM),
                (SO_DOMAIN, AF_INET),
                (SO_PROTOCOL, IPPROTO_TCP),
                (SO_ACCEPTCONN, 0),
                (SO_REUSEADDR, 0),
                (SO_REUSEPORT, 0),
                (SO_KEEPALIVE, 0),
                (SO_BROADCAST, 0),
                (SO_OOBINLINE, 0),
                (SO_RCVLOWAT, 1),
                (SO_PRIORITY, 0),
            ] {
                eq(
                    "default",
                    (name, get_int(fd, SOL_SOCKET, name)?),
                    (name, default),
                )?;
            }
            for name in [SO_KEEPALIVE, SO_BROADCAST, SO_OOBINLINE, SO_RCVLOWAT] {
                succeeded("set", set_int(fd, SOL_SOCKET, name, 1))?;
                eq("set", (name, get_int(fd, SOL_SOCKET, name)?), (name, 1))?;
            }
            let mut value = linger {
                l_onoff: 5,
                l_linger: 7,
            };
            let at = (&raw mut value).cast();
            ok!(setsockopt(fd, SOL_SOCKET, SO_LINGER, at, 8));
            err!(EINVAL, setsockopt(fd, SOL_SOCKET, SO_LINGER, at, 4));
            let mut len = 8;
            ok!(getsockopt(fd, SOL_SOCKET, SO_LINGER, at, &mut len));
            eq("linger", (value.l_onoff, value.l_linger), (1, 7))?;
            let mut cookie = [0u64; 2];
            for (fd, cookie) in [fd, new_udp()?].into_iter().zip(&mut cookie) {
                let mut len = 8;
                let at = (&raw mut *cookie).cast();
                ok!(getsockopt(fd, SOL_SOCKET, SO_COOKIE, at, &mut len));
            }
            ensure!(cookie[0] != cookie[1], "cookies are the same");
            failed_with("type", set_int(fd, SOL_SOCKET, SO_TYPE, 1), &[ENOPROTOOPT])?;
            let short = (&raw const len).cast();
            err!(EINVAL, setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, short, 3));
            err!(
                EFAULT,
                setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, bad_ptr(), 4)
            );
            Ok(())
        },
    ),
    Case::new(
        "inet.tcp_options",
        "tcp(7)",
        "defaults, ranges and values of the options at IPPROTO_TCP",
        || {
            let fd = new_tcp()?;
            for (name, default, set) in [
                (TCP_NODELAY, 0, 1),
                (TCP_CORK, 0, 1),
                (TCP_KEEPIDLE, 7200, 10),
                (TCP_KEEPINTVL, 75, 11),
                (TCP_KEEPCNT, 9, 12),
                (TCP_SYNCNT, 6, 5),
                (TCP_USER_TIMEOUT, 0, 5000),
                (TCP_DEFER_ACCEPT, 0, 1),
            ] {
                eq(
                    "default",
                    (name, get_int(fd, IPPROTO_TCP, name)?),
                    (name, default),
                )?;
                succeeded("set", set_int(fd, IPPROTO_TCP, name, set))?;
                eq(
                    "value",
                    (name, get_int(fd, IPPROTO_TCP, name)?),
                    (name, set),
                )?;
            }
            let keep = |v| set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, v);
            failed_with("0", keep(0), &[EINVAL])?;
            failed_with("too long", keep(32768), &[EINVAL])?;
            failed_with("unknown", set_int(fd, IPPROTO_TCP, 999, 1), &[ENOPROTOOPT])?;
            // The one that everybody may use.
            let name = c"reno";
            ok!(setsockopt(
                fd,
                IPPROTO_TCP,
                TCP_CONGESTION,
                name.as_ptr().cast(),
                4
            ));
            let none = c"none-such";
            err!(
                ENOENT,
                setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, none.as_ptr().cast(), 9)
            );
            let mut info = [0u8; 104];
            let mut len = 104;
            let at = info.as_mut_ptr().cast();
            ok!(getsockopt(fd, IPPROTO_TCP, TCP_INFO, at, &mut len));
            eq("closed", (info[0], len), (7, 104))?;
            let (a, b) = tcp_pair()?;
            ok!(getsockopt(a, IPPROTO_TCP, TCP_INFO, at, &mut len));
            eq("established", info[0], 1)?;
            ok!(shutdown(a, SHUT_WR));
            eq("end", read_some(b, 1)?.len(), 0)?;
            ok!(getsockopt(b, IPPROTO_TCP, TCP_INFO, at, &mut len));
            eq("close wait", info[0], 8)
        },
    ),
    Case::new(
        "inet.inherited",
        "accept(2)",
        "an accepted socket has its listener's options",
        || {
            let (server, address) = tcp_listener(1)?;
            set_on(server, IPPROTO_TCP, TCP_NODELAY)?;
            set_on(server, SOL_SOCKET, SO_KEEPALIVE)?;
            let client = new_tcp()?;
            succeeded("connect", connect_to(client, address))?;
            let peer = accept_one(server)?;
            eq("TCP_NODELAY", get_int(peer, IPPROTO_TCP, TCP_NODELAY)?, 1)?;
            eq("SO_KEEPALIVE", get_int(peer, SOL_SOCKET, SO_KEEPALIVE)?, 1)?;
            eq("client", get_int(client, IPPROTO_TCP, TCP_NODELAY)?, 0)
        },
    ),
    Case::new(
        "inet.ip_options",
        "ip(7)",
        "defaults, ranges and values of the options at IPPROTO_IP and IPPROTO_IPV6",
        || {
            let fd = new_udp()?;
            for (name, default, set) in [
                (IP_TTL, 64, 9),
                (IP_TOS, 0, 0x10),
                (IP_MULTICAST_TTL, 1, 4),
                (IP_MULTICAST_LOOP, 1, 0),
                (IP_PKTINFO, 0, 1),
                (IP_RECVERR, 0, 1),
            ] {
                eq(
                    "default",
                    (name, get_int(fd, IPPROTO_IP, name)?),
                    (name, default),
                )?;
                succeeded("set", set_int(fd, IPPROTO_IP, name, set))?;
                eq("value", (name, get_int(fd, IPPROTO_IP, name)?), (name, set))?;
            }
            failed_with("ttl 0", set_int(fd, IPPROTO_IP, IP_TTL, 0), &[EINVAL])?;
            failed_with("ttl 256", set_int(fd, IPPROTO_IP, IP_TTL, 256), &[EINVAL])?;
            let only = set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
            failed_with("of IPv6", only, &[ENOPROTOOPT])?;
            let six = raw!(socket(AF_INET6, SOCK_DGRAM, 0));
            if six == -1 {
                return Ok(());
            }
            eq("hops", get_int(six, IPPROTO_IPV6, IPV6_UNICAST_HOPS)?, 64)?;
            set_on(six, IPPROTO_IPV6, IPV6_V6ONLY)?;
            eq("only", get_int(six, IPPROTO_IPV6, IPV6_V6ONLY)?, 1)
        },
    ),
    Case::new(
        "inet.headers",
        "ipv6(7)",
        "extension headers: none is set, malformed ones are EINVAL, some need CAP_NET_RAW",
        || {
            let six = raw!(socket(AF_INET6, SOCK_DGRAM, 0));
            if six == -1 {
                skip!("there is no IPv6");
            }
            let (hop, routing, options) = (54, 57, 59);
            for name in [hop, routing, options] {
                let mut value = [7u8; 8];
                let mut len = 8;
                let to = value.as_mut_ptr().cast();
                gives!(0, getsockopt(six, IPPROTO_IPV6, name, to, &mut len));
                eq("length", len, 0)?;
            }
            let empty = set_bytes(six, IPPROTO_IPV6, routing, &[]);
            succeeded("none", empty)?;
            for bad in [
                &[0u8, 2, 0][..],
                &[0, 2, 0, 1, 0, 0, 0, 0],
                &[0, 0, 0, 1, 0, 0, 0, 0, 0],
            ] {
                let set = set_bytes(six, IPPROTO_IPV6, routing, bad);
                failed_with("routing header", set, &[EINVAL])?;
            }
            let user = || -> Outcome {
                let six = ok!(socket(AF_INET6, SOCK_DGRAM, 0));
                for name in [hop, options] {
                    let set = set_bytes(six, IPPROTO_IPV6, name, &[]);
                    failed_with("without privileges", set, &[EPERM])?;
                }
                Ok(())
            };
            match is_root() {
                true => as_user(user),
                false => in_child(user),
            }?;
            for name in [
                IPV6_RECVRTHDR,
                IPV6_RECVHOPOPTS,
                IPV6_RECVDSTOPTS,
                IPV6_RECVPATHMTU,
            ] {
                eq("default", get_int(six, IPPROTO_IPV6, name)?, 0)?;
                set_on(six, IPPROTO_IPV6, name)?;
                eq("set", get_int(six, IPPROTO_IPV6, name)?, 1)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "inet.addrform",
        "ipv6(7)",
        "IPV6_ADDRFORM: ENOTCONN without a peer, EADDRNOTAVAIL for one of IPv6",
        || {
            for kind in [SOCK_STREAM, SOCK_DGRAM] {
                let six = raw!(socket(AF_INET6, kind, 0));
                if six == -1 {
                    skip!("there is no IPv6");
                }
                let set = |to| set_int(six, IPPROTO_IPV6, IPV6_ADDRFORM, to);
                failed_with("no peer", set(AF_INET), &[ENOTCONN])?;
                failed_with("another form", set(AF_INET6), &[EINVAL])?;
                failed_with(
                    "short",
                    set_bytes(six, IPPROTO_IPV6, IPV6_ADDRFORM, &[2]),
                    &[EINVAL],
                )?;
                let mut value = 0;
                let mut len = 4;
                let to = (&raw mut value).cast();
                err!(
                    ENOTCONN,
                    getsockopt(six, IPPROTO_IPV6, IPV6_ADDRFORM, to, &mut len)
                );
            }
            let udp = ok!(socket(AF_INET6, SOCK_DGRAM, 0));
            let to = Address::v6(std::net::Ipv6Addr::LOCALHOST, 9);
            if connect_to(udp, to) == -1 {
                skip!("loopback has no IPv6");
            }
            let set = set_int(udp, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET);
            failed_with("of IPv6", set, &[EADDRNOTAVAIL])?;
            eq("form", get_int(udp, IPPROTO_IPV6, IPV6_ADDRFORM)?, AF_INET6)
        },
    ),
    Case::new(
        "inet.path_mtu",
        "ip(7)",
        "IP_MTU: of the way to the peer, ENOTCONN without one",
        || {
            let mut value = 0;
            let mut len = 4;
            let to = (&raw mut value).cast();
            let udp = new_udp()?;
            err!(ENOTCONN, getsockopt(udp, IPPROTO_IP, IP_MTU, to, &mut len));
            succeeded("connect", connect_to(udp, Address::local(9)))?;
            eq("of loopback", get_int(udp, IPPROTO_IP, IP_MTU)?, 65535)?;
            let (a, b) = tcp_pair()?;
            eq("TCP", get_int(a, IPPROTO_IP, IP_MTU)?, 65535)?;
            eq("TCP", get_int(b, IPPROTO_IP, IP_MTU)?, 65535)?;
            failed_with(
                "read only",
                set_int(udp, IPPROTO_IP, IP_MTU, 1500),
                &[ENOPROTOOPT],
            )
        },
    ),
    Case::new(
        "inet.bind_to_device",
        "socket(7)",
        "SO_BINDTODEVICE: to lo, told again; ENODEV for one that is not there",
        || {
            let (server, address) = tcp_listener(1)?;
            let none = c"none-such";
            err!(
                ENODEV,
                setsockopt(
                    server,
                    SOL_SOCKET,
                    SO_BINDTODEVICE,
                    none.as_ptr().cast(),
                    10
                )
            );
            let lo = c"lo";
            ok!(setsockopt(
                server,
                SOL_SOCKET,
                SO_BINDTODEVICE,
                lo.as_ptr().cast(),
                3
            ));
            let mut name = [0u8; 16];
            let mut len = 16;
            let at = name.as_mut_ptr().cast();
            ok!(getsockopt(
                server,
                SOL_SOCKET,
                SO_BINDTODEVICE,
                at,
                &mut len
            ));
            eq("name", name[..len as usize].to_vec(), b"lo\0".to_vec())?;
            succeeded("connect", connect_to(new_tcp()?, address))?;
            Ok(())
        },
    ),
];
