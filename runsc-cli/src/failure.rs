//! Why a container does not start, in a form that says what to do: at which stage, which errno.
//!
//! A [`Stage`] is put into an error with [`AtStage::at`]; [`Report`] is what a monitor sends to the
//! command that waits for it. The command line shows the whole as one line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A step on the way to a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Configuration,
    State,
    Console,
    Cgroup,
    Namespaces,
    Monitor,
    Sandbox,
    Hook,
    Program,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::State => "state",
            Self::Console => "console",
            Self::Cgroup => "cgroup",
            Self::Namespaces => "namespaces",
            Self::Monitor => "monitor",
            Self::Sandbox => "sandbox",
            Self::Hook => "hook",
            Self::Program => "program",
        }
    }

    /// What can be done about it, where that is known.
    fn advice(self, errno: Option<i32>) -> Option<&'static str> {
        Some(match (self, errno) {
            (Self::Namespaces, Some(libc::ENOSPC)) => "raise user.max_user_namespaces (sysctl)",
            (_, Some(libc::ENOSPC)) => "make room on the file system, or raise the limit named",
            (_, Some(libc::EMFILE | libc::ENFILE)) => "raise the limit of open files (ulimit -n)",
            (_, Some(libc::ENOMEM)) => "free memory, or raise the memory limit",
            (Self::Namespaces, Some(libc::EPERM | libc::EUSERS)) => {
                "allow user namespaces (sysctl user.max_user_namespaces), or run it as root"
            }
            (Self::Cgroup, Some(libc::EACCES | libc::EPERM | libc::EROFS)) => {
                "run it as root, delegate the cgroup to this user, or use --rootless=true"
            }
            (Self::Console, Some(libc::ENOENT | libc::ECONNREFUSED)) => {
                "something has to listen at --console-socket before"
            }
            (Self::Monitor | Self::Sandbox, Some(libc::EAGAIN)) => {
                "raise the limit of processes (ulimit -u, pids cgroup)"
            }
            (Self::State, Some(libc::EACCES | libc::EROFS)) => {
                "choose a directory of your own with --root"
            }
            _ => return None,
        })
    }
}

/// An error's stage, as an anyhow context.
#[derive(Debug, Clone, Copy)]
struct Marker(Stage);

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

/// Marks errors with a stage.
pub trait AtStage<T> {
    fn at(self, stage: Stage) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> AtStage<T> for Result<T, E> {
    fn at(self, stage: Stage) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(Marker(stage)))
    }
}

/// An error that has been told by another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub stage: Stage,
    pub errno: Option<i32>,
    /// One line, printable.
    pub message: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}

impl Report {
    pub fn new(stage: Stage, message: impl Into<String>) -> Self {
        Self {
            stage,
            errno: None,
            message: message.into(),
        }
    }

    /// What an error says, if it names a stage.
    pub fn of(error: &anyhow::Error) -> Option<Self> {
        if let Some(report) = error.downcast_ref::<Self>() {
            return Some(report.clone());
        }
        let stage = error.downcast_ref::<Marker>()?.0;
        let without = error.chain().skip(1).map(ToString::to_string);
        let message = without.collect::<Vec<_>>().join(": ");
        Some(Self {
            stage,
            errno: errno_of(error),
            message: crate::logging::printable(&message),
        })
    }

    /// The line that a user reads.
    pub fn full(&self) -> String {
        let message = &self.message;
        let mut line = match self.stage {
            // They name the file themselves.
            Stage::Configuration | Stage::State => message.clone(),
            stage if message.starts_with(stage.name()) => message.clone(),
            stage => format!("{}: {message}", stage.name()),
        };
        if let Some(advice) = self.advice() {
            line.push_str(&format!(" ({advice})"));
        }
        line
    }

    pub fn advice(&self) -> Option<&'static str> {
        self.stage.advice(self.errno)
    }
}

/// The errno at the root of an error.
fn errno_of(error: &anyhow::Error) -> Option<i32> {
    error.chain().rev().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return error.raw_os_error();
        }
        cause
            .downcast_ref::<nix::Error>()
            .map(|errno| *errno as i32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_names_stage_errno_and_what_to_do() {
        let failed: Result<(), _> = Err(std::io::Error::from_raw_os_error(libc::EACCES));
        let context = anyhow::Context::context(failed, "/run/x");
        let error = context.at(Stage::State).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "state: /run/x: Permission denied (os error 13)"
        );
        let report = Report::of(&error).unwrap();
        assert_eq!(
            (report.stage, report.errno),
            (Stage::State, Some(libc::EACCES))
        );
        assert_eq!(report.message, "/run/x: Permission denied (os error 13)");
        assert!(report.advice().unwrap().contains("--root"));
        let errno: Result<(), _> = Err(nix::Error::EPERM);
        let error = errno.at(Stage::Namespaces).unwrap_err();
        assert_eq!(Report::of(&error).unwrap().errno, Some(libc::EPERM));
        assert!(Report::of(&anyhow::anyhow!("plain")).is_none());
    }
}
