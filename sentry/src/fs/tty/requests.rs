//! ioctl_tty(2) on pseudo-terminals.

use std::sync::Arc;

use super::job;
use super::line::{TERMIOS_LEN, Termios, WINSIZE_LEN};
use super::pty::Pty;
use crate::errno::{Errno, Result};
use crate::kernel::signal::Signal;
use crate::kernel::task::Task;
use crate::kernel::wait::Ready;

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540A;
const TCFLSH: u32 = 0x540B;
const TIOCEXCL: u32 = 0x540C;
const TIOCNXCL: u32 = 0x540D;
const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541B;
const TIOCPKT: u32 = 0x5420;
const TIOCSETD: u32 = 0x5423;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
const TCGETS2: u32 = 0x802C_542A;
const TCSETS2: u32 = 0x402C_542B;
const TCSETSW2: u32 = 0x402C_542C;
const TCSETSF2: u32 = 0x402C_542D;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGEXCL: u32 = 0x8004_5440;

/// struct termios2 is struct termios and two speeds.
const SPEED: u32 = 38400;

/// Requests to the master alone; others go to the slave's terminal.
pub(super) fn master(pty: &Arc<Pty>, task: &Task, cmd: u32, arg: u64) -> Result<u64> {
    let mm = task.mm();
    match cmd {
        TIOCGPTN => mm.write_obj(arg, &pty.index())?,
        TIOCSPTLCK => {
            let lock: i32 = mm.read_obj(arg)?;
            pty.inner.lock().locked = lock != 0;
        }
        TIOCGPTLCK => {
            let locked = pty.inner.lock().locked;
            mm.write_obj(arg, &i32::from(locked))?;
        }
        TIOCPKT => {
            let on: i32 = mm.read_obj(arg)?;
            if on != 0 {
                return Err(Errno::EINVAL);
            }
        }
        FIONREAD => {
            let n = pty.inner.lock().line.output_len();
            mm.write_obj(arg, &(n as i32))?;
        }
        TIOCOUTQ => mm.write_obj(arg, &0i32)?,
        // The master may ask for any session's.
        job::TIOCGPGRP => {
            let (_, foreground) = job::session(task.kernel(), &pty.terminal()).unwrap_or((0, 0));
            mm.write_obj(arg, &foreground)?;
        }
        job::TIOCGSID => {
            let (sid, _) = job::session(task.kernel(), &pty.terminal()).ok_or(Errno::ENOTTY)?;
            mm.write_obj(arg, &sid)?;
        }
        _ => return both(pty, task, cmd, arg),
    }
    Ok(0)
}

pub(super) fn slave(pty: &Arc<Pty>, task: &Task, cmd: u32, arg: u64) -> Result<u64> {
    if !pty.inner.lock().master_open {
        return Err(if cmd == job::TIOCSPGRP {
            Errno::ENOTTY
        } else {
            Errno::EIO
        });
    }
    match cmd {
        FIONREAD => {
            let n = pty.inner.lock().line.input_len();
            task.mm().write_obj(arg, &(n as i32))?;
        }
        TIOCOUTQ => {
            let n = pty.inner.lock().line.output_len();
            task.mm().write_obj(arg, &(n as i32))?;
        }
        // Typing on behalf of others is disabled, as Linux's legacy_tiocsti is.
        TIOCSTI => return Err(Errno::EIO),
        TCSETS..=TCSETSF | TCSETS2..=TCSETSF2 | TCSBRK | TCSBRKP | TCXONC | TCFLSH => {
            pty.check_job(Signal::SIGTTOU)?;
            return both(pty, task, cmd, arg);
        }
        _ => return both(pty, task, cmd, arg),
    }
    Ok(0)
}

fn both(pty: &Arc<Pty>, task: &Task, cmd: u32, arg: u64) -> Result<u64> {
    if let Some(done) = job::ioctl(task, &pty.terminal(), cmd, arg) {
        return done;
    }
    let mm = task.mm();
    match cmd {
        TCGETS => {
            let termios = pty.inner.lock().line.termios;
            mm.write_bytes(arg, &termios.encode())?;
        }
        TCGETS2 => {
            let termios = pty.inner.lock().line.termios;
            let mut bytes = termios.encode().to_vec();
            bytes.extend_from_slice(&SPEED.to_ne_bytes());
            bytes.extend_from_slice(&SPEED.to_ne_bytes());
            mm.write_bytes(arg, &bytes)?;
        }
        TCSETS..=TCSETSF | TCSETS2..=TCSETSF2 => {
            // The two speeds behind a termios2 have no effect.
            let mut bytes = [0u8; TERMIOS_LEN];
            mm.read_bytes(arg, &mut bytes)?;
            set_termios(pty, Termios::decode(&bytes), cmd);
        }
        TCSBRK | TCSBRKP => {}
        TCXONC => {
            let mut inner = pty.inner.lock();
            match arg as i32 {
                libc::TCOOFF => inner.line.set_stopped(true),
                libc::TCOON => inner.line.set_stopped(false),
                libc::TCIOFF | libc::TCION => {}
                _ => return Err(Errno::EINVAL),
            }
            drop(inner);
            pty.slave_queue.wake(Ready::OUT | Ready::WRNORM);
        }
        TCFLSH => {
            flush(pty, arg as i32)?;
        }
        TIOCGWINSZ => {
            let window = pty.inner.lock().window;
            mm.write_bytes(arg, &window)?;
        }
        TIOCSWINSZ => {
            let mut window = [0u8; WINSIZE_LEN];
            mm.read_bytes(arg, &mut window)?;
            let old = std::mem::replace(&mut pty.inner.lock().window, window);
            if old != window {
                pty.signal_foreground(Signal::SIGWINCH);
            }
        }
        TIOCEXCL => pty.inner.lock().exclusive = true,
        TIOCNXCL => pty.inner.lock().exclusive = false,
        TIOCGEXCL => {
            let exclusive = pty.inner.lock().exclusive;
            mm.write_obj(arg, &i32::from(exclusive))?;
        }
        TIOCGETD => mm.write_obj(arg, &0i32)?,
        TIOCSETD => {
            if mm.read_obj::<i32>(arg)? != 0 {
                return Err(Errno::EINVAL);
            }
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// Output goes to the master at once: there is nothing to drain.
fn set_termios(pty: &Pty, termios: Termios, cmd: u32) {
    {
        let mut inner = pty.inner.lock();
        if matches!(cmd, TCSETSF | TCSETSF2) {
            inner.line.flush_input();
        }
        debug_assert!(matches!(
            cmd,
            TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2
        ));
        inner.line.set_termios(termios);
    }
    // What can be read may have changed.
    pty.slave_queue.wake_all();
}

fn flush(pty: &Pty, which: i32) -> Result<()> {
    {
        let mut inner = pty.inner.lock();
        match which {
            libc::TCIFLUSH => inner.line.flush_input(),
            libc::TCOFLUSH => inner.line.flush_output(),
            libc::TCIOFLUSH => {
                inner.line.flush_input();
                inner.line.flush_output();
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    pty.slave_queue.wake(Ready::OUT | Ready::WRNORM);
    pty.master_queue.wake(Ready::OUT | Ready::WRNORM);
    Ok(())
}
