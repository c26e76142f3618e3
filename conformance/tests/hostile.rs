//! Random system calls in our own sandbox: it survives them, and says nothing.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Of each, the same calls in every run; about four seconds each.
const SEEDS: std::ops::Range<u64> = 101..108;

#[test]
fn the_sandbox_survives_random_calls() {
    survives(&[]);
}

/// The same where the guest's memory is mapped by page tables of ours.
#[test]
fn the_sandbox_survives_random_calls_on_kvm() {
    const DEVICE: &str = "/dev/kvm";
    let device = File::options().read(true).write(true).open(DEVICE);
    if let Err(error) = device {
        // Not eprintln: the test harness would swallow it for a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: on kvm: {DEVICE}: {error}");
        return;
    }
    survives(&["--platform=kvm"]);
}

fn survives(options: &[&str]) {
    let hostile = env!("CARGO_BIN_EXE_hostile");
    let runsc = Path::new(hostile).with_file_name("runsc-rs");
    assert!(
        runsc.exists(),
        "{} is missing: run the tests of the whole workspace (cargo test --workspace)",
        runsc.display()
    );
    // The first two seeds found a panic and a fatal report each.
    for (seed, family) in SEEDS.zip(
        ["process", "process"]
            .into_iter()
            .chain(std::iter::repeat("")),
    ) {
        let mut command = Command::new("timeout");
        command
            .args(["--signal=KILL", "240"])
            .arg(&runsc)
            .args(options)
            .args(["do", "--", hostile]);
        command.args([
            "--spoil-this-machine",
            "--count",
            "12",
            "--calls",
            "150",
            "--seed",
            &seed.to_string(),
        ]);
        if !family.is_empty() {
            command.args(["--family", family]);
        }
        let output = command.output().unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(
            !report.contains("runsc-rs:"),
            "seed {seed} {family}: {report}"
        );
        assert!(
            output.status.success(),
            "seed {seed} {family}: {} {report}",
            output.status
        );
    }
}
