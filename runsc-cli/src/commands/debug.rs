//! `runsc-rs debug`: looking inside.

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use runsc_platform::seccomp::Filter;
use runsc_sentry::boot::PLATFORMS;

use super::{Failure, conclude, r#do};
use crate::{
    args::{DebugCommand, DoArgs, GlobalArgs},
    sandbox::{Mode, Observation, Sandbox, Signals, filter},
};

pub fn run(global: &GlobalArgs, command: &DebugCommand) -> Result<ExitCode, Failure> {
    match command {
        DebugCommand::Filters => filters(),
        DebugCommand::Surroundings { hold } => surroundings(global, *hold),
    }
}

/// One filter a process, as it is in force before the first guest instruction.
fn installed() -> Vec<Filter> {
    let mut filters = vec![
        filter::monitor(),
        runsc_gofer::filter::gofer(),
        runsc_gofer::network::filter(),
    ];
    filters.extend(
        PLATFORMS
            .iter()
            .map(|name| runsc_sentry::boot::filter::sentry(name, true)),
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
