# nginx with two workers and wrk with keep-alive, a small file: requests a second. With $INSIDE, wrk is
# outside, and its figure is read.
set -eu
address=${INSIDE:-127.0.0.1}
[ "$1" = small ] && seconds=1 || seconds=5
mkdir html tmp
chmod 755 . html
head -c 612 /dev/zero | tr '\0' x > html/index.html
cat > nginx.conf <<CONF
daemon off; pid $PWD/pid; error_log $PWD/error.log; worker_processes 2;
events { worker_connections 1024; }
http {
    access_log off; sendfile on; tcp_nopush on; keepalive_timeout 65; keepalive_requests 1000000;
    client_body_temp_path tmp/b; proxy_temp_path tmp/p; fastcgi_temp_path tmp/f;
    uwsgi_temp_path tmp/u; scgi_temp_path tmp/s;
    server { listen $address:18480; root $PWD/html; }
}
CONF
nginx -p "$PWD" -c nginx.conf > server.out 2>&1 &
server=$!
until [ -s pid ]; do
    kill -0 $server 2> /dev/null || { cat server.out error.log >&2; exit 1; }
    sleep 0.01
done
if [ -n "${INSIDE-}" ]; then
    cat
else
    wrk -t 2 -c 32 -d ${seconds}s http://$address:18480/ > out
    if grep -E 'Socket errors|Non-2xx' out >&2; then kill $server; exit 1; fi
    awk '/^Requests\/sec:/ { print "nginx_wrk", "per_second", $2 }' out
fi
kill $server
wait $server
