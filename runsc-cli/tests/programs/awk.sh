# awk (whichever one is installed): fields, arrays, pipes, files, functions.
# needs: awk
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
awk 'BEGIN { for (i = 1; i <= 2000; i++) printf "%d,%s,%.3f\n", i, "k" i % 17, i / 7 }' > t
awk -F, '{ s[$2] += $3 } END { for (k in s) printf "%s %.2f\n", k, s[k] }' t | sort
awk -F, 'NR % 500 == 0 { print FILENAME, FNR, NF, $NF }' t; awk 'BEGIN { RS = "," } END { print NR }' t
awk -F, '{ print $1 > ("out-" $2) } END { close("out-k1") }' t; ls out-* | wc -l; cat out-k1 | wc -l
awk 'BEGIN { while (("seq 1 5" | getline x) > 0) s += x; print s; "echo one" | getline y; print y }'
awk 'BEGIN { print "c\nb\na" | "sort"; close("sort"); print system("exit 3") }'
awk 'BEGIN { print length("hello"), substr("hello", 2, 3), index("hello", "l"), toupper("x"), match("foobar", /o+/), RSTART, RLENGTH }'
awk 'BEGIN { s = "aaa"; n = gsub(/a/, "b&", s); print n, s; split("a:b:c", p, ":"); print p[3]; printf "%c%5.2f|%-5s|%05d\n", 65, 3.14159, "ab", 42 }'
awk 'function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2) } BEGIN { print fib(20) }'
awk -v v=7 'BEGIN { print v * 6, ENVIRON["LC_ALL"]; exit 5 }' || echo "status $?"
seq 1 100000 | awk '{ s += $1 * $1 } END { printf "%.0f\n", s }'
awk '/start/,/end/' <<< $'a\nstart\nb\nend\nc'; awk 'END { print $0 }' t; awk '{ getline line < "t"; print line; exit }' t
awk 'BEGIN { printf "to stderr\n" > "/dev/stderr"; x["a", 1] = 2; for (k in x) { split(k, p, SUBSEP); print p[1], p[2] } }'
awk '{ print }' missing || echo "status $?"; awk 'BEGIN { srand(1); a = rand(); srand(1); print a == rand(), int(-3.7), 2 ^ 10, 7 % 3 }'
