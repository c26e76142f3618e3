//! `linux.resources` as limits inside: what the guest may use and what it is told.

use anyhow::{Context, Result, ensure};
use oci_spec::runtime::LinuxResources;
use runsc_sentry::config::{CpuQuota, GuestLimits, MemoryLimit};

use crate::cgroup;

/// Linux's period where only a quota is given, µs.
const DEFAULT_PERIOD_US: u64 = 100_000;
/// Processors that a list may name.
const MAX_CPU: u32 = 8191;

pub fn translate(resources: Option<&LinuxResources>) -> Result<GuestLimits> {
    let mut limits = GuestLimits {
        layout: cgroup::guest_layout(),
        ..Default::default()
    };
    let Some(resources) = resources else {
        return Ok(limits);
    };
    let memory = resources.memory().as_ref().and_then(|m| m.limit());
    limits.memory = memory
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|bytes| *bytes > 0)
        .map(|told| MemoryLimit {
            told,
            usable: told - own_share(told),
            own: own_share(told),
        });
    if let Some(cpu) = resources.cpu() {
        let quota = cpu.quota().and_then(|quota| u64::try_from(quota).ok());
        let period_us = cpu.period().filter(|period| *period > 0);
        limits.cpu = quota.filter(|quota| *quota > 0).map(|quota_us| CpuQuota {
            quota_us,
            period_us: period_us.unwrap_or(DEFAULT_PERIOD_US),
        });
        limits.cpu_shares = cpu.shares().filter(|shares| *shares > 0);
        if let Some(list) = cpu.cpus() {
            limits.cpus = processors(list).with_context(|| format!("cpu.cpus: {list:?}"))?;
        }
    }
    limits.tasks = resources
        .pids()
        .map(|pids| pids.limit())
        .filter(|limit| *limit > 0)
        .map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
    Ok(limits)
}

/// How much of a limit the sandbox's own processes need beside the guest's memory: the Sentry and
/// the Gofer, and page tables and the like, which grow with the guest.
pub fn own_share(limit: u64) -> u64 {
    (limit / 8 + (8 << 20)).min(512 << 20).min(limit / 2)
}

/// A list as in cpuset(7): `0-3,7`.
pub fn processors(list: &str) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse()?, last.trim().parse()?);
        ensure!(first <= last && last <= MAX_CPU, "{part:?}: out of range");
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: serde_json::Value) -> GuestLimits {
        translate(Some(&serde_json::from_value(json).unwrap())).unwrap()
    }

    #[test]
    fn what_the_guest_may_use() {
        let given = limits(serde_json::json!({
            "memory": {"limit": 64 << 20},
            "cpu": {"quota": 150_000, "cpus": "0-1,3", "shares": 512},
            "pids": {"limit": 9},
        }));
        let memory = given.memory.unwrap();
        assert_eq!((memory.told, memory.usable), (64 << 20, 48 << 20));
        assert_eq!(given.cpu.unwrap().processors(), 2);
        assert_eq!(given.cpus, [0, 1, 3]);
        assert_eq!(given.tasks, Some(9));
        assert_eq!(given.cpu_shares, Some(512));
        let none = limits(serde_json::json!({
            "memory": {"limit": -1}, "cpu": {"quota": -1, "period": 1000}, "pids": {"limit": 0},
        }));
        assert_eq!((none.memory, none.cpu, none.tasks), (None, None, None));
    }

    #[test]
    fn small_limits_leave_something_for_the_guest() {
        assert_eq!(own_share(6 << 20), 3 << 20);
        assert_eq!(own_share(1 << 40), 512 << 20);
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(processors("2, 0-1,1\n").unwrap(), [0, 1, 2]);
        assert_eq!(processors("").unwrap(), [0u32; 0]);
        for bad in ["a", "3-1", "0-99999999", "-1", "1-"] {
            assert!(processors(bad).is_err(), "{bad}");
        }
    }
}
