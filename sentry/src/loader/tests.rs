//! Tests of the loader, with images made by hand.

use std::collections::HashMap;

use super::*;
use crate::mm::PAGE_SIZE;
use crate::mm::tests::fake::{self, TestFile, guest_read, new_mm, peek};

const IDS: ExecIds = ExecIds {
    uid: 1,
    euid: 2,
    gid: 3,
    egid: 4,
    secure: true,
};

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, dst: &mut [u8]) -> Result<usize> {
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.0.len());
        let n = dst.len().min(self.0.len() - from);
        dst[..n].copy_from_slice(&self.0[from..from + n]);
        Ok(n)
    }
}

fn file(data: &[u8]) -> ExecFile {
    ExecFile {
        mappable: TestFile::new(data),
        reader: Arc::new(Bytes(data.to_vec())),
        size: data.len() as u64,
        file: None,
    }
}

#[derive(Default)]
struct Files(HashMap<Vec<u8>, Vec<u8>>);

impl ExecFiles for Files {
    fn open_exec(&self, path: &[u8]) -> Result<ExecFile> {
        self.0.get(path).map(|d| file(d)).ok_or(Errno::ENOENT)
    }
}

/// A segment: type, flags, offset, address, bytes in the file, bytes in memory.
type Segment = (u32, u32, u64, u64, u64, u64);

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const R: u32 = 4;
const RW: u32 = 6;
const RX: u32 = 5;

fn image(kind: u16, entry: u64, segments: &[Segment], len: usize) -> Vec<u8> {
    let mut d = Vec::new();
    d.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    d.extend_from_slice(&kind.to_le_bytes());
    d.extend_from_slice(&62u16.to_le_bytes());
    d.extend_from_slice(&1u32.to_le_bytes());
    d.extend_from_slice(&entry.to_le_bytes());
    d.extend_from_slice(&64u64.to_le_bytes());
    d.extend_from_slice(&0u64.to_le_bytes());
    d.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
        d.extend_from_slice(&half.to_le_bytes());
    }
    for s in segments {
        d.extend_from_slice(&s.0.to_le_bytes());
        d.extend_from_slice(&s.1.to_le_bytes());
        for w in [s.2, s.3, s.3, s.4, s.5, 0x1000] {
            d.extend_from_slice(&w.to_le_bytes());
        }
    }
    while d.len() < len {
        d.push((d.len() / 256) as u8 | 0x80);
    }
    d
}

fn request(data: &[u8]) -> ExecRequest<'static> {
    ExecRequest {
        file: file(data),
        filename: b"/bin/prog",
        argv: vec![b"prog".to_vec(), b"two words".to_vec()],
        envp: vec![b"A=1".to_vec()],
        ids: IDS,
        no_randomize: false,
    }
}

fn load(files: &Files, req: ExecRequest<'_>) -> Result<(Arc<Mm>, Loaded)> {
    let prepared = prepare(files, req)?;
    let mm = new_mm();
    let loaded = prepared.load(&mm)?;
    if mm.vm_size() < 64 << 20 {
        fake::check_invariant(&mm);
    }
    Ok((mm, loaded))
}

fn word(mm: &Mm, addr: u64) -> u64 {
    let mut b = [0; 8];
    guest_read(mm, addr, &mut b).unwrap();
    u64::from_ne_bytes(b)
}

fn simple() -> Vec<u8> {
    image(
        2,
        0x400100,
        &[
            (PT_LOAD, RX, 0, 0x400000, 0x1200, 0x1200),
            (PT_LOAD, RW, 0x1800, 0x402800, 0x100, 0x3000),
        ],
        0x2000,
    )
}

