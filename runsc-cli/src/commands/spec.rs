//! `runsc-rs spec` and `features`: what to start from, and what there is.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write, stdout},
    os::unix::fs::OpenOptionsExt,
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use nix::unistd::{Gid, Uid};
use serde_json::{Value, json};

use super::Failure;
use crate::{
    args::oci::SpecArgs,
    bundle::{options, seccomp},
};

/// The versions of the specification that are understood.
const OLDEST: &str = "1.0.0";
const NEWEST: &str = "1.0.2";

pub fn spec(args: &SpecArgs) -> Result<ExitCode, Failure> {
    let directory = args.bundle.clone().unwrap_or_else(|| ".".into());
    let path = directory.join("config.json");
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o666)
        .open(&path);
    let mut file = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(anyhow!("File config.json exists. Remove it first").into());
        }
        other => other.with_context(|| path.display().to_string())?,
    };
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(&template(args.rootless), &mut serializer)?;
    text.push(b'\n');
    file.write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A shell on a terminal, confined as containers usually are.
fn template(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        let mut mount = json!({"destination": destination, "type": kind, "source": source});
        if !options.is_empty() {
            mount["options"] = json!(options);
        }
        mount
    };
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if !rootless {
        pts.push("gid=5");
    }
    let dev = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    let locked = ["nosuid", "noexec", "nodev"];
    let sys = ["nosuid", "noexec", "nodev", "ro"];
    let cgroup = ["nosuid", "noexec", "nodev", "relatime", "ro"];
    let sysfs = match rootless {
        true => mount(
            "/sys",
            "none",
            "/sys",
            &["rbind", "nosuid", "noexec", "nodev", "ro"],
        ),
        false => mount("/sys", "sysfs", "sysfs", &sys),
    };
    let mut linux = json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                       {"type": "mount"}],
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                        "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                        "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                          "/proc/sysrq-trigger"],
    });
    if rootless {
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        linux["uidMappings"] = map(Uid::effective().as_raw());
        linux["gidMappings"] = map(Gid::effective().as_raw());
        linux["namespaces"] = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                                     {"type": "mount"}, {"type": "user"}]);
        if let Some(linux) = linux.as_object_mut() {
            linux.remove("resources");
        }
    }
    json!({
        "ociVersion": NEWEST,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities,
                             "permitted": capabilities, "ambient": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runsc-rs",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &dev),
            mount("/dev/pts", "devpts", "devpts", &pts),
            mount("/dev/shm", "tmpfs", "shm", &shm),
            mount("/dev/mqueue", "mqueue", "mqueue", &locked),
            sysfs,
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &cgroup),
        ],
        "linux": linux,
    })
}

pub fn features() -> Result<ExitCode, Failure> {
    let mut capabilities: Vec<_> = caps::all().into_iter().collect();
    capabilities.sort_by_key(|capability| capability.index());
    let capabilities: Vec<_> = capabilities.iter().map(ToString::to_string).collect();
    let features = json!({
        "ociVersionMin": OLDEST,
        "ociVersionMax": NEWEST,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart",
                  "poststop"],
        "mountOptions": options::KNOWN,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS,
                "operators": seccomp::OPERATORS,
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": seccomp::FLAGS,
                "supportedFlags": seccomp::FLAGS,
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "memoryPolicy": {},
            "mountExtensions": {"idmap": {"enabled": false}},
            "netDevices": {"enabled": false},
        },
        "annotations": {"rs.runsc.version": env!("CARGO_PKG_VERSION")},
    });
    writeln!(stdout(), "{features:#}")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_specification_that_is_understood() {
        for rootless in [false, true] {
            let text = template(rootless).to_string();
            let spec: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(
                spec.process().as_ref().unwrap().args().as_ref().unwrap(),
                &["sh"]
            );
            assert_eq!(spec.mounts().as_ref().unwrap().len(), 7);
        }
    }
}
