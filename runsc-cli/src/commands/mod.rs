//! One module a command, and what their failures have in common.

mod changes;
mod create;
mod debug;
mod r#do;
mod events;
mod exec;
mod install;
mod life;
mod limits;
mod ps;
mod run;
mod spec;
pub mod surroundings;
mod syscalls;
mod update;
mod view;

use std::process::ExitCode;

use crate::{
    args::{Args, Command},
    sandbox::Outcome,
};

/// Why a command failed, and the exit status that says so.
#[derive(Debug)]
pub struct Failure {
    pub error: anyhow::Error,
    pub exit_code: u8,
}

impl Failure {
    /// Whether our own output could not be written because its reader is gone.
    pub fn is_broken_pipe(&self) -> bool {
        let error = self.error.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Unusable input, and everything that failed before there was a sandbox: 1.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            exit_code: 1,
        }
    }
}

pub fn dispatch(args: Args) -> Result<ExitCode, Failure> {
    let global = &args.global;
    match args.command {
        Command::Do(command) => r#do::run(global, *command),
        Command::Run(command) => run::run(global, &command),
        Command::Create(command) => create::create(global, &command),
        Command::Start(command) => create::start(global, &command),
        Command::State(command) => life::state(global, &command),
        Command::Kill(command) => life::kill(global, &command),
        Command::Delete(command) => life::delete(global, &command),
        Command::Exec(command) => exec::run(global, &command),
        Command::List(command) => life::list(global, &command),
        Command::Ps(command) => ps::ps(global, &command),
        Command::Pause(command) => life::pause(global, &command),
        Command::Resume(command) => life::resume(global, &command),
        Command::Events(command) => events::run(global, &command),
        Command::Update(command) => update::run(global, &command),
        Command::Spec(command) => spec::spec(&command),
        Command::Features => spec::features(),
        Command::Install(command) => install::install(&command),
        Command::Uninstall(command) => install::uninstall(&command),
        Command::Syscalls(command) => syscalls::run(&command),
        Command::Debug(command) => debug::run(global, &command),
    }
}

/// The exit status of a command that waited for its guest; `broken` is the status for a sandbox
/// that failed.
fn conclude(outcome: Outcome, broken: u8) -> Result<ExitCode, Failure> {
    match outcome {
        Outcome::Exited(status) => Ok(ExitCode::from(status.shell_code())),
        Outcome::StartFailed { exit_code, message } => Err(Failure {
            error: anyhow::Error::msg(message),
            exit_code,
        }),
        Outcome::Broken(report) => Err(Failure {
            error: anyhow::Error::msg(report),
            exit_code: broken,
        }),
    }
}
