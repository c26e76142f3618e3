//! Docker's networks: published ports, names, joined namespaces, several networks.
//!
//! One dockerd of the test's own in a network namespace of its own, the `host`, with bridges and
//! iptables as on any machine; a second namespace, the `world`, is on the other end of its wire. All
//! of it ends with the test. Every case runs with every runtime, and with two different ones where
//! two containers talk: what runc does is what is expected.
//!
//! - `RUNSC_RS_DOCKER_CASE=TEXT` tries only those with TEXT in their names.
//! - Skipped where a program is missing, or this is not root; `RUNSC_RS_REQUIRE_ALL=1` makes that a
//!   failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use common::docker::{Docker, PATIENCE, available, wait_for};
use runsc_benches::netns::NetworkNamespace;

/// The runtimes that are tried, alone and with one another.
const RUNTIMES: &[&str] = &["runc", "runsc-rs"];

/// What does not work under runsc-rs yet, and why. One that does is to be taken out here.
const LACKING: &[(&str, &str)] = &[];

/// What the image has, with the libraries they need.
const PROGRAMS: &[&str] = &["curl", "getent", "socat", "ping", "ip"];

const HOST: &str = "10.99.1.1";
const WORLD: &str = "10.99.1.2";
/// The world's second name server, which knows a name.
const KNOWING: &str = "10.99.1.3";

/// Answers a line with the peer's address and that line.
const ECHO: &str = "SYSTEM:'read -r line; echo $SOCAT_PEERADDR $line',nofork";

struct Networks {
    docker: Docker,
    host: NetworkNamespace,
    world: NetworkNamespace,
}

/// The runtimes of one run of a case.
#[derive(Clone, Copy)]
struct Runtimes {
    server: &'static str,
    client: &'static str,
}

/// How many containers of different runtimes a case can have.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Alone,
    Pair,
}

