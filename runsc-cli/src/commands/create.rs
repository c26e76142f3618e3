//! `runsc-rs create` and `start`: an OCI bundle in two steps.

use std::process::ExitCode;

use super::{Failure, life};
use crate::{
    args::{
        GlobalArgs,
        oci::{CreateArgs, IdArgs},
    },
    container::{self, Presence},
    state::StateRoot,
};

pub fn create(global: &GlobalArgs, args: &CreateArgs) -> Result<ExitCode, Failure> {
    let preserved = container::preserved_fds(args.preserve_fds)?;
    let root = StateRoot::open(global.root.as_deref())?;
    container::create(global, args, preserved, &root, Presence::Detached)?;
    Ok(ExitCode::SUCCESS)
}

pub fn start(global: &GlobalArgs, args: &IdArgs) -> Result<ExitCode, Failure> {
    let mut locked = life::lock(global, &args.id)?;
    let bundle = container::kept_bundle(&locked)?;
    let connection = container::reach(&locked).map_err(|error| match locked.status() {
        crate::state::Status::Stopped => {
            anyhow::anyhow!("cannot start a container that has stopped")
        }
        _ => error,
    })?;
    container::start(&mut locked, &bundle, &connection)?;
    Ok(ExitCode::SUCCESS)
}
