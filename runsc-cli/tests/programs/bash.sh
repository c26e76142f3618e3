# The shell itself: pipelines, job exit codes, here-documents, substitutions,
# background jobs, traps, subshells, process substitution, job control.
# needs: bash seq sort cat sleep wc tr head
# exit: 7
set -u
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work" || exit 99
trap 'status=$?; cd /; rm -rf "$work"; echo "exit trap, status $status"' EXIT
# A signal sent before a background job has left the shell's own code would meet
# the shell's handlers: wait until it runs its program.
await_program() { until [ "$(cat /proc/$1/comm)" = "$2" ]; do sleep 0.01; done; }

echo "== pipelines"
seq 1 1000 | grep 7 | sort -rn | head -3
true | false | true
echo "${PIPESTATUS[@]}"
(set -o pipefail; false | true; echo "pipefail $?")
yes | head -n 2
echo "SIGPIPE: ${PIPESTATUS[0]}"
seq 1 200000 | cat | cat | cat | wc -l

echo "== exit codes"
(exit 3); echo $?
bash -c 'exit 250'; echo $?
# What the shell says about them names their pid.
(bash -c 'kill -TERM $$'; exit $?) 2> /dev/null; echo $?
(bash -c 'kill -KILL $$'; exit $?) 2> /dev/null; echo $?
no-such-command-here; echo $?
: > plain; ./plain; echo $?
! true; echo $?
if (exit 2); then echo yes; else echo "else $?"; fi
(trap 'echo subshell exit' EXIT; exit 4); echo $?

echo "== here-documents"
name=world
cat <<END
hello $name $(echo nested) $((6 * 7))
END
cat <<'END'
literal $name `x`
END
cat <<-END
	tabs are stripped
	END
tr a-z A-Z <<< "here string"
large=$(seq 1 20000)
wc -c <<< "$large"
while read -r a b; do echo "$b-$a"; done <<END
1 one
2 two
END

echo "== substitutions"
x=$(printf 'a\nb\n\n\n'); echo "[$x]"
echo "$(echo "$(echo deep "$(echo deeper)")")"
y=$(exit 9); echo "status of \$(): $?"
diff <(printf '1\n2\n3\n') <(printf '1\n3\n'); echo "diff $?"
paste <(seq 1 3) <(seq 4 6) <(seq 7 9)
seq 1 5 | tee >(sort -r > reversed) > straight
# A process substitution is not waited for; its result is.
until [ "$(cat reversed 2> /dev/null | wc -l)" = 5 ]; do sleep 0.01; done
cat reversed straight | tr '\n' ' '; echo
mapfile -t lines < <(seq 10 12); echo "${#lines[@]} ${lines[1]}"

echo "== background jobs and wait"
(sleep 0.05; exit 5) & first=$!
(exit 6) & second=$!
wait $first; echo $?
wait $second; echo $?
wait $first; echo "remembered $?"
for i in 1 2 3 4 5 6 7 8; do (echo $i > "part$i"; exit $i) & pids[$i]=$!; done
for i in 1 2 3 4 5 6 7 8; do wait ${pids[$i]}; echo -n "$? "; done; echo
cat part? | tr '\n' ' '; echo
wait; echo "wait for nothing: $?"
(exit 11) & wait -n; echo "wait -n $?"
sleep 60 & victim=$!
await_program $victim sleep
kill $victim; wait $victim 2> /dev/null; echo "killed $?"
coproc { while read -r line; do echo "got $line"; done; }
echo ping >&${COPROC[1]}; read -r answer <&${COPROC[0]}; echo "$answer"
exec {COPROC[1]}>&-; wait 2> /dev/null

echo "== traps"
trap 'echo usr1' USR1; kill -USR1 $$; trap - USR1
trap 'echo usr2 during wait' USR2
(sleep 1; kill -USR2 $$; exec sleep 5) & helper=$!
wait $helper; echo "interrupted wait $?"
wait
trap '' TERM; kill -TERM $$; echo survived; trap - TERM
trap 'echo "err at $LINENO"' ERR; false; trap - ERR
bash -c 'trap "echo int; exit 33" INT; kill -INT $$; echo not reached'; echo $?
trap 'echo child ended' CHLD; (exit 0) & wait $!; trap - CHLD

echo "== redirections"
exec 5> five; echo to five >&5; exec 5>&-; cat five
{ echo out; echo err >&2; } > both 2>&1; cat both
echo appended >> both; wc -l < both
exec 6<> five; read -r -u 6 word; echo again >&6; exec 6>&-; cat five
cat < missing; echo "missing $?"
set -o noclobber; echo x > both; echo "noclobber $?"; set +o noclobber
echo closed >&- ; echo "closed $?"
echo tcp < /dev/null | cat

echo "== job control"
set -m
sleep 60 &
stopped=$!
await_program $stopped sleep
kill -STOP $stopped
until read -r _ _ state _ < /proc/$stopped/stat && [ "$state" = T ]; do sleep 0.01; done
echo "state $state"
kill -CONT $stopped
until read -r _ _ state _ < /proc/$stopped/stat && [ "$state" = S ]; do sleep 0.01; done
echo "state $state"
read -r _ _ _ _ group _ < /proc/$stopped/stat
[ "$group" = $stopped ] && echo "own process group"
kill -TERM -- -$stopped; wait $stopped 2> /dev/null; echo $?
set +m

echo "== functions, arithmetic, strings, globs"
f() { local v=$1; if ((v <= 1)); then echo 1; else echo $((v * $(f $((v - 1))))); fi; }
f 10
declare -A map=([b]=2 [a]=1); for k in a b; do echo -n "$k=${map[$k]} "; done; echo
touch g1 g2 g10; echo g* g? g[1-2] {x,y}{1..3}
s=/usr/lib/libexample.so.6; echo "${s##*/} ${s%/*} ${s/lib/LIB} ${#s} ${s:5:3} ${s^^}"
printf '%05d|%-6s|%x|%q\n' 42 ab 255 "a b'c"
select_case() { case $1 in a*|b) echo ab;; [0-9]) echo digit;;& 5) echo five;; *) echo other;; esac; }
select_case apple; select_case 5; select_case zz
ulimit -n 64; bash -c 'ulimit -n'
umask 027; : > masked; stat -c %a masked
IFS=: read -r u _ id _ < <(grep ^root: /etc/passwd); echo "$u $id"
time_out=$({ TIMEFORMAT=%U; time true; } 2>&1); [ -n "$time_out" ] && echo timed
exit 7
