//! Unusable input: one line that says what, where and why, the right exit status, nothing left.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{Bundle, command, outcome};
use nix::fcntl::{Flock, FlockArg};

const MINIMAL: &str = include_str!("data/minimal.json");

/// Runs the bundle as container `c`; returns the line with the bundle's path taken out.
fn refused(bundle: &Bundle, id: &str) -> String {
    let output = bundle.run(id).output().unwrap();
    let (code, stderr) = outcome(&output);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    let line = stderr.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n'), "more than one line: {line}");
    assert_eq!(bundle.left_behind(), Vec::<String>::new());
    line.replace(&bundle.path.display().to_string(), "BUNDLE")
}

/// What is no file is not waited for, and of one that is no end of, whatever its size, no more is
/// read than a configuration may have.
#[test]
fn configurations_without_end() {
    let limit = 16 << 20;
    type Make = fn(&std::path::Path, u64);
    let cases: [(Make, &str); 4] = [
        (
            |path, _| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "not a file",
        ),
        (
            |path, _| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
            "not a file",
        ),
        (
            |path, limit| fs::File::create(path).unwrap().set_len(limit + 1).unwrap(),
            "larger than 16777216 bytes",
        ),
        // Its size is 0, but there are eight bytes for each page of the address space. Only whole ones
        // can be read: the byte behind the limit cannot.
        (
            |path, _| std::os::unix::fs::symlink("/proc/self/pagemap", path).unwrap(),
            "Invalid argument (os error 22)",
        ),
    ];
    for (make, expected) in cases {
        let bundle = Bundle::new(None);
        make(&bundle.path.join("config.json"), limit);
        let line = refused(&bundle, "c");
        assert_eq!(
            line,
            format!("runsc-rs: run: BUNDLE/config.json: {expected}")
        );
    }
}

#[test]
fn configurations() {
    let process = r#""args": ["/bin/true"]"#;
    let cases: &[(&str, &str, &str)] = &[
        (
            "\"root\"",
            "root",
            "BUNDLE/config.json: line 3, column 3: key must be a string",
        ),
        (
            process,
            "\"args\": []",
            "BUNDLE/config.json: process.args: must not be empty",
        ),
        (
            "rootfs",
            "missing",
            "BUNDLE/config.json: root.path: BUNDLE/missing: No such file or directory (os error 2)",
        ),
        (
            "\"process\"",
            r#""mounts": [{"destination": "/x", "type": "floppy"}], "process""#,
            "BUNDLE/config.json: mounts[0] (/x): type: \"floppy\" is unknown",
        ),
        (
            process,
            r#""args": ["sh"], "terminal": true"#,
            "config.json: process.terminal: stdin is not a terminal",
        ),
    ];
    for (from, to, expected) in cases {
        assert!(MINIMAL.contains(from), "{from}");
        let bundle = Bundle::new(Some(&MINIMAL.replacen(from, to, 1)));
        assert_eq!(refused(&bundle, "c"), format!("runsc-rs: run: {expected}"));
    }
}

#[test]
fn no_configuration() {
    let bundle = Bundle::new(None);
    let expected = "runsc-rs: run: BUNDLE/config.json: No such file or directory (os error 2)";
    assert_eq!(refused(&bundle, "c"), expected);
    let output = command(&["run", "--bundle", "/no/such/bundle", "c"])
        .output()
        .unwrap();
    let line = "runsc-rs: run: bundle: /no/such/bundle: No such file or directory (os error 2)\n";
    assert_eq!(outcome(&output), (Some(1), line.into()));
}

#[test]
fn ids() {
    let bundle = Bundle::new(Some(MINIMAL));
    for id in ["a/b", "..", "a b", ""] {
        let line = refused(&bundle, id);
        assert!(line.starts_with("runsc-rs: run: container id: "), "{line}");
    }
}

#[test]
fn an_id_in_use() {
    let bundle = Bundle::new(Some(MINIMAL));
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(bundle.state().join("c"))
        .unwrap();
    let lock = fs::File::create(bundle.state().join("c/lock")).unwrap();
    let lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .unwrap();
    let output = bundle.run("c").output().unwrap();
    let expected = "runsc-rs: run: container id: c: already in use\n";
    assert_eq!(outcome(&output), (Some(1), expected.into()));
    // What is in use stays, and is taken over once its owner is dead.
    assert_eq!(bundle.left_behind(), ["c"]);
    drop(lock);
    bundle.run("c").output().unwrap();
    assert_eq!(bundle.left_behind(), Vec::<String>::new());
}

#[test]
fn state_directories() {
    let bundle = Bundle::new(Some(MINIMAL));
    fs::write(bundle.state(), "").unwrap();
    let output = bundle.run("c").output().unwrap();
    let (code, stderr) = outcome(&output);
    assert_eq!(code, Some(1));
    let start = format!(
        "runsc-rs: run: state directory: {}: ",
        bundle.state().display()
    );
    assert!(stderr.starts_with(&start), "{stderr}");
}

#[test]
fn usage() {
    for args in [
        &["run"][..],
        &["do"],
        &["fly"],
        &["do", "--platform=steam", "--", "true"],
    ] {
        let (code, stderr) = outcome(&command(args).output().unwrap());
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
    }
    let cases: &[(&[&str], &str)] = &[
        (
            &["--user", "me"],
            "--user: \"me\": must be UID or UID:GID, in digits",
        ),
        (&["--env", "X"], "--env: \"X\": must be NAME=VALUE"),
        (
            &["--debug-log", "/no/such/log"],
            "log file: /no/such/log: No such file or directory",
        ),
    ];
    for (options, expected) in cases {
        let mut command = command(&["do"]);
        command.args(*options).args(["--", "true"]);
        let (code, stderr) = outcome(&command.output().unwrap());
        assert_eq!(code, Some(1), "{options:?}");
        assert!(
            stderr.starts_with(&format!("runsc-rs: do: {expected}")),
            "{stderr}"
        );
    }
}

#[test]
fn hidden_commands_are_not_for_users() {
    for name in ["gofer", "sentry", "monitor", "attendant"] {
        let expected =
            format!("runsc-rs: {name}: this command is started by the others, not by hand\n");
        assert_eq!(
            outcome(&command(&[name]).output().unwrap()),
            (Some(1), expected)
        );
    }
}
