# memcached: several threads, text protocol over TCP, UDP and a unix socket.
# needs: /usr/bin/memcached /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
server=; trap 'cd /; [ -z "$server" ] || kill "$server" 2> /dev/null || true; wait; rm -rf "$work"' EXIT
memcached -u nobody -l 127.0.0.1 -p 17211 -U 17211 -t 4 -m 64 -c 2000 2> log & server=$!
memcached -u root -s "$work/sock" -a 0700 2>> log & second=$!
/usr/bin/python3 - <<'PYTHON'
import socket, struct, threading, time
def connect():
    for _ in range(400):
        try: return socket.create_connection(("127.0.0.1", 17211))
        except ConnectionRefusedError: time.sleep(0.05)
def ask(f, text, end=b"END\r\n"):
    f.write(text); f.flush(); out = b""
    while not out.endswith((end, b"ERROR\r\n", b"STORED\r\n", b"DELETED\r\n", b"NOT_FOUND\r\n")): out += f.readline()
    return out
s = connect(); f = s.makefile("rwb")
print(ask(f, b"set a 5 0 5\r\nhello\r\n"), ask(f, b"get a\r\n"), ask(f, b"add a 0 0 1\r\nx\r\n"))
print(ask(f, b"set n 0 0 2\r\n41\r\n")); f.write(b"incr n 1\r\n"); f.flush(); print(f.readline())
big = b"z" * 900000
print(ask(f, b"set big 0 0 %d\r\n%s\r\n" % (len(big), big)), len(ask(f, b"get big\r\n")), ask(f, b"delete a\r\n"), ask(f, b"get a\r\n"))
print(ask(f, b"nonsense\r\n"))
def work(i):
    g = connect().makefile("rwb")
    for j in range(200): assert ask(g, b"set k%d.%d 0 0 4\r\n%04d\r\n" % (i, j, j)) == b"STORED\r\n"
    good.append(sum(b"%04d" % j in ask(g, b"get k%d.%d\r\n" % (i, j)) for j in range(200)))
good = []; ts = [threading.Thread(target=work, args=(i,)) for i in range(8)]; [t.start() for t in ts]; [t.join() for t in ts]; print(good)
held = [connect() for _ in range(300)]
for h in held[::7]: h.sendall(b"get n\r\n")
print({h.recv(100) for h in held[::7]}); [h.close() for h in held]
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(20); u.connect(("127.0.0.1", 17211))
u.send(struct.pack(">HHHH", 7, 0, 1, 0) + b"get n\r\n"); d = u.recv(1500); print(struct.unpack(">HHHH", d[:8]), d[8:])
x = socket.socket(socket.AF_UNIX)
for _ in range(400):
    try: x.connect("sock"); break
    except OSError: time.sleep(0.05)
g = x.makefile("rwb"); print(ask(g, b"set u 0 0 1\r\n1\r\n"), ask(g, b"get u\r\n"))
stats = ask(f, b"stats\r\n").decode().split("\r\n"); print([l for l in stats if l.split()[1:2] in (["threads"], ["total_items"], ["rejected_connections"])])
f.write(b"quit\r\n"); f.flush(); print(s.recv(10))
PYTHON
kill $server $second; wait $server; echo "ended: $?"; wait $second; echo "ended: $?"; server=
