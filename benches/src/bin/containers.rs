//! Runs containers under `runc` and under us, interleaved in rounds: one that ends at once, one from
//! its creation until it runs, the same through a Docker engine, and many that sleep at a time.
//!
//! See `benches/README.md` for the rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};

use runsc_benches::docker::{Docker, busybox_root};
use runsc_benches::machine;
use runsc_benches::options::{self, Outputs};
use runsc_benches::process;
use runsc_benches::report::{OURS, Report, Unit};

const RUNC: &str = "runc";

/// Set runtimes side by side: containers.
#[derive(Parser, Debug)]
struct Options {
    /// How often each row is measured under each runtime; the table shows medians.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// How many containers sleep at a time.
    #[arg(long, default_value_t = 100)]
    many: u32,
    /// Our program. Default: runsc-rs of the release build.
    #[arg(long)]
    ours: Option<PathBuf>,
    /// Without a Docker engine.
    #[arg(long)]
    no_docker: bool,
    #[command(flatten)]
    outputs: Outputs,
}

/// A runtime and the bundle it is tried with.
struct Runtime {
    name: &'static str,
    program: PathBuf,
    /// What it keeps of its containers.
    state: PathBuf,
}

impl Runtime {
    fn command(&self, words: &[&str], bundle: Option<&Path>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).args(words);
        if let Some(bundle) = bundle {
            command.current_dir(bundle);
        }
        command
    }

    /// Runs a command of it to its end.
    fn call(&self, words: &[&str], bundle: Option<&Path>) -> Result<(), String> {
        let command = self.command(words, bundle);
        success(&command_name(self, words), command)
    }
}

fn command_name(runtime: &Runtime, words: &[&str]) -> String {
    format!("{} {}", runtime.name, words.join(" "))
}

/// Waits for a command whose children may outlive it.
fn success(name: &str, mut command: Command) -> Result<(), String> {
    use std::process::Stdio;
    let null = || Stdio::null();
    let status = command.stdin(null()).stdout(null()).stderr(null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(e) => Err(format!("{name}: {e}")),
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.rounds == 0 {
        bail!("--rounds must be at least 1");
    }
    process::become_subreaper().context("cannot become the subreaper of the runtimes")?;
    let target = options::target_directory()?;
    let ours = options.ours.clone();
    let ours = ours.unwrap_or_else(|| target.join("release/runsc-rs"));
    let ours = fs::canonicalize(&ours).with_context(|| ours.display().to_string())?;
    let work = tempfile::tempdir()?;
    busybox_root(&work.path().join("rootfs")).context("busybox (package busybox-static)")?;
    let runtimes = [(RUNC, PathBuf::from("runc")), (OURS, ours.clone())].map(|(name, program)| {
        let state = work.path().join(format!("{name}-state"));
        Runtime {
            name,
            program,
            state,
        }
    });
    let mut report = Report {
        machine: machine::facts(),
        ..Report::default()
    };
    report.method.push(format!("{} rounds", options.rounds));
    let bundles = Bundles::create(work.path())?;
    let runtimes = working(runtimes, &bundles, &mut report);
    once_each(&options, &runtimes, &bundles, &mut report);
    if !options.no_docker {
        match Docker::start(&ours) {
            Ok(docker) => through_docker(&options, &docker, &mut report),
            Err(why) => report.skip("docker_run", why),
        }
        process::end_now();
    }
    for runtime in &runtimes {
        many(&options, runtime, &bundles, &mut report);
    }
    report
        .machine
        .push(format!("load afterwards: {}", machine::load()));
    report.finish();
    compare(&mut report);
    options.outputs.deliver(&report)
}

/// Those that run a container at all.
fn working(runtimes: [Runtime; 2], bundles: &Bundles, report: &mut Report) -> Vec<Runtime> {
    let mut found = Vec::new();
    for runtime in runtimes {
        match runtime.call(&["run", "probe"], Some(&bundles.ends)) {
            Ok(()) => {
                report.runtimes.push(runtime.name.to_string());
                found.push(runtime);
            }
            Err(why) => report.skip(runtime.name, why),
        }
    }
    found
}

/// Two bundles on one root.
struct Bundles {
    ends: PathBuf,
    sleeps: PathBuf,
}

impl Bundles {
    fn create(work: &Path) -> Result<Bundles> {
        let make = |name: &str, words: &[&str]| -> Result<PathBuf> {
            let bundle = work.join(name);
            fs::create_dir(&bundle)?;
            let config = config(words, &work.join("rootfs"));
            fs::write(bundle.join("config.json"), config.to_string())?;
            Ok(bundle)
        };
        Ok(Bundles {
            ends: make("ends", &["/bin/true"])?,
            sleeps: make("sleeps", &["/bin/sleep", "1000"])?,
        })
    }
}

fn config(words: &[&str], root: &Path) -> Value {
    let namespaces = ["pid", "network", "ipc", "uts", "mount"];
    let namespaces = namespaces.map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": words, "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": root, "readonly": true},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces},
    })
}

