//! The jobs of the runner of whole programs.
//!
//! Each is a shell script of `benches/programs/` that is given a [`Size`], works in
//! an empty directory that is its home, and prints what is the same on every run,
//! so that a runtime that does less work shows. A script checks what it did and
//! ends with a status other than 0 if that is not right.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use thiserror::Error;

use crate::process::{self, Output};

/// Where the distribution's programs are; other copies would not be the same
/// everywhere.
pub const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// How much a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// What the table is about.
    Full,
    /// The least that still runs everything, for tests.
    Small,
}

/// One row.
#[derive(Debug)]
pub struct Job {
    pub name: &'static str,
    /// Without one it is `/bin/true` alone.
    script: Option<&'static str>,
    /// The other end of a wire to the network the script has: a script that runs natively there, and
    /// whose output the first one reads.
    outside: Option<&'static str>,
    /// Programs by name or files by path, each with its Debian package.
    needs: &'static [(&'static str, &'static str)],
    /// It starts with the configured source tree in its directory.
    pub wants_source: bool,
    /// All cores are kept busy by others meanwhile.
    pub busy: bool,
    /// What it measures itself: it prints a line `NAME UNIT VALUE` each, and its own time is no row.
    pub prints: &'static [&'static str],
}

const NONE: Job = Job {
    name: "",
    script: None,
    outside: None,
    needs: &[],
    wants_source: false,
    busy: false,
    prints: &[],
};

const MAKE: Job = Job {
    name: "make_j2",
    script: Some(include_str!("../programs/make_j2.sh")),
    needs: &[
        ("make", "make"),
        ("gcc", "gcc"),
        ("/usr/include/stdio.h", "libc6-dev"),
        ("/usr/include/zlib.h", "zlib1g-dev"),
    ],
    wants_source: true,
    ..NONE
};

/// All jobs, in the table's order.
pub const JOBS: &[Job] = &[
    Job {
        name: "true",
        ..NONE
    },
    Job {
        name: "shell_loop",
        script: Some(include_str!("../programs/shell_loop.sh")),
        ..NONE
    },
    MAKE,
    Job {
        name: "make_j2_busy",
        busy: true,
        ..MAKE
    },
    Job {
        name: "python_imports",
        script: Some(include_str!("../programs/python_imports.sh")),
        needs: &[("python3", "python3")],
        ..NONE
    },
    Job {
        name: "git",
        script: Some(include_str!("../programs/git.sh")),
        needs: &[("git", "git")],
        ..NONE
    },
    Job {
        name: "grep_tree",
        script: Some(include_str!("../programs/grep_tree.sh")),
        needs: &[
            ("/usr/include/linux", "linux-libc-dev"),
            ("/usr/lib/python3", "python3"),
        ],
        ..NONE
    },
    Job {
        name: "find_root",
        script: Some(include_str!("../programs/find_root.sh")),
        needs: &[("find", "findutils")],
        ..NONE
    },
    Job {
        name: "tar_xz",
        script: Some(include_str!("../programs/tar_xz.sh")),
        needs: &[
            ("tar", "tar"),
            ("xz", "xz-utils"),
            ("/usr/include/linux", "linux-libc-dev"),
        ],
        ..NONE
    },
    Job {
        name: "sqlite",
        script: Some(include_str!("../programs/sqlite.sh")),
        needs: &[("sqlite3", "sqlite3")],
        ..NONE
    },
    Job {
        name: "redis",
        script: Some(include_str!("../programs/redis.sh")),
        needs: &[
            ("redis-server", "redis-server"),
            ("redis-benchmark", "redis-tools"),
        ],
        ..NONE
    },
    Job {
        name: "python_threads",
        script: Some(include_str!("../programs/python_threads.sh")),
        needs: &[("python3", "python3")],
        ..NONE
    },
    Job {
        name: "net_redis",
        script: Some(include_str!("../programs/net_redis.sh")),
        needs: &[
            ("redis-server", "redis-server"),
            ("redis-benchmark", "redis-tools"),
        ],
        prints: &[
            "redis_set_p1",
            "redis_get_p1",
            "redis_set_p16",
            "redis_get_p16",
        ],
        ..NONE
    },
    Job {
        name: "net_nginx",
        script: Some(include_str!("../programs/net_nginx.sh")),
        needs: &[("nginx", "nginx-light"), ("wrk", "wrk")],
        prints: &["nginx_wrk"],
        ..NONE
    },
    Job {
        name: "net_iperf3",
        script: Some(include_str!("../programs/net_iperf3.sh")),
        needs: &[("iperf3", "iperf3")],
        prints: &["iperf3"],
        ..NONE
    },
    Job {
        name: "net_nginx_out",
        script: Some(include_str!("../programs/net_nginx.sh")),
        outside: Some(include_str!("../programs/net_nginx_outside.sh")),
        needs: &[("nginx", "nginx-light"), ("wrk", "wrk"), ("curl", "curl")],
        prints: &["nginx_wrk_out"],
        ..NONE
    },
    Job {
        name: "net_iperf3_out",
        script: Some(include_str!("../programs/net_iperf3_out.sh")),
        outside: Some(include_str!("../programs/net_iperf3_outside.sh")),
        needs: &[("iperf3", "iperf3")],
        prints: &["iperf3_out", "iperf3_in"],
        ..NONE
    },
    Job {
        name: "net_pgbench",
        script: Some(include_str!("../programs/net_pgbench.sh")),
        needs: &[
            ("/usr/lib/postgresql", "postgresql"),
            ("setpriv", "util-linux"),
        ],
        prints: &["pgbench_select"],
        ..NONE
    },
];

