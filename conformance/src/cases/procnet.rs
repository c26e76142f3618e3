//! Sockets and interfaces as /proc/net, /sys/class/net and sock_diag(7) show them: by the inode
//! numbers of descriptors, which is how ss(8), netstat(8) and lsof(8) find who has a socket.

use crate::case::*;

const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// An IPv4 socket bound to a free port of 127.0.0.1, and the port.
fn bound(kind: c_int) -> Outcome<(c_int, u16)> {
    let fd = ok!(socket(AF_INET, kind | SOCK_CLOEXEC, 0));
    let mut addr = zeroed::<sockaddr_in>();
    addr.sin_family = AF_INET as u16;
    addr.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    let mut len = size_of::<sockaddr_in>() as socklen_t;
    ok!(bind(fd, (&raw const addr).cast(), len));
    ok!(getsockname(fd, (&raw mut addr).cast(), &mut len));
    Ok((fd, u16::from_be(addr.sin_port)))
}

fn ino(fd: c_int) -> Outcome<u64> {
    Ok(fstat_of(fd)?.st_ino)
}

/// The fields of the line of a table with this inode number in a column.
fn row(path: &str, column: usize, ino: u64) -> Outcome<Vec<String>> {
    let text = slurp(path)?;
    let ino = ino.to_string();
    let mut lines = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    match lines.find(|l| l.get(column) == Some(&&*ino)) {
        Some(fields) => Ok(fields.into_iter().map(str::to_owned).collect()),
        None => fail!("{path} has no inode {ino}:\n{text}"),
    }
}

/// Inode numbers of the listening TCP sockets that a filter program shows.
fn listening(code: &[u8]) -> Outcome<Vec<u64>> {
    let fd = ok!(socket(
        AF_NETLINK,
        SOCK_RAW | SOCK_CLOEXEC,
        NETLINK_SOCK_DIAG
    ));
    let mut body = vec![AF_INET as u8, IPPROTO_TCP as u8, 0, 0];
    // State TCP_LISTEN.
    body.extend((1u32 << 10).to_ne_bytes());
    body.extend([0; 48]);
    body.extend(((4 + code.len()) as u16).to_ne_bytes());
    body.extend(1u16.to_ne_bytes());
    body.extend(code);
    let mut raw = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    raw.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    raw.extend(((NLM_F_REQUEST | NLM_F_DUMP) as u16).to_ne_bytes());
    raw.extend([0; 8]);
    raw.extend(body);
    gives!(raw.len(), send(fd, raw.as_ptr().cast(), raw.len(), 0));
    let mut found = Vec::new();
    loop {
        let mut room = vec![0u8; 65536];
        let n = ok!(recv(fd, room.as_mut_ptr().cast(), room.len(), 0)) as usize;
        let mut rest = &room[..n];
        while rest.len() >= 16 {
            let word = |at: usize| {
                u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]])
            };
            match c_int::from(u16::from_ne_bytes([rest[4], rest[5]])) {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => fail!("errno {}", errno_name(-(word(16) as i32))),
                // idiag_inode
                _ => found.push(u64::from(word(16 + 68))),
            }
            rest = &rest[(word(0) as usize).next_multiple_of(4)..];
        }
    }
}

/// The program `sport = PORT`.
fn source_port(port: u16) -> Vec<u8> {
    let mut code = vec![11, 8, 12, 0, 0, 0];
    code.extend(port.to_ne_bytes());
    code
}

