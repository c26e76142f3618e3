# rustc and cargo: a crate with a dependency beside it, built and tested offline.
# needs-rust
set -eu
sysroot=$2
export LC_ALL=C PATH=$sysroot/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d) && cd "$work"
trap 'cd /; rm -rf "$work"' EXIT
export HOME=$work CARGO_HOME=$work/cargo CARGO_TERM_COLOR=never CARGO_NET_OFFLINE=true CARGO_TERM_PROGRESS_WHEN=never RUST_BACKTRACE=0
unset RUSTFLAGS CARGO_BUILD_JOBS CARGO_TARGET_DIR RUSTC_WRAPPER RUSTUP_TOOLCHAIN 2> /dev/null || true
rustc --version; cargo --version
printf 'fn main() { println!("{}", (1..=10u64).product::<u64>()); std::process::exit(4) }\n' > one.rs
rustc -O one.rs; ./one || echo "status $?"
cargo new -q --vcs none hello; cargo new -q --vcs none --lib helper; cd hello
sed -i 's|^\[dependencies\]|&\nhelper = { path = "../helper" }|' Cargo.toml
cat > ../helper/src/lib.rs <<'RUST'
pub fn sum(n: u64) -> u64 { std::thread::scope(|s| (0..4).map(|t| s.spawn(move || (0..n).filter(|i| i % 4 == t).sum::<u64>())).collect::<Vec<_>>().into_iter().map(|h| h.join().unwrap()).sum()) }
#[test] fn sums() { assert_eq!(sum(100), 4950); }
RUST
cat > src/main.rs <<'RUST'
use std::{collections::BTreeMap, fs, process::Command};
fn main() {
    println!("Hello, world! {}", helper::sum(1_000_000));
    let mut words = BTreeMap::new();
    for w in fs::read_to_string("src/main.rs").unwrap().split_whitespace() { *words.entry(w.len()).or_insert(0) += 1 }
    println!("{:?}", words.iter().next());
    print!("{}", String::from_utf8(Command::new("echo").arg("child").output().unwrap().stdout).unwrap());
    if std::env::args().count() > 1 { panic!("asked for") }
}
RUST
cargo build -q --offline -j2; ./target/debug/hello; ./target/debug/hello x 2>&1 | sed "s/([0-9]*) //" ; cargo run -q --offline --release
cargo test -q --offline --manifest-path ../helper/Cargo.toml 2>&1 | grep -c 'test result: ok'; cargo build --offline 2>&1 | sed 's/ in .*//'; touch src/main.rs; cargo check -q --offline && echo checked
echo 'fn main() { let x: u32 = "no"; }' > src/main.rs; cargo build -q --offline 2>&1 | grep -m1 '^error'; cargo metadata --offline --format-version 1 --no-deps | wc -l; ls target | sort
