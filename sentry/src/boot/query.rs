//! Questions that the command line asks about the container.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{Answer, ProcessInfo, Query, Stats};
use crate::kernel::Kernel;
use crate::kernel::group::ThreadGroup;
use crate::kernel::time::MonoTime;

/// Processes in one message: it stays well below the longest.
const PROCESSES_AT_ONCE: usize = 100;
/// Bytes of a command line that are told.
const MAX_COMMAND: usize = 256;
/// Bytes of arguments that the host is to show.
const MAX_ARGUMENTS: usize = 4096;
const PIDS_AT_ONCE: usize = 1000;
/// How long guest code may take to notice that it is frozen, and naming host processes.
const PATIENCE: Duration = Duration::from_secs(2);

/// One answer, or several that belong together.
pub fn answer(kernel: &Arc<Kernel>, query: Query) -> Vec<Answer> {
    match query {
        Query::Processes => processes(kernel),
        Query::HostProcesses => host_processes(kernel),
        Query::Stats => vec![Answer::Stats(stats(kernel))],
        Query::Pause => {
            kernel.freeze();
            let begun = Instant::now();
            while kernel.is_guest_running() && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_micros(200));
            }
            vec![Answer::Done]
        }
        Query::Resume => {
            kernel.thaw();
            vec![Answer::Done]
        }
        Query::Limits(limits) => {
            kernel.set_limits(*limits);
            vec![Answer::Done]
        }
    }
}

fn processes(kernel: &Kernel) -> Vec<Answer> {
    let mut all = kernel.tree.groups();
    all.sort_by_key(|group| group.pid());
    let all: Vec<ProcessInfo> = all.iter().map(|group| describe(kernel, group)).collect();
    let mut answers: Vec<Answer> = all
        .chunks(PROCESSES_AT_ONCE)
        .map(|list| Answer::Processes {
            list: list.to_vec(),
            more: true,
        })
        .collect();
    match answers.last_mut() {
        Some(Answer::Processes { more, .. }) => *more = false,
        _ => answers.push(Answer::Processes {
            list: Vec::new(),
            more: false,
        }),
    }
    answers
}

fn host_processes(kernel: &Kernel) -> Vec<Answer> {
    let begun = Instant::now();
    let mut pids = Vec::new();
    for group in kernel.tree.groups() {
        let Some(task) = group.any_task() else {
            continue;
        };
        let Ok(mm) = task.try_mm() else {
            continue;
        };
        let Some(pid) = mm.space().host_process() else {
            continue;
        };
        pids.push(pid);
        // Those of many others that keep their hosts busy show what they showed before.
        if begun.elapsed() < PATIENCE {
            let comm = task.comm();
            let name = comm.split(|byte| *byte == 0).next().unwrap_or(&comm);
            let arguments = crate::fs::proc::command_line(&mm, MAX_ARGUMENTS);
            mm.space().show_as(name, &arguments);
        }
    }
    pids.sort_unstable();
    // After vfork(2) two have one.
    pids.dedup();
    let mut answers: Vec<Answer> = pids
        .chunks(PIDS_AT_ONCE)
        .map(|list| Answer::HostProcesses {
            list: list.to_vec(),
            more: true,
        })
        .collect();
    match answers.last_mut() {
        Some(Answer::HostProcesses { more, .. }) => *more = false,
        _ => answers.push(Answer::HostProcesses {
            list: Vec::new(),
            more: false,
        }),
    }
    answers
}

fn describe(kernel: &Kernel, group: &Arc<ThreadGroup>) -> ProcessInfo {
    let pid = group.pid();
    let (parent, terminal) = {
        let tree = kernel.tree.lock();
        let node = tree.node(pid);
        let session = node.and_then(|n| tree.sessions.get(&n.sid));
        (
            node.map_or(0, |n| n.parent),
            session.is_some_and(|s| s.terminal.is_some()),
        )
    };
    let task = group.any_task();
    let state = match &task {
        None => 'Z',
        Some(_) if group.is_stopped() => 'T',
        Some(task) if task.is_in_guest() => 'R',
        Some(_) => 'S',
    };
    let ended = group.ended();
    let creds = match &task {
        Some(task) => Some(task.creds()),
        None => ended.as_ref().map(|e| e.creds.clone()),
    };
    let mm = task.as_ref().and_then(|task| task.try_mm().ok());
    let mut command = mm.map_or(Vec::new(), |mm| {
        crate::fs::proc::command_line(&mm, MAX_COMMAND)
    });
    while command.last() == Some(&0) {
        command.pop();
    }
    for byte in &mut command {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    if command.is_empty() {
        let comm = match (&task, &ended) {
            (Some(task), _) => task.comm(),
            (None, Some(ended)) => ended.comm,
            (None, None) => [0; 16],
        };
        let name: Vec<u8> = comm.iter().copied().take_while(|b| *b != 0).collect();
        command = [b"[", name.as_slice(), b"]"].concat();
    }
    let usage = group.usage();
    ProcessInfo {
        pid,
        parent,
        uid: creds.map_or(0, |c| c.euid.0),
        state,
        terminal,
        age_ns: MonoTime::now().as_ns().saturating_sub(group.start_ns),
        cpu_ns: usage.user_ns.saturating_add(usage.system_ns),
        command,
    }
}

fn stats(kernel: &Kernel) -> Stats {
    let mut stats = Stats::default();
    for group in kernel.tree.groups() {
        let usage = group.usage();
        stats.processes += 1;
        stats.threads += group.task_count() as u64;
        stats.user_ns = stats.user_ns.saturating_add(usage.user_ns);
        stats.system_ns = stats.system_ns.saturating_add(usage.system_ns);
    }
    stats
}
