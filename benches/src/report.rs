//! Samples of each row under each runtime, and the table made of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::process::ProcessMemory;

/// What a row's figures count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Ns,
    Kib,
    /// Operations a second: more is better, as for the next.
    PerSecond,
    BytesPerSecond,
}

impl Unit {
    /// By the name that its JSON form has.
    pub fn named(name: &str) -> Option<Unit> {
        [Unit::Ns, Unit::Kib, Unit::PerSecond, Unit::BytesPerSecond]
            .into_iter()
            .find(|unit| serde_json::to_value(unit).is_ok_and(|value| value == name))
    }

    /// The figure with three digits that mean something, and its unit.
    pub fn show(self, value: f64) -> String {
        let (scaled, unit) = match self {
            Unit::Ns if value < 1e3 => (value, "ns"),
            Unit::Ns if value < 1e6 => (value / 1e3, "µs"),
            Unit::Ns if value < 1e9 => (value / 1e6, "ms"),
            Unit::Ns => (value / 1e9, "s"),
            Unit::Kib if value < 1024.0 => (value, "KiB"),
            Unit::Kib => (value / 1024.0, "MiB"),
            Unit::PerSecond if value < 1e3 => (value, "/s"),
            Unit::PerSecond => (value / 1e3, "k/s"),
            Unit::BytesPerSecond if value < 1e9 => (value / 1e6, "MB/s"),
            Unit::BytesPerSecond => (value / 1e9, "GB/s"),
        };
        format!("{} {unit}", digits(scaled))
    }
}

fn digits(value: f64) -> String {
    let places = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.places$}")
}

/// The middle value; of an even number of samples the mean of the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some((lower + upper) / 2.0)
}

/// One row under one runtime.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    /// One figure a round.
    pub samples: Vec<f64>,
    /// Filled in by [`Report::finish`].
    pub median: Option<f64>,
    /// The median divided by the native one.
    pub to_native: Option<f64>,
    /// Why rounds gave no figure.
    pub failures: Vec<String>,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub name: String,
    pub unit: Unit,
    /// By the runtime's name.
    pub cells: BTreeMap<String, Cell>,
    /// Our median divided by `runsc`'s: below 1 we are faster or smaller, for rates above.
    pub ours_to_runsc: Option<f64>,
}

/// Everything one run found out; its JSON form is the `--json` file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Kernel, processor, cores, load: one fact a line.
    pub machine: Vec<String>,
    /// How it was measured: rounds, budget, each runtime's command.
    pub method: Vec<String>,
    /// The columns, in order.
    pub runtimes: Vec<String>,
    pub rows: Vec<Row>,
    /// Runtimes that gave no column and jobs that gave no row, with the reason.
    pub skipped: Vec<(String, String)>,
    /// What was odd: output that is not a row, processes left behind.
    pub remarks: Vec<String>,
    /// The processes behind the memory row, of the last round.
    pub memory: BTreeMap<String, Vec<ProcessMemory>>,
}

/// Column and row names the ratio of ratios is made of.
pub const NATIVE: &str = "native";
pub const RUNSC: &str = "runsc";
pub const OURS: &str = "ours";

impl Report {
    fn cell(&mut self, row: &str, unit: Unit, runtime: &str) -> &mut Cell {
        let index = self
            .rows
            .iter()
            .position(|r| r.name == row)
            .unwrap_or_else(|| {
                let name = row.to_string();
                self.rows.push(Row {
                    name,
                    unit,
                    cells: BTreeMap::new(),
                    ours_to_runsc: None,
                });
                self.rows.len() - 1
            });
        self.rows[index]
            .cells
            .entry(runtime.to_string())
            .or_default()
    }

    pub fn sample(&mut self, row: &str, unit: Unit, runtime: &str, value: f64) {
        self.cell(row, unit, runtime).samples.push(value);
    }

    pub fn failure(&mut self, row: &str, unit: Unit, runtime: &str, reason: String) {
        let failures = &mut self.cell(row, unit, runtime).failures;
        if !failures.contains(&reason) {
            failures.push(reason);
        }
    }

    /// Notes a runtime or job that is not measured, here and on the terminal.
    pub fn skip(&mut self, name: &str, reason: String) {
        eprintln!("SKIPPED {name}: {reason}");
        self.skipped.push((name.to_string(), reason));
    }

