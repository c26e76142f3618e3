//! The processes of a sandbox: what they find around themselves, and how they end together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use common::{PROGRAM, command, outcome};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use serde_json::{Value, json};

fn check(found: &Value) {
    assert_eq!(found["pid"], 1);
    assert_eq!(found["parent"], 0, "the parent is in another pid namespace");
    assert_eq!(found["session"], 1, "signals of the terminal do not arrive");
    assert_eq!(found["root"], json!([]));
    assert_eq!(found["create_error"], "Read-only file system (os error 30)");
    assert_eq!(found["capabilities"], json!([]));
    assert_eq!(found["no_new_privs"], true);
    assert_eq!(found["dumpable"], false);
    assert_eq!(found["kill_with_parent"], true);
    assert_eq!(found["interfaces"], json!(["lo"]));
}

fn surroundings(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let (code, stderr) = outcome(&output);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_sentry_finds_nothing() {
    let found = surroundings(command(&["debug", "surroundings"]));
    check(&found);
    // 0 to 2 and five sorts of fds: control (twice, one to report a failed start), four channels,
    // the guest's stdio, the log (twice), and the directory being listed.
    let fds = found["fds"].as_array().unwrap().len();
    assert!(fds <= 3 + 2 + 4 + 3 + 2 + 1, "{}", found["fds"]);
    if Uid::effective().is_root() {
        assert_eq!(
            (&found["uid"], &found["groups"]),
            (&json!(65534), &json!([]))
        );
    }
}

#[test]
fn an_ordinary_user_gets_the_same() {
    if !Uid::effective().is_root() {
        // Then the other test has shown it.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("runsc-rs");
    common::copy_program(&program);
    let mut command = Command::new(program);
    command
        .args(["debug", "surroundings"])
        .uid(12345)
        .gid(12345)
        .current_dir("/");
    let found = surroundings(command);
    check(&found);
    assert_eq!(found["uid"], 12345);
}

/// A sandbox whose Sentry waits for a signal.
struct Held {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
}

impl Held {
    fn start() -> Self {
        let mut command = command(&["debug", "surroundings", "--hold"]);
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = child.stderr.take().unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with('{'), "{line}");
        Self {
            child,
            stdout,
            stderr,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// The process of that name among the command's children; names come with the start.
    fn part(&self, name: &str) -> Pid {
        let pid = self.child.id();
        let has_name = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(path).unwrap();
            let mut pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
            if let Some(pid) = pids.find(has_name) {
                return Pid::from_raw(pid);
            }
            assert!(Instant::now() < deadline, "no {name}");
            std::thread::yield_now();
        }
    }

    /// Waits for the end of all processes: the Sentry holds stdout open, all of them stderr.
    fn end(mut self) -> (Option<i32>, String) {
        self.stdout.read_to_end(&mut Vec::new()).unwrap();
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

impl Drop for Held {
    /// A test that fails leaves nothing behind either.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn signals_are_passed_on() {
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        let held = Held::start();
        kill(held.pid(), signal).unwrap();
        assert_eq!(held.end(), (Some(128 + signal as i32), String::new()));
    }
}

#[test]
fn control_c_arrives_once_and_from_the_terminal() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = Command::new("/usr/bin/setsid");
    command.args(["--ctty", "--wait", PROGRAM, "--debug"]);
    command.args(["debug", "surroundings", "--hold"]);
    command
        .stdin(pty.slave)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    fs::File::from(pty.master.try_clone().unwrap())
        .write_all(b"\x03")
        .unwrap();
    let mut log = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert_eq!(
        child.wait().unwrap().code(),
        Some(128 + libc::SIGINT),
        "{log}"
    );
    assert_eq!(log.matches("signal 2 becomes").count(), 1, "{log}");
    assert!(log.contains("target: Foreground"), "{log}");
}

#[test]
fn nothing_survives_the_command() {
    let held = Held::start();
    let parts = ["runsc-gofer", "runsc-sentry"].map(|name| held.part(name));
    kill(held.pid(), Signal::SIGKILL).unwrap();
    assert_eq!(held.end(), (None, String::new()));
    for part in parts {
        // Its fds are closed, its death is a moment away. A zombie waits for init only.
        let is_alive = || {
            let stat = fs::read_to_string(format!("/proc/{part}/stat")).unwrap_or_default();
            !(stat.is_empty() || stat.contains(") Z ") || stat.contains(") X "))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_alive() {
            assert!(Instant::now() < deadline, "process {part} lives on");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_dead_part_is_named() {
    for part in ["gofer", "sentry"] {
        let held = Held::start();
        kill(held.part(&format!("runsc-{part}")), Signal::SIGKILL).unwrap();
        let line = format!("runsc-rs: debug: {part} died unexpectedly: killed by SIGKILL\n");
        assert_eq!(held.end(), (Some(1), line));
    }
}

#[test]
fn closed_stdio_stays_closed() {
    let count = |redirection: &str| {
        let mut shell = Command::new("/bin/sh");
        let script = format!("exec \"$0\" debug surroundings {redirection}");
        shell.arg("-c").arg(script).arg(PROGRAM);
        surroundings(shell)["fds"].as_array().unwrap().len()
    };
    let open = count("");
    assert_eq!(count("</dev/null"), open);
    assert_eq!(count("<&-"), open - 1);
}
