//! unix(7): what is in flight, and who the peer is: limits and circles of sent sockets, process
//! descriptors and groups.

use crate::case::*;
use crate::control;
use std::ffi::CStr;

/// asm-generic/socket.h and linux/socket.h, not in libc.
const SO_PASSPIDFD: c_int = 76;
const SO_PEERPIDFD: c_int = 77;
const SCM_PIDFD: c_int = 4;

/// Sends one byte with these descriptors; what sendmsg(2) says.
fn send_files(to: c_int, files: &[c_int]) -> isize {
    control::send_files(to, files, MSG_DONTWAIT)
}

/// Type and payload of a control message.
type Message = (c_int, Vec<u8>);

/// The control messages that come with one, within `room` bytes; msg_flags.
fn receive(from: c_int, room: usize) -> Outcome<(Vec<Message>, c_int)> {
    let (_, found, flags) = control::receive_control(from, 8, room, None, 0)?;
    let found = found.into_iter().map(|(_, kind, data)| (kind, data));
    Ok((found.collect(), flags))
}

/// An option's value and the length told; `room` bytes at most are taken.
fn option(fd: c_int, name: c_int, room: usize) -> (c_int, Vec<u8>, socklen_t) {
    let mut value = [0xeeu8; 256];
    let mut len = room as socklen_t;
    let result = raw!(getsockopt(
        fd,
        SOL_SOCKET,
        name,
        value.as_mut_ptr().cast(),
        &mut len
    ));
    let told = (len as usize).min(room);
    (result, value[..told].to_vec(), len)
}

fn set(fd: c_int, name: c_int, value: c_int) -> c_int {
    raw!(setsockopt(
        fd,
        SOL_SOCKET,
        name,
        (&raw const value).cast(),
        4
    ))
}

fn number(bytes: &[u8]) -> Outcome<c_int> {
    match bytes.try_into() {
        Ok(bytes) => Ok(c_int::from_ne_bytes(bytes)),
        Err(_) => fail!("{bytes:?} is no number"),
    }
}

/// The process that a descriptor stands for, as /proc tells.
fn process_of(fd: c_int) -> Outcome<String> {
    field(&slurp(&format!("/proc/self/fdinfo/{fd}"))?, "Pid")
}

fn need_process_options(fd: c_int) -> Outcome {
    if option(fd, SO_PEERPIDFD, 4).0 != 0 && errno() == ENOPROTOOPT {
        skip!("needs Linux 6.5");
    }
    Ok(())
}

fn listener(name: &CStr) -> Outcome<(c_int, sockaddr_un, socklen_t)> {
    let mut addr = zeroed::<sockaddr_un>();
    addr.sun_family = AF_UNIX as u16;
    for (to, from) in addr.sun_path.iter_mut().zip(name.to_bytes()) {
        *to = *from as c_char;
    }
    let len = (2 + name.to_bytes().len() + 1) as socklen_t;
    let fd = ok!(socket(AF_UNIX, SOCK_STREAM, 0));
    ok!(bind(fd, (&raw const addr).cast(), len));
    ok!(listen(fd, 5));
    Ok((fd, addr, len))
}

/// Closes other sockets, which is when circles are looked for, until `fd` tells its end.
fn until_ended(fd: c_int) -> Outcome<c_short> {
    let give_up = ns(now(CLOCK_MONOTONIC)?) + 5_000_000_000;
    loop {
        let (a, b) = socket_pair(SOCK_STREAM)?;
        ok!(close(a));
        ok!(close(b));
        let mut fds = [pollfd {
            fd,
            events: POLLIN,
            revents: 0,
        }];
        if ok!(poll(fds.as_mut_ptr(), 1, 10)) == 1 {
            return Ok(fds[0].revents);
        }
        let late = ns(now(CLOCK_MONOTONIC)?) > give_up;
        ensure!(!late, "what only circles of sockets hold never ended");
    }
}

