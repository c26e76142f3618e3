//! Servers in the sandbox with clients outside, and clients in the sandbox with servers outside.
//!
//! The test makes two network namespaces of its own and a wire between them: one is the container's
//! (`linux.namespaces`), in the other one are those whom it talks to. All of it ends with the test.
//!
//! Each file of `tests/outside/` is a bash script with two roles: `serve`, which prints `ready` when
//! its server listens and ends when its input does, and `use`, which talks to it at the addresses
//! `$FOUR` and `$SIX` and prints what is the same on every run. The first lines say what it needs
//! (`# needs: PATH...`), which role is in the sandbox (`# inside: serve`) and how often both are
//! started, each time with a new sandbox and the same files (`# turns: 2`). Nothing is recorded:
//! what both roles print natively, in the same namespaces, is what is expected.
//!
//! `RUNSC_RS_REQUIRE_ALL=1`: whatever is missing is a failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use common::{Bundle, PROGRAM};
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Pid, Uid},
};
use runsc_benches::{netns::NetworkNamespace, process};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Open files of a container.
const FILES: u32 = 12_000;

/// Where the server is that a script uses.
const FOUR: [&str; 2] = ["10.97.1.1", "10.97.1.2"];
const SIX: [&str; 2] = ["fd97:1::1", "fd97:1::2"];

#[test]
fn sshd() {
    compare("sshd", &["systrap"]);
}

#[test]
fn nginx() {
    compare("nginx", &["systrap"]);
}

#[test]
fn redis() {
    compare("redis", &["systrap"]);
}

#[test]
fn postgresql() {
    compare("postgresql", &["systrap"]);
}

#[test]
fn memcached() {
    compare("memcached", &["systrap", "ptrace", "kvm"]);
}

#[test]
fn datagrams() {
    compare("datagrams", &["systrap"]);
}

#[test]
fn clients() {
    compare("clients", &["systrap"]);
}

#[test]
fn peers() {
    compare("peers", &["systrap"]);
}

/// Each with a socket of the host behind it.
#[test]
fn ten_thousand_connections_are_held() {
    const MANY: usize = 10_000;
    const GUEST: &str = r#"
import socket, sys
listener = socket.create_server(("0.0.0.0", 7), backlog=4096)
print("ready", flush=True)
held = [listener.accept()[0] for _ in range(int(sys.argv[1]))]
print("held", flush=True)
sys.stdin.readline()
for one in held: one.sendall(one.recv(100).upper())
print("answered", flush=True)
sys.stdin.read()
"#;
    const PYTHON: &str = "/usr/bin/python3";
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let enough = hard > MANY as u64 + 1000 && Uid::effective().is_root();
    if !possible(
        &format!("{PYTHON}, or open files"),
        enough && Path::new(PYTHON).exists(),
    ) {
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let networks = Networks::new();
    let work = tempfile::tempdir().unwrap();
    let words = [PYTHON, "-c", GUEST, &MANY.to_string()].map(str::to_owned);
    let inside = &networks.inside;
    let mut server = Player::start(&words, &[], work.path(), inside, Some("systrap"));
    server.until("ready");
    let root = Pid::from_raw(server.child.id().cast_signed());
    let memory = || -> u64 {
        let all = process::memory_below(root).unwrap();
        all.iter().map(|one| one.pss_kib).sum()
    };
    let before = memory();
    let address = (FOUR[1], 7);
    let connect = || {
        (0..MANY)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect()
    };
    let mut held: Vec<TcpStream> = networks.outside.inside(connect).unwrap();
    server.until("held");
    let more = memory().saturating_sub(before) / 1024;
    let ticks = || {
        process::descendants(root)
            .into_iter()
            .map(process::ticks)
            .sum::<u64>()
    };
    let idle = Duration::from_secs(2);
    // What is looked at is that nothing happens, once all that was begun is done.
    let windows = (0..10).map(|_| {
        let begun = ticks();
        thread::sleep(idle);
        ticks() - begun
    });
    let mut least = u64::MAX;
    for ticks in windows {
        least = least.min(ticks);
        if least <= 2 {
            break;
        }
    }
    let ticks = least;
    eprintln!("{MANY} connections: {more} MiB more, {ticks} ticks in {idle:?}");
    for stream in &mut held {
        stream.write_all(b"hello").unwrap();
    }
    server
        .child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"\n")
        .unwrap();
    for stream in &mut held {
        let mut text = [0; 5];
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"HELLO");
    }
    server.until("answered");
    drop(held);
    server.end();
    assert!(more < 100, "{more} MiB more");
    assert!(ticks <= 2, "{ticks} ticks in {idle:?}");
}

