//! Which hierarchies of control groups this machine has, and where a container's group lies in them.
//!
//! cgroup v1 has a hierarchy for each controller (or a few together) and named ones without any, v2
//! ("unified") has one for all, and the hybrid layout has both, the controllers with v1. All three
//! are the same here: a list of [`Hierarchy`], each with the controllers that can be set there.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Controllers of v1, as in `/proc/self/cgroup`; those available, of v2.
    pub controllers: Vec<String>,
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The group of this process in it, from `mount` on, without a slash in front.
    pub own: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    V1,
    V2,
}

/// What `/proc/self/mountinfo` and `/proc/self/cgroup` say about this process.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
    let mut found = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    for hierarchy in &mut found {
        if hierarchy.version == Version::V2 {
            let path = hierarchy.mount.join("cgroup.controllers");
            let names = fs::read_to_string(path).unwrap_or_default();
            hierarchy.controllers = names.split_whitespace().map(String::from).collect();
        }
    }
    Ok(found)
}

/// The same from the two files' text; the controllers of v2 are not in them.
fn parse(mountinfo: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        // ID PARENT MAJ:MIN ROOT MOUNT-POINT OPTIONS [TAG]... - TYPE SOURCE SUPER-OPTIONS
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount)) = (left.next(), left.next()) else {
            continue;
        };
        let mut right = right.split(' ');
        let version = match right.next() {
            Some("cgroup") => Version::V1,
            Some("cgroup2") => Version::V2,
            _ => continue,
        };
        let options: Vec<&str> = right.nth(1).unwrap_or_default().split(',').collect();
        for entry in own.lines() {
            // NUMBER:CONTROLLERS:PATH
            let mut fields = entry.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let names: Vec<&str> = controllers.split(',').filter(|c| !c.is_empty()).collect();
            let same = match version {
                Version::V1 => !names.is_empty() && names.iter().all(|c| options.contains(c)),
                Version::V2 => names.is_empty(),
            };
            let hierarchy = Hierarchy {
                controllers: names.into_iter().map(String::from).collect(),
                version,
                mount: PathBuf::from(unescape(mount)),
                own: below(Path::new(&unescape(root)), Path::new(path)),
            };
            // What is mounted twice counts once.
            let known = found
                .iter()
                .any(|h| h.version == version && h.controllers == hierarchy.controllers);
            if same && !known {
                found.push(hierarchy);
            }
        }
    }
    found
}

/// `path` as it is seen under a mount whose root is `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    let rest = path.strip_prefix(root).unwrap_or(path);
    rest.strip_prefix("/").unwrap_or(rest).to_path_buf()
}

/// Spaces and the like are octal in mountinfo.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(code.into());
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// How `linux.cgroupsPath` is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// From the root of each hierarchy.
    Absolute(PathBuf),
    /// Beside or below the group of this process.
    Relative(PathBuf),
}

impl Place {
    /// `asked` is `linux.cgroupsPath`, `id` names the group without it; `systemd` expects
    /// `SLICE:PREFIX:NAME` and gives the directories that systemd would make for it.
    pub fn new(asked: Option<&Path>, id: &str, systemd: bool) -> Result<Self> {
        let place = match asked {
            Some(path) if systemd => {
                let text = path.to_str().context("not UTF-8")?;
                Self::Absolute(systemd_path(text)?)
            }
            None if systemd => {
                Self::Absolute(systemd_path(&format!("system.slice:runsc-rs:{id}"))?)
            }
            Some(path) if path.is_absolute() => Self::Absolute(clean(path)),
            Some(path) => Self::Relative(clean(path)),
            None => Self::Relative(id.into()),
        };
        let (Self::Absolute(path) | Self::Relative(path)) = &place;
        ensure!(
            !path.as_os_str().is_empty(),
            "must name a group below the root"
        );
        ensure!(
            !path.as_os_str().as_encoded_bytes().contains(&0),
            "holds a NUL byte"
        );
        Ok(place)
    }

    /// The group's directory in `hierarchy`.
    pub fn within(&self, hierarchy: &Hierarchy) -> PathBuf {
        let path = match (self, hierarchy.version) {
            (Self::Absolute(path), _) => path.clone(),
            (Self::Relative(path), Version::V1) => hierarchy.own.join(path),
            // A group of v2 that has processes passes no controllers on, and ours has one.
            (Self::Relative(path), Version::V2) => match hierarchy.own.parent() {
                Some(parent) => parent.join(path),
                None => path.clone(),
            },
        };
        hierarchy.mount.join(path)
    }
}

