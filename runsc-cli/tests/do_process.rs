//! The process that `do` starts, beside those that its caller would have started natively.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use common::{PROGRAM, command, outcome};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a shell script says, with `$SANDBOX` before commands that run in one.
fn said(script: &str) -> String {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .env("SANDBOX", format!("{PROGRAM} do --"));
    let output = shell.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{:?}", outcome(&output));
    text
}

/// Blocked and ignored signals, without the two that the C library keeps for itself.
fn signal_sets(text: &str) -> Vec<u64> {
    let sets = text.lines().map(|line| line.split_whitespace().last());
    let sets = sets.map(|set| u64::from_str_radix(set.unwrap(), 16).unwrap());
    sets.map(|set| set & !(0b11 << 31)).collect()
}

#[test]
fn ignored_and_blocked_signals_are_passed_on() {
    for (env, blocked, ignored) in [
        ("", 0, 0),
        (
            "env --ignore-signal=INT --ignore-signal=HUP --ignore-signal=PIPE",
            0,
            1 << 1 | 1 | 1 << 12,
        ),
        (
            "env --ignore-signal=RTMIN --ignore-signal=CHLD --block-signal=USR2",
            1 << 11,
            1 << 33 | 1 << 16,
        ),
        (
            "env --block-signal=TERM --block-signal=USR1 --block-signal=RTMAX",
            1 << 14 | 1 << 9 | 1 << 63,
            0,
        ),
    ] {
        let status = "grep -E '^Sig(Ign|Blk)' /proc/self/status";
        let expected = [blocked, ignored];
        assert_eq!(
            signal_sets(&said(&format!("exec {env} {status}"))),
            expected
        );
        let inside = signal_sets(&said(&format!("exec {env} $SANDBOX {status}")));
        assert_eq!(inside, expected, "{env}");
    }
}

#[test]
fn nohup_works_outside() {
    let mut command = Command::new("env");
    command.args(["--ignore-signal=HUP", PROGRAM, "do", "--", "sh", "-c"]);
    command.arg("echo ready; read line; echo $line");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(output.next().unwrap().unwrap(), "ready");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGHUP).unwrap();
    child.stdin.take().unwrap().write_all(b"alive\n").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "alive");
    assert!(child.wait().unwrap().success());
}

/// It is nobody's program: signals do nothing to it, and it takes care of orphans.
#[test]
fn there_is_a_process_one() {
    let script = "\
        set -e; cat /proc/1/comm /proc/1/cmdline; grep -E '^(PPid|State|Threads)' /proc/1/status; \
        test $PPID = 1; ls /proc | grep -x 1; kill -0 1; kill -9 1; kill -STOP 1; kill -HUP 1; \
        ps -p 1 -o pid=,ppid=,stat=,comm= | tr -s ' '; grep PPid /proc/self/status | cut -f2 | grep -qx $$; \
        cd /tmp; mkfifo p q; \
        (sh -c 'read x <p; grep PPid /proc/$$/status >q; exec 3<p; :' &) ; echo >p; cat q; \
        kill -TERM 0; echo not reached";
    let output = command(&["do", "--", "sh", "-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "init\nState:\tS (sleeping)\nPPid:\t0\nThreads:\t1\n1\n 1 0 Ss init\nPPid:\t1\n";
    // A job like any other: what it does not handle ends it.
    assert_eq!(
        (outcome(&output), text.as_str()),
        ((Some(143), String::new()), expected)
    );
}
