//! A strict reader of the OpenMetrics text form: what a scraper would choke on fails here.

use crate::client::Client;
use crate::patience::until;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is counted is so a moment after its effect is seen, on a loaded machine.
const COUNTED: Duration = Duration::from_secs(2);
/// Whatever is counted once too often is so within this.
const SETTLED: Duration = Duration::from_millis(100);

/// Every sample by its name with labels as written, such as `meridian_instances{status="healthy"}`.
pub type Figures = BTreeMap<String, f64>;

/// Reads a whole exposition.
///
/// # Errors
/// The first line that breaks the format, with the rule that it breaks.
pub fn parse(text: &str) -> Result<Figures, String> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut finished: BTreeSet<String> = BTreeSet::new();
    let mut current = String::new();
    let mut figures = Figures::new();
    let Some(lines) = text.strip_suffix("# EOF\n") else { return Err("does not end with # EOF".into()) };
    for line in lines.lines() {
        let wrong = |rule: &str| Err(format!("{rule}: {line}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(word), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
                return wrong("a comment without its parts");
            };
            match word {
                "HELP" if !rest.is_empty() => {}
                "UNIT" if name.ends_with(&format!("_{rest}")) => {}
                "TYPE" if matches!(rest, "counter" | "gauge" | "histogram" | "info" | "unknown") => {
                    if kinds.insert(name, rest).is_some() {
                        return wrong("a type twice");
                    }
                }
                _ => return wrong("no such comment"),
            }
            if current != name && !finished.insert(std::mem::replace(&mut current, name.to_owned())) {
                return wrong("a family in two places");
            }
            continue;
        }
        let Some((sample, value)) = line.rsplit_once(' ') else { return wrong("a sample without a value") };
        let Ok(value) = value.parse::<f64>() else { return wrong("a value that is no number") };
        let name = sample.split('{').next().unwrap_or_default();
        let word =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !word(name) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return wrong("a name outside the grammar");
        }
        let suffixes: &[&str] = match kinds.get(current.as_str()) {
            Some(&"counter") => &["_total", "_created"],
            Some(&"histogram") => &["_bucket", "_sum", "_count", "_created"],
            Some(&"info") => &["_info"],
            Some(_) => &[""],
            None => return wrong("a sample before its type"),
        };
        if !name.strip_prefix(current.as_str()).is_some_and(|suffix| suffixes.contains(&suffix)) {
            return wrong("a sample outside its family");
        }
        if let Some(labels) = sample.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let Some(inner) = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')) else {
                return wrong("labels without braces");
            };
            for label in inner.split("\",").map(|label| label.trim_end_matches('"')) {
                let Some((key, text)) = label.split_once("=\"") else {
                    return wrong("a label without a value");
                };
                if !word(key) || text.contains('"') {
                    return wrong("a label outside the grammar");
                }
            }
        }
        if matches!(kinds.get(current.as_str()), Some(&"counter")) && value < 0.0 {
            return wrong("a negative count");
        }
        if figures.insert(sample.to_owned(), value).is_some() {
            return wrong("a sample twice");
        }
    }
    Ok(figures)
}

/// All figures of a gateway.
///
/// # Panics
/// Where they cannot be read.
pub async fn of(client: &Client) -> Figures {
    let answer = client.get("/metrics").await.expect(200);
    parse(&String::from_utf8(answer.body).unwrap()).unwrap_or_else(|e| panic!("/metrics: {e}"))
}

/// One figure of a gateway.
///
/// # Panics
/// Where there is no such figure.
pub async fn one(client: &Client, name: &str) -> f64 {
    let figures = of(client).await;
    figures.get(name).copied().unwrap_or_else(|| panic!("no figure {name} in {:?}", figures.keys()))
}

/// Waits until a figure of a gateway is `expected`, and sees that it stays so.
///
/// # Panics
/// Where it does not get there, or does not stay.
pub async fn settles(client: &Client, name: &str, expected: f64) {
    until(&format!("{name} is {expected}"), COUNTED, async || one(client, name).await == expected).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(one(client, name).await, expected, "{name}");
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_a_scraper_refuses_is_refused() {
        let right = "# HELP a Words.\n# TYPE a counter\na_total{k=\"v\"} 1\na_total{k=\"w\"} 2\n# EOF\n";
        assert_eq!(parse(right).unwrap().len(), 2);
        for wrong in [
            "",
            "# TYPE a counter\na_total 1\n",
            "a_total 1\n# EOF\n",
            "# TYPE a counter\na 1\n# EOF\n",
            "# TYPE a counter\na_total x\n# EOF\n",
            "# TYPE a counter\na_total 1\na_total 1\n# EOF\n",
            "# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\na{x=\"y\"} 1\n# EOF\n",
            "# TYPE a gauge\na{x=y} 1\n# EOF\n",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
