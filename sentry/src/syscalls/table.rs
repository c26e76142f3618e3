//! Dispatch, generated from the table: one arm a row.

use super::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::task::Task;

/// The errno that the note of an unsupported row begins with.
fn refusal(note: &str) -> Errno {
    match note.split(':').next() {
        Some("EPERM") => Errno::EPERM,
        Some("EINVAL") => Errno::EINVAL,
        Some("EOPNOTSUPP") => Errno::EOPNOTSUPP,
        Some("ENODEV") => Errno::ENODEV,
        _ => Errno::ENOSYS,
    }
}

macro_rules! handler {
    (none, $family:ident, $name:ident, $note:literal, $t:ident, $a:ident) => {
        Err(refusal($note).into())
    };
    ($level:ident, $family:ident, $name:ident, $note:literal, $t:ident, $a:ident) => {
        super::$family::$name($t, $a).await
    };
}

macro_rules! dispatch {
    ($( $x86:literal, $aarch64:tt, $family:ident, $name:ident ( $($arg:ident : $ty:ident),* ) -> $ret:ident, $level:ident, $note:literal; )*) => {
        /// Runs the handler of system call `number`; ENOSYS if the table has none.
        pub async fn call(t: &Task, number: u64, a: &Args) -> SysResult {
            match number {
                $( $x86 => handler!($level, $family, $name, $note, t, a), )*
                _ => Err(Errno::ENOSYS.into()),
            }
        }
    };
}

runsc_syscall_tables::for_each_syscall!(dispatch);
