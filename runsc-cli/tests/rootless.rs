//! Containers of an ordinary user: with ids of subuid(5) and without.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{config, outcome};
use nix::unistd::{Uid, User};

/// A bundle of user `uid`, whose container writes to a directory of his.
struct Home {
    _dir: tempfile::TempDir,
    path: PathBuf,
    uid: u32,
}

impl Home {
    fn new(uid: u32, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        let mut config = config(script);
        config["mounts"].as_array_mut().unwrap().push(serde_json::json!({
            "destination": "/mnt", "type": "bind", "source": path.join("data"), "options": ["bind"],
        }));
        fs::write(path.join("config.json"), config.to_string()).unwrap();
        fs::create_dir(path.join("data")).unwrap();
        common::copy_program(&path.join("runsc-rs"));
        for path in [&path, &path.join("data"), &path.join("config.json")] {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            _dir: dir,
            path,
            uid,
        }
    }

    /// Exit code, stdout and stderr of the container.
    fn run(&self) -> (Option<i32>, String, String) {
        self.run_with(&[])
    }

    /// The same with these options.
    fn run_with(&self, options: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(self.path.join("runsc-rs"));
        command.uid(self.uid).gid(self.uid);
        self.finish(command, options)
    }

    /// The same on kvm, where everybody may use the device.
    fn run_with_kvm(&self) -> (Option<i32>, String, String) {
        let dev = self.path.join("dev");
        fs::create_dir(&dev).unwrap();
        let script = "mount -t tmpfs none $0 && cp -a /dev/kvm $0 && chmod 666 $0/kvm && \
                      mount --bind $0/kvm /dev/kvm && exec setpriv \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(dev);
        command.arg(format!("--reuid={}", self.uid));
        command.arg(format!("--regid={}", self.uid));
        command.arg("--clear-groups");
        command.arg(self.path.join("runsc-rs"));
        self.finish(command, &["--platform=kvm"])
    }

    fn finish(&self, mut command: Command, options: &[&str]) -> (Option<i32>, String, String) {
        command
            .args(options)
            .arg("--root")
            .arg(self.path.join("data/.state"))
            .args(["run", "--bundle"])
            .arg(&self.path)
            .arg("c")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(&self.path);
        let output = command.output().unwrap();
        let (code, stderr) = outcome(&output);
        (code, String::from_utf8_lossy(&output.stdout).into(), stderr)
    }

    fn owner(&self, name: &str) -> u32 {
        fs::metadata(self.path.join("data").join(name))
            .unwrap()
            .uid()
    }
}

/// A user whom subuid(5) gives ids, and the first of these.
fn user_with_ids() -> Option<(u32, u32)> {
    let text = fs::read_to_string("/etc/subuid").ok()?;
    let groups = fs::read_to_string("/etc/subgid").ok()?;
    Path::new("/usr/bin/newuidmap").exists().then_some(())?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        groups
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let user = User::from_name(name).ok()??;
        Some((user.uid.as_raw(), fields.next()?.parse().ok()?))
    })
}

#[test]
fn the_caller_is_root_inside() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root becomes somebody else");
        return;
    }
    let script = "id -u; stat -c %u /mnt; echo x >/mnt/made; chown 5 /mnt/made 2>&1 | grep -c .";
    let home = Home::new(12345, script);
    let (code, stdout, stderr) = home.run();
    assert_eq!((code, stdout.as_str()), (Some(0), "0\n0\n1\n"), "{stderr}");
    assert_eq!(home.owner("made"), 12345);
}

