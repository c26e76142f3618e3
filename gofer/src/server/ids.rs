//! Ids as the guest sees them, where the Gofer's user namespace cannot have them so.
//!
//! A namespace shows all ids that it does not map as one, the overflow id. A guest whose user has
//! that very id would take everybody's files for its own. For such a guest the namespace maps the
//! user under another id, and here both are exchanged for what the guest is to see.
//!
//! Set once, before the process serves: a Gofer has one guest.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// /proc/sys/kernel/overflowuid and overflowgid, as they are on every distribution.
pub const OVERFLOW: u32 = 65534;
/// What files of unmapped owners show instead: an id that nobody has.
pub const OTHERS: u32 = 65533;

/// The user's ids in the Gofer's namespace, where they are not what the guest is to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disguise {
    /// Shown as [`OVERFLOW`].
    pub uid: Option<u32>,
    /// Likewise.
    pub gid: Option<u32>,
}

static DISGUISE: OnceLock<Disguise> = OnceLock::new();

/// Only the first call counts.
pub(super) fn set(disguise: Disguise) {
    let _ = DISGUISE.set(disguise);
}

fn disguise() -> Disguise {
    DISGUISE.get().copied().unwrap_or_default()
}

fn shown(id: u32, own: Option<u32>) -> u32 {
    match own {
        Some(own) if id == own => OVERFLOW,
        Some(_) if id == OVERFLOW => OTHERS,
        _ => id,
    }
}

/// The namespace's id for one that the guest names; others' is none that could be given.
fn meant(id: u32, own: Option<u32>) -> u32 {
    match own {
        Some(own) if id == OVERFLOW => own,
        Some(own) if id == own => OTHERS,
        _ => id,
    }
}

pub(super) fn shown_uid(id: u32) -> u32 {
    shown(id, disguise().uid)
}

pub(super) fn shown_gid(id: u32) -> u32 {
    shown(id, disguise().gid)
}

pub(super) fn meant_uid(id: u32) -> u32 {
    meant(id, disguise().uid)
}

pub(super) fn meant_gid(id: u32) -> u32 {
    meant(id, disguise().gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_and_others_ids_are_told_apart() {
        let own = Some(0);
        assert_eq!(
            [0, OVERFLOW, 7].map(|id| shown(id, own)),
            [OVERFLOW, OTHERS, 7]
        );
        assert_eq!(
            [OVERFLOW, 0, OTHERS].map(|id| meant(id, own)),
            [0, OTHERS, OTHERS]
        );
        assert_eq!([0, OVERFLOW].map(|id| shown(id, None)), [0, OVERFLOW]);
        assert_eq!([0, OVERFLOW].map(|id| meant(id, None)), [0, OVERFLOW]);
    }
}
