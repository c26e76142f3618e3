//! Placeholder.
use std::sync::Arc; use crate::errno::{Errno,Result}; use crate::fs::mount::FileSystem; use crate::kernel::Kernel;
pub fn mount(_: &Arc<Kernel>) -> Result<Arc<FileSystem>> { Err(Errno::ENODEV) }