impl Job {
    /// The table's rows that come of it.
    pub fn rows(&self) -> Vec<&'static str> {
        match self.prints {
            [] => vec![self.name],
            rows => rows.to_vec(),
        }
    }

    /// The command's words.
    pub fn words(&self, size: Size) -> Vec<String> {
        let script = self.script.map(|script| self.shell(script, size));
        script.unwrap_or_else(|| vec!["/bin/true".to_string()])
    }

    /// Those of the command at the other end of the wire, if there is one.
    pub fn outside(&self, size: Size) -> Option<Vec<String>> {
        self.outside.map(|script| self.shell(script, size))
    }

    fn shell(&self, script: &str, size: Size) -> Vec<String> {
        let size = match size {
            Size::Full => "full",
            Size::Small => "small",
        };
        let words = ["/bin/sh", "-c", script, self.name, size];
        words.map(str::to_string).to_vec()
    }

    /// What this machine lacks for it, if anything.
    pub fn missing(&self) -> Option<String> {
        let absent = |program: &str| match program.starts_with('/') {
            true => !Path::new(program).exists(),
            false => !SYSTEM_PATH
                .split(':')
                .any(|directory| Path::new(directory).join(program).exists()),
        };
        let lacking: Vec<String> = self
            .needs
            .iter()
            .filter(|(program, _)| absent(program))
            .map(|(program, package)| format!("{program} (Debian: {package})"))
            .collect();
        (!lacking.is_empty()).then(|| format!("there is no {}", lacking.join(", no ")))
    }
}

/// The environment of every job in `directory`: all of it.
pub fn environment(directory: &Path) -> Vec<(String, String)> {
    let directory = directory.to_string_lossy();
    [
        ("PATH", SYSTEM_PATH),
        ("HOME", &directory),
        ("TMPDIR", &directory),
        ("LC_ALL", "C.UTF-8"),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .to_vec()
}

/// The C program that is built, as it was configured on the host.
#[derive(Debug)]
pub struct Source {
    configured: PathBuf,
}

#[derive(Debug, Error)]
pub enum SourceError {
    /// `.ci/setup-programs` has not been run.
    #[error("there is no source in {unpacked}; `.ci/setup-programs {target}` gets it")]
    Absent { unpacked: PathBuf, target: PathBuf },
    /// Copying or configuring it failed on the host itself.
    #[error("{what}: {why}")]
    Failed { what: &'static str, why: String },
}

impl Source {
    /// Copies what `.ci/setup-programs` unpacked below `target` into `directory` and
    /// configures it there.
    pub fn configure(target: &Path, directory: &Path) -> Result<Source, SourceError> {
        let unpacked = target.join("programs/mandoc");
        if !unpacked.join(".unpacked").exists() {
            return Err(SourceError::Absent {
                unpacked,
                target: target.to_path_buf(),
            });
        }
        let configured = directory.join("mandoc");
        copy_tree(&unpacked, &configured)?;
        let local = configured.join("configure.local");
        fs::write(&local, "CC=gcc\nCFLAGS=-O1\nPREFIX=/usr\n").map_err(|e| {
            let what = "cannot write configure.local";
            SourceError::Failed {
                what,
                why: e.to_string(),
            }
        })?;
        let mut configure = Command::new("/bin/sh");
        configure.arg("./configure").current_dir(&configured);
        configure.env_clear().envs(environment(directory));
        succeed("cannot configure the source", configure)?;
        Ok(Source { configured })
    }

    /// Puts a copy into `directory`, as `mandoc`.
    pub fn copy_into(&self, directory: &Path) -> Result<(), SourceError> {
        copy_tree(&self.configured, &directory.join("mandoc"))
    }
}

/// With times, which make compares.
fn copy_tree(from: &Path, to: &Path) -> Result<(), SourceError> {
    let mut copy = Command::new("/bin/cp");
    copy.arg("-a").arg(from).arg(to);
    succeed("cannot copy the source", copy)
}

fn succeed(what: &'static str, command: Command) -> Result<(), SourceError> {
    const LIMIT: Duration = Duration::from_secs(120);
    let why = match process::run(command, Output::Capture, LIMIT) {
        Ok(outcome) if outcome.success() => return Ok(()),
        Ok(outcome) => outcome.reason(),
        Err(e) => e.to_string(),
    };
    Err(SourceError::Failed { what, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_scripts_are_used() {
        let mut names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), JOBS.len());
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let text = Some(text.as_str());
            let used = |job: &Job| job.script == text || job.outside == text;
            assert!(JOBS.iter().any(used), "{}", path.display());
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let job = Job {
            name: "x",
            needs: &[
                ("sh", "dash"),
                ("/bin", "base-files"),
                ("no-such-program", "package"),
                ("/nonexistent", "other"),
            ],
            ..NONE
        };
        let expected =
            "there is no no-such-program (Debian: package), no /nonexistent (Debian: other)";
        assert_eq!(job.missing().as_deref(), Some(expected));
        assert_eq!(NONE.missing(), None);
    }

    #[test]
    fn a_source_that_is_not_there_says_how_to_get_it() {
        let target = Path::new("/nonexistent/target");
        let error = Source::configure(target, Path::new("/nonexistent")).unwrap_err();
        let expected = "there is no source in /nonexistent/target/programs/mandoc; \
                        `.ci/setup-programs /nonexistent/target` gets it";
        assert_eq!(error.to_string(), expected);
    }
}
