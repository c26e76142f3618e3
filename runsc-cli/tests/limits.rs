//! Limits of a container: what the guest meets, what it is told, and the host's control group.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

use common::{Bundle, with_stubs};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A bundle that runs a shell script.
fn bundle(script: &str, linux: Value) -> Bundle {
    let mut config = common::config(script);
    config["linux"] = linux;
    Bundle::new(Some(&config.to_string()))
}

/// What the script says; the sandbox must have ended well.
fn run(script: &str, linux: Value) -> String {
    let bundle = bundle(script, linux);
    let output = bundle.run("limited").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first of these files that the guest has.
const FIRST: &str = "first() { for f; do if [ -e /sys/fs/cgroup/$f ]; then \
                     cat /sys/fs/cgroup/$f; return; fi; done; echo none; }; ";

/// A file in memory takes half of a limit at most, and says so: nobody has to die for it.
#[test]
fn files_in_memory_leave_room() {
    let script = "head -c 100M /dev/zero > /dev/shm/a; echo $?; echo x > /dev/shm/b; rm /dev/shm/a; \
                  ls / > /dev/null && echo alive";
    let output = Command::new(common::PROGRAM)
        .args(["do", "--memory", "32M", "--", "bash", "-c", script])
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stdout, "1\nalive\n", "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    // Without a size of its own: no byte of it is at a bad address.
    let script = "import os\nf = os.memfd_create('x')\ntry:\n  while True: os.write(f, b'x' * (1 << 20))\n\
                  except OSError as e: print(e.errno)";
    let output = Command::new(common::PROGRAM)
        .args(["do", "--memory", "32M", "--", "python3", "-c", script])
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(["12\n", "28\n", ""].contains(&&*stdout), "{stdout}");
}

/// Whoever waits for a command learns what killed its processes.
#[test]
fn lack_of_memory_is_told() {
    let output = Command::new(common::PROGRAM)
        .args(["do", "--memory", "32M", "--", "tail", "/dev/zero"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(137), "{stderr}");
    assert!(
        stderr.contains("runsc-rs: out of memory: process 2 was killed"),
        "{stderr}"
    );
}

#[test]
fn who_reaches_the_memory_limit_is_killed_and_nobody_else() {
    let script = format!(
        "{FIRST} tail /dev/zero; echo $?; first memory/memory.oom_control memory.events; \
         head -c 500M /dev/zero >/dev/shm/big; rm /dev/shm/big; \
         cat /proc/self/status | grep Name; \
         for i in 1 2 3; do tail /dev/zero & done; wait; echo done"
    );
    let linux = json!({"resources": {"memory": {"limit": 64 * MIB}}});
    let said = run(&script, linux);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "137", "{said}");
    assert!(lines.contains(&"oom_kill 1"), "{said}");
    assert!(lines.contains(&"Name:\tcat"), "{said}");
    assert_eq!(lines.last(), Some(&"done"), "{said}");
}

#[test]
fn memory_below_the_limit_is_there() {
    let script = "head -c 20M /dev/zero | tail -c 20M | wc -c; \
                  head -c 20M /dev/zero >/dev/shm/some; wc -c </dev/shm/some";
    let linux = json!({"resources": {"memory": {"limit": 64 * MIB}}});
    assert_eq!(run(script, linux), "20971520\n20971520\n");
}

#[test]
fn tasks_beyond_the_limit_are_refused() {
    // A shell that cannot fork gives up; the one around it is inside the limit.
    let script = format!(
        "{FIRST} sh -c 'for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done' 2>&1; \
         first pids/pids.events pids.events; first pids/pids.max pids.max; \
         first pids/pids.current pids.current"
    );
    let linux = json!({"resources": {"pids": {"limit": 6}}});
    let said = run(&script, linux);
    assert!(said.contains("fork"), "{said}");
    assert!(said.contains("max 1\n6\n6\n"), "{said}");
}

#[test]
fn limits_are_visible() {
    let script = format!(
        "{FIRST} nproc; grep -c ^processor /proc/cpuinfo; grep -c '^cpu[0-9]' /proc/stat; \
         grep MemTotal /proc/meminfo; first memory/memory.limit_in_bytes memory.max; \
         first cpu/cpu.cfs_quota_us cpu.max; ls /sys/devices/system/cpu | grep -c 'cpu[0-9]'; \
         echo x >/sys/fs/cgroup/cgroup.procs; grep -c cgroup /proc/self/mountinfo"
    );
    let linux = json!({"resources": {
        "memory": {"limit": 96 * MIB}, "cpu": {"quota": 70_000, "period": 100_000},
    }});
    let said = run(&script, linux);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..3], ["1", "1", "1"], "{said}");
    assert_eq!(lines[3], format!("MemTotal:{:>15} kB", 96 * 1024), "{said}");
    assert_eq!(lines[4], (96 * MIB).to_string(), "{said}");
    assert!(lines[5].starts_with("70000"), "{said}");
    assert_eq!(lines[6], "1", "{said}");
}

