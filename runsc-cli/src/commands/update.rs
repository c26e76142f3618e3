//! `runsc-rs update`: other limits for a container.
//!
//! The host's control group gets them, the file system that holds the guest's memory, and the Sentry,
//! which shows them to the guest. They are noted in the container's configuration, because what is not
//! named stays as it is.

use std::{
    fs,
    io::{Read, stdin},
    os::fd::OwnedFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use oci_spec::runtime::LinuxResources;
use runsc_sentry::config::GuestLimits;
use serde_json::{Map, Value, json};

use super::{Failure, life};
use crate::{
    args::{GlobalArgs, oci::UpdateArgs},
    bundle::limits,
    container::{ask, kept_bundle, reach},
    failure::{AtStage, Stage},
    link::{Ask, Connection, Envelope, Tell},
    sandbox::empty_root::{NO_LIMIT, memory_size},
    state::{Container, Status},
};

/// How long the memory of a process that has ended may still be in use.
const GIVEN_BACK: Duration = Duration::from_millis(500);

/// Longest description of resources that is read, in bytes.
const MAX_RESOURCES: u64 = 1 << 20;

pub fn run(global: &GlobalArgs, args: &UpdateArgs) -> Result<ExitCode, Failure> {
    for (option, given) in [
        ("--l3-cache-schema", &args.l3_cache_schema),
        ("--mem-bw-schema", &args.mem_bw_schema),
    ] {
        if given.is_some() {
            return Err(anyhow!("{option}: not supported").into());
        }
    }
    let mut resources = resources(args)?;
    let locked = life::lock(global, &args.id)?;
    if matches!(locked.status(), Status::Stopped | Status::Creating) {
        return Err(anyhow!("container not running").into());
    }
    let cgroup = locked.record.cgroup.as_ref();
    let cgroup = cgroup
        .context("the container has no cgroup")
        .at(Stage::Cgroup)?;
    let (config, old, new) = merge(&locked, &mut resources).at(Stage::Configuration)?;
    let connection = reach(&locked)?;
    let memory = GuestMemory::of(&connection)?;
    let (before, after) = (usable(&old), usable(&new));
    // The guest is to meet its limit before the host's, at any moment.
    if after < before {
        memory.resize(after).at(Stage::Cgroup)?;
    }
    if let Err(error) = cgroup.update(&resources) {
        if after < before {
            memory.resize(before).at(Stage::Cgroup)?;
        }
        return Err(error).at(Stage::Cgroup)?;
    }
    if after > before {
        memory.resize(after).at(Stage::Cgroup)?;
    }
    ask(&connection, Ask::Limits(Box::new(new)))?;
    crate::state::replace(&locked.directory.join("config.json"), &config, 0o600)?;
    Ok(ExitCode::SUCCESS)
}

/// The container's configuration with these resources, which get what goes with them; what the guest
/// may use before and after that.
fn merge(
    container: &Container,
    resources: &mut LinuxResources,
) -> Result<(Vec<u8>, GuestLimits, GuestLimits)> {
    let bundle = kept_bundle(container)?;
    let linux = bundle.spec().linux().as_ref();
    let known = linux.and_then(|linux| linux.resources().as_ref());
    let mut all = serde_json::to_value(known)?;
    let mut named = serde_json::to_value(&*resources)?;
    drop_zeros(&mut named);
    complete(&mut named, &all);
    *resources = serde_json::from_value(named.clone())?;
    add(&mut all, named);
    let all: LinuxResources = serde_json::from_value(all)?;
    let (old, new) = (limits::translate(known)?, limits::translate(Some(&all))?);
    let mut linux = linux.cloned().unwrap_or_default();
    linux.set_resources(Some(all));
    let mut spec = bundle.spec().clone();
    spec.set_linux(Some(linux));
    Ok((serde_json::to_vec(&spec)?, old, new))
}

/// What is 0 or empty is not named, where that is no value: Docker names everything.
fn drop_zeros(named: &mut Value) {
    for (section, keys) in [
        (
            "memory",
            &["limit", "reservation", "swap", "kernel", "kernelTCP"][..],
        ),
        (
            "cpu",
            &[
                "shares",
                "quota",
                "period",
                "realtimeRuntime",
                "realtimePeriod",
                "cpus",
                "mems",
            ],
        ),
        ("blockIO", &["weight"]),
        ("pids", &["limit"]),
    ] {
        let Some(fields) = named.get_mut(section).and_then(Value::as_object_mut) else {
            continue;
        };
        let empty = |value: &Value| *value == json!(0) || *value == json!("");
        fields.retain(|key, value| !(keys.contains(&key.as_str()) && empty(value)));
    }
    // That has to have a limit.
    if named["pids"] == json!({}) {
        named["pids"] = Value::Null;
    }
}

/// Adds to `named` what stands in one file with it, in cgroup v2, as it is known.
fn complete(named: &mut Value, known: &Value) {
    for (section, key, partner) in [
        ("cpu", "quota", "period"),
        ("cpu", "period", "quota"),
        // What swap may be is the difference.
        ("memory", "swap", "limit"),
    ] {
        if named[section][key].is_null() || !named[section][partner].is_null() {
            continue;
        }
        let partner_known = &known[section][partner];
        if !partner_known.is_null() {
            named[section][partner] = partner_known.clone();
        }
    }
    let memory = &mut named["memory"];
    // No limit of memory is none of memory and swap.
    if memory["limit"] == json!(-1) && memory["swap"].is_null() {
        memory["swap"] = json!(-1);
    }
}

/// Puts the values of `new` that are there into `old`.
fn add(old: &mut Value, new: Value) {
    match (old, new) {
        (_, Value::Null) => {}
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                add(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

fn usable(limits: &GuestLimits) -> u64 {
    limits.memory.map_or(NO_LIMIT, |limit| limit.usable)
}

/// The file system that holds the guest's memory.
struct GuestMemory(OwnedFd);

impl GuestMemory {
    fn of(connection: &Connection) -> Result<Self> {
        connection.send(&Envelope::new(Ask::Memory))?;
        match connection.recv_with()? {
            (Tell::Done, mut fds) => Ok(Self(fds.pop().context("guest memory: no file system")?)),
            (other, _) => bail!("the monitor answers {other:?}"),
        }
    }

    /// What a process had that has just ended is given back a moment later, so less than is in use
    /// is refused only if it stays in use.
    fn resize(&self, bytes: u64) -> Result<()> {
        let what = || format!("memory.limit: {bytes} bytes for the guest");
        let until = Instant::now() + GIVEN_BACK;
        loop {
            match self.try_resize(bytes) {
                Err(rustix::io::Errno::INVAL) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(rustix::io::Errno::INVAL) => bail!("{}: it uses more", what()),
                result => return result.with_context(what),
            }
        }
    }

    /// `EINVAL` if more is in use.
    fn try_resize(&self, bytes: u64) -> rustix::io::Result<()> {
        use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_string, fspick};
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let picked = fspick(&self.0, "", flags)?;
        fsconfig_set_string(&picked, "size", memory_size(bytes).to_string())?;
        fsconfig_reconfigure(&picked)
    }
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
    set("cpu", "realtimePeriod", args.cpu_rt_period.map(Value::from));
    set(
        "cpu",
        "realtimeRuntime",
        args.cpu_rt_runtime.map(Value::from),
    );
    set("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from));
    set("cpu", "mems", args.cpuset_mems.clone().map(Value::from));
    set("blockIO", "weight", args.blkio_weight.map(Value::from));
    set("pids", "limit", args.pids_limit.map(Value::from));
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
    fn zeros_are_not_named() {
        let mut named = json!({
            "memory": {"limit": 0, "reservation": 0, "swap": -1, "swappiness": 0},
            "cpu": {"shares": 0, "quota": 0, "cpus": "", "mems": "0", "idle": 0},
            "pids": {"limit": 0}, "blockIO": {"weight": 0},
        });
        drop_zeros(&mut named);
        let left = json!({
            "memory": {"swap": -1, "swappiness": 0}, "cpu": {"mems": "0", "idle": 0},
            "pids": null, "blockIO": {},
        });
        assert_eq!(named, left);
    }

    #[test]
    fn what_goes_together_is_completed() {
        let known = json!({"cpu": {"quota": 5, "period": 10, "shares": 1},
                           "memory": {"limit": 7, "swap": 8}});
        for (mut value, completed) in [
            (
                json!({"cpu": {"quota": 6}}),
                json!({"cpu": {"quota": 6, "period": 10}}),
            ),
            (
                json!({"cpu": {"period": 20}}),
                json!({"cpu": {"quota": 5, "period": 20}}),
            ),
            (json!({"cpu": {"shares": 2}}), json!({"cpu": {"shares": 2}})),
            (
                json!({"memory": {"limit": 9}}),
                json!({"memory": {"limit": 9}}),
            ),
            (
                json!({"memory": {"swap": 9}}),
                json!({"memory": {"limit": 7, "swap": 9}}),
            ),
            (
                json!({"memory": {"limit": -1}}),
                json!({"memory": {"limit": -1, "swap": -1}}),
            ),
        ] {
            complete(&mut value, &known);
            let [found, expected] = [value, completed]
                .map(|value| serde_json::from_value::<LinuxResources>(value).unwrap());
            assert_eq!(found, expected);
        }
        // Nothing is known.
        let mut value = json!({"cpu": {"quota": 6}});
        complete(&mut value, &Value::Null);
        assert_eq!(value["cpu"], json!({"quota": 6}));
    }

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
