//! Which platform a sandbox gets that asks for none.
//!
//! The Sentry takes the first that works, and kvm is not among those: its traps are quick where the
//! processor virtualises, and very slow where that is emulated. So kvm is chosen only where it was
//! measured to be clearly the faster one. That takes some milliseconds, so it is done once a boot,
//! by a process of its own, and the result kept in the user's default directory for the state of
//! containers, whichever this command uses. It is of no use with another version of this program, after another boot, or with another device. Where
//! the device cannot be opened, nothing is measured; and a machine that does not answer is not waited
//! for.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use runsc_platform::{
    Platform, kvm, measure,
    ptrace::PtracePlatform,
    systrap::{InPlace, Options, Patching, SystrapPlatform},
};
use runsc_sentry::config::PlatformChoice;

use crate::{args::GlobalArgs, state::StateRoot};

/// The file with the choice; no container can have that name.
const KEPT: &str = "platform:";
/// Call sites that trap often are patched with systrap, which makes them several times cheaper than
/// the one that is measured. So kvm has to be better by this factor.
const MARGIN: u32 = 2;
/// What measuring may take. On a machine at rest it takes a hundredth of that.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer, and longest file with one, bytes.
const LONGEST: u64 = 256;
/// What stands for the answer if there was none.
const NONE: &str = "none";
/// With calls slower than this kvm is not worth measuring what it competes with.
const HOPELESS: Duration = Duration::from_micros(5);

/// The one asked for, or what was measured.
pub fn for_sandbox(global: &GlobalArgs) -> PlatformChoice {
    if let Some(name) = &global.platform {
        return PlatformChoice::Only(name.clone());
    }
    let choice = device().and_then(kept_or_measured);
    match choice.inspect_err(|error| log::debug!("choosing a platform: {error:#}")) {
        Ok(choice) if choice == "kvm" => PlatformChoice::Rather(choice),
        _ => PlatformChoice::Any,
    }
}

/// The device that guests run with on kvm, which the Sentry cannot open in its empty root. Where kvm
/// is only the better choice and the device is missing, that is a warning, and no choice any more.
///
/// # Errors
/// Why it cannot be opened.
pub fn device_for(choice: &mut PlatformChoice) -> Result<(Option<OwnedFd>, Option<String>)> {
    device_of(choice, device)
}

fn device_of(
    choice: &mut PlatformChoice,
    open: impl Fn() -> Result<OwnedFd>,
) -> Result<(Option<OwnedFd>, Option<String>)> {
    match choice {
        PlatformChoice::Only(name) if name == "kvm" => Ok((Some(open()?), None)),
        PlatformChoice::Rather(name) if name == "kvm" => match open() {
            Ok(device) => Ok((Some(device), None)),
            Err(why) => {
                *choice = PlatformChoice::Any;
                Ok((None, Some(format!("{why:#}; it is another one instead"))))
            }
        },
        _ => Ok((None, None)),
    }
}

fn device() -> Result<OwnedFd> {
    let device = kvm::DEVICE;
    let file = fs::File::options().read(true).write(true).open(device);
    Ok(file
        .with_context(|| format!("platform kvm: {device}"))?
        .into())
}

fn kept_or_measured(device: OwnedFd) -> Result<String> {
    let root = StateRoot::open(None)?;
    let path = root.path().join(KEPT);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    // Another module brings another node.
    let device = fs::File::from(device).metadata()?;
    let this = format!(
        "{} {} {}:{} ",
        env!("CARGO_PKG_VERSION"),
        boot.trim(),
        device.dev(),
        device.ino()
    );
    let mut kept = String::new();
    if let Ok(file) = fs::File::open(&path)
        && file.take(LONGEST).read_to_string(&mut kept).is_ok()
        && let Some(choice) = kept.strip_prefix(&this)
        && let Some(choice) = choice.strip_suffix('\n')
        && !choice.contains(char::is_whitespace)
    {
        return Ok(choice.to_owned());
    }
    // Guest code runs in the process that measures, which has no part in the sandbox.
    let mut measure = Command::new("/proc/self/exe");
    measure.args(["debug", "platforms", "--choose"]);
    let choice = answer(measure, PATIENCE)?.unwrap_or_else(|| NONE.to_owned());
    let new = root.path().join(format!("{KEPT}{}", std::process::id()));
    if let Err(error) = keep(&new, &path, &format!("{this}{choice}\n")) {
        // Measured once more, then.
        let _ = fs::remove_file(&new);
        log::debug!("keeping the choice of a platform: {error}");
    }
    Ok(choice)
}

