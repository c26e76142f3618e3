//! The cases, one module a family.
//!
//! Each module has a table `CASES`; [`all`] puts them together. What a case may count on
//! stands in [`crate::case`].

use crate::case::Case;

mod attrs;
mod creds;
mod crowds;
mod datagrams;
mod devices;
mod events;
mod exceptions;
mod exclusive;
mod exec;
mod faults;
mod filesystems;
mod futexes;
mod inodes;
mod inotifies;
mod io;
mod locks;
mod memfds;
mod memory;
mod mqueues;
mod netdevices;
mod netgroups;
mod netlinks;
mod netsettings;
mod open;
mod paths;
mod pipes;
mod ports;
mod process;
mod procfs;
mod procnet;
mod sched;
mod seccomp;
mod sigio;
mod signals;
mod sockcalls;
mod sockets;
mod sysv;
mod tcp;
mod tcptimes;
mod times;
mod udp;
mod unixfds;
mod unotify;
mod waits;

/// Every case, family by family.
pub fn all() -> impl Iterator<Item = &'static Case> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

static FAMILIES: &[&[Case]] = &[
    attrs::CASES,
    creds::CASES,
    datagrams::CASES,
    crowds::CASES,
    devices::CASES,
    events::CASES,
    #[cfg(target_arch = "x86_64")]
    exceptions::CASES,
    exclusive::CASES,
    exec::CASES,
    faults::CASES,
    filesystems::CASES,
    futexes::CASES,
    inodes::CASES,
    inotifies::CASES,
    io::CASES,
    locks::CASES,
    memfds::CASES,
    memory::CASES,
    mqueues::CASES,
    netdevices::CASES,
    netgroups::CASES,
    netlinks::CASES,
    netsettings::CASES,
    open::CASES,
    paths::CASES,
    pipes::CASES,
    ports::CASES,
    process::CASES,
    procfs::CASES,
    procnet::CASES,
    sched::CASES,
    seccomp::CASES,
    sigio::CASES,
    signals::CASES,
    sockcalls::CASES,
    sockets::CASES,
    sysv::CASES,
    tcp::CASES,
    tcptimes::CASES,
    times::CASES,
    udp::CASES,
    unixfds::CASES,
    unotify::CASES,
    waits::CASES,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut seen = HashSet::new();
        for case in all() {
            assert!(seen.insert(case.name), "{} stands twice", case.name);
            let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c);
            assert!(case.name.chars().all(ok), "{}: odd character", case.name);
            assert!(
                case.name.split('.').count() == 2,
                "{}: want family.what",
                case.name
            );
            assert!(
                case.man.ends_with(')') && case.man.contains('('),
                "{}",
                case.man
            );
            assert!(
                !case.promise.is_empty() && !case.promise.contains('\n'),
                "{}",
                case.name
            );
        }
        assert!(seen.len() >= 200, "only {} cases", seen.len());
    }
}
