//! Real programs of the distribution, natively and in the sandbox: the same
//! output, the same messages, the same exit status.
//!
//! Each file of `tests/programs/` is a bash script that uses one program (or
//! family) widely and prints only what is the same on every run. A script is run
//! on the host, then by `runsc-rs do -- bash SCRIPT` on each platform, and they are
//! compared byte by byte. Nothing is recorded: the host's Linux is the specification.
//!
//! A script starts with comment lines that say what it needs:
//! `# needs: PROGRAM...` (names in the system's directories, or absolute paths),
//! `# needs-program: NAME` (a source that `.ci/setup-programs` unpacks),
//! `# needs-rust`, and `# exit: N` if it ends with another status than 0. It gets
//! the directory of unpacked sources and the Rust sysroot as arguments.
//!
//! Environment:
//! - `RUNSC_RS_REQUIRE_ALL=1`: a missing program is a failure (else the script is
//!   reported as SKIPPED on stderr, past the test harness's capture);
//! - `RUNSC_RS_BIN`: another sandbox binary; `RUNSC_RS_FLAGS`: words before `do`,
//!   for example `--platform=ptrace`, instead of one run a platform.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers may panic")]

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a script may take, natively and in the sandbox.
const LIMIT: Duration = Duration::from_secs(300);
/// How long output may keep coming once the command has ended.
const DRAIN: Duration = Duration::from_secs(10);
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

macro_rules! real_programs {
    ($($name:ident)*) => {
        $(#[test] fn $name() { compare_script(stringify!($name)); })*

        #[test]
        fn every_script_is_a_test() {
            let mut scripts: Vec<String> = fs::read_dir(scripts_directory())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .map(|name| name.strip_suffix(".sh").unwrap_or(&name).to_string())
                .collect();
            scripts.sort();
            assert_eq!(scripts, [$(stringify!($name)),*]);
        }
    };
}

real_programs! {
    archive
    awk
    bash
    busybox
    c_build
    coreutils
    find
    git
    grep
    network
    network_python
    network_tools
    perl
    python_json
    python_mmap
    python_multiprocessing
    python_sqlite
    python_subprocess
    python_tempfile
    python_threads
    rust
    sed
    server_memcached
    server_nginx
    server_postgresql
    server_redis
    server_sshd
}

fn scripts_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

/// Where `.ci/setup-programs` unpacks sources: beside cargo's `tmp`.
fn sources_directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("programs")
}

/// The toolchain that builds this test, not rustup's stand-in for it.
fn rust_sysroot() -> Option<PathBuf> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    ["bin/cargo", "bin/rustc"]
        .iter()
        .all(|p| sysroot.join(p).exists())
        .then_some(sysroot)
}

/// What a script's first lines say.
#[derive(Debug, Default, PartialEq)]
struct Header {
    programs: Vec<String>,
    sources: Vec<String>,
    rust: bool,
    exit: i32,
}

impl Header {
    fn parse(script: &str) -> Header {
        let mut header = Header::default();
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        for line in script.lines().map_while(|line| line.strip_prefix("# ")) {
            if let Some(programs) = line.strip_prefix("needs: ") {
                header.programs.extend(words(programs));
            } else if let Some(sources) = line.strip_prefix("needs-program: ") {
                header.sources.extend(words(sources));
            } else if line == "needs-rust" {
                header.rust = true;
            } else if let Some(status) = line.strip_prefix("exit: ") {
                header.exit = status.trim().parse().unwrap();
            }
        }
        header
    }

    /// What of it this machine does not have.
    fn missing(&self) -> Vec<String> {
        let present = |name: &str| match name.starts_with('/') {
            true => Path::new(name).exists(),
            false => SYSTEM_PATH
                .split(':')
                .any(|dir| Path::new(dir).join(name).exists()),
        };
        let mut missing: Vec<String> = self
            .programs
            .iter()
            .filter(|name| !present(name))
            .cloned()
            .collect();
        for name in &self.sources {
            if !sources_directory().join(name).join(".unpacked").exists() {
                missing.push(format!("the source of {name}"));
            }
        }
        if self.rust && rust_sysroot().is_none() {
            missing.push("rustc and cargo".to_string());
        }
        missing
    }
}

/// How a command ended and what it said.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// `exit status: N`, `signal: N`, or that the time limit ended it.
    end: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

