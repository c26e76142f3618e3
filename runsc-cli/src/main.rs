//! The command line `runsc-rs`.
//!
//! [`commands`] holds one module a command; [`bundle`] turns an OCI bundle into a boot
//! configuration, [`sandbox`] starts the Gofer and the Sentry (this same program, executed again)
//! and waits for them, [`state`] keeps what a container leaves on disk while it lives.
//!
//! The process is single-threaded throughout: its children are killed when the thread that
//! started them ends, and cloning a process with other threads would be unsound.

#![forbid(unsafe_code)]

mod args;
mod bundle;
mod commands;
mod environment;
mod logging;
mod sandbox;
mod state;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let command = args.command.name();
    match commands::dispatch(args) {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            logging::complain(command, &failure.error);
            ExitCode::from(failure.exit_code)
        }
    }
}