#[test]
fn a_static_program_gets_segments_bss_heap_and_stack() {
    let data = simple();
    let (mm, loaded) = load(&Files::default(), request(&data)).unwrap();
    assert_eq!(loaded.entry, 0x400100);
    assert_eq!(peek(&mm, 0x400150), data[0x150]);
    assert_eq!(peek(&mm, 0x402880), data[0x1880]);
    // The rest of the file's page is cleared, the bss is zero.
    assert_eq!(data[0x1900], 0x99);
    assert_eq!(peek(&mm, 0x402900), 0);
    assert_eq!(peek(&mm, 0x4057ff), 0);
    assert!(fake::guest_write(&mm, 0x405000, b"x").is_ok());
    assert!(fake::guest_write(&mm, 0x400100, b"x").is_err());
    assert!(fake::guest_exec(&mm, 0x400100).is_ok());
    assert!(fake::guest_exec(&mm, 0x402800).is_err());
    let layout = mm.layout();
    assert!(layout.start_brk >= 0x406000 && layout.start_brk < 0x406000 + (32 << 20));
    assert_eq!(mm.brk(layout.start_brk + 100), layout.start_brk + 100);
    let names: Vec<_> = mm.maps().into_iter().map(|m| m.name).collect();
    assert!(names.contains(&crate::mm::VmaName::Heap));
    assert!(names.contains(&crate::mm::VmaName::Stack));
}

#[test]
fn the_stack_is_as_the_abi_says() {
    let (mm, loaded) = load(&Files::default(), request(&simple())).unwrap();
    let sp = loaded.stack_pointer;
    assert_eq!(sp % 16, 0);
    let text = |addr| String::from_utf8(mm.read_cstr(addr, 4096).unwrap()).unwrap();
    assert_eq!(word(&mm, sp), 2);
    assert_eq!(text(word(&mm, sp + 8)), "prog");
    assert_eq!(text(word(&mm, sp + 16)), "two words");
    assert_eq!(word(&mm, sp + 24), 0);
    assert_eq!(text(word(&mm, sp + 32)), "A=1");
    assert_eq!(word(&mm, sp + 40), 0);
    let mut auxv = HashMap::new();
    let mut at = sp + 48;
    loop {
        let (kind, value) = (word(&mm, at), word(&mm, at + 8));
        if kind == 0 {
            break;
        }
        assert!(auxv.insert(kind, value).is_none());
        at += 16;
    }
    assert_eq!(auxv[&libc::AT_PAGESZ], 4096);
    assert_eq!(auxv[&libc::AT_ENTRY], 0x400100);
    assert_eq!(auxv[&libc::AT_PHDR], 0x400040);
    assert_eq!(auxv[&libc::AT_PHNUM], 2);
    assert_eq!(auxv[&libc::AT_BASE], 0);
    assert_eq!(auxv[&libc::AT_UID], 1);
    assert_eq!(auxv[&libc::AT_EGID], 4);
    assert_eq!(auxv[&libc::AT_SECURE], 1);
    assert_eq!(text(auxv[&libc::AT_EXECFN]), "/bin/prog");
    assert_eq!(text(auxv[&libc::AT_PLATFORM]), "x86_64");
    assert_ne!(word(&mm, auxv[&libc::AT_RANDOM]), 0);
    let layout = mm.layout();
    let mut args = vec![0; (layout.arg_end - layout.arg_start) as usize];
    mm.read_bytes(layout.arg_start, &mut args).unwrap();
    assert_eq!(args, b"prog\0two words\0");
    assert_eq!(layout.env_end - layout.env_start, 4);
}

#[test]
fn an_interpreter_is_loaded_and_started_first() {
    let mut prog = image(
        3,
        0x100,
        &[
            (PT_INTERP, R, 0x800, 0x800, 7, 7),
            (PT_LOAD, RX, 0, 0, 0x1000, 0x1000),
        ],
        0x1000,
    );
    prog[0x800..0x807].copy_from_slice(b"/lib/i\0");
    let interp = image(3, 0x20, &[(PT_LOAD, RX, 0, 0, 0x1000, 0x1000)], 0x1000);
    let mut files = Files::default();
    assert_eq!(load(&files, request(&prog)).err(), Some(Errno::ENOENT));
    files.0.insert(b"/lib/i".to_vec(), interp);
    let (mm, loaded) = load(&files, request(&prog)).unwrap();
    let layout = mm.layout();
    let base = layout.auxv.iter().find(|e| e.0 == libc::AT_BASE).unwrap().1;
    let entry = layout
        .auxv
        .iter()
        .find(|e| e.0 == libc::AT_ENTRY)
        .unwrap()
        .1;
    assert_eq!(loaded.entry, base + 0x20);
    assert_eq!(entry, layout.start_code + 0x100);
    assert!(layout.start_code >= 0x5555_5555_4000);
    files.0.insert(b"/lib/i".to_vec(), vec![b'x'; 100]);
    assert_eq!(load(&files, request(&prog)).err(), Some(Errno::ELIBBAD));
    files.0.insert(b"/lib/i".to_vec(), b"x".to_vec());
    assert_eq!(load(&files, request(&prog)).err(), Some(Errno::EIO));
}