    pub fn remark(&mut self, remark: String) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }

    /// Computes medians and ratios; call once, after the last sample.
    pub fn finish(&mut self) {
        for row in &mut self.rows {
            for cell in row.cells.values_mut() {
                cell.median = median(&cell.samples);
            }
            let of = |row: &Row, name: &str| row.cells.get(name).and_then(|cell| cell.median);
            let native = of(row, NATIVE);
            row.ours_to_runsc = ratio(of(row, OURS), of(row, RUNSC));
            for cell in row.cells.values_mut() {
                cell.to_native = ratio(cell.median, native);
            }
        }
    }

    /// The table as rows of text, heading first.
    fn grid(&self) -> Vec<Vec<String>> {
        let compare = [OURS, RUNSC]
            .iter()
            .all(|name| self.runtimes.iter().any(|r| r == name));
        let has_native = self.runtimes.iter().any(|name| name == NATIVE);
        let mut heading = vec!["row".to_string()];
        for name in &self.runtimes {
            heading.push(name.clone());
            if has_native && name != NATIVE {
                heading.push("×native".to_string());
            }
        }
        if compare {
            heading.push("ours/runsc".to_string());
        }
        let mut grid = vec![heading];
        for row in &self.rows {
            let mut line = vec![row.name.clone()];
            for name in &self.runtimes {
                let cell = row.cells.get(name);
                line.push(match cell {
                    Some(Cell {
                        median: Some(value),
                        ..
                    }) => row.unit.show(*value),
                    Some(Cell { failures, .. }) if !failures.is_empty() => "failed".to_string(),
                    _ => "—".to_string(),
                });
                if has_native && name != NATIVE {
                    line.push(show_ratio(cell.and_then(|cell| cell.to_native)));
                }
            }
            if compare {
                line.push(show_ratio(row.ours_to_runsc));
            }
            grid.push(line);
        }
        grid
    }

    /// What stands below the table: failures, skipped runtimes, remarks.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self
            .skipped
            .iter()
            .map(|(name, why)| format!("SKIPPED {name}: {why}"))
            .collect();
        for row in &self.rows {
            for (runtime, cell) in &row.cells {
                for why in &cell.failures {
                    notes.push(format!("FAILED {} under {runtime}: {why}", row.name));
                }
            }
        }
        notes.extend(self.remarks.iter().cloned());
        notes
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let grid = self.grid();
        let columns = grid.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                grid.iter()
                    .map(|line| line[column].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for line in self.machine.iter().chain(&self.method) {
            let _ = writeln!(out, "{line}");
        }
        out.push('\n');
        for line in &grid {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            let _ = writeln!(out, "{}", cells.join("  ").trim_end());
        }
        let notes = self.notes();
        if !notes.is_empty() {
            out.push('\n');
        }
        for note in notes {
            let _ = writeln!(out, "{note}");
        }
        out
    }

    /// For a document.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for line in self.machine.iter().chain(&self.method) {
            let _ = writeln!(out, "- {line}");
        }
        out.push('\n');
        for (index, line) in self.grid().iter().enumerate() {
            let _ = writeln!(out, "| {} |", line.join(" | "));
            if index == 0 {
                let _ = writeln!(out, "|---|{}", "---:|".repeat(line.len().saturating_sub(1)));
            }
        }
        let notes = self.notes();
        if !notes.is_empty() {
            out.push('\n');
        }
        for note in notes {
            let _ = writeln!(out, "- {note}");
        }
        out
    }
}

fn ratio(value: Option<f64>, base: Option<f64>) -> Option<f64> {
    let ratio = value? / base?;
    ratio.is_finite().then_some(ratio)
}

fn show_ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "—".to_string(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        for (samples, expected) in [
            (&[][..], None),
            (&[3.0][..], Some(3.0)),
            (&[9.0, 1.0, 2.0][..], Some(2.0)),
            (&[9.0, 1.0, 2.0, 4.0][..], Some(3.0)),
        ] {
            assert_eq!(median(samples), expected, "{samples:?}");
        }
    }

    #[test]
    fn figures_read_well() {
        for (unit, value, expected) in [
            (Unit::Ns, 8.256, "8.26 ns"),
            (Unit::Ns, 227.4, "227 ns"),
            (Unit::Ns, 12_345.0, "12.3 µs"),
            (Unit::Ns, 5.4e6, "5.40 ms"),
            (Unit::Ns, 1.5e9, "1.50 s"),
            (Unit::Kib, 512.0, "512 KiB"),
            (Unit::Kib, 6144.0, "6.00 MiB"),
        ] {
            assert_eq!(unit.show(value), expected);
        }
    }

    fn example() -> Report {
        let names = [NATIVE, RUNSC, OURS];
        let mut report = Report {
            runtimes: names.map(str::to_string).to_vec(),
            skipped: vec![("runc".to_string(), "no `runc` here".to_string())],
            ..Report::default()
        };
        for (runtime, samples) in names.iter().zip([[1.0, 2.0, 9.0], [20.0; 3], [10.0; 3]]) {
            for sample in samples {
                report.sample("getpid", Unit::Ns, runtime, sample);
            }
        }
        report.sample("stat", Unit::Ns, NATIVE, 1.0);
        report.failure(
            "stat",
            Unit::Ns,
            OURS,
            "stat: Function not implemented".to_string(),
        );
        report.failure(
            "stat",
            Unit::Ns,
            OURS,
            "stat: Function not implemented".to_string(),
        );
        report.finish();
        report
    }

    #[test]
    fn ratios_are_of_medians() {
        let report = example();
        assert_eq!(report.rows[0].cells[OURS].to_native, Some(5.0));
        assert_eq!(report.rows[0].ours_to_runsc, Some(0.5));
        assert_eq!(report.rows[1].ours_to_runsc, None);
        assert_eq!(report.rows[1].cells[OURS].median, None);
    }

    #[test]
    fn tables_show_every_cell_and_every_gap() {
        let markdown = example().markdown();
        let lines: Vec<&str> = markdown.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(
            lines[0],
            "| row | native | runsc | ×native | ours | ×native | ours/runsc |"
        );
        assert_eq!(lines[1], "|---|---:|---:|---:|---:|---:|---:|");
        assert_eq!(
            lines[2],
            "| getpid | 2.00 ns | 20.0 ns | 10.0 | 10.0 ns | 5.00 | 0.50 |"
        );
        assert_eq!(lines[3], "| stat | 1.00 ns | — | — | failed | — | — |");
        assert_eq!(lines[4], "- SKIPPED runc: no `runc` here");
        assert_eq!(
            lines[5],
            "- FAILED stat under ours: stat: Function not implemented"
        );
        assert_eq!(lines.len(), 6);
        assert!(example().text().contains("SKIPPED runc: no `runc` here"));
    }
}
