//! Messages and attributes as bytes (netlink(7), rtnetlink(7)).
//!
//! What comes from the guest is walked by [`Requests`] and [`Attrs`], which end where a length does
//! not fit; what goes to it is put together by [`Writer`]. Numbers are the machine's.

/// sizeof(struct nlmsghdr).
pub const HEADER: usize = 16;
/// sizeof(struct nlattr).
const ATTR: usize = 4;
/// Type of an attribute without NLA_F_NESTED and NLA_F_NET_BYTEORDER.
const TYPE_MASK: u16 = 0x3fff;

/// struct nlmsghdr without the length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub port: u32,
}

/// A message of the guest's.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub header: Header,
    /// All of it, header included.
    pub raw: &'a [u8],
}

pub fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    let bytes = data.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

pub fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

impl<'a> Request<'a> {
    /// The first message of `raw`. None if there is no whole one.
    pub fn parse(raw: &'a [u8]) -> Option<Request<'a>> {
        let len = u32_at(raw, 0)? as usize;
        let header = Header {
            kind: u16_at(raw, 4)?,
            flags: u16_at(raw, 6)?,
            seq: u32_at(raw, 8)?,
            port: u32_at(raw, 12)?,
        };
        let whole = raw.get(..len).filter(|_| len >= HEADER)?;
        Some(Request { header, raw: whole })
    }

    pub fn body(&self) -> &'a [u8] {
        &self.raw[HEADER..]
    }

    /// The attributes behind a fixed part of `len` bytes.
    pub fn attrs(&self, len: usize) -> Attrs<'a> {
        Attrs(self.body().get(len.next_multiple_of(4)..).unwrap_or(&[]))
    }
}

/// The messages of one send(2).
pub struct Requests<'a>(pub &'a [u8]);

impl<'a> Iterator for Requests<'a> {
    type Item = Request<'a>;

    fn next(&mut self) -> Option<Request<'a>> {
        let request = Request::parse(self.0)?;
        let len = request.raw.len().next_multiple_of(4);
        self.0 = self.0.get(len..).unwrap_or(&[]);
        Some(request)
    }
}

/// Attributes: type and value.
#[derive(Clone, Copy)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(ATTR..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

impl<'a> Attrs<'a> {
    /// The value of the last attribute of a type, as Linux takes it.
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.filter(|(k, _)| *k == kind).last().map(|(_, v)| v)
    }

    pub fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.find(kind)?, 0)
    }

    /// A text up to its NUL.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.find(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).ok()
    }
}

/// Puts one message together.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new(header: Header) -> Writer {
        let mut w = Writer(vec![0; 4]);
        w.bytes(&header.kind.to_ne_bytes());
        w.bytes(&header.flags.to_ne_bytes());
        w.bytes(&header.seq.to_ne_bytes());
        w.bytes(&header.port.to_ne_bytes());
        w
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A piece of the fixed part.
    pub fn bytes(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        self.value(kind, |w| w.bytes(value));
    }

    pub fn attr_u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    pub fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// A text with its NUL.
    pub fn attr_text(&mut self, kind: u16, text: &str) {
        self.value(kind, |w| {
            w.bytes(text.as_bytes());
            w.bytes(&[0]);
        });
    }

    /// An attribute of attributes, or of anything that comes in words; below 64 KiB.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Writer)) {
        self.value(kind, |w| {
            fill(w);
            w.pad();
        });
    }

    fn value(&mut self, kind: u16, fill: impl FnOnce(&mut Writer)) {
        self.pad();
        let start = self.0.len();
        self.bytes(&[0; 2]);
        self.bytes(&kind.to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// The finished message, padded for another one to follow.
    pub fn finish(mut self) -> Vec<u8> {
        self.pad();
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let header = Header {
            kind: 18,
            flags: 0x301,
            seq: 7,
            port: 9,
        };
        let mut w = Writer::new(header);
        w.bytes(&[1, 2, 3, 4]);
        w.attr_text(3, "lo");
        w.nest(1 << 15 | 26, |w| {
            w.attr_u32(1, 5);
            w.attr_u8(4, 6);
        });
        let one = w.finish();
        assert_eq!(one.len() % 4, 0);
        let two = [one.clone(), one].concat();
        assert_eq!(Requests(&two).count(), 2);
        for request in Requests(&two) {
            assert_eq!(request.header, header);
            assert_eq!(request.attrs(4).text(3), Some("lo"));
            let nested = Attrs(request.attrs(4).find(26).unwrap());
            assert_eq!(nested.u32(1), Some(5));
            assert_eq!(nested.u32(2), None);
            // Padding inside counts.
            assert_eq!(nested.0.len(), 16);
            assert_eq!(nested.find(4), Some(&[6][..]));
        }
    }

    #[test]
    fn lengths_that_do_not_fit_end_it() {
        let request = |len: u32, size: usize| {
            let mut raw = vec![0xff; size];
            raw[..4].copy_from_slice(&len.to_ne_bytes());
            raw
        };
        for (len, size) in [(15, 64), (0, 64), (65, 64), (u32::MAX, 64), (16, 15)] {
            assert!(Requests(&request(len, size)).next().is_none(), "{len}");
        }
        // The second message is cut.
        let mut raw = request(17, 24);
        assert_eq!(Requests(&raw).count(), 1);
        raw.truncate(17);
        assert_eq!(Requests(&raw).count(), 1);
        for attr in [[0, 0, 1, 0], [3, 0, 1, 0], [9, 0, 1, 0], [255, 255, 1, 0]] {
            assert_eq!(Attrs(&[&attr[..], &[0; 4]].concat()).count(), 0, "{attr:?}");
        }
        // The padding of the last one may be missing.
        assert_eq!(Attrs(&[5, 0, 1, 0, 9]).find(1), Some(&[9][..]));
    }
}
