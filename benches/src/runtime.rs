//! How a job becomes a command line under each runtime.
//!
//! Three ways: [`Kind::Native`] starts the program as it is; [`Kind::Prefix`] puts
//! a runtime's command in front of it (`runsc do --`, `runsc-rs do --`), the host's
//! root being visible inside; [`Kind::Runc`] writes an OCI bundle whose root holds
//! only the static program, a scratch directory and one file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::micro::LOWER_FILE_BYTES;
use crate::process::{self, Output};

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
    },
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
        let kind = Kind::Runc {
            bundle,
            state: work.join("runc-state"),
        };
        Ok(Runtime {
            name: "runc".to_string(),
            kind,
        })
    }

    /// The command that runs `job`, or `None` if this runtime cannot run it.
    pub fn command(&self, job: &Job, files: &Files) -> io::Result<Option<Command>> {
        Ok(match &self.kind {
            Kind::Native => program_words(job, files, HostRoot::Visible).map(|w| from_words(&w)),
            Kind::Prefix(template) => program_words(job, files, HostRoot::Visible)
                .map(|program| from_words(&expand(template, &program))),
            Kind::Runc { bundle, state } => {
                match program_words(job, &Files::inside_bundle(), HostRoot::Hidden) {
                    None => None,
                    Some(words) => {
                        let config = bundle_config(&words, nix::unistd::geteuid().as_raw());
                        fs::write(bundle.join("config.json"), config.to_string())?;
                        let mut command = Command::new("runc");
                        command
                            .arg("--root")
                            .arg(state)
                            .arg("run")
                            .arg("--bundle")
                            .arg(bundle);
                        command.arg(CONTAINER_ID);
                        Some(command)
                    }
                }
            }
        })
    }

    /// Takes away what a run that was ended from outside leaves in state folders.
    pub fn clean_up(&self) {
        if let Kind::Runc { state, .. } = &self.kind {
            let mut delete = Command::new("runc");
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
        let program = command.get_program().to_string_lossy().into_owned();
        match process::run(command, Output::Capture, PROBE_LIMIT) {
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

fn from_words(words: &[String]) -> Command {
    let (program, arguments) = words
        .split_first()
        .map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// A bundle as Docker would write it, less what costs a benchmark nothing to miss:
/// own namespaces, no capabilities, no seccomp profile.
fn bundle_config(words: &[String], euid: u32) -> Value {
    let mut namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    let mut linux = json!({});
    if euid != 0 {
        namespaces.push(json!({"type": "user"}));
        let egid = nix::unistd::getegid().as_raw();
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": euid, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": egid, "size": 1}]);
    }
    linux["namespaces"] = json!(namespaces);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": words,
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "side-by-side",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=64k"]},
        ],
        "linux": linux,
    })
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
    fn only_ordinary_users_get_a_user_namespace() {
        let root = bundle_config(&words("/micro noop"), 0);
        assert_eq!(root["process"]["args"], json!(["/micro", "noop"]));
        assert!(root["linux"]["uidMappings"].is_null());
        let user = bundle_config(&words("/micro noop"), 1000);
        assert_eq!(user["linux"]["uidMappings"][0]["hostID"], 1000);
        let namespaces = user["linux"]["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({"type": "user"})));
    }

    #[test]
    fn a_missing_runtime_says_so() {
        let files = Files::inside_bundle();
        let reason = Runtime::prefix("x", "/nonexistent/runtime do --")
            .probe(&files)
            .unwrap_err();
        assert_eq!(reason, "no `/nonexistent/runtime` here");
    }
}
