//! Patterns over subjects: literal text with captures of whole segments.
//!
//! A segment ends at `/` or `:`, so one form covers SPIFFE IDs and `system:serviceaccount:NS:SA`. A capture never spans
//! a delimiter and the rest must match to the byte, dots included; there are no wildcards.

use std::collections::BTreeSet;
use std::fmt;

/// What a capture binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Bound {
    Namespace,
    Service,
    Zone,
    Instance,
}

impl Bound {
    pub(super) const ALL: [Self; 4] = [Self::Namespace, Self::Service, Self::Zone, Self::Instance];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Service => "service",
            Self::Zone => "zone",
            Self::Instance => "instance",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Capture(Bound),
}

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<Piece>,
}

const DELIMITERS: [char; 2] = ['/', ':'];

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.contains('*') {
            return Err("has no wildcards: name the segment that varies, as in {service}".to_owned());
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut seen = BTreeSet::new();
        for segment in text.split_inclusive(DELIMITERS) {
            let whole = segment.strip_suffix(DELIMITERS).unwrap_or(segment);
            let tail = segment.get(whole.len()..).unwrap_or_default();
            if whole.contains(['{', '}']) {
                let bound = capture(whole)?;
                if !seen.insert(bound) {
                    return Err(format!("captures {{{bound}}} twice"));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Capture(bound));
            } else {
                literal.push_str(whole);
            }
            literal.push_str(tail);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces })
    }

    /// Whether it captures `bound`.
    pub(super) fn captures(&self, bound: Bound) -> bool {
        self.pieces.contains(&Piece::Capture(bound))
    }

    /// What the captures hold if the whole of `subject` matches. They are raw: the grammar of names is the caller's to apply.
    pub(super) fn matches<'a>(&self, subject: &'a str) -> Option<Vec<(Bound, &'a str)>> {
        let mut rest = subject;
        let mut found = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => rest = rest.strip_prefix(text.as_str())?,
                Piece::Capture(bound) => {
                    let (segment, after) = rest.split_at(rest.find(DELIMITERS).unwrap_or(rest.len()));
                    found.push((*bound, segment));
                    rest = after;
                }
            }
        }
        rest.is_empty().then_some(found)
    }
}

fn capture(segment: &str) -> Result<Bound, String> {
    let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    name.and_then(|name| Bound::ALL.into_iter().find(|bound| bound.name() == name)).ok_or_else(|| {
        format!("has the segment {segment:?}: a capture is a whole segment and one of {{namespace}}, {{service}}, {{zone}}, {{instance}}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, subject: &str, expected: Option<&[(&str, &str)]>) {
        let found = Pattern::parse(pattern).unwrap().matches(subject);
        let found: Option<Vec<_>> = found.map(|all| all.into_iter().map(|(b, s)| (b.name(), s)).collect());
        assert_eq!(found.as_deref(), expected, "{pattern} over {subject}");
    }

    #[test]
    fn captures_are_whole_segments_and_the_rest_is_literal() {
        let spiffe = "spiffe://prod.example/ns/{namespace}/sa/{service}";
        check(spiffe, "spiffe://prod.example/ns/a/sa/b", Some(&[("namespace", "a"), ("service", "b")]));
        check(spiffe, "spiffe://prodXexample/ns/a/sa/b", None);
        check(spiffe, "spiffe://prod.example/ns/a/sa/b/c", None);
        check(spiffe, "spiffe://prod.example/ns/a/sa/b/", None);
        check(spiffe, "spiffe://prod.example/ns/a/x/sa/b", None);
        check(spiffe, "spiffe://prod.example/ns/a/sa", None);
        check(spiffe, "xspiffe://prod.example/ns/a/sa/b", None);
        check(spiffe, "spiffe://prod.example/ns//sa/b", Some(&[("namespace", ""), ("service", "b")]));
        check(spiffe, "spiffe://prod.example/ns/a/sa/b:c", None);

        let kubernetes = "system:serviceaccount:{namespace}:{service}";
        check(
            kubernetes,
            "system:serviceaccount:prod:orders",
            Some(&[("namespace", "prod"), ("service", "orders")]),
        );
        check(kubernetes, "system:serviceaccount:prod:orders:x", None);
        check(kubernetes, "system:serviceaccount:prod/x:orders", None);
        check("{zone}/{instance}", "a/b.1", Some(&[("zone", "a"), ("instance", "b.1")]));
        check("fixed", "fixed", Some(&[]));
        check("fixed", "fixed2", None);
    }

    #[test]
    fn what_is_not_a_pattern() {
        for bad in
            ["", "*", "a/*", "a/{service", "a/x-{service}", "{Service}", "{}", "{a}", "a}", "{zone}/{zone}"]
        {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
