//! Placeholder.
use crate::errno::{Errno, Result};
use crate::fs::mount::FileSystem;
use crate::kernel::Kernel;
use std::sync::Arc;
pub fn mount(_: &Arc<Kernel>) -> Result<Arc<FileSystem>> {
    Err(Errno::ENODEV)
}
