//! Runs one micro-benchmark program natively and under each container runtime of
//! the machine, interleaved in rounds, and prints medians and ratios.
//!
//! The parts live in the library; here is only the order of things: build, probe,
//! rounds, report. See `benches/README.md` for how to read the table.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;

use runsc_benches::micro::{self, Measured};
use runsc_benches::process::{self, Output};
use runsc_benches::report::{NATIVE, OURS, RUNSC, Report, Unit};
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
    /// Only these runtimes, of native, runc, runsc, ours and those of --extra.
    #[arg(long, value_delimiter = ',')]
    runtimes: Vec<String>,
    /// Our command; the program's words follow it, or stand for `{}`.
    /// Default: runsc-rs of the release build, `--platform=ptrace do --`.
    #[arg(long, value_name = "TEMPLATE")]
    ours_command: Option<String>,
    /// gVisor's command. Default: `runsc --platform=ptrace --network=none
    /// --ignore-cgroups do --`, with --rootless for ordinary users.
    #[arg(long, value_name = "TEMPLATE")]
    runsc_command: Option<String>,
    /// A further column, for example `systrap=target/release/runsc-rs do --`.
    #[arg(long, value_name = "NAME=TEMPLATE")]
    extra: Vec<String>,
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
    /// Write everything, with each sample, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.rounds == 0 {
        bail!("--rounds must be at least 1");
    }
    let target = target_directory()?;
    let work = options
        .work_dir
        .clone()
        .unwrap_or_else(|| target.join("side-by-side"));
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let work = work.canonicalize()?;
    process::become_subreaper().context("cannot become the subreaper of the runtimes")?;

    let program = micro::build(&work)?;
    let files = Files::create(program, &work)
        .with_context(|| format!("cannot write files in {}", work.display()))?;
    let mut report = Report {
        machine: machine(),
        ..Report::default()
    };
    report.method.push(format!(
        "{} rounds, {} ms a row, {} starts a round",
        options.rounds, options.budget_ms, options.startups
    ));
    let runtimes = choose(&options, &target, &files, &work, &mut report)?;
    if runtimes.is_empty() {
        bail!("no runtime to measure:{}", report.text());
    }

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
    report.machine.push(format!("load afterwards: {}", load()));
    report.finish();

    print!("{}", report.text());
    if let Some(path) = &options.json {
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &options.markdown {
        write(path, &report.markdown())?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The cargo target directory this program was built into.
fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the own program")?;
    let target = own.parent().and_then(Path::parent);
    target
        .map(Path::to_path_buf)
        .context("the own program lies outside a target directory")
}

/// The runtimes that work here, columns in order; the others are noted as skipped.
fn choose(
    options: &Options,
    target: &Path,
    files: &Files,
    work: &Path,
    report: &mut Report,
) -> Result<Vec<Runtime>> {
    let runsc = options.runsc_command.clone().unwrap_or_else(|| {
        let rootless = if nix::unistd::geteuid().is_root() {
            ""
        } else {
            " --rootless"
        };
        format!(
            "runsc --root={} --platform=ptrace --network=none --ignore-cgroups{rootless} do --",
            work.join("runsc-state").display()
        )
    });
    let ours = options.ours_command.clone().unwrap_or_else(|| {
        format!(
            "{} --platform=ptrace do --",
            target.join("release/runsc-rs").display()
        )
    });
    let mut candidates = vec![
        (Runtime::native(), String::new()),
        (
            Runtime::runc(files, work)?,
            "runc run, bundle with the static program".to_string(),
        ),
        (Runtime::prefix(RUNSC, &runsc), runsc),
        (Runtime::prefix(OURS, &ours), ours),
    ];
    for extra in &options.extra {
        let (name, template) = extra
            .split_once('=')
            .with_context(|| format!("--extra {extra}: expected NAME=TEMPLATE"))?;
        if candidates.iter().any(|(runtime, _)| runtime.name == name) {
            bail!("--extra {extra}: there is a runtime {name} already");
        }
        candidates.push((Runtime::prefix(name, template), template.to_string()));
    }
    for name in &options.runtimes {
        if !candidates.iter().any(|(runtime, _)| runtime.name == *name) {
            bail!("--runtimes: there is no runtime {name}");
        }
    }

    let mut runtimes = Vec::new();
    for (runtime, command) in candidates {
        if !options.runtimes.is_empty() && !options.runtimes.contains(&runtime.name) {
            continue;
        }
        match runtime.probe(files) {
            Ok(()) => {
                if runtime.name != NATIVE {
                    report.method.push(format!("{}: {command}", runtime.name));
                }
                report.runtimes.push(runtime.name.clone());
                runtimes.push(runtime);
            }
            Err(reason) => {
                eprintln!("SKIPPED {}: {reason}", runtime.name);
                report.skipped.push((runtime.name, reason));
            }
        }
    }
    Ok(runtimes)
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
        let processes = match process::memory_of_descendants() {
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

fn machine() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, v)| v.trim().to_string())
        })
        .unwrap_or_else(|| "unknown processor".to_string());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    vec![
        format!(
            "Linux {}, {cpu}, {cores} cores",
            read("/proc/sys/kernel/osrelease").trim()
        ),
        format!("load before: {}", load()),
    ]
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}
