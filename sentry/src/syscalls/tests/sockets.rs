//! Unix sockets through system calls.

use super::*;

fn pair(t: &Arc<Task>, kind: i32) -> (u64, u64) {
    let at = room(t);
    plain(t, libc::SYS_socketpair, [1, kind as u64, 0, at]).unwrap();
    let [a, b]: [i32; 2] = get(t, at);
    (a as u64, b as u64)
}

/// struct sockaddr_un for a path or (with a leading NUL) an abstract name, and its length.
fn address(t: &Task, name: &[u8]) -> (u64, u64) {
    let raw = [&[1, 0], name].concat();
    (put(t, raw.as_slice()), raw.len() as u64)
}

/// struct msghdr over one buffer and control data.
fn header(t: &Task, (buf, len): (u64, u64), (control, control_len): (u64, u64)) -> u64 {
    let iov = put(t, &[buf, len]);
    put(t, &[0u64, 0, iov, 1, control, control_len, 0])
}

/// struct cmsghdr and its data, padded.
fn cmsg(kind: i32, data: &[i32]) -> Vec<u8> {
    let len = 16 + data.len() as u64 * 4;
    let mut raw = len.to_ne_bytes().to_vec();
    for v in [&[libc::SOL_SOCKET, kind], data].concat() {
        raw.extend_from_slice(&v.to_ne_bytes());
    }
    raw.resize(raw.len().next_multiple_of(8), 0);
    raw
}

fn option(t: &Arc<Task>, fd: u64, name: i32) -> Result<i32> {
    let (at, len) = (room(t), put(t, &4u32));
    let level = libc::SOL_SOCKET as u64;
    plain(t, libc::SYS_getsockopt, [fd, level, name as u64, at, len])?;
    Ok(get(t, at))
}

/// Datagrams that are held back are the sandbox's memory, however many sockets there are.
#[test]
fn what_is_held_back_counts() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let socket = [libc::AF_INET as u64, libc::SOCK_DGRAM as u64, 0];
    let fd = plain(&t, libc::SYS_socket, socket).unwrap();
    let before = t.kernel().net.pool.held();
    let held = || t.kernel().net.pool.held() - before;
    let to = put(&t, &[2u8, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let data = put(&t, [7u8; 1000].as_slice());
    let more = libc::MSG_MORE as u64;
    for n in 1..=3 {
        let sent = plain(&t, libc::SYS_sendto, [fd, data, 1000, more, to, 16]);
        assert_eq!(sent, Ok(1000));
        assert!((n * 1000..n * 2000 + 1000).contains(&held()), "{}", held());
    }
    plain(&t, libc::SYS_close, [fd]).unwrap();
    assert_eq!(held(), 0);
}

#[test]
fn files_and_credentials_travel() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    let on = put(&t, &1i32);
    let set = [b, 1, libc::SO_PASSCRED as u64, on, 4];
    plain(&t, libc::SYS_setsockopt, set).unwrap();
    let (r, w) = pipe(&t, 0);
    let control = cmsg(libc::SCM_RIGHTS, &[r as i32, w as i32]);
    let control = (put(&t, control.as_slice()), control.len() as u64);
    let data = put(&t, b"data");
    let sent = header(&t, (data, 4), control);
    assert_eq!(plain(&t, libc::SYS_sendmsg, [a, sent, 0]), Ok(4));

    let (buf, control) = (room(&t), room(&t));
    let got = header(&t, (buf, 100), (control, 100));
    let flags = libc::MSG_CMSG_CLOEXEC as u64;
    assert_eq!(plain(&t, libc::SYS_recvmsg, [b, got, flags]), Ok(4));
    assert_eq!(bytes(&t, buf, 4), b"data");
    // Credentials (32 bytes with padding), then two numbers (24).
    assert_eq!(get::<u64>(&t, got + 40), 56);
    assert_eq!(get::<i32>(&t, got + 48) & libc::MSG_CTRUNC, 0);
    let creds: [i32; 3] = get(&t, control + 16);
    assert_eq!(creds, [t.pid(), 0, 0]);
    let [new_r, new_w]: [i32; 2] = get(&t, control + 32 + 16);
    assert!(new_r as u64 != r && new_w as u64 != w);
    write(&t, new_w as u64, b"same pipe").unwrap();
    assert_eq!(read(&t, r), Ok(b"same pipe".to_vec()));
    let (_, exec) = t.files().get_with_exec(new_r).unwrap();
    assert_eq!(exec, crate::fs::fdtable::Exec::Close);

    // Without room for them the files are closed, and the receiver is told.
    assert_eq!(plain(&t, libc::SYS_sendmsg, [a, sent, 0]), Ok(4));
    let got = header(&t, (buf, 100), (control, 16));
    plain(&t, libc::SYS_recvmsg, [b, got, 0]).unwrap();
    assert_ne!(get::<i32>(&t, got + 48) & libc::MSG_CTRUNC, 0);
    let bad = cmsg(libc::SCM_RIGHTS, &[99]);
    let bad = header(&t, (data, 4), (put(&t, bad.as_slice()), bad.len() as u64));
    let bad = plain(&t, libc::SYS_sendmsg, [a, bad, 0]);
    assert_eq!(bad, Err(Errno::EBADF));
}

