//! Any of our processes is killed at random moments of a container's life: `state` says what is true,
//! and `delete --force` removes everything.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use common::{Bundle, PROGRAM};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Points in all, and threads that try them.
const POINTS: u64 = 280;
const THREADS: u64 = 2;
/// How long anything may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(120);

/// xorshift64*: the same points in every run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// A container of which everything can be found.
struct Subject {
    bundle: Bundle,
    /// In the environment of all our processes: one of the few variables that are handed on.
    marker: String,
    /// The name of its control group.
    group: String,
    /// How long a creation takes, in microseconds: moments are chosen from one and a half of it.
    creation_us: u64,
}

impl Subject {
    fn new(name: &str) -> Self {
        let config = include_str!("data/minimal.json")
            .replace("\"rootfs\"", "\"/\"")
            .replace(
                "\"/bin/true\"",
                "\"/bin/sh\", \"-c\", \"while :; do sleep 0.01; done\"",
            )
            .replace(
                "\"process\"",
                &format!(
                    "\"linux\": {{\"cgroupsPath\": \"/{}\"}}, \"process\"",
                    group(name)
                ),
            );
        let mut subject = Self {
            bundle: Bundle::new(Some(&config)),
            marker: format!("/nowhere/{name}-{}", std::process::id()),
            group: group(name),
            creation_us: 0,
        };
        // The quickest of a few: a busy moment is no measure.
        let creations = (0..3).map(|_| {
            let begun = Instant::now();
            assert!(subject.create().status().unwrap().success());
            let took = begun.elapsed().as_micros() as u64;
            subject.remove("the first");
            took
        });
        subject.creation_us = creations.min().unwrap();
        subject
    }

    fn command(&self, args: &[&str]) -> Command {
        let out = File::create(self.bundle.path.join("out")).unwrap();
        let err = File::create(self.bundle.path.join("err")).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .arg("--root")
            .arg(self.bundle.state())
            .args(args)
            .env("LD_LIBRARY_PATH", &self.marker)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        command
    }

    fn call(&self, args: &[&str]) -> (i32, String) {
        let status = self.command(args).status().unwrap();
        let text = |name: &str| fs::read_to_string(self.bundle.path.join(name)).unwrap();
        (status.code().unwrap_or(-1), text("out") + &text("err"))
    }

    fn create(&self) -> Command {
        let path = self.bundle.path.display().to_string();
        self.command(&["create", "--bundle", &path, "c"])
    }

    /// In the foreground.
    fn run(&self) -> Command {
        let path = self.bundle.path.display().to_string();
        self.command(&["run", "--bundle", &path, "c"])
    }

    /// Waits until nothing of it lives.
    fn until_dead(&self, point: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{point}: {left:?} live");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Our living processes and their names.
    fn processes(&self) -> Vec<(i32, String)> {
        let needle = format!("LD_LIBRARY_PATH={}\0", self.marker);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            let is_ours = environ
                .windows(needle.len())
                .any(|window| window == needle.as_bytes());
            if is_ours && is_alive(&entry.path()) {
                let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push((pid, comm.trim().to_owned()));
            }
        }
        found
    }

    fn part(&self, name: &str) -> Option<i32> {
        let processes = self.processes();
        processes
            .iter()
            .find(|(_, n)| n == name)
            .map(|(pid, _)| *pid)
    }

    /// Whether what `state` says is so; what it says.
    fn is_truth_told(&self) -> Result<Option<String>, String> {
        let (code, text) = self.call(&["state", "c"]);
        let parts: Vec<_> = self.processes();
        let of = |name: &str| parts.iter().find(|(_, n)| n == name).map(|(pid, _)| *pid);
        if code != 0 {
            return match parts.is_empty() && text.contains("does not exist") {
                true => Ok(None),
                false => Err(format!("{text:?}, but {parts:?} live")),
            };
        }
        let state: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        let status = state["status"].as_str().unwrap_or_default().to_owned();
        let pid = state["pid"].as_i64();
        let truth = match status.as_str() {
            "created" | "running" | "paused" => {
                let whole = ["runsc-gofer", "runsc-sentry"].map(of);
                let monitor = of("runsc-monitor").map(i64::from);
                whole.iter().all(Option::is_some) && monitor.is_some() && pid == monitor
            }
            "stopped" => parts.is_empty() && pid == Some(0),
            _ => false,
        };
        match truth {
            true => Ok(Some(status)),
            false => Err(format!("{status} {pid:?}, but {parts:?} live")),
        }
    }

