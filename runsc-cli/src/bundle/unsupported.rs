//! What a configuration may ask for and cannot have: refused by name if the container would be less
//! confined or would not work without it, else warned of.

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{Linux, LinuxPersonalityDomain, Mount, Process};

/// Devices that the Sentry has a driver for.
const DEVICES: &[(i64, i64)] = &[
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (1, 11),
    (5, 0),
    (5, 1),
    (5, 2),
];

pub fn check(process: Option<&Process>, linux: &Linux, mounts: &[Mount]) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate() {
        ensure!(
            mount.uid_mappings().is_none() && mount.gid_mappings().is_none(),
            "mounts[{index}]: uidMappings, gidMappings: not supported"
        );
    }
    if linux.time_offsets().iter().flatten().next().is_some() {
        bail!("linux.timeOffsets: not supported");
    }
    if linux.intel_rdt().is_some() {
        bail!("linux.intelRdt: not supported");
    }
    if linux.memory_policy().is_some() {
        bail!("linux.memoryPolicy: not supported");
    }
    if linux.net_devices().iter().flatten().next().is_some() {
        bail!("linux.netDevices: not supported");
    }
    if let Some(personality) = linux.personality() {
        ensure!(
            personality.domain() == LinuxPersonalityDomain::PerLinux,
            "linux.personality: LINUX32: not supported"
        );
    }
    propagation(linux.rootfs_propagation().as_deref())?;
    let warn = |name: &str| log::warn!("config.json: {name}: has no effect");
    for device in linux.devices().iter().flatten() {
        let number = (device.major(), device.minor());
        let named = device.typ().as_str() == "p" || DEVICES.contains(&number);
        if !named {
            warn(&format!(
                "linux.devices: {}: there is no driver for it, opening it",
                device.path().display()
            ));
        }
    }
    if linux.mount_label().as_ref().is_some_and(|l| !l.is_empty()) {
        warn("linux.mountLabel");
    }
    let Some(process) = process else {
        return Ok(());
    };
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if given(process.apparmor_profile()) {
        warn("process.apparmorProfile");
    }
    if given(process.selinux_label()) {
        warn("process.selinuxLabel");
    }
    if process.io_priority().is_some() {
        log::warn!("config.json: process.ioPriority: is shown, and has no effect on the host");
    }
    if process.scheduler().is_some() {
        warn("process.scheduler");
    }
    if process.exec_cpu_affinity().is_some() {
        warn("process.execCPUAffinity");
    }
    Ok(())
}

/// One mount namespace: nothing propagates, whatever is asked for.
fn propagation(given: Option<&str>) -> Result<()> {
    const KNOWN: [&str; 8] = [
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "rprivate",
        "unbindable",
        "runbindable",
    ];
    let given = given.unwrap_or_default();
    ensure!(
        given.is_empty() || KNOWN.contains(&given),
        "linux.rootfsPropagation: {given:?}: unknown"
    );
    if given.ends_with("shared") {
        log::debug!("config.json: linux.rootfsPropagation: no mount propagates to the host");
    }
    Ok(())
}
