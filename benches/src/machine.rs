//! What a report says about the machine.

use std::fs;

/// Kernel, processor, cores, load: one fact a line.
pub fn facts() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, v)| v.trim().to_string())
        })
        .unwrap_or_else(|| "unknown processor".to_string());
    vec![
        format!(
            "Linux {}, {cpu}, {} cores",
            read("/proc/sys/kernel/osrelease").trim(),
            cores()
        ),
        format!("load before: {}", load()),
    ]
}

/// How many processors this process may use; 0 if that cannot be told.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// The three load averages.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}
