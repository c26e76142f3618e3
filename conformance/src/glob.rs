//! Shell-like patterns over whole names: `*` any run of characters, `?` one of them.

/// Whether `pattern` matches all of `name`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (p, n) = (pattern.as_bytes(), name.as_bytes());
    let (mut pi, mut ni) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while ni < n.len() {
        if pi < p.len() && p[pi] == b'*' {
            retry = Some((pi, ni));
            pi += 1;
        } else if pi < p.len() && (p[pi] == b'?' || p[pi] == n[ni]) {
            pi += 1;
            ni += 1;
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            pi = star + 1;
            ni = from + 1;
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, want) in [
            ("open.enoent", "open.enoent", true),
            ("open.enoent", "open.enoent2", false),
            ("open.*", "open.enoent", true),
            ("*", "", true),
            ("*.e*t", "open.enoent", true),
            ("*.e*x", "open.enoent", false),
            ("kvm?", "kvm1", true),
            ("kvm?", "kvm", false),
            ("a*b*c", "aXbXbXc", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} ~ {name}");
        }
    }
}
