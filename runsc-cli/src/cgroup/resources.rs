//! `linux.resources` as files of a control group: what is written where, in v1's and v2's terms.
//!
//! Pure translation; [`super::Cgroup`] writes. A value whose file this machine does not have is
//! refused by name, so is one that one of the versions cannot express.

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::layout::Version;

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key of `config.json` below `linux.resources`.
    pub key: String,
    pub controller: String,
    /// The first of these that exists.
    pub files: Vec<String>,
    pub value: String,
}

impl Setting {
    /// Whether it is that of a group without the limit. Not of what is given by the name of its file.
    pub fn is_no_limit(&self) -> bool {
        let quota_or_limit = self.value.split(' ').next();
        matches!(quota_or_limit, Some("max" | "-1"))
            && !self.key.starts_with("unified.")
            && !matches!(self.key.as_str(), "cpu.cpus" | "cpu.mems" | "cpu.idle")
    }
}

fn setting(key: &str, controller: &str, file: &str, value: impl ToString) -> Setting {
    Setting {
        key: key.to_owned(),
        controller: controller.to_owned(),
        files: vec![file.to_owned()],
        value: value.to_string(),
    }
}

/// Host tasks for a guest that may have `limit`: the Sentry enforces the guest's own limit; this one
/// is for the case that it fell. A guest task has a host thread and its process one that maps for
/// it; the rest is for the Sentry, the Gofer and stubs in reserve.
pub fn host_tasks(limit: i64) -> i64 {
    limit.saturating_mul(4).saturating_add(64)
}

/// All settings for hierarchies of `version`, in an order to write them in.
pub fn settings(resources: &LinuxResources, version: Version) -> Result<Vec<Setting>> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        match version {
            Version::V1 => memory_v1(memory, &mut all),
            Version::V2 => memory_v2(memory, &mut all)?,
        }
    }
    if let Some(cpu) = resources.cpu() {
        match version {
            Version::V1 => cpu_v1(cpu, &mut all),
            Version::V2 => cpu_v2(cpu, &mut all)?,
        }
    }
    if let Some(pids) = resources.pids() {
        let value = match pids.limit() {
            limit if limit > 0 => host_tasks(limit).to_string(),
            _ => "max".to_owned(),
        };
        all.push(setting("pids.limit", "pids", "pids.max", value));
    }
    if let Some(io) = resources.block_io() {
        match version {
            Version::V1 => io_v1(io, &mut all),
            Version::V2 => io_v2(io, &mut all)?,
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        ensure!(
            !size.is_empty() && size.bytes().all(|b| b.is_ascii_alphanumeric()),
            "hugepageLimits: pageSize: {size:?}: not a size"
        );
        let file = match version {
            Version::V1 => format!("hugetlb.{size}.limit_in_bytes"),
            Version::V2 => format!("hugetlb.{size}.max"),
        };
        all.push(setting("hugepageLimits", "hugetlb", &file, limit.limit()));
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            ensure!(
                version == Version::V1,
                "network.classID: not with cgroup v2"
            );
            all.push(setting(
                "network.classID",
                "net_cls",
                "net_cls.classid",
                class,
            ));
        }
        for priority in network.priorities().iter().flatten() {
            ensure!(
                version == Version::V1,
                "network.priorities: not with cgroup v2"
            );
            let value = format!("{} {}", priority.name(), priority.priority());
            let file = "net_prio.ifpriomap";
            all.push(setting("network.priorities", "net_prio", file, value));
        }
    }
    for (name, limit) in resources.rdma().iter().flatten() {
        let or_max = |limit: Option<u32>| limit.map_or("max".to_owned(), |n| n.to_string());
        let (handles, objects) = (or_max(limit.hca_handles()), or_max(limit.hca_objects()));
        let value = format!("{name} hca_handle={handles} hca_object={objects}");
        all.push(setting("rdma", "rdma", "rdma.max", value));
    }
    unified(resources, version, &mut all)?;
    Ok(all)
}

/// Files of v2, named as they are.
fn unified(resources: &LinuxResources, version: Version, all: &mut Vec<Setting>) -> Result<()> {
    let mut given: Vec<_> = resources.unified().iter().flatten().collect();
    given.sort();
    for (file, value) in given {
        ensure!(
            version == Version::V2,
            "unified: {file:?}: this machine's controllers are those of cgroup v1"
        );
        let controller = match file.split_once('.') {
            Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() => controller,
            _ => bail!("unified: {file:?}: not CONTROLLER.NAME"),
        };
        ensure!(
            !file.contains(['/', '\0']) && controller != "cgroup",
            "unified: {file:?}: not a file of a controller"
        );
        let key = format!("unified.{file}");
        all.push(setting(&key, controller, file, value));
    }
    Ok(())
}

