# The server for two runs of iperf3 from the other end of the wire; says each time that it listens.
set -eu
for run in 1 2; do
    # A file of its own: the first one's would say at once that somebody listens.
    iperf3 -s -1 -p 18501 --forceflush > server.$run 2>&1 &
    server=$!
    until grep -qs listening server.$run; do
        kill -0 $server 2> /dev/null || { cat server.$run >&2; exit 1; }
        sleep 0.01
    done
    echo listening
    wait $server
done
