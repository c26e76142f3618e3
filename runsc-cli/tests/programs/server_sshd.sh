# openssh: sshd, a login by key, commands, a terminal, sftp, scp, forwarded ports.
# needs: /usr/sbin/sshd /usr/bin/ssh /usr/bin/ssh-keygen /usr/bin/sftp /usr/bin/python3
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
server=; web=; trap 'cd /; kill $server $web 2> /dev/null || true; wait; rm -rf "$work"' EXIT
mkdir -p /run/sshd; chmod 755 /run/sshd
ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; ssh-keygen -q -t rsa -b 2048 -N '' -f other; cp key.pub authorized; chmod 700 .
cat > sshd_config <<CONF
Port 17022
ListenAddress 127.0.0.1
HostKey $work/host
AuthorizedKeysFile $work/authorized
PidFile $work/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
Subsystem sftp internal-sftp
CONF
echo "[127.0.0.1]:17022 $(cut -d' ' -f1,2 host.pub)" > known
cat > ssh_config <<CONF
Host box
    HostName 127.0.0.1
    Port 17022
    User $(id -un)
    IdentityFile $work/key
    IdentitiesOnly yes
    UserKnownHostsFile $work/known
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
CONF
/usr/sbin/sshd -t -f sshd_config && echo valid
/usr/sbin/sshd -D -f sshd_config -E log & server=$!
until grep -q 'Server listening' log 2> /dev/null; do sleep 0.05; done
ssh="ssh -F ssh_config"
$ssh box 'echo in; id -u; pwd | wc -l; exit 7' < /dev/null || echo "status $?"
seq 1 200000 | $ssh box 'wc -c; echo problem >&2' 2>&1; $ssh box 'head -c 5000000 /dev/zero' | wc -c
$ssh -tt box 'tty | sed s,[0-9].*,N,; stty size; echo $TERM' < /dev/null 2> /dev/null | tr -d '\r' | tail -2 | head -1 | wc -w
$ssh -i other -o IdentityFile=none box true 2>&1 < /dev/null | grep -o 'Permission denied (publickey)' || true
$ssh box 'kill -TERM $$' < /dev/null || echo "status $?"
seq 1 100000 > data; printf 'put data copied\nls copied\nget copied back\nchmod 600 copied\nmkdir d\nrename copied d/moved\nls d\nrm d/moved\nrmdir d\n' | sed "s,copied,$work/copied,g; s,put data,put $work/data,; s, back, $work/back,; s, d/, $work/d/,g; s, d\$, $work/d," | sftp -q -F ssh_config -b - box | grep -v '^sftp>' | sed "s,$work,W,g"; cmp data back && echo same
scp -q -F ssh_config data box:"$work/scp.out"; cmp data scp.out && echo same; mkdir tree; cp data tree/a; ln -s a tree/b; scp -q -r -F ssh_config tree box:"$work/tree2"; ls tree2
/usr/bin/python3 -m http.server --bind 127.0.0.1 17023 > /dev/null 2>&1 & web=$!
$ssh -f -N -o ExitOnForwardFailure=yes -S ctl -M -L 127.0.0.1:17024:127.0.0.1:17023 -D 17025 -R 17026:127.0.0.1:17023 box
for p in 17024 17026; do /usr/bin/python3 - $p <<'PYTHON'
import sys, time, urllib.request
for _ in range(200):
    try: print(len(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/data").read())); break
    except OSError: time.sleep(0.05)
PYTHON
done
$ssh -S ctl box 'echo shared connection'; $ssh -S ctl -O check box 2>&1 | sed 's/pid=[0-9]*/pid=N/'; $ssh -S ctl -O exit box 2>&1
kill $server; wait $server || echo "ended: $?"; server=; grep -c 'Accepted publickey' log | sed 's/[1-9][0-9]*/accepted/'
