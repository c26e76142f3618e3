//! The command line `runsc-rs`.
//!
//! [`commands`] holds one module a command; [`bundle`] turns an OCI bundle into a boot
//! configuration, [`sandbox`] starts the Gofer and the Sentry (this same program, executed again)
//! and waits for them, [`container`] creates, starts and removes containers, [`state`] is what they
//! have on disk, [`link`] how commands speak with the monitor that keeps one.
//!
//! Every process is single-threaded throughout: its children are killed when the thread that
//! started them ends, and cloning a process with other threads would be unsound.

#![forbid(unsafe_code)]

mod args;
mod bundle;
mod cgroup;
mod clock;
mod commands;
mod container;
mod environment;
mod failure;
mod link;
mod logging;
mod sandbox;
mod state;

use std::{ffi::OsStr, process::ExitCode};

use clap::Parser;
use commands::Failure;
use sandbox::children;

fn main() -> ExitCode {
    // The parts of a sandbox have one word for an argument; building the parser of the command line
    // would cost each of them memory for life.
    let mut words = std::env::args_os().skip(1);
    let (first, second) = (words.next(), words.next());
    if second.is_none() {
        match first.as_deref().and_then(OsStr::to_str) {
            Some("gofer") => return part("gofer", children::gofer()),
            Some("network-gofer") => return part("network-gofer", children::network_gofer()),
            Some("sentry") => return part("sentry", children::sentry()),
            Some("monitor") => return keeper("monitor", sandbox::monitor::run()),
            Some("sweeper") => return part("sweeper", sandbox::sweeper::run()),
            Some("attendant") => return keeper("attendant", container::join::attendant()),
            _ => {}
        }
    }
    let args = args::Args::parse();
    let command = args.command.name();
    if let Some(path) = &args.global.log {
        match sandbox::open_log(path) {
            Ok(log) => logging::complain_to(log, args.global.log_format.into()),
            Err(error) => return conclude(command, Err(error.into())),
        }
    }
    conclude(command, commands::dispatch(args))
}

/// A process that ends with the status of another one.
fn keeper(name: &str, result: anyhow::Result<u8>) -> ExitCode {
    conclude(name, result.map(ExitCode::from).map_err(Failure::from))
}

fn part(name: &str, result: anyhow::Result<()>) -> ExitCode {
    conclude(
        name,
        result.map(|()| ExitCode::SUCCESS).map_err(Failure::from),
    )
}

fn conclude(command: &str, result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            logging::complain(command, &failure.error);
            ExitCode::from(failure.exit_code)
        }
    }
}
