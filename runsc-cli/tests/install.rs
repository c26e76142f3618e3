//! The entry in Docker's daemon.json: what is added, what stays, what is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use common::{PROGRAM, command, outcome};
use serde_json::{Value, json};

fn call(verb: &str, config: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = command(&[verb, "--config"]);
    outcome(&command.arg(config).args(more).output().unwrap())
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_entry_comes_and_goes_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker/daemon.json");
    let ok = (Some(0), String::new());
    assert_eq!(call("install", &path, &[]), ok);
    let entry = json!({"path": PROGRAM, "runtimeArgs": ["--overlay=none"]});
    assert_eq!(read(&path), json!({"runtimes": {"runsc-rs": entry}}));
    assert_eq!(call("uninstall", &path, &[]), ok);
    assert_eq!(read(&path), json!({}));

    let before = json!({"debug": true, "runtimes": {"other": {"path": "/x"}}});
    fs::write(&path, before.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let more = [
        "--name",
        "box",
        "--default",
        "--",
        "--debug",
        "--platform=ptrace",
    ];
    assert_eq!(call("install", &path, &more), ok);
    // Twice is once.
    assert_eq!(call("install", &path, &more), ok);
    let entry = json!({"path": PROGRAM,
                       "runtimeArgs": ["--overlay=none", "--debug", "--platform=ptrace"]});
    let after = json!({"debug": true, "default-runtime": "box",
                       "runtimes": {"other": {"path": "/x"}, "box": entry}});
    assert_eq!(read(&path), after);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(call("uninstall", &path, &["--name", "box"]), ok);
    assert_eq!(read(&path), before);
    // What is not there is not removed, and nothing is written.
    fs::remove_file(&path).unwrap();
    assert_eq!(call("uninstall", &path, &[]), ok);
    assert!(!path.exists());
}

#[test]
fn what_is_no_configuration_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("daemon.json");
    for text in ["{", "[]", "{\"runtimes\": 3}"] {
        fs::write(&path, text).unwrap();
        let (code, stderr) = call("install", &path, &[]);
        assert_eq!(code, Some(1), "{text}");
        assert!(stderr.contains("daemon.json: "), "{stderr}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    for name in ["", "a b", "runc", "x/y"] {
        assert_eq!(
            call("install", &path, &["--name", name]).0,
            Some(1),
            "{name}"
        );
    }
}
