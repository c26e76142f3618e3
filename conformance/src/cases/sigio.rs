//! fcntl(2), "Managing signals": SIGIO and SIGURG from sockets, pipes and terminals.

use crate::case::*;
use crate::inet::*;
use std::ptr::null_mut;

const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;
const F_SETOWN_EX: c_int = 15;
const F_GETOWN_EX: c_int = 16;
const FIOSETOWN: c_ulong = 0x8901;
const SIOCSPGRP: c_ulong = 0x8902;
const FIOGETOWN: c_ulong = 0x8903;
const SIOCGPGRP: c_ulong = 0x8904;
const POLL_IN: c_int = 1;
const POLL_OUT: c_int = 2;
const POLL_ERR: c_int = 4;
const POLL_PRI: c_int = 5;
const POLL_HUP: c_int = 6;

/// Blocks these signals: they wait to be taken.
fn hold(signals: &[c_int]) -> Outcome<sigset_t> {
    let mut set = zeroed::<sigset_t>();
    ok!(sigemptyset(&mut set));
    for s in signals {
        ok!(sigaddset(&mut set, *s));
    }
    ok!(sigprocmask(SIG_BLOCK, &set, null_mut()));
    Ok(set)
}

/// A signal that waits: its number, si_code, si_band and si_fd. Terminals tell it a moment later.
fn taken(set: &sigset_t) -> Outcome<(c_int, c_int, i64, c_int)> {
    let mut info = zeroed::<siginfo_t>();
    let wait = timespec {
        tv_sec: 2,
        tv_nsec: 0,
    };
    ok!(sigtimedwait(set, &mut info, &wait));
    let words: [i32; 32] = unsafe { std::mem::transmute(info) };
    let band = i64::from(words[4] as u32) | i64::from(words[5]) << 32;
    Ok((info.si_signo, info.si_code, band, words[6]))
}

fn none(what: &str, set: &sigset_t) -> Outcome {
    let mut info = zeroed::<siginfo_t>();
    let got = raw!(sigtimedwait(set, &mut info, &zeroed::<timespec>()));
    ensure!(
        got == -1,
        "{what}: signal {got} with code {} nobody waited for",
        info.si_code
    );
    Ok(())
}

/// Takes whatever waits.
fn drain(set: &sigset_t) {
    while raw!(sigtimedwait(set, null_mut(), &zeroed::<timespec>())) != -1 {}
}

/// This process gets `signal` from now on (0: SIGIO without details).
fn own(fd: c_int, signal: c_int) -> Outcome {
    ok!(fcntl(fd, F_SETOWN, raw!(getpid())));
    ok!(fcntl(fd, F_SETSIG, signal));
    let flags = ok!(fcntl(fd, F_GETFL));
    ok!(fcntl(fd, F_SETFL, flags | O_ASYNC));
    Ok(())
}

fn in_band() -> i64 {
    i64::from(POLLIN | POLLRDNORM)
}

fn pid() -> c_int {
    raw!(getpid())
}

fn owner_ex(fd: c_int) -> Outcome<[c_int; 2]> {
    let mut owner = [-1; 2];
    ok!(fcntl(fd, F_GETOWN_EX, owner.as_mut_ptr()));
    Ok(owner)
}

