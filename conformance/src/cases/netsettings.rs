//! What /proc/sys/net sets, and what /proc/net counts (proc_sys_net(5), proc_net(5)), in a network
//! namespace of the case's own.

use super::netgroups::own_network;
use crate::case::*;
use crate::inet::get_int;
use std::ptr::null_mut;

/// Sets a key of /proc/sys/net, does something, and sets it back.
fn with(key: &str, value: &str, body: impl FnOnce() -> Outcome) -> Outcome {
    let before = slurp(&path(key))?;
    store(key, value)?;
    let outcome = body();
    store(key, &before)?;
    outcome
}

fn path(key: &str) -> String {
    format!("/proc/sys/net/{key}")
}

/// One write(2) of all.
fn store(key: &str, value: &str) -> Outcome {
    eq(key, errno_name(try_write(key, value)?), errno_name(0))
}

/// The errno of one write(2), or of open(2).
fn try_write(key: &str, value: &str) -> Outcome<i32> {
    let name = cstring(path(key));
    let fd = raw!(open(p(&name), O_WRONLY));
    if fd < 0 {
        return Ok(errno());
    }
    let n = raw!(write(fd, value.as_ptr().cast(), value.len()));
    let found = if n < 0 { errno() } else { 0 };
    ok!(close(fd));
    Ok(found)
}

fn address(ip: [u8; 4], port: u16) -> sockaddr_in {
    let mut address = zeroed::<sockaddr_in>();
    address.sin_family = AF_INET as u16;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(ip);
    address
}

const LEN: socklen_t = size_of::<sockaddr_in>() as socklen_t;
const LEN_V6: socklen_t = size_of::<sockaddr_in6>() as socklen_t;

fn bind_v4(fd: c_int, ip: [u8; 4], port: u16) -> c_int {
    let address = address(ip, port);
    raw!(bind(fd, (&raw const address).cast(), LEN))
}

fn connect_v4(fd: c_int, port: u16) -> c_int {
    let to = address([127, 0, 0, 1], port);
    raw!(connect(fd, (&raw const to).cast(), LEN))
}

fn port_of(fd: c_int) -> Outcome<u16> {
    let mut own = zeroed::<sockaddr_in>();
    let mut len = LEN;
    ok!(getsockname(fd, (&raw mut own).cast(), &mut len));
    Ok(u16::from_be(own.sin_port))
}

fn bind_loopback(fd: c_int, family: c_int) -> c_int {
    if family == AF_INET {
        return bind_v4(fd, [127, 0, 0, 1], 0);
    }
    let own = loopback_v6();
    raw!(bind(fd, (&raw const own).cast(), LEN_V6))
}

/// sendto(2) to a port of loopback.
fn send_to(fd: c_int, family: c_int, port: u16, data: &[u8]) -> isize {
    let (at, n) = (data.as_ptr().cast(), data.len());
    if family == AF_INET {
        let to = address([127, 0, 0, 1], port);
        return raw!(sendto(fd, at, n, 0, (&raw const to).cast(), LEN));
    }
    let mut to = loopback_v6();
    to.sin6_port = port.to_be();
    raw!(sendto(fd, at, n, 0, (&raw const to).cast(), LEN_V6))
}

fn loopback_v6() -> sockaddr_in6 {
    let mut address = zeroed::<sockaddr_in6>();
    address.sin6_family = AF_INET6 as u16;
    address.sin6_addr.s6_addr[15] = 1;
    address
}

fn listener(backlog: c_int) -> Outcome<(c_int, u16)> {
    let fd = ok!(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    succeeded("bind", bind_v4(fd, [127, 0, 0, 1], 0))?;
    ok!(listen(fd, backlog));
    Ok((fd, port_of(fd)?))
}

/// A number of /proc/net/snmp, snmp6 or netstat.
fn counter(row: &str, column: &str) -> Outcome<i64> {
    let whole = format!("{row}{column}");
    let number = |text: &str| {
        text.parse()
            .map_err(|_| Failure::Fail(format!("{whole}: {text}")))
    };
    if row.ends_with('6') {
        let text = slurp("/proc/self/net/snmp6")?;
        let mut lines = text
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|l| l.first() == Some(&&*whole));
        return match line.as_deref() {
            Some([_, value]) => number(value),
            _ => fail!("no {whole}"),
        };
    }
    let text = slurp("/proc/self/net/snmp")? + &slurp("/proc/self/net/netstat")?;
    let label = format!("{row}:");
    let mut lines = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    let names = lines.find(|l| l.first() == Some(&&*label));
    let values = lines.find(|l| l.first() == Some(&&*label));
    let at = names.and_then(|n| n.iter().position(|n| *n == column));
    match at.zip(values) {
        Some((at, values)) => number(values[at]),
        None => fail!("no {whole}"),
    }
}

