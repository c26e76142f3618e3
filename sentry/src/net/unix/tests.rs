//! Unix sockets without tasks: what they do below the system calls.

use std::sync::{Arc, OnceLock};

use super::*;
use crate::fs::eventfd::{Take, eventfd};
use crate::fs::file::File;
use crate::fs::inode::{FileType, OpenFlags};
use crate::mm::io::{Sink, Source};
use crate::net::into_file;
use crate::net::socket::{Name, Outgoing, Received};

const ME: Ucred = Ucred {
    pid: 1,
    uid: 1000,
    gid: 100,
};

fn pair(kind: Kind) -> (Arc<File>, Arc<File>) {
    let (a, b) = Unix::pair(stack(), kind, &ME.into());
    (
        into_file(a, OpenFlags::empty()),
        into_file(b, OpenFlags::empty()),
    )
}

fn file(kind: Kind) -> Arc<File> {
    into_file(Unix::new(stack(), kind), OpenFlags::empty())
}

/// Where the names of these tests are.
fn stack() -> &'static Arc<Stack> {
    static STACK: OnceLock<Arc<Stack>> = OnceLock::new();
    STACK.get_or_init(Stack::new)
}

fn find(kind: Kind, name: &[u8]) -> Result<Arc<Unix>> {
    stack().unix_names.lock().find(kind, name)
}

/// The socket of an open file.
fn unix(file: &File) -> &Unix {
    Unix::of(&**crate::net::of(file).unwrap()).unwrap()
}

/// As `unix`, as others refer to it.
fn socket(file: &File) -> Arc<Unix> {
    unix(file).this.upgrade().unwrap()
}

fn read(file: &File, len: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0u8; len];
    let n = file.read(&mut Sink::kernel(&mut buf))?;
    buf.truncate(n);
    Ok(buf)
}

fn write(file: &File, data: &[u8]) -> Result<usize> {
    file.write(&mut Source::kernel(data))
}

fn send_files(to: &File, files: Vec<Arc<File>>, limit: u64) -> Result<usize> {
    // A user of its own a limit: tests run side by side.
    let mut out = Outgoing {
        creds: ME,
        rights: Rights::new(files, limit as u32 + 70_000, limit)?,
        ..Outgoing::default()
    };
    unix(to).send_stream(&mut Source::kernel(b"f"), &mut out)
}

fn receive(from: &File, len: usize, peek: Peek) -> Result<Received> {
    let mut buf = vec![0u8; len];
    unix(from).take(&mut Sink::kernel(&mut buf), peek)
}

#[test]
fn a_stream_joins_and_packets_stay_apart() {
    let (a, b) = pair(Kind::Stream);
    write(&a, b"one").unwrap();
    write(&a, b"two").unwrap();
    assert_eq!(read(&b, 4), Ok(b"onet".to_vec()));
    assert_eq!(read(&b, 9), Ok(b"wo".to_vec()));
    assert_eq!(read(&b, 9), Err(Errno::EAGAIN));
    for kind in [Kind::Datagram, Kind::SeqPacket] {
        let (a, b) = pair(kind);
        write(&a, b"one").unwrap();
        write(&a, b"").unwrap();
        write(&a, b"two").unwrap();
        assert_eq!(receive(&b, 2, Peek::Yes).unwrap().full, 3);
        let got = receive(&b, 2, Peek::No).unwrap();
        assert_eq!((got.count, got.truncated()), (2, true));
        assert_eq!(read(&b, 9), Ok(vec![]));
        assert_eq!(read(&b, 9), Ok(b"two".to_vec()));
        assert_eq!(write(&a, &vec![0; 300_000]), Err(Errno::EMSGSIZE));
    }
}

#[test]
fn a_full_stream_takes_part_and_goes_on() {
    let (a, b) = pair(Kind::Stream);
    let data: Vec<u8> = (0..600_000u32).map(|i| (i / 7) as u8).collect();
    let mut src = Source::kernel(&data);
    let first = a.write(&mut src).unwrap();
    assert!(first < data.len());
    assert_eq!(a.write(&mut src), Err(Errno::EAGAIN));
    assert!(!a.ready().contains(Ready::OUT));
    let mut got = read(&b, 100_000).unwrap();
    while got.len() < data.len() {
        if src.remaining() > 0 {
            let _ = a.write(&mut src);
        }
        got.extend(read(&b, 77_777).unwrap());
    }
    assert!(got == data);
    assert!(a.ready().contains(Ready::OUT));
}

#[test]
fn ends_are_seen() {
    let (a, b) = pair(Kind::Stream);
    write(&a, b"last").unwrap();
    unix(&a).shut(false, true);
    assert_eq!(write(&a, b"x"), Err(Errno::EPIPE));
    assert_eq!(read(&b, 9), Ok(b"last".to_vec()));
    assert_eq!(read(&b, 9), Ok(vec![]));
    assert!(b.ready().contains(Ready::RDHUP | Ready::IN));
    assert!(!b.ready().contains(Ready::HUP));
    write(&b, b"unread").unwrap();
    drop(a);
    assert!(b.ready().contains(Ready::HUP | Ready::ERR));
    assert_eq!(read(&b, 9), Err(Errno::ECONNRESET));
    assert_eq!(read(&b, 9), Ok(vec![]));
    assert_eq!(write(&b, b"x"), Err(Errno::EPIPE));

    let (a, b) = pair(Kind::Datagram);
    drop(a);
    assert_eq!(write(&b, b"x"), Err(Errno::ECONNREFUSED));
    assert_eq!(read(&b, 9), Err(Errno::EAGAIN));
}

