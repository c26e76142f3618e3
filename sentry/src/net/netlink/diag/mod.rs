//! NETLINK_SOCK_DIAG (sock_diag(7)): the sockets of the stack, as ss(8) asks for them.

mod filter;
mod inet;
mod unix;

use super::message::Request;
use super::reply::{Answer, NLM_F_DUMP};
use super::{Asker, Plan};
use crate::errno::Errno;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

pub fn plan(asker: &Asker<'_>, request: &Request<'_>) -> Answer<Plan> {
    match request.header.kind {
        SOCK_DIAG_BY_FAMILY => {}
        SOCK_DESTROY => {
            asker.admin()?;
            return Err(Errno::EOPNOTSUPP.into());
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    let [family, _, ..] = request.body() else {
        return Err(Errno::EINVAL.into());
    };
    let dump = request.header.flags & NLM_F_DUMP != 0;
    match i32::from(*family) {
        libc::AF_INET | libc::AF_INET6 => {
            inet::check(request)?;
            Ok(if dump {
                Plan::Dump(inet::dump)
            } else {
                Plan::Once(inet::get)
            })
        }
        libc::AF_UNIX => {
            unix::check(request)?;
            Ok(if dump {
                Plan::Dump(unix::dump)
            } else {
                Plan::Once(unix::get)
            })
        }
        // AF_MAX
        0..46 => Err(Errno::ENOENT.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}
