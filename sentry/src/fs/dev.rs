//! Placeholder.
use std::sync::Arc; use crate::errno::{Errno,Result}; use crate::fs::mount::FileSystem; use crate::kernel::Kernel;
pub fn mount(_: &Arc<Kernel>) -> Result<Arc<FileSystem>> { Err(Errno::ENODEV) }
pub fn open(_: &crate::kernel::task::Task, _: crate::fs::open::Special) -> Result<Arc<crate::fs::file::File>> { Err(Errno::ENXIO) }