fn compare_script(name: &str) {
    let script = scripts_directory().join(format!("{name}.sh"));
    let header = Header::parse(&fs::read_to_string(&script).unwrap());
    let missing = header.missing();
    if !missing.is_empty() {
        let message = format!(
            "{name} needs {}; .ci/setup-programs gets it",
            missing.join(", ")
        );
        if env::var_os("RUNSC_RS_REQUIRE_ALL").is_some_and(|value| value == "1") {
            panic!("{message}");
        }
        // Not eprintln: the test harness would swallow it for a test that passes.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED real program {message}").unwrap();
        return;
    }

    let sandbox =
        env::var("RUNSC_RS_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_runsc-rs").to_string());
    let flags = match env::var("RUNSC_RS_FLAGS") {
        Ok(flags) => vec![flags],
        Err(_) => PLATFORMS
            .into_iter()
            .filter(|name| is_possible(name))
            .map(|name| format!("--platform={name}"))
            .collect(),
    };

    let place = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("real-programs")
        .join(name);
    let native = run_script(&[], &script, &place, "native");
    assert_eq!(
        native.end,
        format!("exit status: {}", header.exit),
        "{name} fails on the host itself:\n{}",
        String::from_utf8_lossy(&native.stderr)
    );
    for flags in flags {
        let mut prefix = vec![sandbox.as_str()];
        prefix.extend(flags.split_whitespace());
        prefix.extend(["do", "--"]);
        let inside = run_script(&prefix, &script, &place, "sandbox");
        let mut differences = differences(&native, &inside);
        differences.extend(changes_to_host(&place.join("sandbox")));
        assert!(
            differences.is_empty(),
            "{name} differs in the sandbox, with {flags} (whole outputs: {}):\n{}",
            place.display(),
            differences.join("\n")
        );
    }
}

/// On each of which all scripts run.
const PLATFORMS: [&str; 3] = ["systrap", "ptrace", "kvm"];

/// Whether this machine has what the platform needs; if not, that is said loudly.
fn is_possible(platform: &str) -> bool {
    const DEVICE: &str = "/dev/kvm";
    if platform != "kvm" {
        return true;
    }
    let device = fs::File::options().read(true).write(true).open(DEVICE);
    if let Err(error) = &device {
        // Not eprintln: the test harness would swallow it for a test that passes.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED: platform {platform}: {DEVICE}: {error}").unwrap();
    }
    device.is_ok()
}

const HOST_FILE: &str = "host-file";
const HOST_TEXT: &str = "untouched\n";

/// Runs the script behind `prefix` in a fresh directory `place/which` and keeps
/// its outputs beside that. The script's shell first changes that directory: it
/// may see its own changes, the host may not.
fn run_script(prefix: &[&str], script: &Path, place: &Path, which: &str) -> Outcome {
    let scratch = place.join(which);
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).unwrap();
    fs::write(scratch.join(HOST_FILE), HOST_TEXT).unwrap();
    let change = format!("echo changed > {HOST_FILE}; echo > new-file; exec bash \"$@\"");
    let sysroot = rust_sysroot().unwrap_or_default();
    let words: Vec<&str> = prefix
        .iter()
        .copied()
        .chain(["bash", "-c", &change, "bash"])
        .collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .arg(script)
        .arg(sources_directory())
        .arg(sysroot);
    command.current_dir(&scratch).env_clear();
    command
        .env("PATH", SYSTEM_PATH)
        .env("HOME", &scratch)
        .env("LANG", "C.UTF-8");
    let outcome = run(command, LIMIT);
    fs::write(place.join(format!("{which}.stdout")), &outcome.stdout).unwrap();
    fs::write(place.join(format!("{which}.stderr")), &outcome.stderr).unwrap();
    outcome
}

