# memcached with several threads: TCP and UDP, from many clients.
# needs: /usr/bin/memcached /usr/bin/python3
set -eu
port=11211
if [ "$1" = serve ]; then
    memcached -u nobody -l 0.0.0.0,:: -p $port -U $port -t 4 -m 64 -c 4000 & server=$!
    until /usr/bin/python3 -c "import socket; [socket.create_connection((a, $port)) for a in ('127.0.0.1', '::1')]" 2> /dev/null; do kill -0 $server; sleep 0.05; done
    echo ready
    cat
    kill $server; wait $server; echo "ended: $?"
    exit
fi
exec /usr/bin/python3 - "$FOUR" "$SIX" $port <<'PYTHON'
import socket, struct, sys, threading
addresses, port = sys.argv[1:3], int(sys.argv[3])
ENDS = (b"END\r\n", b"ERROR\r\n", b"STORED\r\n", b"DELETED\r\n", b"NOT_FOUND\r\n")
def ask(f, text):
    f.write(text); f.flush(); out = b""
    while not out.endswith(ENDS): out += f.readline()
    return out
for address in addresses:
    connect = lambda: socket.create_connection((address, port), timeout=60)
    s = connect(); f = s.makefile("rwb")
    print(ask(f, b"set a 5 0 5\r\nhello\r\n"), ask(f, b"get a\r\n"), ask(f, b"delete a\r\n"), ask(f, b"get a\r\n"), ask(f, b"nonsense\r\n"))
    print(ask(f, b"set n 0 0 2\r\n41\r\n")); f.write(b"incr n 1\r\n"); f.flush(); print(f.readline())
    big = bytes(range(251)) * 4000
    got = ask(f, b"set big 0 0 %d\r\n%s\r\n" % (len(big), big)), ask(f, b"get big\r\n")
    print(got[0], got[1] == b"VALUE big 0 %d\r\n%s\r\nEND\r\n" % (len(big), big))
    def work(i):
        g = connect().makefile("rwb")
        for j in range(100): assert ask(g, b"set k%d.%d 0 0 4\r\n%04d\r\n" % (i, j, j)) == b"STORED\r\n"
        # All questions at once.
        g.write(b"".join(b"get k%d.%d\r\n" % (i, j) for j in range(100))); g.flush()
        good.append(sum(g.readline() + g.readline() + g.readline() == b"VALUE k%d.%d 0 4\r\n%04d\r\nEND\r\n" % (i, j, j) for j in range(100)))
    good = []; ts = [threading.Thread(target=work, args=(i,)) for i in range(8)]; [t.start() for t in ts]; [t.join() for t in ts]; print(good)
    held = [connect() for _ in range(300)]
    for h in held[::7]: h.sendall(b"get n\r\n")
    print({h.makefile("rb").read(len(b"VALUE n 0 2\r\n42\r\nEND\r\n")) for h in held[::7]}); [h.close() for h in held]
    u = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(60); u.connect((address, port))
    u.send(struct.pack(">HHHH", 7, 0, 1, 0) + b"get n\r\n"); d = u.recv(1500); print(struct.unpack(">HHHH", d[:8]), d[8:])
    # More than fits a datagram.
    ask(f, b"set middle 0 0 5000\r\n%s\r\n" % big[:5000])
    u.send(struct.pack(">HHHH", 8, 0, 1, 0) + b"get middle\r\n"); parts = {}
    while not parts or len(parts) < total: d = u.recv(1500); _, n, total, _ = struct.unpack(">HHHH", d[:8]); parts[n] = d[8:]
    print(total, b"".join(parts[n] for n in sorted(parts)) == b"VALUE middle 0 5000\r\n%s\r\nEND\r\n" % big[:5000])
    f.write(b"quit\r\n"); f.flush(); print(s.recv(10))
PYTHON
