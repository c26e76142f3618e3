//! What a Sentry finds around itself, as JSON: for tests, and for those who want to see it.

use std::{fs::File, io::Write, os::fd::OwnedFd};

use anyhow::Result;
use caps::CapSet;
use nix::{
    sys::prctl,
    unistd::{Gid, Uid, getgroups, getpid, getppid, getsid},
};
use runsc_platform::process::is_open;
use serde::Serialize;

/// Everything that should be next to nothing.
#[derive(Debug, Serialize)]
struct Surroundings {
    pid: i32,
    /// 0: the parent is outside of the pid namespace.
    parent: i32,
    session: i32,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// Names in the root directory.
    root: Vec<String>,
    /// Why no file can be made there.
    create_error: Option<String>,
    /// All sets, bounding included.
    capabilities: Vec<String>,
    no_new_privs: bool,
    dumpable: bool,
    kill_with_parent: bool,
    interfaces: Vec<String>,
    /// Numbers of open fds up to 1023.
    fds: Vec<i32>,
    hostname: String,
}

/// Writes one line of JSON.
pub fn report(to: &OwnedFd) -> Result<()> {
    let mut to = File::from(to.try_clone()?);
    let mut root = Vec::new();
    for entry in std::fs::read_dir("/")? {
        root.push(entry?.file_name().to_string_lossy().into_owned());
    }
    let mut capabilities = Vec::new();
    let sets = [
        CapSet::Bounding,
        CapSet::Permitted,
        CapSet::Effective,
        CapSet::Inheritable,
        CapSet::Ambient,
    ];
    for set in sets {
        capabilities.extend(
            caps::read(None, set)?
                .iter()
                .map(|cap| format!("{set:?} {cap}")),
        );
    }
    let interfaces = nix::net::if_::if_nameindex()?;
    let surroundings = Surroundings {
        pid: getpid().as_raw(),
        parent: getppid().as_raw(),
        session: getsid(None)?.as_raw(),
        uid: Uid::effective().as_raw(),
        gid: Gid::effective().as_raw(),
        groups: getgroups()?.into_iter().map(Gid::as_raw).collect(),
        root,
        create_error: File::create("/file").err().map(|error| error.to_string()),
        capabilities,
        no_new_privs: prctl::get_no_new_privs()?,
        dumpable: prctl::get_dumpable()?,
        kill_with_parent: prctl::get_pdeathsig()? == Some(nix::sys::signal::Signal::SIGKILL),
        interfaces: interfaces
            .iter()
            .map(|interface| interface.name().to_string_lossy().into_owned())
            .collect(),
        fds: (0..1024).filter(|fd| is_open(*fd)).collect(),
        hostname: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let mut line = serde_json::to_vec(&surroundings)?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}
