//! The life of containers, as far as it is ours alone: what the monitor is and withstands, logs,
//! ordinary users. What runc has as well is in `conformance/tests/oci`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::Bundle;
use nix::{
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
    },
    unistd::Uid,
};
use serde_json::Value;

/// A bundle over this machine's files.
fn bundle(script: &str) -> Bundle {
    let config = include_str!("data/minimal.json")
        .replace("\"rootfs\"", "\"/\"")
        .replace(
            "\"/bin/true\"",
            &format!("\"/bin/sh\", \"-c\", \"{script}\""),
        );
    Bundle::new(Some(&config))
}

/// Runs a command whose container may keep its output open; its status, output and complaints.
fn call(bundle: &Bundle, args: &[&str]) -> (Option<i32>, String, String) {
    finish(bundle, bundle.command(args))
}

fn finish(bundle: &Bundle, mut command: Command) -> (Option<i32>, String, String) {
    let path = |name: &str| bundle.path.join(name);
    let file = |name: &str| File::create(path(name)).unwrap();
    let mut child = command
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .unwrap();
    let status = child.wait().unwrap();
    let text = |name: &str| fs::read_to_string(path(name)).unwrap();
    (status.code(), text("out"), text("err"))
}

fn ok(bundle: &Bundle, args: &[&str]) -> String {
    let (code, out, err) = call(bundle, args);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
    out
}

fn create(bundle: &Bundle, more: &[&str]) {
    let path = bundle.path.display().to_string();
    let mut words = more.to_vec();
    words.extend(["create", "--bundle", &path, "c"]);
    ok(bundle, &words);
}

fn state(bundle: &Bundle) -> Value {
    serde_json::from_str(&ok(bundle, &["state", "c"])).unwrap()
}

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_monitor_has_no_rights_and_a_network_of_its_own() {
    if !Uid::effective().is_root() {
        // It had none to begin with.
        return;
    }
    let config = include_str!("data/minimal.json")
        .replace("\"rootfs\"", "\"/\"")
        .replace(
            "\"process\"",
            "\"linux\": {\"namespaces\": [{\"type\": \"network\"}, {\"type\": \"pid\"}, \
             {\"type\": \"ipc\"}]}, \"process\"",
        );
    let bundle = Bundle::new(Some(&config));
    create(&bundle, &[]);
    let pid = state(&bundle)["pid"].to_string();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    let fields = ["NoNewPrivs:", "Threads:", "Seccomp:"].map(field);
    assert_eq!(fields, ["1", "1", "2"]);
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&pid), network("self"));
    ok(&bundle, &["delete", "c"]);
}

/// A connection to the monitor.
fn visit(bundle: &Bundle) -> std::os::fd::OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    let path = bundle.state().join("c/control.sock");
    connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    fd
}

