//! What a configuration may ask for and cannot have: refused by name if the container would be less
//! confined or would not work without it ([`check`]), else named to be warned of ([`without_effect`]).
//! `fields/mod.rs` demands one of these, or an effect, of every field there is.

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{
    Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxPersonalityDomain, Mount, Process, Spec,
};

use super::{namespaces, options::Options};

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

/// Unknown properties that are named; a configuration may have any number of them.
const MAX_UNKNOWN: usize = 16;

/// Refuses what the container cannot do without.
pub fn check(spec: &Spec, linux: &Linux) -> Result<()> {
    version(spec.version())?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
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
        ensure!(
            personality.flags().iter().flatten().next().is_none(),
            "linux.personality.flags: not supported"
        );
    }
    propagation(linux.rootfs_propagation().as_deref())
}

/// The specification's versions 1.x are compatible.
fn version(given: &str) -> Result<()> {
    let mut parts = given.splitn(3, '.');
    let whole = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
    let major = whole(parts.next());
    let known = major == Some(1) && whole(parts.next()).is_some() && parts.next().is_some();
    ensure!(known, "ociVersion: {given:?}: not supported");
    Ok(())
}

/// What is asked for and has no effect, by name. Properties that the specification does not know
/// (`unknown`) must be no error, so they are here as well.
pub fn without_effect(spec: &Spec, linux: &Linux, unknown: &Unknown) -> Vec<String> {
    let mut names = platforms(spec);
    // The decoder takes them there, so they are not unknown.
    let misplaced = [
        (spec.uid_mappings().is_some(), "uidMappings"),
        (spec.gid_mappings().is_some(), "gidMappings"),
    ];
    let misplaced = misplaced.into_iter().filter(|(is, _)| *is);
    names.extend(misplaced.map(|(_, name)| format!("{name} (linux.{name} has)")));
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        names.extend(of_mount(mount).map(|name| format!("mounts[{index}]: {name}")));
    }
    for device in linux.devices().iter().flatten() {
        let number = (device.major(), device.minor());
        let named = device.typ().as_str() == "p" || DEVICES.contains(&number);
        if !named {
            names.push(format!(
                "linux.devices: {}: there is no driver for it, opening it",
                device.path().display()
            ));
        }
    }
    names.extend(namespaces::without_effect(linux));
    let resources = linux.resources().as_ref();
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    names.extend(rules.unwrap_or_default().iter().filter_map(of_rule));
    if given(linux.mount_label()) {
        names.push("linux.mountLabel".into());
    }
    let propagation = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if propagation.ends_with("shared") {
        names.push(format!("linux.rootfsPropagation: {propagation}"));
    }
    if let Some(process) = spec.process() {
        names.extend(of_process(process).map(|name| format!("process.{name}")));
    }
    names.extend(unknown.names());
    names
}

/// The same of a process that is described by itself.
pub fn without_effect_for(process: &Process, unknown: &Unknown) -> Vec<String> {
    let mut names = Vec::new();
    let foreign = [
        (given(process.command_line()), "commandLine"),
        (given(process.user().username()), "user.username"),
    ];
    let foreign = foreign.into_iter().filter(|(is, _)| *is);
    names.extend(foreign.map(|(_, name)| format!("{name} (not for Linux)")));
    names.extend(of_process(process).map(String::from));
    names.extend(unknown.names());
    names
}

/// Properties of a configuration that the specification does not know: the first ones by name.
#[derive(Debug, Default)]
pub struct Unknown {
    first: Vec<String>,
    more: usize,
}

impl Unknown {
    pub fn add(&mut self, path: &serde_ignored::Path<'_>) {
        if self.first.len() == MAX_UNKNOWN {
            self.more = self.more.saturating_add(1);
            return;
        }
        // Question marks stand for values that may be missing.
        self.first.push(path.to_string().replace(".?", ""));
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let first = self.first.iter();
        let more = (self.more > 0).then(|| format!("{} more unknown properties", self.more));
        first
            .map(|name| format!("{}: unknown", name.escape_debug()))
            .chain(more)
    }
}

fn given(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| !text.is_empty())
}

/// What is for other systems than Linux.
fn platforms(spec: &Spec) -> Vec<String> {
    let process = spec.process().as_ref();
    let foreign = |is: bool, name: &str| is.then(|| format!("{name} (not for Linux)"));
    [
        foreign(spec.solaris().is_some(), "solaris"),
        foreign(spec.windows().is_some(), "windows"),
        foreign(spec.vm().is_some(), "vm"),
        foreign(spec.zos().is_some(), "zos"),
        foreign(
            process.is_some_and(|p| given(p.command_line())),
            "process.commandLine",
        ),
        foreign(
            process.is_some_and(|p| given(p.user().username())),
            "process.user.username",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn of_process(process: &Process) -> impl Iterator<Item = &'static str> {
    [
        (given(process.apparmor_profile()), "apparmorProfile"),
        (given(process.selinux_label()), "selinuxLabel"),
        (
            process.io_priority().is_some(),
            "ioPriority (beyond being shown)",
        ),
        (process.scheduler().is_some(), "scheduler"),
        (process.exec_cpu_affinity().is_some(), "execCPUAffinity"),
    ]
    .into_iter()
    .filter_map(|(asked, name)| asked.then_some(name))
}

/// Options of a mount. One that cannot be parsed is refused elsewhere.
fn of_mount(mount: &Mount) -> impl Iterator<Item = String> {
    let words = mount.options().as_deref().unwrap_or_default();
    let typ = mount.typ().as_deref().unwrap_or_default();
    let options = Options::parse(words).unwrap_or_default();
    let idle = match typ {
        _ if options.bind => &[],
        // One sees the processes of one's own container, all of them.
        "proc" => ["hidepid", "gid", "subset"].as_slice(),
        // Where pages lie is the Sentry's choice.
        "tmpfs" | "devtmpfs" => &["huge", "mpol", "noswap"],
        _ => &[],
    };
    let mut names: Vec<_> = words
        .iter()
        .flat_map(|word| word.split(','))
        .filter(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let harmless = (name == "hidepid" && matches!(value, "0" | "off"))
                || (name == "huge" && value == "never");
            let spreads = matches!(name, "shared" | "rshared" | "slave" | "rslave");
            spreads || idle.contains(&name) && !harmless
        })
        .map(|word| format!("option {word:?}"))
        .collect();
    if options.copy_up && typ != "tmpfs" {
        names.push("option \"tmpcopyup\"".into());
    }
    if matches!(typ, "cgroup" | "cgroup2") && !options.bind && !options.flags.readonly {
        names.push("option \"rw\" of a cgroup file system (it can be read)".into());
    }
    names.into_iter()
}

/// No device of the host can be reached, so what is forbidden in general is forbidden. Left are rules for
/// single devices: one without a driver, and one of the Sentry's own.
fn of_rule(rule: &LinuxDeviceCgroup) -> Option<String> {
    const TERMINALS: i64 = 136;
    let (major, minor) = (rule.major()?, rule.minor()?);
    let typ = rule.typ().filter(|typ| *typ != LinuxDeviceType::A)?;
    let access = rule.access().as_deref().unwrap_or("rwm");
    if major < 0 || minor < 0 || !access.contains(['r', 'w']) {
        return None;
    }
    let character = typ.as_str() != "b";
    let driven = character && (DEVICES.contains(&(major, minor)) || major == TERMINALS);
    let verb = if rule.allow() { "allowing" } else { "denying" };
    (rule.allow() != driven).then(|| {
        let typ = typ.as_str();
        format!("linux.resources.devices: {verb} {typ} {major}:{minor}")
    })
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
    Ok(())
}
