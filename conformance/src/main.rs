//! `conformance`: tells how a kernel differs from Linux.
//!
//! `run` takes our own cases, `foreign` a folder of somebody else's test binaries; both run
//! everything natively and behind a runtime command and print what differs. The exit status
//! is 0 when every result was as expected, 1 when not, 2 when the run could not be made.

use clap::{Args, Parser, Subcommand};
use runsc_conformance::expected::{ExpectedFailures, judge};
use runsc_conformance::foreign::{self, Kind};
use runsc_conformance::launch::{PLATFORM, Target};
use runsc_conformance::runner::{self, Plan};
use runsc_conformance::{glob, report};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Run the same programs on Linux and in a sandbox, and report every difference.
#[derive(Debug, Parser)]
#[command(name = "conformance")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the conformance cases
    Run(RunArgs),
    /// Run a folder of foreign test binaries
    Foreign(ForeignArgs),
}

#[derive(Debug, Args)]
struct RuntimeArgs {
    /// Words to put in front of a command to run it in the sandbox; `{platform}` in them is
    /// replaced by the platform's name
    #[arg(long, value_name = "CMD PREFIX")]
    runtime: Option<String>,
    /// The runsc-rs binary for the default runtime command `BIN --platform={platform} do --`
    /// [default: target/release/runsc-rs, else target/debug/runsc-rs]
    #[arg(long, value_name = "BIN")]
    runsc: Option<PathBuf>,
    /// Platform to run on; may be given several times
    #[arg(long, value_name = "NAME", default_values_t = ["systrap".to_string()])]
    platform: Vec<String>,
    /// Commands at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Write everything to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// File of expected failures: CASE PLATFORM-PATTERN REASON
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    /// Show all results, not only differences
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// Only cases whose name matches; `*` and `?` as in the shell; may be given several times
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Start a sandbox for every single case
    #[arg(long)]
    one_per_sandbox: bool,
    /// Cases a sandbox runs before the next one is started
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Seconds a case may take
    #[arg(long, default_value_t = 20)]
    timeout: u32,
    /// Seconds of silence, over a case's own, after which a sandbox is taken for hung
    #[arg(long, default_value_t = 15)]
    grace: u64,
    /// Directory the cases make their scratch directories in
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// The program of cases [default: `cases` beside this program]
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ForeignArgs {
    /// Folder of test binaries
    dir: PathBuf,
    #[command(flatten)]
    runtime: RuntimeArgs,
    /// They are all GoogleTest binaries
    #[arg(long, conflicts_with = "exit_codes")]
    gtest: bool,
    /// They all report by exit code, as LTP's do
    #[arg(long)]
    exit_codes: bool,
    /// Find out which they are (this is the default)
    #[arg(long, conflicts_with_all = ["gtest", "exit_codes"])]
    auto: bool,
    /// Only binaries whose name matches; may be given several times
    #[arg(long, value_name = "GLOB")]
    filter: Vec<String>,
    /// Seconds one test binary may take
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

const EXIT_DIFFERENT: u8 = 1;
const EXIT_BROKEN: u8 = 2;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Foreign(args) => run_foreign(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_DIFFERENT),
        Err(message) => {
            eprintln!("conformance: {message}");
            ExitCode::from(EXIT_BROKEN)
        }
    }
}

fn run(args: &RunArgs) -> Result<bool, String> {
    let expected_file = args
        .runtime
        .expected
        .clone()
        .unwrap_or_else(default_expected);
    let expected = ExpectedFailures::load(&expected_file)?;
    let cases_program = match &args.cases {
        Some(path) => path.clone(),
        None => sibling("cases")?,
    };
    let cases_program = absolute(&cases_program)?;
    let mut cases = runner::list(&cases_program)?;
    let unknown = expected.unknown(|name| cases.iter().any(|c| c.name == name));
    if !unknown.is_empty() {
        return Err(format!(
            "{}: {}",
            expected_file.display(),
            unknown.join("; ")
        ));
    }
    cases.retain(|c| chosen(&args.filter, &c.name));
    if cases.is_empty() {
        return Err(format!("no case matches {}", args.filter.join(" ")));
    }
    let names: Vec<String> = cases.iter().map(|c| c.name.clone()).collect();
    let plan = Plan {
        cases_program,
        dir: args.dir.clone(),
        batch: if args.one_per_sandbox { 1 } else { args.batch },
        jobs: args.runtime.jobs,
        case_timeout_s: args.timeout,
        grace: Duration::from_secs(args.grace),
    };
    let targets = args.runtime.targets()?;
    let native = runner::run(&Target::native(), &plan, &names);
    let mut sandboxes = Vec::new();
    for target in &targets {
        sandboxes.push((target.name.clone(), runner::run(target, &plan, &names)));
    }
    let judge: report::Judge = |host, sandbox, listed| judge(host.status, sandbox.status, listed);
    let report = report::build(&cases, &native, &sandboxes, &expected, judge);
    args.runtime.write_json(&report)?;
    print!("{}", report.text(args.runtime.verbose));
    Ok(report.ok)
}

