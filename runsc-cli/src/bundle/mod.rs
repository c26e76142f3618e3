//! OCI bundles: reading `config.json` and turning it into a boot configuration.
//!
//! [`Bundle::load`] reads and decodes, [`Bundle::translate`] validates and translates; [`mounts`],
//! [`options`] and [`process`] do so for their sections. What the Sentry cannot do yet is refused
//! if the container would be less confined or would not work without it, else noted in the log.

#[cfg(test)]
mod fields;
mod home;
pub mod limits;
mod mounts;
mod namespaces;
pub mod options;
pub mod process;
pub mod seccomp;
#[cfg(test)]
mod tests;
mod unsupported;

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Spec};
use runsc_gofer::server::{MountSource, ServerConfig, Writes};
use runsc_sentry::config::{
    BootConfig, GuestPath, LogLevel, NodeConfig, NodeKind, OverlayKind, PlatformChoice, RootConfig,
    SeccompConfig, StraceConfig,
};
use runsc_sentry::fs::proc::sysctl::{self, Setting};

use crate::{cgroup::Request, sandbox::Mappings};
use unsupported::Unknown;

/// Longest config.json that is read, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// A bundle's directory and its decoded `config.json`.
#[derive(Debug)]
pub struct Bundle {
    directory: PathBuf,
    spec: Spec,
    /// Paths of properties that the specification does not know.
    unknown: Unknown,
}

impl Bundle {
    pub fn load(directory: &Path) -> Result<Self> {
        let directory = fs::canonicalize(directory)
            .with_context(|| format!("bundle: {}", directory.display()))?;
        let path = directory.join("config.json");
        let (spec, unknown) = read(&path).with_context(|| path.display().to_string())?;
        Ok(Self {
            directory,
            spec,
            unknown,
        })
    }

    /// The configuration as it was kept at `path` when the bundle was at `directory`.
    pub fn kept(path: &Path, directory: &Path) -> Result<Self> {
        let (spec, unknown) = read(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            directory: directory.to_path_buf(),
            spec,
            unknown,
        })
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Which ids of the host the container's are.
    pub fn mappings(&self) -> Result<Option<Mappings>> {
        let linux = self.spec.linux().as_ref();
        Ok(linux.map(namespaces::mappings).transpose()?.flatten())
    }

    /// What the system calls of all its processes have to pass.
    pub fn seccomp(&self) -> Result<Option<SeccompConfig>> {
        let linux = self.spec.linux().as_ref();
        let profile = linux.and_then(|linux| linux.seccomp().as_ref());
        let profile = profile.map(seccomp::translate).transpose();
        profile.context("linux.seccomp")
    }

    /// The control group that the configuration asks for.
    pub fn cgroup<'a>(&'a self, id: &'a str, systemd: bool, privileged: bool) -> Request<'a> {
        let linux = self.spec.linux().as_ref();
        Request {
            path: linux.and_then(|linux| linux.cgroups_path().as_deref()),
            id,
            systemd,
            resources: linux.and_then(|linux| linux.resources().as_ref()),
            privileged,
        }
    }

    pub fn oci_version(&self) -> &str {
        self.spec.version()
    }

    /// What the Sentry and the Gofer are to do for this bundle. Platform, sockets of the host, strace
    /// and log level are the caller's to fill in.
    pub fn translate(&self, id: &str, overlay: OverlayKind) -> Result<(BootConfig, ServerConfig)> {
        self.try_translate(id, overlay)
            .with_context(|| self.directory.join("config.json").display().to_string())
    }

