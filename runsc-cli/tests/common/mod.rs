//! What the tests of the program share.

#![allow(dead_code, reason = "not every test file uses everything")]

pub mod docker;
pub mod session;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_runsc-rs");

/// The option for a platform on which a process of the host stands for each of the guest's; the default one
/// is kvm where that is the faster one.
pub fn with_stubs() -> &'static str {
    match runsc_platform::host::has_fsgsbase() {
        true => "--platform=systrap",
        false => "--platform=ptrace",
    }
}

pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Copies this program, by means of another process: one that is started meanwhile for another test
/// would have our fd for writing, and nobody could execute the copy.
pub fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(PROGRAM).arg(to).status();
    assert!(copied.unwrap().success());
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

    /// A command about this bundle's containers.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = command(&["--root"]);
        command.arg(self.state()).args(args);
        command
    }

    pub fn run(&self, id: &str) -> Command {
        let mut run = self.command(&["run"]);
        run.arg("--bundle").arg(&self.path).arg(id);
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

/// A configuration over this machine's own files that runs a shell script as root.
pub fn config(script: &str) -> serde_json::Value {
    // Those of Docker.
    let names = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP \
                 NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE";
    let names: Vec<_> = names
        .split_whitespace()
        .map(|name| format!("CAP_{name}"))
        .collect();
    serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": "/"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {"bounding": names, "effective": names, "permitted": names},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {},
    })
}

/// Exit status, stdout and stderr of a container of that configuration.
pub fn run(config: &serde_json::Value) -> (Option<i32>, String, String) {
    let bundle = Bundle::new(Some(&config.to_string()));
    let output = bundle.run("c").output().unwrap();
    let (code, stderr) = outcome(&output);
    (code, String::from_utf8_lossy(&output.stdout).into(), stderr)
}
