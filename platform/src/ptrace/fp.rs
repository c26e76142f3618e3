//! FP and vector state by ptrace(2).

use std::io;

use super::sys;
use crate::arch::FpState;
use crate::common::xstate::{
    LEGACY, MXCSR_MASK, STATIC_FEATURES, SUPPORTED, XState, read_u32, read_u64,
};

impl XState {
    /// Learns it from a stopped tracee.
    pub fn probe(tid: i32) -> io::Result<XState> {
        let mut buffer = vec![0; 1 << 16];
        let size = sys::get_xstate(tid, &mut buffer)?;
        let mxcsr_mask = match read_u32(&buffer, MXCSR_MASK) {
            0 => 0xffbf,
            mask => mask,
        };
        Ok(XState {
            size,
            features: read_u64(&buffer, SUPPORTED),
            mxcsr_mask,
        })
    }

    pub fn get(&self, tid: i32) -> io::Result<FpState> {
        let mut buffer = vec![0; self.size];
        let size = sys::get_xstate(tid, &mut buffer)?;
        buffer.truncate(size);
        Ok(FpState::from_bytes(buffer))
    }

    pub fn set(&self, tid: i32, state: &FpState) -> io::Result<()> {
        let mut bytes = self.sanitise(state.as_bytes());
        match sys::set_xstate(tid, &bytes) {
            // A feature that this process has no permission for.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let features = read_u64(&bytes, LEGACY) & STATIC_FEATURES;
                bytes[LEGACY..LEGACY + 8].copy_from_slice(&features.to_le_bytes());
                sys::set_xstate(tid, &bytes)
            }
            result => result,
        }
    }
}
