//! Runs whole programs of the distribution natively and under each container
//! runtime of the machine, interleaved in rounds, and prints medians and ratios.
//!
//! The parts live in the library; here is only the order of things: what the jobs
//! need, probe, one native run of each that is not measured, rounds, report. See
//! `benches/README.md` for the jobs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use runsc_benches::bundle::private_mount_namespace;
use runsc_benches::machine;
use runsc_benches::netns::NetworkNamespace;
use runsc_benches::options::{self, Columns, Outputs};
use runsc_benches::process::{self, Beside, Outcome};
use runsc_benches::programs::{self, JOBS, Job, Size, Source};
use runsc_benches::report::{NATIVE, Report, Unit};
use runsc_benches::runtime::{Network, Place, Runtime};

/// Set runtimes side by side: whole programs.
#[derive(Parser, Debug)]
struct Options {
    /// How often each job runs under each runtime; the table shows medians.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these jobs (comma-separated).
    #[arg(long, value_delimiter = ',')]
    jobs: Vec<String>,
    /// How much a job does.
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    #[command(flatten)]
    columns: Columns,
    /// Time limit of one run of one job, in seconds.
    #[arg(long, default_value_t = 600)]
    limit_s: u64,
    /// Where the directories are made that the jobs write to. Default: that of
    /// temporary files.
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// Leave what the jobs write on the disk. Without this, root writes to memory,
    /// as sandboxes do whose writes are thrown away.
    #[arg(long)]
    on_disk: bool,
    /// Where the bundle goes. Default: `side-by-side` in the target directory.
    #[arg(long)]
    work_dir: Option<PathBuf>,
    #[command(flatten)]
    outputs: Outputs,
    /// Print the names of the jobs and end.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.list {
        for job in JOBS {
            println!("{}", job.name);
        }
        return Ok(());
    }
    if options.rounds == 0 {
        bail!("--rounds must be at least 1");
    }
    let wanted = wanted_jobs(&options.jobs)?;
    let target = options::target_directory()?;
    let work = options::work_directory(options.work_dir.as_deref(), &target)?;
    let mut report = Report {
        machine: machine::facts(),
        ..Report::default()
    };
    let scratch = Scratch::create(&options, &mut report)?;
    process::become_subreaper().context("cannot become the subreaper of the runtimes")?;

    let runc = (
        Runtime::runc_on_host(&work)?,
        "runc run, bundle on the host's root, read-only",
    );
    let candidates = options.columns.candidates(&target, &work, runc)?;
    let place = scratch.place(None)?;
    let probe = |runtime: &Runtime| runtime.probe_program(&place);
    let runtimes = options::choose(candidates, probe, &mut report)?;

    let mut run = Run {
        options: &options,
        source: None,
        wire: None,
        scratch,
        outputs: BTreeMap::new(),
        report,
    };
    let jobs = run.possible(wanted, &target)?;
    run.rounds(&jobs, &runtimes)?;
    run.compare_outputs();

    let mut report = run.report;
    let load = machine::load();
    report.machine.push(format!("load afterwards: {load}"));
    report.finish();
    options.outputs.deliver(&report)
}

fn wanted_jobs(names: &[String]) -> Result<Vec<&'static Job>> {
    let all: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
    if let Some(unknown) = names.iter().find(|name| !all.contains(&name.as_str())) {
        bail!(
            "--jobs: there is no job {unknown}; there are {}",
            all.join(", ")
        );
    }
    let wanted = |job: &&Job| names.is_empty() || names.iter().any(|name| name == job.name);
    Ok(JOBS.iter().filter(wanted).collect())
}

/// What a whole run has at hand, and what it has found out so far.
struct Run<'a> {
    options: &'a Options,
    source: Option<Source>,
    /// Made if a job wants it.
    wire: Option<Wire>,
    scratch: Scratch,
    /// By job and runtime what the rounds printed, each text once.
    outputs: BTreeMap<(&'static str, String), Vec<String>>,
    report: Report,
}

