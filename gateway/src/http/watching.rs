//! What reads that can wait have in common: the tags that a client has seen, how long it waits for others, and the stream
//! of events for those who rather listen.

use super::request;
use crate::clock;
use crate::problem::Problem;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::convert::Infallible;
use std::time::Duration;

/// `wait=` where none is given, and at most.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const MAX_WAIT: Duration = Duration::from_secs(600);
/// How often a silent stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a client has: the entity tags of `If-None-Match` (RFC 9110, 13.1.2), or the one of `etag=`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// `*`: any answer but a refusal.
    Any,
    /// One of these, quotes included. They are compared weakly: `W/"a"` is `"a"`.
    Tags(Vec<String>),
}

fn quoted(tag: &str) -> String {
    if tag.starts_with('"') { tag.to_owned() } else { format!("\"{tag}\"") }
}

/// The tags of a list; what is none ends it. A comma may stand within a tag.
fn tags(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let opened = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"');
        let Some((tag, after)) = opened.and_then(|opened| opened.split_once('"')) else { return found };
        found.push(format!("\"{tag}\""));
        rest = after;
    }
}

impl Seen {
    /// What a request says that its client has; the header counts before the parameter.
    pub(super) fn of(headers: &HeaderMap, query: Option<&str>) -> Option<Self> {
        let mut lists =
            headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).peekable();
        if lists.peek().is_none() {
            let tag = request::parameter(query, "etag")?;
            return Some(Self::Tags(vec![quoted(tag.trim_start_matches("W/"))]));
        }
        let mut all = Vec::new();
        for list in lists {
            if list.trim() == "*" {
                return Some(Self::Any);
            }
            all.extend(tags(list));
        }
        Some(Self::Tags(all))
    }

    /// Whether the client has what bears this tag. A refusal has one too, but is nothing that exists.
    pub(super) fn covers(&self, tag: &str, exists: bool) -> bool {
        match self {
            Self::Any => exists,
            Self::Tags(tags) => tags.iter().any(|seen| seen == tag),
        }
    }
}

/// What a request that watches has seen, and how long it waits.
pub(super) struct Patience {
    pub(super) seen: Option<Seen>,
    pub(super) wait: Option<Duration>,
}

impl Patience {
    /// Of a request.
    ///
    /// # Errors
    /// 400 for a `wait` that is no span.
    pub(super) fn of(headers: &HeaderMap, query: Option<&str>) -> Result<Self, Problem> {
        let wait = match request::parameter(query, "wait") {
            None => None,
            Some(text) if text.is_empty() => Some(DEFAULT_WAIT),
            Some(text) => {
                let wait =
                    crate::duration::parse(&text).map_err(|e| Problem::bad_query(format!("wait {e}")))?;
                Some(wait.min(MAX_WAIT))
            }
        };
        Ok(Self { seen: Seen::of(headers, query), wait })
    }

    /// As [`Seen::covers`].
    pub(super) fn covers(&self, tag: &str, exists: bool) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.covers(tag, exists))
    }

    /// The wait with up to a sixteenth more, so that watchers that came together do not return together.
    pub(super) fn deadline(wait: Duration) -> tokio::time::Instant {
        let jitter = wait.mul_f64((clock::entropy() >> 11) as f64 / (1u64 << 53) as f64 / 16.0);
        tokio::time::Instant::now() + wait + jitter
    }
}

/// 304, with the tag that stands.
pub(super) fn not_modified(tag: &str) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Whether a stream of events is asked for.
pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.split(',').any(|media| media.trim().starts_with("text/event-stream")))
}

/// The tag of the last event that a client had before it came again.
pub(super) fn last_event(headers: &HeaderMap) -> Option<String> {
    headers.get("last-event-id").and_then(|v| v.to_str().ok()).map(quoted)
}

/// One event: `snapshot` for the first of a stream, `change` for every later one, its tag as the id.
pub(super) fn event(first: bool, tag: &str, body: Vec<u8>) -> Event {
    let name = if first { "snapshot" } else { "change" };
    Event::default().event(name).id(tag.trim_matches('"')).data(String::from_utf8(body).unwrap_or_default())
}

/// The answer that goes on.
pub(super) fn stream(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    let events = events.map(Ok::<_, Infallible>).boxed();
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    // Proxies that buffer would hold every change back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(lines: &[&str], query: &str) -> Option<Seen> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::IF_NONE_MATCH, line.parse().unwrap());
        }
        Seen::of(&headers, Some(query))
    }

    fn tags_of(lines: &[&str], query: &str) -> Vec<String> {
        match seen(lines, query) {
            Some(Seen::Tags(tags)) => tags,
            other => panic!("{lines:?} {query}: {other:?}"),
        }
    }

    #[test]
    fn every_form_of_if_none_match_is_read() {
        assert_eq!(seen(&[], ""), None);
        assert_eq!(seen(&["*"], ""), Some(Seen::Any));
        assert_eq!(seen(&["\"a\"", " * "], ""), Some(Seen::Any));
        assert_eq!(tags_of(&["\"a\""], ""), ["\"a\""]);
        assert_eq!(tags_of(&["W/\"a\", \"b,c\" ,,\t\"\""], ""), ["\"a\"", "\"b,c\"", "\"\""]);
        assert_eq!(tags_of(&["\"a\"", "\"b\""], ""), ["\"a\"", "\"b\""]);
        // What is no tag is no reason to keep an answer back.
        for broken in ["a", "\"a", "W/a", "", "w/\"a\""] {
            assert_eq!(tags_of(&[broken], ""), Vec::<String>::new(), "{broken}");
        }
        assert_eq!(tags_of(&[], "etag=a"), ["\"a\""]);
        assert_eq!(tags_of(&[], "etag=%22a%22"), ["\"a\""]);
        assert_eq!(tags_of(&[], "etag=W/%22a%22"), ["\"a\""]);
        assert_eq!(tags_of(&["\"h\""], "etag=a"), ["\"h\""], "the header counts before the parameter");
    }

    #[test]
    fn a_refusal_is_nothing_that_exists() {
        assert!(Seen::Any.covers("\"a\"", true) && !Seen::Any.covers("\"none-healthy\"", false));
        let refused = Seen::Tags(vec!["\"none-healthy\"".into()]);
        assert!(refused.covers("\"none-healthy\"", false) && !refused.covers("\"none-registered\"", false));
    }
}
