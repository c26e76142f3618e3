//! unix(7) sockets: socketpair(2), named stream, datagram and seqpacket sockets, passing of
//! descriptors and credentials.

use crate::case::*;
use crate::control::{receive_control, send_files};
use std::ffi::CStr;
use std::ptr::{null, null_mut};

fn address(path: &CStr) -> (sockaddr_un, socklen_t) {
    let mut addr = zeroed::<sockaddr_un>();
    addr.sun_family = AF_UNIX as u16;
    for (to, from) in addr.sun_path.iter_mut().zip(path.to_bytes_with_nul()) {
        *to = *from as c_char;
    }
    (addr, (2 + path.to_bytes_with_nul().len()) as socklen_t)
}

fn bind_raw(fd: c_int, path: &CStr) -> c_int {
    let (addr, len) = address(path);
    raw!(bind(fd, (&raw const addr).cast(), len))
}

fn connect_raw(fd: c_int, path: &CStr) -> c_int {
    let (addr, len) = address(path);
    raw!(connect(fd, (&raw const addr).cast(), len))
}

fn new_socket(kind: c_int) -> Outcome<c_int> {
    Ok(ok!(socket(AF_UNIX, kind | SOCK_CLOEXEC, 0)))
}

fn listener(path: &CStr) -> Outcome<c_int> {
    let fd = new_socket(SOCK_STREAM)?;
    succeeded("bind", bind_raw(fd, path))?;
    ok!(listen(fd, 5));
    Ok(fd)
}

fn send_text(fd: c_int, text: &[u8], flags: c_int) -> isize {
    raw!(send(fd, text.as_ptr().cast(), text.len(), flags))
}

/// Receives one byte; the control message's type and payload.
fn receive_one(fd: c_int, flags: c_int) -> Outcome<Option<(c_int, Vec<u8>)>> {
    let (bytes, found, _) = receive_control(fd, 1, 128, None, flags)?;
    eq("received", bytes.len(), 1)?;
    Ok(found.into_iter().next().map(|(_, kind, data)| (kind, data)))
}

fn option(fd: c_int, name: c_int) -> Outcome<c_int> {
    let mut value: c_int = -1;
    let mut len = 4;
    ok!(getsockopt(
        fd,
        SOL_SOCKET,
        name,
        (&raw mut value).cast(),
        &mut len
    ));
    Ok(value)
}

