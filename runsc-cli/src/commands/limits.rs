//! Limits of a command under `do`: `--memory`, `--cpus`, `--pids`, `--timeout`.

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::LinuxResources;
use runsc_sentry::config::{CpuQuota, GuestLimits, MemoryLimit};
use serde_json::json;

use crate::{
    bundle::{limits::own_share, options::scaled},
    cgroup::{self, Cgroup, Request},
    environment,
};

/// Linux's default, µs.
const PERIOD_US: u64 = 100_000;
/// Names of groups: the command's process id follows.
const GROUP_PREFIX: &str = "runsc-rs-do-";
/// Less is not enough for any program.
const MIN_MEMORY: u64 = 1 << 20;

/// What was asked for, in kernel terms.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Limits {
    memory: Option<u64>,
    quota_us: Option<u64>,
    tasks: Option<u32>,
    pub timeout_ms: Option<u64>,
}

impl Limits {
    pub fn parse(
        memory: Option<&str>,
        cpus: Option<&str>,
        pids: Option<u32>,
        timeout: Option<&str>,
    ) -> Result<Self> {
        let memory = memory
            .map(|text| -> Result<u64> {
                let bytes = scaled(text).with_context(|| format!("--memory: {text:?}"))?;
                ensure!(
                    bytes >= MIN_MEMORY,
                    "--memory: {text:?}: less than {MIN_MEMORY} bytes"
                );
                Ok(bytes)
            })
            .transpose()?;
        ensure!(pids != Some(0), "--pids: 0: nothing could run");
        Ok(Self {
            memory,
            quota_us: cpus.map(quota).transpose()?,
            tasks: pids,
            timeout_ms: timeout.map(milliseconds).transpose()?,
        })
    }

    /// Is there one that control groups know?
    pub fn any(&self) -> bool {
        self.memory.is_some() || self.quota_us.is_some() || self.tasks.is_some()
    }

    /// For the Sentry. Without a control group a part of a processor cannot be had: then as many
    /// whole ones.
    pub fn of_guest(&self) -> Result<GuestLimits> {
        let cpu = self.quota_us.map(|quota_us| CpuQuota {
            quota_us,
            period_us: PERIOD_US,
        });
        let mut cpus = Vec::new();
        if let Some(quota) = cpu {
            let most = usize::try_from(quota.processors()).unwrap_or(usize::MAX);
            let all = runsc_platform::host::affinity().context("sched_getaffinity")?;
            cpus.extend(all.into_iter().take(most).flat_map(u32::try_from));
        }
        Ok(GuestLimits {
            memory: self.memory.map(|bytes| MemoryLimit {
                told: bytes,
                usable: bytes,
                own: beside(bytes),
            }),
            cpu,
            cpu_shares: None,
            cpus,
            tasks: self.tasks,
            layout: cgroup::guest_layout(),
        })
    }

    /// The host's group. The guest's memory and tasks are limited without one.
    pub fn cgroup(&self) -> Result<Option<Cgroup>> {
        let privileged = environment::is_privileged();
        let mut asked = json!({});
        if let Some(quota) = self.quota_us {
            asked["cpu"] = json!({"quota": quota, "period": PERIOD_US});
        }
        if privileged {
            if let Some(bytes) = self.memory {
                let limit = bytes.saturating_add(beside(bytes));
                asked["memory"] = json!({"limit": i64::try_from(limit)?});
            }
            if let Some(tasks) = self.tasks {
                asked["pids"] = json!({"limit": tasks});
            }
        }
        if asked.as_object().is_none_or(|asked| asked.is_empty()) {
            return Ok(None);
        }
        // Commands that were killed could not clean up.
        cgroup::sweep(GROUP_PREFIX);
        let resources: LinuxResources = serde_json::from_value(asked)?;
        Cgroup::create(&Request {
            path: None,
            id: &format!("{GROUP_PREFIX}{}", std::process::id()),
            systemd: false,
            resources: Some(&resources),
            privileged,
        })
    }
}

/// What the sandbox's own processes may use beside so much of the guest.
fn beside(bytes: u64) -> u64 {
    own_share(bytes.saturating_mul(2).max(64 << 20))
}

/// A number of processors, with a fraction, as time in a period.
fn quota(text: &str) -> Result<u64> {
    let cpus: f64 = text
        .parse()
        .with_context(|| format!("--cpus: {text:?}: not a number"))?;
    ensure!(
        (0.01..=8192.0).contains(&cpus),
        "--cpus: {text:?}: must be from 0.01 to 8192"
    );
    Ok((cpus * PERIOD_US as f64).round() as u64)
}

/// A number with the unit ms, s, m or h; s without one.
fn milliseconds(text: &str) -> Result<u64> {
    let units = [("ms", 1.0), ("s", 1e3), ("m", 6e4), ("h", 3.6e6), ("", 1e3)];
    for (unit, factor) in units {
        let Some(number) = text.strip_suffix(unit) else {
            continue;
        };
        let Ok(number) = number.parse::<f64>() else {
            continue;
        };
        let ms = number * factor;
        ensure!(
            (1.0..=1e12).contains(&ms),
            "--timeout: {text:?}: out of range"
        );
        return Ok(ms.round() as u64);
    }
    bail!("--timeout: {text:?}: must be a number with ms, s, m or h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_typed() {
        let limits = Limits::parse(Some("64M"), Some("1.5"), Some(7), Some("2m")).unwrap();
        let expected = Limits {
            memory: Some(64 << 20),
            quota_us: Some(150_000),
            tasks: Some(7),
            timeout_ms: Some(120_000),
        };
        assert_eq!(limits, expected);
        let times = ["1", "0.5s", "250ms", "1h"].map(|text| milliseconds(text).unwrap());
        assert_eq!(times, [1000, 500, 250, 3_600_000]);
        for bad in ["", "x", "-1", "0", "1d", "inf", "nan", "s"] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "-1", "nan", "inf", "x"] {
            assert!(quota(bad).is_err(), "{bad}");
        }
        for bad in ["", "1", "1023", "x", "-5M", "99999999999T"] {
            assert!(Limits::parse(Some(bad), None, None, None).is_err(), "{bad}");
        }
        assert!(Limits::parse(None, None, Some(0), None).is_err());
    }
}