pub static CASES: &[Case] = &[
    Case::new(
        "inflight.limit",
        "unix(7)",
        "ETOOMANYREFS once a user has more descriptors in flight than it may have open",
        || {
            let (a, b) = socket_pair(SOCK_DGRAM)?;
            let files = [a; 20];
            let limit = rlimit {
                rlim_cur: 39,
                rlim_max: 39,
            };
            let two = || -> Outcome {
                ok!(setrlimit(RLIMIT_NOFILE, &limit));
                for _ in 0..2 {
                    eq("sent", send_files(a, &files), 1)?;
                }
                failed_with("sendmsg", send_files(a, &files[..1]), &[ETOOMANYREFS])?;
                receive(b, 0)?;
                eq("with room again", send_files(a, &files), 1)?;
                failed_with("sendmsg", send_files(a, &files[..1]), &[ETOOMANYREFS])
            };
            match is_root() {
                true => as_user(two),
                false => in_child(two),
            }?;
            if !has_cap(24) {
                return Ok(());
            }
            // CAP_SYS_RESOURCE.
            ok!(setrlimit(RLIMIT_NOFILE, &limit));
            let (c, _d) = socket_pair(SOCK_DGRAM)?;
            for _ in 0..5 {
                eq("sent with privileges", send_files(c, &files), 1)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "inflight.circle",
        "unix(7)",
        "a socket that only lies in its own queue ends, and its peer is told",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            eq("sent", send_files(a, &[b]), 1)?;
            ok!(close(b));
            eq("told", until_ended(a)?, POLLIN | POLLHUP)?;
            eq("the end", read_some(a, 9)?, vec![])?;
            err!(EPIPE, send(a, c"x".as_ptr().cast(), 1, MSG_NOSIGNAL));
            Ok(())
        },
    ),
    Case::new(
        "inflight.circles",
        "unix(7)",
        "circles of several sockets end, with all that lies in them",
        || {
            for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
                let (r, w) = pipe_pair()?;
                let (a, b) = socket_pair(kind)?;
                let (c, d) = socket_pair(kind)?;
                eq("sent", send_files(a, &[c, d, w]), 1)?;
                eq("sent", send_files(c, &[a, b]), 1)?;
                for fd in [a, b, c, d, w] {
                    ok!(close(fd));
                }
                eq("the pipe", until_ended(r)?, POLLHUP)?;
            }
            // A connection that nobody has accepted holds its own listener.
            let (r, w) = pipe_pair()?;
            let (fd, addr, len) = listener(c"circle")?;
            let client = ok!(socket(AF_UNIX, SOCK_STREAM, 0));
            ok!(connect(client, (&raw const addr).cast(), len));
            eq("sent", send_files(client, &[fd, w]), 1)?;
            ok!(close(fd));
            ok!(close(w));
            eq("the pipe", until_ended(r)?, POLLHUP)
        },
    ),
    Case::new(
        "inflight.for_ever",
        "unix(7)",
        "whoever makes circles for ever, with data in them, uses up nothing",
        || {
            let data = vec![b'd'; 60_000];
            for round in 0..3_000 {
                let (a, b) = socket_pair(SOCK_STREAM)?;
                for (to, other) in [(a, b), (b, a)] {
                    let sent = raw!(send(to, data.as_ptr().cast(), data.len(), MSG_DONTWAIT));
                    ensure!(sent == 60_000, "round {round}: sent {sent}");
                    ensure!(send_files(to, &[other]) == 1, "round {round}: not sent");
                }
                ok!(close(a));
                ok!(close(b));
            }
            Ok(())
        },
    ),
    Case::new(
        "inflight.not_a_circle",
        "unix(7)",
        "what can still be received is kept, circle or not",
        || {
            let (r, w) = pipe_pair()?;
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let (c, d) = socket_pair(SOCK_STREAM)?;
            // d lies in its own queue, with the pipe, and in b's.
            eq("sent", send_files(c, &[d, w]), 1)?;
            eq("sent", send_files(a, &[d]), 1)?;
            ok!(close(d));
            ok!(close(w));
            for _ in 0..200 {
                let (x, y) = socket_pair(SOCK_STREAM)?;
                ok!(close(x));
                ok!(close(y));
            }
            let (found, _) = receive(b, 200)?;
            let d = match &found[..] {
                [(SCM_RIGHTS, data)] => number(data)?,
                other => fail!("expected a descriptor, got {other:?}"),
            };
            let (found, _) = receive(d, 200)?;
            let w = match &found[..] {
                [(SCM_RIGHTS, data)] if data.len() == 8 => number(&data[4..])?,
                other => fail!("expected two descriptors, got {other:?}"),
            };
            write_all(w, b"kept")?;
            eq("the pipe", read_some(r, 9)?, b"kept".to_vec())
        },
    ),
    Case::new(
        "peer.process",
        "unix(7)",
        "SO_PEERPIDFD is a descriptor for the peer's process, closed on exec",
        || {
            for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
                let (a, _b) = socket_pair(kind)?;
                need_process_options(a)?;
                let (result, value, _) = option(a, SO_PEERPIDFD, 9);
                eq("getsockopt", (result, value.len()), (0, 4))?;
                let fd = number(&value)?;
                gives!(FD_CLOEXEC, fcntl(fd, F_GETFD));
                eq("process", process_of(fd)?, getpid_now().to_string())?;
                err!(
                    ENOPROTOOPT,
                    setsockopt(a, SOL_SOCKET, SO_PEERPIDFD, (&raw const fd).cast(), 4)
                );
            }
            let (fd, addr, len) = listener(c"process")?;
            let own = number(&option(fd, SO_PEERPIDFD, 4).1)?;
            eq("a listener", process_of(own)?, getpid_now().to_string())?;
            let pid = child(|| {
                let fd = raw!(socket(AF_UNIX, SOCK_STREAM, 0));
                let done = raw!(connect(fd, (&raw const addr).cast(), len));
                raw!(pause());
                done
            })?;
            let accepted = ok!(accept(fd, std::ptr::null_mut(), std::ptr::null_mut()));
            let theirs = number(&option(accepted, SO_PEERPIDFD, 4).1)?;
            eq("a client", process_of(theirs)?, pid.to_string())?;
            gives!(0, kill(pid, SIGKILL));
            let mut fds = [pollfd {
                fd: theirs,
                events: POLLIN,
                revents: 0,
            }];
            gives!(1, poll(fds.as_mut_ptr(), 1, 5000));
            wait_for(pid)?;
            for (family, kind) in [(AF_UNIX, SOCK_STREAM), (AF_INET, SOCK_STREAM)] {
                let fd = ok!(socket(family, kind, 0));
                let (result, ..) = option(fd, SO_PEERPIDFD, 4);
                failed_with("without a peer", result, &[ENODATA])?;
            }
            Ok(())
        },
    ),
    Case::new(
        "peer.groups",
        "unix(7)",
        "SO_PEERGROUPS are the peer's groups; ERANGE and their length without room",
        || {
            need_cap(6, "CAP_SETGID")?;
            let groups = [5, 70, 9];
            ok!(setgroups(3, groups.as_ptr()));
            let (a, _b) = socket_pair(SOCK_STREAM)?;
            ok!(setgroups(0, std::ptr::null()));
            let (result, value, len) = option(a, SO_PEERGROUPS, 100);
            eq("getsockopt", (result, len), (0, 12))?;
            let mut told: Vec<_> = value.chunks(4).map(number).collect::<Outcome<_>>()?;
            told.sort_unstable();
            eq("groups", told, vec![5, 9, 70])?;
            for room in [8, 0] {
                let (result, _, len) = option(a, SO_PEERGROUPS, room);
                failed_with("without room", result, &[ERANGE])?;
                eq("length", len, 12)?;
            }
            let fd = ok!(socket(AF_UNIX, SOCK_STREAM, 0));
            failed_with("no peer", option(fd, SO_PEERGROUPS, 9).0, &[ENODATA])
        },
    ),
    Case::new(
        "peer.passpidfd",
        "unix(7)",
        "SO_PASSPIDFD: messages come with a descriptor for the sender's process",
        || {
            for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
                let (a, b) = socket_pair(kind)?;
                need_process_options(a)?;
                eq("default", option(a, SO_PASSPIDFD, 4).1, vec![0; 4])?;
                eq("setsockopt", set(a, SO_PASSPIDFD, 7), 0)?;
                eq("set", option(a, SO_PASSPIDFD, 4).1, vec![1, 0, 0, 0])?;
                let pid = child(|| {
                    let sent = send_files(b, &[b]);
                    raw!(pause());
                    sent as i32
                })?;
                let (found, flags) = receive(a, 300)?;
                let kinds: Vec<_> = found.iter().map(|(kind, _)| *kind).collect();
                eq("messages", (kinds, flags), (vec![SCM_RIGHTS, SCM_PIDFD], 0))?;
                let fd = number(&found[1].1)?;
                gives!(FD_CLOEXEC, fcntl(fd, F_GETFD));
                eq("process", process_of(fd)?, pid.to_string())?;
                gives!(0, kill(pid, SIGKILL));
                wait_for(pid)?;
                eq("SO_PASSCRED", set(a, SO_PASSCRED, 1), 0)?;
                write_all(b, b"x")?;
                let (found, _) = receive(a, 300)?;
                let kinds: Vec<_> = found.iter().map(|(kind, _)| *kind).collect();
                eq("messages", kinds, vec![SCM_CREDENTIALS, SCM_PIDFD])?;
                write_all(b, b"x")?;
                let (found, flags) = receive(a, 40)?;
                eq("without room", (found.len(), flags), (1, MSG_CTRUNC))?;
            }
            Ok(())
        },
    ),
];