#[test]
fn a_server_and_a_client_by_path() {
    let sandbox = Sandbox::new();
    let (server, client) = (sandbox.process(None), sandbox.process(None));
    let stream = libc::SOCK_STREAM as u64;
    let s = plain(&server, libc::SYS_socket, [1, stream, 0]).unwrap();
    let (addr, len) = address(&server, b"/server\0");
    plain(&server, libc::SYS_bind, [s, addr, len]).unwrap();
    let again = plain(&server, libc::SYS_socket, [1, stream, 0]).unwrap();
    let used = plain(&server, libc::SYS_bind, [again, addr, len]);
    assert_eq!(used, Err(Errno::EADDRINUSE));
    let c = plain(&client, libc::SYS_socket, [1, stream, 0]).unwrap();
    let (to, to_len) = address(&client, b"/server");
    let connect = || plain(&client, libc::SYS_connect, [c, to, to_len]);
    assert_eq!(connect(), Err(Errno::ECONNREFUSED));
    plain(&server, libc::SYS_listen, [s, 5]).unwrap();
    let (peer, peer_len) = (room(&server), put(&server, &100u32));
    let accepting = spawn(&server, libc::SYS_accept4, [s, peer, peer_len, 0]);
    until_waiting(&server);
    assert_eq!(connect(), Ok(0));
    let conn = accepting.join().unwrap().unwrap();
    // The client has no name.
    assert_eq!(get::<u32>(&server, peer_len), 2);
    let (name, name_len) = (room(&client), put(&client, &100u32));
    plain(&client, libc::SYS_getpeername, [c, name, name_len]).unwrap();
    assert_eq!(get::<u32>(&client, name_len), 10);
    assert_eq!(bytes(&client, name, 10), b"\x01\0/server\0");
    assert_eq!(option(&server, s, libc::SO_ACCEPTCONN), Ok(1));
    assert_eq!(option(&server, conn, libc::SO_PEERCRED), Ok(client.pid()));

    let at = room(&server);
    let all = libc::MSG_WAITALL as u64;
    let reading = spawn(&server, libc::SYS_recvfrom, [conn, at, 8, all, 0, 0]);
    until_waiting(&server);
    write(&client, c, b"half").unwrap();
    write(&client, c, b"full").unwrap();
    assert_eq!(reading.join().unwrap(), Ok(8));
    assert_eq!(bytes(&server, at, 8), b"halffull");
    plain(&client, libc::SYS_close, [c]).unwrap();
    assert_eq!(read(&server, conn), Ok(vec![]));
    let ipx = plain(&client, libc::SYS_socket, [4, stream, 0]);
    assert_eq!(ipx, Err(Errno::EAFNOSUPPORT));
}

#[test]
fn datagrams_have_senders_lengths_and_limits() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let dgram = libc::SOCK_DGRAM as u64;
    let socket = || plain(&t, libc::SYS_socket, [1, dgram, 0]).unwrap();
    let (a, b) = (socket(), socket());
    let (name_a, len_a) = address(&t, b"\0test-datagram-a");
    let (name_b, len_b) = address(&t, b"\0test-datagram-b");
    plain(&t, libc::SYS_bind, [a, name_a, len_a]).unwrap();
    plain(&t, libc::SYS_bind, [b, name_b, len_b]).unwrap();
    let data = put(&t, b"hello");
    let send = |flags: i32| {
        plain(
            &t,
            libc::SYS_sendto,
            [a, data, 5, flags as u64, name_b, len_b],
        )
    };
    assert_eq!(send(0), Ok(5));
    let (at, from, from_len) = (room(&t), room(&t), put(&t, &100u32));
    let trunc = libc::MSG_TRUNC as u64;
    let n = plain(&t, libc::SYS_recvfrom, [b, at, 2, trunc, from, from_len]);
    assert_eq!(n, Ok(5));
    assert_eq!(u64::from(get::<u32>(&t, from_len)), len_a);
    assert_eq!(bytes(&t, from, 4), b"\x01\0\0t");
    let dontwait = libc::MSG_DONTWAIT as u64;
    let none = plain(&t, libc::SYS_recvfrom, [b, at, 9, dontwait, 0, 0]);
    assert_eq!(none, Err(Errno::EAGAIN));
    while send(libc::MSG_DONTWAIT).is_ok() {}
    let sender = spawn(&t, libc::SYS_sendto, [a, data, 5, 0, name_b, len_b]);
    until_waiting(&t);
    let other = sandbox.process(None);
    other.set_files(Some(t.files()));
    assert_eq!(read(&other, b), Ok(b"hello".to_vec()));
    assert_eq!(sender.join().unwrap(), Ok(5));
    // SO_RCVTIMEO.
    let drain = || plain(&t, libc::SYS_recvfrom, [b, at, 9, dontwait, 0, 0]);
    while drain().is_ok() {}
    let time = put(&t, &[0u64, 10_000]);
    let set = [b, 1, libc::SO_RCVTIMEO as u64, time, 16];
    plain(&t, libc::SYS_setsockopt, set).unwrap();
    assert_eq!(read(&t, b), Err(Errno::EAGAIN));
}

