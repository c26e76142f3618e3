//! tcp(7) over loopback: connecting, accepting, ends of connections, readiness.

use crate::case::*;
use crate::inet::*;
use std::net::Ipv6Addr;
use std::ptr::null_mut;

/// Waits until the peer's answer (a RST or FIN) shows.
fn until(fd: c_int, event: c_short) -> Outcome {
    let seen = poll_for(fd, event)?;
    ensure!(seen & event != 0, "poll shows {seen:#x}, not {event:#x}");
    Ok(())
}

const ALL: c_short = POLLIN | POLLOUT | POLLPRI | POLLRDHUP;

pub static CASES: &[Case] = &[
    Case::new(
        "tcp.connect_and_names",
        "tcp(7)",
        "a connection carries bytes both ways; both ends know each other's names",
        || {
            let (server, address) = tcp_listener(5)?;
            eq("ip", address.ip(), "127.0.0.1".to_string())?;
            ensure!(address.port() != 0, "no port was picked");
            let client = new_tcp()?;
            eq("name before", name_of(client)?.ip(), "0.0.0.0".to_string())?;
            succeeded("connect", connect_to(client, address))?;
            let peer = accept_one(server)?;
            eq("peer", peer_of(client)?.port(), address.port())?;
            eq("client", peer_of(peer)?.port(), name_of(client)?.port())?;
            eq("server", name_of(peer)?.port(), address.port())?;
            eq("source", name_of(client)?.ip(), "127.0.0.1".to_string())?;
            write_all(client, b"there")?;
            eq("there", read_some(peer, 9)?, b"there".to_vec())?;
            write_all(peer, b"back")?;
            eq("back", read_some(client, 9)?, b"back".to_vec())
        },
    ),
    Case::new(
        "tcp.socket_errors",
        "socket(2)",
        "types and protocols that do not exist",
        || {
            err!(EPROTONOSUPPORT, socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
            err!(EPROTONOSUPPORT, socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
            err!(ESOCKTNOSUPPORT, socket(AF_INET, SOCK_SEQPACKET, 0));
            err!(EINVAL, socket(AF_INET, SOCK_STREAM, 4000));
            err!(EINVAL, socket(AF_INET, 11, 0));
            let mut fds = [0; 2];
            err!(
                EOPNOTSUPP,
                socketpair(AF_INET, SOCK_STREAM, 0, fds.as_mut_ptr())
            );
            ok!(socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP));
            Ok(())
        },
    ),
    Case::new(
        "tcp.refused",
        "connect(2)",
        "nobody listens: ECONNREFUSED, and the socket can try again",
        || {
            let (server, address) = tcp_listener(5)?;
            ok!(close(server));
            let fd = new_tcp()?;
            failed_with("connect", connect_to(fd, address), &[ECONNREFUSED])?;
            failed_with("again", connect_to(fd, address), &[ECONNREFUSED])?;
            let (_server, address) = tcp_listener(5)?;
            succeeded("connect", connect_to(fd, address))?;
            failed_with("when connected", connect_to(fd, address), &[EISCONN])
        },
    ),
    Case::new(
        "tcp.nonblocking_connect",
        "connect(2)",
        "EINPROGRESS, then writable, SO_ERROR 0, success once, EISCONN",
        || {
            let (_server, address) = tcp_listener(5)?;
            let fd = new_tcp()?;
            nonblocking(fd)?;
            failed_with("connect", connect_to(fd, address), &[EINPROGRESS])?;
            until(fd, POLLOUT)?;
            eq("SO_ERROR", socket_error(fd)?, 0)?;
            succeeded("second", connect_to(fd, address))?;
            failed_with("third", connect_to(fd, address), &[EISCONN])
        },
    ),
    Case::new(
        "tcp.nonblocking_refused",
        "connect(2)",
        "EINPROGRESS, then an error that SO_ERROR tells once",
        || {
            let (server, address) = tcp_listener(5)?;
            ok!(close(server));
            let fd = new_tcp()?;
            nonblocking(fd)?;
            failed_with("connect", connect_to(fd, address), &[EINPROGRESS])?;
            until(fd, POLLERR)?;
            let all = POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP;
            eq("poll", poll_now(fd, ALL)?, all)?;
            eq("SO_ERROR", socket_error(fd)?, ECONNREFUSED)?;
            eq("SO_ERROR again", socket_error(fd)?, 0)?;
            failed_with("connect", connect_to(fd, address), &[ECONNABORTED])?;
            failed_with("connect", connect_to(fd, address), &[EINPROGRESS])?;
            until(fd, POLLERR)?;
            failed_with("connect", connect_to(fd, address), &[ECONNREFUSED])
        },
    ),
    Case::new(
        "tcp.backlog",
        "listen(2)",
        "a full queue keeps a connection waiting until one is accepted",
        || {
            let (server, address) = tcp_listener(0)?;
            let (a, b) = (new_tcp()?, new_tcp()?);
            succeeded("first", connect_to(a, address))?;
            nonblocking(b)?;
            failed_with("second", connect_to(b, address), &[EINPROGRESS])?;
            eq("poll", poll_now(b, POLLOUT)?, 0)?;
            failed_with("in between", connect_to(b, address), &[EALREADY])?;
            accept_one(server)?;
            let mut seen = 0;
            for _ in 0..5 {
                seen |= poll_for(b, POLLOUT)?;
            }
            eq("poll", seen, POLLOUT)?;
            accept_one(server)?;
            Ok(())
        },
    ),
    Case::new(
        "tcp.accept_waits",
        "accept(2)",
        "accept waits, tells the peer's address, and gives EAGAIN without waiting",
        || {
            let (server, address) = tcp_listener(5)?;
            let pid = child(|| {
                let mut len = 16;
                let mut addr = zeroed::<sockaddr_in>();
                let fd = raw!(accept(server, (&raw mut addr).cast(), &mut len));
                i32::from(fd >= 0 && len == 16 && addr.sin_port != 0)
            })?;
            until_asleep(pid)?;
            let client = new_tcp()?;
            succeeded("connect", connect_to(client, address))?;
            expect_exit(pid, 1)?;
            nonblocking(server)?;
            err!(EAGAIN, accept(server, null_mut(), null_mut()));
            err!(EINVAL, accept(client, null_mut(), null_mut()));
            err!(EOPNOTSUPP, accept(new_udp()?, null_mut(), null_mut()));
            Ok(())
        },
    ),
    Case::new(
        "tcp.fresh",
        "tcp(7)",
        "a socket that is not connected: poll, read, write, shutdown, names",
        || {
            let fd = new_tcp()?;
            eq("poll", poll_now(fd, ALL)?, POLLOUT | POLLHUP)?;
            let mut byte = 0u8;
            err!(ENOTCONN, read(fd, (&raw mut byte).cast(), 1));
            failed_with("send", send_text(fd, b"x", MSG_NOSIGNAL), &[EPIPE])?;
            err!(ENOTCONN, shutdown(fd, SHUT_WR));
            let mut len = 16;
            let mut addr = zeroed::<sockaddr_in>();
            let at = (&raw mut addr).cast();
            err!(ENOTCONN, getpeername(fd, at, &mut len));
            ok!(listen(fd, 1));
            ensure!(name_of(fd)?.port() != 0, "listen picks a port");
            eq("listening", poll_now(fd, ALL)?, 0)?;
            err!(ENOTCONN, read(fd, (&raw mut byte).cast(), 1));
            failed_with("connect", connect_to(fd, Address::local(1)), &[EISCONN])
        },
    ),
    Case::new(
        "tcp.half_close",
        "shutdown(2)",
        "SHUT_WR: end of file there, the other direction goes on; readiness on the way",
        || {
            let (a, b) = tcp_pair()?;
            eq("connected", poll_now(a, ALL)?, POLLOUT)?;
            ok!(shutdown(a, SHUT_WR));
            until(b, POLLRDHUP)?;
            eq("b", poll_now(b, ALL)?, POLLIN | POLLOUT | POLLRDHUP)?;
            eq("end", read_some(b, 4)?.len(), 0)?;
            failed_with("send", send_text(a, b"x", MSG_NOSIGNAL), &[EPIPE])?;
            write_all(b, b"more")?;
            eq("more", read_some(a, 9)?, b"more".to_vec())?;
            ok!(shutdown(b, SHUT_WR));
            until(a, POLLHUP)?;
            let ended = POLLIN | POLLOUT | POLLRDHUP | POLLHUP;
            eq("a", poll_now(a, ALL)?, ended)?;
            eq("b", poll_now(b, ALL)?, ended)?;
            err!(ENOTCONN, shutdown(a, SHUT_RDWR));
            eq("no error", socket_error(a)?, 0)
        },
    ),
    Case::new(
        "tcp.shut_read",
        "shutdown(2)",
        "SHUT_RD: reads end, but what has come and comes is still read",
        || {
            let (a, b) = tcp_pair()?;
            write_all(b, b"before")?;
            until(a, POLLIN)?;
            ok!(shutdown(a, SHUT_RD));
            eq("before", read_some(a, 9)?, b"before".to_vec())?;
            eq("end", read_some(a, 9)?.len(), 0)?;
            eq("poll", poll_now(a, ALL)?, POLLIN | POLLOUT | POLLRDHUP)?;
            eq("peer", poll_now(b, ALL)?, POLLOUT)
        },
    ),
    Case::new(
        "tcp.close_then_write",
        "tcp(7)",
        "the first write to a closed peer succeeds, the next gives EPIPE and SIGPIPE",
        || {
            let (a, b) = tcp_pair()?;
            write_all(b, b"last")?;
            ok!(close(b));
            until(a, POLLRDHUP)?;
            eq("first", send_text(a, b"x", MSG_NOSIGNAL), 1)?;
            until(a, POLLHUP)?;
            failed_with("second", send_text(a, b"x", MSG_NOSIGNAL), &[EPIPE])?;
            eq("data", read_some(a, 9)?, b"last".to_vec())?;
            eq("end", read_some(a, 9)?.len(), 0)?;
            let pid = child(|| send_text(a, b"x", 0) as i32)?;
            expect_signal(pid, SIGPIPE)
        },
    ),
    Case::new(
        "tcp.close_with_unread_data",
        "tcp(7)",
        "a peer that closes with unread data resets: ECONNRESET once, then end of file",
        || {
            let (a, b) = tcp_pair()?;
            write_all(a, b"unread")?;
            until(b, POLLIN)?;
            write_all(b, b"answer")?;
            until(a, POLLIN)?;
            ok!(close(b));
            until(a, POLLERR)?;
            let all = POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP;
            eq("poll", poll_now(a, ALL)?, all)?;
            eq("answer", read_some(a, 9)?, b"answer".to_vec())?;
            let mut byte = 0u8;
            err!(ECONNRESET, read(a, (&raw mut byte).cast(), 1));
            gives!(0, read(a, (&raw mut byte).cast(), 1));
            failed_with("send", send_text(a, b"x", MSG_NOSIGNAL), &[EPIPE])
        },
    ),
    Case::new(
        "tcp.linger_zero",
        "socket(7)",
        "SO_LINGER with 0 seconds: close resets",
        || {
            let (a, b) = tcp_pair()?;
            let value = linger {
                l_onoff: 1,
                l_linger: 0,
            };
            ok!(setsockopt(
                b,
                SOL_SOCKET,
                SO_LINGER,
                (&raw const value).cast(),
                8
            ));
            ok!(close(b));
            until(a, POLLERR)?;
            failed_with("send", send_text(a, b"x", MSG_NOSIGNAL), &[ECONNRESET])?;
            failed_with("send", send_text(a, b"x", MSG_NOSIGNAL), &[EPIPE])
        },
    ),
    Case::new(
        "tcp.listener_closed",
        "tcp(7)",
        "connections that nobody accepted are reset",
        || {
            let (server, address) = tcp_listener(5)?;
            let client = new_tcp()?;
            succeeded("connect", connect_to(client, address))?;
            ok!(close(server));
            until(client, POLLERR)?;
            eq("SO_ERROR", socket_error(client)?, ECONNRESET)
        },
    ),
    Case::new(
        "tcp.listener_shut",
        "shutdown(2)",
        "SHUT_RD on a listener ends it and wakes who waits in accept",
        || {
            let (server, _) = tcp_listener(5)?;
            let pid = child(|| {
                let fd = raw!(accept(server, null_mut(), null_mut()));
                i32::from(fd == -1 && errno() == EINVAL)
            })?;
            until_asleep(pid)?;
            ok!(shutdown(server, SHUT_RDWR));
            expect_exit(pid, 1)
        },
    ),
    Case::new(
        "tcp.disconnect",
        "connect(2)",
        "AF_UNSPEC ends the connection, and the socket can be used again",
        || {
            let (a, b) = tcp_pair()?;
            succeeded("connect", connect_to(a, Address::unspecified()))?;
            until(b, POLLERR)?;
            eq("b", socket_error(b)?, ECONNRESET)?;
            let (_server, address) = tcp_listener(1)?;
            succeeded("connect", connect_to(a, address))?;
            Ok(())
        },
    ),
    Case::new(
        "tcp.big_transfer",
        "tcp(7)",
        "megabytes arrive whole and in order through a full queue",
        || {
            let (a, b) = tcp_pair()?;
            let total = 8usize << 20;
            let pid = child(|| {
                let data: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
                let n = raw!(write(a, data.as_ptr().cast(), total));
                i32::from(n == total as isize)
            })?;
            ok!(close(a));
            let mut got = 0;
            loop {
                let data = read_some(b, 50_021)?;
                if data.is_empty() {
                    break;
                }
                for byte in data {
                    ensure!(byte == (got % 251) as u8, "byte {got} is {byte}");
                    got += 1;
                }
            }
            eq("bytes", got, total)?;
            expect_exit(pid, 1)
        },
    ),
    Case::new(
        "tcp.full",
        "send(2)",
        "a full queue gives EAGAIN and EPOLLOUT comes back, edge-triggered too",
        || {
            let (a, b) = tcp_pair()?;
            nonblocking(a)?;
            nonblocking(b)?;
            let epoll = ok!(epoll_create1(EPOLL_CLOEXEC));
            let mut event = epoll_event {
                events: (EPOLLOUT | EPOLLET) as u32,
                u64: 1,
            };
            ok!(epoll_ctl(epoll, EPOLL_CTL_ADD, a, &mut event));
            gives!(1, epoll_wait(epoll, &mut event, 1, 0));
            gives!(0, epoll_wait(epoll, &mut event, 1, 0));
            let block = [0u8; 65536];
            let mut total = 0;
            loop {
                let n = send_text(a, &block, 0);
                if n == -1 {
                    eq("errno", errno_name(errno()), "EAGAIN".to_string())?;
                    break;
                }
                total += n;
                ensure!(total < 256 << 20, "256 MiB were taken without a reader");
            }
            eq("poll", poll_now(a, POLLOUT)?, 0)?;
            let mut left = total;
            while left > 0 {
                until(b, POLLIN)?;
                left -= read_some(b, 1 << 20)?.len() as isize;
            }
            gives!(1, epoll_wait(epoll, &mut event, 1, 1000));
            until(a, POLLOUT)
        },
    ),
    Case::new(
        "tcp.epoll_edges",
        "epoll(7)",
        "each arrival is an edge; RDHUP when the peer has shut down",
        || {
            let (a, b) = tcp_pair()?;
            let epoll = ok!(epoll_create1(EPOLL_CLOEXEC));
            let mut event = epoll_event {
                events: (EPOLLIN | EPOLLRDHUP | EPOLLET) as u32,
                u64: 1,
            };
            ok!(epoll_ctl(epoll, EPOLL_CTL_ADD, b, &mut event));
            gives!(0, epoll_wait(epoll, &mut event, 1, 0));
            for _ in 0..2 {
                write_all(a, b"x")?;
                gives!(1, epoll_wait(epoll, &mut event, 1, 1000));
                gives!(0, epoll_wait(epoll, &mut event, 1, 0));
            }
            ok!(shutdown(a, SHUT_WR));
            gives!(1, epoll_wait(epoll, &mut event, 1, 1000));
            let seen = event.events;
            eq("events", seen, (EPOLLIN | EPOLLRDHUP) as u32)
        },
    ),
    Case::new(
        "tcp.dual_stack",
        "ipv6(7)",
        "an IPv6 listener takes IPv4 connections as ::ffff:a.b.c.d unless V6ONLY",
        || {
            let server = raw!(socket(AF_INET6, SOCK_STREAM, 0));
            if server == -1 {
                skip!("no IPv6");
            }
            let any = Address::v6(Ipv6Addr::UNSPECIFIED, 0);
            succeeded("bind", bind_to(server, any))?;
            ok!(listen(server, 5));
            let port = name_of(server)?.port();
            let client = new_tcp()?;
            succeeded("connect", connect_to(client, Address::local(port)))?;
            let peer = accept_one(server)?;
            let mapped = "::ffff:127.0.0.1".to_string();
            eq("peer", peer_of(peer)?.ip(), mapped.clone())?;
            eq("name", name_of(peer)?.ip(), mapped)?;
            let six = ok!(socket(AF_INET6, SOCK_STREAM, 0));
            let there = Address::v6(Ipv6Addr::LOCALHOST, port);
            succeeded("connect", connect_to(six, there))?;
            eq("ipv6", peer_of(six)?.ip(), "::1".to_string())?;
            let mapped = Address::v6(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port);
            let six = ok!(socket(AF_INET6, SOCK_STREAM, 0));
            succeeded("connect", connect_to(six, mapped))?;
            // The port is taken for IPv4 too.
            let four = new_tcp()?;
            failed_with("bind", bind_to(four, Address::local(port)), &[EADDRINUSE])?;
            let only = ok!(socket(AF_INET6, SOCK_STREAM, 0));
            set_on(only, IPPROTO_IPV6, IPV6_V6ONLY)?;
            succeeded("bind", bind_to(only, any))?;
            let port = name_of(only)?.port();
            succeeded("bind", bind_to(four, Address::local(port)))?;
            eq("late", set_int(only, IPPROTO_IPV6, IPV6_V6ONLY, 0), -1)?;
            eq("errno", errno_name(errno()), "EINVAL".to_string())
        },
    ),
    Case::new(
        "tcp.msg_flags",
        "recv(2)",
        "MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT, MSG_WAITALL, MSG_ERRQUEUE",
        || {
            let (a, b) = tcp_pair()?;
            let mut buf = [0u8; 8];
            let at = buf.as_mut_ptr().cast();
            err!(EAGAIN, recv(b, at, 8, MSG_DONTWAIT));
            err!(EAGAIN, recv(b, at, 8, MSG_ERRQUEUE));
            write_all(a, b"abcdef")?;
            until(b, POLLIN)?;
            eq("peek", receive(b, 4, MSG_PEEK)?, b"abcd".to_vec())?;
            gives!(3, recv(b, at, 3, MSG_TRUNC));
            eq("not written", buf, [0; 8])?;
            eq("rest", receive(b, 2, 0)?, b"de".to_vec())?;
            let pid = child(|| i32::from(receive(b, 4, MSG_WAITALL) == Ok(b"fghi".to_vec())))?;
            until_asleep(pid)?;
            write_all(a, b"gh")?;
            write_all(a, b"i")?;
            expect_exit(pid, 1)
        },
    ),
    Case::new(
        "tcp.urgent",
        "tcp(7)",
        "MSG_OOB: one byte apart from the stream, POLLPRI, SIOCATMARK, SO_OOBINLINE",
        || {
            let (a, b) = tcp_pair()?;
            let mut byte = 0u8;
            let at = (&raw mut byte).cast();
            err!(EINVAL, recv(b, at, 1, MSG_OOB));
            write_all(a, b"ab")?;
            eq("send", send_text(a, b"cU", MSG_OOB), 2)?;
            write_all(a, b"de")?;
            until(b, POLLPRI)?;
            gives!(1, recv(b, at, 1, MSG_OOB));
            eq("urgent", byte, b'U')?;
            err!(EINVAL, recv(b, at, 1, MSG_OOB));
            let mut mark = -1;
            ok!(ioctl(b, 0x8905, &mut mark));
            eq("before", mark, 0)?;
            eq("up to the mark", receive(b, 16, 0)?, b"abc".to_vec())?;
            ok!(ioctl(b, 0x8905, &mut mark));
            eq("at the mark", mark, 1)?;
            eq("behind", receive(b, 16, 0)?, b"de".to_vec())?;
            set_on(b, SOL_SOCKET, SO_OOBINLINE)?;
            write_all(a, b"x")?;
            eq("send", send_text(a, b"V", MSG_OOB), 1)?;
            until(b, POLLIN)?;
            eq("before", receive(b, 16, 0)?, b"x".to_vec())?;
            eq("inline", receive(b, 16, 0)?, b"V".to_vec())
        },
    ),
    Case::new(
        "tcp.inq",
        "tcp(7)",
        "FIONREAD tells the bytes to read",
        || {
            let (a, b) = tcp_pair()?;
            write_all(a, b"12345")?;
            until(b, POLLIN)?;
            let mut n = -1;
            ok!(ioctl(b, FIONREAD, &mut n));
            eq("FIONREAD", n, 5)?;
            let (server, _) = tcp_listener(1)?;
            err!(EINVAL, ioctl(server, FIONREAD, &mut n));
            Ok(())
        },
    ),
    Case::new(
        "tcp.splice_and_sendfile",
        "sendfile(2)",
        "files and pipes go into and come out of a connection",
        || {
            let (a, b) = tcp_pair()?;
            let file = put(c"f", b"from a file")?;
            gives!(11, sendfile(a, file, null_mut(), 100));
            eq(
                "sendfile",
                receive(b, 11, MSG_WAITALL)?,
                b"from a file".to_vec(),
            )?;
            let (r, w) = pipe_pair()?;
            write_all(w, b"piped")?;
            gives!(5, splice(r, null_mut(), a, null_mut(), 100, 0));
            gives!(5, splice(b, null_mut(), w, null_mut(), 100, 0));
            eq("splice", read_some(r, 9)?, b"piped".to_vec())
        },
    ),
];