#[test]
fn without_limits_the_machine_is_visible() {
    let host = Command::new("sh")
        .args(["-c", "nproc; grep MemTotal /proc/meminfo"])
        .output()
        .unwrap();
    let said = run("nproc; grep MemTotal /proc/meminfo", json!({}));
    let nproc = |text: &str| text.lines().next().map(String::from);
    assert_eq!(nproc(&said), nproc(&String::from_utf8_lossy(&host.stdout)));
    let kib = |text: &str| -> f64 {
        let word = text.lines().nth(1).unwrap().split_whitespace().nth(1);
        word.unwrap().parse().unwrap()
    };
    let (inside, outside) = (kib(&said), kib(&String::from_utf8_lossy(&host.stdout)));
    assert!((inside / outside - 1.0).abs() < 0.05, "{inside} {outside}");
}

/// Directories of the groups of that path.
fn groups(path: &str) -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    let mut found = vec![top.join(path)];
    for entry in fs::read_dir(&top).into_iter().flatten().flatten() {
        found.push(entry.path().join(path));
    }
    found.retain(|directory| directory.exists());
    found
}

#[test]
fn the_hosts_group_holds_the_sandbox_and_is_removed() {
    let name = format!("runsc-rs-test-{}", std::process::id());
    let path = format!("{name}/inner");
    let linux = json!({
        "cgroupsPath": format!("/{path}"),
        "resources": {"memory": {"limit": 64 * MIB}, "pids": {"limit": 50}},
    });
    let bundle = bundle("echo up; read line; exit 3", linux);
    let mut run = bundle.command(&[with_stubs(), "run", "--bundle"]);
    run.arg(&bundle.path).arg("held").stdin(Stdio::piped());
    let mut child = run.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    if line.is_empty() {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("cgroup"), "{stderr}");
        eprintln!("skipped: no cgroups can be made here: {stderr}");
        return;
    }
    let groups = groups(&path);
    assert!(!groups.is_empty());
    for group in &groups {
        let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let names: Vec<_> = inside
            .lines()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default())
            .collect();
        for part in ["runsc-gofer\n", "runsc-sentry\n"] {
            assert!(names.iter().any(|name| name == part), "{group:?} {names:?}");
        }
        // The guest's process is one of the stubs.
        assert!(names.len() > 2, "{group:?} {names:?}");
        let limit = ["memory.limit_in_bytes", "memory.max"]
            .iter()
            .find_map(|file| fs::read_to_string(group.join(file)).ok());
        if let Some(limit) = limit.filter(|_| group.starts_with("/sys/fs/cgroup/memory")) {
            assert_eq!(limit.trim(), (64 * MIB).to_string());
        }
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    for group in groups {
        assert!(!group.exists(), "{}", group.display());
        assert!(!group.parent().unwrap().ends_with(&name) || !group.parent().unwrap().exists());
    }
}

