//! The table as data: rows in order of their x86-64 numbers, found by number or name.
//!
//! Both number spaces are dense and small, so an array indexed by number is built at compile
//! time for each.

use crate::types::{Arch, Arg, ArgType, Family, Level, RetType, Syscall};

#[rustfmt::skip]
macro_rules! family {
    (io) => { Family::Io };
    (open) => { Family::Open };
    (path) => { Family::Path };
    (poll) => { Family::Poll };
    (memory) => { Family::Memory };
    (process) => { Family::Process };
    (signal) => { Family::Signal };
    (futex) => { Family::Futex };
    (time) => { Family::Time };
    (cred) => { Family::Cred };
    (system) => { Family::System };
    (socket) => { Family::Socket };
    (mqueue) => { Family::Mqueue };
    (sysv) => { Family::Sysv };
    (other) => { Family::Other };
}

#[rustfmt::skip]
macro_rules! level {
    (full) => { Level::Full };
    (partial) => { Level::Partial };
    (none) => { Level::None };
}

#[rustfmt::skip]
macro_rules! number {
    (_) => { None };
    ($number:literal) => { Some($number) };
}

macro_rules! rows {
    ($( $x86:literal, $aarch64:tt, $family:ident, $name:ident ( $($arg:ident : $ty:ident),* )
        -> $ret:ident, $level:ident, $note:literal; )*) => {
        /// All rows, by x86-64 number.
        pub static SYSCALLS: &[Syscall] = &[ $( Syscall {
            name: stringify!($name),
            x86_64: $x86,
            aarch64: number!($aarch64),
            family: family!($family),
            args: &[ $( Arg { name: stringify!($arg), ty: ArgType::$ty } ),* ],
            ret: RetType::$ret,
            level: level!($level),
            note: $note,
        } ),* ];
    };
}

crate::for_each_syscall!(rows);

/// One more than the largest number of either architecture.
const NUMBERS: usize = 512;
/// Stands for "no such call" in the indices.
const ABSENT: u16 = u16::MAX;

// `static`s cannot be read while a constant is made, so the two columns that the indices need
// are constants of their own.
macro_rules! columns {
    ($( $x86:literal, $aarch64:tt, $family:ident, $name:ident ( $($arg:ident : $ty:ident),* )
        -> $ret:ident, $level:ident, $note:literal; )*) => {
        const X86_64: &[Option<u32>] = &[ $( Some($x86) ),* ];
        const AARCH64: &[Option<u32>] = &[ $( number!($aarch64) ),* ];
    };
}

crate::for_each_syscall!(columns);

const fn index(column: &[Option<u32>]) -> [u16; NUMBERS] {
    let mut rows = [ABSENT; NUMBERS];
    let mut row = 0;
    while row < column.len() {
        if let Some(number) = column[row] {
            // Out of bounds or taken twice: the table does not compile.
            assert!(rows[number as usize] == ABSENT, "two rows with one number");
            rows[number as usize] = row as u16;
        }
        row += 1;
    }
    rows
}

static BY_X86_64: [u16; NUMBERS] = index(X86_64);
static BY_AARCH64: [u16; NUMBERS] = index(AARCH64);

/// The row of system call `number`; `None` for a number that Linux does not have.
pub fn by_number(arch: Arch, number: u64) -> Option<&'static Syscall> {
    let rows = match arch {
        Arch::X86_64 => &BY_X86_64,
        Arch::Aarch64 => &BY_AARCH64,
    };
    let row = *rows.get(usize::try_from(number).ok()?)?;
    SYSCALLS.get(usize::from(row))
}

/// The row of the system call called `name`. A walk through the table: for tools, not for
/// each call.
pub fn by_name(name: &str) -> Option<&'static Syscall> {
    SYSCALLS.iter().find(|row| row.name == name)
}
