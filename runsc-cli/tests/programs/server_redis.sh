# redis-server: snapshots, append-only file, a crash and a restart with the data there.
# needs: /usr/bin/redis-server /usr/bin/redis-cli /usr/bin/redis-benchmark
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
server=; trap 'cd /; [ -z "$server" ] || kill "$server" 2> /dev/null || true; wait; rm -rf "$work"' EXIT
port=17379
cat > redis.conf <<CONF
bind 127.0.0.1 ::1
port $port
unixsocket $work/sock
dir $work
save 3600 1000000
appendonly yes
appendfsync everysec
io-threads 2
CONF
cli() { redis-cli -h 127.0.0.1 -p $port "$@"; }
start() { redis-server redis.conf > log 2>&1 & server=$!; for _ in $(seq 400); do [ "$(cli ping 2> /dev/null)" != PONG ] || return 0; sleep 0.05; done; cat log; exit 1; }
start
cli set greeting hello; cli get greeting; cli incrby n 41; cli incr n; cli append greeting ' world'; cli strlen greeting
redis-cli -s sock get greeting; redis-cli -h ::1 -p $port get n
cli rpush list a b c; cli lrange list 0 -1; cli hset h f 1 g 2; cli hgetall h; cli zadd z 2 two 1 one; cli zrange z 0 -1
cli eval 'for i = 1, 1000 do redis.call("set", "k" .. i, i) end return redis.call("dbsize")' 0
printf 'multi\nset t 1\nincr t\nexec\n' | cli
(cli --csv blpop queue 30 > popped) & popper=$!
until [ "$(cli client list | grep -c cmd=blpop)" = 1 ]; do sleep 0.02; done
cli rpush queue job; wait $popper; cat popped
seq 1 20000 | sed 's/.*/SET bulk:& value-&/' | cli --pipe 2>&1 | tail -1
head -c 3000000 /dev/zero | cli -x set big; cli strlen big; cli --no-raw get big | wc -c
redis-benchmark -h 127.0.0.1 -p $port -q -n 2000 -c 20 -P 4 -t ping,set,get,lpush > rates; tr '\r' '\n' < rates | grep -c 'requests per second, p50=[0-9.]* msec' | sed 's/[1-9][0-9]*/rates/'
cli save; cli bgrewriteaof
until cli info persistence | grep -q 'aof_rewrite_in_progress:0'; do sleep 0.05; done
cli bgsave | sed 's/ scheduled//'
until cli info persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.05; done
cli info persistence | grep -E '^(rdb_last_bgsave_status|aof_last_bgrewrite_status|aof_last_write_status)' | tr -d '\r'
cli set last written; cli config set appendfsync always; cli set synced yes
{ kill -9 $server; wait $server; } 2> /dev/null || echo "killed: $?"
cli ping 2>&1 || true
start
cli dbsize; cli get last; cli get synced; cli get bulk:20000; cli strlen big; cli lrange list 0 -1
rm -rf appendonlydir; sed -i 's/appendonly yes/appendonly no/' redis.conf
cli shutdown save; wait $server || echo "ended: $?"
start
cli dbsize; cli get greeting; cli shutdown nosave; wait $server; echo "ended: $?"; server=
