//! `runsc-rs debug`: looking inside.

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use runsc_platform::seccomp::Filter;
use runsc_sentry::{boot::PLATFORMS, config::HostSockets};

use super::{Failure, conclude, r#do};
use crate::{
    args::{DebugCommand, DoArgs, GlobalArgs},
    sandbox::{Mode, Observation, Sandbox, Signals, filter, platform},
};

pub fn run(global: &GlobalArgs, command: &DebugCommand) -> Result<ExitCode, Failure> {
    match command {
        DebugCommand::Filters => filters(),
        DebugCommand::Platforms { choose } => platforms(*choose),
        DebugCommand::Surroundings { hold } => surroundings(global, *hold),
    }
}

/// One filter a process, as it is in force before the first guest instruction.
fn installed() -> Vec<Filter> {
    let mut filters = vec![
        filter::monitor(),
        runsc_gofer::filter::gofer(HostSockets::All),
        runsc_gofer::network::filter(),
    ];
    filters.extend(
        PLATFORMS
            .iter()
            .map(|name| runsc_sentry::boot::filter::sentry(name, true, HostSockets::All)),
    );
    filters
}

fn filters() -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    for filter in installed() {
        writeln!(out, "{}", filter.describe())?;
    }
    write!(out, "{}", runsc_platform::systrap::describe_stub_filter())?;
    write!(out, "{}", runsc_platform::ptrace::describe_stub_filter())?;
    Ok(ExitCode::SUCCESS)
}

fn platforms(only_the_choice: bool) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout().lock();
    if only_the_choice {
        writeln!(out, "{}", platform::choose().0)?;
        return Ok(ExitCode::SUCCESS);
    }
    for platform::Measured { name, call } in platform::all() {
        match call {
            Ok(call) => writeln!(out, "{name:8} {call:?} a system call")?,
            Err(error) => writeln!(out, "{name:8} does not work here: {error:#}")?,
        }
    }
    let (name, why) = platform::choose();
    writeln!(out, "default  {name}: {why}")?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a sandbox as `do` does, whose Sentry reports instead of running a guest.
fn surroundings(global: &GlobalArgs, hold: bool) -> Result<ExitCode, Failure> {
    let signals = Signals::block()?;
    let observation = Observation::new(global)?;
    let args = DoArgs {
        command: vec!["none".into()],
        ..Default::default()
    };
    let mode = if hold {
        Mode::ProbeAndHold
    } else {
        Mode::Probe
    };
    let plan = r#do::plan(global, args, &observation, &signals)?;
    let outcome = Sandbox::start(plan, &observation, mode)?.supervise(&signals)?;
    conclude(outcome, 1)
}