pub static CASES: &[Case] = &[
    Case::new(
        "socketpair.stream",
        "socketpair(2)",
        "both ends read and write; bytes, no boundaries",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            write_all(a, b"ab")?;
            write_all(a, b"cd")?;
            eq("at b", read_some(b, 16)?, b"abcd".to_vec())?;
            write_all(b, b"back")?;
            eq("at a", read_some(a, 16)?, b"back".to_vec())
        },
    ),
    Case::new(
        "socketpair.datagram",
        "socketpair(2)",
        "datagrams keep boundaries; the rest is cut off",
        || {
            for kind in [SOCK_DGRAM, SOCK_SEQPACKET] {
                let (a, b) = socket_pair(kind)?;
                write_all(a, b"abcd")?;
                write_all(a, b"ef")?;
                eq("first", read_some(b, 2)?, b"ab".to_vec())?;
                eq("second", read_some(b, 16)?, b"ef".to_vec())?;
            }
            Ok(())
        },
    ),
    Case::new(
        "socketpair.errors",
        "socketpair(2)",
        "EAFNOSUPPORT, EINVAL, EPROTONOSUPPORT, EFAULT",
        || {
            let mut fds = [0; 2];
            err!(
                EAFNOSUPPORT,
                socketpair(99, SOCK_STREAM, 0, fds.as_mut_ptr())
            );
            err!(EINVAL, socketpair(AF_UNIX, 99, 0, fds.as_mut_ptr()));
            err!(
                EPROTONOSUPPORT,
                socketpair(AF_UNIX, SOCK_STREAM, 99, fds.as_mut_ptr())
            );
            err!(EFAULT, socketpair(AF_UNIX, SOCK_STREAM, 0, bad_ptr()));
            Ok(())
        },
    ),
    Case::new(
        "socketpair.flags",
        "socket(2)",
        "SOCK_NONBLOCK and SOCK_CLOEXEC",
        || {
            let (a, _b) = socket_pair(SOCK_STREAM | SOCK_NONBLOCK)?;
            gives!(FD_CLOEXEC, fcntl(a, F_GETFD));
            let mut b = 0u8;
            err!(EAGAIN, read(a, (&raw mut b).cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "socket.eof_and_epipe",
        "unix(7)",
        "a closed peer: end of file, then EPIPE",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            write_all(b, b"x")?;
            ok!(close(b));
            eq("data", read_some(a, 4)?.len(), 1)?;
            eq("end of file", read_some(a, 4)?.len(), 0)?;
            failed_with(
                "send(MSG_NOSIGNAL)",
                send_text(a, b"x", MSG_NOSIGNAL),
                &[EPIPE],
            )?;
            let pid = child(|| send_text(a, b"x", 0) as i32)?;
            expect_signal(pid, SIGPIPE)
        },
    ),
    Case::new(
        "socket.reset",
        "unix(7)",
        "a peer closed with unread data: ECONNRESET",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            write_all(a, b"unread")?;
            ok!(close(b));
            let mut byte = 0u8;
            err!(ECONNRESET, read(a, (&raw mut byte).cast(), 1));
            gives!(0, read(a, (&raw mut byte).cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "socket.shutdown",
        "shutdown(2)",
        "each direction ends on its own",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            ok!(shutdown(a, SHUT_WR));
            eq("end of file at b", read_some(b, 4)?.len(), 0)?;
            write_all(b, b"still")?;
            eq("other direction", read_some(a, 8)?, b"still".to_vec())?;
            failed_with("send", send_text(a, b"x", MSG_NOSIGNAL), &[EPIPE])?;
            err!(EINVAL, shutdown(a, 99));
            err!(ENOTSOCK, shutdown(put(c"f", b"")?, SHUT_RD));
            Ok(())
        },
    ),
    Case::new(
        "socket.peek_and_dontwait",
        "recv(2)",
        "MSG_PEEK leaves the data, MSG_DONTWAIT gives EAGAIN",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let mut buf = [0u8; 8];
            err!(EAGAIN, recv(a, buf.as_mut_ptr().cast(), 8, MSG_DONTWAIT));
            write_all(b, b"abc")?;
            gives!(3, recv(a, buf.as_mut_ptr().cast(), 8, MSG_PEEK));
            gives!(3, recv(a, buf.as_mut_ptr().cast(), 8, 0));
            Ok(())
        },
    ),
    Case::new(
        "socket.trunc",
        "recv(2)",
        "MSG_TRUNC returns a datagram's real length",
        || {
            let (a, b) = socket_pair(SOCK_DGRAM)?;
            write_all(b, b"abcdef")?;
            let mut buf = [0u8; 2];
            gives!(6, recv(a, buf.as_mut_ptr().cast(), 2, MSG_TRUNC));
            Ok(())
        },
    ),
    Case::new(
        "socket.waitall",
        "recv(2)",
        "MSG_WAITALL waits for all bytes",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let pid = child(|| {
                let mut buf = [0u8; 4];
                raw!(recv(a, buf.as_mut_ptr().cast(), 4, MSG_WAITALL)) as i32
            })?;
            write_all(b, b"ab")?;
            until_asleep(pid)?;
            write_all(b, b"cd")?;
            expect_exit(pid, 4)
        },
    ),
    Case::new(
        "socket.emsgsize",
        "send(2)",
        "a datagram larger than the buffer gives EMSGSIZE",
        || {
            let (a, _b) = socket_pair(SOCK_DGRAM)?;
            let big = vec![0u8; 64 << 20];
            failed_with(
                "send(64 MiB)",
                send_text(a, &big, MSG_DONTWAIT),
                &[EMSGSIZE, ENOBUFS],
            )
        },
    ),
    Case::new(
        "socket.full",
        "send(2)",
        "a full stream gives EAGAIN and is writable again later",
        || {
            let (a, b) = socket_pair(SOCK_STREAM | SOCK_NONBLOCK)?;
            let block = [0u8; 4096];
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
            let mut fds = [pollfd {
                fd: a,
                events: POLLOUT,
                revents: 0,
            }];
            gives!(0, poll(fds.as_mut_ptr(), 1, 0));
            while !read_some(b, 1 << 20).unwrap_or_default().is_empty() {}
            gives!(1, poll(fds.as_mut_ptr(), 1, 0));
            Ok(())
        },
    ),
    Case::new(
        "socket.send_timeout",
        "socket(7)",
        "SO_RCVTIMEO ends a wait with EAGAIN",
        || {
            let (a, _b) = socket_pair(SOCK_STREAM)?;
            let time = timeval {
                tv_sec: 0,
                tv_usec: 20_000,
            };
            ok!(setsockopt(
                a,
                SOL_SOCKET,
                SO_RCVTIMEO,
                (&raw const time).cast(),
                16
            ));
            let before = ns(now(CLOCK_MONOTONIC)?);
            let mut b = 0u8;
            err!(EAGAIN, read(a, (&raw mut b).cast(), 1));
            let took = ns(now(CLOCK_MONOTONIC)?) - before;
            ensure!(
                took >= 15_000_000,
                "returned after {took} ns, expected about 20 ms"
            );
            Ok(())
        },
    ),
    Case::new(
        "socket.options",
        "socket(7)",
        "SO_TYPE, SO_DOMAIN, SO_ERROR, SO_ACCEPTCONN",
        || {
            let (a, _b) = socket_pair(SOCK_SEQPACKET)?;
            eq("SO_TYPE", option(a, SO_TYPE)?, SOCK_SEQPACKET)?;
            eq("SO_DOMAIN", option(a, SO_DOMAIN)?, AF_UNIX)?;
            eq("SO_ERROR", option(a, SO_ERROR)?, 0)?;
            eq("SO_ACCEPTCONN", option(a, SO_ACCEPTCONN)?, 0)?;
            eq("SO_ACCEPTCONN", option(listener(c"s")?, SO_ACCEPTCONN)?, 1)?;
            let mut len = 4;
            let mut value = 0;
            let at = (&raw mut value).cast();
            err!(ENOPROTOOPT, getsockopt(a, SOL_SOCKET, 9999, at, &mut len));
            err!(
                ENOTSOCK,
                getsockopt(put(c"f", b"")?, SOL_SOCKET, SO_TYPE, at, &mut len)
            );
            err!(EBADF, getsockopt(-1, SOL_SOCKET, SO_TYPE, at, &mut len));
            Ok(())
        },
    ),
    Case::new(
        "socket.bind_connect",
        "unix(7)",
        "a named stream socket accepts connections",
        || {
            let server = listener(c"s")?;
            eq_octal("type", stat_of(c"s")?.st_mode & S_IFMT, S_IFSOCK)?;
            let client = new_socket(SOCK_STREAM)?;
            succeeded("connect", connect_raw(client, c"s"))?;
            let peer = ok!(accept4(server, null_mut(), null_mut(), SOCK_CLOEXEC));
            write_all(client, b"hi")?;
            eq("data", read_some(peer, 8)?, b"hi".to_vec())
        },
    ),
    Case::new(
        "socket.bind_errors",
        "unix(7)",
        "EADDRINUSE, EINVAL twice, ENOENT, ENOTDIR",
        || {
            let _server = listener(c"s")?;
            let fd = new_socket(SOCK_STREAM)?;
            failed_with("bind(taken)", bind_raw(fd, c"s"), &[EADDRINUSE])?;
            failed_with("bind(no directory)", bind_raw(fd, c"x/s"), &[ENOENT])?;
            succeeded("bind(t)", bind_raw(fd, c"t"))?;
            failed_with("bind(again)", bind_raw(fd, c"u"), &[EINVAL])?;
            let (mut addr, len) = address(c"v");
            addr.sun_family = AF_INET as u16;
            err!(
                EINVAL,
                bind(new_socket(SOCK_STREAM)?, (&raw const addr).cast(), len)
            );
            Ok(())
        },
    ),
    Case::new(
        "socket.connect_errors",
        "connect(2)",
        "ENOENT, ECONNREFUSED, EPROTOTYPE, EISCONN",
        || {
            let fd = new_socket(SOCK_STREAM)?;
            failed_with("connect(missing)", connect_raw(fd, c"missing"), &[ENOENT])?;
            put(c"f", b"")?;
            failed_with("connect(file)", connect_raw(fd, c"f"), &[ECONNREFUSED])?;
            let server = listener(c"s")?;
            let dgram = new_socket(SOCK_DGRAM)?;
            failed_with(
                "connect(wrong type)",
                connect_raw(dgram, c"s"),
                &[EPROTOTYPE],
            )?;
            succeeded("connect", connect_raw(fd, c"s"))?;
            failed_with("connect(again)", connect_raw(fd, c"s"), &[EISCONN])?;
            ok!(close(server));
            let late = new_socket(SOCK_STREAM)?;
            failed_with(
                "connect(closed listener)",
                connect_raw(late, c"s"),
                &[ECONNREFUSED],
            )
        },
    ),
    Case::new(
        "socket.accept_errors",
        "accept(2)",
        "EINVAL when not listening, EAGAIN, ENOTSOCK, EOPNOTSUPP",
        || {
            err!(
                EINVAL,
                accept(new_socket(SOCK_STREAM)?, null_mut(), null_mut())
            );
            err!(
                EOPNOTSUPP,
                accept(new_socket(SOCK_DGRAM)?, null_mut(), null_mut())
            );
            err!(ENOTSOCK, accept(put(c"f", b"")?, null_mut(), null_mut()));
            let server = listener(c"s")?;
            ok!(fcntl(server, F_SETFL, O_NONBLOCK));
            err!(EAGAIN, accept(server, null_mut(), null_mut()));
            err!(EINVAL, accept4(server, null_mut(), null_mut(), 1 << 20));
            Ok(())
        },
    ),
    Case::new(
        "socket.abstract",
        "unix(7)",
        "an abstract name needs no file and ends with the socket",
        || {
            let name = format!("conformance-{}", getpid_now());
            let mut addr = zeroed::<sockaddr_un>();
            addr.sun_family = AF_UNIX as u16;
            for (to, from) in addr.sun_path[1..].iter_mut().zip(name.as_bytes()) {
                *to = *from as c_char;
            }
            let len = (3 + name.len()) as socklen_t;
            let at: *const sockaddr = (&raw const addr).cast();
            let server = new_socket(SOCK_STREAM)?;
            ok!(bind(server, at, len));
            ok!(listen(server, 1));
            ok!(connect(new_socket(SOCK_STREAM)?, at, len));
            err!(EADDRINUSE, bind(new_socket(SOCK_STREAM)?, at, len));
            ok!(close(server));
            err!(ECONNREFUSED, connect(new_socket(SOCK_STREAM)?, at, len));
            Ok(())
        },
    ),
    Case::new(
        "socket.getsockname",
        "getsockname(2)",
        "names of both ends, unnamed ones have length 2",
        || {
            let server = listener(c"s")?;
            let mut addr = zeroed::<sockaddr_un>();
            let mut len = size_of::<sockaddr_un>() as socklen_t;
            ok!(getsockname(server, (&raw mut addr).cast(), &mut len));
            eq("length", len, 4)?;
            eq(
                "name",
                (addr.sun_path[0], addr.sun_path[1]),
                (b's' as c_char, 0),
            )?;
            let (a, _b) = socket_pair(SOCK_STREAM)?;
            len = size_of::<sockaddr_un>() as socklen_t;
            ok!(getpeername(a, (&raw mut addr).cast(), &mut len));
            eq("length of an unnamed one", len, 2)?;
            err!(
                ENOTCONN,
                getpeername(server, (&raw mut addr).cast(), &mut len)
            );
            Ok(())
        },
    ),
    Case::new(
        "socket.dgram_named",
        "unix(7)",
        "sendto a name; the sender's name is told",
        || {
            let (a, b) = (new_socket(SOCK_DGRAM)?, new_socket(SOCK_DGRAM)?);
            succeeded("bind(a)", bind_raw(a, c"a"))?;
            succeeded("bind(b)", bind_raw(b, c"b"))?;
            let (to, len) = address(c"b");
            gives!(
                2,
                sendto(a, c"hi".as_ptr().cast(), 2, 0, (&raw const to).cast(), len)
            );
            let mut from = zeroed::<sockaddr_un>();
            let mut from_len = size_of::<sockaddr_un>() as socklen_t;
            let mut buf = [0u8; 8];
            gives!(
                2,
                recvfrom(
                    b,
                    buf.as_mut_ptr().cast(),
                    8,
                    0,
                    (&raw mut from).cast(),
                    &mut from_len
                )
            );
            eq("sender", from.sun_path[0], b'a' as c_char)?;
            err!(ENOTCONN, send(a, c"x".as_ptr().cast(), 1, 0));
            Ok(())
        },
    ),
    Case::new(
        "socket.not_connected",
        "send(2)",
        "an unconnected stream gives ENOTCONN or EPIPE",
        || {
            let fd = new_socket(SOCK_STREAM)?;
            failed_with("send", send_text(fd, b"x", MSG_NOSIGNAL), &[ENOTCONN])?;
            let mut b = 0u8;
            err!(EINVAL, recv(fd, (&raw mut b).cast(), 1, 0));
            Ok(())
        },
    ),
    Case::new(
        "scm.rights",
        "unix(7)",
        "SCM_RIGHTS passes an open file description",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let fd = put(c"f", b"abcdef")?;
            gives!(2, lseek(fd, 2, SEEK_SET));
            eq("sendmsg", send_files(a, &[fd], 0), 1)?;
            ok!(close(fd));
            let found = receive_one(b, MSG_CMSG_CLOEXEC)?;
            let Some((SCM_RIGHTS, bytes)) = found else {
                fail!("no SCM_RIGHTS: {found:?}")
            };
            let got = c_int::from_ne_bytes(bytes.try_into().unwrap_or([0xff; 4]));
            eq(
                "bytes from the shared offset",
                read_some(got, 2)?,
                b"cd".to_vec(),
            )?;
            gives!(FD_CLOEXEC, fcntl(got, F_GETFD));
            Ok(())
        },
    ),
    Case::new(
        "scm.rights_ebadf",
        "unix(7)",
        "passing a closed descriptor gives EBADF",
        || {
            let (a, _b) = socket_pair(SOCK_STREAM)?;
            let got = send_files(a, &[999], 0);
            failed_with("sendmsg(SCM_RIGHTS 999)", got, &[EBADF])
        },
    ),
    Case::new(
        "scm.rights_kept_alive",
        "unix(7)",
        "a descriptor in flight keeps the pipe open",
        || {
            let (a, b) = socket_pair(SOCK_DGRAM)?;
            let (r, w) = pipe_pair()?;
            eq("sendmsg", send_files(a, &[w], 0), 1)?;
            ok!(close(w));
            ok!(fcntl(r, F_SETFL, O_NONBLOCK));
            let mut byte = 0u8;
            err!(EAGAIN, read(r, (&raw mut byte).cast(), 1));
            ok!(close(b));
            gives!(0, read(r, (&raw mut byte).cast(), 1));
            Ok(())
        },
    ),
    Case::new(
        "scm.credentials",
        "unix(7)",
        "SO_PASSCRED tells the sender's ids",
        || {
            let (a, b) = socket_pair(SOCK_DGRAM)?;
            let on: c_int = 1;
            ok!(setsockopt(
                b,
                SOL_SOCKET,
                SO_PASSCRED,
                (&raw const on).cast(),
                4
            ));
            write_all(a, b"x")?;
            let found = receive_one(b, 0)?;
            let Some((SCM_CREDENTIALS, bytes)) = found else {
                fail!("no SCM_CREDENTIALS: {found:?}")
            };
            let word =
                |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
            let want = (getpid_now() as u32, raw!(getuid()), raw!(getgid()));
            eq("pid, uid, gid", (word(0), word(4), word(8)), want)
        },
    ),
    Case::new(
        "scm.peercred",
        "unix(7)",
        "SO_PEERCRED tells who made the pair or connected",
        || {
            let (a, _b) = socket_pair(SOCK_STREAM)?;
            let mut cred = zeroed::<ucred>();
            let mut len = size_of::<ucred>() as socklen_t;
            ok!(getsockopt(
                a,
                SOL_SOCKET,
                SO_PEERCRED,
                (&raw mut cred).cast(),
                &mut len
            ));
            eq(
                "pid, uid",
                (cred.pid, cred.uid),
                (getpid_now(), raw!(geteuid())),
            )
        },
    ),
    Case::new(
        "socket.sendmmsg",
        "sendmmsg(2)",
        "several messages in one call, both ways",
        || {
            let (a, b) = socket_pair(SOCK_DGRAM)?;
            let (mut one, mut two) = (*b"1", *b"22");
            let mut iov = [
                iovec {
                    iov_base: one.as_mut_ptr().cast(),
                    iov_len: 1,
                },
                iovec {
                    iov_base: two.as_mut_ptr().cast(),
                    iov_len: 2,
                },
            ];
            let mut messages = [zeroed::<mmsghdr>(), zeroed::<mmsghdr>()];
            for (message, iov) in messages.iter_mut().zip(iov.iter_mut()) {
                message.msg_hdr.msg_iov = iov;
                message.msg_hdr.msg_iovlen = 1;
            }
            gives!(2, sendmmsg(a, messages.as_mut_ptr(), 2, 0));
            eq(
                "lengths",
                (messages[0].msg_len, messages[1].msg_len),
                (1, 2),
            )?;
            gives!(
                2,
                recvmmsg(b, messages.as_mut_ptr(), 2, MSG_DONTWAIT, null_mut())
            );
            Ok(())
        },
    ),
    Case::new(
        "socket.errors",
        "socket(2)",
        "EAFNOSUPPORT, EINVAL, EPROTONOSUPPORT",
        || {
            err!(EAFNOSUPPORT, socket(99, SOCK_STREAM, 0));
            err!(EINVAL, socket(AF_UNIX, SOCK_STREAM | 1 << 20, 0));
            err!(EPROTONOSUPPORT, socket(AF_UNIX, SOCK_STREAM, 99));
            err!(ENOTSOCK, listen(put(c"f", b"")?, 1));
            err!(EBADF, listen(-1, 1));
            err!(EFAULT, bind(new_socket(SOCK_STREAM)?, null(), 4));
            Ok(())
        },
    ),
    Case::new(
        "socket.urgent",
        "unix(7)",
        "MSG_OOB on a stream: one byte apart, POLLPRI, the mark, in line; only the last counts",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let mut byte = 0u8;
            let at = (&raw mut byte).cast();
            err!(EINVAL, recv(b, at, 1, MSG_OOB));
            failed_with("empty", send_text(a, b"", MSG_OOB), &[EOPNOTSUPP])?;
            eq("send", send_text(a, b"abU", MSG_OOB), 3)?;
            write_all(a, b"de")?;
            let mut fds = [pollfd {
                fd: b,
                events: POLLIN | POLLPRI,
                revents: 0,
            }];
            gives!(1, poll(fds.as_mut_ptr(), 1, 0));
            eq("poll", fds[0].revents, POLLIN | POLLPRI)?;
            gives!(1, recv(b, at, 1, MSG_OOB | MSG_PEEK));
            gives!(1, recv(b, at, 1, MSG_OOB));
            eq("urgent", byte, b'U')?;
            err!(EINVAL, recv(b, at, 1, MSG_OOB));
            eq("up to the mark", read_some(b, 9)?, b"ab".to_vec())?;
            let mut mark = 0;
            ok!(ioctl(b, 0x8905, &mut mark));
            eq("mark", mark, 1)?;
            eq("behind", read_some(b, 9)?, b"de".to_vec())?;
            // A second one makes the first an ordinary byte.
            eq("send", send_text(a, b"aU", MSG_OOB), 2)?;
            eq("send", send_text(a, b"bV", MSG_OOB), 2)?;
            eq("first", read_some(b, 9)?, b"aUb".to_vec())?;
            err!(EAGAIN, recv(b, at, 1, MSG_DONTWAIT));
            let on = 1;
            let on = (&raw const on).cast();
            ok!(setsockopt(b, SOL_SOCKET, SO_OOBINLINE, on, 4));
            eq("send", send_text(a, b"aU", MSG_OOB), 2)?;
            err!(EINVAL, recv(b, at, 1, MSG_OOB));
            eq("before", read_some(b, 9)?, b"a".to_vec())?;
            eq("in line", read_some(b, 9)?, b"U".to_vec())?;
            let (c, _d) = socket_pair(SOCK_DGRAM)?;
            failed_with("datagram", send_text(c, b"x", MSG_OOB), &[EOPNOTSUPP])
        },
    ),
];