/// The two namespaces.
struct Networks {
    /// Of those whom the container talks to.
    outside: NetworkNamespace,
    /// The container's.
    inside: NetworkNamespace,
}

impl Networks {
    fn new() -> Self {
        let [outside, inside] = [(); 2].map(|()| NetworkNamespace::new().unwrap());
        let addresses = |at: usize| [format!("{}/24", FOUR[at]), format!("{}/64", SIX[at])];
        let (here, there) = (addresses(0), addresses(1));
        let wired = outside.wire(
            "wire",
            &here.each_ref().map(String::as_str),
            &inside,
            &there.each_ref().map(String::as_str),
        );
        wired.unwrap();
        Self { outside, inside }
    }
}

/// Which of the two roles is in the sandbox.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Serve,
    Use,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Serve => "serve",
            Role::Use => "use",
        }
    }
}

struct Script {
    path: PathBuf,
    inside: Role,
    turns: u32,
}

impl Script {
    /// None, said loudly, if this machine lacks something.
    fn find(name: &str) -> Option<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside");
        let path = directory.join(format!("{name}.sh"));
        let text = fs::read_to_string(&path).unwrap();
        let value = |key: &str| {
            let of = |line: &str| line.strip_prefix(&format!("# {key}: ")).map(str::to_owned);
            text.lines().find_map(of).unwrap_or_default()
        };
        let needs = value("needs");
        let there = |program: &&str| Path::new(program).exists();
        let missing: Vec<_> = needs.split(' ').filter(|p| !there(p)).collect();
        let here = missing.is_empty() && possible(&missing.join(" "), Uid::effective().is_root());
        here.then(|| Self {
            path,
            inside: match value("inside").as_str() {
                "use" => Role::Use,
                _ => Role::Serve,
            },
            turns: value("turns").parse().unwrap_or(1),
        })
    }
}