/// Without `.`, `..` and a slash in front: never out of the hierarchy.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// `SLICE:PREFIX:NAME` as the path of a scope: a slice lies in those that its name begins with.
fn systemd_path(text: &str) -> Result<PathBuf> {
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        bail!("{text:?}: must be SLICE:PREFIX:NAME with --systemd-cgroup");
    };
    ensure!(!name.is_empty(), "{text:?}: NAME is empty");
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let mut path = PathBuf::new();
    if slice != "-.slice" {
        let stem = slice
            .strip_suffix(".slice")
            .with_context(|| format!("{slice:?}: not a slice"))?;
        ensure!(
            !stem.contains('/') && stem.split('-').all(|part| !part.is_empty()),
            "{slice:?}: not a slice"
        );
        let ends = stem.match_indices('-').map(|(at, _)| at);
        for end in ends.chain([stem.len()]) {
            path.push(format!("{}.slice", &stem[..end]));
        }
    }
    let unit = match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    };
    ensure!(!unit.contains('/'), "{text:?}: not the name of a unit");
    path.push(unit);
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 /inner /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        42 31 0:38 / /again rw - cgroup2 cgroup2 rw\n";
    const OWN: &str = "\
        9:name=systemd:/user.slice\n4:memory:/inner/own\n1:cpu,cpuacct:/\n0::/scope\n";

    #[test]
    fn the_hybrid_layout() {
        let found = parse(HYBRID, OWN);
        let seen: Vec<_> = found
            .iter()
            .map(|h| {
                (
                    h.controllers.join(","),
                    h.version,
                    h.mount.to_str().unwrap(),
                    h.own.to_str().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("cpu,cpuacct", Version::V1, "/sys/fs/cgroup/cpu,cpuacct", ""),
            ("memory", Version::V1, "/sys/fs/cgroup/mem ory", "own"),
            (
                "name=systemd",
                Version::V1,
                "/sys/fs/cgroup/systemd",
                "user.slice",
            ),
            ("", Version::V2, "/sys/fs/cgroup/unified", "scope"),
        ]
        .map(|(names, version, mount, own)| (names.to_owned(), version, mount, own));
        assert_eq!(seen, expected);
    }

    #[test]
    fn where_the_group_lies() {
        let found = parse(HYBRID, OWN);
        let [_, memory, _, unified] = &found[..] else {
            panic!("{found:?}");
        };
        let place = |path: &str| Place::new(Some(Path::new(path)), "c", false).unwrap();
        let at = |place: &Place, h: &Hierarchy| place.within(h).to_str().unwrap().to_owned();
        let absolute = place("/docker/../../x/./c");
        assert_eq!(at(&absolute, memory), "/sys/fs/cgroup/mem ory/x/c");
        assert_eq!(at(&absolute, unified), "/sys/fs/cgroup/unified/x/c");
        let own = Place::new(None, "c", false).unwrap();
        assert_eq!(at(&own, memory), "/sys/fs/cgroup/mem ory/own/c");
        assert_eq!(at(&own, unified), "/sys/fs/cgroup/unified/c");
        for bad in ["/", "..", "a/..", "", "/a\0b"] {
            assert!(
                Place::new(Some(Path::new(bad)), "c", false).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn names_of_systemd() {
        let cases = [
            (
                "a-b-c.slice:docker:x",
                "a.slice/a-b.slice/a-b-c.slice/docker-x.scope",
            ),
            (":p:x", "system.slice/p-x.scope"),
            ("-.slice::x", "x.scope"),
            ("m.slice:p:inner.slice", "m.slice/inner.slice"),
        ];
        for (text, path) in cases {
            let place = Place::new(Some(Path::new(text)), "c", true).unwrap();
            assert_eq!(place, Place::Absolute(path.into()), "{text}");
        }
        for bad in [
            "/docker/x",
            "a.slice:p",
            "a:p:x",
            "a--b.slice:p:x",
            "a.slice:p:",
            "a.slice:p:x/y",
        ] {
            assert!(
                Place::new(Some(Path::new(bad)), "c", true).is_err(),
                "{bad}"
            );
        }
    }
}
