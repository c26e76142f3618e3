//! Multicast groups of netlink(7): who is in one is told what changes; and the smaller tables of
//! rtnetlink(7). What changes is loopback in a network namespace of the case's own.

use super::netlinks::*;
use crate::case::*;
use crate::inet::{Address, bind_to, connect_to, name_of, new_tcp, new_udp};

const CAP_NET_ADMIN: u32 = 12;
const SENDER_LEN: usize = size_of::<sockaddr_nl>();
/// RTNLGRP_*.
const LINK: c_int = 1;
const IPV4_IFADDR: c_int = 5;
const IPV4_ROUTE: c_int = 7;

/// Runs part of a case where loopback is nobody else's: in a namespace of its own, or in a sandbox
/// that has nothing but loopback.
pub(super) fn own_network(body: impl FnOnce() -> Outcome) -> Outcome {
    need_cap(CAP_NET_ADMIN, "CAP_NET_ADMIN")?;
    in_child(|| {
        if raw!(unshare(CLONE_NEWNET)) == 0 {
            let up = IFF_UP as u32;
            let mut head = vec![0; 4];
            head.extend(1u32.to_ne_bytes());
            head.extend(up.to_ne_bytes());
            head.extend(up.to_ne_bytes());
            let answer = ask_new(NETLINK_ROUTE, &message(RTM_NEWLINK, ACK, &head))?;
            eq("loopback up", verdict(&answer)?, 0)?;
        } else {
            let others = slurp("/proc/net/dev")?.lines().count() > 3;
            if others {
                skip!("needs a network namespace of its own");
            }
        }
        body()
    })
}

/// An address of loopback that is added or removed.
fn address(kind: u16, ip: [u8; 4]) -> Vec<u8> {
    let head = [AF_INET as u8, 24, 0, 0, 1, 0, 0, 0];
    let flags = if kind == RTM_NEWADDR {
        ACK | (NLM_F_CREATE | NLM_F_EXCL) as u16
    } else {
        ACK
    };
    let body = [&head[..], &attr(IFA_LOCAL, &ip), &attr(IFA_ADDRESS, &ip)].concat();
    message(kind, flags, &body)
}

fn mtu(size: u32) -> Vec<u8> {
    let mut head = vec![0; 16];
    head[4] = 1;
    head.extend(attr(IFLA_MTU, &size.to_ne_bytes()));
    message(RTM_NEWLINK, ACK, &head)
}

/// Carries out a change with a socket of its own.
fn change(request: &[u8]) -> Outcome {
    let answer = ask_new(NETLINK_ROUTE, request)?;
    eq("errno", errno_name(verdict(&answer)?), errno_name(0))
}

/// What has come, its sender and the group of NETLINK_PKTINFO. None: nothing.
fn hear(fd: c_int) -> Outcome<Option<(Vec<Message>, sockaddr_nl, u32)>> {
    let mut room = vec![0u8; 65536];
    let mut sender = zeroed::<sockaddr_nl>();
    let mut control = [0u64; 8];
    let mut slice = iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    let mut header = zeroed::<msghdr>();
    header.msg_name = (&raw mut sender).cast();
    header.msg_namelen = SENDER_LEN as socklen_t;
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let n = raw!(recvmsg(fd, &mut header, MSG_DONTWAIT));
    if n < 0 {
        eq("errno", errno_name(errno()), errno_name(EAGAIN))?;
        return Ok(None);
    }
    // Level and type in the second word, the group in the third.
    let group = if header.msg_controllen == 0 {
        0
    } else {
        control[2] as u32
    };
    Ok(Some((split(&room[..n as usize]), sender, group)))
}

fn quiet(what: &str, fd: c_int) -> Outcome {
    match hear(fd)? {
        None => Ok(()),
        Some((messages, ..)) => fail!("{what}: heard {messages:?}"),
    }
}

/// Types of all that has come.
fn kinds(fd: c_int) -> Outcome<Vec<u16>> {
    let mut all = Vec::new();
    while let Some((messages, ..)) = hear(fd)? {
        all.extend(messages.iter().map(|m| m.0));
    }
    Ok(all)
}

/// Without a port nobody is told; with one the groups of the name are what counts.
fn bind_member(fd: c_int, group: c_int) -> c_int {
    let mut own = name(0);
    own.nl_groups = 1 << (group - 1);
    bind_raw(fd, &own)
}

