//! What handlers take out of a request, with refusals that name the part that is wrong.

use crate::identity::Identity;
use crate::problem::Problem;
use crate::region::Region;
use crate::registrar::Precondition;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use meridian_model::names::{BadName, Namespace, ServiceKey};
use meridian_model::registration::FieldError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Longest reason of a change, in bytes.
const MAX_REASON: usize = 256;
/// Longest body of a registration, patch, binding or single heartbeat (DESIGN 5).
pub const SMALL_BODY: usize = 16 * 1024;
/// Longest body of a batch: 1,000 lookups or heartbeats of a KiB each.
pub const BATCH_BODY: usize = 1024 * 1024;
/// Time for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a body up to `limit` bytes.
///
/// # Errors
/// 413, 408, 400.
pub async fn body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the body must be at most {limit} bytes long"),
        )),
        Ok(Err(error)) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "broken-body", format!("the body broke off: {error}")))
        }
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow-body",
            format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}

/// JSON, the media type of every body but modules.
const JSON: &str = "application/json";
/// JSON merge patches (RFC 7396), which may also come as plain JSON.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// Refuses a body that says it is something else than `expected`. One that says nothing is taken for it.
///
/// # Errors
/// 415.
pub fn check_media_type(headers: &HeaderMap, expected: &[&str]) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if expected.iter().any(|expected| media.eq_ignore_ascii_case(expected)) {
        return Ok(());
    }
    let detail = format!("send the body as Content-Type: {}", expected.join(" or "));
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", detail))
}

/// Refuses a body that says it is no JSON.
///
/// # Errors
/// 415.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    check_media_type(headers, &[JSON])
}

/// Reads a JSON body.
///
/// # Errors
/// 400 where it is no JSON, 422 where it is JSON of another shape (with the field), 413, 415.
pub async fn json<T: DeserializeOwned>(headers: &HeaderMap, from: Body, limit: usize) -> Result<T, Problem> {
    let bytes = body(from, limit).await?;
    require_json(headers)?;
    parse_json(&bytes)
}

/// Reads a JSON merge patch.
///
/// # Errors
/// As [`json`].
pub async fn merge_patch<T: DeserializeOwned>(
    headers: &HeaderMap,
    from: Body,
    limit: usize,
) -> Result<T, Problem> {
    let bytes = body(from, limit).await?;
    check_media_type(headers, &[MERGE_PATCH, JSON])?;
    parse_json(&bytes)
}

/// As [`json`], where no body at all means the default.
///
/// # Errors
/// As [`json`].
pub async fn json_or_default<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    from: Body,
    limit: usize,
) -> Result<T, Problem> {
    let bytes = body(from, limit).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    require_json(headers)?;
    parse_json(&bytes)
}

/// Parses JSON, telling malformed text (400) from wrong meaning (422).
///
/// # Errors
/// 400 `malformed-json`, 422 `invalid`.
pub fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed: Result<T, _> = serde_path_to_error::deserialize(&mut deserializer);
    let malformed = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "malformed-json", detail);
    // A derived struct also reads an array, as its fields in their order. No body of this API is one.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| malformed(e.to_string()))?;
        return Err(Problem::fields(vec![FieldError::new("", "must be a JSON object, not an array")]));
    }
    match parsed {
        Ok(value) => {
            deserializer.end().map_err(|e| malformed(format!("after the JSON value: {e}")))?;
            Ok(value)
        }
        Err(error) => {
            // A later syntax error makes the whole text malformed, whatever its beginning meant. What is none to whoever reads
            // everything is a value where only a word of a list may stand.
            let syntax = match error.inner().is_data() {
                true => serde_json::from_slice::<serde::de::IgnoredAny>(bytes).err(),
                false => serde_json::from_slice::<serde_json::Value>(bytes).err(),
            };
            Err(syntax.map_or_else(|| wrong_shape(error), |syntax| malformed(syntax.to_string())))
        }
    }
}

