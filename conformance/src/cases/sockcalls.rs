//! Arguments of the socket calls that all families treat alike: lengths of addresses, levels of
//! options, and what recvmmsg(2) and its relatives are given.

use crate::case::*;
use std::ptr::null_mut;

const NEGATIVE: socklen_t = socklen_t::MAX;
/// linux/socket.h, not in libc: of 32-bit programs.
const MSG_CMSG_COMPAT: c_int = c_int::MIN;

fn storage() -> sockaddr_storage {
    zeroed()
}

/// A UDP socket on loopback, and its address.
fn udp() -> Outcome<(c_int, sockaddr_in)> {
    let fd = ok!(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    let mut addr = zeroed::<sockaddr_in>();
    addr.sin_family = AF_INET as u16;
    addr.sin_addr.s_addr = 0x7f00_0001u32.to_be();
    let mut len = 16;
    ok!(bind(fd, (&raw const addr).cast(), len));
    ok!(getsockname(fd, (&raw mut addr).cast(), &mut len));
    Ok((fd, addr))
}

fn send_to(fd: c_int, addr: &sockaddr_in) -> Outcome {
    let to: *const sockaddr_in = addr;
    gives!(3, sendto(fd, c"abc".as_ptr().cast(), 3, 0, to.cast(), 16));
    Ok(())
}

fn level_errors(fd: c_int, level: c_int) -> (c_int, c_int) {
    let (mut value, mut len) = (1, 4);
    let get = raw!(getsockopt(fd, level, 99, (&raw mut value).cast(), &mut len));
    let got = if get == 0 { 0 } else { errno() };
    let set = raw!(setsockopt(fd, level, 99, (&raw const value).cast(), 4));
    (got, if set == 0 { 0 } else { errno() })
}

pub static CASES: &[Case] = &[
    Case::new(
        "sockcall.address_lengths",
        "bind(2)",
        "a negative or too large address length is EINVAL",
        || {
            for family in [AF_UNIX, AF_INET, AF_INET6] {
                for kind in [SOCK_STREAM, SOCK_DGRAM] {
                    let fd = ok!(socket(family, kind, 0));
                    let addr = storage();
                    let to = (&raw const addr).cast();
                    for len in [NEGATIVE, 1 << 31, 129] {
                        err!(EINVAL, bind(fd, to, len));
                        err!(EINVAL, connect(fd, to, len));
                        err!(EINVAL, sendto(fd, to.cast(), 1, MSG_DONTWAIT, to, len));
                    }
                    err!(EFAULT, connect(fd, bad_ptr::<sockaddr>(), 16));
                    let mut len = NEGATIVE;
                    let mut room = storage();
                    err!(EINVAL, getsockname(fd, (&raw mut room).cast(), &mut len));
                }
            }
            Ok(())
        },
    ),
    Case::new(
        "sockcall.received_address_length",
        "recvfrom(2)",
        "a negative length for the sender's address is EINVAL, when the data is gone",
        || {
            let (fd, addr) = udp()?;
            let (a, b) = socket_pair(SOCK_STREAM)?;
            write_all(a, b"abcd")?;
            send_to(fd, &addr)?;
            for (fd, left) in [(b, Some(b"cd".to_vec())), (fd, None)] {
                let mut bytes = [0u8; 2];
                let mut room = storage();
                let from = (&raw mut room).cast();
                let mut len = NEGATIVE;
                let to = bytes.as_mut_ptr().cast();
                err!(EINVAL, recvfrom(fd, to, 2, 0, from, &mut len));
                match left {
                    Some(left) => eq("left", read_some(fd, 9)?, left)?,
                    None => err!(EAGAIN, recv(fd, to, 2, MSG_DONTWAIT)),
                }
            }
            write_all(a, b"ef")?;
            let mut bytes = [0u8; 2];
            let mut len = NEGATIVE;
            let to = bytes.as_mut_ptr().cast();
            // Nobody asked for it.
            gives!(2, recvfrom(b, to, 2, 0, null_mut(), &mut len));
            Ok(())
        },
    ),
    Case::new(
        "sockcall.message_name_length",
        "recvmsg(2)",
        "a negative msg_namelen is EINVAL before anything is received",
        || {
            let (a, b) = socket_pair(SOCK_DGRAM)?;
            write_all(a, b"abc")?;
            let mut room = storage();
            let mut bytes = [0u8; 8];
            let mut iov = iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: 8,
            };
            let mut message = zeroed::<msghdr>();
            message.msg_iov = &mut iov;
            message.msg_iovlen = 1;
            message.msg_namelen = NEGATIVE;
            message.msg_name = (&raw mut room).cast();
            err!(EINVAL, recvmsg(b, &mut message, 0));
            err!(EINVAL, sendmsg(a, &message, 0));
            // There is none, whatever its length.
            message.msg_name = null_mut();
            gives!(3, recvmsg(b, &mut message, 0));
            message.msg_namelen = NEGATIVE;
            gives!(8, sendmsg(a, &message, 0));
            err!(EINVAL, recvmsg(b, &mut message, MSG_CMSG_COMPAT));
            err!(EINVAL, sendmsg(a, &message, MSG_CMSG_COMPAT));
            gives!(8, recvmsg(b, &mut message, 0));
            Ok(())
        },
    ),
    Case::new(
        "sockcall.levels",
        "getsockopt(2)",
        "levels that a socket does not know: EOPNOTSUPP or ENOPROTOOPT, by family and call",
        || {
            let unknown = [IPPROTO_SCTP, 255, 271, 12345, -1, 2];
            let both = |get, set| (get, set);
            for (family, kind, levels, want) in [
                (
                    AF_INET,
                    SOCK_STREAM,
                    &[IPPROTO_UDP, IPPROTO_IPV6][..],
                    both(EOPNOTSUPP, ENOPROTOOPT),
                ),
                (
                    AF_INET,
                    SOCK_DGRAM,
                    &[IPPROTO_TCP, IPPROTO_IPV6],
                    both(EOPNOTSUPP, ENOPROTOOPT),
                ),
                (
                    AF_INET6,
                    SOCK_STREAM,
                    &[IPPROTO_UDP],
                    both(ENOPROTOOPT, ENOPROTOOPT),
                ),
                (
                    AF_INET6,
                    SOCK_DGRAM,
                    &[IPPROTO_TCP],
                    both(ENOPROTOOPT, ENOPROTOOPT),
                ),
                (
                    AF_UNIX,
                    SOCK_STREAM,
                    &[IPPROTO_TCP, IPPROTO_IP],
                    both(EOPNOTSUPP, EOPNOTSUPP),
                ),
            ] {
                let fd = ok!(socket(family, kind, 0));
                for level in levels.iter().chain(&unknown) {
                    let what = format!("family {family}, type {kind}, level {level}");
                    eq(&what, level_errors(fd, *level), want)?;
                }
                let own = level_errors(fd, SOL_SOCKET);
                eq("unknown options", own, (ENOPROTOOPT, ENOPROTOOPT))?;
            }
            Ok(())
        },
    ),
    Case::new(
        "sockcall.recvmmsg_timeout",
        "recvmmsg(2)",
        "the timeout is looked at between messages, and what is left of it told",
        || {
            let (fd, addr) = udp()?;
            let mut bytes = [[0u8; 8]; 3];
            let mut iovs: Vec<_> = bytes
                .iter_mut()
                .map(|b| iovec {
                    iov_base: b.as_mut_ptr().cast(),
                    iov_len: 8,
                })
                .collect();
            let mut messages = [zeroed::<mmsghdr>(), zeroed(), zeroed()];
            for (message, iov) in messages.iter_mut().zip(&mut iovs) {
                message.msg_hdr.msg_iov = iov;
                message.msg_hdr.msg_iovlen = 1;
            }
            let list = messages.as_mut_ptr();
            for _ in 0..3 {
                send_to(fd, &addr)?;
            }
            let mut time = timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            gives!(2, recvmmsg(fd, list, 2, 0, &mut time));
            ensure!(time.tv_sec == 4, "left of 5 s: {} s", time.tv_sec);
            send_to(fd, &addr)?;
            time = millis(0);
            // Over at once, but for one.
            gives!(1, recvmmsg(fd, list, 2, 0, &mut time));
            gives!(1, recvmmsg(fd, list, 2, MSG_WAITFORONE, null_mut()));
            time.tv_sec = 5;
            err!(EAGAIN, recvmmsg(fd, list, 2, MSG_DONTWAIT, &mut time));
            eq("nothing came, nothing is told", time.tv_sec, 5)?;
            for (sec, nsec) in [(-1, 0), (0, 1_000_000_000), (0, -1)] {
                time.tv_sec = sec;
                time.tv_nsec = nsec;
                err!(EINVAL, recvmmsg(fd, list, 2, MSG_DONTWAIT, &mut time));
            }
            err!(EFAULT, recvmmsg(fd, list, 2, MSG_DONTWAIT, bad_ptr()));
            let compat = MSG_DONTWAIT | MSG_CMSG_COMPAT;
            err!(EINVAL, recvmmsg(fd, list, 2, compat as _, null_mut()));
            gives!(0, recvmmsg(fd, list, 0, MSG_DONTWAIT, null_mut()));
            gives!(0, sendmmsg(fd, list, 0, 0));
            err!(EINVAL, sendmmsg(fd, list, 1, compat as _));
            err!(EBADF, recvmmsg(-1, list, 0, 0, null_mut()));
            Ok(())
        },
    ),
];
