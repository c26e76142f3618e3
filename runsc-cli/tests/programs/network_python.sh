# python3: TCP and UDP over loopback, both families, asyncio, selectors, http, xmlrpc.
# needs: /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
/usr/bin/python3 - <<'PYTHON'
import array, asyncio, errno, hashlib, http.client, http.server, os, select, selectors, signal, socket, socketserver, ssl, struct, subprocess, sys, threading, time, urllib.request, xmlrpc.client, xmlrpc.server
def fails(f, *a):
    try: return f(*a)
    except OSError as e: return errno.errorcode[e.errno] if e.errno else type(e).__name__
for host, fam in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
    l = socket.create_server((host, 0), family=fam, backlog=8); name = l.getsockname(); print(name[0], name[1] > 1023)
    c = socket.create_connection(name[:2]); s, peer = l.accept(); print(peer == c.getsockname(), s.getsockname() == c.getpeername() == name)
    c.sendall(b"x" * 10); print(s.recv(4, socket.MSG_PEEK), s.recv(100)); print(fails(s.recv, 1, socket.MSG_DONTWAIT))
    c.shutdown(socket.SHUT_WR); print(s.recv(1), s.send(b"still"), c.recv(9)); s.close(); print(c.recv(1)); print(fails(lambda: [c.send(b"y"), time.sleep(.05), c.send(b"y")])); c.close()
    port = name[1]; print(fails(socket.create_server, (host, port), )) if fam == socket.AF_INET else None
    l.close(); print(fails(socket.create_connection, (host, port)))
l = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True); p = l.getsockname()[1]
for h in ("127.0.0.1", "127.1.2.3", "::1", "localhost"): c = socket.create_connection((h, p)); s, a = l.accept(); print(h, a[0]); c.close(); s.close()
# Much data, both ways at the same time, in odd portions.
def echo(s):
    while d := s.recv(70001): s.sendall(d)
    s.close()
c = socket.create_connection(("127.0.0.1", p)); s, _ = l.accept(); t = threading.Thread(target=echo, args=(s,)); t.start()
data = bytes(range(256)) * 80000; h = hashlib.sha256(); threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR))).start()
n = 0
while d := c.recv(33333): h.update(d); n += len(d)
t.join(); print(n == len(data), h.digest() == hashlib.sha256(data).digest())
# UDP.
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", 0)); b.bind(("0.0.0.0", 0))
print(a.sendto(b"datagram", ("127.0.0.1", b.getsockname()[1])), b.recvfrom(100)[0]); a.sendto(b"long" * 5000, ("127.0.0.1", b.getsockname()[1])); print(b.recv(10), fails(b.recv, 1, socket.MSG_DONTWAIT)); print(fails(a.sendto, b"z" * 70000, b.getsockname()))
a.connect(("127.0.0.1", 9)); print(fails(lambda: [a.send(b"1"), time.sleep(.05), a.send(b"2")])); a.sendmsg([b"to", b"gether"], [], 0, ("127.0.0.1", b.getsockname()[1])); d, anc, fl, ad = b.recvmsg(3); print(d, fl == socket.MSG_TRUNC)
b.setsockopt(socket.IPPROTO_IP, socket.IP_PKTINFO if hasattr(socket, "IP_PKTINFO") else 8, 1); a.sendto(b"info", ("127.0.0.9", b.getsockname()[1])); d, anc, fl, ad = b.recvmsg(9, 100); print(d, [(x[0], x[1], socket.inet_ntoa(x[2][8:12])) for x in anc])
# Options as they are read back.
s = socket.socket(); g = s.getsockopt
for lvl, names in ((socket.SOL_SOCKET, "SO_TYPE SO_ERROR SO_REUSEADDR SO_REUSEPORT SO_KEEPALIVE SO_BROADCAST SO_ACCEPTCONN SO_OOBINLINE SO_DOMAIN SO_PROTOCOL"), (socket.IPPROTO_TCP, "TCP_NODELAY TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_DEFER_ACCEPT TCP_QUICKACK TCP_CORK TCP_USER_TIMEOUT"), (socket.IPPROTO_IP, "IP_TTL IP_TOS IP_MULTICAST_TTL IP_MULTICAST_LOOP")):
    for n in names.split(): print(n, fails(g, lvl, getattr(socket, n)))
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10000); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1); print(g(1, socket.SO_SNDBUF), g(1, socket.SO_RCVBUF)); s.setsockopt(1, socket.SO_LINGER, struct.pack("ii", 1, 7)); print(struct.unpack("ii", g(1, socket.SO_LINGER, 8))); print(g(6, socket.TCP_CONGESTION, 16).rstrip(b"\0") != b"", len(g(6, socket.TCP_INFO, 104)))
# A reset.
c = socket.create_connection(("127.0.0.1", p)); s, _ = l.accept(); c.setsockopt(1, socket.SO_LINGER, struct.pack("ii", 1, 0)); c.close(); print(fails(s.recv, 1)); s.close()
# Urgent data.
c = socket.create_connection(("127.0.0.1", p)); s, _ = l.accept(); c.send(b"abc"); c.send(b"!", socket.MSG_OOB); c.send(b"def"); po = select.poll(); po.register(s, select.POLLPRI); print(po.poll(5000)[0][1] & select.POLLPRI > 0, s.recv(1, socket.MSG_OOB), s.recv(10), s.recv(10)); s.close(); c.close()
# Non-blocking connect.
n = socket.socket(); n.setblocking(False); r = n.connect_ex(("127.0.0.1", p)); print(r in (0, errno.EINPROGRESS)); po = select.poll(); po.register(n, select.POLLOUT); po.poll(5000); print(n.getsockopt(1, socket.SO_ERROR), n.connect_ex(("127.0.0.1", p)), n.connect_ex(("127.0.0.1", p)) == errno.EISCONN); n.close()
n = socket.socket(); n.setblocking(False); n.connect_ex(("127.0.0.1", 9)); po = select.poll(); po.register(n, select.POLLOUT); e = po.poll(5000)[0][1]; print(e & select.POLLHUP > 0, e & select.POLLERR > 0, n.getsockopt(1, socket.SO_ERROR) in (0, errno.ECONNREFUSED))
# asyncio.
async def main():
    async def serve(r, w):
        while line := await r.readline(): w.write(line.upper()); await w.drain()
        w.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0); port = server.sockets[0].getsockname()[1]
    async def client(i):
        r, w = await asyncio.open_connection("127.0.0.1", port); out = []
        for j in range(20): w.write(b"client %d line %d\n" % (i, j)); out.append(await r.readline())
        w.close(); return out[-1]
    print(await asyncio.gather(*(client(i) for i in range(50)))); server.close()
    class P(asyncio.DatagramProtocol):
        def connection_made(self, t): self.t = t
        def datagram_received(self, d, addr): self.t.sendto(d[::-1], addr)
    class Q(asyncio.DatagramProtocol):
        def __init__(self): self.f = asyncio.get_running_loop().create_future()
        def connection_made(self, t): t.sendto(b"drawer")
        def datagram_received(self, d, addr): self.f.set_result(d)
    loop = asyncio.get_running_loop(); t, _ = await loop.create_datagram_endpoint(P, local_addr=("127.0.0.1", 0)); u, q = await loop.create_datagram_endpoint(Q, remote_addr=t.get_extra_info("sockname")); print(await q.f); t.close(); u.close()
    print(sorted({a[4][0] for a in await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM, family=socket.AF_INET)}))
