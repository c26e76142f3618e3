//! tcp(7) and socket(7) over loopback: how long calls wait, and what is held back.

use crate::case::*;
use crate::inet::*;
use std::ptr::null_mut;

fn timeout(fd: c_int, name: c_int, ms: i64) -> Outcome {
    let value = timeval {
        tv_sec: ms / 1000,
        tv_usec: ms % 1000 * 1000,
    };
    ok!(setsockopt(
        fd,
        SOL_SOCKET,
        name,
        (&raw const value).cast(),
        16
    ));
    Ok(())
}

fn linger(fd: c_int, seconds: c_int) -> c_int {
    let value = [1, seconds];
    raw!(setsockopt(
        fd,
        SOL_SOCKET,
        SO_LINGER,
        value.as_ptr().cast(),
        8
    ))
}

fn clock() -> Outcome<i64> {
    Ok(ns(now(CLOCK_MONOTONIC)?) as i64 / 1_000_000)
}

/// What `call` took, ms, is in this range.
fn takes(what: &str, from: i64, to: i64, call: impl FnOnce() -> Outcome) -> Outcome {
    let start = clock()?;
    call()?;
    let took = clock()? - start;
    ensure!(
        (from..to).contains(&took),
        "{what} took {took} ms, not {from} to {to}"
    );
    Ok(())
}

/// A child that writes these pieces, each once somebody sleeps in a read before it.
fn writes_while_asleep(fd: c_int, pieces: &'static [&'static [u8]]) -> Outcome<pid_t> {
    let parent = raw!(getpid());
    child(move || {
        for piece in pieces {
            if until_asleep(parent).is_err() || write_all(fd, piece).is_err() {
                return 1;
            }
        }
        0
    })
}

fn peek_len(fd: c_int, len: usize, flags: c_int) -> Outcome<usize> {
    let mut buf = vec![0u8; len];
    let n = ok!(recv(fd, buf.as_mut_ptr().cast(), len, MSG_PEEK | flags));
    Ok(n as usize)
}