type Case = (&'static str, Kind, fn(&Networks, Runtimes));

const CASES: &[Case] = &[
    ("published tcp", Kind::Alone, published_tcp),
    ("published udp", Kind::Alone, published_udp),
    ("bulk", Kind::Alone, bulk),
    ("outgoing", Kind::Alone, outgoing),
    ("names", Kind::Pair, names),
    ("default bridge", Kind::Pair, default_bridge),
    ("ping", Kind::Pair, ping),
    ("none", Kind::Alone, none),
    ("host", Kind::Alone, host),
    ("dns", Kind::Alone, dns),
    ("ipv6 loopback", Kind::Alone, ipv6_loopback),
    ("ipv6 network", Kind::Pair, ipv6_network),
    ("restart", Kind::Alone, restart),
    ("start order", Kind::Pair, start_order),
    ("connect", Kind::Pair, connect),
    ("pod", Kind::Pair, pod),
];

#[test]
fn docker_networks_are_as_they_are() {
    let programs = [
        PROGRAMS,
        &[
            "dockerd",
            "docker-proxy",
            "busybox",
            "ip",
            "iptables",
            "runc",
        ],
    ];
    if !available(&programs.concat(), &[]) {
        return;
    }
    let networks = Networks::new();
    let wanted = std::env::var("RUNSC_RS_DOCKER_CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, kind, case) in CASES.iter().filter(|(name, ..)| name.contains(&wanted)) {
        for server in RUNTIMES {
            for client in RUNTIMES {
                let lacks = LACKING.iter().any(|(case, _)| case == name);
                if server != client && (*kind == Kind::Alone || lacks) {
                    continue;
                }
                let begun = Instant::now();
                let runtimes = Runtimes { server, client };
                let who = format!("{name} ({server}, {client})");
                let lacking = LACKING.iter().find(|(case, _)| case == name);
                let lacking = lacking.filter(|_| *server == "runsc-rs");
                let fails = catch_unwind(AssertUnwindSafe(|| case(&networks, runtimes))).is_err();
                if fails {
                    networks.clear();
                }
                match lacking {
                    None if fails => failed.push(who.clone()),
                    Some(_) if !fails => failed.push(format!("{who} works now")),
                    Some((_, reason)) => eprintln!("{who}: fails as expected: {reason}"),
                    None => {}
                }
                eprintln!("{who}: {} ms", begun.elapsed().as_millis());
            }
        }
    }
    let log = networks.docker.log();
    drop(networks);
    assert!(failed.is_empty(), "failed: {failed:?}\n{log}");
}

impl Networks {
    fn new() -> Self {
        let [host, world] = [(); 2].map(|()| NetworkNamespace::new().unwrap());
        let wired = host.wire(
            "wire",
            &[&format!("{HOST}/24"), "fd99:1::1/64"],
            &world,
            &[
                &format!("{WORLD}/24"),
                &format!("{KNOWING}/24"),
                "fd99:1::2/64",
            ],
        );
        wired.unwrap();
        // Both answer as long as the test runs.
        for (address, known) in [
            (WORLD, &b"\0"[..]),
            (KNOWING, b"\x09somewhere\x07example\0"),
        ] {
            let bind = || UdpSocket::bind((address, 53)).unwrap();
            let socket = world.inside(bind).unwrap();
            thread::spawn(move || name_server(&socket, known));
        }
        let pool = "--default-address-pool=base=10.99.128.0/17,size=24";
        let dns = format!("--dns={WORLD}");
        let options = ["--bip=10.99.2.1/24", pool, &dns];
        let docker = host.inside(|| Docker::start(&options, &[])).unwrap();
        let root = docker.busybox("tools");
        for program in PROGRAMS {
            add_program(&root, program);
        }
        fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
        docker.import("tools", &root);
        Self {
            docker,
            host,
            world,
        }
    }

    /// A container in the background that runs a script.
    fn start(&self, name: &str, runtime: &str, options: &[&str], script: &str) {
        let runtime = format!("--runtime={runtime}");
        let mut words = vec!["run", "-d", "--name", name, &runtime];
        words.extend(options);
        words.extend(["tools", "sh", "-c", script]);
        self.docker.call(&words).ok();
    }

    /// A container that runs socat(1) with these words, and has begun to listen.
    fn socat(&self, name: &str, runtime: &str, options: &[&str], words: &str) {
        self.start(name, runtime, options, &socat(words));
        self.listening(name);
    }

    fn listening(&self, name: &str) {
        wait_for("a listener", || {
            let log = self.docker.call(&["logs", name]).ok();
            (log.contains("listening on") || log.contains("receiving on")).then_some(())
        });
    }

    /// What a script prints in a new container; `exit N` follows if it fails.
    fn run(&self, runtime: &str, options: &[&str], script: &str) -> String {
        let runtime = format!("--runtime={runtime}");
        let mut words = vec!["run", "--rm", &runtime];
        words.extend(options);
        let script = format!("exec 2>&1; ({script}) || echo exit $?");
        words.extend(["tools", "sh", "-c", &script]);
        self.docker.call(&words).ok()
    }

    /// The same in a container that runs already.
    fn exec(&self, name: &str, script: &str) -> String {
        let script = format!("exec 2>&1; ({script}) || echo exit $?");
        self.docker.call(&["exec", name, "sh", "-c", &script]).ok()
    }

    fn remove(&self, names: &[&str]) {
        for name in names {
            self.docker.remove(name);
        }
    }

    fn create_network(&self, name: &str, options: &[&str]) {
        let words = [&["network", "create"], options, &[name]].concat();
        self.docker.call(&words).ok();
    }

    fn remove_network(&self, name: &str) {
        self.docker.call(&["network", "rm", name]).ok();
    }

    /// The address of a container on a network.
    fn address(&self, name: &str, network: &str, field: &str) -> String {
        let field = format!("(index .NetworkSettings.Networks \"{network}\").{field}");
        self.docker.inspect(name, &field)
    }

    /// What a failed case has left.
    fn clear(&self) {
        let all = self.docker.call(&["ps", "--all", "--quiet"]).out;
        for id in all.split_whitespace() {
            self.docker.call(&["rm", "--force", id]);
        }
        self.docker.call(&["network", "prune", "--force"]);
    }

    /// The answer to `text` from the world, or from the host.
    fn ask(&self, from: &NetworkNamespace, to: &str, text: &str) -> io::Result<String> {
        let to: SocketAddr = to.parse().unwrap();
        let mut stream = from.inside(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(text.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// A command line that listens, and logs that it does.
fn socat(words: &str) -> String {
    format!("exec socat -t 30 -d -d {words} 2>&1")
}

/// Copies a program and the libraries it is linked to.
fn add_program(root: &Path, program: &str) {
    let found = Command::new("which").arg(program).output().unwrap();
    let path = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let linked = Command::new("ldd").arg(&path).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    let bin = Path::new("/bin").join(program);
    for (from, to) in [(path, bin)]
        .into_iter()
        .chain(libraries.map(|l| (l.clone(), l)))
    {
        let to = root.join(to.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&to);
        fs::copy(from, to).unwrap();
    }
}

fn published_tcp(net: &Networks, runtimes: Runtimes) {
    let echo = format!("TCP-LISTEN:80,fork,reuseaddr {ECHO}");
    net.socat("web", runtimes.server, &["-p", "8080:80"], &echo);
    let port = net.docker.call(&["port", "web", "80/tcp"]).ok();
    assert!(port.contains("0.0.0.0:8080"), "{port}");
    // The server sees who asks.
    let to = format!("{HOST}:8080");
    let answer = net.ask(&net.world, &to, "hello\n").unwrap();
    assert_eq!(answer, format!("{WORLD} hello\n"));
    // The engine's proxy asks for those on the host itself.
    for (to, peer) in [
        ("127.0.0.1:8080", "10.99.2.1"),
        ("[::1]:8080", "10.99.2.1"),
        (&to, HOST),
    ] {
        let answer = net.ask(&net.host, to, "hello\n").unwrap();
        assert_eq!(answer, format!("{peer} hello\n"));
    }
    // The same listener is there inside.
    let ask = "echo hello | socat -t 30 - TCP:127.0.0.1:80";
    assert_eq!(net.exec("web", ask), "127.0.0.1 hello");
    net.remove(&["web"]);
    let error = net.ask(&net.world, &to, "").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    // A port that the engine chooses, on one address.
    let option = format!("{HOST}::80");
    net.socat("web", runtimes.server, &["-p", &option], &echo);
    let port = net.docker.call(&["port", "web", "80/tcp"]).ok();
    let answer = net.ask(&net.world, &port, "again\n").unwrap();
    assert_eq!(answer, format!("{WORLD} again\n"));
    net.remove(&["web"]);
}

fn published_udp(net: &Networks, runtimes: Runtimes) {
    let echo = "UDP-RECVFROM:53,fork PIPE";
    net.socat("udp", runtimes.server, &["-p", "5353:53/udp"], echo);
    let long = "x".repeat(1400);
    for (from, to) in [
        (&net.world, format!("{HOST}:5353")),
        (&net.host, "127.0.0.1:5353".to_owned()),
    ] {
        // Connected: answers from another address would not arrive.
        let socket = from.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket
        });
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for text in ["one", "", "three", &long] {
            socket.send(text.as_bytes()).unwrap();
            // socat(1) says nothing about nothing.
            if !text.is_empty() {
                let mut answer = [0; 2000];
                let n = socket.recv(&mut answer).unwrap();
                assert_eq!(answer[..n], *text.as_bytes());
            }
        }
    }
    net.remove(&["udp"]);
}

/// Some megabytes in each direction at the same time, and many connections at once.
fn bulk(net: &Networks, runtimes: Runtimes) {
    let echo = "TCP-LISTEN:80,fork,reuseaddr EXEC:tee,nofork";
    net.socat("bulk", runtimes.server, &["-p", "8080:80"], echo);
    let to = format!("{HOST}:8080");
    let sent: Vec<u8> = (0..8_u32 << 20)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    let mut stream = net
        .world
        .inside(|| TcpStream::connect(&to))
        .unwrap()
        .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut received = vec![0; sent.len()];
    thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let sent = &sent;
        scope.spawn(move || writer.write_all(sent).unwrap());
        stream.read_exact(&mut received).unwrap();
    });
    assert!(received == sent, "not what was sent");
    drop(stream);
    net.remove(&["bulk"]);
    // With less room than there are connections, Linux resorts to SYN cookies, and a short
    // connection may lose its only bytes.
    let echo = "TCP-LISTEN:80,fork,reuseaddr,backlog=128 PIPE";
    net.socat("many", runtimes.server, &["-p", "8080:80"], echo);
    // Many at once, of which one says nothing.
    let silent = net
        .world
        .inside(|| TcpStream::connect(&to))
        .unwrap()
        .unwrap();
    thread::scope(|scope| {
        let asked: Vec<_> = (0..20)
            .map(|index| {
                let (text, to) = (format!("{index}\n"), &to);
                scope.spawn(move || (net.ask(&net.world, to, &text).unwrap(), text))
            })
            .collect();
        for one in asked {
            let (answer, text) = one.join().unwrap();
            assert_eq!(answer, text);
        }
    });
    drop(silent);
    net.remove(&["many"]);
}

fn outgoing(net: &Networks, runtimes: Runtimes) {
    let listener = net.world.inside(|| TcpListener::bind((WORLD, 0)));
    let listener = listener.unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, peer) = listener.accept().unwrap();
            // Behind the host's address.
            assert_eq!(peer.ip().to_string(), HOST);
            // It half-closes, and reads on.
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        });
        let script = format!("echo hello | socat -t 30 - TCP:{WORLD}:{port}");
        assert_eq!(net.run(runtimes.client, &[], &script), "HELLO");
    });
    drop(listener);
    let run = |to: &str| {
        let script = format!("echo | socat - {to}");
        net.run(runtimes.client, &[], &script)
    };
    let refused = run(&format!("TCP:{WORLD}:{port}"));
    assert!(refused.contains("Connection refused"), "{refused}");
    // Nobody has the address on the bridge's own network.
    let nobody = run("TCP:10.99.2.222:80");
    assert!(nobody.contains("No route to host"), "{nobody}");
    let timeout = run("TCP:10.99.3.3:80,connect-timeout=1");
    let told = ["timed out", "unreachable", "No route"];
    assert!(told.iter().any(|text| timeout.contains(text)), "{timeout}");
    // Refused as well, as far as that reaches a sender of datagrams.
    let udp = format!("UDP:{WORLD}:{port}");
    let script = format!("(echo one; sleep 1; echo two) | socat -t 1 - {udp}");
    let refused = net.run(runtimes.client, &[], &script);
    assert!(refused.contains("Connection refused"), "{refused}");
}