pub static CASES: &[Case] = &[
    Case::new(
        "sigio.owner",
        "fcntl(2)",
        "F_SETOWN, F_SETOWN_EX and the ioctls of sockets set one owner, who has to exist",
        || {
            let (a, _) = socket_pair(SOCK_STREAM)?;
            gives!(0, fcntl(a, F_GETOWN));
            ok!(fcntl(a, F_SETOWN, pid()));
            gives!(pid(), fcntl(a, F_GETOWN));
            eq("owner", owner_ex(a)?, [1, pid()])?;
            let group = raw!(getpgrp());
            ok!(ioctl(a, FIOSETOWN, &-group));
            eq("owner", owner_ex(a)?, [2, group])?;
            let mut told = 0;
            ok!(ioctl(a, FIOGETOWN, &mut told));
            eq("FIOGETOWN", told, -group)?;
            ok!(ioctl(a, SIOCSPGRP, &pid()));
            ok!(ioctl(a, SIOCGPGRP, &mut told));
            eq("SIOCGPGRP", told, pid())?;
            ok!(fcntl(a, F_SETOWN_EX, [0, raw!(gettid())].as_ptr()));
            eq("owner", owner_ex(a)?, [0, pid()])?;
            err!(EINVAL, fcntl(a, F_SETOWN_EX, [3, pid()].as_ptr()));
            err!(EINVAL, fcntl(a, F_SETOWN, c_int::MIN));
            let gone = child(|| 0)?;
            wait_for(gone)?;
            err!(ESRCH, fcntl(a, F_SETOWN, gone));
            err!(ESRCH, fcntl(a, F_SETOWN, -gone));
            err!(ESRCH, ioctl(a, FIOSETOWN, &gone));
            eq("owner", owner_ex(a)?, [0, pid()])?;
            ok!(fcntl(a, F_SETOWN, 0));
            gives!(0, fcntl(a, F_GETOWN));
            // An owner that ends is nobody.
            let (r, w) = pipe_pair()?;
            let short = child(|| {
                raw!(read(r, [0u8].as_mut_ptr().cast(), 1));
                0
            })?;
            ok!(fcntl(a, F_SETOWN, short));
            write_all(w, b"x")?;
            wait_for(short)?;
            gives!(0, fcntl(a, F_GETOWN));
            Ok(())
        },
    ),
    Case::new(
        "sigio.signal",
        "fcntl(2)",
        "F_SETSIG chooses a signal, 0 plain SIGIO; O_ASYNC shows in F_GETFL; FIOASYNC is it too",
        || {
            let (a, b) = socket_pair(SOCK_STREAM)?;
            err!(EINVAL, fcntl(a, F_SETSIG, 65));
            err!(EINVAL, fcntl(a, F_SETSIG, -1));
            ok!(fcntl(a, F_SETSIG, SIGUSR1));
            gives!(SIGUSR1, fcntl(a, F_GETSIG));
            ok!(fcntl(a, F_SETSIG, 0));
            ok!(fcntl(a, F_SETOWN, pid()));
            let set = hold(&[SIGIO])?;
            ok!(ioctl(a, FIOASYNC as _, &1));
            eq("flags", ok!(fcntl(a, F_GETFL)) & O_ASYNC, O_ASYNC)?;
            write_all(b, b"x")?;
            let (signal, code, _, _) = taken(&set)?;
            eq("plain", (signal, code), (SIGIO, 0x80))?;
            ok!(ioctl(a, FIOASYNC as _, &0));
            eq("flags", ok!(fcntl(a, F_GETFL)) & O_ASYNC, 0)?;
            write_all(b, b"x")?;
            none("without O_ASYNC", &set)?;
            let file = put(c"f", b"")?;
            err!(ENOTTY, ioctl(file, FIOASYNC as _, &1));
            ok!(ioctl(file, FIOASYNC as _, &0));
            // No owner: nobody is told.
            let (c, d) = socket_pair(SOCK_STREAM)?;
            ok!(fcntl(c, F_SETFL, O_ASYNC));
            write_all(d, b"x")?;
            none("without an owner", &set)
        },
    ),
    Case::new(
        "sigio.unix",
        "fcntl(2)",
        "unix sockets: data, room after a full buffer, the peer's shutdown and end",
        || {
            let set = hold(&[SIGUSR1])?;
            for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
                let (a, b) = socket_pair(kind)?;
                own(a, SIGUSR1)?;
                write_all(b, b"x")?;
                eq("data", taken(&set)?, (SIGUSR1, POLL_IN, in_band(), a))?;
                // Once a signal, however often it is told.
                write_all(b, b"y")?;
                write_all(b, b"z")?;
                taken(&set)?;
                none("twice", &set)?;
                // Reading frees room that nobody lacked.
                read_some(b, 0).ok();
                ok!(recv(a, [0u8; 8].as_mut_ptr().cast(), 8, 0));
                none("own read", &set)?;
                ok!(fcntl(a, F_SETFL, O_ASYNC | O_NONBLOCK));
                while raw!(send(a, [0u8; 4096].as_ptr().cast(), 4096, 0)) > 0 {}
                none("full", &set)?;
                nonblocking(b)?;
                while raw!(recv(b, [0u8; 4096].as_mut_ptr().cast(), 4096, 0)) > 0 {}
                let out = i64::from(POLLOUT | POLLWRNORM | POLLWRBAND);
                eq("room", taken(&set)?, (SIGUSR1, POLL_OUT, out, a))?;
                drain(&set);
                if kind != SOCK_DGRAM {
                    ok!(shutdown(b, SHUT_WR));
                    eq("shutdown", taken(&set)?, (SIGUSR1, POLL_IN, in_band(), a))?;
                    ok!(close(b));
                    let hup = i64::from(POLLHUP | POLLERR);
                    eq("close", taken(&set)?, (SIGUSR1, POLL_HUP, hup, a))?;
                }
            }
            Ok(())
        },
    ),
    Case::new(
        "sigio.tcp",
        "fcntl(2)",
        "tcp: a connection to accept, one that stands, data, both ends' FIN, a reset",
        || {
            let set = hold(&[SIGUSR1])?;
            let (server, address) = tcp_listener(4)?;
            own(server, SIGUSR1)?;
            let client = new_tcp()?;
            succeeded("connect", connect_to(client, address))?;
            eq(
                "listener",
                taken(&set)?,
                (SIGUSR1, POLL_IN, in_band(), server),
            )?;
            let peer = accept_one(server)?;
            none("accept", &set)?;
            own(peer, SIGUSR1)?;
            write_all(client, b"x")?;
            eq("data", taken(&set)?, (SIGUSR1, POLL_IN, in_band(), peer))?;
            ok!(shutdown(client, SHUT_WR));
            eq("fin", taken(&set)?, (SIGUSR1, POLL_IN, in_band(), peer))?;
            // Not inherited by what is accepted.
            ok!(fcntl(server, F_SETFL, 0));
            let second = new_tcp()?;
            ok!(fcntl(second, F_SETOWN, pid()));
            ok!(fcntl(second, F_SETSIG, SIGUSR1));
            ok!(fcntl(second, F_SETFL, O_ASYNC | O_NONBLOCK));
            connect_to(second, address);
            let (_, code, _, fd) = taken(&set)?;
            eq("connected", (code, fd), (POLL_OUT, second))?;
            let other = accept_one(server)?;
            eq("flags", ok!(fcntl(other, F_GETFL)) & O_ASYNC, 0)?;
            ok!(shutdown(second, SHUT_WR));
            none("own shutdown", &set)?;
            ok!(close(other));
            let (_, code, _, fd) = taken(&set)?;
            eq("both ended", (code, fd), (POLL_HUP, second))?;
            // A reset.
            ok!(fcntl(peer, F_SETFL, 0));
            let (c, d) = tcp_pair()?;
            own(c, SIGUSR1)?;
            write_all(c, b"unread")?;
            ok!(close(d));
            let (_, code, band, fd) = taken(&set)?;
            eq("reset", (code, band, fd), (POLL_ERR, i64::from(POLLERR), c))
        },
    ),
    Case::new(
        "sigio.udp",
        "fcntl(2)",
        "udp: a datagram, and an error that came back",
        || {
            let set = hold(&[SIGUSR1])?;
            let (a, to) = udp_bound()?;
            let (b, from) = udp_bound()?;
            own(a, SIGUSR1)?;
            eq("send", send_to(b, b"x", to), 1)?;
            eq("data", taken(&set)?, (SIGUSR1, POLL_IN, in_band(), a))?;
            succeeded("connect", connect_to(a, from))?;
            ok!(close(b));
            eq("send", send_text(a, b"x", 0), 1)?;
            let (_, code, _, fd) = taken(&set)?;
            eq("refused", (code, fd), (POLL_ERR, a))
        },
    ),
    Case::new(
        "sigio.pipe",
        "fcntl(2)",
        "pipes: the reader is told of data, the writer of reads, both of the other's end",
        || {
            let set = hold(&[SIGUSR1])?;
            let (r, w) = pipe_pair()?;
            own(r, SIGUSR1)?;
            write_all(w, b"ab")?;
            eq("data", taken(&set)?, (SIGUSR1, POLL_IN, in_band(), r))?;
            own(w, SIGUSR1)?;
            read_some(r, 1)?;
            let (_, code, _, fd) = taken(&set)?;
            eq("read", (code, fd), (POLL_OUT, w))?;
            none("more", &set)?;
            ok!(fcntl(w, F_SETFL, 0));
            ok!(close(w));
            let (_, code, _, fd) = taken(&set)?;
            eq("end", (code, fd), (POLL_IN, r))
        },
    ),
    Case::new(
        "sigio.terminal",
        "fcntl(2)",
        "terminals: a line to read; the owner is the caller unless somebody said who",
        || {
            let set = hold(&[SIGIO])?;
            let master = ok!(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
            ok!(grantpt(master));
            ok!(unlockpt(master));
            let mut name = [0 as c_char; 64];
            ok!(ptsname_r(master, name.as_mut_ptr(), 64));
            let slave = ok!(open(name.as_ptr(), O_RDWR | O_NOCTTY | O_CLOEXEC));
            ok!(fcntl(slave, F_SETFL, O_ASYNC));
            eq("owner", owner_ex(slave)?, [1, pid()])?;
            ok!(fcntl(slave, F_SETSIG, SIGIO));
            write_all(master, b"line\n")?;
            eq("line", taken(&set)?, (SIGIO, POLL_IN, in_band(), slave))?;
            ok!(fcntl(slave, F_SETFL, 0));
            drain(&set);
            own(master, SIGIO)?;
            write_all(slave, b"out")?;
            let (_, code, _, fd) = taken(&set)?;
            eq("output", (code, fd), (POLL_IN, master))
        },
    ),
    Case::new(
        "sigio.urgent",
        "fcntl(2)",
        "out-of-band data: SIGURG for the owner, without O_ASYNC; with it the chosen signal as well",
        || {
            let set = hold(&[SIGURG, SIGUSR1, SIGIO])?;
            let unix = socket_pair(SOCK_STREAM)?;
            for (a, b) in [tcp_pair()?, unix] {
                eq("send", send_text(a, b"u", MSG_OOB), 1)?;
                none("nobody", &set)?;
                ok!(fcntl(b, F_SETOWN, pid()));
                eq("send", send_text(a, b"u", MSG_OOB), 1)?;
                let (signal, code, _, _) = taken(&set)?;
                eq("owner", (signal, code), (SIGURG, 0x80))?;
                none("once", &set)?;
                own(b, SIGUSR1)?;
                eq("send", send_text(a, b"u", MSG_OOB), 1)?;
                let (signal, code, band, fd) = taken(&set)?;
                let pri = i64::from(POLLPRI | POLLRDBAND);
                eq(
                    "chosen",
                    (signal, code, band, fd),
                    (SIGUSR1, POLL_PRI, pri, b),
                )?;
                eq("as well", taken(&set)?.0, SIGURG)?;
                drain(&set);
            }
            Ok(())
        },
    ),
    Case::new(
        "sigio.permission",
        "fcntl(2)",
        "who may not signal the owner does not by a file either",
        || {
            need_root()?;
            let set = hold(&[SIGUSR1])?;
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let other = child(|| {
                let done = raw!(setresuid(65534, 65534, 65534)) == 0 && own_of(a, raw!(getppid()));
                i32::from(!done)
            })?;
            eq("child", wait_for(other)?, 0)?;
            write_all(b, b"x")?;
            none("from another user", &set)?;
            own(a, SIGUSR1)?;
            write_all(b, b"x")?;
            eq("own", taken(&set)?.0, SIGUSR1)
        },
    ),
    Case::new(
        "sigio.queue",
        "fcntl(2)",
        "real-time signals queue; beyond the limit of queued ones it is SIGIO",
        || {
            let real_time = SIGRTMIN();
            let set = hold(&[SIGIO, real_time])?;
            let (a, b) = socket_pair(SOCK_DGRAM)?;
            own(a, real_time)?;
            for _ in 0..3 {
                write_all(b, b"x")?;
            }
            for _ in 0..3 {
                eq("queued", taken(&set)?.0, real_time)?;
            }
            none("more", &set)?;
            let few = rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            ok!(setrlimit(RLIMIT_SIGPENDING, &few));
            write_all(b, b"x")?;
            eq("beyond", taken(&set)?.0, SIGIO)
        },
    ),
];

fn own_of(fd: c_int, owner: pid_t) -> bool {
    raw!(fcntl(fd, F_SETOWN, owner)) == 0
        && raw!(fcntl(fd, F_SETSIG, SIGUSR1)) == 0
        && raw!(fcntl(fd, F_SETFL, O_ASYNC)) == 0
}
