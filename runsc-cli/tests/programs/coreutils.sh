# A wide tour of coreutils.
# needs: stat truncate split csplit comm join shuf numfmt timeout stdbuf sha256sum b2sum
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
status() { "$@" && echo "status 0" || echo "status $?"; }

echo "== files"
mkdir -p a/b/c && touch -d '2020-02-02 02:02:02.123456789' a/b/c/file
stat -c '%n %s %a %F %y' a/b/c/file
status mkdir a
printf 'hello\n' > one; cp one two; cp -p a/b/c/file kept; stat -c %Y kept
cp -r a copy; cp -al a links; stat -c '%h %n' a/b/c/file
ln -s one sym; ln one hard; stat -c '%h %F %N' one sym hard
readlink sym; readlink -f a/../sym | sed "s|$work|WORK|"; realpath --relative-to=a/b one
mv two three; mv -n one three; ls
status rmdir a; status rm missing; rm -r copy links
install -m 750 -D one deep/er/installed; stat -c %a deep/er/installed
mktemp -u -d XXXXXX | wc -c; mkfifo fifo; stat -c %F fifo
(echo through > fifo &) ; cat fifo
truncate -s 1M sparse; stat -c '%s' sparse; truncate -s -1K sparse; stat -c %s sparse
dd if=/dev/zero of=zeros bs=4096 count=25 status=none; dd if=zeros bs=1k skip=99 status=none | wc -c
echo patch | dd of=zeros bs=1 seek=10 conv=notrunc status=none; od -A d -t x1z -N 20 zeros
chmod u=rwx,g=rx,o= one; stat -c %a one; chmod -R go-rwx a; stat -c %a a a/b
touch -r kept -m one; stat -c %Y one; touch -h -d @5 sym; stat -c %Y sym
sync; unlink hard; shred -n 1 -u kept; ls -1 | tr '\n' ' '; echo
ls -lR --time-style=+%s a | awk '/^-/{print $1,$5,$7}'; ls -1 --sort=size -r sparse zeros one
test -f one && test ! -e none && test sparse -nt a/b/c/file && echo tests
[ -L sym ] && [ -p fifo ] && [ -d a ] && [ -x one ] && echo brackets
du -b --apparent-size one sparse zeros

echo "== text"
seq 1 30 > n; head -n 2 n; tail -n 2 n; head -c 5 n | od -c; tail -n +29 n; tac n | head -1; nl -ba n | tail -1
wc n; cut -d3 -f1 n | sort | uniq -c | sort -rn | head -3; sort -R --random-source=/dev/zero n | sum
sort -n -k2,2 -t, <<< $'a,10\nb,9\nc,100'; sort -u -f <<< $'b\nA\na\nB'; sort -c n || echo unsorted
seq 1 300000 | shuf --random-source=<(yes) | sort -S 1M --parallel=2 -n | sha256sum
paste -sd+ n; tr -d '\n' < n; echo; tr -s a-z '[A-Z*]' <<< aabbcc; expand -t4 <<< $'a\tb'; unexpand -a -t4 <<< 'a       b'
fold -w 20 -s <<< 'the quick brown fox jumps over the lazy dog'; fmt -w 30 <<< 'the quick brown fox jumps over the lazy dog'
pr -3 -t n | head -2; column_input=$(seq -w 1 5); echo "$column_input" | tr '\n' ,; echo
comm <(seq 1 5) <(seq 3 7); join <(printf '1 a\n2 b\n') <(printf '1 x\n2 y\n'); uniq -d <<< $'a\na\nb'
split -l 10 n part-; ls part-*; csplit -s -f cs- n '/^11$/' '{0}'; wc -l cs-*; cat part-* | cmp - n && echo same
split -n r/3 -d n rr; head -2 rr02; tsort <<< $'a b\nb c\na c'; ptx <<< 'one two' | wc -l
numfmt --to=iec 1048576; numfmt --from=si 2K; factor 360360 1000003; expr 6 \* 7; seq -s, 0 0.5 2
printf '%s\n' b64; base64 <<< 'hello world'; base64 -d <<< aGVsbG8K; base32 <<< x; basenc --z85 <<< 'abc'

echo "== sums"
for t in cksum sum md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum; do $t n; done
sha256sum n one > sums; sha256sum -c sums; echo bad >> one; status sha256sum -c sums --quiet

echo "== processes and environment"
status timeout 0.1 sleep 5; (status timeout -s KILL 0.1 sleep 5) 2> /dev/null; status timeout 5 true
env -i A=1 B=2 /usr/bin/env | sort; env -u LC_ALL sh -c 'echo ${LC_ALL-unset}'; printenv TZ
nice -n 5 sh -c 'nice'; nohup true < /dev/null; stdbuf -oL echo line; status chroot /missing true
status sh -c 'exit 42'; yes yes | head -3; tee t1 t2 <<< teed; cat t1 t2; status false; sleep 0.01; nproc > /dev/null
date -d '1999-12-31 23:59:59' +'%s %j %A'; date -d @0 -u +%FT%TZ; basename /a/b.c .c; dirname /a/b/c; pathchk -p ok-name
: > followed; tail -f -n +1 --pid=$$ n >> followed & follower=$!
until [ "$(wc -l < followed)" = 30 ]; do sleep 0.01; done
echo 31 >> n
until [ "$(wc -l < followed)" = 31 ]; do sleep 0.01; done
kill $follower; wait $follower 2> /dev/null || echo "tail $?"; tail -1 followed
test -t 0 || echo "not a terminal"; status tty; dir -1 a; vdir a > /dev/null; id -u > id1; id -u | cmp - id1
uname -s; arch; logname > /dev/null 2>&1 || true; mknod pipe2 p; stat -c %F pipe2
status cat /; status cat missing; status ls missing; status cp a b; status ln -s one sym; status mv missing x
