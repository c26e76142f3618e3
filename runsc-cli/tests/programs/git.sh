# git: init, add, commit, log, branches, merge, rebase, clone, gc, fsck.
# needs: /usr/bin/git
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin TZ=UTC
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
export HOME=$work GIT_CONFIG_NOSYSTEM=1 GIT_PAGER=cat GIT_EDITOR=true
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=C GIT_COMMITTER_EMAIL=c@example.com
clock=1600000000
tick() { clock=$((clock + 60)); export GIT_AUTHOR_DATE="$clock +0000" GIT_COMMITTER_DATE="$clock +0000"; }
git config --global init.defaultBranch main; git config --global gc.auto 0; git config --global advice.detachedHead false
git config --global pack.threads 2; git config --global protocol.file.allow always
git init -q repo; cd repo; tick
for i in $(seq 1 100); do mkdir -p "dir$((i % 10))"; seq $i $((i * 10)) > "dir$((i % 10))/file$i"; done
printf '#!/bin/sh\necho run\n' > script; chmod +x script; ln -s script link; head -c 100000 /dev/zero > zeros
git status --short | wc -l; git add .; git status --short | head -2; git commit -q -m first; git log --format='%H %an %s'; git ls-files -s | sha256sum
for i in $(seq 1 15); do tick; echo "change $i" >> dir1/file1; seq 1 $((i * 50)) > "dir2/file$((i * 10 + 2))"; git commit -qam "change $i"; done
git log --oneline --stat | sha256sum; git log -3 --format='%h %ad %s' --date=iso; git diff HEAD~3 --stat; git show HEAD:dir1/file1 | tail -1; git blame -s dir1/file1 | tail -2
git checkout -q -b topic HEAD~5; tick; echo topic > topic; git add topic; git commit -qm topic; tick; git merge -q main -m merged; git log --graph --oneline -5
git checkout -q -b conflict HEAD~1; tick; echo other > dir1/file1; git commit -qam other; tick; git merge main > merge.out || echo "status $?"; cat merge.out; git diff --name-only --diff-filter=U; git merge --abort; rm merge.out
git checkout -q main; git checkout -q -b rebased HEAD~3; tick; echo r > r; git add r; git commit -qm r; tick; git rebase -q main; git log --format=%H -2
git tag -a v1 -m 'tag one'; git tag; git describe; git rev-parse HEAD HEAD^{tree} v1; git cat-file -p HEAD; git cat-file --batch-check --batch-all-objects | sha256sum
echo dirty >> script; git stash -q; git status --short; git stash pop -q; git status --short; git checkout -q -- script; git mv script moved; git rm -q zeros; git status --short; git reset -q --hard
git grep -n 'change 1[0-4]' | head -3; git bisect start HEAD HEAD~8 > /dev/null; git bisect run sh -c '! grep -q "change 12" dir1/file1' | grep 'first bad'; git bisect reset > /dev/null 2>&1
git archive HEAD | sha256sum; git format-patch -q -1 --stdout | sha256sum; git worktree add -q ../tree topic; ls ../tree | wc -l; git worktree remove ../tree
cd ..; git clone -q repo clone; git -C clone log --format=%H -1; git clone -q --bare "file://$work/repo" bare.git; git -C bare.git branch | tr -d ' *+' | sort; git clone -q --depth 2 "file://$work/repo" shallow; git -C shallow rev-list --count HEAD
cd clone; tick; echo pushed > pushed; git add .; git commit -qm pushed; git push -q ../bare.git HEAD:refs/heads/pushed; git -C ../bare.git log -1 --format=%s pushed; git -C ../repo fetch -q ../bare.git pushed:pushed; git -C ../repo log -1 --format=%H pushed; cd ../repo
git count-objects | sed 's/,.*//'; git reflog expire --expire=now --all; git gc -q --prune=now; git count-objects -v | grep -E '^(count|in-pack|packs|garbage)'; git fsck --full --strict && echo "fsck $?"; git verify-pack .git/objects/pack/*.idx && echo verified
git log --format=%H | sha256sum; git repack -adfq --depth=5; git fsck 2>&1; git diff v1 HEAD --quiet && echo same; git submodule add -q ../clone sub 2> /dev/null; git commit -qm sub; git submodule status | cut -c2-41
printf 'x' | git hash-object -w --stdin; printf bad > .git/refs/heads/broken; git fsck 2>&1 | grep -c broken; rm .git/refs/heads/broken; git checkout nothing || echo "status $?"; git -C /nonexistent log || echo "status $?"; (cd / && git log) || echo "status $?"
