# find: every kind of test and action, on a tree of its own and on /usr.
# needs: find xargs
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
for i in 1 2 3; do for j in 1 2 3; do mkdir -p "d$i/e$j/deep"; for k in 1 2 3 4; do
  printf '%0*d' $((i * j * k * 100)) 0 > "d$i/e$j/f$k.txt"; done; done; done
ln -s d1 link; ln -s nowhere broken; ln d1/e1/f1.txt hard; mkfifo pipe; mkdir empty
touch -d '2001-01-01' d2/e2/f2.txt; chmod 4755 d3/e3/f3.txt; chmod 000 d3/e3/f4.txt
printf 'x' > 'name with space
and newline'
find . -type f | sort
find . -type d -empty | sort; find . -type l -printf '%p -> %l\n' | sort; find . -xtype l; find -L . -type l
find . -type f -size +1k -printf '%s %p\n' | sort; find . -name 'f[12]*' -path '*e2*' | sort
find . -newermt 2001-01-02 -name f2.txt | sort; find . ! -newermt 2001-01-02 -printf '%TY-%Tm-%Td %p\n'
find . -perm -4000; find . -perm 000; find . -links 2 -type f | sort; find . -samefile hard | sort
find . -maxdepth 2 -mindepth 2 -regex '.*e[13]' | sort; find . -type p -o -name broken | sort
find d1 -depth | head -3 | wc -l; find . -name e2 -prune -o -type f -print | sort | sum
find . -type f -print0 | sort -z | xargs -0 -n 7 -P 1 sh -c 'echo $#' x
find . -name '*.txt' -exec sh -c 'echo "$#"' x {} +; find d1/e1 -type f -exec wc -c {} \; | sort
find . -name 'f3.txt' -delete; find . -name 'f3.txt' | wc -l; find missing || echo "status $?"
find . -type f -name '*.txt' | sort | xargs -n1 -P4 sha256sum | sort | sha256sum
find d2 -execdir pwd \; | sed "s|$work||" | sort -u; find . -follow -name f1.txt 2> /dev/null | sort
find /usr/share /usr/include -xdev -printf '%y %m %s %p %l\n' 2>&1 | grep -v '^d' | sort | sha256sum
find /usr/lib -name '*.so*' -type l -printf '%p %l\n' | sort | sha256sum
find /usr -xdev -type d | wc -l
find /etc -maxdepth 1 -name 'passwd' -printf '%f %h %d\n'
