# redis-server and redis-benchmark with 20 clients over a unix socket.
set -eu
[ "$1" = small ] && requests=200 || requests=20000
redis-server --port 0 --unixsocket "$PWD/socket" --save '' --appendonly no --dir "$PWD" \
    > server.out 2>&1 &
server=$!
until [ -S socket ]; do
    kill -0 $server 2> /dev/null || { tail -n 1 server.out >&2; exit 1; }
    sleep 0.01
done
redis-benchmark -s socket -q -n $requests -c 20 -t set,get > benchmark.out 2>&1 ||
    { tail -n 1 benchmark.out >&2; kill $server; exit 1; }
redis-cli -s socket shutdown nosave > cli.out 2>&1 || { tail -n 1 cli.out >&2; kill $server; }
wait $server
tr '\r' '\n' < benchmark.out | grep -c 'requests per second'
