# tar piped through xz, and back.
set -eu
[ "$1" = small ] && tree=include/asm-generic || tree=include/linux
tar -C /usr -cf - $tree | xz -T1 > archive.tar.xz
xz -dc archive.tar.xz | tar --no-same-owner -xf -
diff -r /usr/$tree $tree
find $tree -type f | wc -l
