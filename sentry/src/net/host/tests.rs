//! Sockets of the host, with peers of the test's own on loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

use runsc_platform::memory::Window;

use super::*;
use crate::mm::io::{Segment, UserMemory};
use crate::net::socket::Kind;
use crate::net::stack::Stack;
use crate::net::unix::Unix;

/// A socket of the test's own, with the options its test sets.
struct Own(Arc<OwnedFd>);

impl HostSocket for Own {
    fn fd(&self) -> &Arc<OwnedFd> {
        &self.0
    }
    fn bind(&self, _: SocketAddr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn connect(&self, _: SocketAddr) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn disconnect(&self) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn listen(&self, _: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn accept(&self) -> Result<(Box<dyn HostSocket>, SocketAddr)> {
        Err(Errno::EOPNOTSUPP)
    }
    fn set_option(&self, _: i32, _: i32, _: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn option(&self, _: i32, _: i32, _: usize) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }
    fn local(&self) -> Result<SocketAddr> {
        Err(Errno::EOPNOTSUPP)
    }
    fn peer(&self) -> Result<SocketAddr> {
        Err(Errno::EOPNOTSUPP)
    }
}

struct Tell(mpsc::Sender<Ready>);

impl Waiter for Tell {
    fn notify(&self, ready: Ready) {
        let _ = self.0.send(ready);
    }
}

fn reactor() -> Arc<Reactor> {
    let reactor = Reactor::new().unwrap();
    let running = reactor.clone();
    std::thread::spawn(move || running.run());
    reactor
}

fn host(fd: impl Into<OwnedFd>) -> (Host, Arc<dyn Socket>, mpsc::Receiver<Ready>) {
    let guest: Arc<dyn Socket> = Unix::new(&Stack::new(), Kind::Stream);
    let (told, tells) = mpsc::channel();
    let registered = guest
        .common()
        .queue
        .register(Ready::all(), Arc::new(Tell(told)));
    std::mem::forget(registered);
    let made = Box::new(Own(Arc::new(fd.into())));
    let host = Host::new(made, &reactor(), Arc::downgrade(&guest)).unwrap();
    (host, guest, tells)
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    a.set_nonblocking(true).unwrap();
    (a, listener.accept().unwrap().0)
}

fn until(tells: &mpsc::Receiver<Ready>, want: Ready) {
    while !tells
        .recv_timeout(Duration::from_secs(20))
        .unwrap()
        .contains(want)
    {}
}

#[test]
fn a_stream_in_both_directions() {
    let (inside, mut outside) = tcp();
    let (host, _guest, tells) = host(inside);
    assert_eq!(host.send(&mut Source::kernel(b"out"), 0), Ok(3));
    let mut text = [0; 3];
    outside.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"out");
    let mut buffer = [0; 10];
    let none = host.receive(&mut Sink::kernel(&mut buffer), 0);
    assert_eq!(none, Err(Errno::EAGAIN));
    outside.write_all(b"hello").unwrap();
    until(&tells, Ready::IN);
    assert!(host.ready().contains(Ready::IN | Ready::OUT));
    assert_eq!(host.unread(), Ok(5));
    let peeked = host.receive(&mut Sink::kernel(&mut buffer), libc::MSG_PEEK);
    assert_eq!((peeked, &buffer[..5]), (Ok(5), &b"hello"[..]));
    let mut four = [0; 4];
    let cut = host.receive(&mut Sink::kernel(&mut four), libc::MSG_TRUNC);
    assert_eq!((cut, four), (Ok(4), [0; 4]));
    assert_eq!(host.receive(&mut Sink::kernel(&mut buffer), 0), Ok(1));
    drop(outside);
    until(&tells, Ready::RDHUP);
    assert_eq!(host.receive(&mut Sink::kernel(&mut buffer), 0), Ok(0));
}

/// Guest memory that is only sent from.
struct Flat(Vec<u8>);

impl UserMemory for Flat {
    fn copy_in(&self, addr: u64, dst: &mut [u8]) -> usize {
        let from = self.0.get(addr as usize..).unwrap_or_default();
        let n = dst.len().min(from.len());
        dst[..n].copy_from_slice(&from[..n]);
        n
    }
    fn copy_out(&self, _: u64, _: &[u8]) -> usize {
        0
    }
    fn zero_out(&self, _: u64, _: usize) -> usize {
        0
    }
    fn copy_out_from(&self, _: u64, _: &Window, _: usize, _: usize) -> usize {
        0
    }
    fn copy_in_to(&self, _: u64, _: &Window, _: usize, _: usize) -> usize {
        0
    }
    fn read_host(&self, _: u64, _: usize, _: BorrowedFd<'_>, _: Option<u64>) -> Result<usize> {
        Err(Errno::EFAULT)
    }
    /// Half of it, as where memory lies in two places behind one segment.
    fn write_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        _: Option<u64>,
    ) -> Result<usize> {
        let from = &self.0[addr as usize..][..len.div_ceil(2)];
        Ok(nix::unistd::write(fd, from)?)
    }
}