/// 422 for JSON of another shape, with the field; an empty one is the whole.
pub fn wrong_shape(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let place = error.path().to_string();
    let field = if place == "." { String::new() } else { place };
    if error.inner().is_data() {
        return Problem::fields(vec![FieldError::new(field, error.into_inner())]);
    }
    // To the parser a number where a word of a list belongs is bad syntax; it says only in which column.
    Problem::fields(vec![FieldError::new(field, "must be one of the words that the API's description lists")])
}

/// A name from the path or the query.
///
/// # Errors
/// 400 with the grammar.
pub fn name<T: FromStr<Err = BadName>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|e| Problem::bad_name(&e))
}

/// A service from the path.
///
/// # Errors
/// 400 with the grammar.
pub fn service_key(namespace: &str, service: &str) -> Result<ServiceKey, Problem> {
    Ok(ServiceKey::new(name(namespace)?, name(service)?))
}

/// Refuses a query in which something is not UTF-8 once it is decoded: what cannot be read would be taken for the same
/// as everything else that cannot, two keys for one.
///
/// # Errors
/// 400 with the parameter.
pub fn require_utf8(query: Option<&str>) -> Result<(), Problem> {
    let broken = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().is_err();
    for pair in query.unwrap_or_default().split('&').filter(|pair| pair.contains('%')) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let shown: String = name.chars().take(80).collect();
        if broken(name) {
            return Err(Problem::bad_query(format!("the name of the parameter {shown} is not UTF-8")));
        }
        if broken(value) {
            return Err(Problem::bad_query(format!(
                "the value of {shown} is not UTF-8; what is no text can be sent in hexadecimal or base64"
            )));
        }
    }
    Ok(())
}

/// The pairs of a query, decoded, in order.
pub fn query_pairs(
    query: Option<&str>,
) -> impl Iterator<Item = (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
}

/// The first value of a parameter.
pub fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    query_pairs(query).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Refuses a reason, of a body, that does not fit into the history.
///
/// # Errors
/// 422 with the field.
pub fn check_reason(reason: &str) -> Result<(), Problem> {
    if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
        let detail = format_args!("must be at most {MAX_REASON} bytes without control characters");
        return Err(Problem::field("reason", detail));
    }
    Ok(())
}

/// The `reason` of a query; empty where none is given.
///
/// # Errors
/// 400.
pub fn reason(query: Option<&str>) -> Result<String, Problem> {
    let reason = parameter(query, "reason").unwrap_or_default();
    let wrong = |_| {
        Problem::bad_query(format!("reason must be at most {MAX_REASON} bytes without control characters"))
    };
    check_reason(&reason).map_err(wrong)?;
    Ok(reason)
}

/// The namespace of a query, `default` where none is named.
///
/// # Errors
/// 400.
pub fn namespace_of(query: Option<&str>) -> Result<Namespace, Problem> {
    parameter(query, "ns").map_or_else(|| Ok(Namespace::default()), |text| name(&text))
}

/// The header's text, where it is one.
pub fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok())
}

/// The bearer of the request's token.
///
/// # Errors
/// 401.
pub fn bearer(region: &Region, headers: &HeaderMap) -> Result<Arc<Identity>, Problem> {
    region.bearer(authorization(headers))
}

/// The guards of a write.
pub fn precondition(headers: &HeaderMap) -> Precondition {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    Precondition {
        if_match: text(header::IF_MATCH).map(str::to_owned),
        if_none_match_any: text(header::IF_NONE_MATCH) == Some("*"),
    }
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most this many items.
    pub limit: usize,
    /// Items after this one.
    pub after: Option<String>,
}

/// `limit` (default 100, at most 1,000) and `next` of a query.
///
/// # Errors
/// 400.
pub fn page(query: Option<&str>) -> Result<Page, Problem> {
    let limit = match parameter(query, "limit") {
        None => 100,
        Some(text) => text
            .parse()
            .ok()
            .filter(|n| (1..=1000).contains(n))
            .ok_or_else(|| Problem::bad_query("limit must be a number from 1 to 1000"))?,
    };
    Ok(Page { limit, after: parameter(query, "next").filter(|next| !next.is_empty()) })
}