#[test]
fn connections_by_abstract_name() {
    let listener = file(Kind::Stream);
    let server = unix(&listener);
    assert_eq!(server.start_listening(1, ME.into()), Err(Errno::EINVAL));
    server.bind_abstract(Some(b"t-conn")).unwrap();
    let other = file(Kind::Stream);
    let bind = unix(&other).bind_abstract(Some(b"t-conn"));
    assert_eq!(bind, Err(Errno::EADDRINUSE));
    let target = find(Kind::Stream, b"t-conn").unwrap();
    let client = file(Kind::Stream);
    let c = unix(&client);
    assert_eq!(c.connect_to(&target, &ME.into()), Err(Errno::ECONNREFUSED));
    server.start_listening(1, ME.into()).unwrap();
    assert_eq!(
        client.ready(),
        Ready::HUP | Ready::OUT | Ready::WRNORM | Ready::WRBAND
    );
    let mine = Ucred { pid: 77, ..ME };
    c.connect_to(&target, &mine.into()).unwrap();
    assert_eq!(c.connect_to(&target, &ME.into()), Err(Errno::EISCONN));
    // The backlog is 1: Linux lets in one more.
    let second = file(Kind::Stream);
    unix(&second).connect_to(&target, &ME.into()).unwrap();
    let third = file(Kind::Stream);
    let full = unix(&third).connect_to(&target, &ME.into());
    assert_eq!(full, Err(Errno::EAGAIN));
    // Data may be sent before the connection is accepted.
    write(&client, b"early").unwrap();
    assert!(listener.ready().contains(Ready::IN));
    let accepted = into_file(server.next_connection().unwrap(), OpenFlags::empty());
    assert_eq!(read(&accepted, 9), Ok(b"early".to_vec()));
    let s = unix(&accepted);
    assert_eq!((s.peer_creds(), c.peer_creds()), (mine, ME));
    assert_eq!(s.address(), Some(Address::Abstract(b"t-conn".to_vec())));
    assert_eq!(c.peer_address(), Ok(s.address()));
    // Closing an accepted socket leaves the name, closing the listener takes it.
    drop((accepted, target));
    assert!(find(Kind::Stream, b"t-conn").is_ok());
    drop(listener);
    assert!(find(Kind::Stream, b"t-conn").is_err());
    assert_eq!(read(&second, 1), Err(Errno::ECONNRESET));
}

#[test]
fn datagrams_from_strangers() {
    let server = file(Kind::Datagram);
    let s = unix(&server);
    s.bind_abstract(None).unwrap();
    let Some(Address::Abstract(name)) = s.address() else {
        panic!("autobind gives an abstract name");
    };
    assert_eq!(name.len(), 5);
    let client = file(Kind::Datagram);
    let c = unix(&client);
    assert_eq!(write(&client, b"x"), Err(Errno::ENOTCONN));
    c.bind_abstract(Some(b"t-stranger")).unwrap();
    c.connect_to(&socket(&server), &ME.into()).unwrap();
    let mut sent = 0;
    while write(&client, b"hello").is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 11);
    let got = receive(&server, 9, Peek::No).unwrap();
    assert_eq!(
        got.from.as_ref().map(Name::bytes),
        Some(&b"\x01\0\0t-stranger"[..])
    );
    assert_eq!(write(&client, b"again"), Ok(5));
    drop(server);
    assert_eq!(write(&client, b"x"), Err(Errno::ECONNREFUSED));
}

#[test]
fn files_travel_and_are_counted() {
    let (a, b) = pair(Kind::Stream);
    let event = eventfd(5, Take::All, OpenFlags::empty());
    write(&a, b"before").unwrap();
    send_files(&a, vec![event.clone()], 10).unwrap();
    write(&a, b"after").unwrap();
    let got = receive(&b, 100, Peek::No).unwrap();
    // Reading stops behind the byte that brought the file.
    assert_eq!(got.count, 7);
    assert!(Arc::ptr_eq(&got.files[0], &event));
    assert_eq!(read(&b, 100), Ok(b"after".to_vec()));

    // The limit has to be exceeded already.
    for _ in 0..4 {
        send_files(&a, vec![event.clone(); 3], 10).unwrap();
    }
    let many = send_files(&a, vec![event.clone(); 3], 10);
    assert_eq!(many, Err(Errno::ETOOMANYREFS));
    drop(b);
    // Those were never read; now they do not count any more.
    let (c, _d) = pair(Kind::Stream);
    send_files(&c, vec![event; 10], 10).unwrap();
}