fn names(net: &Networks, runtimes: Runtimes) {
    net.create_network("names", &[]);
    let options = ["--network=names", "--network-alias=alias"];
    let web = "mkdir /www; echo page > /www/index.html; exec httpd -f -v -h /www -p 80";
    net.start("web", runtimes.server, &options, web);
    let here = "curl -sf http://127.0.0.1/";
    wait_for("httpd", || (net.exec("web", here) == "page").then_some(()));
    let address = net.address("web", "names", "IPAddress");
    let run = |script: &str| net.run(runtimes.client, &["--network=names"], script);
    let resolv = run("cat /etc/resolv.conf");
    assert!(resolv.contains("nameserver 127.0.0.11"), "{resolv}");
    for name in ["web", "alias"] {
        let found = run(&format!("getent hosts {name}"));
        assert_eq!(
            found.split_whitespace().collect::<Vec<_>>(),
            [&address, name]
        );
        assert_eq!(run(&format!("curl -sS http://{name}/")), "page");
    }
    assert_eq!(run("getent hosts nosuch"), "exit 2");
    let back = run(&format!("getent hosts {address}"));
    assert!(back.contains("web.names"), "{back}");
    // Over a UDP socket and over a TCP socket.
    assert!(run("nslookup web 127.0.0.11").contains(&address));
    assert!(run("echo options use-vc >> /etc/resolv.conf; getent hosts web").contains(&address));
    net.remove(&["web"]);
    assert_eq!(run("getent hosts web"), "exit 2");
    net.remove_network("names");
}

