//! Netlink sockets (netlink(7), rtnetlink(7), sock_diag(7)). Of the machine's interfaces they count on
//! loopback alone.

use crate::case::*;
use crate::inet::tcp_listener;
use std::ptr::null_mut;

pub(super) const NLM_F_MULTI: u16 = 2;
pub(super) const DUMP: u16 = NLM_F_REQUEST as u16 | NLM_F_DUMP as u16;
pub(super) const GET: u16 = NLM_F_REQUEST as u16;
pub(super) const ACK: u16 = NLM_F_REQUEST as u16 | NLM_F_ACK as u16;
pub(super) const DONE: u16 = NLMSG_DONE as u16;
const ERROR: u16 = NLMSG_ERROR as u16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

pub(super) fn some<T>(what: &str, value: Option<T>) -> Outcome<T> {
    value.ok_or_else(|| Failure::Fail(format!("{what} is missing")))
}

pub(super) fn new_socket(protocol: c_int) -> Outcome<c_int> {
    Ok(ok!(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)))
}

pub(super) fn name(port: u32) -> sockaddr_nl {
    let mut name = zeroed::<sockaddr_nl>();
    name.nl_family = AF_NETLINK as u16;
    name.nl_pid = port;
    name
}

const NAME_LEN: socklen_t = size_of::<sockaddr_nl>() as socklen_t;

pub(super) fn bind_raw(fd: c_int, name: &sockaddr_nl) -> c_int {
    raw!(bind(fd, (&raw const *name).cast(), NAME_LEN))
}

fn own_name(fd: c_int) -> Outcome<sockaddr_nl> {
    let mut name = zeroed::<sockaddr_nl>();
    let mut len = NAME_LEN;
    ok!(getsockname(fd, (&raw mut name).cast(), &mut len));
    eq("length of the name", len, NAME_LEN)?;
    Ok(name)
}

pub(super) fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut raw = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    raw.extend(kind.to_ne_bytes());
    raw.extend(flags.to_ne_bytes());
    raw.extend(7u32.to_ne_bytes());
    raw.extend(0u32.to_ne_bytes());
    raw.extend(body);
    raw
}

pub(super) fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut raw = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    raw.extend(kind.to_ne_bytes());
    raw.extend(value);
    raw.resize(raw.len().next_multiple_of(4), 0);
    raw
}

/// struct ifinfomsg.
fn link_head(family: u8, index: u32) -> Vec<u8> {
    let mut raw = vec![0; 16];
    raw[0] = family;
    raw[4..8].copy_from_slice(&index.to_ne_bytes());
    raw
}

/// struct rtmsg.
fn route_head(family: c_int, destination_len: u8, table: u8) -> Vec<u8> {
    let mut raw = vec![0; 12];
    raw[0] = family as u8;
    raw[1] = destination_len;
    raw[4] = table;
    raw
}

/// Type, flags and body.
pub(super) type Message = (u16, u16, Vec<u8>);

