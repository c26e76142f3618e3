# redis-server: append-only file and snapshot; a new sandbox after a crash, and one after a shutdown, find the data.
# needs: /usr/bin/redis-server /usr/bin/redis-cli /usr/bin/redis-benchmark
# turns: 3
set -eu
cli() { redis-cli -h "$address" "$@"; }
if [ "$1" = serve ]; then
    address=127.0.0.1
    cat > redis.conf <<CONF
bind 0.0.0.0 ::
protected-mode no
dir $PWD
save 3600 1000000
appendonly $([ "$2" = 3 ] && echo no || echo yes)
appendfsync everysec
io-threads 2
CONF
    redis-server redis.conf > log.$2 2>&1 & server=$!
    until [ "$(cli ping 2> /dev/null)" = PONG ]; do kill -0 $server || { cat log.$2; exit 1; }; sleep 0.05; done
    echo ready
    cat
    case $2 in
        1) { kill -9 $server; wait $server; } 2> /dev/null || echo "killed: $?" ;;
        2) cli shutdown save; wait $server; echo "ended: $?"; rm -rf appendonlydir ;;
        3) kill $server; wait $server; echo "ended: $?" ;;
    esac
    exit
fi
for address in "$FOUR" "$SIX"; do
    echo "== $address"
    if [ "$2" = 1 ]; then
        cli flushall; cli set greeting hello; cli append greeting ' world'; cli incrby n 42
        cli rpush list a b c; cli hset h f 1 g 2; cli zadd z 2 two 1 one; cli zrange z 0 -1
        cli eval 'for i = 1, 1000 do redis.call("set", "k" .. i, i) end return redis.call("dbsize")' 0
        (cli --csv blpop queue 60 > popped) & popper=$!
        until [ "$(cli client list | grep -c cmd=blpop)" = 1 ]; do sleep 0.02; done
        cli rpush queue job; wait $popper; cat popped
        (timeout 60 redis-cli -h "$address" --csv subscribe news 2> /dev/null | head -n 3 > told) & reader=$!
        until [ "$(cli pubsub numsub news | tail -1)" = 1 ]; do sleep 0.02; done
        cli publish news 'it happened'; cli client kill type pubsub; wait $reader; cat told
        seq 1 20000 | sed 's/.*/SET bulk:& value-&/' | cli --pipe 2>&1 | tail -1
        seq 1 400000 | cli -x set big; cli strlen big; cli --raw get big | sha256sum
        redis-benchmark -h "$address" -q -n 2000 -c 20 -P 4 -t ping,set,get,lpush > rates; tr '\r' '\n' < rates | grep -c 'requests per second, p50=[0-9.]* msec' | sed 's/[1-9][0-9]*/rates/'
        cli client list | sed 's/.* addr=//; s/:[0-9]* laddr.*//' | sort -u
        cli bgrewriteaof; until cli info persistence | grep -q 'aof_rewrite_in_progress:0'; do sleep 0.05; done
        cli bgsave | sed 's/ scheduled//'; until cli info persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.05; done
        cli info persistence | grep -E '^(rdb_last_bgsave_status|aof_last_bgrewrite_status|aof_last_write_status)' | tr -d '\r'
        cli config set appendfsync always; cli set synced yes
    else
        cli dbsize; cli get greeting; cli get synced; cli get bulk:20000; cli --raw get big | sha256sum; cli lrange list 0 -1; cli hgetall h
        cli set "turn$2" "$address"; cli get turn2
    fi
done