fn default_bridge(net: &Networks, runtimes: Runtimes) {
    let echo = format!("TCP-LISTEN:80,fork,reuseaddr {ECHO}");
    net.socat("web", runtimes.server, &[], &echo);
    let address = net.address("web", "bridge", "IPAddress");
    let script = "hostname -i; echo hello | socat -t 30 - TCP:";
    let answer = net.run(runtimes.client, &[], &format!("{script}{address}:80"));
    let lines: Vec<_> = answer.lines().collect();
    assert!(lines[0].starts_with("10.99.2."), "{answer}");
    assert_eq!(lines[1], format!("{} hello", lines[0].trim()));
    // Names are not known here, unless linked.
    assert_eq!(net.run(runtimes.client, &[], "getent hosts web"), "exit 2");
    let linked = net.run(runtimes.client, &["--link=web:db"], "getent hosts db");
    assert!(linked.starts_with(&address), "{linked}");
    net.remove(&["web"]);
}

fn ping(net: &Networks, runtimes: Runtimes) {
    net.create_network("pings", &[]);
    net.start("web", runtimes.server, &["--network=pings"], "sleep 1000");
    let run = |script: &str| net.run(runtimes.client, &["--network=pings"], script);
    for name in ["web", "127.0.0.1", "localhost", WORLD] {
        let answer = run(&format!("/bin/ping -w 60 -c 2 -i 0.2 {name}"));
        // A late answer is asked for once more.
        assert!(answer.contains(" 2 received"), "{answer}");
    }
    net.remove(&["web"]);
    net.remove_network("pings");
}

