# nginx: a master and workers, sendfile, keep-alive, ranges, gzip, a proxy, reload, graceful end.
# needs: /usr/sbin/nginx /usr/bin/curl /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
server=; backend=; trap 'cd /; kill $server $backend 2> /dev/null || true; wait; rm -rf "$work"' EXIT
mkdir html tmp html/dir; touch html/dir/one html/dir/two; chmod 755 . html; chmod 777 tmp; printf 'hello\n' > html/index.html; seq 1 400000 > html/numbers.txt; head -c 9000000 /dev/zero > html/zeros; printf 'made by a backend\n' > backend.txt
cat > nginx.conf <<CONF
daemon off; master_process on; worker_processes 3; pid $work/pid; error_log $work/error.log notice;
events { worker_connections 512; multi_accept on; }
http {
    sendfile on; tcp_nopush on; keepalive_timeout 65; gzip on; gzip_types text/plain; access_log $work/access.log; include /etc/nginx/mime.types;
    client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f; uwsgi_temp_path tmp/u; scgi_temp_path tmp/s;
    open_file_cache max=100; aio threads; directio off;
    server { listen 127.0.0.1:17080 reuseport; listen [::1]:17080; root $work/html; server_name _;
        location /old { return 301 /new; } location /list/ { alias $work/html/dir/; autoindex on; }
        location /back/ { proxy_pass http://127.0.0.1:17081/; proxy_http_version 1.1; } location /put/ { root $work/tmp; dav_methods PUT DELETE; client_max_body_size 20m; create_full_put_path on; }
        location /unix/ { proxy_pass http://unix:$work/backend.sock:/; } location /status { stub_status; } }
}
CONF
nginx -p "$work" -c nginx.conf -t 2>&1 | sed "s,$work,W,"
nginx -p "$work" -c nginx.conf 2> /dev/null & server=$!
/usr/bin/python3 -m http.server --bind 127.0.0.1 17081 > /dev/null 2>&1 & backend=$!
url=http://127.0.0.1:17080
get() { curl -sS --max-time 60 "$@"; }
for _ in $(seq 200); do [ ! -s pid ] || ! curl -s -o /dev/null http://127.0.0.1:17081/ || break; sleep 0.05; done
get $url/; get "http://[::1]:17080/" ; get $url/numbers.txt | sha256sum; get $url/zeros | sha256sum; get --compressed $url/numbers.txt | sha256sum
get -r 100-199 $url/numbers.txt; get -I $url/index.html | grep -E '^(HTTP|Content-Length|Content-Type)' | tr -d '\r'
get -o /dev/null -w '%{http_code} %{size_download}\n' $url/nothing; get -o /dev/null -w '%{http_code} %{redirect_url}\n' $url/old
get $url/list/ | grep -c href; get $url/back/backend.txt; head -c 3000000 /dev/urandom > up; get -T up $url/put/a -o /dev/null -w '%{http_code}\n'; cmp up tmp/put/a && echo stored; get -X DELETE -o /dev/null -w '%{http_code}\n' $url/put/a
get "$url/numbers.txt?[1-40]" -o /dev/null -w '%{http_code} %{num_connects}\n' | sort | uniq -c
for i in $(seq 12); do get $url/zeros -o out.$i & jobs="${jobs:-} $!"; done; wait $jobs; cat out.* | wc -c; rm out.*
printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' | /usr/bin/python3 -c 'import socket,sys; s=socket.create_connection(("127.0.0.1",17080)); s.sendall(sys.stdin.buffer.read()); d=b""
while c:=s.recv(4096): d+=c
print(d.count(b"200 OK"), d.count(b"hello"))'
get -o /dev/null -w '%{http_code}\n' $url/back/nothing; get -o /dev/null -w '%{http_code}\n' $url/unix/
printf 'second\n' > html/second.html; kill -HUP $server; until grep -q 'gracefully shutting down' error.log; do sleep 0.05; done; get $url/second.html
until [ "$(ps -o ppid=,args= -e | awk -v p=$server '$1 == p' | grep -c 'nginx: worker process$')" = 3 ]; do sleep 0.05; done; echo 3 workers
mv access.log access.old; kill -USR1 $server; until [ -e access.log ]; do sleep 0.05; done; get -o /dev/null $url/; until [ -s access.log ]; do sleep 0.05; done; wc -l < access.log
kill -9 $(ps -o pid=,ppid=,args= -e | awk -v p=$server '$2 == p {print $1; exit}'); until grep -q 'exited on signal 9' error.log; do sleep 0.05; done; get $url/
kill -QUIT $server; wait $server; echo "ended: $?"; server=; curl -sS $url/ 2>&1 | sed 's/after [0-9]* ms/after N ms/' || true; grep -cE 'emerg|alert|crit' error.log || true
