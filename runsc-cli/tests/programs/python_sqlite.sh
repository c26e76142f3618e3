# python3: sqlite3 on disk, rollback journal and write-ahead log, two processes.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
/usr/bin/python3 - <<'PYTHON'
import hashlib, os, signal, sqlite3, subprocess, sys
for mode in ("delete", "truncate", "persist", "wal"):
    name = mode + ".db"; db = sqlite3.connect(name, isolation_level=None)
    print(mode, db.execute(f"pragma journal_mode={mode}").fetchone())
    db.execute("pragma synchronous=full")
    db.execute("create table t (id integer primary key, k text, v real)"); db.execute("create index i on t(k)")
    db.execute("begin"); db.executemany("insert into t (k, v) values (?, ?)", ((f"key{i * 7919 % 5000}", i / 3) for i in range(5000)))
    print(sorted(f for f in os.listdir() if f.startswith(mode))); db.execute("commit")
    for i in range(20):
        db.execute("begin"); db.execute("update t set v = v + 1 where id % 20 = ?", (i,)); db.execute("commit" if i % 3 else "rollback")
    print(db.execute("select count(*), round(sum(v), 3), max(k) from t").fetchone())
    print(db.execute("select id, k from t where k like 'key12%' order by k limit 3").fetchall())
    other = sqlite3.connect(name, timeout=0.1, isolation_level=None); db.execute("begin immediate"); db.execute("delete from t where id = 1")
    try: other.execute("delete from t where id = 2")
    except sqlite3.OperationalError as e: print(e)
    print(other.execute("select count(*) from t").fetchone()); db.execute("rollback"); other.close()
    # A process that dies in the middle of a transaction: the next one rolls it back.
    code = f"""
import os, signal, sqlite3
db = sqlite3.connect({name!r}, isolation_level=None); db.execute("pragma cache_size=5"); db.execute("begin")
db.execute("update t set k = 'torn' || id, v = 0"); os.kill(os.getpid(), signal.SIGKILL)"""
    print(subprocess.run([sys.executable, "-c", code]).returncode)
    print(db.execute("select count(*) from t where k like 'torn%'").fetchone(), db.execute("pragma integrity_check").fetchone())
    counter = f"""
import sqlite3
db = sqlite3.connect({name!r}, timeout=60, isolation_level=None)
for _ in range(25): db.execute("update t set v = v + 1 where id = 7")"""
    before = db.execute("select v from t where id = 7").fetchone()[0]
    ps = [subprocess.Popen([sys.executable, "-c", counter]) for _ in range(3)]; print([p.wait() for p in ps])
    print(db.execute("select v from t where id = 7").fetchone()[0] - before)
    db.execute("delete from t where id > 100"); db.execute("vacuum"); dump = "\n".join(db.iterdump()); print(hashlib.sha256(dump.encode()).hexdigest())
    copy = sqlite3.connect("copy-" + name); db.backup(copy); print(copy.execute("select count(*) from t").fetchone()); copy.close(); db.close()
    print(sorted(f for f in os.listdir() if f.startswith(mode)), os.path.getsize(name))
try: sqlite3.connect("/nonexistent/x.db")
except sqlite3.OperationalError as e: print(e)
open("bad.db", "wb").write(b"not a database" * 1000)
try: sqlite3.connect("bad.db").execute("select 1 from x")
except sqlite3.DatabaseError as e: print(e)
ro = sqlite3.connect("file:delete.db?mode=ro", uri=True)
try: ro.execute("delete from t")
except sqlite3.OperationalError as e: print(e)
PYTHON
