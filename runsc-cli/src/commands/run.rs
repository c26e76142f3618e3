//! `runsc-rs run`: an OCI bundle, created, started and, in the foreground, waited for and deleted.

use std::process::ExitCode;

use super::Failure;
use crate::{
    args::{GlobalArgs, oci::RunArgs},
    container::{
        self, Created, Presence,
        attend::{End, Settings, attend},
    },
    link::Ask,
    sandbox::{Signals, supervise::in_foreground},
    state::StateRoot,
};

pub fn run(global: &GlobalArgs, args: &RunArgs) -> Result<ExitCode, Failure> {
    let preserved = container::preserved_fds(args.create.preserve_fds)?;
    crate::state::check_id(&args.create.id)?;
    if args.detach {
        let root = StateRoot::open(global.root.as_deref())?;
        let created =
            container::create(global, &args.create, preserved, &root, Presence::Detached)?;
        started(created)?;
        return Ok(ExitCode::SUCCESS);
    }
    // From here on a signal does not end this process before it has cleaned up.
    let signals = Signals::block()?;
    let root = StateRoot::open(global.root.as_deref())?;
    let settings = Settings::note();
    let created = container::create(global, &args.create, preserved, &root, Presence::Attached)?;
    let id = created.locked.record.id.clone();
    let (connection, bundle) = started(created)?;
    if !in_foreground() {
        let envelope = crate::link::Envelope::new(Ask::Foreground(false));
        connection.send(&envelope)?;
    }
    let end = attend(&connection, &signals);
    if !matches!(end, Ok(End::Exited(_))) {
        settings.put_back();
    }
    drop(connection);
    if !args.keep {
        let locked = root.lock(&id)?;
        container::destroy(locked, Some(&bundle))?;
    }
    match end? {
        End::Exited(status) => Ok(ExitCode::from(status.shell_code())),
        End::Broken(report) => Err(report.into()),
    }
}

/// Starts it. If that fails nothing of it is left.
fn started(created: Created) -> Result<(crate::link::Connection, crate::bundle::Bundle), Failure> {
    let Created {
        mut locked,
        bundle,
        connection,
    } = created;
    match container::start(&mut locked, &bundle, &connection) {
        Ok(()) => Ok((connection, bundle)),
        Err(error) => {
            drop(connection);
            container::destroy(locked, Some(&bundle))?;
            Err(error.into())
        }
    }
}