fn keep(new: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(new, path)
}

/// What a program says, if it says so in time and does not fail.
fn answer(mut program: Command, patience: Duration) -> Result<Option<String>> {
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = child.stdout.take().context("no output")?;
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
    let spoke = loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            result => break result,
        }
    };
    // Whatever it is at then has come to nothing.
    let mut said = String::new();
    let read = match spoke {
        Ok(1..) => output.take(LONGEST).read_to_string(&mut said).is_ok(),
        _ => {
            child.kill()?;
            false
        }
    };
    let ended_well = child.wait()?.success();
    Ok((read && ended_well).then(|| said.trim().to_owned()))
}

/// What was measured of one platform.
pub struct Measured {
    pub name: &'static str,
    pub call: Result<Duration>,
}

fn measured(name: &'static str) -> Measured {
    let made = || -> Result<Arc<dyn Platform>> {
        Ok(match name {
            "kvm" => Arc::new(kvm::KvmPlatform::new(kvm::Options {
                workers: 1,
                device: Some(device()?),
                ..Default::default()
            })?),
            "systrap" => Arc::new(SystrapPlatform::new(Options {
                workers: 1,
                in_place: InPlace::Never,
                patching: Patching::Never,
            })?),
            "ptrace" => Arc::new(PtracePlatform::new()?),
            _ => bail!("it cannot be measured"),
        })
    };
    let call = made().and_then(|platform| Ok(measure::call_time(&platform)?));
    Measured { name, call }
}

/// All of them, in the order they are tried in.
pub fn all() -> Vec<Measured> {
    runsc_sentry::boot::PLATFORMS
        .iter()
        .map(|name| measured(name))
        .collect()
}

/// Which one it is to be, and why. Measures no more than that takes.
pub fn choose() -> (&'static str, String) {
    let kvm = match measured("kvm").call {
        Ok(kvm) if kvm > HOPELESS => return ("systrap", format!("kvm takes {kvm:?} a call")),
        Ok(kvm) => kvm,
        Err(error) => return ("systrap", format!("{error:#}")),
    };
    decide(kvm, measured("systrap").call)
}

fn decide(kvm: Duration, systrap: Result<Duration>) -> (&'static str, String) {
    match systrap {
        Ok(systrap) if kvm * MARGIN > systrap => (
            "systrap",
            format!(
                "kvm takes {kvm:?} a call, which is not {MARGIN} times better than {systrap:?}"
            ),
        ),
        Ok(systrap) => (
            "kvm",
            format!("kvm takes {kvm:?} a call, systrap {systrap:?}"),
        ),
        Err(error) => ("kvm", format!("systrap does not work: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_has_to_be_clearly_faster() {
        let us = Duration::from_micros;
        for (kvm, systrap, chosen) in [(1, 2, "kvm"), (1, 9, "kvm"), (2, 3, "systrap")] {
            let (name, why) = decide(us(kvm), Ok(us(systrap)));
            assert_eq!(name, chosen, "{why}");
        }
        assert_eq!(decide(us(4), Err(anyhow::anyhow!("no"))).0, "kvm");
    }

    #[test]
    fn a_device_is_missed_where_it_was_asked_for() {
        let of = |mut choice| {
            let found = device_of(&mut choice, || bail!("/dev/kvm: gone"));
            (choice, found.map(|(_, warning)| warning))
        };
        let (only, found) = of(PlatformChoice::Only("kvm".into()));
        assert_eq!(only, PlatformChoice::Only("kvm".into()));
        assert_eq!(found.unwrap_err().to_string(), "/dev/kvm: gone");
        let (rather, found) = of(PlatformChoice::Rather("kvm".into()));
        assert_eq!(rather, PlatformChoice::Any);
        let warning = found.unwrap();
        assert_eq!(
            warning.as_deref(),
            Some("/dev/kvm: gone; it is another one instead")
        );
        assert_eq!(of(PlatformChoice::Any).1.unwrap(), None);
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let says = |script: &str, patience| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]);
            answer(shell, patience).unwrap()
        };
        let long = Duration::from_secs(600);
        assert_eq!(says("echo kvm", long).as_deref(), Some("kvm"));
        assert_eq!(says("echo kvm; exit 1", long), None);
        assert_eq!(says("exec 1>&-; exit 1", long), None);
        assert_eq!(says("exec sleep 1000", Duration::from_millis(1)), None);
    }
}
