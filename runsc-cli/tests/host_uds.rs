//! `--host-uds`: unix sockets on file systems of the host, with a peer on either side.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::{Duration, Instant},
};

use common::{Bundle, command, config};
use nix::sys::socket::{self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType};
use serde_json::json;

/// What a guest does as a client of the sockets in `sys.argv[1]`, one line for each.
const CLIENT: &str = r"
import array, os, socket, sys, threading
at = sys.argv[1] + '/'
def new(kind, name):
    s = socket.socket(socket.AF_UNIX, kind)
    s.connect(at + name)
    return s
def stream():
    s = new(socket.SOCK_STREAM, 'stream')
    before = len(os.listdir('/proc/self/fd'))
    s.send(b'hello')
    said = s.recvmsg(99, 99)
    s.send(b'x')
    said += (s.recv(9), len(os.listdir('/proc/self/fd')) - before)
    cred = s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return said, s.getpeername() == at + 'stream', array.array('i', cred).tolist()
def much():
    s = new(socket.SOCK_STREAM, 'stream')
    data, got = os.urandom(200000).hex().encode(), b''
    sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(1)))
    sender.start()
    while part := s.recv(1 << 16):
        got += part
    sender.join()
    return got == data.upper()
def polled():
    s = new(socket.SOCK_STREAM, 'stream')
    s.setblocking(False)
    import select
    ep = select.epoll()
    ep.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    first = ep.poll(9)[0][1]
    s.send(b'e')
    while not ep.poll(9)[0][1] & select.EPOLLIN:
        pass
    return first, s.recv(9)
def files():
    s = new(socket.SOCK_STREAM, 'stream')
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))]
    return s.sendmsg([b'x'], rights)
def packets():
    s = new(socket.SOCK_SEQPACKET, 'packets')
    s.send(b'abc')
    s.send(b'de')
    first = s.recvmsg(2, 99)
    second = s.recvmsg(9, 99)
    s.shutdown(1)
    return first, second, s.recv(9)
def letters():
    new(socket.SOCK_DGRAM, 'letters').send(b'connected')
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    return s.sendto(b'addressed', at + 'letters')
def wrong():
    new(socket.SOCK_STREAM, 'letters')
for f in stream, much, polled, files, packets, letters, wrong:
    try:
        print(f.__name__, f())
    except OSError as e:
        print(f.__name__, type(e).__name__, e.errno)
";

/// What it says of a host that answers in capitals and sends open files along.
const CONNECTED: &str = "\
stream ((b'HELLO', [], 0, None, b'X', 0), True, [0, 65534, 65534])
much True
polled (4, b'E')
files PermissionError 1
packets ((b'AB', [], 32, None), (b'DE', [], 0, None), b'')
letters 9
wrong OSError 91
";

/// What it says where there is nobody.
const REFUSED: &str = "\
stream ConnectionRefusedError 111
much ConnectionRefusedError 111
polled ConnectionRefusedError 111
files ConnectionRefusedError 111
packets ConnectionRefusedError 111
letters ConnectionRefusedError 111
wrong ConnectionRefusedError 111
";

/// A guest as a server in `sys.argv[1]`; a client inside comes first.
const SERVER: &str = r"
import os, socket, sys
at = sys.argv[1] + '/'
os.umask(0o27)
def bound(kind, name):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(at + name)
    return s
def answer(c):
    while part := c.recv(99):
        c.send(part.upper())
    c.close()
listener = bound(socket.SOCK_STREAM, 'own')
listener.listen(5)
letters = bound(socket.SOCK_DGRAM, 'mail')
packets = bound(socket.SOCK_SEQPACKET, 'parcels')
packets.listen(5)
inside = socket.socket(socket.AF_UNIX)
inside.connect(at + 'own')
accepted, _ = listener.accept()
inside.send(b'in')
print('inside', accepted.recv(9), flush=True)
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.sendto(b'from inside', at + 'mail')
print(*letters.recvfrom(99), flush=True)
try:
    answer(listener.accept()[0])
    print(*letters.recvfrom(99), flush=True)
    answer(packets.accept()[0])
finally:
    for name in 'own', 'mail', 'parcels':
        os.unlink(at + name)
