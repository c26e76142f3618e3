//! Runs one micro-benchmark program natively and under each container runtime of
//! the machine, interleaved in rounds, and prints medians and ratios.
//!
//! The parts live in the library; here is only the order of things: build, probe,
//! rounds, report. See `benches/README.md` for how to read the table.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;

use runsc_benches::machine;
use runsc_benches::micro::{self, Measured};
use runsc_benches::options::{self, Columns, Outputs};
use runsc_benches::process::{self, Output};
use runsc_benches::report::{Report, Unit};
use runsc_benches::runtime::{Files, Job, Runtime};

/// Set runtimes side by side: system calls, start-up, memory.
#[derive(Parser, Debug)]
struct Options {
    /// How often each runtime runs everything; the table shows medians over rounds.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Measuring time of one row in one round.
    #[arg(long, default_value_t = 50)]
    budget_ms: u64,
    /// Only these rows of the micro-benchmark (comma-separated).
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    #[command(flatten)]
    columns: Columns,
    /// Whole commands timed per runtime and round; 0 leaves the start-up rows out.
    #[arg(long, default_value_t = 5)]
    startups: u32,
    /// Leave the memory row out.
    #[arg(long)]
    no_memory: bool,
    /// Time limit of one run of the micro-benchmark, in seconds.
    #[arg(long, default_value_t = 300)]
    limit_s: u64,
    /// Where program, scratch files and bundle go. Default: `side-by-side` in the
    /// target directory.
    #[arg(long)]
    work_dir: Option<PathBuf>,
    #[command(flatten)]
    outputs: Outputs,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.rounds == 0 {
        bail!("--rounds must be at least 1");
    }
    let target = options::target_directory()?;
    let work = options::work_directory(options.work_dir.as_deref(), &target)?;
    process::become_subreaper().context("cannot become the subreaper of the runtimes")?;

    let program = micro::build(&work)?;
    let files = Files::create(program, &work)
        .with_context(|| format!("cannot write files in {}", work.display()))?;
    let mut report = Report {
        machine: machine::facts(),
        ..Report::default()
    };
    report.method.push(format!(
        "{} rounds, {} ms a row, {} starts a round",
        options.rounds, options.budget_ms, options.startups
    ));
    let runc = (
        Runtime::runc(&files, &work)?,
        "runc run, bundle with the static program",
    );
    let candidates = options.columns.candidates(&target, &work, runc)?;
    let runtimes = options::choose(candidates, |runtime| runtime.probe(&files), &mut report)?;

    for round in 0..options.rounds {
        // A different one begins each round, so that none always comes after the same.
        for index in 0..runtimes.len() {
            let runtime = &runtimes[(index + round as usize) % runtimes.len()];
            eprintln!(
                "round {} of {}: {}",
                round + 1,
                options.rounds,
                runtime.name
            );
            one_round(&options, runtime, &files, &mut report)?;
        }
    }
    let load = machine::load();
    report.machine.push(format!("load afterwards: {load}"));
    report.finish();
    options.outputs.deliver(&report)
}

fn one_round(
    options: &Options,
    runtime: &Runtime,
    files: &Files,
    report: &mut Report,
) -> Result<()> {
    bench(options, runtime, files, report)?;
    for (row, job) in [("startup_static", Job::Noop), ("startup_true", Job::True)] {
        for _ in 0..options.startups {
            startup(row, &job, runtime, files, report)?;
        }
    }
    if !options.no_memory {
        memory(runtime, files, report)?;
    }
    Ok(())
}

fn bench(options: &Options, runtime: &Runtime, files: &Files, report: &mut Report) -> Result<()> {
    let job = Job::Bench {
        budget_ms: options.budget_ms,
        rows: options.rows.clone(),
    };
    let Some(command) = runtime.command(&job, files)? else {
        return Ok(());
    };
    let outcome = process::run(
        command,
        Output::Capture,
        Duration::from_secs(options.limit_s),
    )?;
    let (rows, strange) = micro::parse(&outcome.stdout);
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    for line in strange {
        report.remark(format!("{} printed: {line}", runtime.name));
    }
    for name in &outcome.left_behind {
        report.remark(format!("{} left a process behind: {name}", runtime.name));
    }
    for name in expected_rows(options, files)? {
        if !names.contains(&name.as_str()) {
            let reason = format!("no figure, the run: {}", outcome.reason());
            report.failure(&name, Unit::Ns, &runtime.name, reason);
        }
    }
    for (name, measured) in rows {
        match measured {
            Measured::Ns(ns) => report.sample(&name, Unit::Ns, &runtime.name, ns),
            Measured::Failed(why) => report.failure(&name, Unit::Ns, &runtime.name, why),
        }
    }
    if outcome.status.is_none() {
        runtime.clean_up();
    }
    Ok(())
}

/// The rows the program was asked for; a name it does not have is an error.
fn expected_rows(options: &Options, files: &Files) -> Result<Vec<String>> {
    let mut command = std::process::Command::new(&files.program);
    command.arg("list");
    let list = process::run(command, Output::Capture, Duration::from_secs(10))?.stdout;
    let all: Vec<String> = list.lines().map(str::to_string).collect();
    if let Some(unknown) = options.rows.iter().find(|name| !all.contains(name)) {
        bail!(
            "--rows: there is no row {unknown}; there are {}",
            all.join(", ")
        );
    }
    Ok(if options.rows.is_empty() {
        all
    } else {
        options.rows.clone()
    })
}

fn startup(
    row: &str,
    job: &Job,
    runtime: &Runtime,
    files: &Files,
    report: &mut Report,
) -> Result<()> {
    let Some(command) = runtime.command(job, files)? else {
        return Ok(());
    };
    let outcome = process::run(command, Output::Discard, Duration::from_secs(60))?;
    if outcome.success() {
        report.sample(row, Unit::Ns, &runtime.name, outcome.wall.as_nanos() as f64);
    } else {
        report.failure(row, Unit::Ns, &runtime.name, outcome.reason());
        runtime.clean_up();
    }
    Ok(())
}

/// Starts a sleeping sandbox and takes the memory of all its processes once two
/// looks in a row agree.
fn memory(runtime: &Runtime, files: &Files, report: &mut Report) -> Result<()> {
    const ROW: &str = "memory_sleep";
    const BETWEEN: Duration = Duration::from_millis(250);
    let Some(mut command) = runtime.command(&Job::Sleep, files)? else {
        return Ok(());
    };
    command.stdin(std::process::Stdio::null());
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut child = command.spawn()?;
    let start = Instant::now();
    let mut last = None;
    let result = loop {
        std::thread::sleep(BETWEEN);
        if let Some(status) = child.try_wait()? {
            break Err(format!("the sandbox ended by itself: {status}"));
        }
        let processes = match process::memory_below(nix::unistd::Pid::this()) {
            Ok(processes) => processes,
            Err(reason) => break Err(reason),
        };
        let sum: u64 = processes.iter().map(|process| process.pss_kib).sum();
        let settled = last == Some(sum) && start.elapsed() > 4 * BETWEEN;
        if settled || start.elapsed() > 20 * BETWEEN {
            break Ok((sum, processes));
        }
        last = Some(sum);
    };
    match result {
        Ok((sum, processes)) => {
            report.sample(ROW, Unit::Kib, &runtime.name, sum as f64);
            report.memory.insert(runtime.name.clone(), processes);
        }
        Err(reason) => report.failure(ROW, Unit::Kib, &runtime.name, reason),
    }
    // The child first: `end_now` would take its exit status from under it.
    child.kill()?;
    child.wait()?;
    process::end_now();
    runtime.clean_up();
    Ok(())
}