fn none(net: &Networks, runtimes: Runtimes) {
    let run = |script: &str| net.run(runtimes.client, &["--network=none"], script);
    assert_eq!(
        run("ip -o link | grep -v '^1: lo:'; ip -o -4 address show lo | grep -o '127[^ ]*/8'"),
        "127.0.0.1/8"
    );
    let to = run(&format!("echo | socat - TCP:{WORLD}:80"));
    assert!(to.contains("Network is unreachable"), "{to}");
    let loopback = "socat TCP-LISTEN:80,fork,reuseaddr PIPE & \
                    echo hello | socat -t 30 - TCP:127.0.0.1:80,retry=100,interval=0.05; kill $!";
    assert_eq!(run(loopback).lines().last(), Some("hello"));
}

fn host(net: &Networks, runtimes: Runtimes) {
    let echo = format!("TCP-LISTEN:8081,fork,reuseaddr {ECHO}");
    net.socat("web", runtimes.server, &["--network=host"], &echo);
    let answer = net.ask(&net.world, &format!("{HOST}:8081"), "hello\n");
    assert_eq!(answer.unwrap(), format!("{WORLD} hello\n"));
    let answer = net.ask(&net.host, "127.0.0.1:8081", "hello\n");
    assert_eq!(answer.unwrap(), "127.0.0.1 hello\n");
    // What listens on the host's loopback is reached, and its ports are taken.
    let listener = net.host.inside(|| TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::scope(|scope| {
        scope.spawn(|| listener.accept().unwrap().0.write_all(b"there\n").unwrap());
        let script = format!("socat -u TCP:127.0.0.1:{port} -");
        assert_eq!(net.exec("web", &script), "there");
    });
    let taken = net.exec("web", &format!("socat TCP-LISTEN:{port} -"));
    assert!(taken.contains("Address already in use"), "{taken}");
    assert!(net.exec("web", "ip -o link").contains("wire"));
    net.remove(&["web"]);
}

/// Answers questions for addresses; there is one name that it knows.
fn name_server(socket: &UdpSocket, known: &[u8]) {
    let mut question = [0; 512];
    loop {
        let (n, from) = socket.recv_from(&mut question).unwrap();
        let mut answer = question[..n].to_vec();
        answer.truncate(12 + question[12..n].iter().position(|b| *b == 0).unwrap() + 5);
        let found = answer[12..answer.len() - 4] == *known;
        let wanted = found && question[answer.len() - 3] == 1;
        let code = if found { 0 } else { 3 };
        // A response, recursion available; one question, no additional records.
        answer[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, wanted.into(), 0, 0, 0, 0]);
        if wanted {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 99, 7, 7]);
        }
        let _ = socket.send_to(&answer, from);
    }
}

