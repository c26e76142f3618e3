//! The control group of a container's host processes: made, set, entered, frozen, measured, removed.
//!
//! [`Cgroup`] is what is left to do with it once it has been made; it can be kept as JSON beside a
//! container's state. Layouts v1, v2 and hybrid are told apart in [`layout`], the values come from
//! [`resources`], figures from [`stats`]. `--systemd-cgroup` only changes where the group lies: it
//! is made by hand where systemd would make it, systemd is not asked.
//!
//! The group holds the sandbox as a whole to the limits. What a guest may have of them is the
//! Sentry's business, which stops a guest before the host would stop the Sentry: see
//! `GuestLimits` of the boot configuration.

mod layout;
mod oom;
mod resources;
mod stats;
#[cfg(test)]
mod tests;

pub use oom::Oom;
pub use stats::{BlockIo, Stats};

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use oci_spec::runtime::LinuxResources;
use runsc_sentry::config::CgroupLayout;
use serde::{Deserialize, Serialize};

use crate::sandbox::Outcome;
use layout::{Hierarchy, Place, Version};
use resources::Setting;

/// How long processes may take to freeze, to die, or to leave their group.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// `linux.cgroupsPath`.
    pub path: Option<&'a Path>,
    /// Names the group if there is no path.
    pub id: &'a str,
    /// `--systemd-cgroup`.
    pub systemd: bool,
    pub resources: Option<&'a LinuxResources>,
    /// Whether the caller may be expected to be allowed to make groups.
    pub privileged: bool,
}

/// A control group that was made, in all hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    version: Version,
    groups: Vec<Group>,
}