    fn settle(&self, point: &str) -> Option<String> {
        self.settle_with(point, |_| true)
    }

    /// Waits for the truth, and for it to be one that is expected.
    fn settle_with(&self, point: &str, expected: impl Fn(Option<&str>) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match self.is_truth_told() {
                Ok(status) if expected(status.as_deref()) => return status,
                Ok(status) => format!("{status:?}"),
                Err(why) => why,
            };
            assert!(Instant::now() < deadline, "{point}: {why}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes it by force, and finds nothing left.
    fn remove(&self, point: &str) {
        let (code, text) = self.call(&["delete", "--force", "c"]);
        assert_eq!((code, text.as_str()), (0, ""), "{point}");
        assert_eq!(self.processes(), [], "{point}");
        assert_eq!(self.bundle.left_behind(), Vec::<String>::new(), "{point}");
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let left = hierarchy.path().join(&self.group);
            assert!(!left.exists(), "{point}: {} is left", left.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.bundle.path.display().to_string();
        assert!(!mounts.contains(&path), "{point}: {mounts}");
    }
}

fn group(name: &str) -> String {
    format!("runsc-rs-{name}-{}", std::process::id())
}

fn is_alive(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Kills a command after a while; it may have ended by then.
fn cut_short(mut child: Child, after: Duration) {
    std::thread::sleep(after);
    let _ = child.kill();
    child.wait().unwrap();
}

/// Kills a process and waits until it is dead: until then the state of before is a true one.
fn kill_part(pid: i32) {
    // It may have died with another one.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let process = Path::new("/proc").join(pid.to_string());
    let deadline = Instant::now() + PATIENCE;
    while is_alive(&process) {
        assert!(Instant::now() < deadline, "{pid} lives");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One point: some process dies at some moment. What the state was then.
fn point(subject: &Subject, random: &mut Random, name: &str) -> (u64, Option<String>) {
    // As a share of what a creation takes.
    let after = |random: &mut Random, percent: u64| {
        Duration::from_micros(random.next(subject.creation_us * percent / 100))
    };
    // Where the creation is what is cut short.
    let kind = random.next(11);
    let name = format!("{name}, kind {kind}");
    match kind {
        8 => {
            let run = subject.run().spawn().unwrap();
            cut_short(run, after(random, 200));
            // Its container dies with it, a moment later.
            let status =
                subject.settle_with(&name, |status| matches!(status, None | Some("stopped")));
            subject.remove(&name);
            return (kind, status);
        }
        9 => {
            let mut run = subject.run().spawn().unwrap();
            std::thread::sleep(after(random, 200));
            let victim = ["runsc-monitor", "runsc-gofer", "runsc-sentry"][random.next(3) as usize];
            match subject.part(victim) {
                Some(pid) => {
                    kill_part(pid);
                    // It cleans up itself.
                    assert!(!run.wait().unwrap().success(), "{name}");
                    let status = subject.settle(&name);
                    assert_eq!(status, None, "{name}");
                }
                None => cut_short(run, Duration::ZERO),
            }
            subject.settle(&name);
            subject.remove(&name);
            return (kind, None);
        }
        10 => return (kind, cut_do_short(subject, after(random, 150), &name)),
        _ => {}
    }
    if kind < 3 {
        let create = subject.create().spawn().unwrap();
        let moment = after(random, 150);
        match kind {
            0 => cut_short(create, moment),
            _ => {
                std::thread::sleep(moment);
                let victim =
                    ["runsc-monitor", "runsc-gofer", "runsc-sentry"][random.next(3) as usize];
                if let Some(pid) = subject.part(victim) {
                    kill_part(pid);
                }
                let mut create = create;
                create.wait().unwrap();
            }
        }
        let status = subject.settle(&name);
        subject.remove(&name);
        return (kind, status);
    }
    let (code, text) = {
        let status = subject.create().status().unwrap();
        let err = fs::read_to_string(subject.bundle.path.join("err")).unwrap();
        (status.code(), err)
    };
    assert_eq!(code, Some(0), "{name}: {text}");
    let status = match kind {
        3 => {
            let start = subject.command(&["start", "c"]).spawn().unwrap();
            cut_short(start, after(random, 40));
            let status = subject.settle(&name);
            assert!(
                matches!(status.as_deref(), Some("created" | "running")),
                "{name}: {status:?}"
            );
            status
        }
        4 => {
            let delete = subject
                .command(&["delete", "--force", "c"])
                .spawn()
                .unwrap();
            cut_short(delete, after(random, 100));
            subject.settle(&name)
        }
        5 => {
            assert_eq!(subject.call(&["start", "c"]).0, 0, "{name}");
            let words = [["pause", "c"], ["resume", "c"]][random.next(2) as usize];
            if words[0] == "resume" {
                assert_eq!(subject.call(&["pause", "c"]).0, 0, "{name}");
            }
            cut_short(subject.command(&words).spawn().unwrap(), after(random, 60));
            let status = subject.settle(&name);
            assert!(
                matches!(status.as_deref(), Some("paused" | "running")),
                "{name}: {status:?}"
            );
            status
        }
        6 => {
            assert_eq!(subject.call(&["start", "c"]).0, 0, "{name}");
            let exec = ["exec", "--detach", "c", "/bin/sleep", "1000"];
            let exec = subject.command(&exec).spawn().unwrap();
            std::thread::sleep(after(random, 150));
            match subject.part("runsc-attend") {
                Some(pid) if random.next(2) == 0 => {
                    kill_part(pid);
                    let mut exec = exec;
                    exec.wait().unwrap();
                }
                _ => cut_short(exec, Duration::ZERO),
            }
            let status = subject.settle(&name);
            assert_eq!(status.as_deref(), Some("running"), "{name}");
            status
        }
        _ => {
            let start = subject.command(&["start", "c"]).spawn().unwrap();
            std::thread::sleep(after(random, 150));
            let victim = ["runsc-monitor", "runsc-gofer", "runsc-sentry"][random.next(3) as usize];
            kill_part(
                subject
                    .part(victim)
                    .unwrap_or_else(|| panic!("{name}: no {victim}")),
            );
            let mut start = start;
            start.wait().unwrap();
            let status = subject.settle(&name);
            assert_eq!(status.as_deref(), Some("stopped"), "{name}");
            status
        }
    };
    subject.remove(&name);
    (kind, status)
}

/// `do` keeps no state: when it is killed, its processes die and its control group goes.
fn cut_do_short(subject: &Subject, after: Duration, name: &str) -> Option<String> {
    let command = subject
        .command(&["do", "--cpus", "0.5", "--", "sleep", "1000"])
        .spawn()
        .unwrap();
    let group = format!("runsc-rs-do-{}", command.id());
    cut_short(command, after);
    subject.until_dead(name);
    // Should it have been killed before there was anybody to remove the group, the next one does, once no
    // process is on its way out of it.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let of_hierarchies = || {
        fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
    };
    let left = || {
        let paths = own.lines().map(|line| line.rsplit(':').next().unwrap());
        paths
            .flat_map(|path| {
                let inner = Path::new(path.trim_start_matches('/')).join(&group);
                of_hierarchies().map(move |hierarchy| hierarchy.path().join(&inner))
            })
            .find(|path| path.exists())
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let next = subject.call(&["do", "--cpus", "0.5", "--", "true"]);
        assert_eq!(next, (0, String::new()), "{name}");
        match left() {
            None => break,
            Some(left) => assert!(
                Instant::now() < deadline,
                "{name}: {} is left",
                left.display()
            ),
        }
    }
    None
}

#[test]
fn whatever_is_killed_the_state_is_true_and_nothing_is_left() {
    let seen = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let seen = &seen;
            scope.spawn(move || {
                let subject = Subject::new(&format!("crash{thread}"));
                let mut random = Random(0x9E37_79B9_7F4A_7C15 + thread);
                for index in 0..POINTS / THREADS {
                    let name = format!("thread {thread}, point {index}");
                    let outcome = point(&subject, &mut random, &name);
                    seen.lock().unwrap().insert(outcome);
                }
            });
        }
    });
    // The moments are such that both sides of a change are met.
    let seen = seen.into_inner().unwrap();
    let of_creation = seen.iter().filter(|(kind, _)| *kind == 0).count();
    assert!(of_creation > 1 && seen.len() > 9, "{seen:?}");
    eprintln!("{seen:?}");
}
