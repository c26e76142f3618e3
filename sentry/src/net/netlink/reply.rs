//! What goes back: answers, the parts of a dump, acknowledgements.

use super::message::{HEADER, Header, Request, Writer};
use crate::errno::Errno;

pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const NLM_F_MULTI: u16 = 2;
pub const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_DUMP_FILTERED: u16 = 0x20;
/// Either bit asks for a dump.
pub const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why a request failed, with words for those who asked for them (NETLINK_EXT_ACK).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub errno: Errno,
    pub words: Option<&'static str>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        Refused { errno, words: None }
    }
}

impl Refused {
    pub fn with(errno: Errno, words: &'static str) -> Refused {
        let words = Some(words);
        Refused { errno, words }
    }
}

pub type Answer<T = ()> = std::result::Result<T, Refused>;

/// What a socket asked for with SOL_NETLINK options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// NETLINK_CAP_ACK: acknowledgements do not repeat the request.
    pub cap_ack: bool,
    /// NETLINK_EXT_ACK.
    pub ext_ack: bool,
    /// NETLINK_GET_STRICT_CHK: requests are checked wholly and their filters honoured.
    pub strict: bool,
}

/// Messages that answer a request, as far as they fit in one datagram.
pub struct Batch {
    messages: Vec<u8>,
    header: Header,
    room: usize,
    /// Keys below it were sent before.
    from: u64,
    /// The key that did not fit.
    next: Option<u64>,
    seen: u64,
}

impl Batch {
    /// Answers of a single get: whatever there is.
    pub fn single(request: &Request<'_>, port: u32) -> Batch {
        Batch::part(request, port, 0, usize::MAX).flags(0)
    }

    /// A part of a dump of about `room` bytes that goes on where the last one ended.
    pub fn part(request: &Request<'_>, port: u32, from: u64, room: usize) -> Batch {
        Batch {
            messages: Vec::new(),
            header: Header {
                kind: 0,
                flags: NLM_F_MULTI,
                seq: request.header.seq,
                port,
            },
            room,
            from,
            next: None,
            seen: 0,
        }
    }

    fn flags(mut self, flags: u16) -> Batch {
        self.header.flags = flags;
        self
    }

    /// Whether nothing of the dump was sent yet.
    pub fn is_first(&self) -> bool {
        self.from == 0
    }

    /// The table has changed since the last part (NLM_F_DUMP_INTR).
    pub fn interrupted(&mut self) {
        self.header.flags |= NLM_F_DUMP_INTR;
    }

    /// Not everything is shown: the request had a filter.
    pub fn filtered(&mut self) {
        self.header.flags |= NLM_F_DUMP_FILTERED;
    }

    /// A message of a table that stays as it is: keys count up.
    pub fn put(&mut self, kind: u16, fill: impl FnOnce(&mut Writer)) {
        self.seen += 1;
        self.put_at(self.seen, kind, fill);
    }

    /// A message with a key; keys ascend. False: no more fits.
    pub fn put_at(&mut self, key: u64, kind: u16, fill: impl FnOnce(&mut Writer)) -> bool {
        if key < self.from {
            return true;
        }
        if self.next.is_some() {
            return false;
        }
        let mut w = Writer::new(Header {
            kind,
            ..self.header
        });
        fill(&mut w);
        let message = w.finish();
        if !self.messages.is_empty() && self.messages.len() + message.len() > self.room {
            self.next = Some(key);
            return false;
        }
        self.messages.extend_from_slice(&message);
        true
    }

    /// The datagram, and where to go on.
    pub fn finish(self) -> (Vec<u8>, Option<u64>) {
        (self.messages, self.next)
    }

    /// The end of the dump.
    pub fn done(&self, result: Answer, manners: Manners) -> Vec<u8> {
        let header = Header {
            kind: NLMSG_DONE,
            ..self.header
        };
        verdict(header, result, manners, &[])
    }
}

/// NLMSG_ERROR or NLMSG_DONE: an error number, then `echo`, then what is said about it.
fn verdict(mut header: Header, result: Answer, manners: Manners, echo: &[u8]) -> Vec<u8> {
    let refused = result.err();
    let words = refused.and_then(|r| r.words).filter(|_| manners.ext_ack);
    if words.is_some() {
        header.flags |= NLM_F_ACK_TLVS;
    }
    let mut w = Writer::new(header);
    let number = refused.map_or(0, |r| -r.errno.raw());
    w.bytes(&number.to_ne_bytes());
    w.bytes(echo);
    if let Some(words) = words {
        w.attr_text(NLMSGERR_ATTR_MSG, words);
    }
    w.finish()
}

/// The acknowledgement of a request.
pub fn ack(request: &Request<'_>, port: u32, result: Answer, manners: Manners) -> Vec<u8> {
    let whole = result.is_err() && !manners.cap_ack;
    let header = Header {
        kind: NLMSG_ERROR,
        flags: if whole { 0 } else { NLM_F_CAPPED },
        seq: request.header.seq,
        port,
    };
    let echo = if whole {
        request.raw
    } else {
        &request.raw[..HEADER]
    };
    verdict(header, result, manners, echo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netlink::message::Requests;

    fn request() -> Vec<u8> {
        let header = Header {
            kind: 18,
            flags: 0x305,
            seq: 7,
            port: 0,
        };
        let mut w = Writer::new(header);
        w.bytes(&[0; 16]);
        w.finish()
    }

    #[test]
    fn a_dump_goes_on_where_it_ended() {
        let raw = request();
        let request = Request::parse(&raw).unwrap();
        let mut from = 0;
        let mut seen = Vec::new();
        let mut parts = 0;
        loop {
            let mut batch = Batch::part(&request, 1, from, 100);
            for i in 0..10u32 {
                batch.put(9, |w| w.bytes(&i.to_ne_bytes()));
            }
            let (messages, next) = batch.finish();
            seen.extend(Requests(&messages).map(|m| m.body()[0]));
            parts += 1;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(seen, (0..10).collect::<Vec<u8>>());
        assert_eq!(parts, 2);
    }

    #[test]
    fn acknowledgements_are_linuxs() {
        let raw = request();
        let request = Request::parse(&raw).unwrap();
        let manners = |cap_ack, ext_ack| Manners {
            cap_ack,
            ext_ack,
            strict: false,
        };
        let refused = Err(Refused::with(Errno::EINVAL, "no"));
        for (result, manners, len, flags) in [
            (Ok(()), manners(false, false), 36, 0x100),
            (refused, manners(false, false), 52, 0),
            (refused, manners(true, false), 36, 0x100),
            (refused, manners(true, true), 44, 0x300),
            (refused, manners(false, true), 60, 0x200),
        ] {
            let got = ack(&request, 1, result, manners);
            let got = Request::parse(&got).unwrap();
            assert_eq!((got.raw.len(), got.header.flags), (len, flags));
            let number = i32::from_ne_bytes(*got.body().first_chunk().unwrap());
            assert_eq!(number, if result.is_ok() { 0 } else { -22 });
        }
    }
}
