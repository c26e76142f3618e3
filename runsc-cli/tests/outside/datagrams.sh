# Datagrams: errors that come back, the sender's address, groups (a small mDNS), broadcast, segments.
# needs: /usr/bin/python3
set -eu
[ "$1" = serve ] && role=serve || role=use
exec /usr/bin/python3 - "$role" "$FOUR" "$SIX" "$FROM_FOUR" 3<&0 <<'PYTHON'
import os, select, socket, struct, sys
role, four, six, other = sys.argv[1:]
own = four if role == "serve" else other
GROUP, PORT, ERRQUEUE = "239.255.7.7", 5353, socket.MSG_ERRQUEUE
udp = lambda family=socket.AF_INET: socket.socket(family, socket.SOCK_DGRAM)
index = socket.if_nametoindex("wire")
def member():
    s = udp(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("0.0.0.0", PORT))
    s.setsockopt(socket.IPPROTO_IP, 42, struct.pack("=I4xH2x4s", index, socket.AF_INET, socket.inet_aton(GROUP)) + bytes(120))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    s.settimeout(60); return s
if role == "serve":
    s = member()
    print("ready", flush=True)
    while True:
        ready = select.select([s, 3], [], [])[0]
        if 3 in ready and not os.read(3, 100): break
        if s in ready:
            text, sender = s.recvfrom(100)
            # Its own answers come back to it: the group hears everybody.
            if text.startswith(b"who"): s.sendto(b"here", (GROUP, PORT)); s.sendto(b"to you", sender)
            if text == b"segment": print("segment from", sender[0])
    sys.exit()
heard = member(); s = udp(); s.settimeout(60)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
s.sendto(b"who is there", (GROUP, PORT)); print("alone:", s.recvfrom(100))
print("all:", sorted((text, sender[0]) for text, sender in (heard.recvfrom(100) for _ in range(2))))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0); s.sendto(b"who else", (GROUP, PORT)); print("not looped:", heard.recvfrom(100)[0], s.recvfrom(100)[0])
broadcast = four.rsplit(".", 1)[0] + ".255"
try: s.sendto(b"who, all of you", (broadcast, PORT))
except PermissionError as e: print("broadcast:", e.strerror)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); s.sendto(b"who, all of you", (broadcast, PORT)); print("broadcast:", s.recvfrom(100))
# Nobody is there, and says so.
e = udp(); e.setsockopt(socket.IPPROTO_IP, 11, 1); e.sendto(b"hello", (four, 9)); p = select.poll(); p.register(e, 0); print("poll:", [r for _, r in p.poll(60000)])
text, control, flags, to = e.recvmsg(100, 200, ERRQUEUE); print("error:", text, flags == ERRQUEUE, to, [(l, k, d.hex()) for l, k, d in control])
e = udp(socket.AF_INET6); e.setsockopt(socket.IPPROTO_IPV6, 25, 1); e.sendto(b"hello", (six, 9)); p = select.poll(); p.register(e, 0); p.poll(60000)
text, control, flags, to = e.recvmsg(100, 200, ERRQUEUE); print("error:", text, to[:2], [(l, k, d.hex()) for l, k, d in control])
c = udp(); c.connect((four, 9)); c.send(b"x"); p = select.poll(); p.register(c, 0); p.poll(60000)
try: c.send(b"y")
except ConnectionRefusedError as e: print("connected:", e.strerror)
# One send, three datagrams, from the address that was said.
s.sendmsg([b"segment" * 3], [(socket.IPPROTO_UDP, 103, struct.pack("H", 7)), (socket.IPPROTO_IP, 8, struct.pack("i4s4s", index, socket.inet_aton(own), bytes(4)))], 0, (four, PORT))
try: s.sendmsg([b"x"], [(socket.IPPROTO_IP, 8, struct.pack("i4s4s", 0, socket.inet_aton("192.0.2.1"), bytes(4)))], 0, (four, PORT))
except OSError as e: print("foreign:", e.strerror)
# The server has taken what came before.
s.sendto(b"who", (four, PORT)); print("last:", s.recvfrom(100)[0])
PYTHON