fn memory_v1(memory: &LinuxMemory, all: &mut Vec<Setting>) {
    // As in v2 and with runc, 0 is what was not given.
    let mut add = |key: &str, file: &str, value: Option<i64>| {
        if let Some(value) = value.filter(|value| *value != 0 || key == "swappiness") {
            all.push(setting(&format!("memory.{key}"), "memory", file, value));
        }
    };
    add("limit", "memory.limit_in_bytes", memory.limit());
    add("swap", "memory.memsw.limit_in_bytes", memory.swap());
    add(
        "reservation",
        "memory.soft_limit_in_bytes",
        memory.reservation(),
    );
    add(
        "kernelTCP",
        "memory.kmem.tcp.limit_in_bytes",
        memory.kernel_tcp(),
    );
    // Linux refuses what is out of range.
    let swappiness = memory.swappiness();
    let swappiness = swappiness.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    add("swappiness", "memory.swappiness", swappiness);
}

/// v2 counts swap apart from memory, v1 and the specification with it.
fn memory_v2(memory: &LinuxMemory, all: &mut Vec<Setting>) -> Result<()> {
    let or_max = |bytes: i64| match bytes {
        -1 => "max".to_owned(),
        bytes => bytes.to_string(),
    };
    let mut add = |key: &str, file: &str, value: String| {
        all.push(setting(&format!("memory.{key}"), "memory", file, value));
    };
    match (memory.swap(), memory.limit()) {
        (None | Some(0), _) => {}
        (Some(-1), _) => add("swap", "memory.swap.max", "max".to_owned()),
        (Some(swap), Some(limit)) if limit > 0 && swap >= limit => {
            add("swap", "memory.swap.max", (swap - limit).to_string());
        }
        (Some(swap), _) => bail!("memory.swap: {swap}: less than memory.limit, or that is missing"),
    }
    if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
        add("limit", "memory.max", or_max(limit));
    }
    if let Some(reservation) = memory.reservation().filter(|bytes| *bytes != 0) {
        add("reservation", "memory.low", or_max(reservation));
    }
    if memory.kernel_tcp().is_some() {
        bail!("memory.kernelTCP: not with cgroup v2");
    }
    Ok(())
}

fn cpu_v1(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    let mut add = |key: &str, file: &str, value: Option<String>| {
        if let Some(value) = value {
            all.push(setting(&format!("cpu.{key}"), "cpu", file, value));
        }
    };
    let text = |value: Option<u64>| value.filter(|v| *v != 0).map(|v| v.to_string());
    add("shares", "cpu.shares", text(cpu.shares()));
    add("period", "cpu.cfs_period_us", text(cpu.period()));
    let quota = cpu.quota().filter(|quota| *quota != 0);
    add("quota", "cpu.cfs_quota_us", quota.map(|q| q.to_string()));
    add("burst", "cpu.cfs_burst_us", text(cpu.burst()));
    add(
        "realtimePeriod",
        "cpu.rt_period_us",
        text(cpu.realtime_period()),
    );
    let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
    add(
        "realtimeRuntime",
        "cpu.rt_runtime_us",
        runtime.map(|r| r.to_string()),
    );
    add("idle", "cpu.idle", cpu.idle().map(|idle| idle.to_string()));
    cpuset(cpu, all);
}

fn cpu_v2(cpu: &LinuxCpu, all: &mut Vec<Setting>) -> Result<()> {
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        bail!("cpu.realtimeRuntime: not with cgroup v2");
    }
    if cpu.realtime_period().is_some_and(|period| period != 0) {
        bail!("cpu.realtimePeriod: not with cgroup v2");
    }
    let mut add = |key: &str, file: &str, value: String| {
        all.push(setting(&format!("cpu.{key}"), "cpu", file, value));
    };
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        add("shares", "cpu.weight", weight(shares).to_string());
    }
    let period = cpu.period().filter(|period| *period != 0);
    match (cpu.quota().filter(|quota| *quota != 0), period) {
        (None, None) => {}
        (quota, period) => {
            let quota = match quota {
                Some(quota) if quota > 0 => quota.to_string(),
                _ => "max".to_owned(),
            };
            let value = match period {
                Some(period) => format!("{quota} {period}"),
                None => quota,
            };
            add("quota", "cpu.max", value);
        }
    }
    if let Some(burst) = cpu.burst() {
        add("burst", "cpu.max.burst", burst.to_string());
    }
    if let Some(idle) = cpu.idle() {
        add("idle", "cpu.idle", idle.to_string());
    }
    cpuset(cpu, all);
    Ok(())
}