/// What each of some counters has grown by.
fn grown<const N: usize>(
    counters: [(&str, &str); N],
    body: impl FnOnce() -> Outcome,
) -> Outcome<[i64; N]> {
    let read = || -> Outcome<Vec<i64>> {
        counters
            .iter()
            .map(|(row, column)| counter(row, column))
            .collect()
    };
    let before = read()?;
    body()?;
    let after = read()?;
    Ok(std::array::from_fn(|i| after[i] - before[i]))
}

/// Bytes and packets that loopback received.
fn loopback() -> Outcome<(i64, i64)> {
    let text = slurp("/proc/self/net/dev")?;
    let line = text.lines().find_map(|l| l.trim().strip_prefix("lo:"));
    let Some(line) = line else {
        fail!("no loopback")
    };
    let numbers: Vec<i64> = line
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    Ok((numbers[0], numbers[1]))
}

pub static CASES: &[Case] = &[
    Case::new(
        "netsettings.defaults_of_sockets",
        "proc_sys_net(5)",
        "buffers, keep-alive and IPV6_V6ONLY of new sockets are those of /proc/sys/net",
        || {
            own_network(|| {
                let tcp = || Ok(ok!(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
                let old = tcp()?;
                with("ipv4/tcp_rmem", "4096 50000 600000", || {
                    eq("receive", get_int(tcp()?, SOL_SOCKET, SO_RCVBUF)?, 50000)
                })?;
                with("ipv4/tcp_wmem", "4096 30000 600000", || {
                    eq("send", get_int(tcp()?, SOL_SOCKET, SO_SNDBUF)?, 30000)
                })?;
                for (key, name) in [
                    ("time", TCP_KEEPIDLE),
                    ("intvl", TCP_KEEPINTVL),
                    ("probes", TCP_KEEPCNT),
                ] {
                    let key = format!("ipv4/tcp_keepalive_{key}");
                    with(&key, "17\n", || {
                        // Also of one that is there already, unless it was set.
                        eq(&key, get_int(old, IPPROTO_TCP, name)?, 17)?;
                        let set = tcp()?;
                        let own: c_int = 5;
                        ok!(setsockopt(
                            set,
                            IPPROTO_TCP,
                            name,
                            (&raw const own).cast(),
                            4
                        ));
                        eq(&key, get_int(set, IPPROTO_TCP, name)?, 5)
                    })?;
                }
                with("ipv6/bindv6only", "1", || {
                    let fd = ok!(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                    eq("only", get_int(fd, IPPROTO_IPV6, IPV6_V6ONLY)?, 1)
                })?;
                let fd = ok!(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                eq("both", get_int(fd, IPPROTO_IPV6, IPV6_V6ONLY)?, 0)
            })
        },
    ),
    Case::new(
        "netsettings.ports",
        "ip(7)",
        "picked ports are of ip_local_port_range and none of ip_local_reserved_ports",
        || {
            own_network(|| {
                with("ipv4/ip_local_port_range", "40000 40009", || {
                    with(
                        "ipv4/ip_local_reserved_ports",
                        "40000-40003,40005,7",
                        || {
                            let shown = slurp(&path("ipv4/ip_local_reserved_ports"))?;
                            eq("shown", shown.trim(), "7,40000-40003,40005")?;
                            let mut picked = Vec::new();
                            for _ in 0..5 {
                                let fd = ok!(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                                succeeded("bind", bind_v4(fd, [127, 0, 0, 1], 0))?;
                                picked.push(port_of(fd)?);
                            }
                            picked.sort_unstable();
                            eq("picked", &picked[..], &[40004, 40006, 40007, 40008, 40009])?;
                            let fd = ok!(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                            failed_with("bind", bind_v4(fd, [127, 0, 0, 1], 0), &[EADDRINUSE])?;
                            // Who asks for one gets it.
                            succeeded("bind", bind_v4(fd, [127, 0, 0, 1], 40001)).map(drop)
                        },
                    )
                })?;
                for value in ["9-8", "65536", "x"] {
                    let got = try_write("ipv4/ip_local_reserved_ports", value)?;
                    eq(value, errno_name(got), errno_name(EINVAL))?;
                }
                Ok(())
            })
        },
    ),
    Case::new(
        "netsettings.backlog",
        "listen(2)",
        "a listener's backlog is somaxconn at most, which is counted",
        || {
            own_network(|| {
                with("core/somaxconn", "1", || {
                    let (fd, port) = listener(100)?;
                    let overflows = grown([("TcpExt", "ListenOverflows")], || {
                        for expected in [0, 0, EINPROGRESS] {
                            let kind = SOCK_STREAM | SOCK_CLOEXEC;
                            let client = ok!(socket(AF_INET, kind, 0));
                            if expected != 0 {
                                ok!(fcntl(client, F_SETFL, O_NONBLOCK));
                                failed_with("connect", connect_v4(client, port), &[expected])?;
                            } else {
                                succeeded("connect", connect_v4(client, port))?;
                            }
                        }
                        Ok(())
                    })?;
                    ensure!(overflows[0] > 0, "nothing was counted");
                    ok!(close(fd));
                    Ok(())
                })?;
                let got = try_write("core/somaxconn", "-1")?;
                eq("-1", errno_name(got), errno_name(EINVAL))
            })
        },
    ),
    Case::new(
        "netsettings.addresses",
        "ip(7)",
        "ip_nonlocal_bind lets any address be bound; disable_ipv6 takes loopback's IPv6 address away",
        || {
            own_network(|| {
                let elsewhere = [198, 51, 100, 1];
                let fd = ok!(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
                failed_with("bind", bind_v4(fd, elsewhere, 0), &[EADDRNOTAVAIL])?;
                with("ipv4/ip_nonlocal_bind", "1", || {
                    succeeded("bind", bind_v4(fd, elsewhere, 0)).map(drop)
                })?;
                let bind_v6 = || {
                    let fd = raw!(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
                    bind_loopback(fd, AF_INET6)
                };
                let lo = "ipv6/conf/lo/disable_ipv6";
                for key in [lo, "ipv6/conf/all/disable_ipv6"] {
                    succeeded("bind", bind_v6())?;
                    with(key, "1", || {
                        failed_with("bind", bind_v6(), &[EADDRNOTAVAIL])?;
                        eq("shown", slurp("/proc/self/net/if_inet6")?.trim(), "")?;
                        eq("lo", slurp(&path(lo))?.trim(), "1")?;
                        let fd = ok!(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
                        let mut to = loopback_v6();
                        to.sin6_port = 9u16.to_be();
                        let got = raw!(connect(fd, (&raw const to).cast(), LEN_V6));
                        failed_with("connect", got, &[EADDRNOTAVAIL])
                    })?;
                }
                succeeded("bind", bind_v6()).map(drop)
            })
        },
    ),
    Case::new(
        "netsettings.readonly",
        "proc_sys_net(5)",
        "sizes that belong to the machine are not a namespace's to set",
        || {
            own_network(|| {
                for key in ["rmem_max", "wmem_max", "rmem_default", "wmem_default"] {
                    let got = try_write(&format!("core/{key}"), "300000")?;
                    eq(key, errno_name(got), errno_name(EACCES))?;
                }
                Ok(())
            })
        },
    ),
    Case::new(
        "netcounters.tcp",
        "proc_net(5)",
        "connections that are begun, accepted, refused and reset are counted, and segments",
        || {
            own_network(|| {
                let names = [
                    ("Tcp", "ActiveOpens"),
                    ("Tcp", "PassiveOpens"),
                    ("Tcp", "AttemptFails"),
                    ("Tcp", "EstabResets"),
                    ("Tcp", "OutRsts"),
                    ("Tcp", "CurrEstab"),
                ];
                let mut pair = (0, 0);
                let got = grown(names, || {
                    let (fd, port) = listener(5)?;
                    let client = ok!(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
                    succeeded("connect", connect_v4(client, port))?;
                    pair = (client, ok!(accept(fd, null_mut(), null_mut())));
                    ok!(close(fd));
                    Ok(())
                })?;
                eq("a connection", got, [1, 1, 0, 0, 0, 2])?;
                let got = grown(names, || {
                    let client = ok!(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
                    failed_with("connect", connect_v4(client, 9), &[ECONNREFUSED])
                })?;
                eq("a refusal", got, [1, 0, 1, 0, 1, 0])?;
                let before = loopback()?;
                let segments = grown([("Tcp", "InSegs"), ("Tcp", "OutSegs")], || {
                    write_all(pair.0, &[7; 1000])
                })?;
                ensure!(segments.iter().all(|n| *n > 0), "segments: {segments:?}");
                let after = loopback()?;
                ensure!(
                    after.0 - before.0 > 1000 && after.1 > before.1,
                    "loopback: {before:?} and {after:?}"
                );
                let bytes = |fd, at: usize| -> Outcome<u64> {
                    let mut info = [0u64; 32];
                    let mut len = size_of_val(&info) as socklen_t;
                    let to = info.as_mut_ptr().cast();
                    ok!(getsockopt(fd, IPPROTO_TCP, TCP_INFO, to, &mut len));
                    Ok(info[at / 8])
                };
                // tcpi_bytes_sent, tcpi_bytes_received.
                eq("sent", bytes(pair.0, 200)?, 1000)?;
                eq("received", bytes(pair.1, 128)?, 1000)?;
                // Closed with something unread.
                let got = grown(names, || {
                    ok!(close(pair.1));
                    Ok(())
                })?;
                eq("a reset", got, [0, 0, 0, 2, 1, -2])
            })
        },
    ),
    Case::new(
        "netcounters.udp",
        "proc_net(5)",
        "datagrams sent, read, for nobody and without room are counted, by family",
        || {
            own_network(|| {
                for (row, icmp, family) in [("Udp", "Icmp", AF_INET), ("Udp6", "Icmp6", AF_INET6)] {
                    let make = || Ok(ok!(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)));
                    let receiver = make()?;
                    succeeded("bind", bind_loopback(receiver, family))?;
                    let port = port_of(receiver)?;
                    let sender = make()?;
                    let send = |port: u16, n: usize| {
                        let data = vec![0u8; n];
                        returned("sendto", send_to(sender, family, port, &data), n as isize)?;
                        Ok(())
                    };
                    let names = [
                        (row, "OutDatagrams"),
                        (row, "InDatagrams"),
                        (row, "NoPorts"),
                        (row, "RcvbufErrors"),
                        (row, "InErrors"),
                        (icmp, "OutDestUnreachs"),
                        (icmp, "InDestUnreachs"),
                    ];
                    let got = grown(names, || send(port, 100))?;
                    eq("sent", got, [1, 0, 0, 0, 0, 0, 0])?;
                    let mut room = [0u8; 100];
                    let got = grown(names, || {
                        let at = room.as_mut_ptr().cast();
                        gives!(100, recv(receiver, at, 100, MSG_PEEK));
                        gives!(100, recv(receiver, at, 100, 0));
                        Ok(())
                    })?;
                    eq("received", got, [0, 1, 0, 0, 0, 0, 0])?;
                    let got = grown(names, || send(9, 100))?;
                    eq("for nobody", got, [1, 0, 1, 0, 0, 1, 1])?;
                    if family == AF_INET {
                        ensure!(counter("IcmpMsg", "InType3")? > 0, "no message by type");
                    }
                    let small: c_int = 1;
                    let at = (&raw const small).cast();
                    ok!(setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, at, 4));
                    let got = grown(names, || (0..20).try_for_each(|_| send(port, 1000)))?;
                    eq("sent", got[0], 20)?;
                    ensure!(got[3] > 0 && got[3] == got[4], "no room: {got:?}");
                }
                Ok(())
            })
        },
    ),
];