print('done', flush=True)
";

fn capable() -> bool {
    let capable = Path::new("/usr/bin/python3").exists();
    if !capable {
        eprintln!("skipped: needs python3");
    }
    capable
}

/// A connection: capitals, each time with two open files.
fn answer(connection: OwnedFd) {
    let null = fs::File::open("/dev/null").unwrap();
    let files = [null.as_raw_fd(); 2];
    let mut part = vec![0; 65536];
    loop {
        let got = socket::recv(connection.as_raw_fd(), &mut part, MsgFlags::empty());
        let Ok(n @ 1..) = got else { return };
        part[..n].make_ascii_uppercase();
        let mut rest = &part[..n];
        while !rest.is_empty() {
            let rights = [ControlMessage::ScmRights(&files)];
            let sent = socket::sendmsg::<()>(
                connection.as_raw_fd(),
                &[IoSlice::new(rest)],
                &rights,
                MsgFlags::MSG_NOSIGNAL,
                None,
            );
            let Ok(sent) = sent else { return };
            rest = &rest[sent..];
        }
    }
}

fn packets_socket() -> OwnedFd {
    let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    socket::socket(AddressFamily::Unix, kind, flags, None).unwrap()
}

/// The host's side of [`CLIENT`].
struct Host {
    dir: tempfile::TempDir,
    letters: UnixDatagram,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let listener = UnixListener::bind(at("stream")).unwrap();
        let packets = packets_socket();
        let address = socket::UnixAddr::new(&at("packets")).unwrap();
        socket::bind(packets.as_raw_fd(), &address).unwrap();
        socket::listen(&packets, socket::Backlog::new(5).unwrap()).unwrap();
        let letters = UnixDatagram::bind(at("letters")).unwrap();
        let patience = Some(Duration::from_secs(20));
        letters.set_read_timeout(patience).unwrap();
        // These end with the test's process.
        for listener in [listener, packets.into()] {
            thread::spawn(move || {
                for connection in listener.incoming().map_while(Result::ok) {
                    thread::spawn(move || answer(connection.into()));
                }
            });
        }
        Self { dir, letters }
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn letter(&self) -> String {
        let mut letter = [0; 99];
        let n = self.letters.recv(&mut letter).unwrap();
        String::from_utf8_lossy(&letter[..n]).into()
    }
}

