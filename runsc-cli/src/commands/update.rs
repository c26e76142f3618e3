//! `runsc-rs update`: other limits for a container.
//!
//! The host's control group gets them at once. What the guest was told at its start (its processors,
//! its memory) stays.

use std::{
    fs,
    io::{Read, stdin},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, ensure};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::{Failure, life};
use crate::{
    args::{GlobalArgs, oci::UpdateArgs},
    failure::{AtStage, Stage},
    state::Status,
};

/// Longest description of resources that is read, in bytes.
const MAX_RESOURCES: u64 = 1 << 20;

pub fn run(global: &GlobalArgs, args: &UpdateArgs) -> Result<ExitCode, Failure> {
    let resources = resources(args)?;
    let locked = life::lock(global, &args.id)?;
    if matches!(locked.status(), Status::Stopped | Status::Creating) {
        return Err(anyhow!("container not running").into());
    }
    let cgroup = locked.record.cgroup.as_ref();
    let cgroup = cgroup
        .context("the container has no cgroup")
        .at(Stage::Cgroup)?;
    cgroup.update(&resources).at(Stage::Cgroup)?;
    Ok(ExitCode::SUCCESS)
}

fn resources(args: &UpdateArgs) -> Result<LinuxResources> {
    let value = match args.resources.as_deref() {
        Some("-") => {
            let mut text = String::new();
            stdin().take(MAX_RESOURCES).read_to_string(&mut text)?;
            serde_json::from_str(&text).context("--resources")?
        }
        Some(path) => {
            let what = || format!("--resources: {path}");
            let len = fs::metadata(path).with_context(what)?.len();
            ensure!(len <= MAX_RESOURCES, "{}: too long", what());
            serde_json::from_slice(&fs::read(path).with_context(what)?).with_context(what)?
        }
        None => from_options(args)?,
    };
    serde_json::from_value(value).context("--resources")
}

/// The options as the specification has them.
fn from_options(args: &UpdateArgs) -> Result<Value> {
    let mut sections: Map<String, Value> = Map::new();
    let mut set = |section: &str, key: &str, value: Option<Value>| {
        if let Some(value) = value {
            let section = sections.entry(section).or_insert_with(|| json!({}));
            section[key] = value;
        }
    };
    let bytes = |text: &Option<String>, option: &str| -> Result<Option<Value>> {
        let parsed = text
            .as_deref()
            .map(|text| size(text).with_context(|| format!("{option}: {text:?}: not a size")));
        Ok(parsed.transpose()?.map(Value::from))
    };
    set("memory", "limit", bytes(&args.memory, "--memory")?);
    set(
        "memory",
        "reservation",
        bytes(&args.memory_reservation, "--memory-reservation")?,
    );
    set("memory", "swap", bytes(&args.memory_swap, "--memory-swap")?);
    set("cpu", "shares", args.cpu_share.map(Value::from));
    set("cpu", "quota", args.cpu_quota.map(Value::from));
    set("cpu", "period", args.cpu_period.map(Value::from));
    set("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from));
    set("cpu", "mems", args.cpuset_mems.clone().map(Value::from));
    set("blockIO", "weight", args.blkio_weight.map(Value::from));
    set("pids", "limit", args.pids_limit.map(Value::from));
    ensure!(!sections.is_empty(), "nothing to update is named");
    Ok(Value::Object(sections))
}

/// Bytes, with b, k, m, g or t behind the number, or -1.
fn size(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches("ib").trim_end_matches('b');
    let (number, shift) = match digits.chars().last()? {
        'k' => (&digits[..digits.len() - 1], 10),
        'm' => (&digits[..digits.len() - 1], 20),
        'g' => (&digits[..digits.len() - 1], 30),
        't' => (&digits[..digits.len() - 1], 40),
        _ => (digits, 0),
    };
    let number: i64 = number.parse().ok()?;
    match number {
        -1 if shift == 0 => Some(-1),
        0.. => number.checked_mul(1 << shift),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("-1", -1),
            ("10b", 10),
            ("1k", 1 << 10),
            ("32M", 32 << 20),
            ("2gb", 2 << 30),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bad in ["", "k", "-2", "-1k", "1x", "9999999999999t", "1.5g"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
