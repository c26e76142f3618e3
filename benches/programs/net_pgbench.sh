# postgresql and pgbench -S over TCP on loopback: transactions a second.
set -eu
as=
if [ "$(id -u)" = 0 ]; then
    # It does not run as root.
    as='setpriv --reuid=nobody --regid=nogroup --clear-groups'
    chown nobody .
fi
[ "$1" = small ] && scale=1 seconds=1 || scale=5 seconds=5
for directory in /usr/lib/postgresql/*/bin; do PATH=$directory:$PATH; done
export PGHOST=127.0.0.1 PGPORT=18432 PGUSER=me PGDATABASE=postgres
$as initdb -D data -U me -A trust -N > initdb.out 2>&1 || { tail -n 2 initdb.out >&2; exit 1; }
$as postgres -D data -c listen_addresses=127.0.0.1 -c port=18432 -c unix_socket_directories= -c fsync=off > server.out 2>&1 &
server=$!
until pg_isready -q; do
    kill -0 $server 2> /dev/null || { tail -n 2 server.out >&2; exit 1; }
    sleep 0.02
done
pgbench -q -i -s $scale > init.out 2>&1
pgbench -S -c 4 -j 2 -T $seconds > out 2> err || { tail -n 2 err >&2; kill $server; exit 1; }
awk '/^tps/ { print "pgbench_select", "per_second", $3 }' out
kill -INT $server
wait $server