/// A command that is killed cannot clean up.
#[test]
fn the_group_of_a_killed_command_is_removed() {
    let mut command = Command::new(common::PROGRAM)
        .args([
            "do",
            "--cpus",
            "0.5",
            "--",
            "sh",
            "-c",
            "echo up; exec sleep 1000",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(command.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let name = format!("runsc-rs-do-{}", command.id());
    let groups: Vec<_> = own
        .lines()
        .flat_map(|line| groups(line.rsplit(':').next().unwrap().trim_start_matches('/')))
        .map(|group| group.join(&name))
        .filter(|group| group.exists())
        .collect();
    if groups.is_empty() {
        eprintln!("skipped: no cgroups can be made here");
    }
    command.kill().unwrap();
    command.wait().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while groups.iter().any(|group| group.exists()) {
        assert!(std::time::Instant::now() < deadline, "{groups:?}");
        std::thread::yield_now();
    }
}

/// The host's OOM killer is the last resort. Here it strikes because the group gets less than it uses.
#[test]
fn a_sandbox_that_the_host_ends_for_memory_says_so() {
    let mut command = Command::new(common::PROGRAM)
        .args(["do", "--memory", "64M", "--", "sh", "-c"])
        .arg("echo up; read go; while :; do head -c 40M /dev/zero | tail -c 40M >/dev/null; done")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(command.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.split_once(":memory:"));
    let group = own.map(|(_, path)| {
        let name = format!("runsc-rs-do-{}", command.id());
        PathBuf::from(format!("/sys/fs/cgroup/memory{path}")).join(name)
    });
    let Some(group) = group.filter(|group| group.exists()) else {
        eprintln!("skipped: no cgroup of version 1 for memory can be made here");
        command.kill().unwrap();
        command.wait().unwrap();
        return;
    };
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    let used: u64 = read("memory.usage_in_bytes").trim().parse().unwrap();
    let limit = (used + (8 << 20)).to_string();
    fs::write(group.join("memory.limit_in_bytes"), limit).unwrap();
    command.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = command.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(128), "{stderr}");
    assert!(
        stderr.contains("the host has killed processes for linux.resources.memory.limit"),
        "{stderr}"
    );
    assert!(!group.exists());
}

#[test]
fn what_cannot_be_held_to_is_refused_by_name() {
    let linux = json!({"resources": {"blockIO": {
        "throttleReadBpsDevice": [{"major": 4000, "minor": 0, "rate": 1}],
    }}});
    let bundle = bundle("echo not reached", linux);
    let output = bundle.run("refused").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("linux.resources.blockIO.throttleReadBpsDevice")
            || stderr.contains("cgroup"),
        "{stderr}"
    );
    assert_eq!(bundle.left_behind(), [""; 0]);
}

#[test]
fn many_processes_do_not_take_the_sandbox_with_them() {
    // What processes cost the host does not lie with the guest's memory.
    let script = "sh -c 'i=0; while [ $i -lt 400 ]; do sleep 100 & i=$((i + 1)); done' 2>&1; \
                  echo and on";
    let said = run(
        script,
        json!({"resources": {"memory": {"limit": 48 * MIB}}}),
    );
    assert!(said.contains("ork") && said.ends_with("and on\n"), "{said}");
}

/// A container that runs in the background, gone with the value.
struct Running(Bundle);

impl Running {
    /// `None` where no cgroups can be made.
    fn start(linux: Value) -> Option<Self> {
        let bundle = bundle("while :; do sleep 1000; done", linux);
        let mut run = bundle.command(&["run", "--detach", "--bundle"]);
        run.arg(&bundle.path).arg("c");
        run.stdout(Stdio::null()).stderr(Stdio::null());
        if !run.status().unwrap().success() {
            eprintln!("skipped: no cgroups can be made here");
            return None;
        }
        Some(Self(bundle))
    }

    /// What a command says, and its status.
    fn call(&self, args: &[&str]) -> (String, Option<i32>) {
        let output = self.0.command(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8(said).unwrap(), output.status.code())
    }

    fn inside(&self, script: &str) -> String {
        self.call(&["exec", "c", "sh", "-c", script]).0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let deleted = self.0.command(&["delete", "--force", "c"]).output();
        assert!(std::thread::panicking() || deleted.unwrap().status.success());
    }
}

#[test]
fn an_update_is_what_the_guest_sees_and_is_held_to() {
    let first = json!({
        "cpu": {"quota": 50_000, "period": 100_000}, "memory": {"limit": 64 * MIB},
    });
    let Some(container) = Running::start(json!({"resources": first})) else {
        return;
    };
    let view = format!(
        "{FIRST} nproc; getconf _NPROCESSORS_ONLN; grep MemTotal /proc/meminfo; \
         first memory/memory.limit_in_bytes memory.max; first pids/pids.max pids.max; \
         head -c $SIZE /dev/zero | tail -c $SIZE | wc -c"
    );
    let see = |size: &str| container.inside(&view.replace("$SIZE", size));
    let kib = |mib: u64| format!("MemTotal:{:>15} kB", mib * 1024);
    let cores = std::thread::available_parallelism()
        .unwrap()
        .min(2.try_into().unwrap());
    let bytes = 64 * MIB;
    assert_eq!(
        see("20M"),
        format!("1\n1\n{}\n{bytes}\nmax\n20971520\n", kib(64))
    );
    assert!(!see("100M").ends_with("104857600\n"));

    let more = [
        "--memory",
        "256M",
        "--cpu-quota",
        "200000",
        "--pids-limit",
        "40",
    ];
    let (said, code) = container.call(&[&["update"], &more[..], &["c"]].concat());
    assert_eq!((said.as_str(), code), ("", Some(0)));
    let (seen, bytes) = (see("100M"), 256 * MIB);
    let expected = format!("{cores}\n{cores}\n{}\n{bytes}\n40\n104857600\n", kib(256));
    assert_eq!(seen, expected);

    // What is not named stays, and what is in use cannot be taken away.
    let (said, code) = container.call(&["update", "--memory", "96M", "c"]);
    assert_eq!((said.as_str(), code), ("", Some(0)));
    let (seen, bytes) = (see("20M"), 96 * MIB);
    let expected = format!("{cores}\n{cores}\n{}\n{bytes}\n40\n20971520\n", kib(96));
    assert_eq!(seen, expected);
    assert!(!see("100M").ends_with("104857600\n"));
    // Docker names everything, with zeros.
    let nothing = json!({
        "memory": {"limit": 0, "reservation": 0, "swap": 0, "kernel": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": ""},
        "pids": {"limit": 0}, "blockIO": {"weight": 0},
    });
    let file = container.0.path.join("nothing.json");
    fs::write(&file, nothing.to_string()).unwrap();
    let file = file.display().to_string();
    let (said, code) = container.call(&["update", "--resources", &file, "c"]);
    assert_eq!((said.as_str(), code), ("", Some(0)));
    assert_eq!(see("20M"), expected);
    container.inside("head -c 40M /dev/zero >/dev/shm/kept");
    let (said, code) = container.call(&["update", "--memory", "32M", "c"]);
    assert!(code == Some(1) && said.contains("memory.limit"), "{said}");
    assert_eq!(see("20M"), expected);
}

/// One that was not limited can be.
#[test]
fn a_limit_may_come_later() {
    let Some(container) = Running::start(json!({"resources": {}})) else {
        return;
    };
    let script = "head -c 100M /dev/zero | tail -c 100M | wc -c";
    assert_eq!(container.inside(script), "104857600\n");
    let (said, code) = container.call(&["update", "--memory", "64M", "c"]);
    assert_eq!((said.as_str(), code), ("", Some(0)));
    let seen = container.inside(&format!("{script}; echo on"));
    assert_eq!(seen.replace("Killed\n", ""), "0\non\n");
    let limit = "head -1 /proc/meminfo | tr -dc 0-9";
    assert_eq!(container.inside(limit), (64 << 10).to_string());
}