    fn try_translate(&self, id: &str, overlay: OverlayKind) -> Result<(BootConfig, ServerConfig)> {
        let spec = &self.spec;
        let (root_path, readonly) = self.root()?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| anyhow!("process: missing"))?;
        let mut process = process::translate(process, &root_path)?;
        let root_writes = match overlay {
            OverlayKind::None if !readonly => Writes::Allow,
            _ => Writes::Refuse,
        };
        let mut sources = vec![MountSource {
            source: root_path,
            writes: root_writes,
            devices: Default::default(),
            kernel_file_systems: Default::default(),
        }];
        let given = spec.mounts().as_deref().unwrap_or_default();
        let mounts = mounts::translate(given, &self.directory, &mut sources)?;
        let linux = spec.linux().clone().unwrap_or_default();
        unsupported::check(spec, &linux)?;
        namespaces::check(&linux)?;
        process.seccomp = self.seccomp()?;
        let boot = BootConfig {
            container_id: id.into(),
            platform: PlatformChoice::default(),
            patch_code: true,
            root: RootConfig {
                gofer_mount: 0,
                readonly,
                overlay,
            },
            mounts,
            nodes: nodes(&linux, process.terminal)?,
            masked_paths: paths(linux.masked_paths().as_deref(), "linux.maskedPaths")?,
            readonly_paths: paths(linux.readonly_paths().as_deref(), "linux.readonlyPaths")?,
            sysctls: sysctls(&linux)?,
            process,
            limits: limits::translate(linux.resources().as_ref()).context("linux.resources")?,
            host_sockets: Default::default(),
            changes: Default::default(),
            hostname: name(
                spec.hostname().as_deref(),
                &default_name(&linux),
                "hostname",
            )?,
            domainname: name(spec.domainname().as_deref(), "(none)", "domainname")?,
            strace: StraceConfig::default(),
            log_level: LogLevel::default(),
        };
        let gofer = ServerConfig {
            mounts: sources,
            ..Default::default()
        };
        for name in self.without_effect() {
            log::warn!("config.json: {name}: has no effect");
        }
        Ok((boot, gofer))
    }

    /// What the configuration asks for in vain, by name.
    fn without_effect(&self) -> Vec<String> {
        let linux = self.spec.linux().clone().unwrap_or_default();
        unsupported::without_effect(&self.spec, &linux, &self.unknown)
    }

    /// The root directory on the host, and whether it is read-only.
    pub fn root(&self) -> Result<(PathBuf, bool)> {
        let root = self
            .spec
            .root()
            .as_ref()
            .ok_or_else(|| anyhow!("root: missing"))?;
        ensure!(
            !root.path().as_os_str().is_empty(),
            "root.path: must not be empty"
        );
        let path = self.directory.join(root.path());
        let what = || format!("root.path: {}", path.display());
        let path = fs::canonicalize(&path).with_context(what)?;
        ensure!(path.is_dir(), "{}: not a directory", what());
        Ok((path, root.readonly().unwrap_or(false)))
    }
}

/// `linux.sysctl`, with slashes instead of dots.
fn sysctls(linux: &Linux) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        let path = name.replace('.', "/");
        match sysctl::setting(&path) {
            Setting::Settable => all.push((path, value.clone())),
            Setting::Fixed => bail!("linux.sysctl: {name}: cannot be changed"),
            Setting::Unknown => bail!("linux.sysctl: {name}: not supported"),
        }
    }
    all.sort();
    Ok(all)
}

/// Decodes a process by itself, as `config.json` has it, and warns of what has no effect.
pub fn decode_process(text: &[u8]) -> Result<oci_spec::runtime::Process> {
    let (process, unknown) = known(&mut serde_json::Deserializer::from_slice(text))
        .map_err(|error| described(&error))?;
    for name in unsupported::without_effect_for(&process, &unknown) {
        log::warn!("{name}: has no effect");
    }
    Ok(process)
}

/// Reads a configuration: a file, and no more of it than is allowed, whatever becomes of it meanwhile.
fn read(path: &Path) -> Result<(Spec, Unknown)> {
    let file = File::options()
        .read(true)
        // What is not a file may make whoever opens it wait.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    ensure!(file.metadata()?.is_file(), "not a file");
    let mut text = Vec::new();
    file.take(MAX_CONFIG + 1).read_to_end(&mut text)?;
    ensure!(
        text.len() as u64 <= MAX_CONFIG,
        "larger than {MAX_CONFIG} bytes"
    );
    decode(&text)
}

