# What programs show of a network with loopback alone: iproute2, net-tools, busybox, lsof, glibc.
# needs: ip ss netstat ifconfig route hostname getent lsof unshare python3 /bin/busybox
set -u
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
# On the host in a network of its own; in the sandbox there is one already.
if [ -z "${ALONE-}" ] && unshare -rn true 2> /dev/null; then
    ALONE=1 exec unshare -rn bash -c 'ip link set lo up; exec bash "$@"' - "$0" "$@"
fi
run() { echo "== $*"; "$@" 2>&1; echo "status $?"; }
# Columns are as wide as what is in them; counters and inode numbers are nobody's.
squeeze() { sed -E 's/ +/ /g; s/ +$//; s/pid=[0-9]+,fd=[0-9]+/pid=N/; s|[0-9]+/python3|N/python3|; s/[0-9a-f]{16}/POINTER/'; }
run ip addr
run ip -brief link
run ip -json addr show dev lo
run ip -details link show lo
run ip addr show nosuch0
run ip route
run ip -6 route
run ip route show table all
run ip route show table 77
run ip route get 127.1.2.3
run ip route get 10.1.2.3
run ip -6 route get ::1
run ip neigh
run ip rule
run ip -6 rule
run ip link set lo up
run ip addr add 127.0.0.9/8 dev lo
run ip addr add 127.0.0.9/8 dev lo
run ip -o -4 addr
run ip addr del 127.0.0.9/8 dev lo
run ip addr del 127.0.0.9/8 dev lo
run hostname -I
run route -n
run getent ahosts localhost
ifconfig lo | grep -v -e packets -e errors
for applet in 'ip addr' 'ip link' 'ip route' 'ip -6 addr'; do run /bin/busybox $applet; done
/bin/busybox ifconfig lo | grep -v -e packets -e bytes
run python3 -c 'import socket; print(socket.if_nameindex(), socket.getaddrinfo("localhost", 80, flags=socket.AI_ADDRCONFIG, type=1))'
python3 - << 'PY' | squeeze
import os, re, socket, subprocess
a = socket.socket(); a.setsockopt(1, 2, 1); a.bind(("127.0.0.1", 8080)); a.listen(5)
b = socket.create_connection(("127.0.0.1", 8080)); c, _ = a.accept(); b.sendall(b"hello")
d = socket.socket(2, 2); d.bind(("0.0.0.0", 5353))
e = socket.socket(10, 1); e.bind(("::", 8081)); e.listen(7)
f = socket.socket(10, 2); f.bind(("::1", 5353))
g = socket.socket(1, 1); g.bind("\0name"); g.listen(1)
h = socket.socket(1, 1); h.connect("\0name"); i, _ = g.accept()
own = [(os.fstat(s.fileno()).st_ino, n) for n, s in zip("abcdefghi", [a, b, c, d, e, f, g, h, i])]
port = str(b.getsockname()[1])
for command in [
    "ss -tlnp", "ss -tanp", "ss -uanp", "ss -xap", "ss -tln sport = :8080", "ss -tln sport = :1",
    "ss -tan '( sport = :8080 or dport = :8080 )'", "ss -tan dst 127.0.0.0/8", "ss -tan not src 127.0.0.1",
    "ss -nltu", "netstat -tlnp", "netstat -tan", "netstat -uanp", "netstat -xa",
    "lsof -nP -a -p %d -i -F nT" % os.getpid(), "cat /proc/net/if_inet6 /proc/net/igmp /proc/net/dev_mcast",
]:
    out = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    for ino, name in own:
        out = re.sub(r"\b%d\b" % ino, "INO-" + name, out)
    out = re.sub(r"\b%s\b" % port, "PORT", out)
    lines = [l for l in out.splitlines() if not re.match(r"^[pf]\d+$|^(Netid|State|Recv-Q) ", l)]
    print("==", command.replace(str(os.getpid()), "PID"))
    # Linux's order is that of its hashes.
    print("\n".join(sorted(lines)))
PY