/// Cuts a sorted list to a page: the items, and what `next` to ask for where there are more.
pub fn cut<T>(
    items: impl Iterator<Item = T>,
    page: &Page,
    id: impl Fn(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let rest = items.filter(|item| page.after.as_ref().is_none_or(|after| id(item) > *after));
    let mut items: Vec<T> = rest.take(page.limit + 1).collect();
    let more = items.len() > page.limit;
    items.truncate(page.limit);
    let next = if more { items.last().map(id) } else { None };
    (items, next)
}

/// Waits for `index=`, where the query asks for it.
///
/// # Errors
/// 400, 503 `index-behind`.
pub async fn await_index(region: &Region, query: Option<&str>) -> Result<(), Problem> {
    let Some(text) = parameter(query, "index") else { return Ok(()) };
    let index: u64 =
        text.parse().map_err(|_| Problem::bad_query("index must be a number that a write answered"))?;
    if region.directory.currency.index() >= index {
        return Ok(());
    }
    let reached = region.directory.currency.reached(index);
    tokio::time::timeout(crate::region::APPLY_WAIT, reached).await.map_err(|_| {
        let now = region.directory.currency.index();
        let detail =
            format!("this gateway is at index {now}, not yet at {index}; try again or ask another gateway");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "index-behind", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registrar::BeatBody;

    fn check(text: &str) -> (u16, String) {
        let problem = parse_json::<BeatBody>(text.as_bytes()).unwrap_err();
        (problem.status, problem.errors.first().map(|e| e.field.clone()).unwrap_or_default())
    }

    #[test]
    fn malformed_is_400_and_wrong_meaning_is_422_with_the_field() {
        assert_eq!(check("{").0, 400);
        assert_eq!(check("").0, 400);
        assert_eq!(check("{\"load\": NaN}").0, 400);
        assert_eq!(check("{} x").0, 400);
        assert_eq!(check("{\"laod\": 1").0, 400);
        assert_eq!(check("{\"load\": \"much\"}"), (422, "load".into()));
        assert_eq!(check("{\"laod\": 1}").0, 422);
        assert_eq!(check("[1,2]").0, 422);
        assert_eq!(check(" []").0, 422);
        assert_eq!(check("[").0, 400);
    }

    #[test]
    fn a_query_that_is_not_utf8_is_refused_with_the_parameter() {
        for query in ["", "key=caf%C3%A9&label.x=%F0%9F%92%A1", "key=%zz&%=%", "a=b&&=", "key=%EF%BF%BD"] {
            assert!(require_utf8(Some(query)).is_ok(), "{query}");
        }
        for (query, named) in [
            ("zone=z&key=%ff", "value of key"),
            ("key=%C3", "value of key"),
            ("label.x=a%80b", "value of label.x"),
            ("label.%ff=x", "parameter label.%ff"),
            ("%fe", "parameter %fe"),
            ("next=%ED%A0%80", "value of next"),
            ("key=%C0%AF", "value of key"),
        ] {
            let problem = require_utf8(Some(query)).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "bad-query"), "{query}");
            assert!(problem.detail.contains(named), "{query}: {}", problem.detail);
        }
    }

    #[test]
    fn pages_follow_each_other() {
        let all = ["a", "b", "c"];
        let id = |item: &&str| (*item).to_owned();
        let (first, next) = cut(all.into_iter(), &Page { limit: 2, after: None }, id);
        assert_eq!((first, next.as_deref()), (vec!["a", "b"], Some("b")));
        let (second, next) = cut(all.into_iter(), &Page { limit: 2, after: next }, id);
        assert_eq!((second, next), (vec!["c"], None));
    }
}
