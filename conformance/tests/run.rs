//! `conformance run` against runtimes that are not sandboxes: `env`, which behaves like
//! Linux, and scripts that make cases fail, crash and hang.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Setup {
    dir: tempfile::TempDir,
    expected: PathBuf,
}

impl Setup {
    fn new(expected: &str) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("expected.txt");
        std::fs::write(&file, expected).unwrap();
        Setup {
            dir,
            expected: file,
        }
    }

    /// A runtime that is this shell script; the command to run is `"$@"`.
    fn script(&self, body: &str) -> String {
        let path = self.dir.path().join("runtime");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    fn run(&self, runtime: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
        command.args(["run", "--runtime", runtime, "--filter", "symlink.*"]);
        command.arg("--expected").arg(&self.expected).args(more);
        command.output().unwrap()
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A sed command between the cases and the runner: some results change on their way.
const LYING: &str = "\"$@\" | sed 's/^PASS symlink.mode$/FAIL symlink.mode: expected 1, got 2/'";

#[test]
fn a_runtime_that_is_linux_has_no_differences() {
    let setup = Setup::new("");
    let output = setup.run("env", &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("0 unexpected results"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_failure_fails_the_run_and_says_why() {
    let setup = Setup::new("");
    let runtime = setup.script(LYING);
    let report = setup.dir.path().join("report.json");
    let output = setup.run(&runtime, &["--json", report.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("expected 1, got 2"),
        "{}",
        text(&output)
    );
    assert!(
        text(&output).contains("1 unexpected results"),
        "{}",
        text(&output)
    );
    let report = json(&report);
    assert_eq!(report["ok"], false);
    let rows = report["rows"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["name"] == "symlink.mode")
        .unwrap();
    assert_eq!(row["native"]["status"], "pass");
    assert_eq!(row["platforms"]["systrap"]["status"], "fail");
    assert_eq!(row["platforms"]["systrap"]["verdict"], "unexpected-failure");
}

#[test]
fn an_expected_failure_does_not_fail_the_run() {
    let setup = Setup::new("symlink.mode  s*  links have odd modes here\n");
    let runtime = setup.script(LYING);
    let output = setup.run(&runtime, &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("links have odd modes here"),
        "{}",
        text(&output)
    );
    // On another platform the line says nothing.
    let output = setup.run(&runtime, &["--platform", "kvm"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn an_unexpected_pass_fails_the_run() {
    let setup = Setup::new("symlink.mode * was broken once\n");
    let output = setup.run("env", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("listed as failing"),
        "{}",
        text(&output)
    );
}

#[test]
fn an_unknown_name_in_the_list_fails_the_run() {
    let setup = Setup::new("symlink.nonsense * typo\n");
    let output = setup.run("env", &[]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(
        text(&output).contains("symlink.nonsense"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_crash_loses_one_case_only() {
    let setup = Setup::new("");
    // The first start dies when it comes to one case; later ones are healthy.
    let body = "mark=$0.crashed\n\
        if [ -e \"$mark\" ]; then exec \"$@\"; fi\n\
        \"$@\" | while read -r line; do\n\
          echo \"$line\"\n\
          if [ \"$line\" = 'START symlink.mode' ]; then : > \"$mark\"; echo 'kernel bug' >&2; exit 3; fi\n\
        done\n\
        [ -e \"$mark\" ] && kill -KILL $$";
    let runtime = setup.script(body);
    let report = setup.dir.path().join("report.json");
    let output = setup.run(&runtime, &["--json", report.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report = json(&report);
    assert_eq!(report["counts"]["systrap"]["crash"], 1, "{}", text(&output));
    assert_eq!(
        report["counts"]["systrap"]["pass"].as_u64().unwrap() + 1,
        report["counts"]["native"]["pass"].as_u64().unwrap()
    );
    assert!(text(&output).contains("kernel bug"), "{}", text(&output));
}

#[test]
fn a_hang_loses_one_case_only() {
    let setup = Setup::new("");
    let body = "mark=$0.hung\n\
        if [ -e \"$mark\" ]; then exec \"$@\"; fi\n\
        \"$@\" | while read -r line; do\n\
          echo \"$line\"\n\
          if [ \"$line\" = 'START symlink.mode' ]; then : > \"$mark\"; exec sleep 1000; fi\n\
        done";
    let runtime = setup.script(body);
    let report = setup.dir.path().join("report.json");
    let more = [
        "--timeout",
        "5",
        "--grace",
        "1",
        "--json",
        report.to_str().unwrap(),
    ];
    let output = setup.run(&runtime, &more);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report = json(&report);
    assert_eq!(report["counts"]["systrap"]["hang"], 1, "{}", text(&output));
    assert_eq!(report["counts"]["systrap"]["crash"], 0, "{}", text(&output));
    let rows = report["rows"].as_array().unwrap();
    let row = rows
        .iter()
        .find(|row| row["name"] == "symlink.mode")
        .unwrap();
    assert_eq!(row["platforms"]["systrap"]["status"], "hang");
}

#[test]
fn a_runtime_that_never_starts_is_reported_once_a_case() {
    let setup = Setup::new("");
    let runtime = setup.script("echo 'no such platform' >&2; exit 4");
    let output = setup.run(&runtime, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("exit 4: no such platform"),
        "{}",
        text(&output)
    );
    let output = setup.run("/does/not/exist", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("cannot start /does/not/exist"),
        "{}",
        text(&output)
    );
}

#[test]
fn one_sandbox_for_each_case() {
    let setup = Setup::new("");
    let runtime = setup.script("echo x >> \"$0.starts\"; exec \"$@\"");
    let output = setup.run(&runtime, &["--one-per-sandbox", "--jobs", "2", "-v"]);
    assert!(output.status.success(), "{}", text(&output));
    let starts = std::fs::read_to_string(format!("{runtime}.starts"))
        .unwrap()
        .lines()
        .count();
    let shown = text(&output)
        .lines()
        .filter(|l| l.starts_with("symlink."))
        .count();
    assert_eq!(starts, shown);
    assert!(starts > 3);
}

#[test]
fn several_platforms_stand_side_by_side() {
    let setup = Setup::new("");
    let output = setup.run(
        "env PLATFORM={platform}",
        &["--platform", "a", "--platform", "b"],
    );
    assert!(output.status.success(), "{}", text(&output));
    for line in ["native: ", "a: ", "b: "] {
        assert!(
            text(&output).lines().any(|l| l.starts_with(line)),
            "{}",
            text(&output)
        );
    }
    let output = setup.run("env", &["--platform", "a", "--platform", "b"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
