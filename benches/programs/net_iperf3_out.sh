# iperf3 to a server at the other end of the wire, one stream each way: bytes a second.
set -eu
[ "$1" = small ] && seconds=1 || seconds=4
measure() {
    name=$1; shift
    # The server says when it listens.
    read -r line
    iperf3 -c "$OUTSIDE" -p 18501 -t $seconds -J "$@" > out 2>&1 || { cat out >&2; exit 1; }
    # It may end well all the same.
    if grep '"error"' out >&2; then exit 1; fi
    awk -v name=$name '/"sum_received"/ { at = 1 } at && /"bits_per_second"/ { gsub(/,/, ""); print name, "bytes_per_second", $2 / 8; exit }' out
}
measure iperf3_out
measure iperf3_in -R
