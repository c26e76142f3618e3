# python3: mmap of files and of memory, shared between processes, resized.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
/usr/bin/python3 - <<'PYTHON'
import ctypes, hashlib, mmap, os, signal
with open("file", "wb") as f: f.write(bytes(i * 31 % 256 for i in range(1 << 20)))
f = open("file", "r+b"); m = mmap.mmap(f.fileno(), 0)
print(len(m), hashlib.sha256(m).hexdigest(), m.find(b"\x1f>"), m[4095:4098])
m[100:105] = b"HELLO"; m.flush(); print(os.pread(f.fileno(), 5, 100)); os.pwrite(f.fileno(), b"disk", 200); print(m[200:204])
m.move(0, 100, 5); print(m[:5]); m.resize(2 << 20); print(len(m), os.stat("file").st_size, m[-1]); m.madvise(mmap.MADV_SEQUENTIAL)
c = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); c[0:4] = b"priv"; print(c[:4], m[:4], os.pread(f.fileno(), 4, 0))
r = mmap.mmap(f.fileno(), 4096, prot=mmap.PROT_READ, offset=8192); print(hashlib.md5(r).hexdigest())
try: r[0] = 1
except TypeError as e: print(e)
try: mmap.mmap(f.fileno(), 4096, offset=100)
except OSError as e: print(e)
s = mmap.mmap(-1, 1 << 16); pid = os.fork()
if pid == 0: s[:5] = b"child"; m[300:305] = b"child"; c[:5] = b"child"; os._exit(0)
os.waitpid(pid, 0); print(s[:5], m[300:305], c[:5], os.pread(f.fileno(), 5, 300))
p = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); p[:6] = b"parent"; pid = os.fork()
if pid == 0: p[:6] = b"kid..."; os._exit(0 if p[:6] == b"kid..." else 1)
print(os.waitpid(pid, 0)[1], p[:6])
os.unlink("file"); m[:7] = b"deleted"; print(os.pread(f.fileno(), 7, 0)); m.close(); c.close()
t = open("short", "w+b"); t.write(b"z" * 8192); t.flush(); b = mmap.mmap(t.fileno(), 8192); os.ftruncate(t.fileno(), 4096); pid = os.fork()
if pid == 0: print(b[4096]); os._exit(0)
print("SIGBUS", os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGBUS)
pid = os.fork()
if pid == 0: ctypes.string_at(8)
print("SIGSEGV", os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV)
big = mmap.mmap(-1, 1 << 30)
for i in range(0, 1 << 30, 64 << 20): big[i] = i >> 26
print(sum(big[i] for i in range(0, 1 << 30, 64 << 20))); big.madvise(mmap.MADV_DONTNEED); big.close()
maps = [mmap.mmap(-1, 4096) for _ in range(500)]
for i, x in enumerate(maps): x[0] = i % 256
print(sum(x[0] for x in maps)); [x.close() for x in maps]
x = mmap.mmap(-1, 4096, prot=7); x.write(b"\xb8\x2a\x00\x00\x00\xc3"); print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(x)))())
libc = ctypes.CDLL(None, use_errno=True); print(libc.mprotect(ctypes.c_void_p(4096), 4096, 0), ctypes.get_errno()); print("heap" in open("/proc/self/maps").read(), any("[stack]" in l for l in open("/proc/self/maps")))
py = open("/usr/bin/python3", "rb"); e = mmap.mmap(py.fileno(), 0, prot=mmap.PROT_READ); print(hashlib.sha256(e).hexdigest(), e[:4])
PYTHON
