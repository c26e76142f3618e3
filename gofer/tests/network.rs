//! The network Gofer's protocol, served by a thread of the test in a network namespace of the
//! test's own, or, without the rights to make one, in the machine's, on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runsc_gofer::{
    Errno,
    network::{
        Client, Endpoint, Family, Kind, MAX_STEPS, MAX_VALUE, OptionName, Step, client::pairs,
        server::spawn_unconfined,
    },
};

const LOOPBACK: Endpoint = Endpoint {
    ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
    port: 0,
    scope: 0,
};
const ERROR: OptionName = OptionName {
    level: libc::SOL_SOCKET,
    name: libc::SO_ERROR,
};
const REUSE: OptionName = OptionName {
    level: libc::SOL_SOCKET,
    name: libc::SO_REUSEADDR,
};

fn client() -> Client {
    let (ends, channels) = pairs().unwrap();
    spawn_unconfined(channels).unwrap();
    Client::new(ends)
}

fn number(value: &[u8]) -> i32 {
    i32::from_ne_bytes(value.try_into().unwrap())
}

fn wait(fd: &OwnedFd, events: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).unwrap(), 1);
    fds[0].revents().unwrap()
}

#[test]
fn a_connection_out() {
    let client = client();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Endpoint::from(listener.local_addr().unwrap());
    let (socket, done) = client
        .open(Family::V4, Kind::Tcp, vec![Step::Connect(to)])
        .unwrap();
    assert_eq!(done.failed, Some(Errno(libc::EINPROGRESS)));
    assert_ne!(done.local.port, 0);
    wait(&socket, PollFlags::POLLOUT);
    let done = client
        .carry_out(socket.as_fd(), vec![Step::Get(ERROR, 4)])
        .unwrap();
    assert_eq!(number(&done.values[0]), 0);
    let (mut inside, from) = listener.accept().unwrap();
    assert_eq!(Endpoint::from(from), done.local);
    let mut outside = TcpStream::from(socket);
    outside.write_all(b"hello").unwrap();
    let mut text = [0; 5];
    inside.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
}

#[test]
fn nobody_listens() {
    let client = client();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Endpoint::from(free.local_addr().unwrap());
    drop(free);
    let (socket, _) = client
        .open(Family::V4, Kind::Tcp, vec![Step::Connect(to)])
        .unwrap();
    assert!(wait(&socket, PollFlags::POLLOUT).contains(PollFlags::POLLERR));
    let done = client
        .carry_out(socket.as_fd(), vec![Step::Get(ERROR, 4)])
        .unwrap();
    assert_eq!(number(&done.values[0]), libc::ECONNREFUSED);
}

#[test]
fn a_server_in_one_request() {
    let client = client();
    let steps = vec![
        Step::Set(REUSE, 1i32.to_ne_bytes().to_vec()),
        Step::Get(REUSE, 4),
        Step::Bind(LOOPBACK),
        Step::Listen(5),
    ];
    let (socket, done) = client.open(Family::V4, Kind::Tcp, steps).unwrap();
    done.ok().unwrap();
    assert_eq!((done.steps, number(&done.values[0])), (4, 1));
    let mut caller = TcpStream::connect(SocketAddr::from(done.local)).unwrap();
    let listener = TcpListener::from(socket.try_clone().unwrap());
    wait(&socket, PollFlags::POLLIN);
    let (mut called, _) = listener.accept().unwrap();
    caller.write_all(b"x").unwrap();
    called.set_nonblocking(false).unwrap();
    called.read_exact(&mut [0]).unwrap();

    // The port is taken; what was done before that is told.
    let again = vec![Step::Set(REUSE, vec![0; 4]), Step::Bind(done.local)];
    let (_, done) = client.open(Family::V4, Kind::Tcp, again).unwrap();
    assert_eq!(
        (done.steps, done.failed),
        (1, Some(Errno(libc::EADDRINUSE)))
    );
}