#[test]
fn a_platform_that_is_not_permitted_is_refused() {
    const DEVICE: &str = "/dev/kvm";
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root becomes somebody else");
        return;
    }
    let expected = match fs::metadata(DEVICE) {
        Ok(device) if device.mode() & 0o006 != 0 => {
            eprintln!("skipped: {DEVICE} is for everybody here");
            return;
        }
        Ok(_) => "platform kvm: /dev/kvm: Permission denied",
        Err(_) => "platform kvm: /dev/kvm: No such file or directory",
    };
    let home = Home::new(12345, "echo >/mnt/made");
    let (code, _, stderr) = home.run_with(&["--platform=kvm"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
    assert!(!home.path.join("data/made").exists());
}

#[test]
fn a_platform_that_is_permitted_is_used() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root becomes somebody else");
        return;
    }
    if let Err(error) = fs::metadata("/dev/kvm") {
        // Not eprintln: the test harness would swallow it for a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: /dev/kvm: {error}");
        return;
    }
    let home = Home::new(
        12345,
        "id -u; echo x >/mnt/made; grep -c vdso /proc/self/maps",
    );
    let (code, stdout, stderr) = home.run_with_kvm();
    assert_eq!((code, stdout.as_str()), (Some(0), "0\n1\n"), "{stderr}");
    assert_eq!(home.owner("made"), 12345);
}

#[test]
fn subordinate_ids_are_those_behind_it() {
    let Some((uid, first)) = user_with_ids().filter(|_| Uid::effective().is_root()) else {
        eprintln!("skipped: nobody has subordinate ids here, or newuidmap is missing");
        return;
    };
    let script = "id -u; stat -c %u /mnt; echo x >/mnt/made; chown 5:6 /mnt/made; \
                  stat -c '%u %g' /mnt/made; su -s /bin/sh daemon -c 'id -u' 2>/dev/null; true";
    let home = Home::new(uid, script);
    let (code, stdout, stderr) = home.run();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("0\n0\n5 6\n"), "{stdout}{stderr}");
    assert_eq!(home.owner("made"), first + 4);
}

#[test]
fn limits_need_no_group_of_the_host() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root becomes somebody else");
        return;
    }
    let home = Home::new(
        12345,
        "tail /dev/zero; echo $?; grep MemTotal /proc/meminfo",
    );
    let path = home.path.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["linux"]["resources"] = serde_json::json!({
        "memory": {"limit": 64 << 20}, "cpu": {"shares": 512},
    });
    fs::write(&path, config.to_string()).unwrap();
    let (code, stdout, stderr) = home.run();
    let expected = format!("137\nMemTotal:{:>15} kB\n", 64 << 10);
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), expected.as_str()),
        "{stderr}"
    );
    assert!(stderr.contains("cpu.shares"), "{stderr}");
}

#[test]
fn a_group_that_cannot_be_made_is_said_so() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root becomes somebody else");
        return;
    }
    let home = Home::new(12345, "echo runs");
    let path = home.path.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config["linux"]["cgroupsPath"] = "/runsc-rs-no-such/group".into();
    fs::write(&path, config.to_string()).unwrap();
    let (code, stdout, stderr) = home.run();
    assert_eq!((code, stdout.as_str()), (Some(0), "runs\n"), "{stderr}");
    assert_eq!(stderr.matches("linux.cgroupsPath").count(), 1, "{stderr}");
}

/// A file system of the kernel that is mounted where the caller cannot look is no obstacle, and does
/// not come to light either when he is let in.
#[test]
fn what_is_out_of_the_callers_reach_stays_there() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: this is not root, who mounts");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(dir.path()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    common::copy_program(&path.join("runsc-rs"));
    fs::create_dir_all(path.join("closed/proc")).unwrap();
    fs::set_permissions(path.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let inside = "echo up; read go; ls -a closed closed/proc | wc -l";
    let script = format!(
        "mount -t proc proc closed/proc && exec setpriv --reuid 12345 --regid 12345 --clear-groups \
         ./runsc-rs do -- sh -c '{inside}'"
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .current_dir(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    out.read_line(&mut said).unwrap();
    assert_eq!(said, "up\n");
    fs::set_permissions(path.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    said.clear();
    out.read_to_string(&mut said).unwrap();
    // The directory itself, empty.
    assert!(said.trim().parse::<u32>().unwrap() <= 4, "{said}");
    assert!(child.wait().unwrap().success());
}
