# python3: multiprocessing by fork, spawn and forkserver; pools, queues, shared
# memory, semaphores, managers.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
cat > mp.py <<'PYTHON'
import multiprocessing as mp, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory

def square(n): return n * n
def fail(n): raise ValueError(f"no {n}")
def produce(q, n):
    for i in range(200): q.put(n * 1000 + i)
def count(value, lock):
    for _ in range(500):
        with lock: value.value += 1
def talk(conn):
    while (m := conn.recv()) is not None: conn.send(m[::-1])
def fill(name, start, end):
    m = shared_memory.SharedMemory(name)
    for i in range(start, end): m.buf[i] = i % 251
    m.close()
def die(how): os.kill(os.getpid(), signal.SIGKILL) if how == "kill" else sys.exit(7)
def meet(barrier, event): barrier.wait(); event.wait()
def append(shared, i): shared.append(i)

def main():
    for method in ("fork", "spawn", "forkserver"):
        c = mp.get_context(method); print("==", method)
        with c.Pool(3) as pool:
            print(sum(pool.map(square, range(1000))), pool.apply_async(square, (9,)).get(30), list(pool.imap(square, range(5))))
            try: pool.apply(fail, (1,))
            except ValueError as e: print(e)
        q = c.Queue(); ps = [c.Process(target=produce, args=(q, n)) for n in range(3)]
        [p.start() for p in ps]; got = [q.get() for _ in range(600)]; [p.join() for p in ps]; print(len(set(got)), sum(got), [p.exitcode for p in ps])
        v, l = c.Value("i", 0, lock=False), c.Lock(); ps = [c.Process(target=count, args=(v, l)) for _ in range(4)]
        [p.start() for p in ps]; [p.join() for p in ps]; print(v.value)
        a, b = c.Pipe(); p = c.Process(target=talk, args=(b,)); p.start()
        for m in ("abc", "x" * 200000): a.send(m); print(len(a.recv()))
        a.send(None); p.join(); print(p.exitcode)
        m = shared_memory.SharedMemory(create=True, size=100000)
        ps = [c.Process(target=fill, args=(m.name, i * 25000, (i + 1) * 25000)) for i in range(4)]
        [p.start() for p in ps]; [p.join() for p in ps]; print(sum(m.buf)); m.close(); m.unlink()
        for how in ("kill", "exit"): p = c.Process(target=die, args=(how,)); p.start(); p.join(); print(p.exitcode)
        bar, ev = c.Barrier(3), c.Event(); ps = [c.Process(target=meet, args=(bar, ev)) for _ in range(2)]
        [p.start() for p in ps]; bar.wait(); ev.set(); [p.join() for p in ps]; print("met")
        p = c.Process(target=time.sleep, args=(60,)); p.start(); p.terminate(); p.join(); print(p.exitcode)
        s = c.Semaphore(1); print(s.acquire(), s.acquire(timeout=0.05))
    with mp.Manager() as manager:
        shared = manager.list(); ps = [mp.Process(target=append, args=(shared, i)) for i in range(5)]
        [p.start() for p in ps]; [p.join() for p in ps]; print(sorted(shared))
    with ProcessPoolExecutor(2) as pool: print(list(pool.map(square, range(10))))
    arr = mp.Array("d", 10); arr[3] = 2.5; print(arr[:4], mp.active_children())
if __name__ == "__main__": main()
PYTHON
/usr/bin/python3 mp.py
