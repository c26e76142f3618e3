//! What the sections of `config.json` mean inside.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::{command, config, run};
use serde_json::{Value, json};

/// Stdout of a container that must end well.
fn said(config: &Value) -> String {
    let (code, stdout, stderr) = run(config);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    stdout
}

/// Names of all system calls that Linux has on this architecture.
fn calls() -> Vec<String> {
    let output = command(&["syscalls", "--format", "json"]).output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows.as_array().or_else(|| rows["syscalls"].as_array());
    let names = rows
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap());
    names.map(String::from).collect()
}

#[test]
fn a_seccomp_profile_is_applied_to_the_guest() {
    let mut config = config(
        "mkdir /tmp/a 2>&1; chmod 700 /; echo $?; sh -c 'rm /nothing'; echo $?; \
         grep Seccomp: /proc/self/status; umask 0; echo $((1 + 1))",
    );
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18},
            {"names": ["fchmodat", "chmod"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["unlinkat", "unlink"], "action": "SCMP_ACT_TRAP"},
        ],
    });
    let said = said(&config);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("Invalid cross-device link"), "{said}");
    assert_eq!(lines[1..], ["159", "159", "Seccomp:\t2", "2"], "{said}");
}

#[test]
fn a_seccomp_profile_may_be_a_list_of_what_is_allowed() {
    let mut names = calls();
    names.retain(|name| !name.starts_with("mkdir") && name != "clone3");
    let mut config = config("mkdir /tmp/a 2>&1; ls -d /proc | cat; date +%Y >/dev/null && echo ok");
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    });
    let said = said(&config);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("Operation not permitted"), "{said}");
    assert_eq!(lines[1..], ["/proc", "ok"], "{said}");
}

#[test]
fn seccomp_that_cannot_be_done_is_refused_by_name() {
    let mut config = config("echo not reached");
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    let (code, stdout, stderr) = run(&config);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(
        stderr.contains("linux.seccomp: defaultAction: SCMP_ACT_NOTIFY"),
        "{stderr}"
    );
}