fn in_group(protocol: c_int, group: c_int) -> Outcome<c_int> {
    let fd = new_socket(protocol)?;
    set(fd, NETLINK_ADD_MEMBERSHIP, group)?;
    succeeded("bind", bind_member(fd, group))?;
    Ok(fd)
}

pub static CASES: &[Case] = &[
    Case::new(
        "netgroups.loopback_networks",
        "ip(7)",
        "an IPv4 network on loopback is one's own, all of it; its first address is what answers",
        || {
            own_network(|| {
                change(&address(RTM_NEWADDR, [198, 51, 100, 7]))?;
                change(&address(RTM_NEWADDR, [198, 51, 100, 8]))?;
                for last in [7, 8, 99, 0] {
                    let to = Address::v4([198, 51, 100, last], 9);
                    let local = Address::v4([198, 51, 100, last], 0);
                    succeeded("bind", bind_to(new_tcp()?, local))?;
                    let udp = new_udp()?;
                    succeeded("connect", connect_to(udp, to))?;
                    eq("source", name_of(udp)?.ip(), "198.51.100.7".to_owned())?;
                    let refused = connect_to(new_tcp()?, to);
                    failed_with("connect", refused, &[ECONNREFUSED])?;
                }
                let next = Address::v4([198, 51, 101, 7], 9);
                failed_with("bind", bind_to(new_tcp()?, next), &[EADDRNOTAVAIL])?;
                failed_with("connect", connect_to(new_tcp()?, next), &[ENETUNREACH])?;
                let mut ask = vec![0; 12];
                ask[0] = AF_INET as u8;
                let dump = message(RTM_GETROUTE, (NLM_F_REQUEST | NLM_F_DUMP) as u16, &ask);
                let mut routes = Vec::new();
                for (kind, _, body) in ask_new(NETLINK_ROUTE, &dump)? {
                    if kind == RTM_NEWROUTE && body[4] == RT_TABLE_LOCAL {
                        let to = value(&body, 12, RTA_DST).unwrap_or_default();
                        let from = value(&body, 12, RTA_PREFSRC).unwrap_or_default();
                        routes.push((to, body[1], body[7], from));
                    }
                }
                let ours = routes.into_iter().filter(|r| r.0[0] == 198);
                let row =
                    |last, len, kind| (vec![198, 51, 100, last], len, kind, vec![198, 51, 100, 7]);
                let expected = vec![
                    row(0, 24, RTN_LOCAL),
                    row(7, 32, RTN_LOCAL),
                    row(8, 32, RTN_LOCAL),
                    row(255, 32, RTN_BROADCAST),
                ];
                eq("routes", ours.collect::<Vec<_>>(), expected)?;
                // The second one goes with the first.
                change(&address(RTM_DELADDR, [198, 51, 100, 7]))?;
                let local = Address::v4([198, 51, 100, 8], 0);
                failed_with("bind", bind_to(new_tcp()?, local), &[EADDRNOTAVAIL])
            })
        },
    ),
    Case::new(
        "netgroups.addresses",
        "rtnetlink(7)",
        "who is in a group is told of addresses and routes that come and go, and others are not",
        || {
            own_network(|| {
                let fd = in_group(NETLINK_ROUTE, IPV4_IFADDR)?;
                set(fd, NETLINK_PKTINFO, 1)?;
                let routes = in_group(NETLINK_ROUTE, IPV4_ROUTE)?;
                let links = in_group(NETLINK_ROUTE, LINK)?;
                let ip = [192, 0, 2, 7];
                change(&address(RTM_NEWADDR, ip))?;
                let (messages, sender, group) = some("a message", hear(fd)?)?;
                eq("messages", messages.len(), 1)?;
                let (kind, flags, body) = &messages[0];
                eq("type", (*kind, *flags), (RTM_NEWADDR, 0))?;
                eq("head", &body[..2], &[AF_INET as u8, 24])?;
                eq("address", value(body, 8, IFA_LOCAL), Some(ip.to_vec()))?;
                eq("sender", (sender.nl_pid, sender.nl_groups), (0, 0x10))?;
                eq("group", group, IPV4_IFADDR as u32)?;
                quiet("addresses", fd)?;
                let came = kinds(routes)?;
                ensure!(
                    !came.is_empty() && came.iter().all(|k| *k == RTM_NEWROUTE),
                    "routes: {came:?}"
                );
                quiet("links", links)?;
                // A second address goes with the first one.
                change(&address(RTM_NEWADDR, [192, 0, 2, 8]))?;
                eq("second", kinds(fd)?, vec![RTM_NEWADDR])?;
                set(links, NETLINK_ADD_MEMBERSHIP, IPV4_IFADDR)?;
                set(routes, NETLINK_DROP_MEMBERSHIP, IPV4_ROUTE)?;
                kinds(routes)?;
                change(&address(RTM_DELADDR, ip))?;
                eq("removed", kinds(fd)?, vec![RTM_DELADDR; 2])?;
                eq("the new member", kinds(links)?, vec![RTM_DELADDR; 2])?;
                quiet("who has left", routes)?;
                // What fails is no change.
                let unbound = new_socket(NETLINK_ROUTE)?;
                set(unbound, NETLINK_ADD_MEMBERSHIP, IPV4_IFADDR)?;
                let answer = ask_new(NETLINK_ROUTE, &address(RTM_DELADDR, ip))?;
                eq(
                    "errno",
                    errno_name(verdict(&answer)?),
                    errno_name(EADDRNOTAVAIL),
                )?;
                quiet("a failure", fd)?;
                change(&address(RTM_NEWADDR, ip))?;
                quiet("who has no port", unbound)?;
                // Others may have this network after us.
                change(&address(RTM_DELADDR, ip))
            })
        },
    ),
    Case::new(
        "netgroups.links",
        "rtnetlink(7)",
        "the MTU and queue length of loopback can be changed, which is told; poll(2) sees it",
        || {
            own_network(|| {
                let fd = new_socket(NETLINK_ROUTE)?;
                let mut groups = name(0);
                groups.nl_groups = 1;
                succeeded("bind", bind_raw(fd, &groups))?;
                change(&mtu(65536))?;
                quiet("as it was", fd)?;
                for size in [1500, 65536] {
                    change(&mtu(size))?;
                    let mut entry = pollfd {
                        fd,
                        events: POLLIN,
                        revents: 0,
                    };
                    gives!(1, poll(&mut entry, 1, 0));
                    let (messages, sender, _) = some("a message", hear(fd)?)?;
                    eq("sender", (sender.nl_pid, sender.nl_groups), (0, 1))?;
                    eq("type", messages[0].0, RTM_NEWLINK)?;
                    let told = value(&messages[0].2, 16, IFLA_MTU);
                    eq("mtu", told, Some(size.to_ne_bytes().to_vec()))?;
                    let shown = slurp("/sys/class/net/lo/mtu");
                    // That of the namespace which sysfs was mounted in.
                    ensure!(shown.is_ok(), "no /sys/class/net/lo/mtu");
                }
                let mut head = vec![0; 16];
                head[4] = 1;
                head.extend(attr(IFLA_TXQLEN, &7u32.to_ne_bytes()));
                change(&message(RTM_NEWLINK, ACK, &head))?;
                let (messages, ..) = some("a message", hear(fd)?)?;
                let told = value(&messages[0].2, 16, IFLA_TXQLEN);
                eq("queue", told, Some(7u32.to_ne_bytes().to_vec()))
            })
        },
    ),
    Case::new(
        "netgroups.losses",
        "netlink(7)",
        "what does not fit is lost, the reader told ENOBUFS once, and nothing more comes before all is read",
        || {
            own_network(|| {
                let fd = in_group(NETLINK_ROUTE, LINK)?;
                let deaf = in_group(NETLINK_ROUTE, LINK)?;
                set(deaf, NETLINK_NO_ENOBUFS, 1)?;
                let size: c_int = 4096;
                for fd in [fd, deaf] {
                    let at = (&raw const size).cast();
                    ok!(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, at, 4));
                }
                for i in 0..32 {
                    change(&mtu(60000 + i))?;
                }
                let mut room = vec![0u8; 8192];
                let read = |fd, room: &mut Vec<u8>| {
                    raw!(recv(fd, room.as_mut_ptr().cast(), room.len(), MSG_DONTWAIT))
                };
                failed_with("recv", read(fd, &mut room), &[ENOBUFS])?;
                ensure!(read(fd, &mut room) > 0, "nothing was kept");
                change(&mtu(50000))?;
                let mut last = Vec::new();
                while let Some((messages, ..)) = hear(fd)? {
                    last = messages;
                }
                let told = last.first().and_then(|m| value(&m.2, 16, IFLA_MTU));
                ensure!(
                    told != Some(50000u32.to_ne_bytes().to_vec()),
                    "a message came after the gap"
                );
                change(&mtu(40000))?;
                let (messages, ..) = some("a message", hear(fd)?)?;
                let told = value(&messages[0].2, 16, IFLA_MTU);
                eq("mtu", told, Some(40000u32.to_ne_bytes().to_vec()))?;
                // Who does not want to know is not told.
                let mut kept = 0;
                while hear(deaf)?.is_some() {
                    kept += 1;
                }
                ensure!((1..34).contains(&kept), "{kept} in a small buffer");
                change(&mtu(65536))
            })
        },
    ),
    Case::new(
        "netgroups.between_programs",
        "netlink(7)",
        "a message to a group reaches its members but not its sender, and needs CAP_NET_ADMIN",
        || {
            // The group that udev tells programs in.
            let group = 2;
            let (hears, other) = (
                in_group(NETLINK_KOBJECT_UEVENT, group)?,
                new_socket(NETLINK_KOBJECT_UEVENT)?,
            );
            let sends = in_group(NETLINK_KOBJECT_UEVENT, group)?;
            let mut to = name(0);
            to.nl_groups = 1 << (group - 1);
            let text = b"libudev\0to all who listen";
            let send = || {
                raw!(sendto(
                    sends,
                    text.as_ptr().cast(),
                    text.len(),
                    0,
                    (&raw const to).cast(),
                    SENDER_LEN as socklen_t
                ))
            };
            if !has_cap(CAP_NET_ADMIN) {
                return failed_with("sendto", send(), &[EPERM]);
            }
            returned("sendto", send(), text.len() as isize)?;
            let mut room = [0u8; 100];
            let mut sender = zeroed::<sockaddr_nl>();
            let mut len = SENDER_LEN as socklen_t;
            let n = ok!(recvfrom(
                hears,
                room.as_mut_ptr().cast(),
                room.len(),
                MSG_DONTWAIT,
                (&raw mut sender).cast(),
                &mut len
            ));
            eq("text", &room[..n as usize], &text[..])?;
            eq("groups", sender.nl_groups, 1 << (group - 1))?;
            ensure!(sender.nl_pid != 0, "it is from the kernel");
            quiet("the sender", sends)?;
            quiet("somebody else", other)
        },
    ),
    Case::new(
        "netgroups.interrupted_dump",
        "netlink(7)",
        "a dump whose table changes meanwhile says so (NLM_F_DUMP_INTR)",
        || {
            own_network(|| {
                const INTERRUPTED: u16 = 0x10;
                for i in 1..=200 {
                    change(&address(RTM_NEWADDR, [192, 0, 2, i]))?;
                }
                let fd = new_socket(NETLINK_ROUTE)?;
                let dump = |between: &dyn Fn() -> Outcome| {
                    let raw = message(RTM_GETADDR, DUMP, &[0; 8]);
                    returned("send", send_raw(fd, &raw), raw.len() as isize)?;
                    let (mut parts, mut interrupted) = (0, false);
                    loop {
                        let mut room = [0u8; 4096];
                        let n = ok!(recv(fd, room.as_mut_ptr().cast(), room.len(), 0));
                        let part = split(&room[..n as usize]);
                        interrupted |= part.iter().any(|m| m.1 & INTERRUPTED != 0);
                        parts += 1;
                        if part.iter().any(|m| m.0 == DONE) {
                            ensure!(parts > 2, "{parts} parts");
                            return Ok(interrupted);
                        }
                        between()?;
                    }
                };
                eq("at rest", dump(&|| Ok(()))?, false)?;
                let last = std::cell::Cell::new(201);
                let changed = dump(&|| {
                    last.set(last.get() + 1);
                    change(&address(RTM_NEWADDR, [192, 0, 2, last.get()]))
                })?;
                // With the first all go, for whoever has this network after us.
                change(&address(RTM_DELADDR, [192, 0, 2, 1]))?;
                eq("meanwhile", changed, true)
            })
        },
    ),
    Case::new(
        "netlink.smaller_tables",
        "rtnetlink(7)",
        "loopback's settings, queueing discipline, statistics and groups; labels; tables of neighbours",
        || {
            let fd = new_socket(NETLINK_ROUTE)?;
            const RTM_GETNETCONF: u16 = 82;
            const RTM_GETSTATS: u16 = 94;
            let of_loopback = |kind: u16, head: &[u8], skip: usize, at: usize| {
                let all = ask(fd, &message(kind, DUMP, head))?;
                eq("end", all.last().map(|m| m.0), Some(DONE))?;
                let lo = all.iter().find(|(kind, _, body)| match at {
                    // Its index is an attribute.
                    0 => value(body, skip, 1) == Some(vec![1, 0, 0, 0]),
                    _ => *kind != DONE && u32_of(body, at) == 1,
                });
                some("loopback", lo).map(|m| m.2.clone())
            };
            for family in [AF_INET, AF_INET6] {
                let head = [family as u8, 0, 0, 0];
                let conf = of_loopback(RTM_GETNETCONF, &head, 4, 0)?;
                eq("family", c_int::from(conf[0]), family)?;
                for setting in [2, 4, 5, 6] {
                    ensure!(value(&conf, 4, setting).is_some(), "no setting {setting}");
                }
                let by_index = |index: u32| {
                    let body = [&head[..], &attr(1, &index.to_ne_bytes())].concat();
                    ask(fd, &message(RTM_GETNETCONF, GET, &body))
                };
                eq("for all", by_index(u32::MAX)?[0].2[0], family as u8)?;
                let none = by_index(0x7fff_fff0)?;
                let errno = if family == AF_INET { ENODEV } else { EINVAL };
                eq("errno", errno_name(verdict(&none)?), errno_name(errno))?;
            }
            let discipline = of_loopback(RTM_GETQDISC, &[0; 20], 20, 4)?;
            let kind = value(&discipline, 20, 1);
            eq("discipline", kind, Some(b"noqueue\0".to_vec()))?;
            for kind in [RTM_GETTCLASS, RTM_GETTFILTER] {
                let mut head = [0; 20];
                head[4] = 1;
                let none = ask(fd, &message(kind, DUMP, &head))?;
                eq("classes, filters", verdict(&none)?, 0)?;
            }
            let stats = of_loopback(RTM_GETSTATS, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 12, 4)?;
            let len = value(&stats, 12, 1).map(|v| v.len());
            ensure!(len.is_some_and(|n| n >= 184), "statistics of {len:?} bytes");
            let without = ask(fd, &message(RTM_GETSTATS, DUMP, &[0; 12]))?;
            eq("errno", errno_name(verdict(&without)?), errno_name(EINVAL))?;
            let labels = ask(
                fd,
                &message(
                    RTM_GETADDRLABEL,
                    DUMP,
                    &[AF_INET6 as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ),
            )?;
            let rest = labels.iter().find(|m| m.0 != DONE && m.2[2] == 0);
            let label = rest.and_then(|m| value(&m.2, 12, 2));
            eq("label of the rest", label, Some(vec![1, 0, 0, 0]))?;
            let no_family = ask(fd, &message(RTM_GETADDRLABEL, DUMP, &[0; 12]))?;
            eq(
                "errno",
                errno_name(verdict(&no_family)?),
                errno_name(EOPNOTSUPP),
            )?;
            for (family, name) in [(AF_INET, &b"arp_cache\0"[..]), (AF_INET6, b"ndisc_cache\0")] {
                let tables = ask(
                    fd,
                    &message(RTM_GETNEIGHTBL, DUMP, &[family as u8, 0, 0, 0]),
                )?;
                eq("name", value(&tables[0].2, 4, 1), Some(name.to_vec()))?;
                for part in [2, 5, 6, 7, 8] {
                    ensure!(value(&tables[0].2, 4, part).is_some(), "no part {part}");
                }
                ensure!(tables.len() > 2, "no table of a link");
            }
            Ok(())
        },
    ),
];
