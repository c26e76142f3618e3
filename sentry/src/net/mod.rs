//! Sockets.
//!
//! [`Socket`] is what the system-call layer talks to; each family has a folder that implements it
//! and a row in [`FAMILIES`]. [`Stack`] is what the sockets of one network namespace share: names,
//! interfaces, and the way out of the sandbox ([`outside`]). [`netlink`] and ioctl(2) show it.

pub mod buffer;
mod file;
mod gofer;
pub mod host;
pub mod inet;
pub mod interfaces;
mod ioctl;
pub mod netlink;
pub mod options;
pub mod outside;
pub mod socket;
mod stack;
pub mod traffic;
pub mod unix;

use std::sync::Arc;

pub use self::file::{into_file, of};
pub use self::gofer::Gofer;
pub use self::options::Options;
pub use self::socket::{Common, Connect, Kind, Name, Outgoing, Received, Socket};
pub use self::stack::Stack;
use crate::errno::{Errno, Result};
use crate::kernel::task::Task;

/// Makes a socket of a type and protocol, as socket(2) asks for it.
type Make = fn(&Task, Kind, i32) -> Result<Arc<dyn Socket>>;
/// Makes two that are connected.
type MakePair = fn(&Task, Kind, i32) -> Result<[Arc<dyn Socket>; 2]>;

/// A row of the registry.
struct Family {
    /// AF_*.
    number: i32,
    make: Make,
    /// socketpair(2), where the family has it.
    pair: Option<MakePair>,
}

/// Whatever socket(2) can make.
const FAMILIES: &[Family] = &[
    Family {
        number: libc::AF_UNIX,
        make: unix::make,
        pair: Some(unix::make_pair),
    },
    Family {
        number: libc::AF_INET,
        make: inet::make_v4,
        pair: None,
    },
    Family {
        number: libc::AF_INET6,
        make: inet::make_v6,
        pair: None,
    },
    Family {
        number: libc::AF_NETLINK,
        make: netlink::make,
        pair: None,
    },
];

fn family(number: i32) -> Result<&'static Family> {
    FAMILIES
        .iter()
        .find(|f| f.number == number)
        .ok_or(Errno::EAFNOSUPPORT)
}

/// socket(2). EAFNOSUPPORT and what the family says.
pub fn make(t: &Task, number: i32, kind: i32, protocol: i32) -> Result<Arc<dyn Socket>> {
    let kind = Kind::from_number(kind)?;
    (family(number)?.make)(t, kind, protocol)
}

/// socketpair(2). EAFNOSUPPORT, EOPNOTSUPP and what the family says.
pub fn make_pair(t: &Task, number: i32, kind: i32, protocol: i32) -> Result<[Arc<dyn Socket>; 2]> {
    let kind = Kind::from_number(kind)?;
    let family = family(number)?;
    match family.pair {
        Some(pair) => pair(t, kind, protocol),
        None => {
            // Linux makes the sockets first, whose errors are seen first.
            (family.make)(t, kind, protocol)?;
            Err(Errno::EOPNOTSUPP)
        }
    }
}
