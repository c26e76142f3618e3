//! The cases in our own sandbox: what passes on Linux passes there, on every platform, but for
//! what `expected-failures.txt` lists.

use std::fs::File;
use std::io::{Write, stderr};
use std::path::Path;
use std::process::Command;

/// Every platform of the product.
const PLATFORMS: &[&str] = &["systrap", "ptrace", "kvm"];

#[test]
fn cases_pass_in_the_sandbox() {
    let conformance = Path::new(env!("CARGO_BIN_EXE_conformance"));
    let runsc = conformance.with_file_name("runsc-rs");
    assert!(
        runsc.exists(),
        "{} is missing: run the tests of the whole workspace (cargo test --workspace)",
        runsc.display()
    );
    for platform in PLATFORMS.iter().filter(|platform| is_possible(platform)) {
        let status = Command::new(conformance)
            .args(["run", "--platform", platform, "--runsc"])
            .arg(&runsc)
            .args([
                "--expected",
                concat!(env!("CARGO_MANIFEST_DIR"), "/expected-failures.txt"),
            ])
            .status()
            .unwrap();
        assert!(
            status.success(),
            "unexpected results on {platform}, see above"
        );
    }
}

/// Whether this machine has what the platform needs; if not, that is said loudly.
fn is_possible(platform: &str) -> bool {
    const DEVICE: &str = "/dev/kvm";
    if platform != "kvm" {
        return true;
    }
    let device = File::options().read(true).write(true).open(DEVICE);
    if let Err(error) = &device {
        // Not eprintln: the test harness would swallow it for a test that passes.
        let _ = writeln!(stderr(), "SKIPPED: platform {platform}: {DEVICE}: {error}");
    }
    device.is_ok()
}
