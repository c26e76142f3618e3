# tar, gzip and xz: round trips with checksums, links, modes, sparse files.
# needs: tar gzip xz bzip2
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
mkdir -p tree/sub/empty
cp /usr/bin/tar tree/binary; cp -r /usr/share/common-licenses tree/licenses
for i in $(seq 1 200); do seq $i $((i * 20)) > "tree/sub/file-$i"; done
ln -s sub/file-1 tree/symlink; ln tree/sub/file-2 tree/hardlink; mkfifo tree/fifo
truncate -s 3M tree/sparse; echo end >> tree/sparse
: > "tree/$(printf 'long%.0s' $(seq 1 50))"; chmod 640 tree/sub/file-3; chmod 750 tree/sub/file-4
find tree -exec touch -h -d '2022-02-22 22:22:22' {} +
sums() { (cd "$1" && find . -type f | sort | xargs -d '\n' sha256sum | sha256sum
  find . -printf '%y %m %l %TY%Tm%Td%TH%TM%TS %p\n' | sort | sha256sum); }
sums tree
for form in ustar pax gnu; do
  # ustar has no room for the long name; pax headers hold a pid and access times.
  case $form in
    ustar) skip=--exclude=longlong* ;;
    pax) skip=--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime ;;
    gnu) skip=--exclude=nothing ;;
  esac
  tar --format=$form --sort=name --owner=0 --group=0 --numeric-owner -cf $form.tar $skip tree
  sha256sum < $form.tar
  tar -tf $form.tar | sort | sha256sum
  mkdir out-$form; tar -xpf $form.tar -C out-$form; sums out-$form/tree
  tar -df $form.tar && echo "no differences"
done
tar -S --sort=name --owner=0 --group=0 -cf sparse.tar tree/sparse; [ "$(stat -c %s sparse.tar)" -lt 100000 ] && echo small
mkdir s && tar -xf sparse.tar -C s && cmp s/tree/sparse tree/sparse && echo sparse
for tool in "gzip -n" "gzip -n -1" "xz -T1" "xz -T2 --block-size=64KiB" "bzip2"; do
  $tool -c < gnu.tar > packed; echo "$tool: $(sha256sum < packed)"
  ${tool%% *} -dc < packed | cmp - gnu.tar && echo same
  ${tool%% *} -t < packed && echo intact
  head -c 5000 packed | ${tool%% *} -dc > /dev/null || echo "truncated: status $?"
done
tar -czf a.tgz -C tree sub; tar -tzf a.tgz | wc -l; tar -cJf a.txz -C tree sub; mkdir x && tar -xJf a.txz -C x; diff -r x/sub tree/sub && echo same
cp gnu.tar g; gzip -kn g; gunzip -t g.gz; rm g; gunzip g.gz; cmp g gnu.tar; xz -k g; xz -l --robot g.xz | head -1 | cut -f1; rm g; unxz g.xz; cmp g gnu.tar && echo in place
tar -rf ustar.tar --owner=0 --group=0 tree/sub/file-1; tar -tf ustar.tar | tail -1; tar --delete -f gnu.tar tree/binary; tar -tf gnu.tar | grep -c binary || true
tar -cf - tree | (mkdir piped; tar -xf - -C piped); sums piped/tree; tar -xf missing.tar 2>&1 || echo "status $?"
tar -cf - -C tree sub | gzip -n | gzip -dc | tar -xO -f - sub/file-9 | tail -1; zcat < a.tgz | tar -tf - | sort | tail -1
tar --listed-incremental=snap -cf full.tar tree/sub 2> /dev/null; echo new > tree/sub/new; tar --listed-incremental=snap -cf incr.tar tree/sub; tar -tf incr.tar | grep new
