# iperf3 over loopback, one stream: bytes a second.
set -eu
[ "$1" = small ] && seconds=1 || seconds=4
iperf3 -s -1 -p 18501 --forceflush > server.out 2>&1 &
server=$!
until grep -q listening server.out; do
    kill -0 $server 2> /dev/null || { cat server.out >&2; exit 1; }
    sleep 0.01
done
iperf3 -c 127.0.0.1 -p 18501 -t $seconds -J > out 2>&1 || { cat out >&2; kill $server; exit 1; }
wait $server
awk '/"sum_received"/ { at = 1 } at && /"bits_per_second"/ { gsub(/,/, ""); print "iperf3", "bytes_per_second", $2 / 8; exit }' out