impl Run<'_> {
    /// Those of the jobs that can be measured here: all they need is there, and a
    /// run natively succeeds, which also fills the page cache.
    fn possible(&mut self, wanted: Vec<&'static Job>, target: &Path) -> Result<Vec<&'static Job>> {
        let mut no_source = None;
        if wanted
            .iter()
            .any(|job| job.wants_source && job.missing().is_none())
        {
            match Source::configure(target, self.scratch.path()) {
                Ok(source) => self.source = Some(source),
                Err(e) => no_source = Some(e.to_string()),
            }
        }
        let mut no_wire = None;
        if wanted.iter().any(|job| job.outside(Size::Small).is_some()) {
            match Wire::create() {
                Ok(wire) => self.wire = Some(wire),
                Err(e) => no_wire = Some(format!("no network namespaces: {e}")),
            }
        }
        let mut possible = Vec::new();
        for job in wanted {
            let mut reason = job.missing();
            if reason.is_none() && job.outside(Size::Small).is_some() {
                reason.clone_from(&no_wire);
            }
            if reason.is_none() && job.wants_source {
                reason.clone_from(&no_source);
            }
            // A busy machine makes no difference to whether it works.
            if reason.is_none() && !job.busy {
                let outcome = self.once(job, &Runtime::native())?;
                if !outcome.success() {
                    reason = Some(format!("it fails natively: {}", outcome.reason()));
                }
            }
            match reason {
                None => possible.push(job),
                Some(reason) => self.report.skip(job.name, reason),
            }
        }
        self.report.method.push(format!(
            "{} rounds of {} jobs",
            self.options.rounds,
            possible.len()
        ));
        Ok(possible)
    }

    fn rounds(&mut self, jobs: &[&'static Job], runtimes: &[Runtime]) -> Result<()> {
        for round in 0..self.options.rounds {
            eprintln!("round {} of {}", round + 1, self.options.rounds);
            for job in jobs {
                // A different one begins each round, so that none always comes
                // after the same.
                for index in 0..runtimes.len() {
                    let runtime = &runtimes[(index + round as usize) % runtimes.len()];
                    self.measure(job, runtime)?;
                }
            }
        }
        Ok(())
    }

    fn measure(&mut self, job: &'static Job, runtime: &Runtime) -> Result<()> {
        let outcome = self.once(job, runtime)?;
        let seconds = outcome.wall.as_secs_f64();
        eprintln!("  {} {}: {seconds:.3} s", job.name, runtime.name);
        for name in &outcome.left_behind {
            let remark = format!(
                "{} left a process of {} behind: {name}",
                runtime.name, job.name
            );
            self.report.remark(remark);
        }
        if !outcome.success() {
            for row in job.rows() {
                self.report
                    .failure(row, Unit::Ns, &runtime.name, outcome.reason());
            }
            return Ok(());
        }
        if !job.prints.is_empty() {
            self.printed_rows(job, runtime, &outcome.stdout);
            return Ok(());
        }
        let nanoseconds = outcome.wall.as_nanos() as f64;
        self.report
            .sample(job.name, Unit::Ns, &runtime.name, nanoseconds);
        let texts = self
            .outputs
            .entry((job.name, runtime.name.clone()))
            .or_default();
        let text = outcome.stdout.trim().to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
        Ok(())
    }

    fn printed_rows(&mut self, job: &Job, runtime: &Runtime, text: &str) {
        for &name in job.prints {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let figure = line.and_then(|line| {
                let (unit, value) = line.split_once(' ')?;
                Some((Unit::named(unit)?, value.parse().ok()?))
            });
            match figure {
                Some((unit, value)) => self.report.sample(name, unit, &runtime.name, value),
                None => {
                    let why = format!("{} printed no figure for it", job.name);
                    self.report.failure(name, Unit::Ns, &runtime.name, why);
                }
            }
        }
    }

    /// Runs the job in a fresh directory, which is gone afterwards.
    fn once(&self, job: &Job, runtime: &Runtime) -> Result<Outcome> {
        let source = self.source.as_ref().filter(|_| job.wants_source);
        let mut place = self.scratch.place(source)?;
        let size = self.options.size;
        let words = job.words(size);
        let limit = Duration::from_secs(self.options.limit_s);
        let wire = self.wire.as_ref().zip(job.outside(size));
        let outcome = if let Some((wire, outside)) = wire {
            let other = wire.enter(&mut place, &self.scratch)?;
            let outcome = wire.run(&outside, &other, |beside| {
                runtime.run_program(&words, &place, beside, limit)
            });
            remove(&other)?;
            outcome
        } else {
            let mut beside = match job.busy {
                true => Beside::busy(machine::cores())?,
                false => Beside::default(),
            };
            runtime.run_program(&words, &place, &mut beside, limit)
        };
        let outcome =
            outcome.with_context(|| format!("cannot run {} under {}", job.name, runtime.name));
        remove(&place)?;
        outcome
    }

    /// A runtime under which a job prints other than natively did other work.
    fn compare_outputs(&mut self) {
        for ((job, runtime), texts) in &self.outputs {
            let Some(native) = self.outputs.get(&(*job, NATIVE.to_string())) else {
                continue;
            };
            if let (Some(here), Some(there)) = (texts.first(), native.first())
                && !texts.iter().any(|text| native.contains(text))
            {
                self.report.remark(format!(
                    "{job} prints {here:?} under {runtime}, natively {there:?}"
                ));
            }
        }
    }
}

fn remove(place: &Place) -> Result<()> {
    fs::remove_dir_all(&place.directory)
        .with_context(|| format!("cannot remove {}", place.directory.display()))
}

/// A network for jobs and one of those whom they talk to, with a wire between them.
struct Wire {
    inside: NetworkNamespace,
    outside: NetworkNamespace,
}

impl Wire {
    const INSIDE: &str = "10.96.1.2";
    const OUTSIDE: &str = "10.96.1.1";

    fn create() -> io::Result<Wire> {
        let (inside, outside) = (NetworkNamespace::new()?, NetworkNamespace::new()?);
        let with_prefix = |address: &str| format!("{address}/24");
        let (here, there) = (with_prefix(Self::INSIDE), with_prefix(Self::OUTSIDE));
        inside.wire("wire", &[&here], &outside, &[&there])?;
        Ok(Wire { inside, outside })
    }

    /// Tells a job where it is; the place of the other end.
    fn enter(&self, place: &mut Place, scratch: &Scratch) -> Result<Place> {
        let mut other = scratch.place(None)?;
        place.network = Network::Callers;
        for place in [place, &mut other] {
            let addresses = [("INSIDE", Self::INSIDE), ("OUTSIDE", Self::OUTSIDE)];
            let named = addresses.map(|(name, value)| (name.to_string(), value.to_string()));
            place.environment.extend(named);
        }
        Ok(other)
    }

    /// Starts the program `outside` and does the work inside.
    fn run(
        &self,
        outside: &[String],
        place: &Place,
        work: impl FnOnce(&mut Beside) -> io::Result<Outcome> + Send,
    ) -> io::Result<Outcome> {
        let start = || {
            let mut command = Command::new(&outside[0]);
            let environment = place.environment.iter().map(|(name, value)| (name, value));
            command.args(&outside[1..]).env_clear().envs(environment);
            command.current_dir(&place.directory);
            Beside::program(command)
        };
        let mut beside = self.outside.inside(start)??;
        self.inside.inside(|| work(&mut beside))?
    }
}

/// The directory that holds the jobs' directories.
struct Scratch {
    directory: TempDir,
    in_memory: bool,
}

impl Scratch {
    /// In memory if that is possible and wanted. That mount, and those made for a
    /// runtime, are in a mount namespace of the runner's own, and end with it.
    fn create(options: &Options, report: &mut Report) -> Result<Scratch> {
        let parent = options
            .scratch_dir
            .clone()
            .unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::Builder::new()
            .prefix("programs-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let mounted = match options.on_disk {
            true => Err("--on-disk".to_string()),
            false => mount_memory(directory.path()).map_err(|e| format!("no mount: {e}")),
        };
        report.method.push(match &mounted {
            Ok(()) => "what the jobs write is in memory everywhere".to_string(),
            Err(why) => format!("natively the jobs write to {} ({why})", parent.display()),
        });
        Ok(Scratch {
            directory,
            in_memory: mounted.is_ok(),
        })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A fresh directory for one run, with a copy of the source if one is given.
    fn place(&self, source: Option<&Source>) -> Result<Place> {
        let directory = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(self.path())?
            .keep();
        if let Some(source) = source {
            source.copy_into(&directory)?;
        }
        Ok(Place {
            environment: programs::environment(&directory),
            directory,
            network: Network::Alone,
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.in_memory {
            // The namespace ends with this process in any case.
            let _ = umount2(self.path(), MntFlags::MNT_DETACH);
        }
    }
}

fn mount_memory(directory: &Path) -> nix::Result<()> {
    private_mount_namespace()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        flags,
        Some("mode=711"),
    )
}