fn run_foreign(args: &ForeignArgs) -> Result<bool, String> {
    let expected = match &args.runtime.expected {
        Some(file) => ExpectedFailures::load(file)?,
        None => ExpectedFailures::default(),
    };
    let kind = match (args.gtest, args.exit_codes) {
        (true, _) => Some(Kind::GoogleTest),
        (_, true) => Some(Kind::ExitCode),
        _ => None,
    };
    let mut programs = foreign::programs(&args.dir)?;
    programs.retain(|program| chosen(&args.filter, &program.name));
    if programs.is_empty() {
        return Err(format!("{}: no executable file to run", args.dir.display()));
    }
    let plan = foreign::Plan {
        kind,
        timeout: Duration::from_secs(args.timeout),
        jobs: args.runtime.jobs,
    };
    let report = foreign::run(&programs, &args.runtime.targets()?, &plan, &expected)?;
    args.runtime.write_json(&report)?;
    print!("{}", report.text(args.runtime.verbose));
    Ok(report.ok)
}

fn chosen(filters: &[String], name: &str) -> bool {
    filters.is_empty() || filters.iter().any(|filter| glob::matches(filter, name))
}

impl RuntimeArgs {
    fn targets(&self) -> Result<Vec<Target>, String> {
        let runtime: Vec<String> = match &self.runtime {
            Some(text) => text.split_whitespace().map(str::to_string).collect(),
            None => {
                let binary = absolute(&self.binary()?)?.display().to_string();
                vec![
                    binary,
                    format!("--platform={PLATFORM}"),
                    "do".into(),
                    "--".into(),
                ]
            }
        };
        if self.platform.len() > 1 && !runtime.iter().any(|word| word.contains(PLATFORM)) {
            return Err(format!(
                "--runtime needs {PLATFORM} to run on several platforms"
            ));
        }
        Ok(self
            .platform
            .iter()
            .map(|name| Target::sandbox(&runtime, name))
            .collect())
    }

    fn binary(&self) -> Result<PathBuf, String> {
        if let Some(path) = &self.runsc {
            return Ok(path.clone());
        }
        let mut tried = vec![];
        let beside = sibling("runsc-rs")
            .ok()
            .and_then(|p| Some(p.parent()?.parent()?.to_owned()));
        for target in std::iter::once(PathBuf::from("target")).chain(beside) {
            for profile in ["release", "debug"] {
                let path = target.join(profile).join("runsc-rs");
                if path.is_file() {
                    return Ok(path);
                }
                tried.push(path.display().to_string());
            }
        }
        Err(format!(
            "no runsc-rs at {}; build it or name it with --runsc",
            tried.join(", ")
        ))
    }

    fn write_json(&self, report: &impl serde::Serialize) -> Result<(), String> {
        let Some(path) = &self.json else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(report).map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// The checked-in list, found from the workspace root or from this package.
fn default_expected() -> PathBuf {
    let here = PathBuf::from("conformance/expected-failures.txt");
    if here.exists() {
        here
    } else {
        PathBuf::from("expected-failures.txt")
    }
}

fn sibling(name: &str) -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| format!("where am I: {e}"))?;
    Ok(me.parent().unwrap_or(Path::new("/")).join(name))
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::fs::canonicalize(path).map_err(|e| format!("{}: {e}", path.display()))
}
