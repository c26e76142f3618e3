//! The runner of whole programs as a user calls it, with stand-ins for runtimes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers may panic")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use runsc_benches::programs::JOBS;
use serde_json::{Value, json};
use tempfile::TempDir;

/// One round of small jobs; directories and the JSON file are in `work`.
fn run(work: &Path, arguments: &[&str]) -> Output {
    let scratch = work.join("scratch");
    fs::create_dir_all(&scratch).unwrap();
    Command::new(env!("CARGO_BIN_EXE_programs"))
        .args(["--rounds", "1", "--size", "small", "--limit-s", "30"])
        .arg("--work-dir")
        .arg(work)
        .arg("--scratch-dir")
        .arg(&scratch)
        .arg("--json")
        .arg(work.join("out.json"))
        .args(arguments)
        .output()
        .unwrap()
}

fn report(work: &Path, output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_str(&fs::read_to_string(work.join("out.json")).unwrap()).unwrap()
}

fn row<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name)
}

fn script(work: &TempDir, name: &str, body: &str) -> String {
    let path = work.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_string()
}

/// Not eprintln: the test harness would swallow it for a test that passes.
fn say(message: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{message}").unwrap();
}

#[test]
fn every_job_runs_or_says_what_it_needs() {
    let work = tempfile::tempdir().unwrap();
    let output = run(
        work.path(),
        &["--runtimes", "native,ours", "--ours-command", "env"],
    );
    let report = report(work.path(), &output);
    let skipped = report["skipped"].as_array().unwrap();
    for job in JOBS {
        let rows: Vec<_> = job
            .rows()
            .iter()
            .filter_map(|name| row(&report, name))
            .collect();
        if rows.len() == job.rows().len() {
            for (row, runtime) in rows.iter().flat_map(|row| [(row, "native"), (row, "ours")]) {
                assert!(
                    row["cells"][runtime]["median"].as_f64().unwrap() > 0.0,
                    "{row}"
                );
            }
            continue;
        }
        let entry = skipped.iter().find(|entry| entry[0] == job.name).unwrap();
        let reason = entry[1].as_str().unwrap();
        assert!(reason.starts_with("there is no "), "{}: {reason}", job.name);
        say(&format!("SKIPPED job {}: {reason}", job.name));
    }
    // Nothing was left behind, and the work was the same.
    assert_eq!(report["remarks"], json!([]));
    let left: Vec<_> = fs::read_dir(work.path().join("scratch")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn jobs_that_fail_or_do_less_show() {
    let work = tempfile::tempdir().unwrap();
    let idle = script(&work, "idle", "[ $# = 1 ] || echo nothing done");
    let broken = script(
        &work,
        "broken",
        "[ $# = 1 ] || { echo out of order >&2; exit 3; }",
    );
    let output = run(
        work.path(),
        &[
            "--jobs",
            "shell_loop",
            "--runtimes",
            "native,ours,broken",
            "--ours-command",
            &idle,
            "--extra",
            &format!("broken={broken}"),
        ],
    );
    let report = report(work.path(), &output);
    let expected = "shell_loop prints \"nothing done\" under ours, natively \"10 processes\"";
    assert_eq!(report["remarks"], json!([expected]));
    let cell = &row(&report, "shell_loop").unwrap()["cells"]["broken"];
    assert_eq!(
        cell["failures"],
        json!(["exit status: 3: out of order"]),
        "{cell}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("failed"), "{text}");
}

#[test]
fn programs_see_their_directory_and_no_foreign_environment() {
    let work = tempfile::tempdir().unwrap();
    let log = work.path().join("log");
    let body = format!("{{ pwd; env; }} > {}; exec \"$@\"", log.display());
    let recorder = script(&work, "recorder", &body);
    let output = run(
        work.path(),
        &[
            "--jobs",
            "true",
            "--runtimes",
            "ours",
            "--ours-command",
            &recorder,
        ],
    );
    let report = report(work.path(), &output);
    assert!(row(&report, "true").is_some());
    let log = fs::read_to_string(log).unwrap();
    let directory = log.lines().next().unwrap();
    let scratch = work.path().join("scratch");
    assert!(Path::new(directory).starts_with(scratch), "{log}");
    for variable in ["HOME", "TMPDIR"] {
        assert!(log.contains(&format!("{variable}={directory}\n")), "{log}");
    }
    assert!(!log.contains("CARGO"), "{log}");
}

#[test]
fn runc_runs_programs_of_the_host_or_is_skipped() {
    let work = tempfile::tempdir().unwrap();
    let output = run(
        work.path(),
        &["--jobs", "shell_loop", "--runtimes", "native,runc"],
    );
    let report = report(work.path(), &output);
    if report["skipped"] != json!([]) {
        say(&format!("SKIPPED runc: {}", report["skipped"][0][1]));
        return;
    }
    let cell = &row(&report, "shell_loop").unwrap()["cells"]["runc"];
    assert!(cell["median"].as_f64().unwrap() > 0.0, "{cell}");
    assert_eq!(report["remarks"], json!([]));
}

#[test]
fn unknown_jobs_are_refused_and_known_ones_listed() {
    let work = tempfile::tempdir().unwrap();
    for arguments in [
        &["--jobs", "nope"][..],
        &["--runtimes", "nope"],
        &["--rounds", "0"],
    ] {
        let output = run(work.path(), arguments);
        assert!(!output.status.success(), "{arguments:?}");
    }
    let list = run(work.path(), &["--list"]).stdout;
    let names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
    assert_eq!(
        String::from_utf8(list).unwrap().lines().collect::<Vec<_>>(),
        names
    );
}
