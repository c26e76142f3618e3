//! An image as most people have it, a Debian made with debootstrap(8) and `docker import`: its own
//! package tools, users, archives, and images built from it.
//!
//! Each script runs under runc, too, and has to print the same there; what it prints last is in the
//! table, so that both cannot be wrong alike.
//!
//! Skipped where dockerd is missing, this is not root, or `.ci/setup-programs` has not made the image;
//! `RUNSC_RS_REQUIRE_ALL=1` makes that a failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::{fs, path::Path};

use common::docker::{Case, Docker, available, try_all};

const CASES: &[Case] = &[
    ("shell and perl", |docker| {
        same(docker, SHELL_AND_PERL, "x=3 y=2 z=1\nfrom a pipe");
    }),
    ("packages", |docker| {
        same(
            docker,
            &[MAKE_PACKAGE, PACKAGES].concat(),
            "ii  tiny 2.0 all",
        )
    }),
    ("users", |docker| same(docker, USERS, "users are gone")),
    ("archives", |docker| same(docker, ARCHIVES, "sparse 0")),
    ("build", build),
];

const SHELL_AND_PERL: &str = r#"
bash -c 'n=0; for i in {1..3000}; do n=$((n + i)); done; echo $n
    declare -A a; for f in /etc/*; do a[${f##*.}]=1; done; echo ${#a[@]}
    coproc cat; echo to a coprocess >&${COPROC[1]}; read -u ${COPROC[0]} line; echo $line
    diff <(seq 1 5) <(seq 1 2 5); trap "echo trapped" USR1; kill -USR1 $$; printf "%s\n" "${BASH_VERSINFO[4]}"'
perl -e 'my %h; $h{$_}++ for qw(x y z x y x); print join(" ", map {"$_=$h{$_}"} sort keys %h), "\n";
    open my $p, "-|", "echo from a pipe" or die $!; print <$p>;'
"#;

/// `make VERSION`: a package with a file of configuration, a user of its own, and many files.
const MAKE_PACKAGE: &str = r#"
make() {
    mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin /tmp/p/etc /tmp/p/usr/share/tiny
    printf 'Package: tiny\nVersion: %s\nArchitecture: all\nMaintainer: x <x@example.org>\n' $1 > /tmp/p/DEBIAN/control
    printf 'Depends: adduser\nDescription: tiny\n' >> /tmp/p/DEBIAN/control
    echo /etc/tiny.conf > /tmp/p/DEBIAN/conffiles
    printf '#!/bin/sh\nset -e\nadduser --quiet --system --group --no-create-home tinyd\n' > /tmp/p/DEBIAN/postinst
    printf 'chown tinyd:tinyd /usr/bin/tiny\nchmod 4755 /usr/bin/tiny\n' >> /tmp/p/DEBIAN/postinst
    printf '#!/bin/sh\necho tiny %s as $(id -un)\n' $1 > /tmp/p/usr/bin/tiny
    chmod 755 /tmp/p/DEBIAN/postinst /tmp/p/usr/bin/tiny
    echo version $1 > /tmp/p/etc/tiny.conf
    seq 1 1000 | split -l 10 - /tmp/p/usr/share/tiny/part-
    dpkg-deb --build --root-owner-group /tmp/p /tmp/tiny-$1.deb
}
"#;

const PACKAGES: &str = r#"
export DEBIAN_FRONTEND=noninteractive
apt-get --version | head -1
dpkg -l | awk '{print $1, $2, $3}'
make 1.0; make 2.0
apt-get install -y -q /tmp/tiny-1.0.deb 2>&1 | grep -c 'Setting up tiny'
tiny; stat -c '%U:%G %a %n' /usr/bin/tiny; dpkg -L tiny | sort | md5sum; dpkg -V tiny
dpkg -s tiny | grep Status; dpkg -S /usr/bin/tiny; id tinyd
echo mine > /etc/tiny.conf
dpkg -i --force-confold /tmp/tiny-2.0.deb > /dev/null; tiny; cat /etc/tiny.conf; ls /etc/tiny*
apt-get purge -y -q tiny > /dev/null; ls /usr/share/tiny /etc/tiny.conf 2>&1 | sort
dpkg -i /tmp/tiny-2.0.deb > /dev/null; apt-get check -q; dpkg --audit
dpkg -l tiny | tail -1 | awk '{print $1 "  " $2, $3, $4}'
"#;

const USERS: &str = r#"
useradd --create-home --shell /bin/bash --groups adm walter; id walter; stat -c '%U:%G %a' /home/walter
adduser --quiet --disabled-password --gecos '' anna; id anna
echo walter:secret | chpasswd; grep -c '^walter:\$y' /etc/shadow; stat -c '%U:%G %a' /etc/shadow
su - walter -c 'id; pwd; umask; touch mine; stat -c "%U:%G %a" mine; cat /etc/shadow; echo $?' 2>&1
su walter -s /bin/sh -c 'echo $HOME $SHELL $USER'
setpriv --reuid walter --regid adm --clear-groups sh -c 'id; grep -E "^(Uid|Gid|Groups|CapEff)" /proc/self/status'
chage -M 90 walter; chage -l walter | grep Maximum; usermod -aG tty walter; id -nG walter
su walter -c 'sh -c "kill -0 1"; echo $?' 2> /dev/null; groupadd -g 777 few; getent group few
userdel -r walter 2> /dev/null; deluser --quiet anna 2> /dev/null; ls /home; id walter 2>&1
echo users are gone
"#;

const ARCHIVES: &str = r#"
mkdir /tmp/t; cd /tmp/t; echo x > a; chown 1000:4 a; chmod 2750 .; setfattr -n user.note -v hello a
setfattr -n trusted.t -v 1 a 2>&1; ln a b; ln -s a c; mkfifo e; touch -d @1000000000.5 a
cp /bin/true f; setcap cap_net_bind_service+ep f; getcap f; cp /bin/true g; chmod 6711 g; mkdir -m 1777 h
truncate -s 1M sparse; : > 'odd name "quoted" \ and é'
tar --xattrs --xattrs-include='*' --sparse -cpf /tmp/t.tar .; tar -tvf /tmp/t.tar | awk '{print $1, $2, $3}' | sort
mkdir /tmp/u; tar --xattrs --xattrs-include='*' -xpf /tmp/t.tar -C /tmp/u; cd /tmp/u
stat -c '%n %U:%G %a %h %F %t:%T %s' * | sort; stat -c %y a; getfattr -d -m - a; getcap f; cmp a b && readlink c
cp -a . /tmp/v; cd /tmp/v; getfattr -d -m - a; stat -c '%n %u:%g %a %h' * | sort
gzip -k sparse; gzip -t sparse.gz; find . -newermt @900000000 -name a; find . -links 2 | sort
rm -r /tmp/u /tmp/v/h; du -k sparse | awk '{print $2, $1}'
"#;

#[test]
fn a_debian_image_works() {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("programs");
    let archive = archive.join("debian.tar");
    if !available(&["dockerd", "busybox"], &[&archive]) {
        return;
    }
    let options = ["--iptables=false", "--ip6tables=false", "--bridge=none"];
    let docker = Docker::start(&options, &["--network=none"]);
    let path = archive.display().to_string();
    docker.call(&["import", &path, "deb"]).ok();
    try_all(docker, CASES);
}

/// Ours prints what runc does, and that in the end.
fn same(docker: &Docker, script: &str, last: &str) {
    let run = |runtime: &str| {
        let words = [
            "run",
            "--rm",
            "--network=none",
            runtime,
            "--hostname=somewhere",
            "deb",
            "bash",
            "-c",
            script,
        ];
        docker.call(&words).ok()
    };
    let ours = run("--runtime=runsc-rs");
    assert!(ours.ends_with(last), "{ours}");
    let theirs = run("--runtime=runc");
    assert_eq!(ours, theirs);
}

/// RUN steps of an image that others would build: packages, users, owners, links, capabilities.
fn build(docker: &Docker) {
    let context = docker.dir.path().join("debian");
    fs::create_dir(&context).unwrap();
    let made = [
        "run",
        "--network=none",
        "--name",
        "maker",
        "deb",
        "bash",
        "-ec",
    ];
    let script = format!("{MAKE_PACKAGE} make 1.0");
    let words: Vec<_> = made.iter().copied().chain([script.as_str()]).collect();
    docker.call(&words).ok();
    let to = context.join("tiny.deb").display().to_string();
    docker.call(&["cp", "maker:/tmp/tiny-1.0.deb", &to]).ok();
    docker.remove("maker");
    let steps = "FROM deb\nCOPY tiny.deb /tmp/\nRUN dpkg -i /tmp/tiny.deb && rm /tmp/tiny.deb\n\
        RUN useradd --create-home --uid 4321 builder && install -d -o builder -g builder -m 2770 /srv/work\n\
        RUN ln -s /srv/work /work && ln /usr/bin/tiny /usr/bin/tiny-too && cp /bin/cat /bin/kitten\n\
        RUN setcap cap_dac_override+ep /bin/kitten && chown -R builder /home/builder\n\
        RUN rm -r /var/log/apt\n\
        USER builder\nWORKDIR /work\nRUN id -un > who && umask 077 && mkdir private\n\
        CMD cat who; stat -c '%U:%G %a %n' . private /usr/bin/tiny-too; tiny; readlink /work; \
        cmp /usr/bin/tiny /usr/bin/tiny-too && echo same; cat /etc/shadow 2>&1 || kitten /etc/shadow | head -c 5; echo; \
        test -e /var/log/apt || echo gone\n";
    fs::write(context.join("Dockerfile"), steps).unwrap();
    let path = context.display().to_string();
    docker
        .call(&["build", "--network=none", "-t", "from-deb", &path])
        .ok();
    let run = |runtime: &str| {
        let words = ["run", "--rm", "--network=none", runtime, "from-deb"];
        docker.call(&words).ok()
    };
    let ours = run("--runtime=runsc-rs");
    let expected = "builder\nbuilder:builder 2770 .\nbuilder:builder 2700 private\n\
        tinyd:tinyd 4755 /usr/bin/tiny-too\ntiny 1.0 as builder\n/srv/work\nsame\ncat: /etc/shadow: Permission denied\nroot:\ngone";
    assert_eq!(ours, expected);
    assert_eq!(run("--runtime=runc"), expected);
}
