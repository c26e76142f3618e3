//! Every case must hold on the Linux that runs this test, before any sandbox is asked.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

const CASES: &str = env!("CARGO_BIN_EXE_cases");

/// No case may fail, and a fair number must really have run.
fn check(output: &Output, at_least: usize) {
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = text.lines().filter(|l| l.starts_with("FAIL ")).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(output.status.success(), "{:?}", output.status);
    assert!(
        text.ends_with("DONE\n"),
        "the run broke off: {:?}",
        text.lines().last()
    );
    let passed = text.lines().filter(|l| l.starts_with("PASS ")).count();
    assert!(passed >= at_least, "only {passed} cases passed");
}

#[test]
fn all_cases_pass_on_this_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(CASES);
    let output = command
        .args(["run", "--all", "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    check(&output, 300);
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "the cases left something behind");
}

#[test]
fn all_cases_pass_as_an_ordinary_user() {
    if !is_root() {
        // The other test is this one then.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path(), 0o755);
    let program = dir.path().join("cases");
    std::fs::copy(CASES, &program).unwrap();
    let scratch = dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    open_to_all(&scratch, 0o777);
    let mut command = Command::new(program);
    command
        .args(["run", "--all", "--dir"])
        .arg(&scratch)
        .uid(12345)
        .gid(12345);
    check(&command.output().unwrap(), 290);
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
}

#[test]
fn one_case_answers_by_exit_status() {
    let status = |words: &[&str]| {
        Command::new(CASES)
            .args(words)
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(status(&["run", "open.enoent"]), Some(0));
    assert_eq!(status(&["run", "no.such_case"]), Some(2));
    assert_eq!(status(&["run"]), Some(2));
}

#[test]
fn the_list_is_json() {
    let output = Command::new(CASES)
        .args(["list", "--json"])
        .output()
        .unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(rows.len() >= 200);
    for row in &rows {
        for key in ["name", "man", "promise"] {
            assert!(
                row[key].as_str().is_some_and(|text| !text.is_empty()),
                "{row}"
            );
        }
    }
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
