//! How a job becomes a command line under each runtime.
//!
//! Three ways: [`Kind::Native`] starts the program as it is; [`Kind::Prefix`] puts
//! a runtime's command in front of it (`runsc do --`, `runsc-rs do --`), the host's
//! root being visible inside; [`Kind::Runc`] writes an OCI bundle. Its root holds
//! only the static program, a scratch directory and one file, or, for
//! [whole programs](Runtime::run_program), it is the host's, read-only.
//!
//! Neighbours: [`crate::bundle`] writes what `runc` reads, [`crate::process`] runs
//! the commands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bundle::{Container, HostRootMount};
use crate::micro::LOWER_FILE_BYTES;
use crate::process::{self, Beside, Outcome, Output};

/// How long a runtime may take to run the program that does nothing.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// What is run under a runtime.
#[derive(Debug, Clone)]
pub enum Job {
    /// The rows of the micro-benchmark; an empty list means all.
    Bench { budget_ms: u64, rows: Vec<String> },
    /// The static program, exiting at once.
    Noop,
    /// The host's `/bin/true`: dynamic loader and C library from the root.
    True,
    /// A process that sleeps longer than anybody looks at it.
    Sleep,
}

/// A runtime, and the column it fills.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Native,
    /// The words before the program's; a word `{}` stands for the program.
    Prefix(Vec<String>),
    Runc {
        bundle: PathBuf,
        state: PathBuf,
        root: BundleRoot,
    },
}

#[derive(Debug, Clone)]
enum BundleRoot {
    /// Made for the static program.
    Own,
    /// The host's, mounted for each run.
    Host(HostRootMount),
}

/// Where and with which environment a whole program runs, the same under each
/// runtime.
#[derive(Debug)]
pub struct Place {
    /// The working directory, the only one the program may write to.
    pub directory: PathBuf,
    /// All of its environment.
    pub environment: Vec<(String, String)>,
    pub network: Network,
}

/// The network that a program has under runtimes that make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Loopback of its own.
    Alone,
    /// That of whoever calls the runtime.
    Callers,
}

/// The files the jobs need, as paths on the host.
#[derive(Debug, Clone)]
pub struct Files {
    pub program: PathBuf,
    pub scratch: PathBuf,
    pub lower: PathBuf,
}

impl Files {
    /// Makes scratch directory and lower file beside the built `program`.
    pub fn create(program: PathBuf, work: &Path) -> io::Result<Files> {
        let files = Files {
            program,
            scratch: work.join("scratch"),
            lower: work.join("lower"),
        };
        fs::create_dir_all(&files.scratch)?;
        fs::write(&files.lower, vec![b'l'; LOWER_FILE_BYTES])?;
        Ok(files)
    }

    fn inside_bundle() -> Files {
        Files {
            program: "/micro".into(),
            scratch: "/scratch".into(),
            lower: "/lower".into(),
        }
    }
}

impl Runtime {
    pub fn native() -> Runtime {
        Runtime {
            name: "native".to_string(),
            kind: Kind::Native,
        }
    }

    /// A runtime called by putting `template` before the program's words, or
    /// around them where it has a word `{}`.
    pub fn prefix(name: &str, template: &str) -> Runtime {
        let words = template.split_whitespace().map(str::to_string).collect();
        Runtime {
            name: name.to_string(),
            kind: Kind::Prefix(words),
        }
    }

