//! One behaviour a test.

use super::fake::*;
use crate::errno::Errno;
use crate::mm::io::UserMemory;
use crate::mm::*;

const PRIVATE: i32 = libc::MAP_PRIVATE;
const P: u64 = PAGE_SIZE;

#[test]
fn anonymous_memory_needs_no_fault() {
    let mm = new_mm();
    let a = mm.mmap(anon(0, 100, RW, PRIVATE)).unwrap();
    assert_eq!(guest_write(&mm, a + 50 * P, b"x"), Ok(0));
    assert_eq!(space(&mm).ops.lock().len(), 1);
    assert_eq!(mm.memory().used(), P);
}
