# wrk with keep-alive, from the other end of the wire: requests a second.
set -eu
[ "$1" = small ] && seconds=1 || seconds=5
url=http://$INSIDE:18480/
until curl -s -o first $url; do sleep 0.02; done
wrk -t 2 -c 32 -d ${seconds}s $url > out
if grep -E 'Socket errors|Non-2xx' out >&2; then exit 1; fi
awk '/^Requests\/sec:/ { print "nginx_wrk_out", "per_second", $2 }' out
