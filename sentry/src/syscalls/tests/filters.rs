//! Filters of system calls that several threads of a process install at once.

use super::*;
use crate::config::{Insn, SeccompConfig};
use crate::kernel::seccomp::{Filter, Seccomp};

/// `return SECCOMP_RET_ALLOW`, as the words of a struct sock_filter.
const ALLOW: [u32; 2] = [0x06, 0x7fff_0000];

/// While filters are being given to all threads, nobody builds on what they are about to replace.
#[test]
fn a_filter_given_to_all_is_not_lost_to_one_being_installed() {
    let sandbox = Sandbox::new();
    let t = sandbox.process(None);
    let filters = put(&t, &ALLOW);
    let program = put(&t, &[1u64, filters]);
    let set_filter = 1u64;
    let given = Filter::of_config(&SeccompConfig {
        program: vec![Insn {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: ALLOW[1],
        }],
        log: false,
    });
    let given = given.unwrap();
    let group = t.group().clone();
    let lock = group.filters.lock();
    let installing = spawn(&t, libc::SYS_seccomp, [set_filter, 0, program]);
    // It gets as far as it can; that it has must not matter.
    for _ in 0..10_000 {
        std::thread::yield_now();
    }
    t.set_seccomp(Some(Seccomp::Filter(given.clone())));
    drop(lock);
    assert_eq!(installing.join().unwrap().unwrap(), 0);
    let Some(Seccomp::Filter(newest)) = t.seccomp() else {
        panic!("no filter");
    };
    assert!(!Arc::ptr_eq(&newest, &given), "the other one is lost");
    assert!(newest.descends_from(Some(&given)), "this one is lost");
}