fn once_each(options: &Options, runtimes: &[Runtime], bundles: &Bundles, report: &mut Report) {
    for round in 0..options.rounds as usize {
        for n in 0..runtimes.len() {
            let runtime = &runtimes[(n + round) % runtimes.len()];
            let id = format!("b{round}");
            timed("run", runtime.name, report, || {
                runtime.call(&["run", &id], Some(&bundles.ends))
            });
            timed("create_start", runtime.name, report, || {
                runtime.call(&["create", &id], Some(&bundles.sleeps))?;
                runtime.call(&["start", &id], None)
            });
            timed("delete_force", runtime.name, report, || {
                runtime.call(&["delete", "--force", &id], None)
            });
            process::end_now();
        }
    }
}

fn timed(row: &str, runtime: &str, report: &mut Report, body: impl FnOnce() -> Result<(), String>) {
    let begin = Instant::now();
    match body() {
        Ok(()) => report.sample(row, Unit::Ns, runtime, begin.elapsed().as_nanos() as f64),
        Err(why) => report.failure(row, Unit::Ns, runtime, why),
    }
}

fn through_docker(options: &Options, docker: &Docker, report: &mut Report) {
    for round in 0..options.rounds {
        let mut runtimes = [RUNC, OURS];
        runtimes.rotate_left(round as usize % 2);
        for runtime in runtimes {
            timed("docker_run", runtime, report, || {
                success("docker run", docker.run_true(runtime))
            });
        }
    }
}

/// Many that sleep: how long until all run, and the memory of one of them.
fn many(options: &Options, runtime: &Runtime, bundles: &Bundles, report: &mut Report) {
    let ids: Vec<String> = (0..options.many).map(|n| format!("m{n}")).collect();
    timed("many_up", runtime.name, report, || {
        ids.iter().try_for_each(|id| {
            runtime.call(&["create", id], Some(&bundles.sleeps))?;
            runtime.call(&["start", id], None)
        })
    });
    match process::memory_below(nix::unistd::Pid::this()) {
        Ok(all) => {
            let kib: u64 = all.iter().map(|one| one.pss_kib).sum();
            let each = kib as f64 / f64::from(options.many.max(1));
            report.sample("memory_each", Unit::Kib, runtime.name, each);
        }
        Err(why) => report.failure("memory_each", Unit::Kib, runtime.name, why),
    }
    for id in &ids {
        if let Err(why) = runtime.call(&["delete", "--force", id], None) {
            report.remark(why);
        }
    }
    let left = process::left_behind();
    if !left.is_empty() {
        let names = left.join(", ");
        report.remark(format!("{}: left behind: {names}", runtime.name));
    }
}

/// What the aims are about: us, as multiples of runc.
fn compare(report: &mut Report) {
    let ratios: Vec<String> = report
        .rows
        .iter()
        .filter_map(|row| {
            let of = |name: &str| row.cells.get(name)?.median;
            Some(format!(
                "{}: ours is {:.2} × runc",
                row.name,
                of(OURS)? / of(RUNC)?
            ))
        })
        .collect();
    for ratio in ratios {
        report.remark(ratio);
    }
}