#[test]
fn what_lies_in_several_places_is_sent_together() {
    // Each send is seen on its own.
    let (inside, outside) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let (host, _guest, _tells) = host(inside);
    let memory = Flat((0..200_000u32).map(|i| i as u8).collect());
    let segments = [(10, 7), (0, 3), (90_000, 9_000)].map(|(addr, len)| Segment { addr, len });
    let mut src = Source::user(&memory, &segments);
    assert_eq!(host.send(&mut src, 0), Ok(9_010));
    let mut got = vec![0; 20_000];
    assert_eq!(outside.recv(&mut got).unwrap(), 9_010);
    let parts = [&memory.0[10..17], &memory.0[..3], &memory.0[90_000..99_000]];
    assert_eq!(got[..9_010], parts.concat());
    // Memory that ends: what there is.
    let end = [(199_990, 5), (199_995, 9)].map(|(addr, len)| Segment { addr, len });
    assert_eq!(host.send(&mut Source::user(&memory, &end), 0), Ok(10));
    let nothing = [(300_000, 5), (300_005, 9)].map(|(addr, len)| Segment { addr, len });
    let fault = host.send(&mut Source::user(&memory, &nothing), 0);
    assert_eq!(fault, Err(Errno::EFAULT));
}

#[test]
fn all_is_sent_for_which_there_is_room() {
    let (inside, mut outside) = tcp();
    let (host, _guest, _tells) = host(inside);
    let memory = Flat((0..100_000u32).map(|i| (i >> 3) as u8).collect());
    let one = [Segment {
        addr: 0,
        len: 100_000,
    }];
    let many = [(0, 50_000), (50_000, 50_000)].map(|(addr, len)| Segment { addr, len });
    for segments in [&one[..], &many] {
        let sent = host.send(&mut Source::user(&memory, segments), 0);
        assert_eq!(sent, Ok(100_000));
        let mut got = vec![0; 100_000];
        outside.read_exact(&mut got).unwrap();
        assert!(got == memory.0);
    }
}

/// The one who is told may be the last to know the socket, and with it the watch.
#[test]
fn a_socket_may_end_while_it_is_told() {
    struct Last(parking_lot::Mutex<Option<Host>>, mpsc::Sender<()>);
    impl Waiter for Last {
        fn notify(&self, _: Ready) {
            if self.0.lock().take().is_some() {
                let _ = self.1.send(());
            }
        }
    }
    let (inside, _outside) = tcp();
    let (other, _other_end) = tcp();
    let (mut host, _guest, _tells) = host(inside);
    let reactor = reactor();
    let (gone, is_gone) = mpsc::channel();
    let last = Arc::new(Last(parking_lot::Mutex::default(), gone));
    let mut slot = last.0.lock();
    // It is writable: told at once, and waits for the slot.
    host._watch = reactor.watch_for(host.made.fd(), last.clone()).unwrap();
    *slot = Some(host);
    drop(slot);
    is_gone.recv_timeout(Duration::from_secs(20)).unwrap();
    // And the reactor goes on.
    let (told, tells) = mpsc::channel();
    let made = Arc::new(OwnedFd::from(other));
    let _watch = reactor.watch_for(&made, Arc::new(Tell(told))).unwrap();
    until(&tells, Ready::OUT);
}

/// Guest memory that is only received into, each page of it in another place.
struct Pages(parking_lot::Mutex<Vec<u8>>);

