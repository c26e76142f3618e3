//! FP and vector state that the host accepts, whatever it is made from.

/// Offsets in the XSAVE layout (Intel SDM vol. 1 §13.4).
pub(crate) const MXCSR: usize = 24;
pub(crate) const MXCSR_MASK: usize = 28;
pub(crate) const LEGACY: usize = 512;
pub(crate) const HEADER_END: usize = 576;
pub(crate) const AVX_END: usize = 832;
/// Software-reserved bytes: the kernel tells the feature bits it supports there.
pub(crate) const SUPPORTED: usize = 464;

pub(crate) const X87_SSE: u64 = 0b11;
pub(crate) const X87_SSE_AVX: u64 = 0b111;
/// Up to AVX-512: what needs no permission by arch_prctl(2).
pub(crate) const STATIC_FEATURES: u64 = 0xff;

/// What the host's extended state looks like: its size in bytes, uncompacted, its feature bits, and
/// the bits of MXCSR that may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XState {
    pub size: usize,
    pub features: u64,
    pub mxcsr_mask: u32,
}

impl XState {
    /// What XSAVE writes for the features that need no permission by arch_prctl(2), but for
    /// protection keys, which stubs do not switch.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of_processor() -> XState {
        const WITHOUT_PKRU: u64 = 0xff;
        // CPUID leaf 0xd: eax and edx the features, sub-leaves size and offset of each.
        let [low, _, _, high] = crate::host::cpuid(0xd, 0);
        let supported = u64::from(high) << 32 | u64::from(low);
        let features = crate::host::enabled_features() & supported & WITHOUT_PKRU;
        let mut size = HEADER_END;
        for feature in (2..8).filter(|n| features & 1 << n != 0) {
            let [len, offset, ..] = crate::host::cpuid(0xd, feature);
            size = size.max((offset + len) as usize);
        }
        XState {
            size,
            features,
            mxcsr_mask: 0xffff,
        }
    }

    /// A buffer of the host's size with nothing in it that the host refuses. What the input is too
    /// short to hold is in its initial state.
    pub(crate) fn sanitise(&self, input: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; self.size.max(HEADER_END)];
        let features = match input.len() {
            0..LEGACY => 0,
            LEGACY..HEADER_END => X87_SSE,
            HEADER_END..AVX_END => read_u64(input, LEGACY) & X87_SSE,
            len if len < self.size => read_u64(input, LEGACY) & X87_SSE_AVX,
            _ => read_u64(input, LEGACY),
        };
        if input.len() >= LEGACY {
            let len = input.len().min(bytes.len());
            bytes[..len].copy_from_slice(&input[..len]);
        }
        let mxcsr = read_u32(&bytes, MXCSR) & self.mxcsr_mask;
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
        // Header: the features in use; compaction and reserved fields zero.
        bytes[LEGACY..HEADER_END].fill(0);
        let features = features & self.features;
        bytes[LEGACY..LEGACY + 8].copy_from_slice(&features.to_le_bytes());
        bytes
    }
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: XState = XState {
        size: 2440,
        features: 0x2e7,
        mxcsr_mask: 0xffff,
    };

    #[test]
    fn hostile_headers_are_cleaned() {
        let bytes = HOST.sanitise(&vec![0xff; 4000]);
        assert_eq!(bytes.len(), 2440);
        assert_eq!(read_u64(&bytes, LEGACY), 0x2e7);
        assert!(bytes[LEGACY + 8..HEADER_END].iter().all(|&b| b == 0));
        assert_eq!(read_u32(&bytes, MXCSR), 0xffff);
    }

    #[test]
    fn short_buffers_use_only_what_they_hold() {
        let cases = [
            (0, 0),
            (100, 0),
            (512, 3),
            (576, 3),
            (832, 7),
            (2440, 0x2e7),
        ];
        for (len, features) in cases {
            let bytes = HOST.sanitise(&vec![0xff; len]);
            assert_eq!(bytes.len(), 2440);
            assert_eq!(read_u64(&bytes, LEGACY), features, "length {len}");
        }
    }
}
