//! What the program tells about itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::command;
use serde_json::Value;

fn stdout(args: &[&str]) -> String {
    let output = command(args).output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn filters_are_listed() {
    let text = stdout(&["debug", "filters"]);
    assert!(
        text.contains("gofer: ") && text.contains("openat2("),
        "{text}"
    );
}

/// Where the clock is read by a system call (no vDSO, or a clock source that it cannot read), every
/// process of ours makes that call, whether it asks for the time itself or a library does.
#[test]
fn every_process_may_read_the_clock() {
    let text = stdout(&["debug", "filters"]);
    let mut processes = 0;
    for section in text.split("\n\n") {
        let (name, calls) = section.trim_start().split_once('\n').unwrap_or_default();
        if name.is_empty() || name.starts_with("stub") {
            continue;
        }
        processes += 1;
        assert!(calls.contains("  clock_gettime()"), "{name}");
    }
    assert!(processes >= 5, "{text}");
}

#[test]
fn system_calls_are_listed() {
    let text = stdout(&["syscalls"]);
    assert!(
        text.lines()
            .any(|line| line.trim_start().starts_with("0  read ")),
        "{text}"
    );
    let markdown = stdout(&["syscalls", "--format", "markdown"]);
    assert!(markdown.contains("| `openat` |"), "{markdown}");
    let json: Value = serde_json::from_str(&stdout(&["syscalls", "--format=json"])).unwrap();
    let all = json["syscalls"].as_array().unwrap().len();
    let levels = ["full", "partial", "none"].map(|level| {
        let text = stdout(&["syscalls", "--format", "json", "--level", level]);
        let json: Value = serde_json::from_str(&text).unwrap();
        let rows = json["syscalls"].as_array().unwrap();
        assert!(rows.iter().all(|row| row["level"] == level), "{level}");
        rows.len()
    });
    assert_eq!(levels.iter().sum::<usize>(), all);
}

#[test]
fn a_reader_may_stop_reading() {
    let script = format!("'{}' syscalls | head -1", common::PROGRAM);
    let output = std::process::Command::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// As dockerd and containerd's clients read it from any runtime.
#[test]
fn the_version_is_told_as_runc_tells_it() {
    let output = command(&["--version"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let features = command(&["features"]).output().unwrap();
    let features: serde_json::Value = serde_json::from_slice(&features.stdout).unwrap();
    let spec = features["ociVersionMax"].as_str().unwrap();
    let version = format!("runsc-rs version {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, [version, format!("spec: {spec}")]);
}
