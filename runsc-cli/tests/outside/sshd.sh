# openssh: sshd, logins by key from outside: commands, a terminal, sftp, scp, forwarded ports.
# needs: /usr/sbin/sshd /usr/bin/ssh /usr/bin/ssh-keygen /usr/bin/sftp /usr/bin/scp /usr/bin/python3 /usr/bin/curl
set -eu
if [ "$1" = serve ]; then
    mkdir -p /run/sshd; chmod 755 /run/sshd
    for name in host key other; do ssh-keygen -q -t ed25519 -N '' -f $name; done; cp key.pub authorized
    cat > sshd_config <<CONF
Port 22
HostKey $PWD/host
AuthorizedKeysFile $PWD/authorized
PidFile $PWD/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
SetEnv HOME=$PWD
Subsystem sftp internal-sftp
CONF
    mkdir inside; echo 'page inside' > inside/page; /usr/bin/python3 -m http.server --directory inside --bind 127.0.0.1 8000 > /dev/null 2>&1 & web=$!
    /usr/sbin/sshd -D -f sshd_config -E log & server=$!
    until [ "$(grep -c 'Server listening' log)" = 2 ] && curl -s -o /dev/null http://127.0.0.1:8000/; do kill -0 $server || { cat log; exit 1; }; sleep 0.05; done 2> /dev/null
    echo ready
    cat
    kill $server $web; wait $server || echo "ended: $?"; grep -o 'Accepted publickey for root from [^ ]*' log | sort -u; grep -o 'fatal.*' log || true
    exit
fi
mkdir -p outside; echo 'page outside' > outside/page; /usr/bin/python3 -m http.server --directory outside --bind 127.0.0.1 8000 > /dev/null 2>&1 & web=$!
trap 'kill $web' EXIT
until curl -s -o /dev/null http://127.0.0.1:8000/; do sleep 0.05; done
seq 1 400000 > data; mkdir tree; cp data tree/a; ln -s a tree/b; turn=0
for address in "$FOUR" "$SIX"; do
    echo "== $address"; turn=$((turn + 1)); rm -f back
    echo "$address $(cut -d' ' -f1,2 host.pub)" > known
    cat > ssh_config <<CONF
Host box
    HostName $address
    User root
    IdentityFile $PWD/key
    IdentitiesOnly yes
    UserKnownHostsFile $PWD/known
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
CONF
    ssh="ssh -F ssh_config"
    $ssh box 'echo in; id -u; echo $SSH_CONNECTION | cut -d" " -f1,3,4; exit 7' < /dev/null || echo "status $?"
    $ssh box 'kill -TERM $$' < /dev/null || echo "status $?"
    $ssh box 'sha256sum; echo problem >&2' < data 2>&1; $ssh box 'seq 1 1000000' < /dev/null | sha256sum
    sed "s,/key$,/other," ssh_config > other_config; ssh -F other_config box true 2>&1 < /dev/null | grep -o 'Permission denied (publickey)'
    # A terminal of this side: its size, a new size, an interrupt, the end of input.
    cat > terminal.sh <<'SH'
until [ "$(stty size)" = '33 101' ]; do :; done; echo "size: $(stty size)"; tty | tr 0-9 N
trap 'echo caught' INT; echo asked; read line; echo "got $line" | tr a-z A-Z; cat; exit 9
SH
    /usr/bin/python3 - <<'PYTHON'
import fcntl, os, pty, select, struct, termios
pid, fd = pty.fork()
if pid == 0: os.execvp("ssh", f"ssh -F ssh_config -t box TERM=dumb bash {os.getcwd()}/terminal.sh".split())
seen = b""
def until(text, at=[0]):
    global seen
    while (found := seen.find(text, at[0])) < 0:
        assert select.select([fd], [], [], 60)[0], (text, seen)
        seen += os.read(fd, 4096)
    at[0] = found + len(text)
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0)); until(b"size: 33 101\r\n/dev/pts/N\r\nasked\r\n")
os.write(fd, b"\x03"); until(b"caught\r\n"); os.write(fd, b"typed\r"); until(b"GOT TYPED\r\n"); os.write(fd, b"more\r\x04"); until(b"more\r\nmore\r\n")
try:
    while os.read(fd, 4096): pass
except OSError: pass
print("terminal", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PYTHON
    # Of its own for each turn: what the sandbox made is not taken away from outside.
    mkdir $turn; there=$PWD/$turn
    printf 'put data there/copied\nls there/copied\nget there/copied back\nchmod 600 there/copied\nmkdir there/d\nrename there/copied there/d/moved\nls there/d\nrm there/d/moved\nrmdir there/d\n' | sed "s,there,$there,g; s,put data,put $PWD/data,; s, back, $PWD/back," | sftp -q -F ssh_config -b - box | grep -v '^sftp>' | sed "s,$PWD,W,g"; cmp data back && echo same
    scp -q -F ssh_config data box:"$there/scp.out"; cmp data $turn/scp.out && echo same; scp -q -r -F ssh_config tree box:"$there/tree"; ls $turn/tree; cmp data $turn/tree/b && echo same; scp -q -F ssh_config box:"$there/scp.out" back; cmp data back && echo same
    $ssh -f -N -o ExitOnForwardFailure=yes -S ctl -M -L 127.0.0.1:9000:127.0.0.1:8000 -D 127.0.0.1:9001 -R 127.0.0.1:9002:127.0.0.1:8000 box
    curl -sS http://127.0.0.1:9000/page; curl -sS -x socks5h://127.0.0.1:9001 http://localhost:8000/page; $ssh -S ctl box 'curl -sS http://127.0.0.1:9002/page' < /dev/null
    $ssh -S ctl -O exit box 2>&1
done