pub static CASES: &[Case] = &[
    Case::new(
        "procnet.tcp",
        "proc_net(5)",
        "a listener and the state of its queue; not a socket that is only bound",
        || {
            let (fd, port) = bound(SOCK_STREAM)?;
            ensure!(
                row("/proc/net/tcp", 9, ino(fd)?).is_err(),
                "listed when bound"
            );
            ok!(listen(fd, 5));
            let fields = row("/proc/net/tcp", 9, ino(fd)?)?;
            eq("address", &*fields[1], &*format!("0100007F:{port:04X}"))?;
            eq("peer", &*fields[2], "00000000:0000")?;
            eq("state", &*fields[3], "0A")?;
            eq("queues", &*fields[4], "00000000:00000000")?;
            let link = format!("socket:[{}]", ino(fd)?);
            let path = format!("/proc/self/fd/{fd}");
            let seen = std::fs::read_link(path).map(|p| p.display().to_string());
            eq("link", seen.ok(), Some(link))
        },
    ),
    Case::new(
        "procnet.udp",
        "proc_net(5)",
        "a bound socket and the datagrams that wait in it",
        || {
            let (fd, port) = bound(SOCK_DGRAM)?;
            let fields = row("/proc/net/udp", 9, ino(fd)?)?;
            eq("address", &*fields[1], &*format!("0100007F:{port:04X}"))?;
            eq("state", &*fields[3], "07")?;
            eq("queues", &*fields[4], "00000000:00000000")?;
            eq("drops", &*fields[12], "0")
        },
    ),
    Case::new("procnet.unix", "proc_net(5)", "a connected pair", || {
        let (a, _b) = socket_pair(SOCK_STREAM)?;
        let fields = row("/proc/net/unix", 6, ino(a)?)?;
        eq("references", &*fields[1], "00000003")?;
        eq("type, state", (&*fields[4], &*fields[5]), ("0001", "03"))
    }),
    Case::new(
        "procnet.netlink",
        "proc_net(5)",
        "a socket with its protocol and port",
        || {
            let fd = ok!(socket(
                AF_NETLINK,
                SOCK_RAW | SOCK_CLOEXEC,
                NETLINK_SOCK_DIAG
            ));
            let mut name = zeroed::<sockaddr_nl>();
            name.nl_family = AF_NETLINK as u16;
            let len = size_of::<sockaddr_nl>() as socklen_t;
            ok!(bind(fd, (&raw const name).cast(), len));
            let fields = row("/proc/net/netlink", 9, ino(fd)?)?;
            eq("protocol", &*fields[1], "4")?;
            eq("port", &*fields[2], &*getpid_now().to_string())
        },
    ),
    Case::new(
        "procnet.interfaces",
        "proc_net(5)",
        "loopback in /proc/net/dev and in sysfs",
        || {
            let dev = slurp("/proc/net/dev")?;
            let lo = dev.lines().find(|l| l.trim_start().starts_with("lo:"));
            eq(
                "columns",
                lo.map(|l| l.split_whitespace().count()),
                Some(17),
            )?;
            for (name, text) in [
                ("address", "00:00:00:00:00:00"),
                ("mtu", "65536"),
                ("type", "772"),
            ] {
                let path = format!("/sys/class/net/lo/{name}");
                eq(name, slurp(&path)?.trim_end(), text)?;
            }
            slurp("/sys/class/net/lo/statistics/rx_bytes")?;
            let speed = ok!(open(p(c"/sys/class/net/lo/speed"), O_RDONLY));
            let mut room = [0u8; 16];
            err!(EINVAL, read(speed, room.as_mut_ptr().cast(), 16));
            Ok(())
        },
    ),
    Case::new(
        "procnet.counters",
        "proc_net(5)",
        "a datagram over loopback counts on it",
        || {
            let count = || -> Outcome<u64> {
                let text = slurp("/sys/class/net/lo/statistics/rx_bytes")?;
                match text.trim_end().parse() {
                    Ok(n) => Ok(n),
                    Err(_) => fail!("no number: {text}"),
                }
            };
            let before = count()?;
            let (fd, port) = bound(SOCK_DGRAM)?;
            let mut to = zeroed::<sockaddr_in>();
            to.sin_family = AF_INET as u16;
            to.sin_port = port.to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
            let len = size_of::<sockaddr_in>() as socklen_t;
            let data = [0u8; 100];
            let at = (&raw const to).cast();
            gives!(100, sendto(fd, data.as_ptr().cast(), 100, 0, at, len));
            let more = count()? - before;
            ensure!(more >= 128, "only {more} bytes more");
            Ok(())
        },
    ),
    Case::new(
        "sock_diag.inet",
        "sock_diag(7)",
        "a filter finds the one listener on a port; what is no program is EINVAL",
        || {
            let (a, first) = bound(SOCK_STREAM)?;
            let (b, second) = bound(SOCK_STREAM)?;
            ok!(listen(a, 5));
            ok!(listen(b, 5));
            eq("first", listening(&source_port(first))?, vec![ino(a)?])?;
            eq("second", listening(&source_port(second))?, vec![ino(b)?])?;
            for code in [
                &[11, 8, 12, 0][..],
                &[99, 4, 8, 0],
                &[6, 0, 8, 0],
                &[6, 4, 7, 0],
            ] {
                match listening(code) {
                    Err(Failure::Fail(text)) if text == "errno EINVAL" => {}
                    other => fail!("{code:?} gave {other:?}"),
                }
            }
            Ok(())
        },
    ),
];
