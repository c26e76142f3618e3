//! What the platforms that hold guests in host processes (stubs) share.
//!
//! - [`changes`]: the queue of mapping changes of an address space;
//! - [`kick`]: interrupting guest code from other threads;
//! - [`regs`], [`xstate`]: register values and FP state made harmless;
//! - [`bpf`]: instructions of the stubs' filters;
//! - [`host_calls`]: how many host calls a thread has made.

pub(crate) mod bpf;
pub(crate) mod changes;
pub(crate) mod host_calls;
pub(crate) mod kick;
pub(crate) mod regs;
pub(crate) mod xstate;

pub(crate) const PAGE: u64 = 4096;
/// One past the highest user address with four-level page tables.
pub(crate) const TASK_SIZE: u64 = 0x7fff_ffff_f000;