pub static CASES: &[Case] = &[
    Case::new(
        "sockopt.rcvlowat",
        "socket(7)",
        "SO_RCVLOWAT: reads wait for so many bytes, tcp's readiness too; less is told at the end",
        || {
            for (a, b) in [tcp_pair()?, socket_pair(SOCK_STREAM)?] {
                succeeded("lowat", set_int(b, SOL_SOCKET, SO_RCVLOWAT, 4))?;
                let other = writes_while_asleep(a, &[b"ab", b"cd"])?;
                eq("recv", receive(b, 16, 0)?, b"abcd".to_vec())?;
                eq("child", wait_for(other)?, 0)?;
                let other = writes_while_asleep(a, &[b"ef", b"gh"])?;
                eq("read", read_some(b, 16)?, b"efgh".to_vec())?;
                eq("child", wait_for(other)?, 0)?;
                // No more than there is room for.
                write_all(a, b"xy")?;
                eq("room", receive(b, 2, 0)?, b"xy".to_vec())?;
                write_all(a, b"z")?;
                eq("not waiting", receive(b, 16, MSG_DONTWAIT)?, b"z".to_vec())?;
                write_all(a, b"end")?;
                ok!(shutdown(a, SHUT_WR));
                eq("the end", receive(b, 16, 0)?, b"end".to_vec())?;
            }
            let (a, b) = tcp_pair()?;
            succeeded("lowat", set_int(b, SOL_SOCKET, SO_RCVLOWAT, 4))?;
            write_all(a, b"abc")?;
            eq("too few", poll_now(b, POLLIN)?, 0)?;
            write_all(a, b"d")?;
            eq("enough", poll_for(b, POLLIN)?, POLLIN)
        },
    ),
    Case::new(
        "sockopt.waitall",
        "recv(2)",
        "MSG_WAITALL waits for all of it, also to look at it; a timeout gives what there is",
        || {
            let (a, b) = tcp_pair()?;
            let other = writes_while_asleep(a, &[b"ab", b"cd", b"ef"])?;
            eq("all", receive(b, 6, MSG_WAITALL)?, b"abcdef".to_vec())?;
            eq("child", wait_for(other)?, 0)?;
            let other = writes_while_asleep(a, &[b"ab", b"cd"])?;
            eq("peek", peek_len(b, 4, MSG_WAITALL)?, 4)?;
            eq("child", wait_for(other)?, 0)?;
            eq("still there", receive(b, 4, 0)?, b"abcd".to_vec())?;
            timeout(b, SO_RCVTIMEO, 60)?;
            write_all(a, b"few")?;
            takes("waiting", 50, 5000, || {
                eq("some", receive(b, 6, MSG_WAITALL)?, b"few".to_vec())
            })?;
            err!(
                EAGAIN,
                recv(b, [0u8; 4].as_mut_ptr().cast(), 4, MSG_WAITALL)
            );
            Ok(())
        },
    ),
    Case::new(
        "sockopt.timeouts",
        "socket(7)",
        "SO_RCVTIMEO and SO_SNDTIMEO bound every call that waits: EAGAIN, EINPROGRESS for connect",
        || {
            let (server, address) = tcp_listener(0)?;
            timeout(server, SO_RCVTIMEO, 60)?;
            takes("accept", 50, 5000, || {
                err!(EAGAIN, accept(server, null_mut(), null_mut()));
                Ok(())
            })?;
            let first = new_tcp()?;
            succeeded("connect", connect_to(first, address))?;
            let second = new_tcp()?;
            timeout(second, SO_SNDTIMEO, 60)?;
            takes("connect", 50, 5000, || {
                let got = connect_to(second, address);
                failed_with("connect", got, &[EINPROGRESS])
            })?;
            for (a, b) in [
                tcp_pair()?,
                socket_pair(SOCK_STREAM)?,
                socket_pair(SOCK_SEQPACKET)?,
                socket_pair(SOCK_DGRAM)?,
            ] {
                timeout(b, SO_RCVTIMEO, 60)?;
                let mut byte = [0u8; 1];
                let mut iov = iovec {
                    iov_base: byte.as_mut_ptr().cast(),
                    iov_len: 1,
                };
                takes("recv", 50, 5000, || {
                    err!(EAGAIN, recv(b, byte.as_mut_ptr().cast(), 1, 0));
                    Ok(())
                })?;
                takes("read", 50, 5000, || {
                    err!(EAGAIN, readv(b, &iov, 1));
                    Ok(())
                })?;
                let mut message = zeroed::<msghdr>();
                message.msg_iov = &mut iov;
                message.msg_iovlen = 1;
                takes("recvmsg", 50, 5000, || {
                    err!(EAGAIN, recvmsg(b, &mut message, 0));
                    Ok(())
                })?;
                // A tcp socket finds room again as its buffers grow.
                if get_int(a, SOL_SOCKET, SO_DOMAIN)? != AF_UNIX {
                    continue;
                }
                let flags = ok!(fcntl(a, F_GETFL));
                ok!(fcntl(a, F_SETFL, flags | O_NONBLOCK));
                while raw!(send(a, [0u8; 8192].as_ptr().cast(), 8192, MSG_NOSIGNAL)) > 0 {}
                ok!(fcntl(a, F_SETFL, flags));
                timeout(a, SO_SNDTIMEO, 60)?;
                takes("send", 50, 5000, || {
                    err!(EAGAIN, send(a, [0u8; 8192].as_ptr().cast(), 8192, 0));
                    Ok(())
                })?;
                takes("write", 50, 5000, || {
                    err!(EAGAIN, write(a, [0u8; 8192].as_ptr().cast(), 8192));
                    Ok(())
                })?;
            }
            Ok(())
        },
    ),
    Case::new(
        "tcp.backlog_times_out",
        "tcp(7)",
        "connecting to a full backlog goes on until it gives up: ETIMEDOUT after TCP_SYNCNT tries",
        || {
            let (server, address) = tcp_listener(0)?;
            let first = new_tcp()?;
            succeeded("connect", connect_to(first, address))?;
            let second = new_tcp()?;
            succeeded("tries", set_int(second, IPPROTO_TCP, TCP_SYNCNT, 1))?;
            let third = new_tcp()?;
            succeeded("limit", set_int(third, IPPROTO_TCP, TCP_USER_TIMEOUT, 500))?;
            nonblocking(third)?;
            failed_with("connect", connect_to(third, address), &[EINPROGRESS])?;
            failed_with("again", connect_to(third, address), &[EALREADY])?;
            takes("connect", 2500, 8000, || {
                failed_with("connect", connect_to(second, address), &[ETIMEDOUT])
            })?;
            let shown = poll_now(third, POLLIN | POLLOUT)?;
            ensure!(
                shown & (POLLERR | POLLHUP) == POLLERR | POLLHUP,
                "{shown:#x}"
            );
            eq("third", socket_error(third)?, ETIMEDOUT)?;
            // Room again: the next one gets through.
            accept_one(server)?;
            let fourth = new_tcp()?;
            succeeded("connect", connect_to(fourth, address))?;
            Ok(())
        },
    ),
    Case::new(
        "tcp.self_connect",
        "tcp(7)",
        "a socket that connects to its own port talks to itself (simultaneous open)",
        || {
            let fd = new_tcp()?;
            succeeded("bind", bind_to(fd, Address::local(0)))?;
            let own = name_of(fd)?;
            succeeded("connect", connect_to(fd, own))?;
            eq("peer", peer_of(fd)?.port(), own.port())?;
            write_all(fd, b"echo")?;
            eq("echo", read_some(fd, 9)?, b"echo".to_vec())?;
            ok!(shutdown(fd, SHUT_WR));
            eq("end", read_some(fd, 9)?, Vec::new())?;
            failed_with("write", send_text(fd, b"x", MSG_NOSIGNAL), &[EPIPE])
        },
    ),
    Case::new(
        "tcp.defer_accept",
        "tcp(7)",
        "TCP_DEFER_ACCEPT: a connection is accepted once data comes; seconds are rounded up",
        || {
            let (server, address) = tcp_listener(4)?;
            for (set, told) in [(1, 1), (2, 3), (5, 7), (0, 0), (10, 15)] {
                succeeded("set", set_int(server, IPPROTO_TCP, TCP_DEFER_ACCEPT, set))?;
                eq(
                    "told",
                    get_int(server, IPPROTO_TCP, TCP_DEFER_ACCEPT)?,
                    told,
                )?;
            }
            let (quiet, talks) = (new_tcp()?, new_tcp()?);
            succeeded("connect", connect_to(quiet, address))?;
            succeeded("connect", connect_to(talks, address))?;
            eq("nothing yet", poll_now(server, POLLIN)?, 0)?;
            write_all(talks, b"first")?;
            eq("now", poll_for(server, POLLIN)?, POLLIN)?;
            let peer = accept_one(server)?;
            eq("who", peer_of(peer)?.port(), name_of(talks)?.port())?;
            eq("data", read_some(peer, 9)?, b"first".to_vec())?;
            eq("the other", poll_now(server, POLLIN)?, 0)?;
            // An end is something, too.
            ok!(shutdown(quiet, SHUT_WR));
            eq("end", poll_for(server, POLLIN)?, POLLIN)?;
            let peer = accept_one(server)?;
            eq("who", peer_of(peer)?.port(), name_of(quiet)?.port())
        },
    ),
    Case::new(
        "tcp.defer_backlog",
        "tcp(7), listen(2)",
        "connections that are deferred take places of the backlog, and leave them when they end",
        || {
            let (server, address) = tcp_listener(0)?;
            set_on(server, IPPROTO_TCP, TCP_DEFER_ACCEPT)?;
            let (first, second) = (new_tcp()?, new_tcp()?);
            succeeded("connect", connect_to(first, address))?;
            nonblocking(second)?;
            connect_to(second, address);
            succeeded("linger", linger(first, 0))?;
            ok!(close(first));
            eq("connected", poll_for(second, POLLOUT)?, POLLOUT)?;
            write_all(second, b"x")?;
            eq("tells", poll_for(server, POLLIN)?, POLLIN)?;
            // One is there now, and no more come in, however many send.
            for _ in 0..20 {
                let more = new_tcp()?;
                nonblocking(more)?;
                connect_to(more, address);
                send_text(more, b"y", MSG_NOSIGNAL);
                ok!(close(more));
            }
            nonblocking(server)?;
            let mut accepted = 0;
            while raw!(accept(server, null_mut(), null_mut())) >= 0 {
                accepted += 1;
            }
            ensure!((1..4).contains(&accepted), "{accepted} were let in");
            Ok(())
        },
    ),
    Case::new(
        "tcp.cork",
        "tcp(7)",
        "TCP_CORK and MSG_MORE hold a part of a segment back until released, or for 200 ms",
        || {
            let (a, b) = tcp_pair()?;
            set_on(a, IPPROTO_TCP, TCP_NODELAY)?;
            set_on(a, IPPROTO_TCP, TCP_CORK)?;
            write_all(a, b"held")?;
            eq("held", poll_now(b, POLLIN)?, 0)?;
            succeeded("uncork", set_int(a, IPPROTO_TCP, TCP_CORK, 0))?;
            eq("released", poll_for(b, POLLIN)?, POLLIN)?;
            eq("data", receive(b, 9, 0)?, b"held".to_vec())?;
            eq("more", send_text(a, b"head ", MSG_MORE), 5)?;
            err!(
                EAGAIN,
                recv(b, [0u8; 9].as_mut_ptr().cast(), 9, MSG_DONTWAIT)
            );
            eq("last", send_text(a, b"body", 0), 4)?;
            eq("poll", poll_for(b, POLLIN)?, POLLIN)?;
            eq("data", receive(b, 99, 0)?, b"head body".to_vec())?;
            takes("ceiling", 100, 5000, || {
                eq("more", send_text(a, b"late", MSG_MORE), 4)?;
                eq("late", receive(b, 9, 0)?, b"late".to_vec())
            })?;
            // More than a segment: all whole ones go.
            set_on(a, IPPROTO_TCP, TCP_CORK)?;
            write_all(a, &[7; 100_000])?;
            eq("poll", poll_for(b, POLLIN)?, POLLIN)?;
            let whole = peek_len(b, 200_000, 0)?;
            ensure!((1..100_000).contains(&whole), "{whole} bytes came");
            ok!(shutdown(a, SHUT_WR));
            let all = receive(b, 100_000, MSG_WAITALL)?;
            eq("the end releases", all.len(), 100_000)?;
            eq("end", receive(b, 1, 0)?, Vec::new())
        },
    ),
];