pub(super) fn u32_of(raw: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

fn u16_of(raw: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([raw[at], raw[at + 1]])
}

pub(super) fn split(mut raw: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while raw.len() >= 16 {
        let len = u32_of(raw, 0) as usize;
        all.push((u16_of(raw, 4), u16_of(raw, 6), raw[16..len].to_vec()));
        raw = raw.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    all
}

pub(super) fn send_raw(fd: c_int, bytes: &[u8]) -> isize {
    raw!(send(fd, bytes.as_ptr().cast(), bytes.len(), 0))
}

pub(super) fn receive(fd: c_int) -> Outcome<Vec<Message>> {
    let mut room = vec![0u8; 65536];
    let n = ok!(recv(fd, room.as_mut_ptr().cast(), room.len(), 0));
    Ok(split(&room[..n as usize]))
}

/// Sends a request and receives until its answer is complete.
pub(super) fn ask(fd: c_int, request: &[u8]) -> Outcome<Vec<Message>> {
    returned("send", send_raw(fd, request), request.len() as isize)?;
    let mut all: Vec<Message> = Vec::new();
    loop {
        all.extend(receive(fd)?);
        match all.last() {
            Some((DONE | ERROR, ..)) => return Ok(all),
            Some((_, flags, _)) if flags & NLM_F_MULTI == 0 => return Ok(all),
            _ => {}
        }
    }
}

pub(super) fn ask_new(protocol: c_int, request: &[u8]) -> Outcome<Vec<Message>> {
    ask(new_socket(protocol)?, request)
}

/// The errno of the one NLMSG_ERROR or NLMSG_DONE that an answer is, 0 for none.
pub(super) fn verdict(messages: &[Message]) -> Outcome<i32> {
    match messages {
        [(ERROR | DONE, _, body)] => Ok(-(u32_of(body, 0) as i32)),
        other => fail!("no verdict but {other:?}"),
    }
}

/// The value of an attribute behind a fixed part of `skip` bytes.
pub(super) fn value(body: &[u8], skip: usize, kind: u16) -> Option<Vec<u8>> {
    let mut raw = &body[skip..];
    while raw.len() >= 4 {
        let len = usize::from(u16_of(raw, 0));
        if u16_of(raw, 2) == kind {
            return Some(raw[4..len].to_vec());
        }
        raw = raw.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    None
}

pub(super) fn set(fd: c_int, option: c_int, on: c_int) -> Outcome {
    let len = size_of::<c_int>() as socklen_t;
    ok!(setsockopt(
        fd,
        SOL_NETLINK,
        option,
        (&raw const on).cast(),
        len
    ));
    Ok(())
}

fn check_link(body: &[u8]) -> Outcome {
    eq("type", u16_of(body, 2), ARPHRD_LOOPBACK)?;
    eq("index", u32_of(body, 4), 1)?;
    let flags = u32_of(body, 8) as c_int;
    eq("loopback", flags & IFF_LOOPBACK, IFF_LOOPBACK)?;
    eq("name", value(body, 16, IFLA_IFNAME), Some(b"lo\0".to_vec()))?;
    let mtu = Some(65536u32.to_ne_bytes().to_vec());
    eq("mtu", value(body, 16, IFLA_MTU), mtu)?;
    eq("address", value(body, 16, IFLA_ADDRESS), Some(vec![0; 6]))?;
    let stats = value(body, 16, IFLA_STATS64).map(|v| v.len());
    ensure!(
        stats.is_some_and(|n| n >= 184),
        "statistics of {stats:?} bytes"
    );
    Ok(())
}

/// A unix socket with an abstract name that listens.
fn listener(text: &[u8]) -> Outcome<c_int> {
    let fd = ok!(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    let mut addr = zeroed::<sockaddr_un>();
    addr.sun_family = AF_UNIX as u16;
    for (to, from) in addr.sun_path[1..].iter_mut().zip(text) {
        *to = *from as c_char;
    }
    let len = (3 + text.len()) as socklen_t;
    ok!(bind(fd, (&raw const addr).cast(), len));
    ok!(listen(fd, 5));
    Ok(fd)
}

/// struct unix_diag_req for one inode (0: all), all of it shown.
fn unix_request(ino: u32) -> Vec<u8> {
    let mut raw = vec![AF_UNIX as u8, 0, 0, 0];
    for word in [u32::MAX, ino, 0x7f, u32::MAX, u32::MAX] {
        raw.extend(word.to_ne_bytes());
    }
    raw
}

pub static CASES: &[Case] = &[
    Case::new(
        "netlink.socket",
        "socket(2)",
        "types and protocols that exist, the errno of others",
        || {
            for kind in [SOCK_RAW, SOCK_DGRAM] {
                for protocol in [NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT] {
                    ok!(close(ok!(socket(AF_NETLINK, kind, protocol))));
                }
            }
            err!(ESOCKTNOSUPPORT, socket(AF_NETLINK, SOCK_STREAM, 0));
            err!(EPROTONOSUPPORT, socket(AF_NETLINK, SOCK_RAW, 32));
            err!(EPROTONOSUPPORT, socket(AF_NETLINK, SOCK_RAW, -1));
            let mut pair = [0; 2];
            err!(
                EOPNOTSUPP,
                socketpair(AF_NETLINK, SOCK_RAW, 0, pair.as_mut_ptr())
            );
            Ok(())
        },
    ),
    Case::new(
        "netlink.names",
        "netlink(7)",
        "port ids are the process's own or another free one, and are given back",
        || {
            let (a, b, c) = (
                new_socket(NETLINK_ROUTE)?,
                new_socket(NETLINK_ROUTE)?,
                new_socket(NETLINK_ROUTE)?,
            );
            eq("unbound", own_name(a)?.nl_pid, 0)?;
            succeeded("bind", bind_raw(a, &name(0)))?;
            let own = own_name(a)?;
            eq("family", own.nl_family, AF_NETLINK as u16)?;
            eq("port", own.nl_pid, getpid_now() as u32)?;
            succeeded("bind", bind_raw(b, &name(0)))?;
            let other = own_name(b)?.nl_pid;
            ensure!((other as i32) < 0, "a second port is {other}");
            failed_with("bind", bind_raw(c, &own), &[EADDRINUSE])?;
            failed_with("bind", bind_raw(a, &name(own.nl_pid + 1)), &[EINVAL])?;
            // Of another protocol.
            let d = new_socket(NETLINK_SOCK_DIAG)?;
            succeeded("bind", bind_raw(d, &own))?;
            ok!(close(a));
            succeeded("bind", bind_raw(c, &own))?;
            let mut wrong = name(0);
            wrong.nl_family = AF_UNIX as u16;
            let e = new_socket(NETLINK_ROUTE)?;
            failed_with("bind", bind_raw(e, &wrong), &[EINVAL])?;
            let short = name(0);
            err!(EINVAL, bind(e, (&raw const short).cast(), NAME_LEN - 1));
            // Sending binds.
            send_raw(e, &message(RTM_GETLINK, GET, &link_head(0, 1)));
            ensure!(own_name(e)?.nl_pid != 0, "still unbound");
            let mut peer = name(9);
            let mut len = NAME_LEN;
            ok!(getpeername(e, (&raw mut peer).cast(), &mut len));
            eq("peer", peer.nl_pid, 0)
        },
    ),
    Case::new(
        "netlink.options",
        "netlink(7)",
        "flags and group memberships are kept",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let get = |option| {
                let mut value: c_int = -1;
                let mut len = 4;
                let at = (&raw mut value).cast();
                ok!(getsockopt(fd, SOL_NETLINK, option, at, &mut len));
                Ok(value)
            };
            for option in [NETLINK_EXT_ACK, NETLINK_CAP_ACK, NETLINK_GET_STRICT_CHK] {
                eq("before", get(option)?, 0)?;
                set(fd, option, 5)?;
                eq("after", get(option)?, 1)?;
            }
            set(fd, NETLINK_ADD_MEMBERSHIP, 1)?;
            set(fd, NETLINK_ADD_MEMBERSHIP, 5)?;
            set(fd, NETLINK_DROP_MEMBERSHIP, 1)?;
            let mut groups = [0u32; 16];
            let mut len = 64;
            let at = groups.as_mut_ptr().cast();
            ok!(getsockopt(
                fd,
                SOL_NETLINK,
                NETLINK_LIST_MEMBERSHIPS,
                at,
                &mut len
            ));
            eq("groups", groups[0], 0x10)?;
            eq("groups of the name", own_name(fd)?.nl_groups, 0x10)?;
            let none: c_int = 0;
            let at = (&raw const none).cast();
            err!(
                EINVAL,
                setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, at, 4)
            );
            err!(ENOPROTOOPT, setsockopt(fd, SOL_NETLINK, 999, at, 4));
            Ok(())
        },
    ),
    Case::new(
        "netlink.links",
        "rtnetlink(7)",
        "the dump of links has loopback in it and an end; one is found by index or name",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let all = ask(fd, &message(RTM_GETLINK, DUMP, &link_head(0, 0)))?;
            let (last, links) = some("answers", all.split_last())?;
            eq(
                "end",
                (last.0, last.1, &last.2[..]),
                (DONE, NLM_F_MULTI, &[0; 4][..]),
            )?;
            for (kind, flags, _) in links {
                eq("a link", (*kind, *flags), (RTM_NEWLINK, NLM_F_MULTI))?;
            }
            let lo = links.iter().find(|(_, _, body)| u32_of(body, 4) == 1);
            check_link(&some("loopback", lo)?.2)?;
            let by_name = [link_head(0, 0), attr(IFLA_IFNAME, b"lo\0")].concat();
            for body in [link_head(0, 1), by_name] {
                let one = ask(fd, &message(RTM_GETLINK, GET, &body))?;
                eq(
                    "answers",
                    (one.len(), one[0].0, one[0].1),
                    (1, RTM_NEWLINK, 0),
                )?;
                check_link(&one[0].2)?;
            }
            let unknown = [link_head(0, 0), attr(IFLA_IFNAME, b"nosuch0\0")].concat();
            for (body, errno) in [
                (link_head(0, 99_999), ENODEV),
                (link_head(0, 0), EINVAL),
                (unknown, ENODEV),
            ] {
                let answer = ask(fd, &message(RTM_GETLINK, GET, &body))?;
                eq("errno", errno_name(verdict(&answer)?), errno_name(errno))?;
            }
            Ok(())
        },
    ),
    Case::new(
        "netlink.addresses",
        "rtnetlink(7)",
        "the dump of addresses has 127.0.0.1; strict filters are honoured",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let request = |index: u32| {
                let mut body = vec![AF_INET as u8, 0, 0, 0];
                body.extend(index.to_ne_bytes());
                message(RTM_GETADDR, DUMP, &body)
            };
            let all = ask(fd, &request(0))?;
            let local = Some(vec![127, 0, 0, 1]);
            let found = all
                .iter()
                .find(|(kind, _, body)| *kind == RTM_NEWADDR && value(body, 8, IFA_LOCAL) == local);
            let body = &some("127.0.0.1", found)?.2;
            eq("head", &body[..4], &[AF_INET as u8, 8, 0x80, RT_SCOPE_HOST])?;
            eq("index", u32_of(body, 4), 1)?;
            eq("address", value(body, 8, IFA_ADDRESS), local)?;
            eq("label", value(body, 8, IFA_LABEL), Some(b"lo\0".to_vec()))?;
            // Without strict checks the index is not looked at.
            eq("as many", ask(fd, &request(99_999))?.len(), all.len())?;
            set(fd, NETLINK_GET_STRICT_CHK, 1)?;
            let none = verdict(&ask(fd, &request(99_999))?)?;
            eq("errno", errno_name(none), errno_name(ENODEV))?;
            for (kind, flags, _) in ask(fd, &request(1))? {
                ensure!(
                    matches!(kind, RTM_NEWADDR | DONE),
                    "a message of type {kind}"
                );
                eq("filtered", flags, NLM_F_MULTI | 0x20)?;
            }
            Ok(())
        },
    ),
    Case::new(
        "netlink.routes",
        "rtnetlink(7)",
        "the local table and the way to an address of one's own",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let all = ask(fd, &message(RTM_GETROUTE, DUMP, &route_head(AF_INET, 0, 0)))?;
            let found = all.iter().any(|(kind, _, body)| {
                *kind == RTM_NEWROUTE
                    && body[4..8] == [RT_TABLE_LOCAL, RTPROT_KERNEL, RT_SCOPE_HOST, RTN_LOCAL]
                    && value(body, 12, RTA_DST) == Some(vec![127, 0, 0, 1])
            });
            ensure!(found, "no local route to 127.0.0.1");
            let mut body = route_head(AF_INET, 32, 0);
            body.extend(attr(RTA_DST, &[127, 1, 2, 3]));
            let way = ask(fd, &message(RTM_GETROUTE, GET, &body))?;
            eq("answers", (way.len(), way[0].0), (1, RTM_NEWROUTE))?;
            let body = &way[0].2;
            eq("type", body[7], RTN_LOCAL)?;
            eq("flags", u32_of(body, 8), 0x8000_0200)?;
            eq("to", value(body, 12, RTA_DST), Some(vec![127, 1, 2, 3]))?;
            eq(
                "from",
                value(body, 12, RTA_PREFSRC),
                Some(vec![127, 0, 0, 1]),
            )?;
            eq(
                "by",
                value(body, 12, RTA_OIF),
                Some(1u32.to_ne_bytes().to_vec()),
            )?;
            let mut wrong = route_head(AF_INET, 32, 0);
            wrong.extend(attr(RTA_DST, &[127, 1, 2]));
            let answer = ask(fd, &message(RTM_GETROUTE, GET, &wrong))?;
            ensure!(verdict(&answer)? != 0, "an address of three bytes passed");
            Ok(())
        },
    ),
    Case::new(
        "netlink.rules",
        "rtnetlink(7)",
        "the rules for the local and the main table",
        || {
            let request = message(RTM_GETRULE, DUMP, &route_head(AF_INET, 0, 0));
            let all = ask_new(NETLINK_ROUTE, &request)?;
            for table in [RT_TABLE_LOCAL, RT_TABLE_MAIN] {
                let found = all
                    .iter()
                    .any(|(kind, _, b)| *kind == RTM_NEWRULE && b[4] == table);
                ensure!(found, "no rule for table {table}");
            }
            Ok(())
        },
    ),
    Case::new(
        "netlink.acks",
        "netlink(7)",
        "acknowledgements, with the request or capped; types that nobody knows",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            // NLMSG_NOOP is no request for anybody.
            let answer = ask(fd, &message(NLMSG_NOOP as u16, ACK, &[]))?;
            eq("result", verdict(&answer)?, 0)?;
            eq("capped", (answer[0].1, answer[0].2.len()), (0x100, 20))?;
            let unknown = message(200, ACK, &[0; 8]);
            let answer = ask(fd, &unknown)?;
            eq(
                "errno",
                errno_name(verdict(&answer)?),
                errno_name(EOPNOTSUPP),
            )?;
            eq(
                "whole",
                (answer[0].1, answer[0].2.len()),
                (0, 4 + unknown.len()),
            )?;
            eq("echo", &answer[0].2[4..], &unknown[..])?;
            set(fd, NETLINK_CAP_ACK, 1)?;
            let answer = ask(fd, &unknown)?;
            eq("capped", (answer[0].1, answer[0].2.len()), (0x100, 20))?;
            // Two requests in one datagram, then garbage.
            let mut two = [unknown.clone(), unknown].concat();
            two.extend([5, 0, 0, 0, 0, 0, 0, 0]);
            returned("send", send_raw(fd, &two), two.len() as isize)?;
            for _ in 0..2 {
                verdict(&receive(fd)?)?;
            }
            let mut room = [0u8; 16];
            err!(EAGAIN, recv(fd, room.as_mut_ptr().cast(), 16, MSG_DONTWAIT));
            Ok(())
        },
    ),
    Case::new(
        "netlink.malformed",
        "netlink(7)",
        "lengths that do not fit are passed over in silence",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let whole = message(RTM_GETLINK, ACK, &link_head(0, 1));
            for len in [0u32, 15, 33, 1000, u32::MAX] {
                let mut raw = whole.clone();
                raw[..4].copy_from_slice(&len.to_ne_bytes());
                returned("send", send_raw(fd, &raw), raw.len() as isize)?;
            }
            let mut room = [0u8; 16];
            err!(EAGAIN, recv(fd, room.as_mut_ptr().cast(), 16, MSG_DONTWAIT));
            err!(ENODATA, send(fd, room.as_ptr().cast(), 0, 0));
            err!(EOPNOTSUPP, send(fd, room.as_ptr().cast(), 16, MSG_OOB));
            err!(EFAULT, send(fd, bad_ptr::<u8>().cast(), 16, 0));
            Ok(())
        },
    ),
    Case::new(
        "netlink.changes_need_a_capability",
        "rtnetlink(7)",
        "whoever lacks CAP_NET_ADMIN is told EPERM",
        || {
            as_user(|| {
                let fd = new_socket(NETLINK_ROUTE)?;
                for kind in [
                    RTM_NEWLINK,
                    RTM_DELLINK,
                    RTM_NEWADDR,
                    RTM_DELADDR,
                    RTM_NEWROUTE,
                ] {
                    let answer = ask(fd, &message(kind, ACK, &link_head(0, 1)))?;
                    eq("errno", errno_name(verdict(&answer)?), errno_name(EPERM))?;
                }
                let to = name(1);
                let raw = message(RTM_GETLINK, GET, &link_head(0, 1));
                let at = (&raw const to).cast();
                err!(
                    EPERM,
                    sendto(fd, raw.as_ptr().cast(), raw.len(), 0, at, NAME_LEN)
                );
                Ok(())
            })
        },
    ),
    Case::new(
        "netlink.receive",
        "recvmsg(2)",
        "MSG_PEEK and MSG_TRUNC tell a datagram's length; it is from port 0",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let raw = message(RTM_GETLINK, GET, &link_head(0, 1));
            returned("send", send_raw(fd, &raw), raw.len() as isize)?;
            let len = ok!(recv(fd, null_mut(), 0, MSG_PEEK | MSG_TRUNC));
            ensure!(len > 100, "a link takes {len} bytes");
            let mut room = [0u8; 64];
            let mut from = name(9);
            let mut from_len = NAME_LEN;
            gives!(
                64,
                recvfrom(
                    fd,
                    room.as_mut_ptr().cast(),
                    64,
                    0,
                    (&raw mut from).cast(),
                    &mut from_len
                )
            );
            eq("from", (from.nl_pid, from_len), (0, NAME_LEN))?;
            // The rest is gone.
            err!(EAGAIN, recv(fd, room.as_mut_ptr().cast(), 64, MSG_DONTWAIT));
            Ok(())
        },
    ),
    Case::new(
        "netlink.poll",
        "poll(2)",
        "readable with an answer, and until the end of a dump; always writable",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let ready = || {
                let mut entry = pollfd {
                    fd,
                    events: POLLIN | POLLOUT,
                    revents: 0,
                };
                ok!(poll(&mut entry, 1, 0));
                Ok::<_, Failure>(entry.revents)
            };
            eq("at first", ready()?, POLLOUT)?;
            let raw = message(RTM_GETADDR, DUMP, &[0; 8]);
            returned("send", send_raw(fd, &raw), raw.len() as isize)?;
            loop {
                eq("with answers", ready()?, POLLIN | POLLOUT)?;
                let part = receive(fd)?;
                if part.iter().any(|(kind, ..)| *kind == DONE) {
                    break;
                }
            }
            eq("at the end", ready()?, POLLOUT)
        },
    ),
    Case::new(
        "netlink.overrun",
        "netlink(7)",
        "answers that nobody reads are lost beyond the buffer, and the reader told ENOBUFS",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            let size: c_int = 4096;
            let at = (&raw const size).cast();
            ok!(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, at, 4));
            let raw = message(RTM_GETLINK, GET, &link_head(0, 1));
            for _ in 0..64 {
                returned("send", send_raw(fd, &raw), raw.len() as isize)?;
            }
            let mut room = vec![0u8; 8192];
            err!(ENOBUFS, recv(fd, room.as_mut_ptr().cast(), room.len(), 0));
            let mut kept = 0;
            while raw!(recv(fd, room.as_mut_ptr().cast(), room.len(), MSG_DONTWAIT)) > 0 {
                kept += 1;
            }
            ensure!((1..64).contains(&kept), "{kept} answers in a small buffer");
            // It works again.
            eq("answer", ask(fd, &raw)?.len(), 1)
        },
    ),
    Case::new(
        "netlink.uevents",
        "netlink(7)",
        "kernel events: nothing happens",
        || {
            let fd = new_socket(NETLINK_KOBJECT_UEVENT)?;
            let mut groups = name(0);
            groups.nl_groups = 1;
            succeeded("bind", bind_raw(fd, &groups))?;
            eq("groups", own_name(fd)?.nl_groups, 1)
        },
    ),
    Case::new(
        "netlink.generic",
        "genetlink(7)",
        "the controller knows itself, and no family of a made-up name",
        || {
            let fd = new_socket(NETLINK_GENERIC)?;
            let by_name = |name: &[u8]| {
                let body = [vec![3, 1, 0, 0], attr(2, name)].concat();
                message(16, ACK, &body)
            };
            let found = ask(fd, &by_name(b"nlctrl\0"))?;
            eq("type", found[0].0, 16)?;
            eq("id", value(&found[0].2, 4, 1), Some(vec![16, 0]))?;
            // Its acknowledgement.
            receive(fd)?;
            let answer = ask(fd, &by_name(b"NOSUCHFAM\0"))?;
            eq("errno", errno_name(verdict(&answer)?), errno_name(ENOENT))?;
            let answer = ask(fd, &message(999, ACK, &[0; 4]))?;
            eq("errno", errno_name(verdict(&answer)?), errno_name(ENOENT))
        },
    ),
    Case::new(
        "sock_diag.unix",
        "sock_diag(7)",
        "a listener and a pair are found by the inode numbers of their descriptors",
        || {
            let listens = listener(b"conformance-diag")?;
            let (a, b) = socket_pair(SOCK_STREAM)?;
            let ino = |fd| Ok::<_, Failure>(fstat_of(fd)?.st_ino as u32);
            write_all(a, b"four")?;
            let fd = new_socket(NETLINK_SOCK_DIAG)?;
            let all = ask(fd, &message(SOCK_DIAG_BY_FAMILY, DUMP, &unix_request(0)))?;
            let find = |ino: u32| {
                let found = all
                    .iter()
                    .find(|(kind, _, body)| *kind == SOCK_DIAG_BY_FAMILY && u32_of(body, 4) == ino);
                some("the socket", found).map(|(_, _, body)| body)
            };
            let body = find(ino(listens)?)?;
            eq(
                "listener",
                &body[..3],
                &[AF_UNIX as u8, SOCK_STREAM as u8, 10],
            )?;
            let name = Some(b"\0conformance-diag".to_vec());
            eq("name", value(body, 16, 0), name)?;
            eq(
                "connections, backlog",
                value(body, 16, 4),
                Some(vec![0, 0, 0, 0, 5, 0, 0, 0]),
            )?;
            let body = find(ino(b)?)?;
            eq("pair", &body[..3], &[AF_UNIX as u8, SOCK_STREAM as u8, 1])?;
            eq(
                "peer",
                value(body, 16, 2),
                Some(ino(a)?.to_ne_bytes().to_vec()),
            )?;
            eq("bytes", value(body, 16, 4).map(|v| u32_of(&v, 0)), Some(4))?;
            eq("shut down", value(body, 16, 6), Some(vec![0]))?;
            // One alone.
            let one = ask(
                fd,
                &message(SOCK_DIAG_BY_FAMILY, GET, &unix_request(ino(a)?)),
            )?;
            eq("one", (one.len(), u32_of(&one[0].2, 4)), (1, ino(a)?))?;
            let none = ask(fd, &message(SOCK_DIAG_BY_FAMILY, GET, &unix_request(1)))?;
            eq("errno", errno_name(verdict(&none)?), errno_name(ENOENT))
        },
    ),
    Case::new(
        "sock_diag.protocol",
        "sock_diag(7)",
        "a protocol that does not fit a byte is asked for by an attribute",
        || {
            let (_listener, addr) = tcp_listener(5)?;
            let ask_for = |protocol: u8, more: &[u8]| {
                let mut body = vec![0; 56];
                body[0] = AF_INET as u8;
                body[1] = protocol;
                body[4..8].fill(0xff);
                body.extend(more);
                let flags = (NLM_F_REQUEST | NLM_F_DUMP) as u16;
                let answer = ask_new(NETLINK_SOCK_DIAG, &message(20, flags, &body))?;
                let port = addr.port().to_be_bytes();
                Ok(answer.iter().any(|m| m.0 == 20 && m.2[4..6] == port))
            };
            eq("TCP", ask_for(6, &[])?, true)?;
            eq(
                "by an attribute",
                ask_for(17, &attr(3, &6u32.to_ne_bytes()))?,
                true,
            )?;
            // MPTCP: 262, whose last byte is TCP's number.
            eq("MPTCP", ask_for(6, &attr(3, &262u32.to_ne_bytes()))?, false)
        },
    ),
    Case::new(
        "sock_diag.bad_requests",
        "sock_diag(7)",
        "families and types that do not exist, requests that are too short",
        || {
            let fd = new_socket(NETLINK_SOCK_DIAG)?;
            for (kind, body, errno) in [
                (SOCK_DIAG_BY_FAMILY, vec![AF_UNIX as u8], EINVAL),
                (SOCK_DIAG_BY_FAMILY, vec![AF_UNIX as u8, 0, 0, 0], EINVAL),
                (SOCK_DIAG_BY_FAMILY, vec![AF_INET as u8, 6, 0, 0], EINVAL),
                (SOCK_DIAG_BY_FAMILY, vec![200, 0, 0, 0], EINVAL),
                (99, vec![0; 8], EINVAL),
            ] {
                let answer = ask(fd, &message(kind, DUMP, &body))?;
                eq("errno", errno_name(verdict(&answer)?), errno_name(errno))?;
            }
            Ok(())
        },
    ),
];
