//! `runsc-rs debug`: looking inside.

use std::process::ExitCode;

use anyhow::Result;

use super::{Failure, conclude, r#do};
use crate::{
    args::{DebugCommand, DoArgs, GlobalArgs},
    sandbox::{Observation, Sandbox, Signals},
};

pub fn run(global: &GlobalArgs, command: &DebugCommand) -> Result<ExitCode, Failure> {
    match command {
        DebugCommand::Filters => filters(),
        DebugCommand::Surroundings => surroundings(global),
    }
}

fn filters() -> Result<ExitCode, Failure> {
    Err(anyhow::anyhow!("this build has no filters").into())
}

/// Starts a sandbox as `do` does, whose Sentry reports instead of running a guest.
fn surroundings(global: &GlobalArgs) -> Result<ExitCode, Failure> {
    let signals = Signals::block()?;
    let observation = Observation::new(global)?;
    let args = DoArgs {
        user: None,
        cwd: None,
        env: Vec::new(),
        hostname: None,
        command: vec!["none".into()],
    };
    let plan = r#do::plan(global, args, &observation, &signals)?;
    let outcome = Sandbox::start_probe(plan, &observation)?.supervise(&signals)?;
    conclude(outcome, 1)
}
