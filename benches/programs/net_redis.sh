# redis-server and redis-benchmark over TCP on loopback: requests a second.
set -eu
# Fewer take no time that can be told.
[ "$1" = small ] && requests=5000 || requests=100000
redis-server --port 18379 --bind 127.0.0.1 --save '' --appendonly no --dir "$PWD" > server.out 2>&1 &
server=$!
until redis-cli -p 18379 ping > /dev/null 2>&1; do
    kill -0 $server 2> /dev/null || { tail -n 1 server.out >&2; exit 1; }
    sleep 0.01
done
for pipeline in 1 16; do
    redis-benchmark -p 18379 --csv -n $requests -c 50 -P $pipeline -t set,get > out.csv
    awk -F'","' -v p=$pipeline 'NR > 1 { gsub(/"/, "", $1); print "redis_" tolower($1) "_p" p, "per_second", $2 }' out.csv
done
redis-cli -p 18379 shutdown nosave > cli.out 2>&1 || tail -n 1 cli.out >&2
wait $server
