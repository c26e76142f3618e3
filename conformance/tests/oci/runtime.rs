//! A runtime as a program to call, with a state directory of its own.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bundle::Bundle;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The name of this product's, with that platform.
pub const ON_KVM: &str = "runsc-rs on kvm";

/// See the module documentation. What is left in it at the end is removed.
pub struct Runtime {
    pub name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    state: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// It worked.
    #[track_caller]
    pub fn ok(self) -> Done {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs a case on each runtime: Linux's first.
pub fn on_each(case: impl Fn(&Runtime)) {
    for runtime in runtimes() {
        eprintln!("on {}", runtime.name);
        case(&runtime);
        let left = runtime.call(&["list", "-q"]).ok().out;
        assert_eq!(left, "", "the case leaves containers behind");
        let left: Vec<_> = fs::read_dir(runtime.state.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn runtimes() -> Vec<Runtime> {
    let mut all = Vec::new();
    // runc without root needs a user namespace in each configuration.
    let is_root = unsafe { libc::geteuid() } == 0;
    let runc = Path::new("/usr/sbin/runc");
    if is_root && runc.exists() {
        all.push(Runtime::new("runc", runc, &[]));
    } else {
        let required = std::env::var_os("RUNSC_RS_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "runc is not installed, or this is not root");
        eprintln!("skipped: runc (not installed, or this is not root)");
    }
    let ours = Path::new(env!("CARGO_BIN_EXE_conformance")).with_file_name("runsc-rs");
    assert!(
        ours.exists(),
        "{} is missing: run the tests of the whole workspace (cargo test --workspace)",
        ours.display()
    );
    // What the container writes is looked at from outside.
    const OPTION: &str = "--overlay=none";
    all.push(Runtime::new("runsc-rs", &ours, &[OPTION]));
    if kvm_is_possible() {
        let args = [OPTION, "--platform=kvm"];
        all.push(Runtime::new(ON_KVM, &ours, &args));
    }
    all
}

/// Whether the device is there and ours to use; if not, that is said loudly.
fn kvm_is_possible() -> bool {
    const DEVICE: &str = "/dev/kvm";
    let device = File::options().read(true).write(true).open(DEVICE);
    if let Err(error) = &device {
        // Not eprintln: the test harness would swallow it for a test that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: on kvm: {DEVICE}: {error}");
    }
    device.is_ok()
}

/// A case that fails leaves nothing running either.
impl Drop for Runtime {
    fn drop(&mut self) {
        let listed = self.command(&["list", "-q"]).output();
        let listed = listed.map(|output| output.stdout).unwrap_or_default();
        for id in String::from_utf8_lossy(&listed).lines() {
            let _ = self.command(&["delete", "--force", id]).output();
        }
    }
}

impl Runtime {
    fn new(name: &'static str, program: &Path, args: &[&str]) -> Runtime {
        Runtime {
            name,
            program: program.to_path_buf(),
            args: args.iter().map(|arg| arg.to_string()).collect(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.state.path());
        command.args(&self.args).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. What it leaves running may keep its output open, which therefore
    /// goes to files.
    pub fn call(&self, args: &[&str]) -> Done {
        self.finish(self.command(args))
    }

    pub fn finish(&self, mut command: Command) -> Done {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(dir.path().join(name)).unwrap();
        let mut child = command
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap();
        let status = wait_for("the command's end", || child.try_wait().unwrap());
        let text = |name: &str| {
            let bytes = fs::read(dir.path().join(name)).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Done {
            code: status.code().unwrap_or(-1),
            out: text("out"),
            err: text("err"),
        }
    }

    /// `create` or `run --detach`, with the container's output in the bundle's `out`.
    pub fn make(&self, verb: &[&str], bundle: &Bundle, id: &str) -> Done {
        let mut command = self.command(verb);
        command.arg("--bundle").arg(&bundle.path).arg(id);
        let out = File::create(bundle.at("out")).unwrap();
        let err = File::create(bundle.at("err")).unwrap();
        let mut child = command.stdout(out).stderr(err).spawn().unwrap();
        let status = wait_for("the command's end", || child.try_wait().unwrap());
        Done {
            code: status.code().unwrap_or(-1),
            out: bundle.text("out"),
            err: bundle.text("err"),
        }
    }

    pub fn create(&self, bundle: &Bundle, id: &str) {
        self.make(&["create"], bundle, id).ok();
    }

    /// A container that runs.
    pub fn running(&self, bundle: &Bundle, id: &str) {
        self.create(bundle, id);
        self.call(&["start", id]).ok();
    }

    /// `run` in the foreground.
    pub fn run(&self, bundle: &Bundle, id: &str) -> Done {
        let path = bundle.path.display().to_string();
        self.call(&["run", "--bundle", &path, id])
    }

    pub fn state(&self, id: &str) -> Value {
        self.call(&["state", id]).ok().json()
    }

    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_string()
    }

    #[track_caller]
    pub fn until(&self, id: &str, status: &str) {
        wait_for(status, || (self.status(id) == status).then_some(()));
    }

    pub fn delete(&self, id: &str) {
        self.call(&["delete", "--force", id]).ok();
    }
}

/// Waits until something is there.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process of the host lives; one that waits for its parent does not.
pub fn is_alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The process id in a pid file.
pub fn pid_in(path: &Path) -> i64 {
    fs::read_to_string(path).unwrap().parse().unwrap()
}
