# python3: threads, locks, queues, conditions, thread pools, timers, signals.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
/usr/bin/python3 - <<'PYTHON'
import concurrent.futures, hashlib, os, queue, signal, sys, threading, time

total, lock = 0, threading.Lock()
def add():
    global total
    for _ in range(2000):
        with lock:
            total += 1
threads = [threading.Thread(target=add) for _ in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
print("counted", total)

jobs, results = queue.Queue(8), queue.Queue()
def work():
    while (item := jobs.get()) is not None:
        results.put((item, hashlib.sha256(b"%d" % item).hexdigest()[:8]))
workers = [threading.Thread(target=work) for _ in range(4)]
[w.start() for w in workers]
for i in range(500): jobs.put(i)
for _ in workers: jobs.put(None)
[w.join() for w in workers]
got = sorted(results.queue)
print(len(got), got[0], got[-1])

with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(lambda n: n * n, range(1000))))
    slow = pool.submit(time.sleep, 0.2)
    try: slow.result(timeout=0.01)
    except concurrent.futures.TimeoutError: print("timeout")

barrier, order = threading.Barrier(5), []
def meet():
    barrier.wait(); order.append(1)
ts = [threading.Thread(target=meet) for _ in range(5)]
[t.start() for t in ts]; [t.join() for t in ts]
print("met", len(order))

cond, box = threading.Condition(), []
def consumer():
    with cond:
        while len(box) < 3: cond.wait()
        print("consumed", box)
c = threading.Thread(target=consumer); c.start()
for i in range(3):
    with cond: box.append(i); cond.notify_all()
c.join()

event = threading.Event(); threading.Timer(0.05, event.set).start()
print("event", event.wait(10)); print("no event", threading.Event().wait(0.02))
sem = threading.Semaphore(2); print(sem.acquire(), sem.acquire(), sem.acquire(timeout=0.01))
local = threading.local(); local.x = 1
def see(): print("local", hasattr(local, "x"))
t = threading.Thread(target=see); t.start(); t.join()
print("ids differ", len({threading.get_native_id()} | {os.getpid()}) == 1)

signal.signal(signal.SIGUSR1, lambda n, f: print("signal in", threading.current_thread().name))
t = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGUSR1)); t.start(); t.join(); time.sleep(0)
signal.signal(signal.SIGALRM, lambda n, f: None)
# Repeating, in case the first one comes before pause.
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05); signal.pause(); print("left", signal.setitimer(signal.ITIMER_REAL, 0)[1])
def boom(): raise ValueError("in a thread")
threading.excepthook = lambda a: print("hook", a.exc_type.__name__, a.exc_value)
t = threading.Thread(target=boom); t.start(); t.join()
r, w = os.pipe(); t = threading.Thread(target=lambda: os.write(w, b"x" * 100000)); t.start()
n = 0
while n < 100000: n += len(os.read(r, 4096))
t.join(); print("piped", n)
deep = threading.stack_size(16 << 20)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
sys.setrecursionlimit(20000); t = threading.Thread(target=lambda: print("depth", depth(15000))); t.start(); t.join()
for _ in range(300):
    t = threading.Thread(target=int); t.start(); t.join()
print("threads left", threading.active_count())
PYTHON
