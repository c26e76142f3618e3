//! Hot paths of the Sentry that need neither a sandbox nor a platform.
//!
//! The platform is one that forgets what it is told, so the figures are the Sentry's own share of
//! a system call.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has to end"
)]

mod support;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use runsc_platform::{Fault, Platform};
use runsc_sentry::fs::change::Make;
use runsc_sentry::fs::context::FsContext;
use runsc_sentry::fs::fdtable::{Exec, FdTable};
use runsc_sentry::fs::file::File;
use runsc_sentry::fs::inode::OpenFlags;
use runsc_sentry::fs::mount::{Mount, MountFlags, MountNamespace};
use runsc_sentry::fs::pipe::pipe_of;
use runsc_sentry::fs::tmpfs::{Options, Tmpfs};
use runsc_sentry::fs::walk::{Base, Ctx, WalkFlags};
use runsc_sentry::kernel::cred::{Credentials, Gid, Uid};
use runsc_sentry::mm::io::{Sink, Source};
use runsc_sentry::mm::{Limits, MapRequest, Mm, PAGE_SIZE};
use support::{NoPlatform, memory};

/// Root at the root of a tmpfs with `/a/b/c/d/file`.
fn tree() -> Ctx {
    let tmpfs = Tmpfs::mount(memory(), &Options::default()).unwrap();
    let mount = Mount::new(tmpfs, b"bench", MountFlags::empty());
    let context = FsContext::new(MountNamespace::new(mount));
    let ctx = Ctx::new(&context, Arc::new(Credentials::root()));
    for dir in ["/a", "/a/b", "/a/b/c", "/a/b/c/d"] {
        ctx.make(&Base::Cwd, dir.as_bytes(), Make::Dir, 0o755)
            .unwrap();
    }
    drop(open(&ctx, OpenFlags::CREAT | OpenFlags::RDWR));
    ctx
}

fn open(ctx: &Ctx, flags: OpenFlags) -> Arc<File> {
    ctx.open(
        &Base::Cwd,
        b"/a/b/c/d/file",
        flags,
        0o644,
        WalkFlags::empty(),
    )
    .and_then(|opened| opened.file())
    .unwrap()
}

fn files(c: &mut Criterion) {
    let ctx = tree();
    c.bench_function("walk_5_components", |b| {
        b.iter(|| {
            let path = black_box(b"/a/b/c/d/file");
            ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW).unwrap()
        });
    });
    c.bench_function("walk_missing", |b| {
        b.iter(|| {
            let path = black_box(b"/a/b/c/d/none");
            ctx.lookup(&Base::Cwd, path, WalkFlags::FOLLOW).is_err()
        });
    });
    c.bench_function("open_close", |b| b.iter(|| open(&ctx, OpenFlags::RDWR)));

    let file = open(&ctx, OpenFlags::RDWR);
    let mut page = vec![7; PAGE_SIZE as usize];
    c.bench_function("pwrite_pread_4k", |b| {
        b.iter(|| {
            file.pwrite(&mut Source::kernel(&page), 0).unwrap();
            file.pread(&mut Sink::kernel(&mut page), 0).unwrap()
        });
    });

    let table = FdTable::new();
    for _ in 0..64 {
        table.add(file.clone(), Exec::Keep, 0, 1024).unwrap();
    }
    c.bench_function("fd_lookup", |b| {
        b.iter(|| table.get(black_box(40)).unwrap())
    });
    c.bench_function("fd_add_close", |b| {
        b.iter(|| {
            let fd = table.add(file.clone(), Exec::Keep, 0, 1024).unwrap();
            table.close(fd).unwrap();
        });
    });
}

fn pipes(c: &mut Criterion) {
    let (read, write) = pipe_of(Uid(0), Gid(0), OpenFlags::empty());
    for (name, len) in [("pipe_1_byte", 1), ("pipe_4k", 4096)] {
        let mut buffer = vec![7; len];
        c.bench_function(name, |b| {
            b.iter(|| {
                write.write(&mut Source::kernel(&buffer)).unwrap();
                read.read(&mut Sink::kernel(&mut buffer)).unwrap()
            });
        });
    }
}

fn anonymous(pages: u64) -> MapRequest {
    MapRequest {
        addr: 0,
        len: pages * PAGE_SIZE,
        prot: libc::PROT_READ | libc::PROT_WRITE,
        flags: libc::MAP_ANONYMOUS | libc::MAP_PRIVATE,
        file: None,
        offset: 0,
    }
}

fn space() -> Arc<Mm> {
    let platform: Arc<dyn Platform> = Arc::new(NoPlatform);
    let mm = Mm::new(&platform, &memory(), Limits::default());
    // As many mappings as a small dynamically linked program has, no two alike.
    for i in 0..40 {
        let mut request = anonymous(4);
        if i % 2 == 0 {
            request.prot = libc::PROT_READ;
        }
        mm.mmap(request).unwrap();
    }
    mm
}

fn mappings(c: &mut Criterion) {
    let file = memory();
    c.bench_function("memory_file_allocate_free", |b| {
        b.iter(|| file.allocate(4 * PAGE_SIZE).unwrap());
    });

    let mm = space();
    c.bench_function("mmap_munmap", |b| {
        b.iter(|| {
            let addr = mm.mmap(anonymous(1)).unwrap();
            mm.munmap(addr, PAGE_SIZE).unwrap();
        });
    });
    c.bench_function("fork_and_drop", |b| b.iter(|| mm.fork().unwrap()));

    let addr = mm.mmap(anonymous(256)).unwrap();
    let fault = Fault {
        signal: libc::SIGSEGV,
        code: 2,
        addr,
        access: None,
    };
    c.bench_function("copy_on_write_fault", |b| {
        b.iter_batched(
            || mm.fork().unwrap(),
            |child| {
                child.handle_fault(&fault).unwrap();
                child
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, files, pipes, mappings);
criterion_main!(benches);