/// The group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    version: Version,
    controllers: Vec<String>,
    directory: PathBuf,
    /// Directories above it that did not exist before, outermost first.
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes and sets the group. `None` where the caller may not, if that was to be expected (then
    /// it is warned of what has no effect) or if nothing was asked for.
    pub fn create(request: &Request<'_>) -> Result<Option<Self>> {
        Self::create_in(request, &layout::hierarchies()?)
    }

    fn create_in(request: &Request<'_>, hierarchies: &[Hierarchy]) -> Result<Option<Self>> {
        let version = version_of(hierarchies);
        let settings = wanted(request.resources, version)?;
        let named =
            |id: &str| Place::new(request.path, id, request.systemd).context("linux.cgroupsPath");
        let mut place = named(request.id)?;
        // An id is unique to a state directory, a group to the machine.
        let claim = |h: &Hierarchy| fs::create_dir(place.within(h)).err();
        let first = hierarchies
            .first()
            .filter(|_| request.path.is_none())
            .and_then(claim);
        let taken = |made: &io::Error| made.kind() == ErrorKind::AlreadyExists;
        if first.as_ref().is_some_and(taken) {
            place = named(&format!("{}.{}", request.id, std::process::id()))?;
        }
        if request.systemd {
            log::debug!("systemd is not asked for a scope: the directories are made by hand");
        }
        let mut cgroup = Self {
            version,
            groups: Vec::new(),
        };
        match cgroup.make(&place, hierarchies) {
            Ok(()) if !cgroup.groups.is_empty() => {}
            outcome => {
                cgroup.remove_quietly();
                let why = match outcome {
                    Err(error) if !is_refusal(&error) => return Err(error),
                    Err(error) => format!("{error:#}"),
                    Ok(()) => "this machine has no control groups mounted".to_owned(),
                };
                let asked = request.path.is_some() || !settings.is_empty();
                ensure!(!request.privileged || !asked, "cgroup: {why}");
                if settings.is_empty() && request.path.is_some() {
                    log::warn!("linux.cgroupsPath: has no effect ({why})");
                }
                if !settings.is_empty() {
                    let keys: Vec<_> = settings.iter().map(|s| s.key.as_str()).collect();
                    log::warn!(
                        "linux.resources: not held to by the host: {} ({why})",
                        keys.join(", ")
                    );
                }
                return Ok(None);
            }
        }
        match cgroup.apply(&settings) {
            Ok(()) => Ok(Some(cgroup)),
            Err(error) => {
                cgroup.remove_quietly();
                Err(error)
            }
        }
    }

    fn make(&mut self, place: &Place, hierarchies: &[Hierarchy]) -> Result<()> {
        occupied(place, hierarchies)?;
        for hierarchy in hierarchies {
            let directory = place.within(hierarchy);
            let what = || format!("cgroup: {}", directory.display());
            let made = make_all(&hierarchy.mount, &directory).with_context(what)?;
            // From here on it is removed if something fails.
            self.groups.push(Group {
                version: hierarchy.version,
                controllers: hierarchy.controllers.clone(),
                directory: directory.clone(),
                made,
            });
            match hierarchy.version {
                Version::V2 => delegate(hierarchy, &directory).with_context(what)?,
                Version::V1 if hierarchy.controllers.iter().any(|c| c == "cpuset") => {
                    inherit_cpuset(&hierarchy.mount, &directory).with_context(what)?;
                }
                Version::V1 => {}
            }
        }
        Ok(())
    }

    /// Removes what a creation by process `creator` may have left that was cut short: empty groups.
    pub fn remove_traces(request: &Request<'_>, creator: i32) {
        let hierarchies = layout::hierarchies().unwrap_or_default();
        let mut names = vec![request.id.to_owned()];
        if request.path.is_none() {
            names.push(format!("{}.{creator}", request.id));
        }
        for name in names {
            let Ok(place) = Place::new(request.path, &name, request.systemd) else {
                continue;
            };
            for hierarchy in &hierarchies {
                // One with processes is somebody's, and stays.
                let _ = fs::remove_dir(place.within(hierarchy));
            }
        }
    }

    /// Sets other limits; those not named stay as they are.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        if let Some(memory) = resources.memory()
            && memory.check_before_update() == Some(true)
            && let Some(limit) = memory.limit().and_then(|limit| u64::try_from(limit).ok())
            && let Some(usage) = self.stats()?.memory.usage
        {
            ensure!(
                usage <= limit,
                "memory.limit: {limit}: less than the {usage} bytes that are in use"
            );
        }
        self.apply(&wanted(Some(resources), self.version)?)
    }

    /// Writes all; what is refused because of another value that is about to change is tried again
    /// after that.
    fn apply(&self, settings: &[Setting]) -> Result<()> {
        let mut again = Vec::new();
        for setting in settings {
            match self.set(setting) {
                Ok(()) => {}
                Err(error) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                    Some(ErrorKind::InvalidInput | ErrorKind::ResourceBusy) => again.push(setting),
                    _ => return Err(error),
                },
            }
        }
        again.into_iter().try_for_each(|setting| self.set(setting))
    }

    fn set(&self, setting: &Setting) -> Result<()> {
        let key = || format!("linux.resources.{}", setting.key);
        // Who is not to be limited needs nothing for that.
        let none = setting.is_no_limit();
        let Some(group) = self.with(&setting.controller) else {
            if none {
                return Ok(());
            }
            bail!(
                "{}: this machine has no cgroup controller {:?}",
                key(),
                setting.controller
            );
        };
        let mut paths = setting.files.iter().map(|file| group.directory.join(file));
        let Some(path) = paths.find(|path| path.exists()) else {
            if none {
                return Ok(());
            }
            let files = setting.files.join(" or ");
            if let Some(above) = group.held_back_by() {
                bail!(
                    "{}: {} has processes of its own, so cgroup v2 lets no group below it have {files}",
                    key(),
                    above.display()
                );
            }
            bail!("{}: this machine's cgroups have no {files}", key());
        };
        log::debug!("{}: {}", path.display(), setting.value);
        let written = write(&path, &setting.value);
        written.with_context(|| format!("{}: {:?}", key(), setting.value))
    }

    fn with(&self, controller: &str) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.controllers.iter().any(|name| name == controller))
    }

    /// The group of v2, with or without controllers.
    fn unified(&self) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.version == Version::V2)
    }

    /// Puts process `pid` into the group, with all its threads and what it starts from now on.
    pub fn enter(&self, pid: i32) -> Result<()> {
        for group in &self.groups {
            let path = group.directory.join("cgroup.procs");
            write(&path, &pid.to_string()).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Stops every process in the group, as somebody else may; returns when all have stopped.
    #[cfg(test)]
    pub fn freeze(&self) -> Result<()> {
        let frozen = self.set_frozen(true);
        if frozen.is_err() {
            // Rather not at all than half.
            let _ = self.set_frozen(false);
        }
        frozen.context("freezing the cgroup")
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false).context("thawing the cgroup")
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        if let Some(group) = self.with("freezer") {
            let path = group.directory.join("freezer.state");
            let state = if frozen { "FROZEN" } else { "THAWED" };
            // A process that was being made meanwhile is caught the next time.
            loop {
                write(&path, state)?;
                if fs::read_to_string(&path)?.trim() == state {
                    return Ok(());
                }
                ensure!(Instant::now() < deadline, "{}: timed out", path.display());
                pause();
            }
        }
        let group = self
            .unified()
            .context("this machine has no cgroup freezer")?;
        write(
            &group.directory.join("cgroup.freeze"),
            if frozen { "1" } else { "0" },
        )?;
        group.wait_for_event(if frozen { "frozen 1" } else { "frozen 0" }, deadline)
    }

    /// Whether [`Cgroup::freeze`] has been called last.
    #[cfg(test)]
    pub fn is_frozen(&self) -> Result<bool> {
        let read = |group: &Group, file: &str| fs::read_to_string(group.directory.join(file));
        if let Some(group) = self.with("freezer") {
            return Ok(read(group, "freezer.state")?.trim() != "THAWED");
        }
        match self.unified() {
            Some(group) => Ok(read(group, "cgroup.freeze")?.trim() == "1"),
            None => Ok(false),
        }
    }

    /// Processes in the group, as this process sees their ids; those it cannot see are left out.
    pub fn processes(&self) -> Result<Vec<i32>> {
        match self.groups.first() {
            Some(group) => Ok(processes(&group.directory)?),
            None => Ok(Vec::new()),
        }
    }

    /// The files that tell how much memory is in use, open: the bytes, and memory.stat.
    pub fn memory_use(&self) -> Result<Option<[OwnedFd; 2]>> {
        let Some(group) = self.with("memory") else {
            return Ok(None);
        };
        let used = match group.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        let open = |file: &str| -> Result<OwnedFd> {
            let path = group.directory.join(file);
            let opened = fs::File::open(&path);
            Ok(opened.with_context(|| path.display().to_string())?.into())
        };
        Ok(Some([open(used)?, open("memory.stat")?]))
    }

    /// What the group has used so far, and its limits.
    pub fn stats(&self) -> Result<Stats> {
        Stats::read(|controller| self.with(controller).map(|g| (g.version, &*g.directory)))
    }

    /// Kills what is in the group and removes it, with groups that were made below it.
    pub fn destroy(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // What is frozen does not die.
        let _ = self.thaw();
        for group in &self.groups {
            loop {
                let inside = processes(&group.directory)?;
                if inside.is_empty() {
                    break;
                }
                for pid in inside {
                    // It may be gone by now.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                ensure!(
                    Instant::now() < deadline,
                    "{}: its processes do not die",
                    group.directory.display()
                );
                pause();
            }
        }
        self.remove()
    }

    /// Removes the group, which has no processes any more, and the directories above it that were
    /// made for it and that nobody else uses.
    pub fn remove(&self) -> Result<()> {
        let mut result = Ok(());
        for group in self.groups.iter().rev() {
            let removed = remove_tree(&group.directory, Instant::now() + PATIENCE);
            let removed = removed.with_context(|| group.directory.display().to_string());
            result = result.and(removed);
            for above in group.made.iter().rev() {
                // Somebody else may have put a group there.
                let _ = fs::remove_dir(above);
            }
        }
        result.context("removing the cgroup")
    }

    fn remove_quietly(&self) {
        if let Err(error) = self.remove() {
            log::debug!("{error:#}");
        }
    }
}

