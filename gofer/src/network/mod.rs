//! The network Gofer: the process that makes the sandbox's sockets to the outside.
//!
//! It lives in the network namespace of the container, and nowhere else. The Sentry, which can make
//! no socket, asks it for one: [`client::Client`] is the Sentry's end, [`server::run`] the whole life
//! of the process, [`protocol`] what both agree on. Data never passes through it: the socket's fd
//! goes to the Sentry, which reads, writes and polls it.
//!
//! It keeps nothing for the Sentry: who wants something done to a socket sends the fd along. So there
//! is no handle to leak or to forge, and nothing to run out of. What may be made and set is in
//! [`options`], and once more in its seccomp filter, [`filter()`].
//!
//! Deliberately absent: raw and packet sockets, other families than IP, any change of interfaces,
//! addresses, routes or packet filters. [`raise_loopback`] is for whoever makes a namespace.

pub mod client;
mod filter;
mod frame;
mod loopback;
pub mod options;
pub mod protocol;
pub mod server;
mod sys;
mod view;

pub use client::Client;
pub use filter::filter;
pub use loopback::raise_loopback;
pub use protocol::*;
