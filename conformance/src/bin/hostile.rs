//! `hostile`: makes random system calls, to be run where the kernel is under test.
//!
//! `hostile --spoil-this-machine --seed N --count M` makes M rounds and exits with 0; `--family F`
//! and `--calls` narrow down what it makes, `--verbose` prints each call first. It is not meant for a
//! kernel that anybody still needs: as root it mounts, removes and changes whatever it hits, so it
//! does nothing until it is told so.

use clap::Parser;
use runsc_conformance::hostile::{Plan, rounds};
use runsc_syscall_tables::Family;
use std::process::ExitCode;

/// Random system calls
#[derive(Debug, Parser)]
#[command(name = "hostile")]
struct Cli {
    /// This is a sandbox, or a machine to throw away
    #[arg(long, required = true)]
    spoil_this_machine: bool,
    /// The same seed gives the same calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds, one child each
    #[arg(long, default_value_t = 20)]
    count: u64,
    /// Calls of one thread in one round
    #[arg(long, default_value_t = 100)]
    calls: u64,
    /// Only calls of this family of the table
    #[arg(long, value_parser = family)]
    family: Option<Family>,
    /// Only these calls, by name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Print each call before it is made
    #[arg(long)]
    verbose: bool,
}

fn family(name: &str) -> Result<Family, String> {
    Family::from_name(name).ok_or_else(|| "no such family".to_string())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let plan = Plan {
        seed: cli.seed,
        rounds: cli.count,
        calls: cli.calls,
        family: cli.family,
        names: cli.only,
        verbose: cli.verbose,
    };
    match rounds(&plan) {
        Ok(()) => {
            println!("survived {} rounds", plan.rounds);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hostile: {error}");
            ExitCode::FAILURE
        }
    }
}