    /// `runc`, with its bundle below `work`.
    pub fn runc(files: &Files, work: &Path) -> io::Result<Runtime> {
        let bundle = work.join("bundle");
        let root = bundle.join("rootfs");
        fs::create_dir_all(root.join("scratch"))?;
        for directory in ["proc", "dev", "tmp"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::copy(&files.program, root.join("micro"))?;
        fs::copy(&files.lower, root.join("lower"))?;
        Ok(Runtime::runc_with(bundle, work, BundleRoot::Own))
    }

    /// `runc` with the host's root, read-only, as the container's.
    pub fn runc_on_host(work: &Path) -> io::Result<Runtime> {
        let bundle = work.join("bundle-host");
        let root = HostRootMount::create(&bundle)?;
        Ok(Runtime::runc_with(bundle, work, BundleRoot::Host(root)))
    }

    fn runc_with(bundle: PathBuf, work: &Path, root: BundleRoot) -> Runtime {
        Runtime {
            name: RUNC.to_string(),
            kind: Kind::Runc {
                bundle,
                state: work.join("runc-state"),
                root,
            },
        }
    }

    /// The command that runs `job`, or `None` if this runtime cannot run it.
    pub fn command(&self, job: &Job, files: &Files) -> io::Result<Option<Command>> {
        Ok(match &self.kind {
            Kind::Native => program_words(job, files, HostRoot::Visible).map(|w| from_words(&w)),
            Kind::Prefix(template) => program_words(job, files, HostRoot::Visible)
                .map(|program| from_words(&expand(template, &program))),
            Kind::Runc { bundle, state, .. } => {
                match program_words(job, &Files::inside_bundle(), HostRoot::Hidden) {
                    None => None,
                    Some(words) => {
                        Container::of_static_program(&words).write(bundle)?;
                        Some(runc_run(bundle, state))
                    }
                }
            }
        })
    }

    /// Runs a program of the host's root to its end, with others beside it.
    pub fn run_program(
        &self,
        words: &[String],
        place: &Place,
        beside: &mut Beside,
        limit: Duration,
    ) -> io::Result<Outcome> {
        let mut command = match &self.kind {
            Kind::Native => from_words(words),
            Kind::Prefix(template) => {
                from_words(&expand(&with_network(template, place.network), words))
            }
            Kind::Runc {
                bundle,
                state,
                root: BundleRoot::Host(root),
            } => {
                Container::on_host_root(words, place, root).write(bundle)?;
                runc_run(bundle, state)
            }
            Kind::Runc { .. } => {
                let reason = "the bundle holds only the static program";
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
        };
        command.current_dir(&place.directory).env_clear();
        let environment = place.environment.iter().map(|(name, value)| (name, value));
        command.envs(environment);
        let run = || process::run_beside(beside, command, Output::Capture, limit);
        let outcome = match &self.kind {
            Kind::Runc {
                root: BundleRoot::Host(root),
                ..
            } => root.while_mounted(run)?,
            _ => run(),
        }?;
        if outcome.status.is_none() {
            self.clean_up();
        }
        Ok(outcome)
    }

    /// Takes away what a run that was ended from outside leaves in state folders.
    pub fn clean_up(&self) {
        if let Kind::Runc { state, .. } = &self.kind {
            let mut delete = Command::new(RUNC);
            delete
                .arg("--root")
                .arg(state)
                .args(["delete", "--force", CONTAINER_ID]);
            // It fails when there is nothing to delete, which is the usual case.
            let _ = process::run(delete, Output::Discard, PROBE_LIMIT);
        }
    }

    /// Runs the program that does nothing; the error is the reason to skip this
    /// runtime.
    pub fn probe(&self, files: &Files) -> Result<(), String> {
        let command = match self.command(&Job::Noop, files) {
            Ok(Some(command)) => command,
            Ok(None) => return Err("cannot run a program".to_string()),
            Err(e) => return Err(format!("cannot be prepared: {e}")),
        };
        self.judge(process::run(command, Output::Capture, PROBE_LIMIT))
    }

    /// The same with the host's `true`.
    pub fn probe_program(&self, place: &Place) -> Result<(), String> {
        let words = ["/bin/true".to_string()];
        self.judge(self.run_program(&words, place, &mut Beside::default(), PROBE_LIMIT))
    }

    fn judge(&self, result: io::Result<Outcome>) -> Result<(), String> {
        let program = match &self.kind {
            Kind::Native => "the program",
            Kind::Prefix(template) => template.first().map_or("", String::as_str),
            Kind::Runc { .. } => RUNC,
        };
        match result {
            Ok(outcome) if outcome.success() => Ok(()),
            Ok(outcome) => {
                self.clean_up();
                Err(format!("does not run here: {}", outcome.reason()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!("no `{program}` here")),
            Err(e) => Err(format!("cannot start `{program}`: {e}")),
        }
    }
}

const RUNC: &str = "runc";
const CONTAINER_ID: &str = "side-by-side";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostRoot {
    Visible,
    Hidden,
}

/// The words of the program itself, with the paths it sees.
fn program_words(job: &Job, files: &Files, host_root: HostRoot) -> Option<Vec<String>> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let program = path(&files.program);
    let mut words = match job {
        Job::Bench { budget_ms, .. } => vec![
            program,
            "bench".to_string(),
            "--budget-ms".to_string(),
            budget_ms.to_string(),
            "--dir".to_string(),
            path(&files.scratch),
            "--lower".to_string(),
            path(&files.lower),
        ],
        Job::Noop => vec![program, "noop".to_string()],
        Job::True if host_root == HostRoot::Hidden => return None,
        Job::True => vec!["/bin/true".to_string()],
        Job::Sleep if host_root == HostRoot::Hidden => {
            vec![program, "sleep".to_string(), "600".to_string()]
        }
        Job::Sleep => vec!["/bin/sleep".to_string(), "600".to_string()],
    };
    if let Job::Bench { rows, .. } = job
        && !rows.is_empty()
    {
        words.extend(["--rows".to_string(), rows.join(",")]);
    }
    Some(words)
}

fn expand(template: &[String], program: &[String]) -> Vec<String> {
    let mut words = Vec::new();
    let mut placed = false;
    for word in template {
        if word == "{}" {
            words.extend_from_slice(program);
            placed = true;
        } else {
            words.push(word.clone());
        }
    }
    if !placed {
        words.extend_from_slice(program);
    }
    words
}

/// A `do` command with that network.
fn with_network(template: &[String], network: Network) -> Vec<String> {
    let mut words = template.to_vec();
    if let Some(at) = words.iter().position(|word| word == "do")
        && network == Network::Callers
    {
        words.insert(at, "--network=host".to_string());
        // The last one counts for us, runsc wants one.
        let before = words[..at].iter().position(|w| w.starts_with("--network="));
        before.map(|before| words.remove(before));
    }
    words
}

fn from_words(words: &[String]) -> Command {
    let (program, arguments) = words
        .split_first()
        .map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn runc_run(bundle: &Path, state: &Path) -> Command {
    let mut command = Command::new(RUNC);
    command.arg("--root").arg(state);
    command.arg("run").arg("--bundle").arg(bundle);
    command.arg(CONTAINER_ID);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn templates_take_the_program_behind_or_inside() {
        let program = words("micro noop");
        assert_eq!(
            expand(&words("r do --"), &program),
            words("r do -- micro noop")
        );
        assert_eq!(
            expand(&words("r {} -x"), &program),
            words("r micro noop -x")
        );
        assert_eq!(expand(&[], &program), program);
    }

    #[test]
    fn the_callers_network_is_asked_for_once() {
        for (template, expected) in [
            ("r do --", "r --network=host do --"),
            (
                "r --a --network=none --b do {}",
                "r --a --b --network=host do {}",
            ),
            ("env", "env"),
        ] {
            let template = words(template);
            assert_eq!(with_network(&template, Network::Callers), words(expected));
            assert_eq!(with_network(&template, Network::Alone), template);
        }
    }

    #[test]
    fn jobs_use_only_what_the_root_holds() {
        let files = Files::inside_bundle();
        assert_eq!(program_words(&Job::True, &files, HostRoot::Hidden), None);
        assert_eq!(
            program_words(&Job::Sleep, &files, HostRoot::Hidden),
            Some(words("/micro sleep 600"))
        );
        let bench = Job::Bench {
            budget_ms: 5,
            rows: words("stat getpid"),
        };
        assert_eq!(
            program_words(&bench, &files, HostRoot::Hidden),
            Some(words(
                "/micro bench --budget-ms 5 --dir /scratch --lower /lower --rows stat,getpid"
            ))
        );
    }

    #[test]
    fn a_missing_runtime_says_so() {
        let files = Files::inside_bundle();
        let reason = Runtime::prefix("x", "/nonexistent/runtime do --")
            .probe(&files)
            .unwrap_err();
        assert_eq!(reason, "no `/nonexistent/runtime` here");
        let place = Place {
            directory: "/".into(),
            environment: Vec::new(),
            network: Network::Alone,
        };
        let reason = Runtime::prefix("x", "/nonexistent/runtime do --")
            .probe_program(&place)
            .unwrap_err();
        assert_eq!(reason, "no `/nonexistent/runtime` here");
    }
}
