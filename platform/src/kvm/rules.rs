//! The host calls that a Sentry makes for this platform.

use crate::common::kick::KICK_SIGNAL;
use crate::rule;
use crate::seccomp::{ArgCheck, Rule};

const KVM_RUN: u32 = 0xae80;
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const KVM_GET_FPU: u32 = 0x81a0_ae8c;
const KVM_SET_FPU: u32 = 0x41a0_ae8d;
const KVM_GET_XSAVE: u32 = 0x9000_aea4;
const KVM_SET_XSAVE: u32 = 0x5000_aea5;

const fn request(request: u32) -> ArgCheck {
    ArgCheck::eq(1, request)
}

/// What is needed once the platform and all workers were made: vCPUs are made with them.
pub fn host_calls() -> &'static [Rule] {
    const CALLS: &[Rule] = &[
        rule!(
            SYS_ioctl,
            [request(KVM_RUN)],
            "guest code runs until its next trap"
        ),
        rule!(
            SYS_ioctl,
            [request(KVM_SET_USER_MEMORY_REGION)],
            "guests get at more of the MemoryFile, or at a file of the host"
        ),
        rule!(
            SYS_ioctl,
            [request(KVM_GET_XSAVE)],
            "FP state of a guest thread that another one takes the vCPU of"
        ),
        rule!(
            SYS_ioctl,
            [request(KVM_SET_XSAVE)],
            "FP state of a guest thread that gets another vCPU"
        ),
        rule!(
            SYS_ioctl,
            [request(KVM_GET_FPU)],
            "FP state, on processors without XSAVE"
        ),
        rule!(
            SYS_ioctl,
            [request(KVM_SET_FPU)],
            "FP state, on processors without XSAVE"
        ),
        rule!(
            SYS_tgkill,
            [ArgCheck::eq(2, KICK_SIGNAL as u32)],
            "interrupts guest code"
        ),
        rule!(
            SYS_rt_sigreturn,
            "the handlers of that signal and of faults on guest memory return"
        ),
    ];
    CALLS
}
