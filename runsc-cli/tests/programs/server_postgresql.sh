# postgresql: initdb, SQL, pgbench, a backend killed, the whole server killed, recovery.
# needs: /usr/lib/postgresql/15/bin/initdb /usr/lib/postgresql/15/bin/pgbench /usr/bin/psql /usr/bin/setpriv
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC PGTZ=UTC
if [ "${1:-}" != inner ] && [ "$(id -u)" = 0 ]; then
    # It does not run as root.
    dir=$(mktemp -d); chown nobody "$dir"; trap 'rm -rf "$dir"' EXIT
    cp "$0" "$dir/script"; chmod 755 "$dir/script"; cd "$dir"; status=0
    setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME="$dir" bash "$dir/script" inner || status=$?
    exit $status
fi
work=$(mktemp -d) && cd "$work"
export PGDATA=$work/data PGHOST=127.0.0.1 PGPORT=17432 PGUSER=me PGDATABASE=postgres
trap 'cd /; kill -QUIT $server 2> /dev/null || true; wait; rm -rf "$work"' EXIT; server=
initdb -U me -A trust -E UTF8 --locale=C.UTF-8 -k > initdb.log 2>&1 || { cat initdb.log; exit 1; }
cat >> data/postgresql.conf <<CONF
listen_addresses = '127.0.0.1'
port = $PGPORT
unix_socket_directories = '$work'
logging_collector = off
shared_buffers = 32MB
max_parallel_workers_per_gather = 2
min_parallel_table_scan_size = 0
parallel_setup_cost = 0
restart_after_crash = on
CONF
start() { postgres >> log 2>&1 & server=$!; until pg_isready -q; do kill -0 $server 2> /dev/null || { cat log; exit 1; }; sleep 0.05; done; }
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
start
sql -c 'select 6 * 7'; sql -h "$work" -c 'show server_encoding'
sql <<'SQL' | sed 's/PID [0-9]*/PID N/'
create table t (id int primary key, v text, j jsonb);
insert into t select i, md5(i::text), jsonb_build_object('n', i) from generate_series(1, 20000) i;
create index on t (v); analyze t;
select count(*), sum(id), min(v), max(v) from t; select j->>'n' from t where v = md5('777');
begin; delete from t where id > 10; select count(*) from t; rollback; select count(*) from t;
create function f(n int) returns int language plpgsql as $$ begin return n + 1; end $$; select f(41);
select count(*) from t a join t b on a.id = b.id + 1 where a.v < b.v;
copy (select id from t where id <= 3 order by id) to stdout;
listen news; notify news, 'told';
unlisten news;
SQL
sql -c 'select nothing' 2>&1 || echo "status $?"
pgbench -q -i -s 2 > /dev/null 2>&1; pgbench -c 6 -j 2 -t 50 2> /dev/null | grep -E 'processed|failed'; sql -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)'
pgbench -S -c 4 -j 2 -t 200 -M prepared 2> /dev/null | grep processed
pg_dump -t t | sha256sum | wc -l; pg_dump -Fc postgres > dump; createdb copy; pg_restore -d copy dump; sql -d copy -c 'select count(*) from t'; dropdb copy
# A killed backend takes the others' connections along, and the server comes back by itself.
psql -X -q -c 'select pg_sleep(300)' > /dev/null 2>&1 &
until [ "$(sql -c "select count(*) from pg_stat_activity where query like 'select pg_sleep(300)%'")" = 1 ]; do sleep 0.05; done
kill -9 "$(sql -c "select pid from pg_stat_activity where query like 'select pg_sleep(300)%'")"
until grep -q 'database system is ready' <(sed '1,/was terminated by signal 9/d' log); do sleep 0.05; done
until sql -c 'select count(*) from t' 2> /dev/null; do sleep 0.05; done
# The whole server is killed in the middle of work; what was committed is there.
sql -c "insert into t values (100000, 'committed')"; psql -X -q -c "begin; insert into t values (100001, 'not committed'); select pg_sleep(300)" > /dev/null 2>&1 &
until [ "$(sql -c "select count(*) from pg_stat_activity where query like 'begin; insert%'")" = 1 ]; do sleep 0.05; done
children=$(ps -o pid= --ppid $server | xargs | tr ' ' ','); [ -n "$children" ] || echo "no children"
{ kill -9 $server; wait; } 2> /dev/null
# Its children notice by themselves; until then the data is theirs.
while ps -o pid= -p "$children" > /dev/null; do sleep 0.05; done
start
sql -c 'select count(*) from t where id >= 100000'; grep -c 'redo done' log | sed 's/[1-9]/recovered/'; sql -c 'vacuum full t' -c 'select count(*) from t'; pg_ctl stop -m fast > /dev/null; wait; pg_checksums --check | grep 'Bad checksums'; pg_controldata | grep 'cluster state'
