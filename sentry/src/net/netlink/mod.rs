//! AF_NETLINK (netlink(7)): what programs ask about the network, answered from plain data.
//!
//! A [`Netlink`] is a queue of datagrams towards the guest. What it sends is taken apart
//! ([`message`]) and answered at once by the protocol: [`route`] from the stack's interfaces,
//! [`diag`] from its sockets, [`generic`] (no families), or silence (kernel events). A dump is made
//! piece by piece as the guest reads, so that however long a table is, one datagram of it exists.
//!
//! Who is in a multicast group is told what changes ([`tell`]): interfaces as [`route`] presents them,
//! and what other sockets of the guest's send to a group.
//!
//! Deliberately absent: protocols of parts that the sandbox does not have (netfilter, audit, crypto).

mod diag;
mod generic;
mod message;
mod ports;
mod queue;
mod reply;
mod route;
mod socket;

pub use self::ports::Ports;
pub use self::route::changes::{Cause, tell as tell_changes};
pub use self::socket::{Netlink, make};

use std::sync::Arc;

use self::message::Request;
use self::reply::{Answer, Batch, Manners};
use super::stack::Stack;
use crate::errno::Errno;
use crate::kernel::cred::Cap;
use crate::kernel::task::Task;

/// What a request is answered with.
struct Asker<'a> {
    task: &'a Task,
    stack: &'a Arc<Stack>,
    /// The socket's port.
    port: u32,
    manners: Manners,
}

impl Asker<'_> {
    /// # Errors
    /// EPERM without CAP_NET_ADMIN.
    fn admin(&self) -> Answer {
        if self.task.has_cap(Cap::NetAdmin) {
            Ok(())
        } else {
            Err(Errno::EPERM.into())
        }
    }
}

/// Sends a message to all who are in a multicast group, but neither to its sender nor to one that
/// gets it anyway.
fn tell(stack: &Stack, protocol: i32, group: u32, from: u32, except: u32, data: &[u8]) {
    let listeners = stack.netlink_ports.lock().listeners(protocol);
    for socket in listeners {
        socket.hear(from, group, except, data);
    }
}

type Handler = fn(&Asker<'_>, &Request<'_>, &mut Batch) -> Answer;

/// How a request is answered.
#[derive(Clone, Copy)]
enum Plan {
    /// One answer, or a change.
    Once(Handler),
    /// A table, in parts.
    Dump(Handler),
    /// Nothing to do.
    Nothing,
}

/// What a protocol makes of a request.
fn plan(protocol: i32, asker: &Asker<'_>, request: &Request<'_>) -> Answer<Plan> {
    match protocol {
        libc::NETLINK_ROUTE => route::plan(asker, request),
        libc::NETLINK_SOCK_DIAG => diag::plan(asker, request),
        libc::NETLINK_GENERIC => generic::plan(request),
        _ => Ok(Plan::Nothing),
    }
}
