//! The routes of lookups.
//!
//! A plain single lookup is answered before any routing, by the policy instances of the thread that has the connection:
//! `fast`. Everything else goes through the ordinary handlers and gives the same answers.

use super::request::{self, BATCH_BODY};
use super::schema;
use super::system::require_ready;
use super::watching::{self, Patience, not_modified, wants_stream};
use crate::clock;
use crate::config::Reads;
use crate::directory::ServiceRef;
use crate::identity::Identity;
use crate::lookup::answer::{problem_tag, single, tag};
use crate::lookup::question::{BatchQuestion, Count, MAX_LOOKUP_KEY_BYTES, Question};
use crate::lookup::watch::Final;
use crate::lookup::{Evaluated, evaluate, require_fresh_enough};
use crate::problem::Problem;
use crate::region::Region;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, header};
use meridian_model::names::ZoneName;
use meridian_model::registration::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use meridian_model::selection::key_hash;
use meridian_policies::{Lookup, Pending, Worker};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::sync::Arc;

/// Lookups in one batch.
const MAX_BATCH: usize = 1_000;
/// Room for the answer to a plain lookup; a longer one makes it grow.
const ANSWER_BYTES: usize = 640;
/// Labels that the fast path takes; more go the ordinary way.
const FAST_LABELS: usize = 8;

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Gives this thread its own policy instances.
pub(super) fn equip(worker: Worker) {
    WORKER.with(|slot| *slot.borrow_mut() = Some(worker));
}

/// Lets this thread's instances take what was prepared while no lookup came.
pub(super) fn tend() {
    WORKER.with(|slot| slot.borrow_mut().as_mut().map(Worker::tend));
}

/// A single lookup in borrowed parts.
struct Plain<'a> {
    service: ServiceRef<'a>,
    zone: Option<&'a str>,
    key: Option<u64>,
    labels: [(&'a str, &'a str); FAST_LABELS],
    label_count: usize,
}

impl<'a> Plain<'a> {
    /// From an element of a batch; `None` where its key is too long.
    fn unlabelled(
        service: &'a str,
        namespace: &'a str,
        zone: Option<&'a str>,
        key: Option<&str>,
    ) -> Option<Self> {
        Some(Plain {
            service: ServiceRef { namespace, service },
            zone,
            key: match key {
                None => None,
                Some(key) if key.len() <= MAX_LOOKUP_KEY_BYTES => Some(key_hash(key)),
                Some(_) => return None,
            },
            labels: [("", ""); FAST_LABELS],
            label_count: 0,
        })
    }

    /// From a path and a query without any escapes; `None` sends the request the ordinary way, which refuses what is
    /// outside the limits.
    fn parse(path: &'a str, query: Option<&'a str>) -> Option<Self> {
        let service = path.strip_prefix("/v1/resolve/")?;
        let mut plain = Plain {
            service: ServiceRef { namespace: "default", service },
            zone: None,
            key: None,
            labels: [("", ""); FAST_LABELS],
            label_count: 0,
        };
        let query = query.unwrap_or_default();
        if query.bytes().any(|b| b == b'%' || b == b'+') {
            return None;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            match name {
                _ if value.is_empty() => return None,
                "ns" => plain.service.namespace = value,
                "zone" => plain.zone = Some(value),
                "key" if value.len() <= MAX_LOOKUP_KEY_BYTES => plain.key = Some(key_hash(value)),
                _ => {
                    let label = name.strip_prefix("label.")?;
                    if !(1..=MAX_KEY_BYTES).contains(&label.len()) || value.len() > MAX_VALUE_BYTES {
                        return None;
                    }
                    *plain.labels.get_mut(plain.label_count)? = (label, value);
                    plain.label_count += 1;
                }
            }
        }
        Some(plain)
    }
}

/// What the fast path made of a request, or of an element of a batch.
pub(super) enum Fast<A> {
    /// Answered.
    Answer(A),
    /// Its policy is being prepared: wait, then take the ordinary way.
    Cold(Pending),
    /// Not a plain single lookup, or nothing to give: the ordinary way.
    No,
}