#[test]
fn scripts_rewrite_argv_and_have_a_limit() {
    let mut files = Files::default();
    files.0.insert(b"/bin/prog".to_vec(), simple());
    files
        .0
        .insert(b"/s0".to_vec(), b"#!/bin/prog -x y\n".to_vec());
    let mut req = request(b"#!/s0\n");
    req.filename = b"./script";
    let prepared = prepare(&files, req).unwrap();
    let argv: Vec<&[u8]> = prepared.argv.iter().map(|a| &a[..]).collect();
    assert_eq!(
        argv,
        [
            &b"/bin/prog"[..],
            b"-x y",
            b"/s0",
            b"./script",
            b"two words"
        ]
    );
    for i in 1..6 {
        let line = format!("#!/s{}\n", i - 1).into_bytes();
        files.0.insert(format!("/s{i}").into_bytes(), line);
    }
    assert!(prepare(&files, request(&files.0[&b"/s4"[..]])).is_ok());
    assert_eq!(
        prepare(&files, request(&files.0[&b"/s5"[..]])).err(),
        Some(Errno::ELOOP)
    );
}

#[test]
fn too_much_to_pass_is_refused() {
    let none = Files::default();
    let mut req = request(&simple());
    req.argv.push(vec![b'a'; 32 * 4096]);
    assert_eq!(prepare(&none, req).err(), Some(Errno::E2BIG));
    let mut req = request(&simple());
    req.argv = vec![vec![b'a'; 32 * 4096 - 1]; 10];
    assert!(load(&none, req).is_ok());
    let mut req = request(&simple());
    req.argv = vec![vec![b'a'; 100_000]; 30];
    assert_eq!(load(&none, req).err(), Some(Errno::E2BIG));
    let mut req = request(&simple());
    req.argv = Vec::new();
    let (mm, loaded) = load(&none, req).unwrap();
    assert_eq!(word(&mm, loaded.stack_pointer), 1);
}

