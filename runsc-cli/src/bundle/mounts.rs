//! The section `mounts` of `config.json`.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::runtime::Mount;
use runsc_gofer::server::{MountSource, Writes};
use runsc_sentry::config::{
    DevptsOptions, MountConfig, MountFlags, MountKind, OverlayKind, TmpfsOptions,
};

use super::{clean, options::Options};

/// Translates all mounts, in their order. Each bind mount adds a tree to `sources`, which are the
/// Gofer's mounts. What Linux containers expect and nobody asked for is added.
pub fn translate(
    given: &[Mount],
    bundle: &Path,
    sources: &mut Vec<MountSource>,
) -> Result<Vec<MountConfig>> {
    let mut mounts = Vec::with_capacity(given.len() + 3);
    for (index, mount) in given.iter().enumerate() {
        let place = || format!("mounts[{index}] ({})", mount.destination().display());
        mounts.push(translate_one(mount, bundle, sources).with_context(place)?);
    }
    add_missing(&mut mounts);
    Ok(mounts)
}

fn translate_one(
    mount: &Mount,
    bundle: &Path,
    sources: &mut Vec<MountSource>,
) -> Result<MountConfig> {
    use std::os::unix::ffi::OsStrExt;
    let destination = clean(mount.destination());
    ensure!(
        !mount.destination().as_os_str().is_empty(),
        "destination: must not be empty"
    );
    ensure!(!destination.contains(&0), "destination: holds a NUL byte");
    ensure!(
        destination != b"/",
        "destination: the root comes from the section \"root\""
    );
    if !mount.destination().is_absolute() {
        log::warn!("config.json: mounts: {:?} is relative", mount.destination());
    }
    let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
    let mut flags = options.flags;
    let typ = mount.typ().as_deref().unwrap_or_default();
    let kind = match typ {
        _ if options.bind => bind(mount, bundle, &options, sources)?,
        "bind" => bind(mount, bundle, &options, sources)?,
        "proc" => {
            options.proc()?;
            MountKind::Proc
        }
        "sysfs" => {
            options.none()?;
            MountKind::Sysfs
        }
        "tmpfs" => MountKind::Tmpfs(options.tmpfs()?),
        "devtmpfs" => {
            // Same options, other content.
            options.tmpfs()?;
            MountKind::Devtmpfs
        }
        "devpts" => MountKind::Devpts(options.devpts()?),
        "mqueue" => {
            options.none()?;
            MountKind::Mqueue
        }
        "cgroup" | "cgroup2" => {
            options.none()?;
            flags.readonly = true;
            MountKind::Cgroup
        }
        "" => bail!("type: missing"),
        unknown => bail!("type: {unknown:?} is unknown"),
    };
    let source = match mount.source() {
        Some(source) => source.as_os_str().as_bytes().to_vec(),
        None => typ.into(),
    };
    Ok(MountConfig {
        destination,
        kind,
        flags,
        source,
        make_mount_point: true,
    })
}

fn bind(
    mount: &Mount,
    bundle: &Path,
    options: &Options<'_>,
    sources: &mut Vec<MountSource>,
) -> Result<MountKind> {
    options.none()?;
    let source = mount.source().as_deref().context("source: missing")?;
    ensure!(!source.as_os_str().is_empty(), "source: must not be empty");
    let path = bundle.join(source);
    let what = || format!("source: {}", path.display());
    let path = fs::canonicalize(&path).with_context(what)?;
    let directory = fs::metadata(&path).with_context(what)?.is_dir();
    let gofer_mount = u32::try_from(sources.len())?;
    sources.push(MountSource {
        source: path,
        writes: if options.flags.readonly {
            Writes::Refuse
        } else {
            Writes::Allow
        },
        devices: Default::default(),
        kernel_file_systems: Default::default(),
    });
    Ok(MountKind::Bind {
        gofer_mount,
        directory,
        overlay: OverlayKind::None,
    })
}

/// `/proc` and `/dev`, which the specification promises to every Linux container.
fn add_missing(mounts: &mut Vec<MountConfig>) {
    let has =
        |mounts: &[MountConfig], path: &[u8]| mounts.iter().any(|mount| mount.destination == path);
    let add = |path: &str, source: &str, kind, flags| MountConfig {
        destination: path.into(),
        kind,
        flags,
        source: source.into(),
        make_mount_point: true,
    };
    let mut first = Vec::new();
    if !has(mounts, b"/proc") {
        let flags = MountFlags {
            nosuid: true,
            nodev: true,
            noexec: true,
            ..Default::default()
        };
        first.push(add("/proc", "proc", MountKind::Proc, flags));
    }
    if !has(mounts, b"/dev") {
        let flags = MountFlags {
            nosuid: true,
            ..Default::default()
        };
        first.push(add("/dev", "devtmpfs", MountKind::Devtmpfs, flags));
        if !has(mounts, b"/dev/pts") {
            let flags = MountFlags {
                nosuid: true,
                noexec: true,
                ..Default::default()
            };
            let options = DevptsOptions {
                mode: Some(0o620),
                ptmx_mode: Some(0o666),
                gid: Some(5),
                ..Default::default()
            };
            first.push(add("/dev/pts", "devpts", MountKind::Devpts(options), flags));
        }
        if !has(mounts, b"/dev/shm") {
            let flags = MountFlags {
                nosuid: true,
                nodev: true,
                ..Default::default()
            };
            let options = TmpfsOptions {
                mode: Some(0o1777),
                ..Default::default()
            };
            first.push(add("/dev/shm", "shm", MountKind::Tmpfs(options), flags));
        }
    }
    // Below whatever was asked for, such as /proc/sys or /dev/foo.
    mounts.splice(0..0, first);
}