fn dns(net: &Networks, runtimes: Runtimes) {
    net.create_network("dns", &[]);
    let dns = format!("--dns={KNOWING}");
    let options = [&dns, "--dns-search=example", "--dns-option=timeout:9"];
    let script = "cat /etc/resolv.conf; getent hosts somewhere.example; getent hosts somewhere; \
                  getent hosts nowhere";
    // The engine's own server asks the other one.
    for (network, server) in [("bridge", KNOWING), ("dns", "127.0.0.11")] {
        let network = format!("--network={network}");
        let options = [&options[..], &[&network]].concat();
        let out = net.run(runtimes.client, &options, script);
        for line in [&format!("nameserver {server}"), "search example", "exit 2"] {
            assert!(out.lines().any(|has| has == line), "{line}: {out}");
        }
        assert!(out.contains("timeout:9"), "{out}");
        let answer = ["10.99.7.7", "somewhere.example"];
        let found = |line: &&str| line.split_whitespace().collect::<Vec<_>>() == answer;
        assert_eq!(out.lines().filter(found).count(), 2, "{out}");
    }
    net.remove_network("dns");
}

fn ipv6_loopback(net: &Networks, runtimes: Runtimes) {
    let script = "socat TCP6-LISTEN:80,fork,reuseaddr PIPE & \
                  for host in '[::1]' 127.0.0.1; do \
                  echo to $host | socat -t 30 - TCP:$host:80,retry=100,interval=0.05; done; kill $!";
    let on = ["--sysctl=net.ipv6.conf.all.disable_ipv6=0"];
    let answer = net.run(runtimes.client, &on, script);
    for line in ["to [::1]", "to 127.0.0.1"] {
        assert!(answer.lines().any(|has| has == line), "{answer}");
    }
    let udp = "socat UDP6-RECVFROM:80,fork PIPE & \
               for try in 1 2 3 4 5 6 7 8 9; do \
               echo hello | socat -t 1 - UDP6:'[::1]':80 | grep hello && break; done; kill $!";
    let answer = net.run(runtimes.client, &on, udp);
    assert!(answer.lines().any(|has| has == "hello"), "{answer}");
}

fn ipv6_network(net: &Networks, runtimes: Runtimes) {
    net.create_network("six", &["--ipv6", "--subnet=fd99:6::/64"]);
    let echo = format!("TCP6-LISTEN:80,fork,reuseaddr {ECHO}");
    net.socat("web", runtimes.server, &["--network=six"], &echo);
    let address = net.address("web", "six", "GlobalIPv6Address");
    let run = |script: &str| net.run(runtimes.client, &["--network=six"], script);
    let found = run("getent ahostsv6 web");
    assert!(found.starts_with(&address), "{found}");
    // Both of its addresses lead to the one listener.
    let six = run("echo hello | socat -t 30 - TCP6:web:80");
    assert!(
        six.starts_with("[fd99:0006:") && six.ends_with(" hello"),
        "{six}"
    );
    let four = run("echo hello | socat -t 30 - TCP4:web:80");
    assert!(
        four.starts_with("[0000:0000:0000:0000:0000:ffff:"),
        "{four}"
    );
    assert!(four.ends_with(" hello"), "{four}");
    net.remove(&["web"]);
    net.remove_network("six");
}