#[test]
fn hostile_headers_are_refused() {
    let none = Files::default();
    let try_it = |data: &[u8]| load(&none, request(data)).err();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut data = simple();
        change(&mut data);
        data
    };
    assert_eq!(try_it(b""), Some(Errno::ENOEXEC));
    assert_eq!(try_it(b"\x7fELF"), Some(Errno::ENOEXEC));
    assert_eq!(try_it(&with(&|d| d[4] = 1)), Some(Errno::ENOEXEC), "32 bit");
    assert_eq!(
        try_it(&with(&|d| d[5] = 2)),
        Some(Errno::ENOEXEC),
        "big endian"
    );
    assert_eq!(
        try_it(&with(&|d| d[18] = 183)),
        Some(Errno::ENOEXEC),
        "machine"
    );
    assert_eq!(
        try_it(&with(&|d| d[16] = 1)),
        Some(Errno::ENOEXEC),
        "object file"
    );
    assert_eq!(
        try_it(&with(&|d| d[54] = 55)),
        Some(Errno::ENOEXEC),
        "phentsize"
    );
    assert_eq!(
        try_it(&with(&|d| d[56] = 0)),
        Some(Errno::ENOEXEC),
        "no headers"
    );
    assert_eq!(
        try_it(&with(&|d| d[56..58].copy_from_slice(&[255, 255]))),
        Some(Errno::ENOEXEC),
        "too many headers"
    );
    assert_eq!(
        try_it(&with(
            &|d| d[32..40].copy_from_slice(&u64::MAX.to_le_bytes())
        )),
        Some(Errno::ENOEXEC),
        "headers beyond the end"
    );
    let seg = |s: Segment| image(2, 0x400000, &[s], 0x1000);
    let cases: &[(Segment, Errno)] = &[
        ((PT_LOAD, R, 0, 0x400000, 0x1000, 0x800), Errno::EINVAL),
        ((PT_LOAD, R, 0, 0x400000, 0x1000, u64::MAX), Errno::EINVAL),
        (
            (PT_LOAD, R, 0, u64::MAX - 0xfff, 0x1000, 0x1000),
            Errno::EINVAL,
        ),
        (
            (PT_LOAD, R, u64::MAX - 0xfff, 0x400000, 0x1000, 0x1000),
            Errno::EINVAL,
        ),
        ((PT_LOAD, R, 1, 0x400000, 0x100, 0x100), Errno::EINVAL),
        (
            (PT_LOAD, R, 0, 0x7fff_ffff_f000, 0x1000, 0x1000),
            Errno::EINVAL,
        ),
        ((PT_LOAD, R, 0, 0, 0x1000, 0x1000), Errno::EPERM),
        ((PT_LOAD, R, 0, 0x400000, 0, 0), Errno::EINVAL),
        (
            (PT_LOAD, RW, 0x40_0000, 0x400000, 0x800, 0x1000),
            Errno::EFAULT,
        ),
        ((PT_INTERP, R, 0, 0, 1, 1), Errno::ENOEXEC),
        ((PT_INTERP, R, 0, 0, 5000, 5000), Errno::ENOEXEC),
        ((PT_INTERP, R, 0, 0, 16, 15), Errno::ENOEXEC),
        ((PT_INTERP, R, 0x5000, 0, 16, 16), Errno::EIO),
        ((7, R, 0, 0, 16, 16), Errno::EINVAL),
    ];
    for (segment, errno) in cases {
        let mut data = seg(*segment);
        data[15] = b'x';
        assert_eq!(try_it(&data), Some(*errno), "{segment:x?}");
    }
    // An entry outside any segment is the program's own affair, one outside the space is not.
    assert_eq!(
        try_it(&image(
            2,
            u64::MAX,
            &[(PT_LOAD, R, 0, 0x400000, 0x100, 0x100)],
            0x1000
        )),
        Some(Errno::EINVAL)
    );
    // Overlapping segments: the later one wins.
    let data = image(
        2,
        0x400000,
        &[
            (PT_LOAD, R, 0, 0x400000, 0x2000, 0x2000),
            (PT_LOAD, R, 0x1000, 0x400000, 0x1000, 0x1000),
        ],
        0x2000,
    );
    let (mm, _) = load(&none, request(&data)).unwrap();
    assert_eq!(peek(&mm, 0x400200), data[0x1200]);
}

#[test]
fn random_damage_never_panics() {
    let none = Files::default();
    let mut seed = 0x1234_5678_9abc_def1u64;
    for _ in 0..400 {
        let mut data = simple();
        for _ in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = (seed >> 8) as usize % 176;
            data[at] = seed as u8;
        }
        let _ = load(&none, request(&data));
    }
}

#[test]
fn addresses_differ_unless_told_not_to() {
    let prog = image(3, 0x20, &[(PT_LOAD, RX, 0, 0, 0x1000, 0x1000)], 0x1000);
    let at = |fixed: bool| {
        let mut req = request(&prog);
        req.no_randomize = fixed;
        let (mm, loaded) = load(&Files::default(), req).unwrap();
        assert_eq!(mm.layout().start_code % PAGE_SIZE, 0);
        (loaded.entry, loaded.stack_pointer, mm.layout().start_brk)
    };
    assert_eq!(at(true), at(true));
    let (a, b) = (at(false), at(false));
    assert!(a.0 != b.0 && a.1 != b.1 && a.2 != b.2);
}