#[test]
fn several_messages_a_call() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (a, b) = pair(&t, libc::SOCK_SEQPACKET);
    let vector = |bufs: [u64; 2], len: u64| {
        let mut words = Vec::new();
        for buf in bufs {
            words.extend([0, 0, put(&t, &[buf, len]), 1, 0, 0, 0, 0]);
        }
        put(&t, words.as_slice())
    };
    let sent = vector([put(&t, b"one"), put(&t, b"two")], 3);
    assert_eq!(plain(&t, libc::SYS_sendmmsg, [a, sent, 2, 0]), Ok(2));
    assert_eq!(get::<u32>(&t, sent + 64 + 56), 3);
    let (x, y) = (room(&t), room(&t));
    let got = vector([x, y], 100);
    let dontwait = libc::MSG_DONTWAIT as u64;
    assert_eq!(
        plain(&t, libc::SYS_recvmmsg, [b, got, 2, dontwait, 0]),
        Ok(2)
    );
    assert_eq!(
        (bytes(&t, x, 3), bytes(&t, y, 3)),
        (b"one".to_vec(), b"two".to_vec())
    );
    assert_eq!(get::<u32>(&t, got + 56), 3);
}

#[test]
fn a_broken_stream_raises_a_signal_unless_asked_not_to() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    plain(&t, libc::SYS_close, [b]).unwrap();
    let data = put(&t, b"x");
    let quiet = libc::MSG_NOSIGNAL as u64;
    let pending = || !t.signals.lock().pending.is_empty();
    let sent = plain(&t, libc::SYS_sendto, [a, data, 1, quiet, 0, 0]);
    assert_eq!((sent, pending()), (Err(Errno::EPIPE), false));
    let sent = plain(&t, libc::SYS_sendto, [a, data, 1, 0, 0, 0]);
    assert_eq!((sent, pending()), (Err(Errno::EPIPE), true));
}

#[test]
fn a_stream_keeps_its_order_under_load() {
    let sandbox = Sandbox::new();
    let (t, other) = (sandbox.process(None), sandbox.process(None));
    let (a, b) = pair(&t, libc::SOCK_STREAM);
    other.set_files(Some(t.files()));
    let total = 3_000_000u64;
    let byte = |i: u64| (i % 251) as u8;
    let writer = std::thread::spawn(move || {
        let mut sent = 0;
        for step in (1..4096u64).cycle() {
            let n = step.min(total - sent);
            let data: Vec<u8> = (sent..sent + n).map(byte).collect();
            let at = other.mm().mmap(anon(0, 1, RW, libc::MAP_PRIVATE)).unwrap();
            other.mm().write_bytes(at, &data).unwrap();
            assert_eq!(plain(&other, libc::SYS_write, [a, at, n]), Ok(n));
            other.mm().munmap(at, 4096).unwrap();
            sent += n;
            if sent == total {
                break;
            }
        }
        plain(&other, libc::SYS_close, [a]).unwrap();
    });
    let at = t.mm().mmap(anon(0, 16, RW, libc::MAP_PRIVATE)).unwrap();
    let mut got = 0;
    loop {
        let n = plain(&t, libc::SYS_read, [b, at, 65_000]).unwrap();
        if n == 0 {
            break;
        }
        let data = bytes(&t, at, n as usize);
        assert!(data.iter().zip(got..).all(|(b, i)| *b == byte(i)));
        got += n;
    }
    assert_eq!(got, total);
    writer.join().unwrap();
}
