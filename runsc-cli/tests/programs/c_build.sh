# gcc and make -j2: builds mandoc, a C program of more than 90 files, from its
# Debian source package, and formats manual pages with the result.
# needs: gcc make
# needs-program: mandoc
set -eu
programs=$1
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
cp -r "$programs/mandoc" src; cd src
files=$(ls *.c | wc -l); echo "$files files"; [ "$files" -gt 50 ]
printf 'CC=gcc\nCFLAGS="-O1 -ffile-prefix-map=%s=/src"\nPREFIX=/usr\n' "$work" > configure.local
./configure > configure.out 2>&1; grep -c HAVE_ config.h
make -j2 > make.out 2>&1 || { cat make.out; exit 1; }
make -q mandoc && echo "up to date"
sha256sum mandoc; ls *.o | wc -l; cat *.o | sha256sum
./mandoc -I os=Linux -T utf8 mandoc.1 | sha256sum; ./mandoc -I os=Linux -T html mdoc.7 | sha256sum; printf '.TH a 1\n.SH\n.XX y\n' | ./mandoc -T lint || echo "status $?"
touch -d '2030-01-01' tree.c; make -n mandoc 2>&1 | grep -c '^gcc.*tree'; make clean > /dev/null; ls *.o 2> /dev/null || echo cleaned
cd ..; printf '#include <stdio.h>\nint main(int c, char **v) { return printf("%%s\\n", v[c - 1]), 3; }\n' > a.c
gcc -Wall -g -O2 -o a a.c; ./a arg || echo "status $?"; gcc -static -o s a.c; ./s static || echo "status $?"; gcc -flto -fPIE -pie -pipe -o l a.c; ./l lto || echo "status $?"
gcc -shared -fPIC -o libz.so -x c - <<< 'int seven(void) { return 7; }'; gcc -o d -x c - -L. -lz -Wl,-rpath,"$work" <<< 'int seven(void); int main(void) { return seven(); }'; ./d || echo "status $?"
echo 'int x = ;' | gcc -x c -c -o bad.o - || echo "status $?"; printf 'all: a b\na b:\n\t@echo $@\nfail:\n\t@false\n' > M; make -f M; make -f M fail || echo "status $?"; make -f M none || echo "status $?"