/// Answers a plain single lookup without waiting, allocating nothing but the answer.
pub(super) fn fast<B>(region: &Region, request: &http::Request<B>) -> Fast<Response> {
    if request.method() != Method::GET || !region.directory.currency.is_ready() {
        return Fast::No;
    }
    let Some(plain) = Plain::parse(request.uri().path(), request.uri().query()) else { return Fast::No };
    let headers = request.headers();
    if headers.contains_key(header::IF_NONE_MATCH)
        || headers
            .get(header::ACCEPT)
            .is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
    {
        return Fast::No;
    }
    if region.reads == Reads::Token {
        let Ok(namespace) = plain.service.namespace.parse() else { return Fast::No };
        if region.may_read(request::authorization(headers), &namespace).is_err() {
            return Fast::No;
        }
    }
    if region.directory.currency.is_from_disk() && require_fresh_enough(region).is_err() {
        return Fast::No;
    }
    answer(region, &plain)
}

fn answer(region: &Region, plain: &Plain<'_>) -> Fast<Response> {
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    let mut etag = None;
    let found = with_worker(region, plain, |worker, snapshot, caller, seed| {
        match worker.lookup(snapshot, caller, plain.key, seed) {
            Lookup::Cold(pending) => Some(Err(pending)),
            Lookup::Routed(routed) => {
                region.recorder.note(snapshot, plain.key, seed, &routed);
                single(&mut out, &region.directory.currency, snapshot, &routed).ok()?;
                etag = Some(tag(routed.fingerprint()));
                Some(Ok(()))
            }
        }
    });
    match found.flatten() {
        Some(Ok(())) => Fast::Answer(json_response(out, etag.as_deref())),
        Some(Err(pending)) => Fast::Cold(pending),
        None => Fast::No,
    }
}

/// Runs `ask` with this thread's worker on the service's newest snapshot; `None` where the service or the zone is not
/// known, or this thread has no worker.
fn with_worker<R>(
    region: &Region,
    plain: &Plain<'_>,
    ask: impl FnOnce(&mut Worker, &Arc<meridian_model::snapshot::Snapshot>, meridian_policies::CallerId, u64) -> R,
) -> Option<R> {
    // A zone of another region is rare enough for the ordinary way.
    let zone: Option<&ZoneName> = match plain.zone {
        None => None,
        Some(text) => Some(region.zones.iter().find(|zone| zone.as_str() == text)?),
    };
    let labels = plain.labels.get(..plain.label_count).unwrap_or_default();
    WORKER.with(|slot| {
        let mut slot = slot.try_borrow_mut().ok()?;
        let worker = slot.as_mut()?;
        region.directory.with(plain.service, |snapshot| {
            let caller = worker.caller(&region.name, &snapshot.binding, zone, labels);
            ask(worker, snapshot, caller, clock::entropy())
        })
    })
}

pub(super) fn json_response(body: Vec<u8>, etag: Option<&str>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(tag) = etag.and_then(|tag| HeaderValue::from_str(tag).ok()) {
        headers.insert(header::ETAG, tag);
    }
    response
}

pub(super) fn tagged(problem: Problem) -> Response {
    let tag = problem_tag(&problem);
    let mut response = problem.into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Where to send traffic for a service, right now.
#[utoipa::path(get, path = "/v1/resolve/{service}", tag = "lookups",
    params(("service" = String, Path), ("ns" = Option<String>, Query, description = "namespace; default: default"),
        ("zone" = Option<String>, Query, description = "the caller's zone"),
        ("key" = Option<String>, Query, description = "sticky: the same key gets the same endpoint while it may"),
        ("n" = Option<String>, Query, description = "1 (default) to 1000 distinct endpoints, or all with tier and share"),
        ("label.K" = Option<String>, Query, description = "the caller's label K, if the binding lets it through"),
        ("explain" = Option<bool>, Query), ("index" = Option<u64>, Query, description = "at least this index; waits up to 1 s"),
        ("etag" = Option<String>, Query), ("wait" = Option<String>, Query, description = "with etag or If-None-Match: until the answer differs, default 5m, at most 10m")),
    responses((status = 200, description = "the answer, with an ETag over the whole plan; as text/event-stream the answers as they change",
         content((schema::Lookup = "application/json"), (String = "text/event-stream"))), (status = 304, description = "unchanged"),
        (status = 404, description = "no-such-service", body = Problem),
        (status = 503, description = "none-registered, none-healthy, refused-by-policy, region-unreachable, too-stale, not-ready, index-behind", body = Problem)))]
