//! `runsc-rs install` and `uninstall`: the entry in Docker's daemon.json.
//!
//! The file is replaced as a whole; what it says of other things stays. One that is no JSON object is
//! left alone.

use std::{
    fs,
    io::{ErrorKind, Write, stdout},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};

use super::Failure;
use crate::args::{InstallArgs, UninstallArgs};

/// Docker keeps what containers write in the bundle: for restarts, copies and images.
const OVERLAY: &str = "--overlay=none";
/// Longest daemon.json that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

pub fn install(args: &InstallArgs) -> Result<ExitCode, Failure> {
    check_name(&args.name)?;
    let program = std::env::current_exe().context("this program's path")?;
    let program = program.to_str().context("this program's path is no text")?;
    let mut runtime_args = vec![OVERLAY.to_owned()];
    runtime_args.extend(args.runtime_args.iter().cloned());
    let mut config = read(&args.config)?;
    let runtimes = config.entry("runtimes").or_insert_with(|| json!({}));
    let Some(runtimes) = runtimes.as_object_mut() else {
        return Err(anyhow!("{}: runtimes: not an object", args.config.display()).into());
    };
    let entry = json!({"path": program, "runtimeArgs": runtime_args});
    runtimes.insert(args.name.clone(), entry);
    if args.default {
        config.insert("default-runtime".into(), args.name.clone().into());
    }
    write(&args.config, &config)?;
    tell(&args.config, &format!("knows {program} as {:?}", args.name))?;
    Ok(ExitCode::SUCCESS)
}

pub fn uninstall(args: &UninstallArgs) -> Result<ExitCode, Failure> {
    let mut config = read(&args.config)?;
    let mut changed = false;
    if let Some(runtimes) = config.get_mut("runtimes").and_then(Value::as_object_mut) {
        changed = runtimes.remove(&args.name).is_some();
        if runtimes.is_empty() {
            config.remove("runtimes");
        }
    }
    if config.get("default-runtime").and_then(Value::as_str) == Some(&args.name) {
        config.remove("default-runtime");
        changed = true;
    }
    if changed {
        write(&args.config, &config)?;
        tell(&args.config, &format!("no longer knows {:?}", args.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(config: &Path, what: &str) -> Result<()> {
    let config = config.display();
    writeln!(
        stdout(),
        "{config} {what}; `systemctl reload docker` makes it so"
    )?;
    Ok(())
}

/// As Docker has it.
fn check_name(name: &str) -> Result<()> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    ensure!(
        !name.is_empty() && name.chars().all(valid) && name != "runc",
        "--name: {name:?}: must be letters, digits and _ . -, and not runc"
    );
    Ok(())
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let what = || path.display().to_string();
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        found => ensure!(
            found.with_context(what)?.len() <= MAX_CONFIG,
            "{}: too long",
            what()
        ),
    }
    let text = fs::read(path).with_context(what)?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&text).with_context(what)? {
        Value::Object(config) => Ok(config),
        _ => bail!("{}: not an object", what()),
    }
}

fn write(path: &Path, config: &Map<String, Value>) -> Result<()> {
    // A link stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let what = || path.display().to_string();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(what)?;
    }
    let mode = fs::metadata(&path).map_or(0o644, |found| found.permissions().mode() & 0o777);
    let mut text = serde_json::to_vec_pretty(config)?;
    text.push(b'\n');
    crate::state::replace(&path, &text, mode)
}
