//! What is supported, as text, JSON or Markdown: the output of `runsc-rs syscalls`.

use crate::lookup::SYSCALLS;
use crate::types::{Arch, Family, Level, Syscall};
use std::fmt::{self, Write};

/// Which rows to show. The default shows all of this machine's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    pub arch: Arch,
    pub level: Option<Level>,
    pub family: Option<Family>,
}

impl Default for Filter {
    fn default() -> Self {
        Filter {
            arch: Arch::HOST,
            level: None,
            family: None,
        }
    }
}

impl Filter {
    /// The rows that pass, by number on the filter's architecture.
    pub fn rows(&self) -> Vec<&'static Syscall> {
        let mut rows: Vec<&Syscall> = SYSCALLS.iter().filter(|row| self.passes(row)).collect();
        rows.sort_by_key(|row| row.number(self.arch));
        rows
    }

    fn passes(&self, row: &Syscall) -> bool {
        row.number(self.arch).is_some()
            && self.level.is_none_or(|level| level == row.level)
            && self.family.is_none_or(|family| family == row.family)
    }
}

/// How many rows have each level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub full: usize,
    pub partial: usize,
    pub none: usize,
}

impl Counts {
    pub fn of(rows: &[&Syscall]) -> Self {
        let count = |level| rows.iter().filter(|row| row.level == level).count();
        Counts {
            full: count(Level::Full),
            partial: count(Level::Partial),
            none: count(Level::None),
        }
    }

    pub const fn total(&self) -> usize {
        self.full + self.partial + self.none
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            full,
            partial,
            none,
        } = self;
        write!(
            f,
            "{} system calls: {full} full, {partial} partial, {none} none",
            self.total()
        )
    }
}

/// Aligned columns for a terminal, counts at the end.
pub fn text(filter: &Filter) -> String {
    render(filter, |out, rows| {
        let width = rows
            .iter()
            .map(|row| row.name.len())
            .max()
            .unwrap_or(0)
            .max(4);
        writeln!(
            out,
            "{:>4}  {:<width$}  {:<8}{:<8}NOTE",
            "NR", "NAME", "FAMILY", "LEVEL"
        )?;
        for row in rows {
            let line = format!(
                "{:>4}  {:<width$}  {:<8}{:<8}{}",
                number(row, filter.arch),
                row.name,
                row.family,
                row.level,
                row.note
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(out, "\n{}", Counts::of(rows))
    })
}

/// A table of counts by family, then one of all rows.
pub fn markdown(filter: &Filter) -> String {
    render(filter, |out, rows| {
        writeln!(out, "{} ({}).\n", Counts::of(rows), filter.arch.name())?;
        writeln!(
            out,
            "| family | full | partial | none |\n|---|---:|---:|---:|"
        )?;
        for family in Family::ALL {
            let of_family: Vec<&Syscall> = rows
                .iter()
                .copied()
                .filter(|row| row.family == *family)
                .collect();
            let counts = Counts::of(&of_family);
            if counts.total() != 0 {
                let Counts {
                    full,
                    partial,
                    none,
                } = counts;
                writeln!(out, "| {family} | {full} | {partial} | {none} |")?;
            }
        }
        writeln!(
            out,
            "\n| nr | call | family | level | note |\n|---:|---|---|---|---|"
        )?;
        for row in rows {
            writeln!(
                out,
                "| {} | `{}` | {} | {} | {} |",
                number(row, filter.arch),
                row.name,
                row.family,
                row.level,
                row.note.replace('|', "\\|")
            )?;
        }
        Ok(())
    })
}

/// One object: `arch`, `counts`, and `syscalls` with everything the table says.
pub fn json(filter: &Filter) -> String {
    render(filter, |out, rows| {
        let Counts {
            full,
            partial,
            none,
        } = Counts::of(rows);
        writeln!(out, "{{\n  \"arch\": \"{}\",", filter.arch.name())?;
        writeln!(
            out,
            "  \"counts\": {{ \"full\": {full}, \"partial\": {partial}, \"none\": {none} }},"
        )?;
        write!(out, "  \"syscalls\": [")?;
        for (i, row) in rows.iter().enumerate() {
            let aarch64 = row
                .aarch64
                .map_or_else(|| "null".to_owned(), |nr| nr.to_string());
            write!(
                out,
                "{}\n    {{ \"name\": {}, \"x86_64\": {}, \"aarch64\": {aarch64}, \
                 \"family\": \"{}\", \"level\": \"{}\", \"note\": {}, \"args\": [",
                if i == 0 { "" } else { "," },
                json_string(row.name),
                row.x86_64,
                row.family,
                row.level,
                json_string(row.note)
            )?;
            for (j, arg) in row.args.iter().enumerate() {
                let comma = if j == 0 { "" } else { ", " };
                write!(
                    out,
                    "{comma}{{ \"name\": \"{}\", \"type\": \"{:?}\" }}",
                    arg.name, arg.ty
                )?;
            }
            write!(out, "], \"returns\": \"{:?}\" }}", row.ret)?;
        }
        writeln!(out, "\n  ]\n}}")
    })
}

fn render(
    filter: &Filter,
    write: impl FnOnce(&mut String, &[&'static Syscall]) -> fmt::Result,
) -> String {
    let mut out = String::new();
    let written = write(&mut out, &filter.rows());
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    out
}

fn number(row: &Syscall, arch: Arch) -> String {
    row.number(arch)
        .map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Names and notes are ours, printable text; quotes and backslashes are all there is to escape.
fn json_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