/// Runs a command in a process group of its own, which the time limit ends.
fn run(mut command: Command, limit: Duration) -> Outcome {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let group = Pid::from_raw(child.id().cast_signed());
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let deadline = Instant::now() + limit;
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut end = match ended {
        Some(status) => describe(status),
        None => {
            let _ = killpg(group, Signal::SIGKILL);
            child.wait().unwrap();
            format!("killed after {limit:?}")
        }
    };
    // Whoever still holds a pipe has outlived the command.
    let mut take = |output: mpsc::Receiver<Vec<u8>>| {
        output.recv_timeout(DRAIN).unwrap_or_else(|_| {
            let _ = killpg(group, Signal::SIGKILL);
            end.push_str(", but a process kept its output open");
            output.recv_timeout(DRAIN).unwrap_or_default()
        })
    };
    let (stdout, stderr) = (take(stdout), take(stderr));
    Outcome {
        end,
        stdout,
        stderr,
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status: {code}"),
        (None, signal) => format!("signal: {}", signal.unwrap_or(0)),
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Everything in which the two runs differ, for a person to read.
fn differences(native: &Outcome, inside: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    if native.end != inside.end {
        found.push(format!(
            "end: {:?} natively, {:?} in the sandbox",
            native.end, inside.end
        ));
    }
    for (name, ours, theirs) in [
        ("stdout", &native.stdout, &inside.stdout),
        ("stderr", &native.stderr, &inside.stderr),
    ] {
        if ours != theirs {
            found.push(first_difference(name, ours, theirs));
        }
    }
    found
}

/// The first lines that differ, with the two before them.
fn first_difference(name: &str, native: &[u8], inside: &[u8]) -> String {
    const SHOWN: usize = 6;
    let lines = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(bytes)
            .split_inclusive('\n')
            .map(|l| format!("{l:?}"))
            .collect()
    };
    let (native, inside) = (lines(native), lines(inside));
    let same = native
        .iter()
        .zip(&inside)
        .take_while(|(a, b)| a == b)
        .count();
    let mut text = format!("{name} from line {}:", same + 1);
    for line in &native[same.saturating_sub(2)..same] {
        text.push_str(&format!("\n    {line}"));
    }
    for (mark, lines) in [("native ", &native), ("sandbox", &inside)] {
        for line in lines.iter().skip(same).take(SHOWN) {
            text.push_str(&format!("\n  {mark} {line}"));
        }
        if lines.len() <= same {
            text.push_str(&format!("\n  {mark} (ends)"));
        }
    }
    text
}

/// What a sandbox changed in the host's directory, where it may change nothing.
fn changes_to_host(scratch: &Path) -> Vec<String> {
    let mut found = Vec::new();
    if fs::read_to_string(scratch.join(HOST_FILE)).ok().as_deref() != Some(HOST_TEXT) {
        found.push(format!("the sandbox changed {HOST_FILE} on the host"));
    }
    for entry in fs::read_dir(scratch).unwrap() {
        let name = entry.unwrap().file_name();
        if name != HOST_FILE {
            found.push(format!(
                "the sandbox left {} on the host",
                name.to_string_lossy()
            ));
        }
    }
    found
}

#[test]
fn headers_say_what_a_script_needs() {
    let header =
        Header::parse("# Text.\n# needs: a b\n# needs-program: src\n# exit: 7\nx\n# needs: c");
    let expected = Header {
        programs: vec!["a".to_string(), "b".to_string()],
        sources: vec!["src".to_string()],
        rust: false,
        exit: 7,
    };
    assert_eq!(header, expected);
    let missing = Header {
        programs: vec!["sh".into(), "no-such-program".into()],
        ..expected
    };
    assert_eq!(missing.missing(), ["no-such-program", "the source of src"]);
}

#[test]
fn every_kind_of_difference_is_reported() {
    let outcome = |end: &str, stdout: &str, stderr: &str| Outcome {
        end: end.to_string(),
        stdout: stdout.as_bytes().to_vec(),
        stderr: stderr.as_bytes().to_vec(),
    };
    let native = outcome("exit status: 0", "a\nb\nc\nd\n", "");
    assert_eq!(differences(&native, &native), [""; 0]);
    let other = outcome("exit status: 1", "a\nb\nc\nD\n", "oops\n");
    assert_eq!(
        differences(&native, &other),
        [
            "end: \"exit status: 0\" natively, \"exit status: 1\" in the sandbox",
            "stdout from line 4:\n    \"b\\n\"\n    \"c\\n\"\n  native  \"d\\n\"\n  sandbox \"D\\n\"",
            "stderr from line 1:\n  native  (ends)\n  sandbox \"oops\\n\"",
        ]
    );
    // A missing newline at the end is a difference too.
    assert_eq!(
        differences(&native, &outcome("exit status: 0", "a\nb\nc\nd", "")).len(),
        1
    );
}

#[test]
fn a_command_that_does_not_end_is_killed_with_its_children() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo started; sleep 1234 & sleep 1234"]);
    let outcome = run(command, Duration::from_secs(5));
    assert_eq!(outcome.end, "killed after 5s");
    assert_eq!(outcome.stdout, b"started\n");
}
