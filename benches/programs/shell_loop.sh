# A shell that starts /bin/true 300 times.
set -eu
[ "$1" = small ] && count=10 || count=300
i=0
while [ $i -lt $count ]; do
    /bin/true
    i=$((i + 1))
done
echo "$i processes"