/// Decodes `config.json`, and names the properties that are unknown. Capabilities we do not know are
/// left out, as runc does.
fn decode(text: &[u8]) -> Result<(Spec, Unknown)> {
    let error = match known(&mut serde_json::Deserializer::from_slice(text)) {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(text) else {
        return Err(described(&error));
    };
    let unknown = process::remove_unknown_capabilities(&mut value);
    if unknown.is_empty() {
        return Err(described(&error));
    }
    log::warn!(
        "config.json: process.capabilities: ignoring unknown {}",
        unknown.join(", ")
    );
    let text = serde_json::to_vec(&value)?;
    known(&mut serde_json::Deserializer::from_slice(&text)).map_err(|_| described(&error))
}

fn known<'de, T: serde::Deserialize<'de>>(
    json: &mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>,
) -> serde_json::Result<(T, Unknown)> {
    let mut unknown = Unknown::default();
    let decoded = serde_ignored::deserialize(&mut *json, |path| unknown.add(&path))?;
    json.end()?;
    Ok((decoded, unknown))
}

/// serde_json's message, with the place in front.
fn described(error: &serde_json::Error) -> anyhow::Error {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    anyhow!("line {}, column {}: {text}", error.line(), error.column())
}

/// A guest path without `.`, `..` and double slashes. A relative one starts at the root, as runc
/// (still) has it.
fn clean(path: &Path) -> GuestPath {
    use std::os::unix::ffi::OsStrExt;
    let mut parts: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.as_bytes()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    let mut clean = b"/".to_vec();
    clean.extend(parts.join(&b'/'));
    clean
}

fn paths(given: Option<&[String]>, section: &str) -> Result<Vec<GuestPath>> {
    given
        .unwrap_or_default()
        .iter()
        .map(|path| {
            ensure!(
                path.starts_with('/'),
                "{section}: {path:?}: not an absolute path"
            );
            ensure!(
                !path.contains('\0'),
                "{section}: {path:?}: holds a NUL byte"
            );
            Ok(clean(Path::new(path)))
        })
        .collect()
}

/// Who shares the host's UTS namespace has its name.
fn default_name(linux: &Linux) -> String {
    let name = || nix::unistd::gethostname().ok()?.into_string().ok();
    let shared = namespaces::shares(linux, LinuxNamespaceType::Uts);
    let name = shared.then(name).flatten();
    name.unwrap_or_else(|| "runsc-rs".into())
}

/// A name for sethostname(2) or setdomainname(2).
fn name(given: Option<&str>, default: &str, section: &str) -> Result<Vec<u8>> {
    let name = given.filter(|name| !name.is_empty()).unwrap_or(default);
    ensure!(
        name.len() <= 64,
        "{section}: {name:?}: longer than 64 bytes"
    );
    Ok(name.into())
}

/// The devices and links that the specification promises, and those of `linux.devices`.
fn nodes(linux: &Linux, terminal: bool) -> Result<Vec<NodeConfig>> {
    let char = |path: &str, major, minor| NodeConfig {
        path: path.into(),
        kind: NodeKind::Char {
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        },
    };
    let link = |path: &str, target: &str| NodeConfig {
        path: path.into(),
        kind: NodeKind::Symlink {
            target: target.into(),
        },
    };
    // What the configuration asks for comes first, because existing nodes stay as they are.
    let mut nodes = Vec::new();
    for (index, device) in linux
        .devices()
        .as_deref()
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        nodes.push(node(device).with_context(|| format!("linux.devices[{index}]"))?);
    }
    nodes.extend([
        char("/dev/null", 1, 3),
        char("/dev/zero", 1, 5),
        char("/dev/full", 1, 7),
        char("/dev/random", 1, 8),
        char("/dev/urandom", 1, 9),
        char("/dev/tty", 5, 0),
        link("/dev/ptmx", "pts/ptmx"),
        link("/dev/fd", "/proc/self/fd"),
        link("/dev/stdin", "/proc/self/fd/0"),
        link("/dev/stdout", "/proc/self/fd/1"),
        link("/dev/stderr", "/proc/self/fd/2"),
    ]);
    if terminal {
        nodes.push(char("/dev/console", 5, 1));
    }
    Ok(nodes)
}

fn node(device: &LinuxDevice) -> Result<NodeConfig> {
    ensure!(
        device.path().is_absolute(),
        "path: {:?}: not an absolute path",
        device.path()
    );
    let number = |value: i64, name: &str| {
        u32::try_from(value).map_err(|_| anyhow!("{name}: {value}: out of range"))
    };
    let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
    let uid = device.uid().unwrap_or(0);
    let gid = device.gid().unwrap_or(0);
    let major = number(device.major(), "major");
    let minor = number(device.minor(), "minor");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Char {
            major: major?,
            minor: minor?,
            mode,
            uid,
            gid,
        },
        LinuxDeviceType::B => NodeKind::Block {
            major: major?,
            minor: minor?,
            mode,
            uid,
            gid,
        },
        LinuxDeviceType::P => NodeKind::Fifo { mode, uid, gid },
        LinuxDeviceType::A => return Err(anyhow!("type: \"a\" is not a device")),
    };
    Ok(NodeConfig {
        path: clean(device.path()),
        kind,
    })
}
