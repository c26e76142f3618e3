//! A Docker engine of a test's own (Debian's docker.io), with its own data, state and socket.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::symlink, process::CommandExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

use super::PROGRAM;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

const APPLETS: &[&str] = &[
    "sh", "true", "false", "sleep", "cat", "ls", "echo", "id", "env", "pwd", "kill", "touch",
    "stty", "grep", "tty", "test", "mkdir", "ps", "head", "tail", "wc", "nproc", "hostname", "rm",
    "top", "vi", "mount", "chmod", "seq", "ip", "httpd", "nslookup", "tee",
];

#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A Docker engine, stopped when dropped.
pub struct Docker {
    pub dir: tempfile::TempDir,
    daemon: Child,
    /// What every container of [`Docker::run`] and [`Docker::background`] gets.
    defaults: &'static [&'static str],
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end().to_owned()
    }
}

/// What is tried, by its name.
pub type Case = (&'static str, fn(&Docker));

/// Tries all cases whose names contain `RUNSC_RS_DOCKER_CASE`: each is named that fails, and the others
/// are tried nevertheless.
pub fn try_all(docker: Docker, cases: &[Case]) {
    let mut failed = Vec::new();
    let wanted = std::env::var("RUNSC_RS_DOCKER_CASE").unwrap_or_default();
    for (name, case) in cases.iter().filter(|(name, _)| name.contains(&wanted)) {
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| case(&docker))).is_err() {
            failed.push(*name);
        }
        eprintln!("{name}: {} ms", begun.elapsed().as_millis());
    }
    let log = docker.log();
    drop(docker);
    assert!(failed.is_empty(), "failed: {failed:?}\n{log}");
}

/// Whether this machine has what the platform needs; if not, that is said loudly.
pub fn is_possible(platform: &str) -> bool {
    const DEVICE: &str = "/dev/kvm";
    if platform != "kvm" {
        return true;
    }
    let device = File::options().read(true).write(true).open(DEVICE);
    if let Err(error) = &device {
        // Not eprintln: the test harness would swallow it for a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: platform {platform}: {DEVICE}: {error}"
        );
    }
    device.is_ok()
}