/// Of sockets that only lie in each other's inboxes nothing is left, but of others.
#[test]
fn circles_are_collected() {
    let limit = 100_000;
    let weak = |f: &Arc<File>| Arc::downgrade(&socket(f));
    // In its own inbox, in each other's, in one that nobody has accepted; with something else.
    let event = eventfd(5, Take::All, OpenFlags::empty());
    let mut gone = Vec::new();
    let (a, b) = pair(Kind::Stream);
    send_files(&a, vec![b.clone(), event.clone()], limit).unwrap();
    gone.push(weak(&b));
    let (c, d) = pair(Kind::Stream);
    let (e, f) = pair(Kind::Stream);
    send_files(&c, vec![f.clone(), e.clone()], limit).unwrap();
    send_files(&e, vec![d.clone(), c.clone()], limit).unwrap();
    gone.extend([&c, &d, &e, &f].map(weak));
    let (listener, client) = (file(Kind::Stream), file(Kind::Stream));
    unix(&listener).bind_abstract(Some(b"t-circle")).unwrap();
    unix(&listener).start_listening(1, ME.into()).unwrap();
    let target = socket(&listener);
    unix(&client).connect_to(&target, &ME.into()).unwrap();
    drop(target);
    send_files(&client, vec![listener.clone()], limit).unwrap();
    gone.push(weak(&listener));
    // These can be received: one lies in a circle, too, and holds others.
    let (g, h) = pair(Kind::Stream);
    let (i, j) = pair(Kind::Stream);
    send_files(&g, vec![j.clone()], limit).unwrap();
    send_files(&i, vec![j.clone(), event.clone()], limit).unwrap();
    drop((b, c, d, e, f, listener, j));
    flight::collect();
    assert!(gone.iter().all(|socket| socket.strong_count() == 0));
    assert_eq!(Arc::strong_count(&event), 2);
    assert_eq!(read(&a, 9), Ok(Vec::new()));
    assert_eq!(write(&client, b"x"), Err(Errno::EPIPE));
    let j = receive(&h, 9, Peek::No).unwrap().files.remove(0);
    assert_eq!(receive(&j, 9, Peek::No).unwrap().files.len(), 2);
}

#[test]
fn sockets_in_sockets_do_not_exhaust_the_stack() {
    let (mut outer, mut far) = pair(Kind::Stream);
    for _ in 0..50_000 {
        let (a, b) = pair(Kind::Stream);
        send_files(&a, vec![outer, far], 200_000).unwrap();
        (outer, far) = (a, b);
    }
    drop(far);
    drop(outer);
}

#[test]
fn a_bound_name_leads_to_its_socket() {
    let place = crate::fs::anon::anon_path(
        crate::fs::anon::Anon::Host(FileType::Socket, "s"),
        crate::kernel::cred::Uid(0),
        crate::kernel::cred::Gid(0),
    );
    assert_eq!(
        Unix::at_inode(&**place.inode()).err(),
        Some(Errno::ECONNREFUSED)
    );
    let server = file(Kind::SeqPacket);
    let s = unix(&server);
    s.bind_inode(b"/s".to_vec(), place.inode(), None).unwrap();
    assert!(Arc::ptr_eq(
        &Unix::at_inode(&**place.inode()).unwrap(),
        &socket(&server)
    ));
    let stream = file(Kind::Stream);
    let wrong = unix(&stream).connect_to(&socket(&server), &ME.into());
    assert_eq!(wrong, Err(Errno::EPROTOTYPE));
    drop(server);
    assert!(Unix::at_inode(&**place.inode()).is_err());
}

/// What Linux 6.18 shows in the same situations.
#[test]
fn readiness_and_limits_are_those_of_linux() {
    let bits = |f: &File| f.ready().bits();
    for (kind, fresh) in [
        (Kind::Stream, 0x314),
        (Kind::SeqPacket, 0x314),
        (Kind::Datagram, 0x304),
    ] {
        let f = file(kind);
        assert_eq!(bits(&f), fresh);
        unix(&f).shut(true, true);
        assert_eq!(bits(&f), 0x2355, "{kind:?}");
    }
    let (a, b) = pair(Kind::Stream);
    assert_eq!(bits(&a), 0x304);
    unix(&a).shut(false, true);
    assert_eq!((bits(&a), bits(&b)), (0x304, 0x2345));
    write(&b, b"u").unwrap();
    drop(a);
    assert_eq!(bits(&b), 0x235d);
    let (a, b) = pair(Kind::Datagram);
    drop(b);
    assert_eq!(bits(&a), 0x304);
    for kind in [Kind::Stream, Kind::Datagram] {
        let (a, _b) = pair(kind);
        let mut sent = 0;
        while write(&a, b"x").is_ok() {
            sent += 1;
        }
        assert_eq!((sent, bits(&a)), (278, 0));
    }
    // A name of another type is another name.
    let server = file(Kind::Datagram);
    let s = unix(&server);
    s.bind_abstract(Some(b"t-kinds")).unwrap();
    let missing = find(Kind::Stream, b"t-kinds");
    assert_eq!(missing.err(), Some(Errno::ECONNREFUSED));
}