asyncio.run(main())
class Server(http.server.ThreadingHTTPServer): pass
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self): d = self.path.encode() * 100; self.send_response(200); self.send_header("Content-Length", str(len(d))); self.end_headers(); self.wfile.write(d)
    def do_POST(self): d = self.rfile.read(int(self.headers["Content-Length"])); self.send_response(201); self.send_header("Content-Length", "64"); self.end_headers(); self.wfile.write(hashlib.sha256(d).hexdigest().encode())
    def log_message(self, *a): pass
web = Server(("127.0.0.1", 0), Handler); threading.Thread(target=web.serve_forever, daemon=True).start(); c = http.client.HTTPConnection(*web.server_address)
for i in range(30): c.request("GET", f"/{i}"); r = c.getresponse(); assert r.status == 200 and len(r.read()) == 100 * len(f"/{i}")
c.request("POST", "/", b"posted" * 100000); r = c.getresponse(); print(r.status, r.read()); web.shutdown()
x = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False); x.register_function(pow); threading.Thread(target=x.serve_forever, daemon=True).start(); print(xmlrpc.client.ServerProxy("http://127.0.0.1:%d" % x.server_address[1]).pow(2, 20))
l.close(); l = socket.create_server(("127.0.0.1", 0)); p = l.getsockname()[1]
# Sockets across fork and by unix sockets; SO_REUSEPORT.
u, v = socket.socketpair(); pid = os.fork()
if pid == 0: c = socket.create_connection(("127.0.0.1", p)); socket.send_fds(v, [b"f"], [c.fileno()]); os._exit(0)
_, fds, _, _ = socket.recv_fds(u, 1, 4); s, _ = l.accept(); os.waitpid(pid, 0); c = socket.socket(fileno=fds[0]); c.sendall(b"passed on"); print(s.recv(100)); c.close(); s.close()
rs = []
for _ in range(3): r = socket.socket(); r.setsockopt(1, socket.SO_REUSEPORT, 1); r.bind(("127.0.0.1", rs[0].getsockname()[1] if rs else 0)); r.listen(); rs.append(r)
cs = [socket.create_connection(rs[0].getsockname()) for _ in range(60)]; got = []
for r in rs:
    r.setblocking(False); k = 0
    while not isinstance(fails(r.accept), str): k += 1
    got.append(k)
print(sum(got), all(got))
with open("file", "wb") as f: f.write(os.urandom(3000000))
c = socket.create_connection(("127.0.0.1", p)); s, _ = l.accept(); f = open("file", "rb"); threading.Thread(target=lambda: (print(c.sendfile(f)), c.close())).start(); h = hashlib.sha256()
while d := s.recv(1 << 20): h.update(d)
print(h.digest() == hashlib.sha256(open("file", "rb").read()).digest())
signal.signal(signal.SIGPIPE, lambda *a: print("SIGPIPE")); c = socket.create_connection(("127.0.0.1", p)); s, _ = l.accept(); c.shutdown(socket.SHUT_WR); print(fails(os.write, c.fileno(), b"x"), fails(c.send, b"x", socket.MSG_NOSIGNAL))
print([fails(socket.socket, *a) for a in ((socket.AF_INET, socket.SOCK_SEQPACKET), (socket.AF_INET, socket.SOCK_STREAM, 17), (99, 1), (socket.AF_INET, 77))])
PYTHON