impl UserMemory for Pages {
    fn copy_in(&self, _: u64, _: &mut [u8]) -> usize {
        0
    }
    fn copy_out(&self, _: u64, _: &[u8]) -> usize {
        0
    }
    fn zero_out(&self, _: u64, _: usize) -> usize {
        0
    }
    fn copy_out_from(&self, _: u64, _: &Window, _: usize, _: usize) -> usize {
        0
    }
    fn copy_in_to(&self, _: u64, _: &Window, _: usize, _: usize) -> usize {
        0
    }
    fn read_host(
        &self,
        addr: u64,
        len: usize,
        fd: BorrowedFd<'_>,
        _: Option<u64>,
    ) -> Result<usize> {
        let (addr, page) = (addr as usize, 4096);
        let end = (addr / page + 1) * page;
        let to = &mut self.0.lock()[addr..end.min(addr + len)];
        Ok(nix::unistd::read(fd, to)?)
    }
    fn write_host(&self, _: u64, _: usize, _: BorrowedFd<'_>, _: Option<u64>) -> Result<usize> {
        Err(Errno::EFAULT)
    }
}

#[test]
fn all_is_received_for_which_there_is_room() {
    let (inside, mut outside) = tcp();
    let (host, _guest, tells) = host(inside);
    let text: Vec<u8> = (0..40_000u32).map(|i| (i >> 3) as u8).collect();
    outside.write_all(&text).unwrap();
    until(&tells, Ready::IN);
    while host.unread().unwrap() < text.len() {
        std::thread::yield_now();
    }
    let memory = Pages(parking_lot::Mutex::new(vec![0; 60_000]));
    for (addr, len, got) in [(100, 30_000, 30_000), (40_000, 20_000, 10_000)] {
        let segments = [Segment { addr, len }];
        let mut dst = Sink::user(&memory, &segments);
        assert_eq!(host.receive(&mut dst, 0), Ok(got));
    }
    let memory = memory.0.into_inner();
    assert!(memory[100..30_100] == text[..30_000]);
    assert!(memory[40_000..50_000] == text[30_000..]);
}

#[test]
fn the_urgent_byte() {
    let (inside, outside) = tcp();
    let (host, _guest, tells) = host(inside);
    nix::sys::socket::send(outside.as_raw_fd(), b"ab!", MsgFlags::MSG_OOB).unwrap();
    until(&tells, Ready::PRI);
    let mut byte = [0; 1];
    let urgent = host.receive(&mut Sink::kernel(&mut byte), libc::MSG_OOB);
    assert_eq!((urgent, &byte), (Ok(1), b"!"));
    let sent = host.send(&mut Source::kernel(b"c?"), libc::MSG_OOB);
    assert_eq!(sent, Ok(2));
}

#[test]
fn datagrams_with_where_they_went() {
    use nix::sys::socket::{setsockopt, sockopt};
    let inside = UdpSocket::bind("0.0.0.0:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    setsockopt(&inside, sockopt::Ipv4PacketInfo, &true).unwrap();
    let port = inside.local_addr().unwrap().port();
    let (host, _guest, tells) = host(inside);
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    outside
        .send_to(b"question", (Ipv4Addr::new(127, 0, 0, 7), port))
        .unwrap();
    until(&tells, Ready::IN);
    let packet = host.receive_packet(5, 0).unwrap();
    assert_eq!((&packet.data[..], packet.full), (&b"quest"[..], 8));
    assert_eq!(packet.from, outside.local_addr().ok());
    let info = &packet.extra[0];
    assert_eq!(
        (info.level, info.kind),
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    );
    assert_eq!(info.data[8..12], [127, 0, 0, 7]);
    // An answer from the address it went to.
    let sent = host.send_packet(b"answer", packet.from, &packet.extra, 0);
    assert_eq!(sent, Ok(6));
    let mut text = [0; 10];
    let (length, from) = outside.recv_from(&mut text).unwrap();
    assert_eq!(
        (length, from),
        (6, (Ipv4Addr::new(127, 0, 0, 7), port).into())
    );
    let none = host.receive_packet(5, 0).unwrap_err();
    assert_eq!(none, Errno::EAGAIN);
    let mut odd = packet.extra[0].clone();
    odd.data.pop();
    let refused = host.send_packet(b"x", packet.from, &[odd], 0);
    assert_eq!(refused, Err(Errno::EINVAL));
}