pub async fn resolve(
    State(region): State<Arc<Region>>,
    Path(service): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.as_deref();
    let question = Question::from_query(&service, query)?;
    region.may_read(request::authorization(&headers), &question.service.namespace)?;
    request::await_index(&region, query).await?;
    let patience = Patience::of(&headers, query)?;
    if wants_stream(&headers) {
        return Ok(listen(&region, question, &headers));
    }
    let answer = match patience.wait.filter(|_| patience.seen.is_some()) {
        None => Final::of(&region, &question).await,
        Some(wait) => {
            let mut watching = region.hub().watch(&question);
            let other = watching.until(|newest| !patience.covers(&newest.tag, newest.outcome.is_ok()));
            let other = tokio::select! {
                answer = other => Some(answer),
                () = tokio::time::sleep_until(Patience::deadline(wait)) => None,
                () = region.stop.cancelled() => None,
            };
            match other.or_else(|| watching.newest()) {
                Some(answer) => answer,
                // Nothing was evaluated within so short a wait.
                None => Final::of(&region, &question).await,
            }
        }
    };
    if patience.covers(&answer.tag, answer.outcome.is_ok()) {
        return Ok(not_modified(&answer.tag));
    }
    Ok(match render(&region, &question, &answer) {
        Ok(body) => json_response(body, Some(&answer.tag)),
        Err(problem) => tagged(problem),
    })
}

fn render(region: &Region, question: &Question, answer: &Final) -> Result<Vec<u8>, Problem> {
    let evaluated: &Arc<Evaluated> = answer.outcome.as_ref().map_err(Clone::clone)?;
    evaluated.render(region, question)
}

/// The answer, and every other one after it. A slow reader skips to the newest.
fn listen(region: &Arc<Region>, question: Question, headers: &HeaderMap) -> Response {
    let seen = watching::last_event(headers);
    let first = seen.is_none();
    let state = (region.hub().watch(&question), seen, first, Arc::clone(region), question);
    watching::stream(futures::stream::unfold(
        state,
        |(mut watching, seen, first, region, question)| async move {
            let answer = tokio::select! {
                answer = watching.until(|newest| Some(&*newest.tag) != seen.as_deref()) => answer,
                () = region.stop.cancelled() => return None,
            };
            let body = render(&region, &question, &answer).unwrap_or_else(|problem| problem.body());
            let event = watching::event(first, &answer.tag, body);
            Some((event, (watching, Some(answer.tag.to_string()), false, region, question)))
        },
    ))
}

/// What nearly every batch is: plain lookups without escapes in their text. All of it is borrowed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainBatch<'a> {
    #[serde(borrow)]
    lookups: Vec<PlainQuestion<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainQuestion<'a> {
    service: &'a str,
    ns: Option<&'a str>,
    zone: Option<&'a str>,
    key: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    lookups: Vec<BatchQuestion<'a>>,
}

/// As [`Batch`], when an element is wrong: each is then parsed on its own, so that it alone is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'a> {
    #[serde(borrow)]
    lookups: Vec<&'a RawValue>,
}

/// Many lookups at once: the answers, or `{"error": problem}`, in order.
#[utoipa::path(post, path = "/v1/resolve", tag = "lookups",
    request_body(content = schema::Batch, description = "up to 1000 lookups"),
    responses((status = 200, description = "the answers, in order", body = schema::BatchAnswers), (status = "4XX", body = Problem)))]
