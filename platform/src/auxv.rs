//! What the host kernel told this process about the machine (getauxval(3)).

/// The value of an AT_* entry of the Sentry's own auxiliary vector; 0 if there is none.
pub fn auxval(kind: u64) -> u64 {
    // SAFETY: getauxval takes any number and touches only memory that libc set up at start.
    unsafe { libc::getauxval(kind) }
}
