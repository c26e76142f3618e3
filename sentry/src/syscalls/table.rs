//! Dispatch, generated from the table: one arm a row.

use super::{Args, SysResult};
use crate::errno::Errno;
use crate::kernel::task::Task;

macro_rules! handler {
    (none, $family:ident, $name:ident, $t:ident, $a:ident) => {
        Err(Errno::ENOSYS.into())
    };
    ($level:ident, $family:ident, $name:ident, $t:ident, $a:ident) => {
        super::$family::$name($t, $a).await
    };
}

macro_rules! dispatch {
    ($( $x86:literal, $aarch64:tt, $family:ident, $name:ident ( $($arg:ident : $ty:ident),* ) -> $ret:ident, $level:ident, $note:literal; )*) => {
        /// Runs the handler of system call `number`; ENOSYS if the table has none.
        pub async fn call(t: &Task, number: u64, a: &Args) -> SysResult {
            match number {
                $( $x86 => handler!($level, $family, $name, t, a), )*
                _ => Err(Errno::ENOSYS.into()),
            }
        }
    };
}

runsc_syscall_tables::for_each_syscall!(dispatch);
