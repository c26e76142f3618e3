//! `--network`: what a sandbox reaches, and what becomes of it when its network Gofer dies.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
};

use common::command;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PYTHON: &str = "/usr/bin/python3";

/// What the guest tries, after a line on stdin: inside, and to the port of the test.
const GUEST: &str = r#"
import errno, socket, sys
def attempt(f):
    try: f(); return "ok"
    except OSError as e: return errno.errorcode[e.errno]
def inside():
    l = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(l.getsockname()); s, _ = l.accept()
    c.sendall(b"x"); assert s.recv(1) == b"x"
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0)); u.sendto(b"y", u.getsockname()); assert u.recv(1) == b"y"
outside = lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])))
held = None
try: held = outside()
except OSError: pass
print(attempt(inside), attempt(outside), flush=True)
sys.stdin.readline()
print(attempt(inside), attempt(outside), held and attempt(lambda: held.sendall(b"held")), flush=True)
"#;

fn children(pid: u32) -> Vec<(i32, String)> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let pids = list.split_whitespace().map(|pid| pid.parse().unwrap());
    pids.map(|pid: i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, name.trim().to_owned())
    })
    .collect()
}

/// The guest's two lines, and what the command complained about. `between`: with its process id.
fn run(
    network: &str,
    listener: &TcpListener,
    between: impl FnOnce(u32),
) -> (String, String, String) {
    let port = listener.local_addr().unwrap().port().to_string();
    let network = format!("--network={network}");
    let mut guest = command(&[&network, "do", "--", PYTHON, "-c", GUEST, &port]);
    let mut guest = guest.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(guest.stdout.take().unwrap());
    let (mut first, mut second) = (String::new(), String::new());
    out.read_line(&mut first).unwrap();
    between(guest.id());
    guest.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    out.read_line(&mut second).unwrap();
    let mut errors = String::new();
    let mut stderr = guest.stderr.take().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    assert!(guest.wait().unwrap().success(), "{errors}");
    (first.trim().to_owned(), second.trim().to_owned(), errors)
}

fn listener() -> Option<TcpListener> {
    if !Path::new(PYTHON).exists() {
        let required = std::env::var_os("RUNSC_RS_REQUIRE_ALL").is_some();
        assert!(!required, "there is no {PYTHON}");
        // Past the test harness's capture.
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no {PYTHON}");
        return None;
    }
    Some(TcpListener::bind("127.0.0.1:0").unwrap())
}

#[test]
fn without_a_network_there_is_loopback() {
    let Some(listener) = listener() else { return };
    for network in ["sandbox", "none"] {
        let (first, _, _) = run(network, &listener, |pid| {
            let names: Vec<_> = children(pid).into_iter().map(|(_, name)| name).collect();
            assert!(!names.contains(&"runsc-network".to_owned()), "{names:?}");
        });
        assert_eq!(first, "ok ECONNREFUSED", "{network}");
    }
}

#[test]
fn the_inside_survives_the_network_gofer() {
    let Some(listener) = listener() else { return };
    let (first, second, errors) = run("host", &listener, |pid| {
        let children = children(pid);
        let found = children.iter().find(|(_, name)| name == "runsc-network");
        let (gofer, _) = found.unwrap_or_else(|| panic!("{children:?}"));
        kill(Pid::from_raw(*gofer), Signal::SIGKILL).unwrap();
        // Gone when its parent has reaped it.
        while Path::new(&format!("/proc/{gofer}")).exists() {
            std::thread::yield_now();
        }
    });
    assert_eq!(first, "ok ok");
    // What there was goes on; an own address where nobody listens is nobody else's any more.
    assert_eq!(second, "ok ECONNREFUSED ok");
    assert!(
        errors.contains("makes no more sockets to the outside"),
        "{errors}"
    );
    let mut held: TcpStream = listener.accept().unwrap().0;
    let mut text = [0; 4];
    held.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"held");
}
