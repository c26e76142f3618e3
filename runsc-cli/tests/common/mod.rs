//! What the tests of the program share.

#![allow(dead_code, reason = "not every test file uses everything")]

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_runsc-rs");

pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Exit code and stderr.
pub fn outcome(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A bundle in a temporary directory, with a root and a state directory beside it.
pub struct Bundle {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
}

impl Bundle {
    pub fn new(config: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(path.join("rootfs")).unwrap();
        if let Some(config) = config {
            fs::write(path.join("config.json"), config).unwrap();
        }
        Self { _dir: dir, path }
    }

    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub fn run(&self, id: &str) -> Command {
        let mut run = command(&["--root"]);
        run.arg(self.state())
            .arg("run")
            .arg("--bundle")
            .arg(&self.path)
            .arg(id);
        run
    }

    /// Names in the state directory.
    pub fn left_behind(&self) -> Vec<String> {
        names(&self.state())
    }
}

pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}
