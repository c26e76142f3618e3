//! NETLINK_GENERIC: the controller alone, which knows no family but itself.

use super::message::{Request, u16_at};
use super::reply::{Answer, Batch, NLM_F_DUMP};
use super::{Asker, Plan};
use crate::errno::Errno;

/// GENL_ID_CTRL, which is also the type of its messages.
const CONTROLLER: u16 = 16;
/// sizeof(struct genlmsghdr).
const GENL_HEADER: usize = 4;
const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_VERSION: u16 = 3;
const CTRL_ATTR_HDRSIZE: u16 = 4;
const CTRL_ATTR_MAXATTR: u16 = 5;
const VERSION: u32 = 2;
const MAX_ATTR: u32 = 10;
const NAME: &str = "nlctrl";

pub fn plan(request: &Request<'_>) -> Answer<Plan> {
    if request.header.kind != CONTROLLER {
        return Err(Errno::ENOENT.into());
    }
    let command = request.body().first_chunk::<GENL_HEADER>();
    match command.ok_or(Errno::EINVAL)? {
        [CTRL_CMD_GETFAMILY, ..] if request.header.flags & NLM_F_DUMP != 0 => Ok(Plan::Dump(all)),
        [CTRL_CMD_GETFAMILY, ..] => Ok(Plan::Once(one)),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

fn all(_: &Asker<'_>, _: &Request<'_>, batch: &mut Batch) -> Answer {
    batch.put(CONTROLLER, |w| {
        w.bytes(&[CTRL_CMD_NEWFAMILY, VERSION as u8, 0, 0]);
        w.attr_text(CTRL_ATTR_FAMILY_NAME, NAME);
        w.attr(CTRL_ATTR_FAMILY_ID, &CONTROLLER.to_ne_bytes());
        w.attr_u32(CTRL_ATTR_VERSION, VERSION);
        w.attr_u32(CTRL_ATTR_HDRSIZE, 0);
        w.attr_u32(CTRL_ATTR_MAXATTR, MAX_ATTR);
    });
    Ok(())
}

fn one(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let attrs = request.attrs(GENL_HEADER);
    let id = attrs.find(CTRL_ATTR_FAMILY_ID).and_then(|v| u16_at(v, 0));
    match (attrs.text(CTRL_ATTR_FAMILY_NAME), id) {
        (Some(NAME), _) | (None, Some(CONTROLLER)) => all(asker, request, batch),
        (None, None) => Err(Errno::EINVAL.into()),
        _ => Err(Errno::ENOENT.into()),
    }
}
