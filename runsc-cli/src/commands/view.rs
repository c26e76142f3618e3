//! What a command under `do` sees of the host: `--rw`, `--ro` and `--hide`.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use runsc_gofer::server::{MountSource, Writes};
use runsc_sentry::config::{GuestPath, MountConfig, MountFlags, MountKind, OverlayKind};

/// Trees of the host at their own places.
#[derive(Debug, Default)]
pub struct View {
    pub mounts: Vec<MountConfig>,
    pub hidden: Vec<GuestPath>,
    /// `--rw /`, `--ro /`.
    pub root: Option<Writes>,
}

impl View {
    /// The Gofer's trees are added to `sources`.
    pub fn new(
        rw: &[PathBuf],
        ro: &[PathBuf],
        hide: &[PathBuf],
        sources: &mut Vec<MountSource>,
    ) -> Result<Self> {
        let mut view = Self::default();
        let mut trees = Vec::new();
        for (option, paths, writes) in [("--rw", rw, Writes::Allow), ("--ro", ro, Writes::Refuse)] {
            for path in paths {
                let real = real(option, path)?;
                if real == Path::new("/") {
                    ensure!(view.root.is_none(), "{option}: /: given twice");
                    view.root = Some(writes);
                } else {
                    trees.push((real, writes));
                }
            }
        }
        // What lies in another one covers a part of it.
        trees.sort_by(|a, b| a.0.cmp(&b.0));
        for pair in trees.windows(2) {
            ensure!(
                pair[0].0 != pair[1].0,
                "--rw, --ro: {}: given twice",
                pair[0].0.display()
            );
        }
        for (path, writes) in trees {
            view.mounts.push(mount(&path, writes, sources)?);
        }
        for path in hide {
            let path = real("--hide", path)?;
            ensure!(path != Path::new("/"), "--hide: /: nothing would be left");
            let shown = |mount: &&MountConfig| {
                Path::new(OsStr::from_bytes(&mount.destination)).starts_with(&path)
            };
            if let Some(inner) = view.mounts.iter().find(shown) {
                let inner = String::from_utf8_lossy(&inner.destination);
                bail!(
                    "--hide: {}: it would hide {inner}, which is to be seen",
                    path.display()
                );
            }
            view.hidden.push(path.into_os_string().into_vec());
        }
        Ok(view)
    }
}

fn real(option: &str, path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("{option}: {}", path.display()))
}

fn mount(path: &Path, writes: Writes, sources: &mut Vec<MountSource>) -> Result<MountConfig> {
    let directory = fs::metadata(path)?.is_dir();
    let gofer_mount = u32::try_from(sources.len())?;
    sources.push(MountSource {
        source: path.to_path_buf(),
        writes,
        devices: Default::default(),
        kernel_file_systems: Default::default(),
    });
    let name = path.as_os_str().to_owned().into_vec();
    Ok(MountConfig {
        destination: name.clone(),
        kind: MountKind::Bind {
            gofer_mount,
            directory,
            overlay: OverlayKind::None,
        },
        flags: MountFlags {
            readonly: writes == Writes::Refuse,
            ..Default::default()
        },
        source: name,
        make_mount_point: true,
    })
}