/// Whether Docker can be tried here, with these programs and files, and if not, says so: a failure if
/// everything is required.
pub fn available(programs: &[&str], files: &[&Path]) -> bool {
    let there = |program: &&&str| {
        let found = Command::new("which")
            .arg(program)
            .stdout(Stdio::null())
            .status();
        found.is_ok_and(|status| status.success())
    };
    let mut missing: Vec<String> = programs
        .iter()
        .filter(|name| !there(name))
        .map(|name| name.to_string())
        .collect();
    if !Uid::effective().is_root() {
        missing.push("root".to_owned());
    }
    let absent = files.iter().filter(|file| !file.exists());
    missing.extend(absent.map(|file| format!("{} (.ci/setup-programs)", file.display())));
    let required = std::env::var_os("RUNSC_RS_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(missing.is_empty() || !required, "missing: {missing:?}");
    if !missing.is_empty() {
        eprintln!("skipped, missing: {missing:?}");
    }
    missing.is_empty()
}

impl Docker {
    /// Starts one in the network namespace of the calling thread, with this program as default
    /// runtime and an image `box` with busybox.
    ///
    /// - `options`: the daemon's.
    /// - `defaults`: what every container gets.
    pub fn start(options: &[&str], defaults: &'static [&'static str]) -> Self {
        Self::start_with(&[], options, defaults)
    }

    /// The same, with options that the runtime gets for each container.
    pub fn start_with(
        runtime: &[&str],
        options: &[&str],
        defaults: &'static [&'static str],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let config = path("daemon.json");
        let installed = Command::new(PROGRAM)
            .args(["install", "--default", "--config"])
            .arg(&config)
            .args(["--", "--log-dir"])
            .arg(path("logs"))
            .args(runtime)
            .stdout(Stdio::null())
            .status();
        assert!(installed.unwrap().success());
        fs::create_dir(path("logs")).unwrap();
        let log = File::create(path("dockerd.log")).unwrap();
        let daemon = Command::new("dockerd")
            .arg("--config-file")
            .arg(&config)
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--host")
            .arg(format!("unix://{}", path("sock").display()))
            .args(options)
            .arg("--storage-driver=vfs")
            .arg(format!("--cgroup-parent=/{}", cgroup()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut docker = Self {
            dir,
            daemon,
            defaults,
        };
        wait_for("dockerd", || {
            let ended = docker.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "dockerd ended: {}", docker.log());
            (docker.call(&["version"]).code == 0).then_some(())
        });
        docker.import("box", &docker.busybox("image"));
        docker
    }

    /// The ends of the daemon's log and of those of the containers.
    pub fn log(&self) -> String {
        let end = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            tail.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let mut texts = vec![end(&self.dir.path().join("dockerd.log"))];
        let containers = fs::read_dir(self.dir.path().join("logs"));
        for entry in containers.into_iter().flatten().flatten() {
            let text = end(&entry.path());
            if !text.is_empty() {
                texts.push(format!("{}:\n{text}", entry.path().display()));
            }
        }
        texts.join("\n")
    }

    /// A root with busybox.
    pub fn busybox(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        for name in ["bin", "proc", "dev", "sys", "tmp", "etc", "root"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        root
    }

    /// Makes an image of a root.
    pub fn import(&self, name: &str, root: &Path) {
        let tar = root.with_extension("tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(root)
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        self.call(&["import", &tar.display().to_string(), name])
            .ok();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        // A client that hangs is the test's to end.
        let mut command = Command::new("timeout");
        command
            .args(["--signal=KILL", "240", "docker"])
            .args(args)
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.dir.path().join("sock").display()),
            )
            .env("DOCKER_CONFIG", self.dir.path())
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::null());
        command
    }

    pub fn call(&self, args: &[&str]) -> Done {
        let output = self.command(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// `docker run --rm OPTIONS box sh -c SCRIPT`.
    pub fn run(&self, options: &[&str], script: &str) -> Done {
        let mut words = vec!["run", "--rm"];
        words.extend(self.defaults);
        words.extend(options);
        words.extend(["box", "sh", "-c", script]);
        self.call(&words)
    }

    /// A container in the background.
    pub fn background(&self, name: &str, options: &[&str], script: &str) {
        let mut words = vec!["run", "-d", "--name", name];
        words.extend(self.defaults);
        words.extend(options);
        words.extend(["box", "sh", "-c", script]);
        self.call(&words).ok();
    }

    pub fn inspect(&self, name: &str, field: &str) -> String {
        let format = format!("{{{{{field}}}}}");
        self.call(&["inspect", "--format", &format, name]).ok()
    }

    pub fn remove(&self, name: &str) {
        self.call(&["rm", "--force", "--volumes", name]).ok();
    }

    /// Waits until the container's log has the text.
    #[track_caller]
    pub fn until_logged(&self, name: &str, text: &str) {
        wait_for(text, || {
            self.call(&["logs", name]).ok().contains(text).then_some(())
        });
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let all = self.call(&["ps", "--all", "--quiet"]).out;
        for id in all.split_whitespace() {
            let _ = self.call(&["rm", "--force", id]);
        }
        let _ = kill(Pid::from_raw(self.daemon.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while self.daemon.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                self.daemon.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            // It is empty: the containers are removed, and their groups with them.
            let _ = fs::remove_dir(hierarchy.path().join(cgroup()));
        }
        // The daemon's own mounts, should it have left any.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mine = self.dir.path().display().to_string();
        for line in mounts.lines().rev() {
            if let Some(target) = line.split(' ').nth(1).filter(|t| t.starts_with(&mine)) {
                let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

/// Name of the control group that all containers' lie in.
fn cgroup() -> String {
    format!("runsc-rs-docker-{}", std::process::id())
}
