//! Arguments that several commands share, parsed into values that cannot be wrong.

use std::time::Duration;

/// `30s`, `5m`, `8h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match meridian_gateway::duration::parse(text)? {
        Duration::ZERO => Err("must be more than nothing".to_owned()),
        span => Ok(span),
    }
}

/// A part of a whole, 0 to 1.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    within(text, 0.0..=1.0, "must be from 0 to 1")
}

/// A part of a whole that is more than nothing.
pub(crate) fn sample(text: &str) -> Result<f64, String> {
    within(text, f64::MIN_POSITIVE..=1.0, "must be above 0, up to 1")
}

/// Seconds that a recording may take.
pub(crate) fn recorded_seconds(text: &str) -> Result<f64, String> {
    within(text, f64::MIN_POSITIVE..=60.0, "must be above 0, up to 60 seconds")
}

/// No range holds what is no number.
fn within(text: &str, range: std::ops::RangeInclusive<f64>, wrong: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| wrong.to_owned())
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
    fn what_is_no_number_is_in_no_range() {
        assert_eq!((part("0"), part("1"), sample("1e-9")), (Ok(0.0), Ok(1.0), Ok(1e-9)));
        assert_eq!(recorded_seconds("60"), Ok(60.0));
        for bad in ["nan", "inf", "-1", "1.5", "", "x"] {
            assert!(part(bad).is_err() && sample(bad).is_err(), "{bad}");
        }
        for bad in ["nan", "NaN", "inf", "-inf", "0", "61", "1e300"] {
            assert!(recorded_seconds(bad).is_err(), "{bad}");
        }
        assert!(sample("0").is_err());
    }

    #[test]
    fn spans_need_a_unit_and_are_not_empty() {
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert!(duration("5").is_err() && duration("0s").is_err());
    }
}
