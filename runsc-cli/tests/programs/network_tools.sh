# curl, wget, nc, iperf3, node, getent over loopback.
# needs: /usr/bin/curl /usr/bin/wget /usr/bin/nc /usr/bin/iperf3 /usr/bin/getent /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
work=$(mktemp -d) && cd "$work"
jobs=; trap 'cd /; kill $jobs 2> /dev/null || true; wait; rm -rf "$work"' EXIT
listening() { until grep -q ": [0-9A-F]*:$(printf %04X "$1") 0*:0000 0A" /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done; }
seq 1 300000 > data; mkdir site; cp data site
/usr/bin/python3 -m http.server -d site --bind 127.0.0.1 18080 > /dev/null 2>&1 & jobs="$jobs $!"; listening 18080
curl -sS http://127.0.0.1:18080/data | cmp - data && echo same; curl -sS -o /dev/null -w '%{http_code} %{remote_ip} %{size_download}\n' http://localhost:18080/none
wget -q -O out http://127.0.0.1:18080/data; cmp out data && echo same; wget -nv http://127.0.0.1:18080/none 2>&1 | sed 's/^[0-9: -]*//' || true
curl -sS http://127.0.0.1:9/ 2>&1 | sed 's/after [0-9]* ms/after N ms/' || true
nc -l -N 127.0.0.1 18081 < data > /dev/null & n=$!; listening 18081; nc -d 127.0.0.1 18081 > from-server; wait $n; cmp data from-server && echo same
nc -l 127.0.0.1 18087 > from-client & n=$!; listening 18087; nc -N 127.0.0.1 18087 < data > /dev/null; wait $n; cmp data from-client && echo same
nc -lu -W 1 127.0.0.1 18082 > datagram & n=$!; until grep -q ":$(printf %04X 18082) " /proc/net/udp; do sleep 0.02; done; echo hello | nc -u -w 1 127.0.0.1 18082; wait $n; cat datagram
nc -lU "$work/sock" > unix & n=$!; until [ -S sock ]; do sleep 0.02; done; echo through a path | nc -NU "$work/sock"; wait $n; cat unix
nc -z 127.0.0.1 18080 && echo open; nc -z 127.0.0.1 9 || echo closed; nc -6 -l -N ::1 18083 > six & n=$!; listening 18083; echo six | nc -6 -N ::1 18083; wait $n; cat six
iperf3 -s -1 -p 18084 > /dev/null & n=$!; listening 18084; iperf3 -c 127.0.0.1 -p 18084 -t 1 -J | /usr/bin/python3 -c 'import json,sys; e=json.load(sys.stdin)["end"]; print(e["sum_received"]["bytes"] > 1000000)'; wait $n
iperf3 -s -1 -p 18085 > /dev/null & n=$!; listening 18085; iperf3 -c 127.0.0.1 -p 18085 -u -b 50M -t 1 -J | /usr/bin/python3 -c 'import json,sys; e=json.load(sys.stdin)["end"]["sum"]; print(e["packets"] > 10)'; wait $n
getent hosts localhost | awk '{print $2}'; getent ahosts 127.0.0.1 | awk '{print $1, $2}'; getent services ssh
if [ -x /usr/bin/node ]; then /usr/bin/node -e '
const http = require("http"), net = require("net"), dgram = require("dgram");
const s = http.createServer((q, r) => { let n = 0; q.on("data", d => n += d.length); q.on("end", () => r.end(q.method + " " + n)); });
s.listen(0, "127.0.0.1", async () => {
  const url = "http://127.0.0.1:" + s.address().port;
  console.log(await (await fetch(url)).text(), await (await fetch(url, { method: "POST", body: "x".repeat(2e6) })).text());
  console.log((await Promise.all([...Array(40)].map(async () => (await fetch(url)).status))).join());
  s.close(); s.closeAllConnections();
  const e = net.createServer(c => c.pipe(c)).listen(0, "::1", () => { const c = net.connect(e.address().port, "::1", () => c.end("echoed")); c.on("data", d => console.log(d.toString())); c.on("close", () => e.close()); });
  const u = dgram.createSocket("udp4"); u.on("message", m => { console.log(m.toString()); u.close(); }); u.bind(0, "127.0.0.1", () => u.send("to myself", u.address().port, "127.0.0.1"));
  net.connect(9, "127.0.0.1").on("error", e => console.log(e.code));
});'; fi
