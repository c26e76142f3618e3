//! The life cycle of OCI containers, driven against Debian's runc, which proves the cases, and against
//! this product: same commands, same results.
//!
//! Each test is one case, run on every runtime that works here ([`runtime::on_each`]). What is
//! compared is what a caller sees: exit statuses, JSON, the host's process ids, what the container's
//! programs say. Words of complaints are each runtime's own, but for those that callers look for.

mod bundle;
mod exec;
mod hooks;
mod life;
mod reports;
mod runtime;
mod terminals;
