//! `conformance foreign` with tiny made-up suites: shell scripts that speak GoogleTest's
//! protocol or report by exit status. `KERNEL=sandbox` in the environment, set by the
//! runtime prefix `env KERNEL=sandbox`, is what they can tell the two sides apart by.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// A GoogleTest binary in miniature: a suite `S` with tests `same`, `differs` and `skipped`;
/// `crashes` takes the program (and its JSON file) down in the sandbox.
const GTEST: &str = r#"#!/bin/sh
tests="same differs skipped crashes"
json=
for word in "$@"; do
  case $word in
    --gtest_list_tests) echo "S."; for t in $tests; do echo "  $t"; done; exit 0;;
    --gtest_output=json:*) json=${word#--gtest_output=json:};;
    --gtest_filter=S.*) tests=${word#--gtest_filter=S.};;
  esac
done
out= status=0
for t in $tests; do
  if [ $t = crashes ] && [ "$KERNEL" = sandbox ]; then kill -SEGV $$; fi
  result=COMPLETED failures=
  if [ $t = skipped ]; then result=SKIPPED; fi
  if [ $t = differs ] && [ "$KERNEL" = sandbox ]; then
    failures=',"failures":[{"failure":"expected 1\nwhich is 2"}]'; status=1
  fi
  out="$out${out:+,}{\"name\":\"$t\",\"status\":\"RUN\",\"result\":\"$result\"$failures}"
done
echo "[==========] chatter on standard output"
printf '{"testsuites":[{"name":"S","testsuite":[%s]}]}' "$out" > "$json"
exit $status
"#;

const LTP: &str = r#"#!/bin/sh
if [ $# -gt 0 ]; then echo "unknown option" >&2; exit 2; fi
echo "x.c:10: TPASS: first" >&2
if [ "$KERNEL" = sandbox ]; then echo "x.c:11: TFAIL: second" >&2; exit 1; fi
echo "x.c:11: TPASS: second" >&2
exit 0
"#;

const LTP_FEWER: &str = "#!/bin/sh\n[ $# -gt 0 ] && exit 2\n\
    [ \"$KERNEL\" = sandbox ] || echo 'TPASS: extra'\necho 'TPASS: one'\nexit 0\n";

fn suite() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("gtest_fake", GTEST),
        ("ltp_fake", LTP),
        ("ltp_fewer", LTP_FEWER),
        ("ltp_conf", "#!/bin/sh\n[ $# -gt 0 ] && exit 2\nexit 32\n"),
        (
            "both_fail",
            "#!/bin/sh\n[ $# -gt 0 ] && exit 2\necho 'TFAIL: broken'\nexit 1\n",
        ),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::write(dir.path().join("README"), "not a program").unwrap();
    dir
}

fn run(dir: &Path, runtime: &str, more: &[&str]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conformance"));
    command
        .arg("foreign")
        .arg(dir)
        .args(["--runtime", runtime])
        .args(more);
    let output = command.output().unwrap();
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8_lossy(&both).into_owned())
}

#[test]
fn the_same_kernel_has_no_differences() {
    let dir = suite();
    let (output, text) = run(dir.path(), "env", &["-v"]);
    assert!(output.status.success(), "{text}");
    for name in [
        "gtest_fake:S.same",
        "gtest_fake:S.crashes",
        "ltp_fake",
        "both_fail",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(name)),
            "{name} is missing in\n{text}"
        );
    }
    assert!(!text.contains("README"), "{text}");
}

#[test]
fn every_difference_is_in_the_table() {
    let dir = suite();
    let (output, text) = run(dir.path(), "env KERNEL=sandbox", &[]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let row = |name: &str| {
        let line = text
            .lines()
            .find(|l| l.split_whitespace().next() == Some(name));
        line.map(|l| l.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(
        row("gtest_fake:S.differs").as_deref(),
        Some("pass FAIL"),
        "{text}"
    );
    assert_eq!(
        row("gtest_fake:S.crashes").as_deref(),
        Some("pass CRASH"),
        "{text}"
    );
    assert_eq!(row("ltp_fake").as_deref(), Some("pass FAIL"), "{text}");
    assert_eq!(row("ltp_fewer").as_deref(), Some("pass pass"), "{text}");
    for same in [
        "gtest_fake:S.same",
        "gtest_fake:S.skipped",
        "ltp_conf",
        "both_fail",
    ] {
        assert_eq!(row(same), None, "{text}");
    }
    assert!(text.contains("expected 1\\nwhich is 2"), "{text}");
    assert!(text.contains("TPASS 1 TFAIL 1; exit 1 (TFAIL)"), "{text}");
    assert!(text.contains("systrap: TPASS 1 TFAIL 0; exit 0"), "{text}");
    assert!(text.contains("4 unexpected results"), "{text}");
}

#[test]
fn expected_differences_do_not_fail_the_run() {
    let dir = suite();
    let list = dir.path().join("expected.txt");
    std::fs::write(
        &list,
        "gtest_fake:S.differs * a\ngtest_fake:S.crashes * b\nltp_fake * c\nltp_fewer * d\n",
    )
    .unwrap();
    let (output, text) = run(
        dir.path(),
        "env KERNEL=sandbox",
        &["--expected", list.to_str().unwrap()],
    );
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_chosen_kind_is_kept_to() {
    let dir = suite();
    let (output, text) = run(dir.path(), "env", &["--gtest"]);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("not a GoogleTest binary"), "{text}");
    let (output, text) = run(
        dir.path(),
        "env KERNEL=sandbox",
        &["--exit-codes", "--filter", "ltp_f*", "-v"],
    );
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("gtest_fake"), "{text}");
}

#[test]
fn a_hanging_binary_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hangs");
    let text = "#!/bin/sh\n[ $# -gt 0 ] && exit 2\nif [ \"$KERNEL\" = sandbox ]; then exec sleep 1000; fi\n";
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (output, text) = run(dir.path(), "env KERNEL=sandbox", &["--timeout", "2"]);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("HANG"), "{text}");
}