fn restart(net: &Networks, runtimes: Runtimes) {
    let echo = format!("TCP-LISTEN:80,fork {ECHO}");
    let options = ["-p", "8080:80", "--restart=on-failure:3"];
    net.socat("web", runtimes.server, &options, &echo);
    let to = format!("{HOST}:8080");
    let works = || {
        wait_for("an answer", || {
            let answer = net.ask(&net.world, &to, "hello\n").ok()?;
            (answer == format!("{WORLD} hello\n")).then_some(())
        });
    };
    works();
    for _ in 0..2 {
        net.docker.call(&["restart", "--time=0", "web"]).ok();
        works();
    }
    net.docker.call(&["kill", "web"]).ok();
    net.docker.call(&["wait", "web"]);
    net.docker.call(&["start", "web"]).ok();
    works();
    // The engine starts it again by itself when it ends, connections and all.
    let mut open = net
        .world
        .inside(|| TcpStream::connect(&to))
        .unwrap()
        .unwrap();
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    open.write_all(b"x\n").unwrap();
    open.read_exact(&mut [0; 4]).unwrap();
    let before = net.docker.inspect("web", ".RestartCount");
    // Its first process has no handler for it, and so does not get it from inside.
    let pid = net.docker.inspect("web", ".State.Pid").parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    wait_for("another start", || {
        (net.docker.inspect("web", ".RestartCount") != before).then_some(())
    });
    works();
    // Who holds the connection learns that its end is gone.
    let end = open.read_to_end(&mut Vec::new());
    if let Err(error) = end {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    // Nobody else gets the port.
    let runtime = format!("--runtime={}", runtimes.server);
    let second = [
        "run",
        "--rm",
        &runtime,
        "-p",
        "8080:80",
        "--name=second",
        "tools",
        "true",
    ];
    let taken = net.docker.call(&second);
    assert!(taken.err.contains("port is already allocated"), "{taken:?}");
    net.docker.call(&["rm", "--force", "second"]);
    net.remove(&["web"]);
    net.docker.call(&second).ok();
}

/// As a composition of services starts: who needs another one waits until it is there.
fn start_order(net: &Networks, runtimes: Runtimes) {
    net.create_network("order", &[]);
    let client = "until getent hosts late; do sleep 0.05; done; \
                  until echo hello | socat -t 30 - TCP:late:80; do sleep 0.05; done; echo done";
    net.start("early", runtimes.client, &["--network=order"], client);
    let echo = "TCP-LISTEN:80,fork,reuseaddr PIPE";
    net.socat("late", runtimes.server, &["--network=order"], echo);
    assert_eq!(net.docker.call(&["wait", "early"]).ok(), "0");
    let log = net.docker.call(&["logs", "early"]).ok();
    assert!(log.ends_with("hello\ndone"), "{log}");
    net.remove(&["early", "late"]);
    net.remove_network("order");
}

/// A container that runs is put on a second network, and taken from it.
fn connect(net: &Networks, runtimes: Runtimes) {
    net.create_network("one", &[]);
    net.create_network("two", &[]);
    let echo = "TCP-LISTEN:80,fork,reuseaddr PIPE";
    net.socat("web", runtimes.server, &["--network=one"], echo);
    let ask = "echo hello | socat -t 30 - TCP:web:80,connect-timeout=1";
    net.start("client", runtimes.client, &["--network=two"], "sleep 1000");
    let works = || net.exec("client", ask) == "hello";
    assert!(!works());
    // Who listens is told.
    let watch = "/bin/ip -o monitor link address > /told & while ! grep -q . /proc/net/netlink || \
                 ! awk '$2 == 0 && $4 != 0' /proc/net/netlink | grep -q .; do sleep 0.05; done";
    assert_eq!(net.exec("web", watch), "");
    let told = |what: &str, of: &str| {
        wait_for(what, || {
            let told = net.exec("web", "cat /told");
            let mut lines = told.lines().filter(|line| line.contains(of));
            lines
                .any(|line| line.starts_with("Deleted") == (what == "Deleted"))
                .then_some(())
        });
    };
    net.docker.call(&["network", "connect", "two", "web"]).ok();
    wait_for("a connection", || works().then_some(()));
    assert!(net.exec("web", "ip -o link").contains("eth1"));
    told("New", "eth1");
    let address = net.address("web", "two", "IPAddress");
    told("New", &format!("inet {address}/"));
    // The engine gives it another name before it takes it away.
    let index = net.exec("web", "cat /sys/class/net/eth1/ifindex");
    // Its other end is the engine's.
    let other = net.exec("web", "cat /sys/class/net/eth1/iflink");
    assert_ne!(other, index);
    let line = net.exec("web", "/bin/ip -o link show eth1");
    assert!(
        line.starts_with(&format!("{index}: eth1@if{other}: ")),
        "{line}"
    );
    // What went over it is counted.
    let read = "cat /sys/class/net/eth1/statistics/rx_packets";
    assert_ne!(net.exec("web", read), "0");
    let sent = net.exec("web", "awk '/eth1:/ {print $11}' /proc/net/dev");
    assert_ne!(sent, "0");
    // The other way as well.
    let found = net.exec("web", "getent hosts client");
    assert!(found.contains("client"), "{found}");
    net.docker
        .call(&["network", "disconnect", "two", "web"])
        .ok();
    assert!(!works());
    told("Deleted", &format!("inet {address}/"));
    told("Deleted", &format!("Deleted {index}: "));
    assert!(!net.exec("web", "ip -o link").contains("eth1"));
    net.remove(&["web", "client"]);
    net.remove_network("one");
    net.remove_network("two");
}

/// A second container in the first one's network namespace.
fn pod(net: &Networks, runtimes: Runtimes) {
    let echo = format!("TCP-LISTEN:80,fork,reuseaddr {ECHO}");
    let options = ["-p", "8080:80", "-p", "8082:82", "--hostname=pod"];
    net.socat("first", runtimes.server, &options, &echo);
    let joined = ["--network=container:first"];
    let echo = format!("TCP-LISTEN:82,fork,reuseaddr,bind=0.0.0.0 {ECHO}");
    // The engine lets anybody have any port in a namespace that it makes.
    let options = [&joined[..], &["--user=1000"]].concat();
    net.socat("second", runtimes.client, &options, &echo);
    // Each reaches the other at its own address.
    let hello = |name: &str, port: u16| {
        net.exec(
            name,
            &format!("echo hello | socat -t 30 - TCP:127.0.0.1:{port}"),
        )
    };
    for (name, port) in [("second", 80), ("first", 82), ("first", 80), ("second", 82)] {
        assert_eq!(hello(name, port), "127.0.0.1 hello", "{name} to {port}");
    }
    let address = net.address("first", "bridge", "IPAddress");
    let script = format!("echo hello | socat -t 30 - TCP:{address}:80");
    assert_eq!(net.exec("second", &script), format!("{address} hello"));
    assert_eq!(net.exec("second", "hostname"), "pod");
    // They are one place for the outside, and for who wants a port.
    for port in [8080, 8082] {
        let answer = net.ask(&net.world, &format!("{HOST}:{port}"), "hello\n");
        assert_eq!(answer.unwrap(), format!("{WORLD} hello\n"));
    }
    for (name, port) in [("second", 80), ("first", 82)] {
        let taken = net.exec(name, &format!("socat TCP-LISTEN:{port},reuseaddr -"));
        assert!(taken.contains("Address already in use"), "{name}: {taken}");
    }
    let udp = socat("UDP-RECVFROM:83,fork PIPE");
    net.start("third", runtimes.server, &joined, &udp);
    net.listening("third");
    // Nobody says when a datagram's answer does not come.
    let ask = "for try in 1 2 3 4 5 6 7 8 9; do echo hello | socat -t 1 - UDP:127.0.0.1:83 | grep hello && \
               break; done";
    assert_eq!(net.exec("second", ask), "hello");
    let taken = net.exec("first", "socat UDP-RECVFROM:83 PIPE");
    assert!(taken.contains("Address already in use"), "{taken}");
    net.remove(&["third"]);
    // A port is free again with who had it.
    net.remove(&["second"]);
    let refused = hello("first", 82);
    assert!(refused.contains("Connection refused"), "{refused}");
    net.remove(&["first"]);
}
