# git: ten adds and commits, a clone, a log.
set -eu
[ "$1" = small ] && count=2 || count=10
export GIT_CONFIG_NOSYSTEM=1 GIT_PAGER=cat
git config --global user.name A
git config --global user.email a@example.com
git config --global init.defaultBranch main
git init -q origin
cd origin
i=1
while [ $i -le $count ]; do
    seq $i $((i * 1000)) > "file$i"
    git add "file$i"
    git commit -q -m "commit $i"
    i=$((i + 1))
done
cd ..
git clone -q origin copy
git -C copy log --stat > log
grep -c '^commit' log
