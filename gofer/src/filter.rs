//! What the Gofer may ask the host kernel for.
