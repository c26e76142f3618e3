//! User and group id maps of a child's user namespace.
//!
//! An ordinary user maps one id of his own, or, with newuidmap(1) and newgidmap(1), those that
//! subuid(5) and subgid(5) give him as well. Root maps what the configuration says.

use std::{
    fmt::Write,
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use nix::unistd::{Gid, Uid, User};
use runsc_gofer::server::ids::{Disguise, OVERFLOW};
use serde::{Deserialize, Serialize};

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

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// Which ids of the host the container's are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

impl Mappings {
    /// The caller as root and the ids that are his to give away behind it, if there are any and the
    /// programs that map them.
    pub fn subordinate() -> Option<Self> {
        let caller = Owner::caller();
        let name = User::from_uid(Uid::from_raw(caller.uid)).ok()??.name;
        if helper("newuidmap").is_none() || helper("newgidmap").is_none() {
            return None;
        }
        let ranges = |file: &str, own: u32| {
            let text = fs::read_to_string(file).ok()?;
            subordinate_ranges(&text, &name, caller.uid, own)
        };
        Some(Self {
            uids: ranges("/etc/subuid", caller.uid)?,
            gids: ranges("/etc/subgid", caller.gid)?,
        })
    }

    /// Only the caller himself, which takes no help.
    fn single(&self) -> Option<Owner> {
        let caller = Owner::caller();
        match (&self.uids[..], &self.gids[..]) {
            ([uid], [gid])
                if (uid.count, gid.count) == (1, 1)
                    && (uid.outside, gid.outside) == (caller.uid, caller.gid) =>
            {
                Some(Owner {
                    uid: uid.inside,
                    gid: gid.inside,
                })
            }
            _ => None,
        }
    }
}

/// `own` as 0, then all ranges of the user, one behind the other.
fn subordinate_ranges(text: &str, name: &str, uid: u32, own: u32) -> Option<Vec<IdRange>> {
    let mut ranges = vec![IdRange {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut inside = 1u32;
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(who), Some(start), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (Ok(outside), Ok(count)) = (start.parse::<u32>(), count.parse::<u32>()) else {
            continue;
        };
        let mine = who == name || who.parse() == Ok(uid);
        let (Some(next), Some(_)) = (inside.checked_add(count), outside.checked_add(count)) else {
            continue;
        };
        if mine && count > 0 {
            ranges.push(IdRange {
                inside,
                outside,
                count,
            });
            inside = next;
        }
    }
    (ranges.len() > 1).then_some(ranges)
}

/// Where a program lies that may map ids for us; never in a directory of the caller's choice.
fn helper(name: &str) -> Option<String> {
    let mut paths = ["/usr/bin", "/usr/local/bin", "/bin"].map(|dir| format!("{dir}/{name}"));
    let found = paths.iter_mut().find(|path| Path::new(path).exists())?;
    Some(std::mem::take(found))
}

/// The ids that exist in a user namespace; all others show up as nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// The caller, under this number. More is not for an ordinary user to map without help.
    CallerAs(Owner),
    /// The caller and the id that the Sentry changes to, under their own numbers. For root.
    CallerAndNobody,
    /// By the configuration.
    Mapped(Mappings),
}

impl Ids {
    /// For the Gofer of an ordinary user, whose files `owner` is to own inside. Where that is the
    /// id that all unmapped ones show up as, the Gofer exchanges them.
    pub fn of_owner(owner: Owner) -> (Self, Disguise) {
        let other = |id: u32| if id == OVERFLOW { 0 } else { id };
        let disguised = |id: u32| (id == OVERFLOW).then(|| other(id));
        let inside = Owner {
            uid: other(owner.uid),
            gid: other(owner.gid),
        };
        let disguise = Disguise {
            uid: disguised(owner.uid),
            gid: disguised(owner.gid),
        };
        (Self::CallerAs(inside), disguise)
    }
}

/// Writes the maps of process `pid`.
pub fn write(pid: i32, ids: &Ids) -> io::Result<()> {
    let caller = Owner::caller();
    let file = |name: &str| format!("/proc/{pid}/{name}");
    let inside = match ids {
        Ids::CallerAs(owner) => *owner,
        Ids::CallerAndNobody => {
            let both = |id: u32| format!("{id} {id} 1\n{UNPRIVILEGED_ID} {UNPRIVILEGED_ID} 1\n");
            match fs::write(file("uid_map"), both(caller.uid)) {
                Ok(()) => return fs::write(file("gid_map"), both(caller.gid)),
                // Not so in a container that has no such id itself. A map that was refused can be
                // written again, smaller.
                Err(_) => caller,
            }
        }
        Ids::Mapped(mappings) => match mappings.single() {
            Some(owner) if !caller_is_root() => owner,
            _ => return write_all(pid, mappings),
        },
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

fn caller_is_root() -> bool {
    Uid::effective().is_root()
}

fn write_all(pid: i32, mappings: &Mappings) -> io::Result<()> {
    for (map, program, ranges) in [
        ("uid_map", "newuidmap", &mappings.uids),
        ("gid_map", "newgidmap", &mappings.gids),
    ] {
        if caller_is_root() {
            let mut text = String::new();
            for range in ranges {
                let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
            }
            fs::write(format!("/proc/{pid}/{map}"), text)?;
        } else {
            map_with_help(pid, program, ranges)?;
        }
    }
    Ok(())
}

fn map_with_help(pid: i32, program: &str, ranges: &[IdRange]) -> io::Result<()> {
    let error = |text: String| io::Error::other(text);
    let path = helper(program)
        .ok_or_else(|| error(format!("{program} is not installed (Debian: uidmap)")))?;
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count]);
    let output = Command::new(path)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .env_clear()
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(error(said.lines().next().unwrap_or(program).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_follow_the_own_one() {
        let text = "other:1:2\nme:100000:65536\n1000:300000:10\nbad\nme:x:1\nme:4294967295:9\n";
        let range = |inside, outside, count| IdRange {
            inside,
            outside,
            count,
        };
        let found = subordinate_ranges(text, "me", 1000, 7).unwrap();
        let expected = [
            range(0, 7, 1),
            range(1, 100_000, 65536),
            range(65537, 300_000, 10),
        ];
        assert_eq!(found, expected);
        assert_eq!(subordinate_ranges(text, "nobody-else", 1, 7), None);
    }

    #[test]
    fn who_is_nobody_is_disguised() {
        let owner = |uid, gid| Owner { uid, gid };
        let plain = (Ids::CallerAs(owner(1000, 1000)), Disguise::default());
        assert_eq!(Ids::of_owner(owner(1000, 1000)), plain);
        let (ids, disguise) = Ids::of_owner(owner(OVERFLOW, 100));
        assert_eq!(ids, Ids::CallerAs(owner(0, 100)));
        assert_eq!((disguise.uid, disguise.gid), (Some(0), None));
    }
}
