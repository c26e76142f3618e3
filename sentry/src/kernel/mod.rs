//! Kernel objects: tasks, thread groups, signals, futexes, timers, credentials, wait queues.

pub mod cred;
pub mod task;
pub mod time;
pub mod wait;
