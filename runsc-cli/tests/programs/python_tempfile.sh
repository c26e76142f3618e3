# python3: tempfile, shutil, pathlib, os: what programs do with files.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
/usr/bin/python3 - <<'PYTHON'
import errno, fcntl, os, pathlib, select, shutil, stat, tempfile, zipfile
with tempfile.TemporaryFile() as f: f.write(b"a" * 100000); f.seek(50); print(f.tell(), len(f.read()), os.fstat(f.fileno()).st_nlink)
with tempfile.NamedTemporaryFile("w+", suffix=".x", dir=".") as f: f.write("named"); f.flush(); print(open(f.name).read(), oct(os.stat(f.name).st_mode)); name = f.name
print(os.path.exists(name))
with tempfile.TemporaryDirectory() as d: pathlib.Path(d, "sub", "dir").mkdir(parents=True); pathlib.Path(d, "sub", "f").write_text("x"); print(sorted(p.name for p in pathlib.Path(d).rglob("*")), oct(os.stat(d).st_mode))
print(os.path.exists(d))
with tempfile.SpooledTemporaryFile(100) as f: f.write(b"y" * 500); f.seek(0); print(len(f.read()))
fd, name = tempfile.mkstemp(dir="."); print(os.write(fd, b"0123456789"), os.pread(fd, 3, 4), os.lseek(fd, 0, os.SEEK_END), os.pwritev(fd, [b"AB", b"CD"], 8)); os.ftruncate(fd, 11); print(os.pread(fd, 99, 0)); os.posix_fallocate(fd, 0, 5000); print(os.fstat(fd).st_size); os.fsync(fd); os.close(fd); os.unlink(name)
def error(f, *a, **k):
    try: f(*a, **k); print("no error")
    except OSError as e: print(f.__name__, errno.errorcode[e.errno])
os.mkdir("d"); open("d/f", "w").close(); os.symlink("loop", "loop"); open("f", "w").write("f")
error(os.rmdir, "d"); error(os.unlink, "d/none"); error(os.open, "loop", 0); error(os.open, "f/x", 0); error(os.open, "d", os.O_WRONLY); error(os.mkdir, "d"); error(os.rename, "d", "d/sub")
error(os.open, "f", os.O_CREAT | os.O_EXCL); error(os.link, "d", "dl"); error(os.open, "x" * 300, 0); error(os.readlink, "f"); error(os.rename, "f", "d"); error(os.close, 999); error(os.lseek, 0, -5, 5); error(os.symlink, "a", "f")
os.rename("f", "d/g"); os.link("d/g", "h"); print(os.path.samefile("h", "d/g"), os.stat("h").st_nlink); os.replace("h", "d/f"); print(sorted(os.listdir("d")))
os.utime("d/g", ns=(10**18 + 1, 10**18 + 123456789)); print(os.stat("d/g").st_mtime_ns, os.stat("d/g").st_atime_ns); os.chmod("d/g", 0o4755); print(stat.filemode(os.stat("d/g").st_mode))
shutil.copytree("d", "e", symlinks=True); shutil.copy2("d/g", "e/copy"); print(os.stat("e/copy").st_mtime_ns); shutil.move("e", "moved"); print(sorted(os.listdir("moved"))); shutil.rmtree("moved"); print(os.path.exists("moved"))
shutil.make_archive("arch", "zip", "d"); print(sorted(zipfile.ZipFile("arch.zip").namelist())); shutil.unpack_archive("arch.zip", "un"); print(sorted(os.listdir("un")))
dfd = os.open("d", os.O_RDONLY | os.O_DIRECTORY); print(sorted(os.listdir(dfd)), os.stat("g", dir_fd=dfd).st_size); os.mkdir("at", dir_fd=dfd); os.rename("at", "at2", src_dir_fd=dfd, dst_dir_fd=dfd); print(sorted(e.name for e in os.scandir("d") if e.is_dir())); os.fchdir(dfd); print(os.path.basename(os.getcwd())); os.chdir(".."); os.close(dfd)
a = open("locked", "w"); fcntl.lockf(a, fcntl.LOCK_EX); pid = os.fork()
if pid == 0:
    b = open("locked", "w")
    try: fcntl.lockf(b, fcntl.LOCK_EX | fcntl.LOCK_NB); os._exit(1)
    except OSError as e: os._exit(0 if e.errno in (errno.EAGAIN, errno.EACCES) else 2)
print("lock", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
for i in range(300): pathlib.Path(f"many{i}").write_bytes(bytes([i % 256]) * i)
print(sum(p.stat().st_size for p in pathlib.Path().glob("many*"))); [p.unlink() for p in pathlib.Path().glob("many*")]
src, dst = open("src", "w+b"), open("dst", "w+b"); src.write(os.urandom(300000)); src.flush(); print(os.sendfile(dst.fileno(), src.fileno(), 0, 300000), os.copy_file_range(src.fileno(), dst.fileno(), 1000, 0, 300000)); dst.seek(0); src.seek(0); print(dst.read(300000) == src.read())
os.mkfifo("ff"); r = os.open("ff", os.O_RDONLY | os.O_NONBLOCK); w = os.open("ff", os.O_WRONLY); os.write(w, b"fifo"); print(os.read(r, 10)); os.close(w); print(os.read(r, 10))
ep = select.epoll(); p1, p2 = os.pipe(); ep.register(p1, select.EPOLLIN); print(ep.poll(0.01)); os.write(p2, b"x"); print(ep.poll(10) == [(p1, select.EPOLLIN)])
ev = os.eventfd(3); print(os.eventfd_read(ev)); m = os.memfd_create("mem"); os.write(m, b"memory"); print(os.pread(m, 10, 0), os.readlink(f"/proc/self/fd/{m}")); print(os.get_inheritable(m), os.get_blocking(p1), sorted(set(os.sched_getaffinity(0))) != [])
try: os.setxattr("src", "user.note", b"hello"); print(os.getxattr("src", "user.note"), os.listxattr("src"))
except OSError as e: print("xattr", errno.errorcode[e.errno])
PYTHON