#[test]
fn a_monitor_withstands_its_visitors() {
    let bundle = bundle("while :; do sleep 1; done");
    create(&bundle, &[]);
    ok(&bundle, &["start", "c"]);
    // Garbage, another version, too much, nothing at all, and going away without a word.
    let version_9 = [9, 0];
    let long = vec![1; 70_000];
    for message in [
        &[0xff; 30][..],
        &version_9,
        &[1, 200],
        &[1, 9, 0xff, 0xff, 0xff],
        &long,
    ] {
        let fd = visit(&bundle);
        // A message may be too long for the socket itself.
        let _ = send(fd.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
        let mut answer = [0; 1000];
        if let Ok(n) = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())
            && n > 0
        {
            let text = String::from_utf8_lossy(&answer[..n]).into_owned();
            assert!(text.contains("version"), "{text:?}");
        }
    }
    // Many at once, who only wait.
    let idle: Vec<_> = (0..200).map(|_| visit(&bundle)).collect();
    assert!(ok(&bundle, &["ps", "c"]).contains("sleep 1"));
    drop(idle);
    // One that asks and does not read the answers holds nobody up for long.
    let deaf = visit(&bundle);
    let ask_stats = [3, 7];
    send(deaf.as_raw_fd(), &ask_stats, MsgFlags::MSG_NOSIGNAL).unwrap();
    let mut answer = [0; 1000];
    let n = recv(deaf.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
    let text = String::from_utf8_lossy(&answer[..n]);
    assert!(n > 1 && !text.contains("version"), "{text:?}");
    for _ in 0..100_000 {
        let sent = send(
            deaf.as_raw_fd(),
            &ask_stats,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        );
        if sent.is_err() {
            break;
        }
    }
    assert!(ok(&bundle, &["ps", "c"]).contains("sleep 1"));
    assert_eq!(state(&bundle)["status"], "running");
    ok(&bundle, &["delete", "--force", "c"]);
}

#[test]
fn others_are_turned_away() {
    if !Uid::effective().is_root() {
        return;
    }
    let bundle = bundle("while :; do sleep 1; done");
    create(&bundle, &[]);
    // Even if its directories were open.
    for path in [
        bundle.path.clone(),
        bundle.state(),
        bundle.state().join("c"),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let socket = bundle.state().join("c/control.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let script = "import socket, sys\n\
                  s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                  s.connect(sys.argv[1])\n\
                  try:\n    s.send(bytes([1, 1]))\n    print(len(s.recv(100)))\n\
                  except OSError:\n    print(0)\n";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(&socket)
        .uid(12345)
        .gid(12345)
        .output();
    let output = output.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
    assert_eq!(state(&bundle)["status"], "created");
    ok(&bundle, &["delete", "c"]);
}

#[test]
fn all_logs_are_in_one_file() {
    let bundle = bundle("true");
    let logs = bundle.path.join("logs");
    fs::create_dir(&logs).unwrap();
    let option = format!("--log-dir={}", logs.display());
    create(&bundle, &["--debug", &option]);
    ok(&bundle, &["start", "c"]);
    wait_for("its end", || {
        (state(&bundle)["status"] == "stopped").then_some(())
    });
    ok(&bundle, &["delete", "c"]);
    let text = fs::read_to_string(logs.join("c.log")).unwrap();
    for process in [" cli ", " monitor ", " sentry ", " gofer "] {
        assert!(text.contains(process), "{process}: {text}");
    }
}

/// As of the container's own process.
#[test]
fn what_has_no_effect_on_a_process_that_joins_is_said() {
    let bundle = bundle("exec sleep 1000");
    create(&bundle, &[]);
    ok(&bundle, &["start", "c"]);
    let process = serde_json::json!({
        "args": ["/bin/true"], "env": [], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "apparmorProfile": "docker-default", "commandLine": "true", "mood": 1,
    });
    let path = bundle.path.join("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let path = path.display().to_string();
    let (code, _, err) = call(&bundle, &["exec", "--process", &path, "c"]);
    assert_eq!(code, Some(0), "{err}");
    for name in [
        "apparmorProfile: has no effect",
        "commandLine (not for Linux): has no effect",
        "mood: unknown: has no effect",
    ] {
        assert_eq!(err.matches(name).count(), 1, "{name}: {err}");
    }
    ok(&bundle, &["delete", "--force", "c"]);
}

#[test]
fn a_start_that_fails_says_where_why_and_what_to_do() {
    let bundle = bundle("true");
    let config = fs::read_to_string(bundle.path.join("config.json")).unwrap();
    let config = config.replace("\"process\": {", "\"process\": {\"terminal\": true, ");
    fs::write(bundle.path.join("config.json"), config).unwrap();
    let path = bundle.path.display().to_string();
    let log = format!("--log={}/log", bundle.path.display());
    let words = [
        "create",
        "--bundle",
        &path,
        "--console-socket",
        "/no/where",
        "c",
    ];
    let json = ["--log-format=json", &log];
    let words: Vec<_> = json.into_iter().chain(words).collect();
    let (code, _, err) = call(&bundle, &words);
    let expected = "runsc-rs: create: console: --console-socket: /no/where: No such file or directory \
                    (os error 2) (something has to listen at --console-socket before)\n";
    assert_eq!((code, err.as_str()), (Some(1), expected));
    let text = fs::read_to_string(bundle.path.join("log")).unwrap();
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["stage"], &line["errno"]),
        (&"console".into(), &2.into())
    );
    assert_eq!(
        line["advice"],
        "something has to listen at --console-socket before"
    );
    assert_eq!(bundle.left_behind(), Vec::<String>::new());
}

#[test]
fn a_creation_that_hangs_can_be_removed() {
    let config = include_str!("data/minimal.json").replace("\"rootfs\"", "\"/\"");
    let bundle = Bundle::new(Some(&config));
    let told = bundle.path.join("told");
    // The hook ends with its pipe, which is this test's.
    let hook = format!(
        "\"hooks\": {{\"prestart\": [{{\"path\": \"/bin/sh\", \"args\": [\"sh\", \"-c\", \
         \"echo > {0}; read x < {0}.end\"]}}]}}, \"process\"",
        told.display()
    );
    let config = config.replace("\"process\"", &hook);
    fs::write(bundle.path.join("config.json"), config).unwrap();
    let end = bundle.path.join("told.end");
    nix::unistd::mkfifo(&end, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = bundle.path.display().to_string();
    let null = || File::create("/dev/null").unwrap();
    let mut create = bundle
        .command(&["create", "--bundle", &path, "c"])
        .stdout(null())
        .stderr(null())
        .spawn()
        .unwrap();
    wait_for("the hook", || told.exists().then_some(()));
    assert!(matches!(
        state(&bundle)["status"].as_str(),
        Some("created" | "creating")
    ));
    ok(&bundle, &["delete", "--force", "c"]);
    assert!(!create.wait().unwrap().success());
    assert_eq!(bundle.left_behind(), Vec::<String>::new());
    // Opened for both, it does not wait for the hook, which is let go.
    let mut pipe = File::options().read(true).write(true).open(&end).unwrap();
    std::io::Write::write_all(&mut pipe, b"\n").unwrap();
}

#[test]
fn files_that_are_not_there_cannot_be_passed_on() {
    let bundle = bundle("true");
    let mut run = bundle.run("c");
    run.args(["--preserve-fds", "20"]);
    let (code, _, err) = finish(&bundle, run);
    assert_eq!(code, Some(1));
    assert!(err.contains(": Bad file descriptor"), "{err}");
}

#[test]
fn an_ordinary_user_has_containers_too() {
    if !Uid::effective().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("runsc-rs");
    common::copy_program(&program);
    let config = include_str!("data/minimal.json")
        .replace("\"rootfs\"", "\"/\"")
        .replace(
            "\"/bin/true\"",
            "\"/bin/sh\", \"-c\", \"while :; do sleep 1; done\"",
        );
    fs::write(dir.path().join("config.json"), config).unwrap();
    let call = |args: &[&str]| {
        let out = File::create(dir.path().join("out")).unwrap();
        let status = Command::new(&program)
            .arg("--root")
            .arg(dir.path().join("state"))
            .args(args)
            .current_dir(dir.path())
            .uid(12345)
            .gid(12345)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .status();
        let text = fs::read_to_string(dir.path().join("out")).unwrap();
        (status.unwrap().code(), text)
    };
    let ok = |args: &[&str]| {
        let (code, text) = call(args);
        assert_eq!(code, Some(0), "{args:?}: {text}");
        text
    };
    ok(&["create", "c"]);
    ok(&["start", "c"]);
    assert_eq!(ok(&["exec", "c", "/usr/bin/id", "-u"]), "0\n");
    assert_eq!(ok(&["list", "-q"]), "c\n");
    ok(&["pause", "c"]);
    ok(&["resume", "c"]);
    let state: Value = serde_json::from_str(&ok(&["state", "c"])).unwrap();
    assert_eq!(state["status"], "running");
    let pid = state["pid"].to_string();
    assert!(Path::new("/proc").join(&pid).exists());
    ok(&["kill", "c", "KILL"]);
    wait_for("its end", || {
        ok(&["state", "c"]).contains("stopped").then_some(())
    });
    ok(&["delete", "c"]);
    assert_eq!(call(&["state", "c"]).0, Some(1));
}
