# postgresql: initdb, psql and pgbench from outside, a backend killed, the server killed and a new sandbox that recovers.
# needs: /usr/lib/postgresql/15/bin/initdb /usr/lib/postgresql/15/bin/pgbench /usr/bin/psql /usr/bin/setpriv
# turns: 2
set -eu
export PATH=/usr/lib/postgresql/15/bin:$PATH TZ=UTC PGTZ=UTC PGUSER=me PGDATABASE=postgres
if [ "$1" = serve ]; then
    as='setpriv --reuid=nobody --regid=nogroup --clear-groups env'
    data=$PWD/area/data
    if [ "$2" = 1 ]; then
        mkdir area; chown nobody area
        $as initdb -D "$data" -U me -A trust -E UTF8 --locale=C.UTF-8 -k > initdb.log 2>&1 || { cat initdb.log; exit 1; }
        printf 'host all all %s/24 trust\nhost all all %s/64 trust\n' "$FROM_FOUR" "$FROM_SIX" >> "$data/pg_hba.conf"
        printf "listen_addresses = '*'\nunix_socket_directories = ''\nlogging_collector = off\nshared_buffers = 32MB\nrestart_after_crash = on\n" >> "$data/postgresql.conf"
    fi
    $as postgres -D "$data" >> log 2>&1 & server=$!
    until pg_isready -q -h 127.0.0.1; do kill -0 $server 2> /dev/null || { cat log; exit 1; }; sleep 0.05; done
    echo ready
    cat
    if [ "$2" = 1 ]; then
        # In the middle of work; its children notice by themselves, and until then the data is theirs.
        children=$(ps -o pid= --ppid $server | xargs | tr ' ' ','); [ -n "$children" ] || echo "no children"
        { kill -9 $server; wait $server; } 2> /dev/null || echo "killed: $?"
        while ps -o pid= -p "$children" > /dev/null; do sleep 0.05; done
    else
        kill -INT $server; wait $server; echo "ended: $?"; pg_checksums -D "$data" --check | grep 'Bad checksums'; grep -c 'redo done' log | sed 's/[1-9]/recovered/'
    fi
    exit
fi
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
for PGHOST in "$FOUR" "$SIX"; do
    export PGHOST; echo "== $PGHOST"
    if [ "$2" = 2 ]; then
        sql -c 'select count(*), sum(id) from t' -c 'select count(*) from t where id > 20000' -c 'select inet_client_addr()' -c 'vacuum full t'
        continue
    fi
    sql 2> /dev/null <<'SQL'
drop table if exists t;
create table t (id int primary key, v text);
insert into t select i, md5(i::text) from generate_series(1, 20000) i;
select count(*), sum(id), min(v), max(v) from t; select inet_client_addr(), inet_server_addr();
begin; delete from t where id > 10; select count(*) from t; rollback; select count(*) from t;
SQL
    sql -c 'copy t to stdout' | sort -n | sha256sum; sql -c 'create table c (like t)' -c '\copy c from pstdin' -c 'select count(*) from c' -c 'drop table c' < <(sql -c 'copy t to stdout')
    sql -c "select repeat('x', 20000000)" | wc -c
    sql -c 'select nothing' 2>&1 || echo "status $?"
    pgbench -q -i -s 2 > /dev/null 2>&1; pgbench -c 6 -j 2 -t 50 2> /dev/null | grep -E 'processed|failed'; sql -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)'
    pgbench -S -c 4 -j 2 -t 200 -M prepared 2> /dev/null | grep processed
    # A query is cancelled: that is a connection of its own.
    psql -X -q -c 'select pg_sleep(300)' > cancelled 2>&1 & waiting=$!
    until [ "$(sql -c "select count(*) from pg_stat_activity where query like 'select pg_sleep(300)%'")" = 1 ]; do sleep 0.05; done
    kill -INT $waiting; wait $waiting || echo "status $?"; cat cancelled
    # A killed backend takes the others' connections along, and the server comes back by itself.
    sql -c "create table killed (note text)" -c "copy killed from program 'kill -9 \$PPID; echo never'" 2>&1 | grep -o 'server closed the connection unexpectedly' || true
    until sql -c 'drop table killed' 2> /dev/null; do sleep 0.05; done
    sql -c 'select count(*) from t'
done
[ "$2" = 1 ] || exit 0
sql -c "insert into t values (100000, 'committed')"; psql -X -q -c "begin; insert into t values (100001, 'not committed'); select pg_sleep(300)" > /dev/null 2>&1 &
until [ "$(sql -c "select count(*) from pg_stat_activity where query like 'begin; insert%'")" = 1 ]; do sleep 0.05; done
