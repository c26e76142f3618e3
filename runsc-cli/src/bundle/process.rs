//! The section `process` of `config.json`.

use std::{collections::HashSet, os::unix::ffi::OsStrExt, path::Path, str::FromStr};

use anyhow::{Result, ensure};
use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxCapabilities, PosixRlimit, PosixRlimitType,
    Process,
};
use runsc_sentry::config::{CapabilitySets, ProcessConfig, Rlimit};

use super::{clean, home};

/// umask(2) of a container that does not say.
const DEFAULT_UMASK: u32 = 0o022;

pub fn translate(process: &Process, root: &Path) -> Result<ProcessConfig> {
    let args = strings(process.args().as_deref(), "process.args")?;
    ensure!(
        args.first().is_some_and(|arg| !arg.is_empty()),
        "process.args: must not be empty"
    );
    let mut env = strings(process.env().as_deref(), "process.env")?;
    for entry in &env {
        let named = entry
            .iter()
            .position(|b| *b == b'=')
            .is_some_and(|end| end > 0);
        ensure!(
            named,
            "process.env: {:?}: not NAME=VALUE",
            String::from_utf8_lossy(entry)
        );
    }
    let cwd = process.cwd();
    ensure!(
        cwd.is_absolute(),
        "process.cwd: {cwd:?}: not an absolute path"
    );
    ensure!(
        !cwd.as_os_str().as_bytes().contains(&0),
        "process.cwd: {cwd:?}: holds a NUL byte"
    );
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())]
        .into_iter()
        .chain(groups.iter().map(|gid| ("additionalGids", *gid)))
    {
        ensure!(id != u32::MAX, "process.user.{name}: {id}: out of range");
    }
    let umask = user.umask().unwrap_or(DEFAULT_UMASK);
    ensure!(umask <= 0o777, "process.user.umask: {umask}: out of range");
    let oom_score_adj = process.oom_score_adj();
    if let Some(adjustment) = oom_score_adj {
        let valid = (-1000..=1000).contains(&adjustment);
        ensure!(valid, "process.oomScoreAdj: {adjustment}: out of range");
    }
    if !env.iter().any(|entry| entry.starts_with(b"HOME=")) {
        env.push([b"HOME=", home::of(user.uid(), root).as_slice()].concat());
    }
    Ok(ProcessConfig {
        args,
        env,
        cwd: clean(cwd),
        init: true,
        make_cwd: true,
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: groups,
        umask,
        capabilities: capabilities(process.capabilities().as_ref()),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        terminal: process.terminal().unwrap_or(false),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        timeout_ms: None,
        seccomp: None,
        oom_score_adj,
        io_priority: io_priority(process)?,
        ignored_signals: 0,
        blocked_signals: 0,
    })
}

fn strings(given: Option<&[String]>, section: &str) -> Result<Vec<Vec<u8>>> {
    let given = given.unwrap_or_default();
    for (index, string) in given.iter().enumerate() {
        ensure!(
            !string.contains('\0'),
            "{section}[{index}]: holds a NUL byte"
        );
    }
    Ok(given
        .iter()
        .map(|string| string.clone().into_bytes())
        .collect())
}

/// The sets as the kernel would keep them: effective within permitted, ambient within permitted
/// and inheritable.
fn capabilities(given: Option<&LinuxCapabilities>) -> CapabilitySets {
    let Some(given) = given else {
        return CapabilitySets::default();
    };
    let permitted = bits(given.permitted().as_ref());
    let inheritable = bits(given.inheritable().as_ref());
    CapabilitySets {
        bounding: bits(given.bounding().as_ref()),
        effective: bits(given.effective().as_ref()) & permitted,
        inheritable,
        permitted,
        ambient: bits(given.ambient().as_ref()) & permitted & inheritable,
    }
}

fn bits(given: Option<&Capabilities>) -> u64 {
    given.into_iter().flatten().fold(0, |set, capability| {
        match caps::Capability::from_str(&format!("CAP_{capability}")) {
            Ok(capability) => set | capability.bitmask(),
            Err(_) => {
                log::warn!("config.json: process.capabilities: ignoring unknown {capability}");
                set
            }
        }
    })
}

/// Takes names that are no capabilities out of a configuration, and returns them.
pub fn remove_unknown_capabilities(config: &mut serde_json::Value) -> Vec<String> {
    let mut unknown = Vec::new();
    let sets = config
        .pointer_mut("/process/capabilities")
        .and_then(|sets| sets.as_object_mut());
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = set.as_array_mut() else {
            continue;
        };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let (false, Some(name)) = (known, name.as_str()) {
                unknown.push(name.into());
            }
            // Whatever is not even a string stays, and is complained about.
            known || !name.is_string()
        });
    }
    unknown.sort();
    unknown.dedup();
    unknown
}

/// As ioprio_set(2) takes it. The guest sees it; its files are read by others.
fn io_priority(process: &Process) -> Result<u16> {
    let Some(asked) = process.io_priority() else {
        return Ok(0);
    };
    let level = asked.priority();
    ensure!(
        (0..8).contains(&level),
        "process.ioPriority.priority: {level}: out of range"
    );
    let class = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    Ok(class << 13 | level as u16)
}

fn rlimits(given: &[PosixRlimit]) -> Result<Vec<Rlimit>> {
    let mut seen = HashSet::new();
    let mut rlimits = Vec::with_capacity(given.len());
    for limit in given {
        let (typ, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        let resource = resource(typ);
        ensure!(seen.insert(resource), "process.rlimits: {typ}: given twice");
        ensure!(
            soft <= hard,
            "process.rlimits: {typ}: soft limit {soft} above hard limit {hard}"
        );
        rlimits.push(Rlimit {
            resource,
            soft,
            hard,
        });
    }
    Ok(rlimits)
}

fn resource(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
