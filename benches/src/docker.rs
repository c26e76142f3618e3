//! A Docker engine of the runner's own, with two runtimes and an image of busybox.
//!
//! Its data, state and socket lie in a temporary directory; it has no network, and is stopped when
//! dropped.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// How long the engine may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
const IMAGE: &str = "box";

/// Makes the root of a container: busybox, and `true` and `sleep` that are it.
pub fn busybox_root(root: &Path) -> io::Result<()> {
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for applet in ["true", "sleep"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(())
}

/// See the module documentation.
#[derive(Debug)]
pub struct Docker {
    directory: tempfile::TempDir,
    daemon: Child,
}

impl Docker {
    /// Starts the engine with `ours` as the runtime `ours` and imports the image.
    ///
    /// # Errors
    /// dockerd is missing, does not come up, or needs root.
    pub fn start(ours: &Path) -> Result<Docker, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("a Docker engine needs root".to_string());
        }
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = |name: &str| directory.path().join(name);
        let runtime = json!({"path": ours, "runtimeArgs": ["--overlay=none"]});
        let config = json!({"runtimes": {"ours": runtime}});
        let write = fs::write(path("daemon.json"), config.to_string());
        let log = write.and_then(|()| File::create(path("log")));
        let log = log.map_err(|e| e.to_string())?;
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let daemon = Command::new("dockerd")
            .arg("--config-file")
            .arg(path("daemon.json"))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg(format!("--host=unix://{}", path("socket").display()))
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .arg("--storage-driver=vfs")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("dockerd: {e} (package docker.io)"))?;
        let mut docker = Docker { directory, daemon };
        docker.wait_until_up()?;
        docker.import()?;
        Ok(docker)
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.client(&["version"]).is_ok_and(|s| s) {
            let ended = self.daemon.try_wait().map_err(|e| e.to_string())?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                return Err(format!("dockerd does not come up: {last}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn import(&self) -> Result<(), String> {
        let root = self.path("image");
        busybox_root(&root).map_err(|e| format!("{e} (package busybox-static)"))?;
        let (tar, from) = (self.path("image.tar"), root.display().to_string());
        let mut pack = Command::new("tar");
        pack.arg("-C").arg(from).arg("-cf").arg(&tar).arg(".");
        let packed = pack.status().is_ok_and(|status| status.success());
        let tar = tar.display().to_string();
        match packed && self.client(&["import", &tar, IMAGE])? {
            true => Ok(()),
            false => Err("the image could not be imported".to_string()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self, words: &[&str]) -> Result<bool, String> {
        let mut client = self.command(words);
        client.stdout(Stdio::null()).stderr(Stdio::null());
        let status = client.stdin(Stdio::null()).status();
        Ok(status.map_err(|e| format!("docker: {e}"))?.success())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut client = Command::new("docker");
        client
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.path("socket").display()),
            )
            .env("DOCKER_CONFIG", self.directory.path())
            .args(words);
        client
    }

    /// `docker run --rm` of `true` under a runtime: `runc` or `ours`.
    pub fn run_true(&self, runtime: &str) -> Command {
        let runtime = format!("--runtime={runtime}");
        self.command(&["run", "--rm", "--network=none", &runtime, IMAGE, "true"])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // All fail if it is gone already, which is what is wanted.
        let _ = kill(
            Pid::from_raw(self.daemon.id().cast_signed()),
            Signal::SIGTERM,
        );
        let deadline = Instant::now() + PATIENCE;
        while let Ok(None) = self.daemon.try_wait() {
            if Instant::now() > deadline {
                let _ = self.daemon.kill();
            }
            thread::sleep(Duration::from_millis(20));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = |target: &&str| Path::new(target).starts_with(self.directory.path());
        for line in mounts.lines().rev() {
            if let Some(target) = line.split(' ').nth(1).filter(own) {
                let _ = umount2(target, MntFlags::MNT_DETACH);
            }
        }
    }
}