pub async fn batch(
    State(region): State<Arc<Region>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    require_ready(&region)?;
    require_fresh_enough(&region)?;
    let bytes = request::body(body, BATCH_BODY).await?;
    request::require_json(&headers)?;
    let identity = match region.reads {
        Reads::Open => None,
        Reads::Token => Some(request::bearer(&region, &headers)?),
    };
    let asking = Asking { region: &region, identity: identity.as_deref() };
    let (answers, questions) = match serde_json::from_slice::<PlainBatch<'_>>(&bytes) {
        Ok(batch) => {
            let answers = asking.at_once(batch.lookups.iter().map(PlainQuestion::plain))?;
            let questions = if answers.late.is_empty() { Vec::new() } else { read(&bytes)? };
            (answers, questions)
        }
        Err(_) => {
            let questions = read(&bytes)?;
            let plain = questions.iter().map(|question| question.as_ref().ok().and_then(plain_of));
            (asking.at_once(plain)?, questions)
        }
    };
    Ok(json_response(asking.complete(answers, &questions).await, None))
}

/// The elements of a batch, each of which may be refused on its own.
fn read(bytes: &[u8]) -> Result<Vec<Result<BatchQuestion<'_>, Problem>>, Problem> {
    if let Ok(batch) = serde_json::from_slice::<Batch<'_>>(bytes) {
        return Ok(batch.lookups.into_iter().map(Ok).collect());
    }
    let batch: RawBatch<'_> = serde_json::from_slice(bytes).or_else(|_| request::parse_json(bytes))?;
    Ok(batch.lookups.iter().map(|raw| request::parse_json(raw.get().as_bytes())).collect())
}

impl<'a> PlainQuestion<'a> {
    fn plain(&self) -> Option<Plain<'a>> {
        let some = |text: Option<&'a str>| text.filter(|text| !text.is_empty());
        let namespace = self.ns.unwrap_or("default");
        Plain::unlabelled(self.service, namespace, some(self.zone), some(self.key))
    }
}

fn plain_of<'a>(question: &'a BatchQuestion<'_>) -> Option<Plain<'a>> {
    let (service, namespace, zone, key) = question.plain()?;
    Plain::unlabelled(service, namespace, zone, key)
}

/// The answers of a batch as far as they go.
struct Answers {
    out: Vec<u8>,
    late: Vec<Late>,
}

/// An answer that is missing: the number of its question, its place in the bytes, and what it waits for.
struct Late {
    number: usize,
    at: usize,
    pending: Option<Pending>,
}

/// Who asks whom in a batch.
struct Asking<'a> {
    region: &'a Region,
    identity: Option<&'a Identity>,
}

