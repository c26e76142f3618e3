//! Bundles: a root with busybox, and a configuration that cases change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Programs that cases use.
const APPLETS: &[&str] = &[
    "sh", "true", "sleep", "cat", "ls", "echo", "id", "env", "pwd", "kill", "touch", "stty",
    "grep", "tty", "test", "mkdir", "ps", "tail",
];

pub struct Bundle {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
    pub config: Value,
}

impl Bundle {
    /// A container that runs this shell script.
    pub fn script(script: &str) -> Bundle {
        Bundle::new(&["sh", "-c", script])
    }

    pub fn new(args: &[&str]) -> Bundle {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        for name in ["bin", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(path.join("rootfs").join(name)).unwrap();
        }
        let bin = path.join("rootfs/bin");
        // By another process: one that is started meanwhile for another case would have our fd for
        // writing, and nobody could execute the copy.
        let copied = Command::new("cp").arg("/bin/busybox").arg(&bin).status();
        assert!(copied.unwrap().success(), "busybox-static is installed");
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin", "KEPT=yes"],
                "cwd": "/",
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"],
                                 "permitted": ["CAP_KILL"]},
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs"},
            "hostname": "box",
            "annotations": {"org.example.note": "kept"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                // Of the bundle's own: by default it is the container's name.
                "cgroupsPath": format!("/runsc-rs-test{}", path.display().to_string().replace('/', "-")),
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"},
                               {"type": "uts"}, {"type": "mount"}],
            },
        });
        let bundle = Bundle {
            _dir: dir,
            path,
            config,
        };
        bundle.write();
        bundle
    }

    /// Changes the configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Bundle {
        change(&mut self.config);
        self.write();
        self
    }

    fn write(&self) {
        fs::write(self.path.join("config.json"), self.config.to_string()).unwrap();
    }

    /// A path inside of it.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_default()
    }
}
