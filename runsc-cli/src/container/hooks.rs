//! Hooks: programs of the host's that `config.json` names, run at points of a container's life.
//!
//! Each gets the container's state as JSON on stdin and nothing of our environment. Those of kind
//! `startContainer` are programs of the container's, run in it by the Sentry. `createContainer` hooks
//! run in the container's network namespace, but with the host's mounts: there is no host namespace
//! with the container's in it.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::memfd::{MFdFlags, memfd_create},
};
use oci_spec::runtime::{Hook, Hooks};

use crate::sandbox::network;

/// Bytes of what a failed hook said that are told.
const MAX_SAID: u64 = 4096;

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    pub fn of(self, hooks: Option<&Hooks>) -> &[Hook] {
        let Some(hooks) = hooks else { return &[] };
        let these = match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        these.as_deref().unwrap_or_default()
    }
}

/// Runs the hooks of a kind in order, up to the first that fails.
pub fn run(hooks: Option<&Hooks>, kind: Kind, state: &[u8]) -> Result<()> {
    for (index, hook) in kind.of(hooks).iter().enumerate() {
        log::debug!("hook {}[{index}]: {}", kind.name(), hook.path().display());
        one(hook, state)
            .with_context(|| format!("{}[{index}] ({})", kind.name(), hook.path().display()))?;
    }
    Ok(())
}

/// The same in the network namespace of process `pid`.
pub fn run_in_network(hooks: Option<&Hooks>, kind: Kind, state: &[u8], pid: i32) -> Result<()> {
    if kind.of(hooks).is_empty() {
        return Ok(());
    }
    network::inside(pid, |_| run(hooks, kind, state))
}

/// Runs all of them, and only warns of those that fail.
pub fn run_all(hooks: Option<&Hooks>, kind: Kind, state: &[u8]) {
    for (index, hook) in kind.of(hooks).iter().enumerate() {
        if let Err(error) = one(hook, state) {
            let path = hook.path().display();
            log::warn!("hook {}[{index}] ({path}): {error:#}", kind.name());
        }
    }
}

/// A file in memory that somebody writes to and we read.
pub fn scratch(content: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create(c"runsc-rs-hook", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// What was written to it, cut short.
pub fn said(mut file: File) -> String {
    let mut text = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.take(MAX_SAID).read_to_end(&mut text));
    match read {
        Ok(_) => crate::logging::printable(String::from_utf8_lossy(&text).trim()),
        Err(_) => String::new(),
    }
}

pub fn timeout(hook: &Hook) -> Result<Option<Duration>> {
    match hook.timeout() {
        None => Ok(None),
        Some(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds as u64))),
        Some(seconds) => bail!("timeout: {seconds}: must be positive"),
    }
}

fn one(hook: &Hook, state: &[u8]) -> Result<()> {
    if !hook.path().is_absolute() {
        bail!("path: must be absolute");
    }
    let limit = timeout(hook)?;
    let output = scratch(b"")?;
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .current_dir("/")
        .stdin(scratch(state)?)
        .stdout(Stdio::from(output.try_clone()?))
        .stderr(Stdio::from(output.try_clone()?));
    for entry in hook.env().as_deref().unwrap_or_default() {
        let (name, value) = entry
            .split_once('=')
            .ok_or_else(|| anyhow!("env: {entry:?}: must be NAME=VALUE"))?;
        command.env(name, value);
    }
    let mut child = command.spawn().context("cannot be executed")?;
    let pid = rustix::process::Pid::from_child(&child);
    let waited = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .context("pidfd_open")
        .and_then(|pidfd| until(&pidfd, limit));
    match waited {
        Ok(true) => {}
        other => {
            // It may have ended meanwhile.
            let _ = child.kill();
            child.wait()?;
            other?;
            let seconds = limit.unwrap_or_default().as_secs();
            bail!("did not end within {seconds} s");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{status}: {}", said(output));
    }
    Ok(())
}

/// Waits until the process is dead; false if the time is over.
fn until(pidfd: &impl AsFd, limit: Option<Duration>) -> Result<bool> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(
            &mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Ok(false);
            }
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno).context("poll"),
        }
    }
}

/// A hook's program and its arguments.
pub fn words(hook: &Hook) -> Vec<String> {
    let path = hook.path().display().to_string();
    let args = hook.args().as_deref().unwrap_or_default();
    std::iter::once(path)
        .chain(args.iter().skip(1).cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(json: &str) -> Hooks {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn hooks_get_the_state_and_their_own_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let json = format!(
            r#"{{"poststart": [{{"path": "/bin/sh", "env": ["A=b c"],
                "args": ["name", "-c", "{{ cat; echo; env | grep -v -e PWD -e SHLVL -e _=; echo $0; }} > {}", "zero"]}}]}}"#,
            out.display()
        );
        run(Some(&hooks(&json)), Kind::Poststart, b"{state}").unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        assert_eq!(text, "{state}\nA=b c\nzero\n");
        // Of another kind there are none.
        run(Some(&hooks(&json)), Kind::Poststop, b"").unwrap();
        run(None, Kind::Poststart, b"").unwrap();
    }

    #[test]
    fn failures_are_named() {
        for (hook, expected) in [
            (
                r#"{"path": "/bin/sh", "args": ["sh", "-c", "echo oh no >&2; exit 3"]}"#,
                "prestart[0] (/bin/sh): exit status: 3: oh no",
            ),
            (
                r#"{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}"#,
                "prestart[0] (/bin/sleep): did not end within 1 s",
            ),
            (
                r#"{"path": "/no/such/hook"}"#,
                "prestart[0] (/no/such/hook): cannot be executed: No such file or directory (os error 2)",
            ),
            (
                r#"{"path": "relative"}"#,
                "prestart[0] (relative): path: must be absolute",
            ),
            (
                r#"{"path": "/bin/true", "timeout": 0}"#,
                "prestart[0] (/bin/true): timeout: 0: must be positive",
            ),
        ] {
            let json = format!(r#"{{"prestart": [{hook}]}}"#);
            let error = run(Some(&hooks(&json)), Kind::Prestart, b"").unwrap_err();
            assert_eq!(format!("{error:#}"), expected);
        }
    }
}