impl Group {
    /// v2: the group above, if processes in it keep controllers from this one.
    fn held_back_by(&self) -> Option<&Path> {
        let above = self.directory.parent()?;
        // The root is the one group that may have both; only it has no type.
        let bound = self.version == Version::V2 && above.join("cgroup.type").exists();
        (bound && processes(above).is_ok_and(|inside| !inside.is_empty())).then_some(above)
    }

    /// Waits until `cgroup.events` has the line.
    fn wait_for_event(&self, line: &str, deadline: Instant) -> Result<()> {
        let path = self.directory.join("cgroup.events");
        let mut file = fs::File::open(&path)?;
        loop {
            let mut text = String::new();
            io::Seek::rewind(&mut file)?;
            io::Read::read_to_string(&mut file, &mut text)?;
            if text.lines().any(|found| found == line) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{}: timed out", path.display());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(
                &mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)],
                timeout,
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Removes groups beside this process's own whose names are `prefix` and the id of a process that
/// is dead. One that still has processes stays.
pub fn sweep(prefix: &str) {
    for hierarchy in layout::hierarchies().unwrap_or_default() {
        let place = Place::Relative(prefix.into()).within(&hierarchy);
        let entries = place.parent().and_then(|above| fs::read_dir(above).ok());
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(prefix));
            let Some(pid) = pid.and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0) else {
                continue;
            };
            if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
                let removed = fs::remove_dir(entry.path());
                log::debug!("{}: {removed:?}", entry.path().display());
            }
        }
    }
}

