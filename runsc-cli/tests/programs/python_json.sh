# python3: json over a 10 MB file; text, compression and numbers around it.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
/usr/bin/python3 - <<'PYTHON'
import base64, collections, csv, decimal, gzip, hashlib, io, json, lzma, os, pickle, random, re, struct, zlib
random.seed(42)
rows = [{"id": i, "name": "".join(random.choices("abcdefghijklmnopqrstuvwxyzäöü", k=12)), "score": random.random(), "tags": random.sample(["red", "green", "blue", "grün"], 2), "nested": {"flag": i % 3 == 0, "none": None, "list": list(range(i % 7))}} for i in range(65000)]
with open("data.json", "w", encoding="utf-8") as f: json.dump(rows, f)
size = os.path.getsize("data.json"); print(size, size > 10_000_000)
def sha(path): return hashlib.file_digest(open(path, "rb"), "sha256").hexdigest()
print(sha("data.json"))
with open("data.json", encoding="utf-8") as f: back = json.load(f)
print(back == rows, len(back), sum(r["score"] for r in back), collections.Counter(t for r in back for t in r["tags"]).most_common())
with open("lines", "w", encoding="utf-8") as f:
    for r in back: print(json.dumps(r, ensure_ascii=False, sort_keys=True), file=f)
print(sha("lines")); print(sum(1 for l in open("lines", encoding="utf-8") if re.search("grün.*true", l)))
with gzip.GzipFile("data.gz", "wb", mtime=0) as z: z.write(open("data.json", "rb").read())
print(hashlib.sha256(gzip.open("data.gz").read()).hexdigest() == sha("data.json"), zlib.crc32(open("data.json", "rb").read()))
x = lzma.compress(open("data.json", "rb").read()[:1000000], preset=1); print(len(lzma.decompress(x)))
pickle.dump(back, open("p", "wb")); print(pickle.load(open("p", "rb")) == rows)
with open("c.csv", "w", newline="") as f: w = csv.writer(f); w.writerows((r["id"], r["name"], f"{r['score']:.6f}") for r in back)
print(sha("c.csv"), sum(float(r[2]) for r in csv.reader(open("c.csv")))); print(base64.b64encode(hashlib.sha512(b"x").digest())[:20], struct.pack(">IqdH", 1, -2, 0.5, 3).hex())
try: json.loads('{"a": [1, 2,, 3]}')
except json.JSONDecodeError as e: print(e)
decimal.getcontext().prec = 60; print(decimal.Decimal(2).sqrt(), 2 ** 500 % 1000003, sum(map(float, [0.1] * 10)), hash((1, 2)) == hash((1, 2)))
f = open("data.json", "rb"); f.seek(-20, os.SEEK_END); print(f.read()); b = bytearray(1 << 16); n = 0
f.seek(0); h = hashlib.sha1()
while k := f.readinto(b): n += k; h.update(memoryview(b)[:k])
print(n == size, h.hexdigest())
PYTHON
/usr/bin/python3 -m json.tool --json-lines <(echo '{"b": 1, "a": [1, 2]}'); echo '{' | /usr/bin/python3 -m json.tool || echo "status $?"
/usr/bin/python3 -c 'import sys; sys.exit(9)' || echo "status $?"; /usr/bin/python3 -c 'print(1/0)' || echo "status $?"; /usr/bin/python3 -m compileall -q . && echo compiled