fn cpuset(cpu: &LinuxCpu, all: &mut Vec<Setting>) {
    for (key, file, list) in [
        ("cpu.cpus", "cpuset.cpus", cpu.cpus()),
        ("cpu.mems", "cpuset.mems", cpu.mems()),
    ] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            all.push(setting(key, "cpuset", file, list));
        }
    }
}

/// v1's shares (2 to 262144, 1024 by default) as v2's weight (1 to 10000), linearly, as runc has it.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn io_v1(io: &LinuxBlockIo, all: &mut Vec<Setting>) {
    let mut add = |key: &str, files: &[&str], value: String| {
        all.push(Setting {
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            ..setting(&format!("blockIO.{key}"), "blkio", "", value)
        });
    };
    let weights = ["blkio.weight", "blkio.bfq.weight"];
    let devices = ["blkio.weight_device", "blkio.bfq.weight_device"];
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        add("weight", &weights, weight.to_string());
    }
    if let Some(weight) = io.leaf_weight().filter(|weight| *weight != 0) {
        add("leafWeight", &["blkio.leaf_weight"], weight.to_string());
    }
    for device in io.weight_device().iter().flatten() {
        let number = (device.major(), device.minor());
        if let Some(weight) = device.weight() {
            add("weightDevice", &devices, line(number, weight));
        }
        if let Some(weight) = device.leaf_weight() {
            add(
                "weightDevice",
                &["blkio.leaf_weight_device"],
                line(number, weight),
            );
        }
    }
    for (key, file, given) in throttles(io) {
        for device in given.iter().flatten() {
            let number = (device.major(), device.minor());
            let file = format!("blkio.throttle.{file}_device");
            add(key, &[&file], line(number, device.rate()));
        }
    }
}

fn io_v2(io: &LinuxBlockIo, all: &mut Vec<Setting>) -> Result<()> {
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        bail!("blockIO.leafWeight: not with cgroup v2");
    }
    let mut add = |key: &str, file: &str, value: String| {
        all.push(setting(&format!("blockIO.{key}"), "io", file, value));
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        add(
            "weight",
            "io.weight",
            format!("default {}", io_weight(weight)),
        );
    }
    for device in io.weight_device().iter().flatten() {
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            bail!("blockIO.weightDevice: leafWeight: not with cgroup v2");
        }
        if let Some(weight) = device.weight() {
            let number = (device.major(), device.minor());
            add("weightDevice", "io.weight", line(number, io_weight(weight)));
        }
    }
    let words = ["rbps", "wbps", "riops", "wiops"];
    for ((key, _, given), word) in throttles(io).into_iter().zip(words) {
        for device in given.iter().flatten() {
            let number = (device.major(), device.minor());
            let value = line(number, format!("{word}={}", device.rate()));
            add(key, "io.max", value);
        }
    }
    Ok(())
}

/// v1's 10 to 1000 as v2's 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn line((major, minor): (i64, i64), value: impl ToString) -> String {
    format!("{major}:{minor} {}", value.to_string())
}

type Throttle<'a> = (
    &'static str,
    &'static str,
    &'a Option<Vec<LinuxThrottleDevice>>,
);

fn throttles(io: &LinuxBlockIo) -> [Throttle<'_>; 4] {
    [
        (
            "throttleReadBpsDevice",
            "read_bps",
            io.throttle_read_bps_device(),
        ),
        (
            "throttleWriteBpsDevice",
            "write_bps",
            io.throttle_write_bps_device(),
        ),
        (
            "throttleReadIOPSDevice",
            "read_iops",
            io.throttle_read_iops_device(),
        ),
        (
            "throttleWriteIOPSDevice",
            "write_iops",
            io.throttle_write_iops_device(),
        ),
    ]
}

