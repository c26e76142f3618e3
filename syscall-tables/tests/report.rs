//! The report in its three forms.

use runsc_syscall_tables::report::{Counts, Filter, json, markdown, text};
use runsc_syscall_tables::{Arch, Family, Level, SYSCALLS};

fn filter() -> Filter {
    Filter {
        arch: Arch::X86_64,
        level: None,
        family: None,
    }
}

#[test]
fn counts_add_up() {
    let rows = filter().rows();
    assert_eq!(rows.len(), SYSCALLS.len());
    let counts = Counts::of(&rows);
    assert_eq!(counts.total(), SYSCALLS.len());
    let none = Filter {
        level: Some(Level::None),
        ..filter()
    };
    assert_eq!(none.rows().len(), counts.none);
    let by_family: usize = Family::ALL
        .iter()
        .map(|family| {
            Filter {
                family: Some(*family),
                ..filter()
            }
            .rows()
            .len()
        })
        .sum();
    assert_eq!(by_family, SYSCALLS.len());
}

#[test]
fn text_has_a_line_a_row_and_the_counts() {
    let poll = Filter {
        family: Some(Family::Poll),
        level: Some(Level::None),
        ..filter()
    };
    assert_eq!(
        text(&poll),
        "  NR  NAME            FAMILY  LEVEL   NOTE
 214  epoll_ctl_old   poll    none    ENOSYS: never implemented by Linux
 215  epoll_wait_old  poll    none    ENOSYS: never implemented by Linux

2 system calls: 0 full, 0 partial, 2 none
"
    );
}

#[test]
fn numbers_are_those_of_the_architecture_asked_for() {
    let arm = Filter {
        arch: Arch::Aarch64,
        family: Some(Family::Io),
        level: None,
    };
    assert!(text(&arm).contains("\n  63  read "));
    let rows = Filter {
        arch: Arch::Aarch64,
        ..filter()
    }
    .rows();
    assert!(rows.iter().all(|row| row.aarch64.is_some()));
    assert!(
        rows.windows(2)
            .all(|pair| pair[0].aarch64 < pair[1].aarch64)
    );
}

#[test]
fn markdown_counts_by_family() {
    let page = markdown(&filter());
    assert!(page.contains("| family | full | partial | none |\n"));
    assert!(page.contains("\n| 0 | `read` | io | full |  |\n"));
    // Each of the two tables has a heading.
    let lines = page.matches("\n| ").count();
    assert_eq!(lines, SYSCALLS.len() + Family::ALL.len() + 2);
}

#[test]
fn json_can_be_parsed() {
    let value: serde_json::Value = serde_json::from_str(&json(&filter())).unwrap();
    let calls = value["syscalls"].as_array().unwrap();
    assert_eq!(calls.len(), SYSCALLS.len());
    assert_eq!(value["arch"], "x86_64");
    assert_eq!(calls[0]["name"], "read");
    assert_eq!(calls[0]["aarch64"], 63);
    assert_eq!(calls[0]["args"][1]["type"], "BufOut");
    assert_eq!(calls[2]["aarch64"], serde_json::Value::Null);
    let nothing = Filter {
        family: Some(Family::Poll),
        level: Some(Level::Partial),
        ..filter()
    };
    let value: serde_json::Value = serde_json::from_str(&json(&nothing)).unwrap();
    assert_eq!(value["syscalls"].as_array().unwrap().len(), 0);
}