/// What the guest is to find in /sys/fs/cgroup: what it would find on this machine.
pub fn guest_layout() -> CgroupLayout {
    let version = layout::hierarchies().map(|found| version_of(&found));
    match version {
        Ok(Version::V1) => CgroupLayout::V1,
        _ => CgroupLayout::V2,
    }
}

/// The version that has the controllers.
fn version_of(hierarchies: &[Hierarchy]) -> Version {
    let v1 = hierarchies
        .iter()
        .any(|h| h.version == Version::V1 && !h.controllers.iter().all(|c| c.contains('=')));
    if v1 { Version::V1 } else { Version::V2 }
}

/// A group for as long as the value lives.
#[derive(Debug)]
pub struct Held(pub Option<Cgroup>);

impl Held {
    /// As [`Cgroup::explain`].
    pub fn explain(&self, outcome: Outcome) -> Outcome {
        match &self.0 {
            Some(cgroup) => cgroup.explain(outcome),
            None => outcome,
        }
    }
}

impl Cgroup {
    /// Why a sandbox broke, if it was the host that ran out of the group's memory.
    fn explain(&self, outcome: Outcome) -> Outcome {
        let stats = self.stats().ok();
        explain(outcome, stats.and_then(|stats| stats.memory.oom_kills))
    }
}

/// Why a sandbox broke, of whose control group the host has killed so many processes.
pub fn explain(outcome: Outcome, oom_kills: Option<u64>) -> Outcome {
    match (outcome, oom_kills) {
        (Outcome::Broken(report), Some(1..)) => Outcome::Broken(format!(
            "{report} (the host has killed processes for linux.resources.memory.limit)"
        )),
        (outcome, _) => outcome,
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.0
            && let Err(error) = cgroup.remove()
        {
            log::warn!("{error:#}");
        }
    }
}

fn wanted(resources: Option<&LinuxResources>, version: Version) -> Result<Vec<Setting>> {
    let Some(resources) = resources else {
        return Ok(Vec::new());
    };
    for name in resources::without_effect(resources, version) {
        log::warn!("linux.resources.{name}: not honoured");
    }
    if resources.devices().iter().flatten().next().is_some() {
        log::debug!("linux.resources.devices: the guest's devices are all the Sentry's own");
    }
    resources::settings(resources, version).context("linux.resources")
}

