//! Sockets inside the sandbox.