#[test]
fn datagrams() {
    let client = client();
    let other = UdpSocket::bind("[::1]:0").unwrap();
    let to = Endpoint::from(other.local_addr().unwrap());
    let six = Endpoint {
        ip: IpAddr::V6(Ipv6Addr::LOCALHOST),
        ..LOOPBACK
    };
    let steps = vec![Step::Bind(six), Step::Connect(to)];
    let (socket, done) = client.open(Family::V6, Kind::Udp, steps).unwrap();
    done.ok().unwrap();
    let socket = UdpSocket::from(socket);
    socket.send(b"to").unwrap();
    let mut text = [0; 9];
    let (length, from) = other.recv_from(&mut text).unwrap();
    assert_eq!((length, Endpoint::from(from)), (2, done.local));
    let done = client
        .carry_out(socket.as_fd(), vec![Step::Disconnect])
        .unwrap();
    done.ok().unwrap();
    assert!(socket.send(b"nobody").is_err());
}

#[test]
fn what_is_not_on_the_list_is_refused() {
    let client = client();
    let mark = OptionName {
        level: libc::SOL_SOCKET,
        name: libc::SO_MARK,
    };
    let set_error = Step::Set(ERROR, vec![0; 4]);
    let long = Step::Set(REUSE, vec![0; MAX_VALUE + 1]);
    for step in [
        Step::Set(mark, vec![0; 4]),
        Step::Get(mark, 4),
        set_error,
        long,
    ] {
        let (_, done) = client
            .open(Family::V4, Kind::Udp, vec![step.clone()])
            .unwrap();
        assert_eq!(done.failed, Some(Errno(libc::ENOPROTOOPT)), "{step:?}");
    }
    let many = vec![Step::Get(REUSE, 4); MAX_STEPS + 1];
    let error = client.open(Family::V4, Kind::Tcp, many).unwrap_err();
    assert_eq!(error, Errno(libc::E2BIG));
    // Sockets that it would not make are not served either.
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for fd in [unix.as_fd(), file.as_fd()] {
        let error = client.carry_out(fd, vec![Step::Listen(1)]).unwrap_err();
        assert_eq!(error, Errno(libc::EINVAL));
    }
    // And it goes on.
    assert!(client.view().is_ok());
}

#[test]
fn the_view_has_loopback() {
    let view = client().view().unwrap();
    let lo = view.links.iter().find(|link| link.name == "lo").unwrap();
    assert_eq!(lo.kind, libc::ARPHRD_LOOPBACK);
    assert!(lo.mtu > 0 && lo.flags & libc::IFF_LOOPBACK as u32 != 0);
    let addresses = view.addresses.iter().filter(|a| a.link == lo.index);
    let local: Vec<IpAddr> = addresses.map(|address| address.local).collect();
    assert!(local.contains(&Ipv4Addr::LOCALHOST.into()), "{view:?}");
}

#[test]
fn without_a_server_the_net_is_down() {
    let (ends, channels) = pairs().unwrap();
    let client = Client::new(ends);
    drop(channels);
    for _ in 0..2 {
        assert_eq!(
            client.open(Family::V4, Kind::Tcp, vec![]).unwrap_err(),
            Errno(libc::ENETDOWN)
        );
    }
    assert!(client.is_dead());
    assert!(!client.wait_for_change());
}

#[test]
fn frames_that_are_none() {
    use rustix::net::{RecvFlags, SendFlags};
    let (ends, channels) = pairs().unwrap();
    let server = spawn_unconfined(channels).unwrap();
    let bytes: Vec<u8> = (0..=255u8).cycle().take(70_000).collect();
    let mut reply = vec![0; 65536];
    let frames = [1, 2, 3, 17, 255, 4096, 65536, 70_000].map(|length| &bytes[..length]);
    for frame in frames
        .into_iter()
        .chain((0..=255).map(|first| &bytes[first..first + 40]))
    {
        rustix::net::send(&ends.requests, frame, SendFlags::empty()).unwrap();
        // Each is answered.
        let (_, length) =
            rustix::net::recv(&ends.requests, &mut *reply, RecvFlags::empty()).unwrap();
        assert!(length > 0);
    }
    drop(ends);
    server.join().unwrap();
}