/// What would be set with v1 and v2, as text, and what has no effect.
#[cfg(test)]
pub fn outcome(resources: Option<&LinuxResources>) -> (String, Vec<String>) {
    let Some(resources) = resources else {
        return Default::default();
    };
    let settings = [Version::V1, Version::V2].map(|version| {
        resources::settings(resources, version).map_err(|error| format!("{error:#}"))
    });
    let vain = resources::without_effect(resources, Version::V1);
    let vain = vain.into_iter().map(String::from).collect();
    (format!("{settings:?}"), vain)
}

/// Fails if somebody has the group already.
fn occupied(place: &Place, hierarchies: &[Hierarchy]) -> Result<()> {
    for hierarchy in hierarchies {
        let directory = place.within(hierarchy);
        let what = || format!("cgroup: {}", directory.display());
        let inside = processes(&directory).with_context(what)?.len();
        ensure!(inside == 0, "{}: has {inside} processes already", what());
    }
    Ok(())
}

/// Is it that the caller may not, rather than that something is wrong?
fn is_refusal(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(
        kind,
        Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound)
    )
}

/// Files of a cgroup are written in one piece, and never made.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// Processes in a group's directory; none if that does not exist.
fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        // A threaded group of v2 tells only of threads.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        text => text?,
    };
    // 0: a process that this pid namespace does not have.
    Ok(text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect())
}

/// Makes `directory` below `mount` and says which directories above it are new. Others remove empty
/// directories as well: what vanishes meanwhile is made again.
fn make_all(mount: &Path, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    let mut attempts = 0;
    'again: loop {
        let mut path = mount.to_path_buf();
        for part in directory.strip_prefix(mount).into_iter().flatten() {
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) if path != directory && !made.contains(&path) => made.push(path.clone()),
                Err(error) if error.kind() == ErrorKind::NotFound && attempts < 16 => {
                    attempts += 1;
                    continue 'again;
                }
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    for path in made.iter().rev() {
                        let _ = fs::remove_dir(path);
                    }
                    return Err(error);
                }
                _ => {}
            }
        }
        return Ok(made);
    }
}

/// v2: every group above ours passes the controllers on.
fn delegate(hierarchy: &Hierarchy, directory: &Path) -> Result<()> {
    let mut path = hierarchy.mount.clone();
    for part in directory
        .strip_prefix(&hierarchy.mount)
        .into_iter()
        .flatten()
    {
        for controller in &hierarchy.controllers {
            // What is not passed on shows when its value is to be set.
            if let Err(error) = write(
                &path.join("cgroup.subtree_control"),
                &format!("+{controller}"),
            ) {
                log::debug!("{}: +{controller}: {error}", path.display());
            }
        }
        path.push(part);
    }
    Ok(())
}

/// v1: a new group of cpuset has neither processors nor memory, and lets nobody in until it has.
fn inherit_cpuset(mount: &Path, directory: &Path) -> io::Result<()> {
    let mut path = mount.to_path_buf();
    let mut above = path.clone();
    for part in directory.strip_prefix(mount).into_iter().flatten() {
        path.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(path.join(file))?.trim().is_empty() {
                let value = fs::read_to_string(above.join(file))?;
                write(&path.join(file), value.trim())?;
            }
        }
        above.clone_from(&path);
    }
    Ok(())
}

/// Removes a group with all below it. The kernel may take a moment to see that it is empty.
fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() != ErrorKind::ResourceBusy => return Err(error),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
        let mut below = false;
        for entry in fs::read_dir(directory)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below = true;
                remove_tree(&entry.path(), deadline)?;
            }
        }
        if !below {
            pause();
        }
    }
}

/// Where the kernel tells nobody when it is done.
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}