/// Says that something is missing, past the test harness's capture; a failure if all is required.
fn possible(what: &str, here: bool) -> bool {
    let required = std::env::var_os("RUNSC_RS_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(here || !required, "missing: {what}, or root");
    if !here {
        let _ = writeln!(std::io::stderr(), "SKIPPED, missing: {what}, or root");
    }
    here
}

fn compare(name: &str, platforms: &[&str]) {
    let Some(script) = Script::find(name) else {
        return;
    };
    let expected = play(&script, None);
    for platform in platforms {
        let there = *platform != "kvm" || Path::new("/dev/kvm").exists();
        if there || possible("/dev/kvm", false) {
            let printed = play(&script, Some(platform));
            let text = |lines: &str| lines.replace('\n', "\n    ");
            assert!(
                printed == expected,
                "{name}, on {platform}:\n    {}\nnatively:\n    {}",
                text(&printed),
                text(&expected)
            );
        }
    }
}

/// What both roles print, with one of them in the sandbox if there is a platform.
fn play(script: &Script, platform: Option<&str>) -> String {
    let networks = Networks::new();
    let work = tempfile::tempdir().unwrap();
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (mut printed, begun) = (String::new(), Instant::now());
    for turn in 1..=script.turns {
        let start = |role: Role| Player::role(script, role, turn, work.path(), &networks, platform);
        let mut server = start(Role::Serve);
        server.until("ready");
        let client = start(Role::Use);
        printed += &format!("turn {turn}\n{}", client.end());
        printed += &server.end();
    }
    let (name, took) = (script.path.display(), begun.elapsed().as_millis());
    eprintln!("{name}, {}: {took} ms", platform.unwrap_or("native"));
    printed
}

/// A program that runs.
struct Player {
    name: String,
    child: Child,
    /// Its lines, on both outputs.
    lines: Receiver<String>,
    /// What it runs in, if not on the host itself.
    _bundle: Option<Bundle>,
}

impl Player {
    fn role(
        script: &Script,
        role: Role,
        turn: u32,
        work: &Path,
        networks: &Networks,
        platform: Option<&str>,
    ) -> Self {
        let path = script.path.to_str().unwrap();
        let words = ["/bin/bash", path, role.word(), &turn.to_string()].map(str::to_owned);
        // The server is where the role of that name is.
        let at = usize::from(script.inside == Role::Serve);
        let environment = [
            ("FOUR", FOUR[at]),
            ("SIX", SIX[at]),
            // The client's.
            ("FROM_FOUR", FOUR[1 - at]),
            ("FROM_SIX", SIX[1 - at]),
        ];
        let (namespace, platform) = match role == script.inside {
            true => (&networks.inside, platform),
            false => (&networks.outside, None),
        };
        Self::start(&words, &environment, work, namespace, platform)
    }

    /// With a platform in the sandbox.
    fn start(
        words: &[String],
        environment: &[(&str, &str)],
        work: &Path,
        namespace: &NetworkNamespace,
        platform: Option<&str>,
    ) -> Self {
        let environment = [
            &[
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ("LC_ALL", "C.UTF-8"),
                ("HOME", work.to_str().unwrap()),
            ],
            environment,
        ]
        .concat();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &PATIENCE.as_secs().to_string()]);
        let bundle = platform.map(|platform| {
            let config = configuration(words, &environment, work, &namespace.path());
            let bundle = Bundle::new(Some(&config.to_string()));
            command.arg(PROGRAM).arg("--root").arg(bundle.state());
            command.arg(format!("--platform={platform}"));
            let run = ["run", "--bundle"];
            command.args(run).arg(&bundle.path).arg("outside");
            bundle
        });
        if bundle.is_none() {
            command.args(words).env_clear().envs(environment);
        }
        let (reader, writer) = std::io::pipe().unwrap();
        command.current_dir(work).stdin(Stdio::piped());
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        // Natively it has the namespace by being started there.
        let child = match &bundle {
            Some(_) => command.spawn(),
            None => namespace.inside(|| command.spawn()).unwrap(),
        };
        // The last writer but the program's is gone.
        drop(command);
        let (sender, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
            for line in lines {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            name: words.join(" "),
            child: child.unwrap(),
            lines,
            _bundle: bundle,
        }
    }

    /// Until it has printed that line.
    fn until(&mut self, text: &str) {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line == text => return,
                Ok(line) => before.push(line),
                Err(_) => panic!("{}: not {text}, but {}", self.name, before.join("\n")),
            }
        }
    }

    /// What it prints until it ends, which it does when its input has.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let lines: Vec<_> = self.lines.iter().map(|line| line + "\n").collect();
        let status = self.child.wait().unwrap();
        let printed = lines.concat();
        assert!(status.success(), "{}: {status}\n{printed}", self.name);
        printed
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It passes that on, and kills later. Gone already, as a rule.
        if let Ok(None) = self.child.try_wait() {
            let pid = Pid::from_raw(self.child.id().cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// This machine's files, of which one directory can be changed; what else is changed is gone with
/// the container.
fn configuration(
    words: &[String],
    environment: &[(&str, &str)],
    work: &Path,
    namespace: &Path,
) -> serde_json::Value {
    let mut config = common::config("");
    let process = &mut config["process"];
    process["args"] = words.into();
    process["cwd"] = work.to_str().unwrap().into();
    let environment = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    process["env"] = environment.collect::<Vec<_>>().into();
    let limit = serde_json::json!({"type": "RLIMIT_NOFILE", "hard": FILES, "soft": FILES});
    process["rlimits"] = serde_json::json!([limit]);
    let shared = serde_json::json!({
        "destination": work, "type": "bind", "source": work, "options": ["rbind", "rw"]
    });
    config["mounts"].as_array_mut().unwrap().push(shared);
    config["linux"] = serde_json::json!({
        "namespaces": [{"type": "network", "path": namespace}, {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}],
        // As Docker has it.
        "sysctl": {"net.ipv4.ping_group_range": "0 2147483647"},
    });
    config
}
