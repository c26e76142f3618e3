//! User and group id maps of a child's user namespace.

use std::{fs, io};

use nix::unistd::{Gid, Uid};

use super::empty_root::UNPRIVILEGED_ID;

/// Writes the maps of process `pid`. An ordinary user can map only itself, to the same number. Root
/// also maps the id that the Sentry then changes to, where it may (not so in a container that has
/// only one id itself).
pub fn write(pid: i32, privileged: bool) -> io::Result<()> {
    let uid = Uid::effective().as_raw();
    let gid = Gid::effective().as_raw();
    let file = |name: &str| format!("/proc/{pid}/{name}");
    let single = |id: u32| format!("{id} {id} 1\n");
    if privileged {
        let both = |id: u32| format!("{id} {id} 1\n{UNPRIVILEGED_ID} {UNPRIVILEGED_ID} 1\n");
        let done = fs::write(file("uid_map"), both(uid))
            .and_then(|()| fs::write(file("gid_map"), both(gid)));
        if done.is_ok() {
            return Ok(());
        }
        // A map is written once or not at all; what was refused can be tried again smaller.
    }
    match fs::write(file("uid_map"), single(uid)) {
        Err(error) if !privileged || error.raw_os_error() != Some(libc::EPERM) => {
            return Err(error);
        }
        _ => {}
    }
    fs::write(file("setgroups"), "deny")?;
    fs::write(file("gid_map"), single(gid))
}
