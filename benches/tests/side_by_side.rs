//! The runner as a user calls it, with stand-ins for runtimes.

#![allow(clippy::unwrap_used, reason = "test helpers may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(work: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_side-by-side"))
        .args([
            "--rounds",
            "2",
            "--budget-ms",
            "1",
            "--rows",
            "getpid,stat",
            "--work-dir",
        ])
        .arg(work)
        .args(arguments)
        .output()
        .unwrap()
}

fn script(directory: &Path, name: &str, body: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn columns_ratios_and_skipped_runtimes_are_reported() {
    let work = tempfile::tempdir().unwrap();
    let json = work.path().join("out.json");
    let markdown = work.path().join("out.md");
    let broken = script(work.path(), "broken", "echo no such platform >&2; exit 3");
    let output = run(
        work.path(),
        &[
            "--runtimes",
            "native,runsc,ours,broken",
            "--startups",
            "2",
            "--runsc-command",
            "env {}",
            "--ours-command",
            "env",
            "--extra",
            &format!("broken={broken}"),
            "--json",
            json.to_str().unwrap(),
            "--markdown",
            markdown.to_str().unwrap(),
        ],
    );
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");

    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(
        report["runtimes"],
        serde_json::json!(["native", "runsc", "ours"])
    );
    let skipped = "does not run here: exit status: 3: no such platform";
    assert_eq!(report["skipped"], serde_json::json!([["broken", skipped]]));
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "getpid",
            "stat",
            "startup_static",
            "startup_true",
            "memory_sleep"
        ]
    );
    for row in rows {
        assert!(row["ours_to_runsc"].as_f64().unwrap() > 0.0, "{row}");
        let per_round = if row["name"].as_str().unwrap().starts_with("startup") {
            2
        } else {
            1
        };
        for runtime in ["native", "runsc", "ours"] {
            let cell = &row["cells"][runtime];
            assert_eq!(
                cell["samples"].as_array().unwrap().len(),
                2 * per_round,
                "{row}"
            );
            assert!(cell["median"].as_f64().unwrap() > 0.0, "{row}");
        }
    }
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!("SKIPPED broken: {skipped}")),
        "{text}"
    );
    assert!(
        fs::read_to_string(markdown)
            .unwrap()
            .contains("\n| getpid | ")
    );
}

#[test]
fn what_a_runtime_leaves_behind_is_ended_and_reported() {
    let work = tempfile::tempdir().unwrap();
    let pid_file = work.path().join("pid");
    let leaver = script(
        work.path(),
        "leaver",
        &format!("sleep 1234 & echo $! > {}; exec \"$@\"", pid_file.display()),
    );
    let output = run(
        work.path(),
        &[
            "--runtimes",
            "ours",
            "--startups",
            "0",
            "--no-memory",
            "--ours-command",
            &leaver,
        ],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ours left a process behind: sleep"), "{text}");
    let pid = fs::read_to_string(pid_file).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn a_runtime_that_hangs_in_the_middle_fails_its_rows() {
    let work = tempfile::tempdir().unwrap();
    let hanger = script(
        work.path(),
        "hanger",
        "case \"$2\" in noop) exec \"$@\";; esac; exec sleep 1234",
    );
    let output = run(
        work.path(),
        &[
            "--runtimes",
            "ours",
            "--startups",
            "0",
            "--no-memory",
            "--limit-s",
            "1",
            "--ours-command",
            &hanger,
        ],
    );
    let text = String::from_utf8(output.stdout).unwrap();
    for row in ["getpid", "stat"] {
        let line = format!("FAILED {row} under ours: no figure, the run: did not end");
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn unknown_rows_and_runtimes_are_refused() {
    let work = tempfile::tempdir().unwrap();
    for arguments in [
        &["--rows", "nope"][..],
        &["--runtimes", "nope"],
        &["--rounds", "0"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_side-by-side"))
            .arg("--work-dir")
            .arg(work.path())
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
    }
}
