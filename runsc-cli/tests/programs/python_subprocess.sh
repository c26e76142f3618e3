# python3: subprocess, pipes, pseudo-terminals, signals to children, asyncio.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
/usr/bin/python3 - <<'PYTHON'
import asyncio, os, pty, select, shlex, signal, socket, subprocess as sp, sys
run = sp.run
print(run(["echo", "hello"], capture_output=True, text=True).stdout)
print(run("exit 3", shell=True).returncode, run("kill -9 $$", shell=True).returncode)
print(run(["cat"], input=b"x" * 300000, stdout=sp.PIPE).stdout.count(b"x"))
try: run(["no-such-program"])
except FileNotFoundError as e: print(e)
try: run(["/etc/passwd"])
except PermissionError as e: print(e)
try: run(["sleep", "60"], timeout=0.1)
except sp.TimeoutExpired as e: print("timeout", e.cmd)
try: run(["true"], cwd="/nonexistent")
except OSError as e: print(e)
try: sp.check_output("echo bad; exit 5", shell=True)
except sp.CalledProcessError as e: print(e.returncode, e.output)
a = sp.Popen(["seq", "1", "100000"], stdout=sp.PIPE); b = sp.Popen(["grep", "-c", "7"], stdin=a.stdout, stdout=sp.PIPE)
a.stdout.close(); print(b.communicate()[0], a.wait())
p = sp.Popen([sys.executable, "-c", "import sys\nfor l in sys.stdin: print(l.strip().upper(), flush=True)"], stdin=sp.PIPE, stdout=sp.PIPE, text=True)
for w in ("one", "two"): print(w, file=p.stdin, flush=True); print(p.stdout.readline().strip())
p.stdin.close(); print(p.wait()); p.stdout.close()
p = sp.Popen(["sleep", "60"]); p.send_signal(signal.SIGSTOP); print(os.WIFSTOPPED(os.waitpid(p.pid, os.WUNTRACED)[1]))
p.send_signal(signal.SIGCONT); print(os.WIFCONTINUED(os.waitpid(p.pid, os.WCONTINUED)[1])); p.terminate(); print(p.wait())
print(run(["sh", "-c", "echo $A; ulimit -n; pwd | wc -c"], env={"A": "env", "PATH": "/usr/bin:/bin"}, cwd="/", preexec_fn=lambda: __import__("resource").setrlimit(7, (100, 100)), stdout=sp.PIPE, text=True).stdout)
r, w = os.pipe(); run(["sh", "-c", f"echo passed >&{w}"], pass_fds=[w]); os.close(w); print(os.read(r, 100))
p = sp.Popen(["sleep", "60"], start_new_session=True); print(os.getsid(p.pid) == p.pid, os.getpgid(p.pid) == p.pid); os.killpg(p.pid, signal.SIGTERM); print(p.wait())
pid, fd = pty.fork()
if pid == 0: os.execvp("sh", ["sh", "-c", "stty -echo; test -t 0 && stty size && echo terminal; read x; echo got $x"])
out = b""
while b"terminal\r\n" not in out: out += os.read(fd, 1000)
os.write(fd, b"typed\n")
try:
    while chunk := os.read(fd, 1000): out += chunk
except OSError as e: print("pty", e.errno)
print(out, os.waitpid(pid, 0)[1])
ps = [sp.Popen(["sh", "-c", f"exit {i}"]) for i in range(20)]; print([p.wait() for p in ps])
fd1 = os.pidfd_open((c := sp.Popen(["true"])).pid); print(select.select([fd1], [], [], 10)[0] == [fd1], c.wait())
async def main():
    async def one(i):
        p = await asyncio.create_subprocess_exec("sh", "-c", f"sleep 0.0{i}; echo {i}", stdout=sp.PIPE); out, _ = await p.communicate(); return out.strip(), p.returncode
    print(await asyncio.gather(*(one(i) for i in range(5))))
    server = await asyncio.start_unix_server(serve, "sock"); rd, wr = await asyncio.open_unix_connection("sock"); wr.write(b"ping\n"); print(await rd.readline()); wr.close(); server.close()
async def serve(rd, wr): wr.write((await rd.readline()).upper()); await wr.drain(); wr.close()
asyncio.run(main())
print(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], os.environ) > 0, os.waitstatus_to_exitcode(os.wait()[1]))
PYTHON