fn said(mut command: std::process::Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_guest_connects_to_the_host_only_where_it_may() {
    if !capable() {
        return;
    }
    let host = Host::new();
    let at = host.path();
    let client = ["do", "--", "python3", "-c", CLIENT, at];
    let shown = ["do", "--ro", at, "--", "python3", "-c", CLIENT, at];
    let written = ["do", "--rw", at, "--", "python3", "-c", CLIENT, at];
    for (what, end, expected) in [
        (None, &client[..], REFUSED),
        (None, &written[..], REFUSED),
        (Some("--host-uds=create"), &client, REFUSED),
        (Some("--host-uds=open"), &client, CONNECTED),
        (Some("--host-uds=open"), &shown, CONNECTED),
        (Some("--host-uds=all"), &written, CONNECTED),
    ] {
        let args: Vec<_> = what.into_iter().chain(end.iter().copied()).collect();
        assert_eq!(said(command(&args)), expected, "{what:?} {}", end[1]);
        if expected == CONNECTED {
            assert_eq!(host.letter(), "connected");
            assert_eq!(host.letter(), "addressed");
        }
    }
    // Who may not write to a socket inside may not connect to it either.
    let stream = Path::new(at).join("stream");
    fs::set_permissions(&stream, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::Uid::effective().is_root() {
        let args = ["--host-uds=open", "do", "--user=1234", "--"];
        let mut other = command(&args);
        other.args(["python3", "-c", CLIENT, at]);
        let refused = "stream PermissionError 13\n";
        assert!(said(other).starts_with(refused));
    }
}

#[test]
fn a_container_has_a_socket_of_the_host_as_a_mount() {
    if !capable() || !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root and python3");
        return;
    }
    let host = Host::new();
    let script = format!("cat > /tmp/c.py <<'END'\n{CLIENT}\nEND\npython3 /tmp/c.py /run/host");
    let mut config = config(&script);
    let mounts = config["mounts"].as_array_mut().unwrap();
    for name in ["stream", "packets", "letters"] {
        let source = format!("{}/{name}", host.path());
        let to = format!("/run/host/{name}");
        let options = json!(["rbind", "ro"]);
        mounts
            .push(json!({"destination": to, "type": "bind", "source": source, "options": options}));
    }
    let bundle = Bundle::new(Some(&config.to_string()));
    for (what, expected) in [("none", REFUSED), ("open", CONNECTED)] {
        let mut run = bundle.command(&["--network=none", "--host-uds", what, "run"]);
        run.arg("--bundle").arg(&bundle.path).arg("c");
        assert_eq!(said(run), expected, "{what}");
    }
}

/// A guest that runs [`SERVER`].
struct Server {
    child: Child,
    at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(what: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_owned();
        let mut run = command(&["--host-uds", what, "do", "--rw"]);
        run.arg(&at).args(["--", "python3", "-c", SERVER]).arg(&at);
        let mut child = run.spawn().unwrap();
        // Up to where it waits for the outside.
        let said = lines(&mut child, 2);
        let inside = "inside b'in'\nb'from inside' None\n";
        assert_eq!(said, inside);
        Self {
            child,
            at,
            _dir: dir,
        }
    }
}

fn lines(child: &mut Child, count: usize) -> String {
    let out = child.stdout.as_mut().unwrap();
    let mut said = String::new();
    let mut byte = [0];
    while said.matches('\n').count() < count && out.read(&mut byte).unwrap() == 1 {
        said.push(char::from(byte[0]));
    }
    said
}

#[test]
fn the_host_connects_to_a_guest_only_where_it_may() {
    if !capable() {
        return;
    }
    for what in ["none", "open"] {
        let mut server = Server::start(what);
        let refused = UnixStream::connect(server.at.join("own")).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    for what in ["create", "all"] {
        let mut server = Server::start(what);
        let own = server.at.join("own");
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o7777, 0o750);
        let mut stream = UnixStream::connect(&own).unwrap();
        let mut text = [0; 5];
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"HELLO");
        drop(stream);
        let letters = UnixDatagram::unbound().unwrap();
        letters.send_to(b"letter", server.at.join("mail")).unwrap();
        assert_eq!(lines(&mut server.child, 1), "b'letter' None\n");
        let packets = packets_socket();
        let address = socket::UnixAddr::new(&server.at.join("parcels")).unwrap();
        socket::connect(packets.as_raw_fd(), &address).unwrap();
        for parcel in [&b"abc"[..], b"de"] {
            socket::send(packets.as_raw_fd(), parcel, MsgFlags::empty()).unwrap();
            let mut text = [0; 9];
            let n = socket::recv(packets.as_raw_fd(), &mut text, MsgFlags::empty()).unwrap();
            assert_eq!(text[..n], parcel.to_ascii_uppercase());
        }
        drop(packets);
        assert_eq!(lines(&mut server.child, 1), "done\n");
        assert!(server.child.wait().unwrap().success());
        assert_eq!(fs::read_dir(&server.at).unwrap().count(), 0);
    }
}

/// Two sandboxes that share a directory meet there.
#[test]
fn a_guest_connects_to_another_sandbox() {
    if !capable() {
        return;
    }
    let mut server = Server::start("create");
    let client = "import socket, sys; s = socket.socket(socket.AF_UNIX); \
                  s.connect(sys.argv[1]); s.send(b'peer'); print(s.recv(9))";
    let mut run = command(&["--host-uds=open", "do", "--ro"]);
    run.arg(&server.at)
        .args(["--", "python3", "-c", client])
        .arg(server.at.join("own"));
    assert_eq!(said(run), "b'PEER'\n");
    // The server goes on to what comes next.
    let letters = UnixDatagram::unbound().unwrap();
    letters.send_to(b"letter", server.at.join("mail")).unwrap();
    assert_eq!(lines(&mut server.child, 1), "b'letter' None\n");
    server.child.kill().unwrap();
    let begun = Instant::now();
    server.child.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
}
