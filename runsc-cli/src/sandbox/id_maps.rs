//! User and group id maps of a child's user namespace.

use std::{fs, io};

use nix::unistd::{Gid, Uid};

use super::empty_root::UNPRIVILEGED_ID;

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    pub fn caller() -> Self {
        Self {
            uid: Uid::effective().as_raw(),
            gid: Gid::effective().as_raw(),
        }
    }
}

/// The ids that exist in a user namespace; all others show up as nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// The caller, under this number. More is not for an ordinary user to map.
    CallerAs(Owner),
    /// The caller and the id that the Sentry changes to, under their own numbers. For root.
    CallerAndNobody,
}

/// Writes the maps of process `pid`.
pub fn write(pid: i32, ids: Ids) -> io::Result<()> {
    let caller = Owner::caller();
    let file = |name: &str| format!("/proc/{pid}/{name}");
    let inside = match ids {
        Ids::CallerAs(owner) => owner,
        Ids::CallerAndNobody => {
            let both = |id: u32| format!("{id} {id} 1\n{UNPRIVILEGED_ID} {UNPRIVILEGED_ID} 1\n");
            match fs::write(file("uid_map"), both(caller.uid)) {
                Ok(()) => return fs::write(file("gid_map"), both(caller.gid)),
                // Not so in a container that has no such id itself. A map that was refused can be
                // written again, smaller.
                Err(_) => caller,
            }
        }
    };
    fs::write(
        file("uid_map"),
        format!("{} {} 1\n", inside.uid, caller.uid),
    )?;
    fs::write(file("setgroups"), "deny")?;
    fs::write(
        file("gid_map"),
        format!("{} {} 1\n", inside.gid, caller.gid),
    )
}
