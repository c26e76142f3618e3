//! Which platform a sandbox gets: by name, or by what was measured.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs::{self, DirBuilder},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    process::Command,
};

use common::{PROGRAM, command, config, outcome};
use nix::unistd::Uid;

/// Where the device of kvm can be opened, what is measured is kept, and what is kept is done.
#[test]
fn the_default_platform_is_measured_once() {
    let runtime = tempfile::tempdir().unwrap();
    let root = runtime.path().join("runsc-rs");
    DirBuilder::new().mode(0o700).create(&root).unwrap();
    let run = || {
        let guest = ["do", "--", "cat", "/proc/self/maps"];
        let mut command = command(&guest);
        if Uid::effective().is_root() {
            // Only this test is to see its directory in place of root's.
            command = Command::new("unshare");
            let script = "mkdir -p /run/runsc-rs && mount --bind $0 /run/runsc-rs && exec \"$@\"";
            command.args(["--mount", "sh", "-c", script]);
            command.arg(&root).arg(PROGRAM).args(guest);
        }
        command.env("XDG_RUNTIME_DIR", runtime.path());
        let output = command.output().unwrap();
        let (code, stderr) = outcome(&output);
        assert_eq!(code, Some(0), "{stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // The platform kvm shows the vDSO at an address of its own.
    let by_kvm = |maps: &str| maps.contains("\n7fffc0200000-");
    let maps = run();
    let kept = root.join("platform:");
    let device = fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = device {
        println!("!!! SKIPPED: /dev/kvm: {error}");
        assert!(!kept.exists() && !by_kvm(&maps));
        return;
    }
    let text = fs::read_to_string(&kept).unwrap();
    let choice = text.split_whitespace().next_back().unwrap();
    assert_eq!(choice == "kvm", by_kvm(&maps), "{text}");
    let rest = text.trim_end().strip_suffix(choice).unwrap();
    for (other, is_kvm) in [("kvm", true), ("none", false)] {
        fs::write(&kept, format!("{rest}{other}\n")).unwrap();
        assert_eq!(by_kvm(&run()), is_kvm, "{other}");
    }
    // Of another boot or another device, or not what we write, it is measured again.
    let words: Vec<&str> = text.split_whitespace().collect();
    let (version, boot, device) = (words[0], words[1], words[2]);
    for stale in [
        format!("0.0.0 {boot} {device} kvm\n"),
        format!("{version} another-boot {device} kvm\n"),
        format!("{version} {boot} 1:{device} kvm\n"),
        format!("{rest}kvm").repeat(100_000),
        String::new(),
    ] {
        fs::write(&kept, stale).unwrap();
        let maps = run();
        // Not always with the same outcome, but with that one's platform.
        let now = fs::read_to_string(&kept).unwrap();
        let choice = now.trim_end().strip_prefix(rest);
        let choice = choice.unwrap_or_else(|| panic!("{now:?} instead of {text:?}"));
        assert!(["kvm", "systrap", "none"].contains(&choice), "{now}");
        assert_eq!(by_kvm(&maps), choice == "kvm", "{now}");
    }
}

#[test]
fn platforms_are_measured() {
    let output = command(&["debug", "platforms"]).output().unwrap();
    let (code, stderr) = outcome(&output);
    assert_eq!(code, Some(0), "{stderr}");
    let text = String::from_utf8_lossy(&output.stdout);
    for name in ["systrap", "ptrace", "kvm", "default"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
    }
    let choice = command(&["debug", "platforms", "--choose"])
        .output()
        .unwrap();
    let choice = String::from_utf8_lossy(&choice.stdout);
    assert!(["systrap\n", "kvm\n"].contains(&&*choice), "{choice}");
}

#[test]
fn a_device_that_is_not_kvm_is_refused() {
    if !Uid::effective().is_root() || !Path::new("/dev/kvm").exists() {
        // Not eprintln: the test harness would swallow it for a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no /dev/kvm, or not root");
        return;
    }
    let script = "mount --bind /dev/null /dev/kvm && exec $0 --platform=kvm do -- true";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, PROGRAM])
        .output()
        .unwrap();
    let (code, stderr) = outcome(&output);
    assert_ne!(code, Some(0));
    let expected = "platform kvm: /dev/kvm: version 12 of its interface is missing\n";
    assert!(stderr.ends_with(expected), "{stderr}");
}

/// What was measured once need not hold for this start: then another platform is taken, with one
/// warning. What was asked for by name is not replaced.
#[test]
fn a_measured_choice_that_fails_is_replaced() {
    if !Uid::effective().is_root() || !Path::new("/dev/kvm").exists() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no /dev/kvm, or not root");
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    let null = fs::metadata("/dev/null").unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let choice = format!(
        "{} {} {}:{} kvm\n",
        env!("CARGO_PKG_VERSION"),
        boot.trim(),
        null.dev(),
        null.ino()
    );
    fs::write(kept.path().join("platform:"), choice).unwrap();
    let bundle = tempfile::tempdir().unwrap();
    let spec = config("echo $((6 * 7)); id -u");
    fs::write(bundle.path().join("config.json"), spec.to_string()).unwrap();
    let bundle = bundle.path().to_str().unwrap();
    // With the device covered, kvm was the choice, and it works no more.
    let run = |args: &[&str]| {
        let script = "mkdir -p /run/runsc-rs && mount --bind $0 /run/runsc-rs && \
                      mount --bind /dev/null /dev/kvm && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]);
        let output = command.arg(kept.path()).arg(PROGRAM).args(args).output();
        let output = output.unwrap();
        let (code, stderr) = outcome(&output);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        (code, stdout, stderr)
    };
    const WHY: &str = "platform kvm: /dev/kvm: version 12 of its interface is missing";
    let guest = ["do", "--", "sh", "-c", "echo $((6 * 7)); id -u"];
    let contained = ["run", "--bundle", bundle, "replaced"];
    for args in [&guest[..], &contained[..]] {
        let (code, stdout, stderr) = run(args);
        assert_eq!((code, &*stdout), (Some(0), "42\n0\n"), "{stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{stderr}");
        let warning = format!("{WHY}; it is systrap instead");
        assert!(lines[0].ends_with(&warning), "{stderr}");
        let named = [&["--platform=kvm"], args].concat();
        let (code, stdout, stderr) = run(&named);
        assert_ne!(code, Some(0));
        assert_eq!(stdout, "");
        assert!(stderr.trim_end().ends_with(WHY), "{stderr}");
    }
    // One that is created, too, for who waits for its log.
    let log = kept.path().join("log");
    let logged = ["--log", log.to_str().unwrap(), "--log-format=json"];
    let (code, _, stderr) = run(&[&logged[..], &contained[..]].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let log = fs::read_to_string(log).unwrap();
    let warned = log.lines().filter(|line| line.contains(WHY)).count();
    assert_eq!(warned, 1, "{log}");
    assert!(log.contains(r#""level":"warning""#), "{log}");
}
