//! RTM_GETSTATS, and what tc(8) reads: the queueing discipline of each link, which has no classes and
//! no filters.

use super::link::counters;
use super::{Answer, Asker, head};
use crate::errno::Errno;
use crate::net::interfaces::Link;
use crate::net::netlink::message::{Request, Writer};
use crate::net::netlink::reply::{Batch, Refused};
use crate::net::traffic::Counters;

const RTM_NEWSTATS: u16 = 92;
/// IFLA_STATS_*.
const IFLA_STATS_LINK_64: u16 = 1;
const IFLA_STATS_OFFLOAD: u16 = 4;
const IFLA_STATS_AF_SPEC: u16 = 5;

struct Ask {
    index: u32,
    /// Bits of IFLA_STATS_*, the first at 1 << 0.
    mask: u32,
}

fn ask(asker: &Asker<'_>, request: &Request<'_>) -> Answer<Ask> {
    let raw = head::<12>(asker, request, "Invalid header for stats dump")?;
    let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    Ok(Ask {
        index: word(4),
        mask: word(8),
    })
}

fn write(w: &mut Writer, link: &Link, mask: u32, stats: Counters) {
    const NESTED: u16 = 1 << 15;
    w.bytes(&[0; 4]);
    w.bytes(&link.index.to_ne_bytes());
    w.bytes(&mask.to_ne_bytes());
    let has = |kind: u16| mask & 1 << (kind - 1) != 0;
    if has(IFLA_STATS_LINK_64) {
        w.nest(IFLA_STATS_LINK_64, |w| {
            let all = counters(stats).into_iter();
            all.for_each(|n| w.bytes(&n.to_ne_bytes()));
        });
    }
    if has(IFLA_STATS_OFFLOAD) {
        // No hardware counts anything, nor was it asked to.
        w.nest(IFLA_STATS_OFFLOAD, |w| {
            w.nest(2 | NESTED, |w| {
                w.nest(3 | NESTED, |w| {
                    w.attr_u8(1, 0);
                    w.attr_u8(2, 0);
                });
            });
        });
    }
    if has(IFLA_STATS_AF_SPEC) {
        w.nest(IFLA_STATS_AF_SPEC, |_| {});
    }
}

pub fn dump_stats(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(asker, request)?;
    if ask.mask == 0 {
        return Err(Refused::with(
            Errno::EINVAL,
            "Filter mask must be set for stats dump",
        ));
    }
    if batch.is_first() {
        asker.stack.refresh();
    }
    for link in &asker.stack.interfaces.read().links {
        let stats = asker.stack.counters(link.index);
        batch.put(RTM_NEWSTATS, |w| write(w, link, ask.mask, stats));
    }
    Ok(())
}

pub fn get_stats(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    let ask = ask(asker, request)?;
    if ask.index == 0 || ask.mask == 0 {
        return Err(Errno::EINVAL.into());
    }
    asker.stack.refresh();
    let interfaces = asker.stack.interfaces.read();
    let link = interfaces.link(ask.index).ok_or(Errno::ENODEV)?;
    let stats = asker.stack.counters(link.index);
    batch.put(RTM_NEWSTATS, |w| write(w, link, ask.mask, stats));
    Ok(())
}

const RTM_NEWQDISC: u16 = libc::RTM_NEWQDISC;
/// TC_H_ROOT.
const ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_STATS: u16 = 3;
const TCA_STATS2: u16 = 7;
const TCA_HW_OFFLOAD: u16 = 12;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
/// sizeof(struct tc_stats), of struct gnet_stats_basic and gnet_stats_queue.
const TC_STATS: usize = 40;
const STATS_BASIC: usize = 16;
const STATS_QUEUE: usize = 20;

/// Links here have none to speak of, which Linux calls so.
pub fn dump_disciplines(asker: &Asker<'_>, request: &Request<'_>, batch: &mut Batch) -> Answer {
    head::<20>(asker, request, "Invalid header for qdisc dump request")?;
    for link in &asker.stack.interfaces.read().links {
        batch.put(RTM_NEWQDISC, |w| {
            w.bytes(&[0; 4]);
            w.bytes(&link.index.to_ne_bytes());
            w.bytes(&[0; 4]);
            w.bytes(&ROOT.to_ne_bytes());
            // References.
            w.bytes(&2_u32.to_ne_bytes());
            w.attr_text(TCA_KIND, "noqueue");
            w.attr_u8(TCA_HW_OFFLOAD, 0);
            w.nest(TCA_STATS2, |w| {
                w.attr(TCA_STATS_BASIC, &[0; STATS_BASIC]);
                w.attr(TCA_STATS_QUEUE, &[0; STATS_QUEUE]);
            });
            w.attr(TCA_STATS, &[0; TC_STATS]);
        });
    }
    Ok(())
}