impl Asking<'_> {
    /// Answers what is ready in one pass; what is not is asked for meanwhile, all of it at once.
    fn at_once<'q>(
        &self,
        lookups: impl ExactSizeIterator<Item = Option<Plain<'q>>>,
    ) -> Result<Answers, Problem> {
        if lookups.len() > MAX_BATCH {
            let detail = format!("must be at most {MAX_BATCH}, not {}", lookups.len());
            return Err(Problem::field("lookups", detail));
        }
        let mut out = Vec::with_capacity(64 + lookups.len() * ANSWER_BYTES);
        let mut late = Vec::new();
        out.extend_from_slice(b"{\"results\":[");
        for (number, plain) in lookups.enumerate() {
            if number > 0 {
                out.push(b',');
            }
            match plain.filter(|plain| self.may_ask(plain)).map(|plain| self.answer(&plain, &mut out)) {
                Some(Fast::Answer(())) => {}
                Some(Fast::Cold(pending)) => {
                    late.push(Late { number, at: out.len(), pending: Some(pending) })
                }
                Some(Fast::No) | None => late.push(Late { number, at: out.len(), pending: None }),
            }
        }
        out.extend_from_slice(b"]}");
        Ok(Answers { out, late })
    }

    /// What may not be asked goes the slow way, which says why.
    fn may_ask(&self, plain: &Plain<'_>) -> bool {
        self.identity.is_none_or(|identity| {
            let namespace = plain.service.namespace.parse();
            namespace.is_ok_and(|namespace| identity.may_read(&namespace).is_ok())
        })
    }

    fn answer(&self, plain: &Plain<'_>, out: &mut Vec<u8>) -> Fast<()> {
        let currency = &self.region.directory.currency;
        let asked = with_worker(self.region, plain, |worker, snapshot, caller, seed| {
            match worker.lookup(snapshot, caller, plain.key, seed) {
                Lookup::Cold(pending) => Fast::Cold(pending),
                Lookup::Routed(routed) => {
                    self.region.recorder.note(snapshot, plain.key, seed, &routed);
                    or_error(out, |out| single(out, currency, snapshot, &routed));
                    Fast::Answer(())
                }
            }
        });
        asked.unwrap_or(Fast::No)
    }

    /// Waits for what is missing, all of it together, and puts it where it belongs.
    async fn complete(
        &self,
        Answers { out, mut late }: Answers,
        questions: &[Result<BatchQuestion<'_>, Problem>],
    ) -> Vec<u8> {
        if late.is_empty() {
            return out;
        }
        let pending = late.iter_mut().filter_map(|late| late.pending.take());
        futures::future::join_all(pending.map(Pending::wait)).await;
        let mut whole = Vec::with_capacity(out.len() + late.len() * ANSWER_BYTES);
        let mut copied = 0;
        for Late { number, at, .. } in late {
            whole.extend_from_slice(out.get(copied..at).unwrap_or_default());
            copied = at;
            let answer = match questions.get(number) {
                Some(Ok(question)) => self.answer_late(question).await,
                Some(Err(problem)) => Err(problem.clone()),
                // Both readings of a body find the same elements.
                None => Err(Problem::field("lookups", "cannot be read")),
            };
            or_error(&mut whole, |whole| answer.map(|answer| whole.extend_from_slice(&answer)));
        }
        whole.extend_from_slice(out.get(copied..).unwrap_or_default());
        whole
    }

    async fn answer_late(&self, question: &BatchQuestion<'_>) -> Result<Vec<u8>, Problem> {
        if let Some(plain) = plain_of(question).filter(|plain| self.may_ask(plain)) {
            let found = with_worker(self.region, &plain, |worker, snapshot, caller, seed| {
                let routed = worker.lookup_now(snapshot, caller, plain.key, seed);
                self.region.recorder.note(snapshot, plain.key, seed, &routed);
                let mut out = Vec::with_capacity(ANSWER_BYTES);
                single(&mut out, &self.region.directory.currency, snapshot, &routed).map(|()| out)
            });
            if let Some(answered) = found {
                return answered;
            }
        }
        let parsed = question.parse()?;
        if let Some(identity) = self.identity {
            identity.may_read(&parsed.service.namespace)?;
        }
        let evaluated = evaluate(self.region, &parsed).await?;
        debug_assert!(parsed.count != Count::Some(0));
        evaluated.render(self.region, &parsed)
    }
}

/// What `write` appends, or its refusal as an element of a batch.
fn or_error(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Problem>) {
    let start = out.len();
    if let Err(problem) = write(out) {
        out.truncate(start);
        out.extend_from_slice(b"{\"error\":");
        out.extend_from_slice(&problem.body());
        out.push(b'}');
    }
}

/// After a cold wait: the lookup again, answered by whatever is there now.
pub(super) fn answer_now<B>(region: &Region, request: &http::Request<B>) -> Option<Response> {
    let plain = Plain::parse(request.uri().path(), request.uri().query())?;
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    let etag = with_worker(region, &plain, |worker, snapshot, caller, seed| {
        let routed = worker.lookup_now(snapshot, caller, plain.key, seed);
        region.recorder.note(snapshot, plain.key, seed, &routed);
        single(&mut out, &region.directory.currency, snapshot, &routed).ok()?;
        Some(tag(routed.fingerprint()))
    })??;
    Some(json_response(out, Some(&etag)))
}