/// What is asked for and has no effect here, by name: to be warned of once.
pub fn without_effect(resources: &LinuxResources, version: Version) -> Vec<&'static str> {
    let memory = resources.memory().as_ref();
    let mut names = Vec::new();
    if memory.is_some_and(|m| m.kernel().is_some_and(|bytes| bytes > 0)) {
        names.push("memory.kernel (Linux has given it up, kernel memory counts as memory)");
    }
    if memory.is_some_and(|m| m.disable_oom_killer() == Some(true)) {
        names.push("memory.disableOOMKiller (a process that reaches the limit is killed)");
    }
    if version == Version::V2 && memory.is_some_and(|m| m.swappiness().is_some()) {
        names.push("memory.swappiness (cgroup v2 has none)");
    }
    if memory.is_some_and(|m| m.use_hierarchy() == Some(false)) {
        names.push("memory.useHierarchy (Linux always counts what is below)");
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    fn lines(json: serde_json::Value, version: Version) -> Vec<String> {
        settings(&resources(json), version)
            .unwrap()
            .into_iter()
            .map(|s| format!("{} {}={}", s.controller, s.files.join("|"), s.value))
            .collect()
    }

    fn everything() -> serde_json::Value {
        serde_json::json!({
            "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
            "cpu": {"shares": 1024, "quota": 150_000, "period": 100_000, "cpus": "0-1", "idle": 0},
            "pids": {"limit": 10},
            "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 77}]},
        })
    }

    #[test]
    fn in_terms_of_v1() {
        let expected = [
            "memory memory.limit_in_bytes=1000",
            "memory memory.memsw.limit_in_bytes=3000",
            "memory memory.soft_limit_in_bytes=500",
            "cpu cpu.shares=1024",
            "cpu cpu.cfs_period_us=100000",
            "cpu cpu.cfs_quota_us=150000",
            "cpu cpu.idle=0",
            "cpuset cpuset.cpus=0-1",
            "pids pids.max=104",
            "blkio blkio.weight|blkio.bfq.weight=500",
            "blkio blkio.throttle.read_bps_device=8:0 77",
        ];
        assert_eq!(lines(everything(), Version::V1), expected);
    }

    #[test]
    fn in_terms_of_v2() {
        let expected = [
            "memory memory.swap.max=2000",
            "memory memory.max=1000",
            "memory memory.low=500",
            "cpu cpu.weight=39",
            "cpu cpu.max=150000 100000",
            "cpu cpu.idle=0",
            "cpuset cpuset.cpus=0-1",
            "pids pids.max=104",
            "io io.weight=default 4950",
            "io io.max=8:0 rbps=77",
        ];
        assert_eq!(lines(everything(), Version::V2), expected);
        let unified = serde_json::json!({"unified": {"memory.high": "5", "cpu.max": "max 100000"}});
        let expected = ["cpu cpu.max=max 100000", "memory memory.high=5"];
        assert_eq!(lines(unified, Version::V2), expected);
    }

    #[test]
    fn no_limit_is_said_so() {
        let none = || {
            serde_json::json!({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1},
            "cpu": {"quota": -1, "period": 50_000}})
        };
        let v1 = [
            "memory memory.limit_in_bytes=-1",
            "memory memory.memsw.limit_in_bytes=-1",
            "cpu cpu.cfs_period_us=50000",
            "cpu cpu.cfs_quota_us=-1",
            "pids pids.max=max",
        ];
        assert_eq!(lines(none(), Version::V1), v1);
        let v2 = [
            "memory memory.swap.max=max",
            "memory memory.max=max",
            "cpu cpu.max=max 50000",
            "pids pids.max=max",
        ];
        assert_eq!(lines(none(), Version::V2), v2);
    }

    #[test]
    fn weights_keep_their_ends() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
        assert_eq!([10, 1000].map(io_weight), [1, 10_000]);
    }

    #[test]
    fn what_a_version_cannot_express_is_refused_by_name() {
        let cases = [
            (
                Version::V1,
                serde_json::json!({"unified": {"memory.high": "1"}}),
                "unified",
            ),
            (
                Version::V2,
                serde_json::json!({"unified": {"../memory.high": "1"}}),
                "unified",
            ),
            (
                Version::V2,
                serde_json::json!({"unified": {"cgroup.procs": "1"}}),
                "unified",
            ),
            (
                Version::V2,
                serde_json::json!({"memory": {"swap": 5}}),
                "memory.swap",
            ),
            (
                Version::V2,
                serde_json::json!({"cpu": {"realtimeRuntime": 5}}),
                "cpu.realtimeRuntime",
            ),
            (
                Version::V2,
                serde_json::json!({"network": {"classID": 5}}),
                "network.classID",
            ),
            (
                Version::V1,
                serde_json::json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}),
                "hugepageLimits",
            ),
        ];
        for (version, json, key) in cases {
            let error = settings(&resources(json), version).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
