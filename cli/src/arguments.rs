//! Arguments that several commands share, parsed into values that cannot be wrong.

use std::time::Duration;

/// `30s`, `5m`, `8h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match meridian_gateway::duration::parse(text)? {
        Duration::ZERO => Err("must be more than nothing".to_owned()),
        span => Ok(span),
    }
}

/// `KEY=VALUE`; only the first `=` parts them.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_parted_at_the_first_equals_sign() {
        assert_eq!(pair("k=v=w"), Ok(("k".to_owned(), "v=w".to_owned())));
        assert_eq!(pair("k="), Ok(("k".to_owned(), String::new())));
        assert!(pair("=v").is_err() && pair("k").is_err());
    }

    #[test]
    fn spans_need_a_unit_and_are_not_empty() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert!(duration("5").is_err() && duration("0s").is_err());
    }
}
