# perl: files, forks, pipes, signals, sockets, sorting, regular expressions.
# needs: perl
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
cat > t.pl <<'PERL'
use strict; use warnings; use POSIX ":sys_wait_h"; use Fcntl qw(:flock SEEK_SET); use IO::Select; use Socket;
use File::Temp qw(tempdir); use File::Find; use Digest::SHA qw(sha256_hex); use Time::HiRes qw(sleep alarm); use Errno;
$| = 1;
my %h; $h{$_ % 97} .= chr(65 + $_ % 26) for 1 .. 20000; print sha256_hex(join ",", map { "$_=$h{$_}" } sort { $a <=> $b } keys %h), "\n";
open(my $f, "+>", "data") or die; print $f "line $_\n" for 1 .. 1000; seek $f, 0, SEEK_SET; my $n = 0; while (<$f>) { $n++ if /7/ } print "$n $.\n"; close $f;
my @pids; for my $i (1 .. 5) { my $p = fork // die; if (!$p) { exit $i } push @pids, $p } for (@pids) { waitpid $_, 0; print $? >> 8, " " } print "\n";
pipe(my $r, my $w); if (!(my $p = fork)) { close $r; print $w "from child\n"; close $w; POSIX::_exit(0) } close $w; print scalar <$r>; wait;
print `echo backtick`, $? , "\n"; system("sh", "-c", "exit 4"); print $? >> 8, "\n"; system { "sh" } "sh", "-c", 'kill -9 $$'; print $? & 127, "\n";
open(my $p, "-|", "sort", "-r", "/etc/shells") or die; my @l = <$p>; close $p; print @l > 1 ? "sorted\n" : "none\n";
local $SIG{ALRM} = sub { }; alarm 0.05, 0.05; my $slept = select undef, undef, undef, 60; print "errno ", $!{EINTR} ? "EINTR" : 0 + $!, "\n"; alarm 0;
local $SIG{USR1} = sub { print "got $_[0]\n" }; kill USR1 => $$;
socketpair(my $near, my $far, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; if (!fork) { close $near; while (<$far>) { syswrite $far, uc } POSIX::_exit(0) } close $far; for (qw(one two)) { syswrite $near, "$_\n"; print scalar <$near> } close $near; wait;
my $sock = "$ENV{PWD}/s"; socket(my $srv, AF_UNIX, SOCK_STREAM, 0); bind $srv, sockaddr_un("s") or die "bind $!"; listen $srv, 5; if (!fork) { socket(my $c, AF_UNIX, SOCK_STREAM, 0); connect $c, sockaddr_un("s") or die; syswrite $c, "hello over unix\n"; POSIX::_exit(0) } accept(my $con, $srv); print scalar <$con>; wait;
open(my $lk, ">", "lock"); flock $lk, LOCK_EX; if (!fork) { open(my $o, ">", "lock"); print flock($o, LOCK_EX | LOCK_NB) ? "locked\n" : "busy\n"; close $o; POSIX::_exit(0) } wait; close $lk;
mkdir "d"; symlink "data", "sl"; rename "data", "d/data"; print -e "sl" ? "there" : "dangling", " ", -l "sl" ? readlink "sl" : "", " ", -s "d/data", "\n";
my @found; find({ wanted => sub { push @found, $File::Find::name }, no_chdir => 1 }, "."); print join(" ", sort grep { !/^\.$/ } @found), "\n";
opendir(my $d, "/nonexistent") or print "opendir: $!\n"; open(my $x, "<", "/etc/shadow/x") or print "open: $!\n"; chmod 0600, "d/data"; printf "%o\n", (stat "d/data")[2] & 07777; utime 1, 2, "d/data"; print +(stat "d/data")[9], "\n";
my $s = "The year 1999 and 2024"; print join("|", $s =~ /(\d{4})/g), " ", $s =~ s/(\d+)/<$1>/gr, " ", scalar reverse("abc"), "\n"; print sprintf("%08.3f %s %e\n", 3.14159, "x" x 3, 12345.678);
my $child = fork; if (!$child) { exec "sleep", "60" } kill STOP => $child; waitpid $child, WUNTRACED; print WIFSTOPPED($?) ? "stopped\n" : "?\n"; kill CONT => $child; kill TERM => $child; waitpid $child, 0; print $? & 127, "\n";
my ($big, $t) = ("x" x 5_000_000, 0); $t += ord substr $big, $_ * 1000, 1 for 0 .. 4999; print "$t\n"; print join(",", (sort { $a <=> $b } map { ($_ * 7919) % 100003 } 1 .. 50000)[0, 25000, -1]), "\n"; eval { die { code => 5 } }; print $@->{code}, "\n"; exit 3;
PERL
perl t.pl || echo "status $?"
perl -ne 'print if /^root/' /etc/passwd | cut -d: -f1; perl -i.bak -pe 's/use/USE/' t.pl; diff t.pl t.pl.bak | wc -l; perl -MList::Util=sum -e 'print sum(1..100), "\n"'; echo 'print "stdin\n"' | perl; perl -e 'die "dead\n"' || echo "status $?"; perl -c t.pl.bak
