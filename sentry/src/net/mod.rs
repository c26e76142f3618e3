//! Sockets inside the sandbox. Deliberately absent: any family that reaches a network.

pub mod unix;
