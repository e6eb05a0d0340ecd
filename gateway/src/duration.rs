//! Durations as people write them in queries and configuration: `250ms`, `30s`, `5m`, `24h`.

use std::time::Duration;

/// Parses a whole number with one unit.
///
/// # Errors
/// A sentence that shows what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a whole number and a unit, such as 250ms, 30s, 5m or 24h".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_and_a_unit() {
        assert_eq!(parse("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse("120000ms"), Ok(Duration::from_secs(120)));
        for bad in
            ["", "5", "s", "-1s", "1.5s", "5 m", "5d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
