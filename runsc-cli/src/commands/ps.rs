//! `ps`: the processes of a container.
//!
//! Without options a table of the guest's, by their ids inside. Who asks for JSON, as containerd does
//! for `docker top`, or gives options for ps(1), looks at the host's processes: on a platform where one
//! host process stands for each guest process, at those, which then have its name and arguments there.

use std::{
    fs,
    io::{Write, stdout},
    process::{Command, ExitCode, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use runsc_sentry::control::ProcessInfo;

use super::{
    Failure,
    life::{PATIENCE, find},
};
use crate::{
    args::{
        GlobalArgs,
        oci::{ListFormat, PsArgs},
    },
    clock,
    container::reach,
    link::{Ask, Connection, Envelope, Tell, expect_within},
    logging::printable,
    state::Container,
};

/// The guest's processes.
pub fn processes(connection: &Connection) -> Result<Vec<ProcessInfo>> {
    connection.send(&Envelope::new(Ask::Processes))?;
    let mut all = Vec::new();
    loop {
        match connection.recv()? {
            Tell::Processes { list, more } => {
                all.extend(list);
                if !more {
                    return Ok(all);
                }
            }
            Tell::Refused(why) => bail!(printable(&why)),
            other => bail!("the monitor answers {other:?}"),
        }
    }
}

pub fn ps(global: &GlobalArgs, args: &PsArgs) -> Result<ExitCode, Failure> {
    let container = find(global, &args.id)?;
    let connection = reach(&container)?;
    expect_within(&connection, PATIENCE)?;
    let mut out = stdout().lock();
    if args.format == ListFormat::Json {
        let pids = host_processes(&container, &connection)?;
        writeln!(out, "{}", serde_json::to_string(&pids)?)?;
    } else if !args.ps_options.is_empty() {
        let pids = host_processes(&container, &connection)?;
        out.write_all(table_of_host(&args.ps_options, &pids)?.as_bytes())?;
    } else {
        let head = "UID          PID    PPID  C STIME TTY          TIME CMD";
        writeln!(out, "{head}")?;
        for process in processes(&connection)? {
            writeln!(out, "{}", ps_line(&process, SystemTime::now()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the host's ps(1) prints about some of its processes.
fn table_of_host(options: &[String], pids: &[i32]) -> Result<String> {
    let mut command = Command::new("ps");
    // Several in one argument are what runc takes.
    command.args(options.iter().flat_map(|words| words.split_whitespace()));
    let output = command.stderr(Stdio::inherit()).output().context("ps")?;
    ensure!(output.status.success(), "ps: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID");
    let column = column.context("ps: no column PID")?;
    let wanted = |line: &&str| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    let lines = [head].into_iter().chain(lines.filter(wanted));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

fn ps_line(process: &ProcessInfo, now: SystemTime) -> String {
    let age = Duration::from_nanos(process.age_ns);
    let started = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(age);
    let (hour, minute, _) = clock::of_day(started);
    let used = Duration::from_nanos(process.cpu_ns);
    let share = used.as_secs_f64() / age.as_secs_f64().max(1e-9) * 100.0;
    let seconds = used.as_secs();
    format!(
        "{:<8} {:>7} {:>7} {:>2} {hour:02}:{minute:02} {:<8} {:02}:{:02}:{:02} {}",
        process.uid,
        process.pid,
        process.parent,
        share.clamp(0.0, 99.0) as u32,
        if process.terminal { "tty" } else { "?" },
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        printable(&String::from_utf8_lossy(&process.command)),
    )
}

/// The host processes to look at: those that stand for one of the guest's each, or, where there are
/// none such, all of the container's.
fn host_processes(container: &Container, connection: &Connection) -> Result<Vec<i32>> {
    let all = all_host_processes(container)?;
    let inside = match holders(connection) {
        Ok(inside) => inside,
        Err(error) => {
            log::warn!("{error:#}");
            return Ok(all);
        }
    };
    // What the Sentry says counts among its own processes only.
    let holds = |pid: &i32| innermost_id(*pid).is_some_and(|id| inside.contains(&id));
    let holding: Vec<i32> = all.iter().copied().filter(holds).collect();
    Ok(if holding.is_empty() { all } else { holding })
}

/// By their ids in the Sentry's pid namespace.
fn holders(connection: &Connection) -> Result<Vec<i32>> {
    connection.send(&Envelope::new(Ask::HostProcesses))?;
    let mut all = Vec::new();
    loop {
        match connection.recv()? {
            Tell::HostProcesses { list, more } => {
                all.extend(list);
                if !more {
                    return Ok(all);
                }
            }
            Tell::Refused(why) => bail!(printable(&why)),
            other => bail!("the monitor answers {other:?}"),
        }
    }
}

/// A process's id in a pid namespace inside this one, if it is in one.
fn innermost_id(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().skip(1).last()?.parse().ok()
}

/// What is in the cgroup; without one, the monitor and what descends from it.
fn all_host_processes(container: &Container) -> Result<Vec<i32>> {
    if let Some(cgroup) = &container.record.cgroup {
        return cgroup.processes();
    }
    let first = container.pid();
    let mut pids = vec![first];
    let mut index = 0;
    while let Some(pid) = pids.get(index) {
        let path = format!("/proc/{pid}/task");
        // One that ends meanwhile has no children.
        for task in fs::read_dir(path).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            pids.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        index += 1;
    }
    (first != 0)
        .then_some(pids)
        .context("container not running")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_line_that_steers_no_terminal() {
        let process = ProcessInfo {
            pid: 7,
            parent: 1,
            uid: 1000,
            state: 'S',
            terminal: false,
            age_ns: 10_000_000_000,
            cpu_ns: 5_000_000_000,
            command: b"sh \x1b[2J".to_vec(),
        };
        let now = UNIX_EPOCH + Duration::from_secs(3600 + 70);
        let line = ps_line(&process, now);
        assert_eq!(
            line,
            "1000           7       1 50 01:01 ?        00:00:05 sh \\u{1b}[2J"
        );
    }
}
