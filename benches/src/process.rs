//! Running one command to its end, and looking at process trees.
//!
//! The runner makes itself a *child subreaper*, so whatever a runtime leaves
//! behind or detaches stays below the runner and can be counted, reported and
//! ended. One command runs at a time, which makes "all of our descendants" and
//! "the processes of this run" the same set, but for those of [`Beside`].

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// How long what a runtime started may outlive its command before it counts as
/// left behind.
const GRACE: Duration = Duration::from_secs(2);

/// How one command ended.
#[derive(Debug)]
pub struct Outcome {
    /// `None` if the time limit ended it.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
    /// From just before the process was made until it had exited.
    pub wall: Duration,
    /// Names of the processes that were still there afterwards (they are ended).
    pub left_behind: Vec<String>,
}

impl Outcome {
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// One line that says why this was not a success.
    pub fn reason(&self) -> String {
        let how = match self.status {
            None => format!("did not end within {} s", self.wall.as_secs()),
            Some(status) => status.to_string(),
        };
        match self.stderr.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!("{how}: {}", line.trim()),
            None => how,
        }
    }
}

/// Whether the output of a command is kept or thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Capture,
    /// No pipes and no reader threads: for measuring the command itself.
    Discard,
}

/// Makes descendants whose parent has exited children of this process.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Runs `command` until it has exited or `limit` is over; then everything it
/// started is ended.
pub fn run(command: Command, output: Output, limit: Duration) -> io::Result<Outcome> {
    run_beside(&mut Beside::default(), command, output, limit)
}

