# A client of peers that answer, or vanish: echo requests, keep-alive and TCP_USER_TIMEOUT, groups of IPv6 on a wire, the path's MTU.
# needs: /usr/bin/python3 /usr/bin/ping /usr/sbin/ip
# inside: use
set -eu
if [ "$1" = use ]; then
    for address in "$FOUR" "$SIX"; do
        ping -q -c 3 -i 0.2 -W 30 "$address" | grep -o '3 received'
        ping -q -c 1 -W 30 -s 30000 "$address" | grep -o '1 received'
    done
fi
[ "$1" = serve ] && role=serve || role=use
exec /usr/bin/python3 - "$role" "$FOUR" "$SIX" "$FROM_FOUR" "$FROM_SIX" 3<&0 <<'PYTHON'
import errno, os, select, socket, struct, subprocess, sys, time
role, four, six, from_four, from_six = sys.argv[1:]
GROUP, PORT = "ff05::7:7", 5354
index = socket.if_nametoindex("wire")
def member():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("::", PORT))
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, GROUP) + struct.pack("i", index))
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    s.settimeout(60); return s
def say(s, text):
    # The way to groups comes a moment after the wire.
    give_up = time.monotonic() + 60
    while True:
        try: return s.sendto(text, (GROUP, PORT))
        except OSError as e:
            if e.errno != errno.ENETUNREACH or time.monotonic() > give_up: raise
        time.sleep(0.05)
if role == "serve":
    s = member(); listener = socket.create_server((four, 7000)); kept = []
    print("ready", flush=True)
    while True:
        ready = select.select([s, listener, 3], [], [])[0]
        if 3 in ready and not os.read(3, 100): break
        if s in ready:
            text, sender = s.recvfrom(100)
            if text.startswith(b"who"): say(s, b"here"); s.sendto(b"to you", sender)
            if text == b"vanish":
                # Packets still come, and nothing goes back.
                subprocess.run(["ip", "route", "add", "blackhole", from_four + "/32"], check=True)
                s.sendto(b"gone", sender)
        if listener in ready: kept.append(listener.accept()[0])
    sys.exit()
heard, s = member(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(60)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
say(s, b"who is there"); print("alone:", s.recvfrom(100)[0])
got = sorted((text, sender[0] == six) for text, sender in (heard.recvfrom(100) for _ in range(2))); print("all:", got)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0); say(s, b"who else"); print("not looped:", heard.recvfrom(100)[0], s.recvfrom(100)[0])
heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, socket.inet_pton(socket.AF_INET6, GROUP) + struct.pack("i", index))
# What a packet may be long: to who is connected, and in the queue of errors of an echo socket.
u = socket.socket(); u.connect((four, 7000)); print("mtu:", u.getsockopt(socket.IPPROTO_IP, 14))
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.connect((four, 7000)); print("mtu:", d.getsockopt(socket.IPPROTO_IP, 14))
try:
    e = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
except PermissionError:
    e = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
e.setsockopt(socket.IPPROTO_IP, 10, 2); e.setsockopt(socket.IPPROTO_IP, 11, 1)
try: e.sendto(bytes([8]) + bytes(3000), (four, 7000))
except OSError as x: print("too long:", x.strerror)
text, control, flags, to = e.recvmsg(100, 200, socket.MSG_ERRQUEUE)
print("error:", len(text), flags & socket.MSG_ERRQUEUE > 0, to[0], [(l, k, d[:12].hex()) for l, k, d in control if k == 11])
# Those who vanish.
def connected():
    c = socket.create_connection((four, 7000), timeout=60)
    return c
idle, sending = connected(), connected()
idle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
for name, value in (socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2): idle.setsockopt(socket.IPPROTO_TCP, name, value)
sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 700)
s.sendto(b"vanish", (six, PORT)); print(s.recvfrom(100)[0])
begun = time.monotonic()
sending.send(b"anybody?")
for name, c in ("user timeout:", sending), ("keep-alive:", idle):
    try: print(name, c.recv(9))
    except OSError as x: print(name, errno.errorcode.get(x.errno, x))
print("in time:", time.monotonic() - begun < 30)
PYTHON
