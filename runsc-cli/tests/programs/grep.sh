# grep, above all grep -r over trees of the host.
# needs: grep
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
mkdir -p src/a src/b; ln -s ../b src/a/loop
for i in $(seq 1 50); do printf 'line one %d\nint main%d(void)\n\treturn %d;\n' $i $i $((i % 7)) > "src/a/f$i.c"; done
cp src/a/f1.c src/b/x.h; printf 'bin\0ary main\n' > src/b/blob; : > src/b/none
grep -rn 'main1[0-9]' src | sort; grep -rlw 'return 3' src/a | sort; grep -rc main src/b | sort
grep -RlE 'main(1|2)\(' src | sort; grep -rL return src | sort; grep -rh --include='*.h' return src
grep -r --exclude-dir=a main src | sort; grep -c 'return 0' src/a/*.c | awk -F: '{s+=$2} END {print s}'
printf 'a\nb\nc\nd\n' | grep -A1 -B1 c; printf 'x1y22z\n' | grep -oE '[0-9]+'; grep -P '(?<=main)5\b' src/a/f5.c
grep -q main src/b/x.h && echo found; grep -q nothing src/b/x.h || echo "status $?"; grep x missing || echo "status $?"
printf 'A\0b\0' | grep -z -i a | tr '\0' '\n'; grep -f <(echo main7) -rF src | sort; grep -vc main src/a/f1.c
seq 1 200000 | grep -c '[13579]$'; seq 1 200000 | grep -m 2 99999
grep -rIl 'include' /usr/include 2> /dev/null | sort | sha256sum
grep -rc 'define' /usr/include/linux 2> /dev/null | sort | sha256sum
grep -rn 'GNU' /usr/share/common-licenses | sort | sha256sum
zgrep -l changelog /usr/share/doc/bash/*.gz 2> /dev/null | sort || true
