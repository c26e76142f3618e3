# Clients in the sandbox, servers outside: curl, iperf3, psql.
# needs: /usr/sbin/nginx /usr/bin/curl /usr/bin/iperf3 /usr/lib/postgresql/15/bin/initdb /usr/bin/psql /usr/bin/setpriv
# inside: use
set -eu
export PATH=/usr/lib/postgresql/15/bin:$PATH PGUSER=me PGDATABASE=postgres
if [ "$1" = serve ]; then
    mkdir html tmp area; chmod 777 tmp; chown nobody area; seq 1 4000000 > html/big
    cat > nginx.conf <<CONF
daemon off; worker_processes 1; pid $PWD/pid; error_log $PWD/error.log notice;
events { worker_connections 512; }
http {
    sendfile on; keepalive_requests 1000000; access_log $PWD/access.log;
    client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f; uwsgi_temp_path tmp/u; scgi_temp_path tmp/s;
    server { listen 80; listen [::]:80; root $PWD/html; location /put/ { root $PWD/tmp; dav_methods PUT; client_max_body_size 40m; create_full_put_path on; } }
}
CONF
    nginx -p "$PWD" -c nginx.conf 2> /dev/null & web=$!
    iperf3 -s --forceflush > iperf 2>&1 & iperf=$!
    as='setpriv --reuid=nobody --regid=nogroup --clear-groups env'
    $as initdb -D "$PWD/area/data" -U me -A trust -N > initdb.log 2>&1 || { cat initdb.log; exit 1; }
    printf 'host all all %s/24 trust\nhost all all %s/64 trust\n' "$FROM_FOUR" "$FROM_SIX" >> area/data/pg_hba.conf
    $as postgres -D "$PWD/area/data" -c listen_addresses='*' -c unix_socket_directories= > log 2>&1 & data=$!
    until [ -s pid ] && grep -q listening iperf && pg_isready -q -h 127.0.0.1; do kill -0 $web $iperf $data; sleep 0.05; done
    echo ready
    cat
    kill $iperf; kill -QUIT $web; kill -INT $data; wait $web $data; cut -d' ' -f1 access.log | sort -u; grep -E 'emerg|alert|crit' error.log || true
    exit
fi
get() { curl -sS --max-time 60 "$@"; }
for address in "$FOUR" "$SIX"; do
    url=http://$address; case $address in *:*) url="http://[$address]" ;; esac
    echo "== $address"
    get $url/big | sha256sum; get -T html/big $url/put/a -o /dev/null -w '%{http_code}\n'; cmp html/big tmp/put/a && echo stored
    get "$url/nothing?[1-100]" -o /dev/null -w '%{http_code} %{num_connects}\n' | sort | uniq -c
    jobs=; for i in $(seq 6); do get $url/big -o out.$i & jobs="$jobs $!"; done; wait $jobs; sha256sum out.* | cut -c1-64 | sort | uniq -c; rm out.*
    for options in '' -R --bidir '-P 4' '-u -b 100M' '-u -b 100M -R'; do until iperf3 -c "$address" -t 1 $options > iperf.out 2>&1; do grep -q busy iperf.out || { cat iperf.out; break; }; sleep 0.1; done; tail -1 iperf.out; done
    export PGHOST=$address
    psql -X -q -A -t -c 'select inet_client_addr(), inet_server_addr()' -c "select sum(i) from generate_series(1, 100000) i"; psql -X -q -A -t -c 'select generate_series(1, 300000)' | sha256sum
    psql -X -q -A -t -d nowhere -c 'select 1' 2>&1 | tail -1
    get --connect-timeout 30 ${url}:81/ 2>&1 | sed 's/after [0-9]* ms/after N ms/' || true
done
