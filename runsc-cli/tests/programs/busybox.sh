# busybox, statically linked: its shell and its applets.
# needs: /bin/busybox
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
mkdir bin; /bin/busybox --list | grep -vE '^(reboot|halt|poweroff|init|linuxrc)$' | while read -r a; do ln -s /bin/busybox "bin/$a"; done
grep -c . <(/bin/busybox --list); ldd /bin/busybox 2>&1 | grep -o 'not a dynamic executable'; head -c 4 /bin/busybox | od -c | head -1
cat > t.sh <<'ASH'
echo "$0 in ash" | sed 's/.* in/in/'
seq 1 100 | awk '{ s += $1 } END { print s }'; seq 1 10 | sort -rn | head -2 | tr '\n' ' '; echo
mkdir -p d/e; for i in 1 2 3; do echo $i > d/e/f$i; done; find d -type f | sort; grep -r 2 d; tar -czf t.gz d; tar -tzf t.gz | sort; md5sum d/e/*
gzip -c d/e/f1 | gunzip; bzip2 -c d/e/f2 | bunzip2; cat d/e/* | xxd | head -1; echo hello | base64; printf '%05d\n' 42; expr 6 \* 7; echo '2 ^ 10' | bc
(exit 3); echo $?; sleep 0.01 & wait $!; echo $?; x=$(echo sub); echo $x; cat <<E
here $x
E
kill -9 $$; echo not reached
ASH
(PATH=$work/bin ./bin/sh t.sh; exit $?) 2> /dev/null || echo "status $?"
export PATH=$work/bin
sh -c 'trap "echo trapped" USR1; kill -USR1 $$; ls -1 /bin/busybox; stat -c %s t.sh; wc -c < t.sh'
sh -c 'vi -h; exit 0' > /dev/null 2>&1; echo 'a b c' | cut -d' ' -f2; diff t.sh t.sh && echo same; cp t.sh u.sh; echo x >> u.sh; diff t.sh u.sh || echo "status $?"; cmp t.sh u.sh || echo "status $?"
sha256sum t.sh; date -u -d @0 +%FT%TZ; env -i A=1 env; timeout 1 sleep 5 || echo "status $?"; yes | head -2; dd if=/dev/zero bs=1k count=3 2> /dev/null | wc -c; cpio --version > /dev/null 2>&1 || true; echo d | cpio -o -H newc 2> /dev/null | cpio -t 2> /dev/null; mkfifo p; echo through > p & cat p; nosuch || echo "status $?"; xargs -n1 echo < d/e/f1; ls -l d/e | awk 'NR > 1 { print $1, $5, $9 }'; rm -r d; ls d || echo "status $?"; busybox nosuch || echo "status $?"
/bin/busybox rm -rf bin
PATH=/usr/bin:/bin
