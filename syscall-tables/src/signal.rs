//! Names of signals, and the signals of names.

/// Names by number, from 1. The real-time signals are counted from the kernel's first one, 32,
/// of which the C library keeps two for itself: its `SIGRTMIN` is `SIGRT_2` here.
#[rustfmt::skip]
static SIGNALS: [&str; 64] = [
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE",
    "SIGKILL", "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT",
    "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU",
    "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS", "SIGRTMIN",
    "SIGRT_1", "SIGRT_2", "SIGRT_3", "SIGRT_4", "SIGRT_5", "SIGRT_6", "SIGRT_7", "SIGRT_8",
    "SIGRT_9", "SIGRT_10", "SIGRT_11", "SIGRT_12", "SIGRT_13", "SIGRT_14", "SIGRT_15",
    "SIGRT_16", "SIGRT_17", "SIGRT_18", "SIGRT_19", "SIGRT_20", "SIGRT_21", "SIGRT_22",
    "SIGRT_23", "SIGRT_24", "SIGRT_25", "SIGRT_26", "SIGRT_27", "SIGRT_28", "SIGRT_29",
    "SIGRT_30", "SIGRT_31", "SIGRT_32",
];

/// `"SIGINT"` for 2. `None` for what is not a signal.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    let index = usize::try_from(signal).ok()?.checked_sub(1)?;
    SIGNALS.get(index).copied()
}

/// 2 for `"SIGINT"`, `"INT"` or `"2"`, in either case.
pub fn signal_from_name(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return signal_name(number).map(|_| number);
    }
    let name = name.to_ascii_uppercase();
    let long = if name.starts_with("SIG") {
        name
    } else {
        format!("SIG{name}")
    };
    let index = SIGNALS.iter().position(|known| *known == long)?;
    i32::try_from(index + 1).ok()
}
