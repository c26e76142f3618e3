//! Random system calls from the table: what a program that means harm, or none, may ask for.
//!
//! [`rounds`] starts one child after the other; each makes some hundred calls, alone or with
//! threads and children of its own, and is killed when its time is over. The children may die of
//! it. This process must not, nor may the kernel below.
//!
//! Deliberately absent: any judgement of results. That is the business of the cases.

mod arena;
mod child;
mod random;
mod raw;
mod values;

use runsc_syscall_tables::{Arch, Family, SYSCALLS, Syscall};
use std::time::{Duration, Instant};

/// What a run is made of; the same plan makes the same calls.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub rounds: u64,
    /// Calls of one thread in one round.
    pub calls: u64,
    /// Only calls of this family.
    pub family: Option<Family>,
    /// Only calls of these names.
    pub names: Vec<String>,
    /// Print each call before it is made.
    pub verbose: bool,
}

/// How long a child may live.
const LIFE: Duration = Duration::from_millis(1200);

/// Calls that end or stop the machine, where they are allowed.
const NEVER: &[&str] = &["reboot", "kexec_load", "kexec_file_load", "vhangup"];

fn chosen(plan: &Plan) -> Vec<&'static Syscall> {
    let wanted = |call: &&Syscall| {
        plan.family.is_none_or(|family| call.family == family)
            && (plan.names.is_empty() || plan.names.iter().any(|name| name == call.name))
            && !NEVER.contains(&call.name)
            && call.number(Arch::HOST).is_some()
    };
    SYSCALLS.iter().filter(wanted).collect()
}

/// Makes all rounds in `dir`.
///
/// # Errors
/// No child could be made.
pub fn rounds(plan: &Plan) -> std::io::Result<()> {
    let calls = chosen(plan);
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    for round in 0..plan.rounds {
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => return Err(std::io::Error::last_os_error()),
            0 => child::main(plan, &calls, round),
            _ => watch(pid, plan.verbose),
        }
    }
    Ok(())
}

/// Waits for the child, then ends whatever it has left.
fn watch(pid: i32, verbose: bool) {
    let end = Instant::now() + LIFE;
    let mut killed = false;
    loop {
        let reaped = reap(verbose);
        if reaped.none_left {
            return;
        }
        if reaped.pids.contains(&pid) || Instant::now() > end || killed {
            killed = true;
            for child in children() {
                // SAFETY: takes numbers only; a child of ours that nobody else reaps.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Reaped {
    pids: Vec<i32>,
    none_left: bool,
}

fn reap(verbose: bool) -> Reaped {
    let mut pids = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) } {
            0 => {
                return Reaped {
                    pids,
                    none_left: false,
                };
            }
            pid if pid > 0 => {
                if verbose {
                    eprintln!("{pid} ended: {status:#x}");
                }
                pids.push(pid);
            }
            _ => {
                return Reaped {
                    pids,
                    none_left: true,
                };
            }
        }
    }
}

/// Children of this process, adopted ones too.
fn children() -> Vec<i32> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may contain anything, a parenthesis too.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        fields
            .split_whitespace()
            .nth(1)
            .and_then(|ppid| ppid.parse().ok())
            == Some(own)
    })
    .collect()
}
