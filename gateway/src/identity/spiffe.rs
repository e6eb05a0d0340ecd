//! The form of a SPIFFE ID, and what a JWT-SVID must not carry.
//!
//! Sources: the SPIFFE-ID and JWT-SVID standards of the SPIFFE project.

/// Whether `subject` claims to be a SPIFFE ID, rightly or not. The scheme is compared without case, so that a twin such
/// as `SPIFFE://` meets the strict form below instead of passing as free text.
pub(super) fn claimed(subject: &str) -> bool {
    subject.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

/// The headers that a JWT-SVID may have.
pub(super) const HEADERS: [&str; 3] = ["alg", "kid", "typ"];

/// Checks the form: lower-case scheme and trust domain, no port, query, fragment or escape, no empty, `.` or `..` segment.
pub(super) fn check(id: &str) -> Result<(), &'static str> {
    if id.len() > 2048 {
        return Err("a SPIFFE ID has at most 2048 bytes");
    }
    let rest = id.strip_prefix("spiffe://").ok_or("a SPIFFE ID begins with spiffe:// in lower case")?;
    let (domain, path) = match rest.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (rest, None),
    };
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(in_domain) {
        return Err("the trust domain of a SPIFFE ID has 1 to 255 characters of [a-z0-9._-]");
    }
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    for segment in path.into_iter().flat_map(|path| path.split('/')) {
        match segment {
            "" => return Err("the path of a SPIFFE ID has no empty segment and no trailing slash"),
            "." | ".." => return Err("the path of a SPIFFE ID has no . or .. segment"),
            _ if !segment.bytes().all(in_path) => {
                return Err("a path segment of a SPIFFE ID consists of [A-Za-z0-9._-]");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in [
            "spiffe://prod.example",
            "spiffe://prod.example/ns/a/sa/b",
            "spiffe://p_r-o.d/..a/a..",
            "spiffe://1.2.3.4/X",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = format!("spiffe://a/{}", "x".repeat(2048));
        for bad in [
            "spiffe:",
            "spiffe:/a",
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://a/b",
            "spiffe://Prod.example/a",
            "spiffe://a:8080/b",
            "spiffe://user@a/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/./b",
            "spiffe://a/b/..",
            "spiffe://a/%6es",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/ь",
            "spiffe://а/b",
            "spiffe://a/b\0",
            " spiffe://a/b",
            long.as_str(),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_twin_of_the_scheme_still_claims_to_be_one() {
        assert!(claimed("SpIfFe:x"));
        assert!(!claimed("spiffe"));
        assert!(!claimed("system:serviceaccount:a:b"));
        assert!(!claimed("ééééé"));
    }
}
