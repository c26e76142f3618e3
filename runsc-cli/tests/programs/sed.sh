# sed: scripts, in-place edits, the hold space.
# needs: sed
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
seq 1 20 > n
sed -n '3,5p;$p' n; sed '2~3d' n | tr '\n' ' '; echo; sed '/^1/!d;s/1/[&]/g' n; sed -n '$=' n
sed '1!G;h;$!d' n | head -2; sed -E 's/([0-9])([0-9])/\2\1/' n | tail -2; sed 'y/123/abc/' n | head -3
sed -e '5i\inserted' -e '6a\appended' -e '7c\changed' n | sed -n '5,9p'; sed 'N;s/\n/,/' n | head -2
sed -e ':a' -e '$!N;s/\n/+/;ta' n; sed '/5/,/8/{/7/d;s/$/ in range/}' n | head -9
sed -i.bak 's/1/one/' n; head -1 n n.bak; stat -c %a n > m1; sed -i s/one/1/ n; cmp n n.bak && stat -c %a n | cmp - m1
sed -s -n '1F;1p' n n.bak; sed 'w copy' n > /dev/null; cmp copy n; sed -n '/^9/{p;q}' n; sed '3q5' n || echo "status $?"
sed 's/.*/echo & $((& * 2))/e' n | tail -2; sed -z 's/\n/;/g' n; echo; sed -u 1q < n; sed --posix 's/a\|b/x/' <<< 'a|b'
sed -n 'l 20' <<< $'tab\there and a long line that wraps'; sed s/x/y/ missing || echo "status $?"; sed 'k' n || echo "status $?"
seq 1 100000 | sed -n 's/^\(.\)\(.*\)\1$/\2/p' | sha256sum; printf '%s\n' a b | sed 'R n' | head -4
sed -f <(echo '2,$d') n
