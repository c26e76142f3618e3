//! `runsc-rs syscalls`: the table of support.

use std::{
    io::{Write, stdout},
    process::ExitCode,
};

use runsc_syscall_tables::report::{Filter, json, markdown, text};

use super::Failure;
use crate::args::{Format, SyscallsArgs};

pub fn run(args: &SyscallsArgs) -> Result<ExitCode, Failure> {
    let filter = Filter {
        arch: args.arch,
        level: args.level,
        family: args.family,
    };
    let report = match args.format {
        Format::Text => text(&filter),
        Format::Json => json(&filter),
        Format::Markdown => markdown(&filter),
    };
    stdout().write_all(report.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
