//! `linux.namespaces`, `linux.uidMappings` and `linux.gidMappings`.
//!
//! A guest always has namespaces of its own, since they are the Sentry's; of those that exist on the host
//! only a network namespace can be joined, which the network Gofer lives in. Containers of a pod get the
//! ipc and uts namespaces of the first one as well: they work without, since /dev/shm is a mount. Who asks
//! for another's processes, mounts or users would not. Ids are the Sentry's own as well: a mapping says
//! which ids of the host the container's files have. Without an entry for it a container shares the
//! host's, as far as it can be seen: its network, and its name.

use std::collections::HashSet;

use anyhow::{Result, bail, ensure};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType as Type};

use crate::sandbox::{IdRange, Mappings};

/// Most lines of a map (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// Checks what is asked for.
pub fn check(linux: &Linux) -> Result<()> {
    let mut seen = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        let typ = namespace.typ();
        ensure!(
            seen.insert(typ as u32),
            "linux.namespaces: {typ}: given twice"
        );
        let Some(path) = namespace.path().as_ref().map(|path| path.display()) else {
            continue;
        };
        match typ {
            Type::Network | Type::Ipc | Type::Uts | Type::Cgroup => {}
            _ => bail!("linux.namespaces: {typ}: {path}: cannot be joined"),
        }
    }
    Ok(())
}

/// Those of the host's, or of another container's, that this one is to share and does not, where any are
/// told apart.
pub fn without_effect(linux: &Linux) -> impl Iterator<Item = String> {
    let joined = linux.namespaces().iter().flatten().filter_map(|namespace| {
        let path = namespace.path().as_ref()?.display();
        let typ = namespace.typ();
        (typ != Type::Network)
            .then(|| format!("linux.namespaces: {typ}: {path} (the guest has one of its own)"))
    });
    let shared = [Type::Pid, Type::Ipc]
        .into_iter()
        .filter(|typ| shares(linux, *typ));
    let shared =
        shared.map(|typ| format!("linux.namespaces: no {typ} (the guest has one of its own)"));
    joined.chain(shared)
}

/// Whether the configuration has namespaces, but none of this type.
pub fn shares(linux: &Linux, typ: Type) -> bool {
    let given = linux.namespaces().as_deref().unwrap_or_default();
    !given.is_empty() && given.iter().all(|namespace| namespace.typ() != typ)
}

/// The mappings, if there are any.
pub fn mappings(linux: &Linux) -> Result<Option<Mappings>> {
    let uids = ranges(linux.uid_mappings().as_deref(), "linux.uidMappings")?;
    let gids = ranges(linux.gid_mappings().as_deref(), "linux.gidMappings")?;
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(Mappings { uids, gids })),
        (true, false) => bail!("linux.uidMappings: missing, with linux.gidMappings"),
        (false, true) => bail!("linux.gidMappings: missing, with linux.uidMappings"),
    }
}

fn ranges(given: Option<&[LinuxIdMapping]>, section: &str) -> Result<Vec<IdRange>> {
    let given = given.unwrap_or_default();
    ensure!(
        given.len() <= MAX_RANGES,
        "{section}: more than {MAX_RANGES} ranges"
    );
    let mut ranges = Vec::with_capacity(given.len());
    for mapping in given {
        let range = IdRange {
            inside: mapping.container_id(),
            outside: mapping.host_id(),
            count: mapping.size(),
        };
        let fits = |start: u32| start.checked_add(range.count).is_some();
        ensure!(
            range.count > 0 && fits(range.inside) && fits(range.outside),
            "{section}: {} ids from {}: out of range",
            range.count,
            range.inside
        );
        ranges.push(range);
    }
    ensure!(
        ranges.is_empty() || ranges.iter().any(|range| range.inside == 0),
        "{section}: the container's root is not mapped"
    );
    Ok(ranges)
}
