//! `cases`: the multi-call program of conformance cases.
//!
//! `cases list` names them, `cases run NAME` runs one (exit 0 pass, 1 fail, 77 skip),
//! `cases run --all` or with several names runs them one after the other, one result line
//! each on standard output as soon as it is known, and exits 1 if any failed.

use clap::{Parser, Subcommand};
use runsc_conformance::case::{Case, Failure};
use runsc_conformance::protocol::Line;
use runsc_conformance::{cases, glob, helper, supervise};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Linux promises as small programs.
#[derive(Debug, Parser)]
#[command(name = "cases")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every case: name, man page, promise
    List {
        #[arg(long)]
        json: bool,
        /// Only the names this pattern matches
        #[arg(long, default_value = "*")]
        filter: String,
    },
    /// Run cases by name
    Run {
        /// Case names; one alone sets the exit status to 0, 1 or 77
        names: Vec<String>,
        /// Run every case
        #[arg(long)]
        all: bool,
        /// Directory the scratch directories are made in
        #[arg(long, default_value = "/tmp")]
        dir: PathBuf,
        /// Seconds one case may take
        #[arg(long, default_value_t = 20)]
        timeout: u32,
        /// Always speak the line protocol, also for one name
        #[arg(long)]
        stream: bool,
    },
}

const EXIT_FAIL: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_SKIP: u8 = 77;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == helper::WORD) {
        helper::run(&words[2..]);
    }
    match Cli::parse().command {
        Command::List { json, filter } => list(json, &filter),
        Command::Run {
            names,
            all,
            dir,
            timeout,
            stream,
        } => {
            let chosen = match choose(&names, all) {
                Ok(chosen) => chosen,
                Err(message) => {
                    eprintln!("cases: {message}");
                    return ExitCode::from(EXIT_USAGE);
                }
            };
            let setup = supervise::Setup {
                dir,
                timeout_s: timeout,
            };
            match (chosen.as_slice(), stream || all) {
                ([case], false) => run_one(case, &setup),
                _ => run_many(&chosen, &setup),
            }
        }
    }
}

fn choose(names: &[String], all: bool) -> Result<Vec<&'static Case>, String> {
    if all {
        return Ok(cases::all().collect());
    }
    if names.is_empty() {
        return Err("name a case, or say --all".to_string());
    }
    let find = |name: &String| {
        cases::all()
            .find(|c| c.name == name)
            .ok_or_else(|| format!("no case is called {name:?}; `cases list` names them"))
    };
    names.iter().map(find).collect()
}

fn list(json: bool, filter: &str) -> ExitCode {
    let mut chosen = cases::all().filter(|c| glob::matches(filter, c.name));
    let mut out = std::io::stdout().lock();
    let written = if json {
        let rows: Vec<_> = chosen
            .map(|c| serde_json::json!({"name": c.name, "man": c.man, "promise": c.promise}))
            .collect();
        writeln!(out, "{}", serde_json::Value::Array(rows))
    } else {
        chosen.try_for_each(|c| writeln!(out, "{:<40} {:<22} {}", c.name, c.man, c.promise))
    };
    // A closed pipe (`cases list | head`) is no error of ours.
    let _ = written;
    ExitCode::SUCCESS
}

fn run_one(case: &Case, setup: &supervise::Setup) -> ExitCode {
    match supervise::run(case, setup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Fail(why)) => {
            eprintln!("{}: {why}\n  {}: {}", case.name, case.man, case.promise);
            ExitCode::from(EXIT_FAIL)
        }
        Err(Failure::Skip(why)) => {
            eprintln!("{}: skipped: {why}", case.name);
            ExitCode::from(EXIT_SKIP)
        }
    }
}

fn run_many(chosen: &[&Case], setup: &supervise::Setup) -> ExitCode {
    let mut failed = false;
    for case in chosen {
        say(&Line::Start(case.name.to_string()));
        let outcome = supervise::run(case, setup);
        failed |= matches!(outcome, Err(Failure::Fail(_)));
        say(&Line::Done(case.name.to_string(), outcome));
    }
    say(&Line::End);
    ExitCode::from(if failed { EXIT_FAIL } else { 0 })
}

/// One line, at once: the next case may be the one that takes the kernel down.
fn say(line: &Line) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(i32::from(EXIT_FAIL));
    }
}
