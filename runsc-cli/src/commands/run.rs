//! `runsc-rs run`: an OCI bundle in the foreground.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, Result, ensure};
use runsc_platform::process;
use runsc_sentry::config::OverlayKind;

use super::{Failure, conclude};
use crate::{
    args::{GlobalArgs, Overlay, RunArgs},
    bundle::Bundle,
    cgroup::{Cgroup, Held},
    environment,
    sandbox::{Mappings, Mode, Observation, Owner, Plan, Sandbox, Signals, own_stdio},
    state::{Description, StateRoot, check_id},
};

/// Exit status if the sandbox itself failed; runc's for everything of the kind.
const BROKEN: u8 = 1;

pub fn run(global: &GlobalArgs, args: &RunArgs) -> Result<ExitCode, Failure> {
    check_id(&args.id)?;
    // From here on a signal does not end this process before it has cleaned up.
    let signals = Signals::block()?;
    let observation = Observation::new(global)?;
    let bundle = Bundle::load(&args.bundle)?;
    let (mut plan, oci_version) = plan(global, args, &bundle, &observation)?;
    let state = StateRoot::open(global.root.as_deref())?;
    state.sweep()?;
    let description = Description {
        oci_version,
        id: &args.id,
        bundle: bundle.directory(),
        owner: std::process::id(),
    };
    let container = state.create(&args.id, &description)?;
    let privileged = environment::is_privileged();
    let asked = bundle.cgroup(&args.id, global.systemd_cgroup, privileged);
    let cgroup = Held(Cgroup::create(&asked)?);
    plan.cgroup = cgroup.0.clone();
    let outcome = Sandbox::start(plan, &observation, Mode::Boot)?.supervise(&signals)?;
    let outcome = cgroup.explain(outcome);
    drop(cgroup);
    drop(container);
    // runc's status for this is the same as for any other failure.
    conclude(outcome, BROKEN).map_err(|failure| Failure {
        exit_code: BROKEN,
        ..failure
    })
}

fn plan<'a>(
    global: &GlobalArgs,
    args: &RunArgs,
    bundle: &'a Bundle,
    observation: &Observation,
) -> Result<(Plan, &'a str)> {
    let overlay = match args.overlay {
        Overlay::Memory => OverlayKind::Memory,
        Overlay::None => OverlayKind::None,
    };
    let (mut boot, gofer) = bundle.translate(&args.id, overlay)?;
    ensure!(
        !boot.process.terminal || std::io::stdin().is_terminal(),
        "config.json: process.terminal: stdin is not a terminal"
    );
    boot.platform = global.platform.clone();
    boot.patch_code = !global.no_patch;
    boot.strace = observation.strace_config.clone();
    boot.log_level = observation.log_level;
    let stdio = own_stdio(&process::inherited()).context("stdio")?;
    // As in any rootless container, the caller's files are the container's root's.
    let owner = Owner::ROOT;
    Ok((
        Plan {
            boot,
            gofer,
            owner,
            stdio,
            mappings: match bundle.mappings()? {
                None if !environment::is_privileged() => Mappings::subordinate(),
                given => given,
            },
            changes: None,
            cgroup: None,
        },
        bundle.oci_version(),
    ))
}
