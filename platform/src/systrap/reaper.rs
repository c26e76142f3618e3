//! The thread that waits for the deaths of stubs.
//!
//! Stubs are a process group of their own. One that dies takes its guest process with it and nobody
//! else; one that somebody stopped goes on.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::Shared;

pub(super) fn start(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let weak = Arc::downgrade(shared);
    let group = shared.template.stub().pid;
    // Starting a thread takes host calls that a Sentry's filter does not allow any more.
    let (started, start) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("reaper".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            let _ = started.send(());
            let mut status = 0;
            loop {
                let flags = libc::__WALL | libc::WUNTRACED;
                // SAFETY: `status` is valid.
                let pid = unsafe { libc::wait4(-group, &mut status, flags, std::ptr::null_mut()) };
                if pid > 0 && libc::WIFSTOPPED(status) {
                    // SAFETY: no memory is passed.
                    unsafe { libc::kill(pid, libc::SIGCONT) };
                } else if pid > 0 {
                    match weak.upgrade() {
                        Some(shared) => shared.reaped(pid),
                        None => return,
                    }
                } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return;
                }
            }
        })?;
    let _ = start.recv();
    Ok(thread)
}
