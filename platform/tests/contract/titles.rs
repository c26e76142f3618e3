//! What the host's listings of processes show.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runsc_platform::*;

use crate::Case;
use crate::guest::*;

pub const CASES: &[Case] = &[
    ("shown_by_name", shown_by_name),
    ("shown_while_mappings_change", shown_while_mappings_change),
];

program!(call_word_for_ever, "2: mov eax, [rdi]", "syscall", "jmp 2b",);

/// The arguments of the host process of that name.
fn arguments(name: &str) -> Option<Vec<u8>> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found = processes.filter(|process| {
        fs::read_to_string(process.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    fs::read(found.next()?.path().join("cmdline")).ok()
}

fn shown_by_name(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform.clone());
    let space = machine.space(call_word_for_ever());
    space.set_word(DATA, 700);
    assert_eq!(space.space.host_process(), None, "there is none yet");
    space.space.show_as(b"early", b"");
    let mut thread = machine.thread(&space);
    thread.regs.rdi = DATA;
    machine.run_to_syscall(&mut thread);
    let name = format!("t{}-{}", std::process::id(), platform.name());
    space.space.show_as(name.as_bytes(), b"one\0two words\0");
    let process = space.space.host_process();
    assert_eq!(process.is_some(), platform.name() == "systrap");
    if process.is_none() {
        return;
    }
    assert_eq!(arguments(&name).unwrap(), b"one\0two words\0");
    // Again, with more than is shown, and a name that is cut off.
    let long = [&[b'x'; 9000][..], b"\0"].concat();
    let longer = format!("{name:-<40}");
    space.space.show_as(longer.as_bytes(), &long);
    assert_eq!(space.space.host_process(), process);
    let found = arguments(&longer[..15]).unwrap();
    assert!((2000..4096).contains(&found.len()), "{}", found.len());
    assert!(found.iter().all(|byte| *byte == b'x'));
    space.space.show_as(b"", b"");
    // The guest is as it was.
    assert_eq!(machine.run_to_syscall(&mut thread), 700);
    drop(thread);
    assert_eq!(space.space.host_process(), None, "it is gone");
    space.space.show_as(b"late", b"");
}

/// Whoever asks does not disturb what a guest's mapper is told meanwhile.
fn shown_while_mappings_change(platform: Arc<dyn Platform>) {
    let mut machine = Machine::new(platform);
    let space = machine.space(call_word_for_ever());
    let mut thread = machine.thread(&space);
    thread.regs.rdi = HOLE;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let shown = space.space.clone();
        scope.spawn(|| {
            let shown = shown;
            while !over.load(Ordering::Relaxed) {
                shown.show_as(b"name", b"argument\0");
            }
        });
        let _ends = Sets(&over);
        for n in 0..2000 {
            let from = HOLE + n % 2 * PAGE;
            space.set_word(from, n);
            space.map_from(HOLE, PAGE, Prot::READ, from);
            assert_eq!(machine.run_to_syscall(&mut thread), n);
            if n % 50 == 0 {
                space.unmap(HOLE, PAGE);
                thread.regs.rip = CODE;
                assert_eq!(machine.run_to_fault(&mut thread).addr, HOLE);
            }
        }
    });
}
