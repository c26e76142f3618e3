# nginx: several workers, sendfile, a big file, keep-alive, uploads, a proxy; curl and wrk.
# needs: /usr/sbin/nginx /usr/bin/curl /usr/bin/wrk /usr/bin/python3
set -eu
if [ "$1" = serve ]; then
    mkdir html tmp; chmod 777 tmp; printf 'hello\n' > html/index.html; seq 1 4000000 > html/big; head -c 612 /dev/zero > html/small
    cat > nginx.conf <<CONF
daemon off; worker_processes 3; pid $PWD/pid; error_log $PWD/error.log notice;
events { worker_connections 512; multi_accept on; }
http {
    sendfile on; tcp_nopush on; keepalive_timeout 65; keepalive_requests 1000000; access_log $PWD/access.log; types { text/plain txt; }
    client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f; uwsgi_temp_path tmp/u; scgi_temp_path tmp/s;
    server { listen 80 reuseport; listen [::]:80 reuseport; root $PWD/html;
        location /back/ { proxy_pass http://127.0.0.1:8080/; proxy_http_version 1.1; }
        location /self/ { proxy_pass http://$FOUR/; }
        location /put/ { root $PWD/tmp; dav_methods PUT DELETE; client_max_body_size 40m; create_full_put_path on; } }
    server { listen 127.0.0.1:8080; root $PWD/html; }
}
CONF
    nginx -p "$PWD" -c nginx.conf 2> /dev/null & server=$!
    until [ -s pid ] && curl -s -o /dev/null http://127.0.0.1/; do kill -0 $server || { cat error.log; exit 1; }; sleep 0.05; done
    > access.log
    echo ready
    cat
    kill -QUIT $server; wait $server; echo "ended: $?"; cut -d' ' -f1 access.log | sort -u; grep -E 'emerg|alert|crit' error.log || true
    exit
fi
get() { curl -sS --max-time 60 "$@"; }
for url in "http://$FOUR" "http://[$SIX]"; do
    echo "== $url"
    get $url/; get $url/big | sha256sum; get -r 1000000-1000099 $url/big | sha256sum; get $url/back/big | sha256sum; get $url/self/
    get -I $url/small | grep -E '^(HTTP|Content-Length|Accept)' | tr -d '\r'; get -o /dev/null -w '%{http_code} %{size_download}\n' $url/nothing
    get "$url/small?[1-200]" -o /dev/null -w '%{http_code} %{num_connects}\n' | sort | uniq -c
    head -c 20000000 /dev/urandom > up; get -T up $url/put/a -o /dev/null -w '%{http_code}\n'; cmp up tmp/put/a && echo stored; get -X DELETE -o /dev/null -w '%{http_code}\n' $url/put/a
    jobs=; for i in $(seq 12); do get $url/big -o out.$i & jobs="$jobs $!"; done; wait $jobs; sha256sum out.* | cut -c1-64 | sort | uniq -c; rm out.*
    # Who goes away in the middle disturbs nobody, and who is slow gets everything.
    for i in $(seq 10); do get $url/big | head -c 10000 | wc -c; done 2> /dev/null | sort | uniq -c
    get --limit-rate 20M $url/big | sha256sum
    printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' > asked
    /usr/bin/python3 -c 'import socket, sys
s = socket.create_connection((sys.argv[1].strip("htp:/[]"), 80), timeout=60); s.sendall(open("asked", "rb").read()); d = b""
while c := s.recv(4096): d += c
print(d.count(b"200 OK"), d.count(b"hello"), len(d.split(b"\r\n\r\n")[-1]))' $url
    wrk -t 2 -c 16 -d 1s $url/small > rate; grep -cE '^Requests/sec: *[1-9]' rate; grep -E 'Socket errors|Non-2xx' rate || true
done
curl -sS "http://$FOUR:81/" 2>&1 | sed 's/after [0-9]* ms/after N ms/' || true
