//! What depends on the processor: registers and FP state of a guest thread.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{FpState, Registers};