/// The same while what is `beside` it runs, which is no part of the command. A program there is
/// ended with it.
pub fn run_beside(
    beside: &mut Beside,
    mut command: Command,
    output: Output,
    limit: Duration,
) -> io::Result<Outcome> {
    let stream = || match output {
        Output::Capture => Stdio::piped(),
        Output::Discard => Stdio::null(),
    };
    command
        .stdin(beside.input())
        .stdout(stream())
        .stderr(stream());
    let start = Instant::now();
    let mut child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);

    let (ended, wait_for_end) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let late = wait_for_end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            end_all(&descendants(pid));
            let _ = kill(pid, Signal::SIGKILL);
        }
        late
    });
    // WNOWAIT keeps the pid ours until the watchdog is gone.
    while let Err(nix::errno::Errno::EINTR) =
        waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
    {}
    let wall = start.elapsed();
    // It fails if the watchdog has ended already, which is as good.
    let _ = ended.send(());
    let late = watchdog.join().unwrap_or(false);
    let status = child.wait()?;
    beside.end_program();
    let left_behind = end_leftovers(beside);
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Outcome {
        status: (!late).then_some(status),
        stdout: text(stdout),
        stderr: text(stderr),
        wall,
        left_behind,
    })
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error leaves what was read so far, which is what a report can use.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits a moment for the descendants of this process to go, those `beside` excepted, ends
/// those that do not, and returns their names.
fn end_leftovers(beside: &Beside) -> Vec<String> {
    let deadline = Instant::now() + GRACE;
    loop {
        let left = leftovers(beside);
        if left.is_empty() {
            return Vec::new();
        }
        if Instant::now() > deadline {
            let names = left.iter().map(|&pid| name_of(pid)).collect();
            end_all_but(beside);
            return names;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits a moment for all descendants of this process to go, ends those that do not, and returns
/// their names.
pub fn left_behind() -> Vec<String> {
    end_leftovers(&Beside::default())
}

/// Ends every descendant of this process and takes their exit statuses.
pub fn end_now() {
    end_all_but(&Beside::default());
}

/// What is traced or forks while the list is walked may need more than one look.
fn end_all_but(beside: &Beside) {
    loop {
        let left = leftovers(beside);
        if left.is_empty() {
            return;
        }
        end_all(&left);
        thread::sleep(Duration::from_millis(2));
    }
}

fn leftovers(beside: &Beside) -> Vec<Pid> {
    reap();
    let mut left = descendants(Pid::this());
    left.retain(|pid| !beside.pids().contains(pid));
    left
}

/// What runs while a command does; dropping this ends it.
#[derive(Debug, Default)]
pub struct Beside {
    /// Processes that only take processor time.
    loops: Vec<Child>,
    /// Leads a process group.
    program: Option<Child>,
}

impl Beside {
    /// Starts `count` loops. A loop looks now and then whether this process is
    /// still there, should it be killed before it can end them.
    pub fn busy(count: usize) -> io::Result<Beside> {
        const LOOP: &str = "while [ -d \"/proc/$PPID\" ]; do
            i=0; while [ $i -lt 10000 ]; do i=$((i + 1)); done
        done";
        let mut beside = Beside::default();
        for _ in 0..count {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", LOOP]).stdin(Stdio::null());
            beside.loops.push(command.spawn()?);
        }
        Ok(beside)
    }

    /// Starts a program. What it prints is what the command reads, which so learns its end, too.
    pub fn program(mut command: Command) -> io::Result<Beside> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let program = command.process_group(0).spawn()?;
        Ok(Beside {
            loops: Vec::new(),
            program: Some(program),
        })
    }

    /// What the command reads.
    fn input(&mut self) -> Stdio {
        let output = self.program.as_mut().and_then(|child| child.stdout.take());
        output.map_or_else(Stdio::null, Stdio::from)
    }

    fn end_program(&mut self) {
        if let Some(mut child) = self.program.take() {
            // Each fails if it is gone already, which is what is wanted.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }

    fn pids(&self) -> Vec<Pid> {
        let pid = |child: &Child| Pid::from_raw(child.id().cast_signed());
        self.loops.iter().map(pid).collect()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.end_program();
        for child in &mut self.loops {
            // Both fail if it is gone already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn end_all(pids: &[Pid]) {
    for &pid in pids {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Takes the exit status of every child that has exited. Only called while no
/// `Child` of the standard library is waiting for its own.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// The processes below `root`, `root` excluded.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent_in_stat(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut queue = vec![root.as_raw()];
    while let Some(pid) = queue.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            found.push(Pid::from_raw(child));
            queue.push(child);
        }
    }
    found
}

/// The parent's pid in the text of `/proc/PID/stat`. The command's name stands in
/// parentheses before it and may itself contain any character.
fn parent_in_stat(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Processor time that a process has used, in clock ticks; 0 if it is gone.
pub fn ticks(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ticks_in_stat(&stat).unwrap_or(0)
}

/// `utime` and `stime` in the text of `/proc/PID/stat`.
fn ticks_in_stat(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace().skip(11);
    let mut next = || words.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn name_of(pid: Pid) -> String {
    let directory = format!("/proc/{pid}");
    let command = fs::read_to_string(format!("{directory}/cmdline")).unwrap_or_default();
    let first = command.split('\0').next().unwrap_or_default();
    match first.rsplit('/').next() {
        Some(name) if !name.is_empty() => name.to_string(),
        _ => fs::read_to_string(format!("{directory}/comm"))
            .map(|name| name.trim().to_string())
            .unwrap_or_else(|_| "(gone)".to_string()),
    }
}

/// Memory of one process, for the JSON report.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ProcessMemory {
    pub name: String,
    pub pss_kib: u64,
}

/// The proportional memory of each process below `root`. An error names the
/// process that could not be read: a sum that leaves one out would flatter.
pub fn memory_below(root: Pid) -> Result<Vec<ProcessMemory>, String> {
    let mut processes = Vec::new();
    for pid in descendants(root) {
        let name = name_of(pid);
        match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(text) => {
                // A zombie's file is empty.
                let pss_kib = pss_in_rollup(&text).unwrap_or(0);
                processes.push(ProcessMemory { name, pss_kib });
            }
            // ESRCH: it exited, or is a zombie without memory.
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("cannot read the memory of {name} ({pid}): {e}")),
        }
    }
    Ok(processes)
}

fn pss_in_rollup(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_behind_any_name() {
        assert_eq!(parent_in_stat("12 (a) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in_stat("12 (a) R) 9 (x) S 7 12"), Some(7));
        assert_eq!(parent_in_stat("12"), None);
    }

    #[test]
    fn busy_loops_take_time_until_they_are_dropped() {
        let beside = Beside::busy(2).unwrap();
        let pids = beside.pids();
        assert_eq!(pids.len(), 2);
        let deadline = Instant::now() + Duration::from_secs(10);
        while pids.iter().any(|&pid| ticks(pid) < 2) {
            assert!(Instant::now() < deadline, "the loops do not run");
            thread::yield_now();
        }
        drop(beside);
        for pid in pids {
            assert_eq!(ticks(pid), 0);
        }
    }

    #[test]
    fn a_program_beside_is_read_and_ended() {
        let shell = |text: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", text]);
            command
        };
        let limit = Duration::from_secs(60);
        let mut beside = Beside::program(shell("echo said; exec sleep 1000")).unwrap();
        let pid = beside.program.as_ref().unwrap().id();
        let outcome = run_beside(
            &mut beside,
            shell("read line; echo $line"),
            Output::Capture,
            limit,
        );
        assert_eq!(outcome.unwrap().stdout, "said\n");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        let mut beside = Beside::program(shell("echo one; echo two")).unwrap();
        let outcome = run_beside(&mut beside, shell("cat"), Output::Capture, limit);
        assert_eq!(outcome.unwrap().stdout, "one\ntwo\n");
    }

    #[test]
    fn pss_is_the_sum_line_only() {
        let text = "00400000-7fff [rollup]\nRss:  900 kB\nPss:  421 kB\nPss_Dirty:  13 kB\n";
        assert_eq!(pss_in_rollup(text), Some(421));
        assert_eq!(pss_in_rollup(""), None);
    }

    #[test]
    fn reasons_name_status_and_last_line() {
        use std::os::unix::process::ExitStatusExt;
        let mut outcome = Outcome {
            status: Some(ExitStatus::from_raw(0x0100)),
            stdout: String::new(),
            stderr: "one\nno such platform\n\n".to_string(),
            wall: Duration::from_secs(3),
            left_behind: Vec::new(),
        };
        assert_eq!(outcome.reason(), "exit status: 1: no such platform");
        outcome.status = None;
        outcome.stderr.clear();
        assert_eq!(outcome.reason(), "did not end within 3 s");
    }
}
