//! The routes of bindings: which policy answers for a service or a namespace.

use super::instances::{rfc3339, with_etag};
use super::request;
use crate::clock;
use crate::history::value_of;
use crate::problem::Problem;
use crate::region::{Deed, Region};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use meridian_model::binding::{Binding, Bound, LAST_GOOD_KEPT, Limits, MAX_CONFIG_BYTES, NAMESPACE_DEFAULT};
use meridian_model::names::{Namespace, PolicyName, PolicyVersion, ServiceName};
use meridian_model::policy::schema::ConfigError;
use meridian_model::registration::{FieldError, MAX_KEY_BYTES, MAX_PAIRS};
use meridian_policies::STANDARD;
use meridian_registry::{Change, Condition, Key, Revision, Stored, record};
use serde::Deserialize;
use serde_json::{Value, json};
use smol_str::SmolStr;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A binding is 64 KiB of config and little else.
const BINDING_BODY: usize = MAX_CONFIG_BYTES + 16 * 1024;
const MAX_CONFLICTS: usize = 8;

/// The body of a binding.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BindingBody {
    /// The policy's name.
    policy: String,
    /// `sha256:…`; the newest where none is named.
    #[serde(default)]
    version: Option<String>,
    /// JSON that only the policy understands.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Value,
    /// `active`.
    #[serde(default)]
    stage: Option<Stage>,
    /// Of a canary.
    #[serde(default)]
    percent: Option<f64>,
    /// `{"regions": "all" | ["…"], "maxRemoteShare": 1.0}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    limits: Option<Limits>,
    /// Labels of callers that reach the policy.
    #[serde(default)]
    caller_labels: Option<BTreeSet<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Active,
    Shadow,
    Canary,
}

struct Wanted {
    bound: Bound,
    limits: Option<Limits>,
    caller_labels: Option<BTreeSet<SmolStr>>,
}

/// Where a binding stands: a service's, or the namespace's under `_default`.
type Place = (Namespace, Option<ServiceName>);

fn place(namespace: &str, service: &str) -> Result<Place, Problem> {
    let service = if service == NAMESPACE_DEFAULT { None } else { Some(request::name(service)?) };
    Ok((request::name(namespace)?, service))
}

fn target((namespace, service): &Place) -> String {
    format!("{namespace}/{}", service.as_ref().map_or(NAMESPACE_DEFAULT, |s| s.as_str()))
}

impl BindingBody {
    fn parse(self, region: &Region) -> Result<Wanted, Problem> {
        match self.stage.unwrap_or(Stage::Active) {
            Stage::Active => {}
            Stage::Shadow | Stage::Canary => {
                let detail =
                    "stages shadow and canary are not supported by this version: bind with stage active";
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not-supported", detail));
            }
        }
        if self.percent.is_some() {
            return Err(Problem::field(
                "percent",
                "belongs to stage canary, which is not supported by this version",
            ));
        }
        let policy: PolicyName = self.policy.parse().map_err(|e| Problem::field("policy", e))?;
        let version = match self.version {
            None => newest(region, &policy)?,
            Some(text) => {
                let version = text.parse().map_err(|e| Problem::field("version", e))?;
                require_version(region, &policy, version)?;
                version
            }
        };
        let config = match self.config {
            Value::Null => SmolStr::default(),
            config @ Value::Object(_) => SmolStr::new(config.to_string()),
            _ => return Err(Problem::field("config", "must be a JSON object")),
        };
        if config.len() > MAX_CONFIG_BYTES {
            return Err(Problem::field(
                "config",
                format_args!("must be at most {MAX_CONFIG_BYTES} bytes of JSON"),
            ));
        }
        if let Some(limits) = &self.limits
            && !(0.0..=1.0).contains(&limits.max_remote_share)
        {
            return Err(Problem::field("limits.maxRemoteShare", "must be from 0 to 1"));
        }
        let labels = self.caller_labels.unwrap_or_default();
        if labels.len() > MAX_PAIRS || labels.iter().any(|l| l.is_empty() || l.len() > MAX_KEY_BYTES) {
            let detail = format!("must be at most {MAX_PAIRS} labels of 1 to {MAX_KEY_BYTES} bytes");
            return Err(Problem::field("callerLabels", detail));
        }
        Ok(Wanted {
            bound: Bound { policy, version, config },
            limits: self.limits,
            caller_labels: Some(labels.into_iter().map(SmolStr::new).collect()),
        })
    }
}

fn standard_version(policy: &PolicyName) -> Option<PolicyVersion> {
    STANDARD.iter().find(|s| s.name == policy.as_str()).map(|s| PolicyVersion::of(s.module))
}

/// The newest version: what was uploaded last under the name, else the standard policy of that name.
fn newest(region: &Region, policy: &PolicyName) -> Result<PolicyVersion, Problem> {
    let rules = region.directory.rules();
    let uploaded = rules.policies.values().map(|(m, _)| m).filter(|m| m.name == *policy);
    let newest = uploaded.max_by_key(|m| m.uploaded_at).map(|m| m.version);
    newest.or_else(|| standard_version(policy)).ok_or_else(|| {
        let detail = format!("no policy is called {policy}: upload it with PUT /v1/policies/{policy} first");
        Problem::field("policy", detail)
    })
}

fn require_version(region: &Region, policy: &PolicyName, version: PolicyVersion) -> Result<(), Problem> {
    let known = region.directory.rules().policies.contains_key(&(policy.clone(), version));
    if known || standard_version(policy) == Some(version) {
        return Ok(());
    }
    let detail = format!("{policy} has no version {version}: GET /v1/policies/{policy} lists what it has");
    Err(Problem::field("version", detail))
}

/// Opens the policy with the config over a small made-up service: what it cannot read is refused now, not at lookups.
async fn try_config(region: &Arc<Region>, bound: &Bound) -> Result<(), Problem> {
    let (region, bound) = (Arc::clone(region), bound.clone());
    let tried = tokio::task::spawn_blocking(move || {
        if let Some(standard) = STANDARD.iter().find(|s| PolicyVersion::of(s.module) == bound.version) {
            let loaded = region.host.load_standard(standard);
            loaded
                .map_err(|e| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-runnable", e.to_string()))?;
        }
        let Some(compiled) = region.host.library().get(&bound.version) else {
            let detail = "this gateway has not yet loaded that version; try again in a second";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-runnable", detail));
        };
        let errors = region.host.config_errors(bound.version, &bound.config);
        if !errors.is_empty() {
            // The field of the request, as where the policy itself refuses; where in it, the detail says.
            let field =
                |e: ConfigError| FieldError::new("config", format!("{} {}", e.pointer, e.message).trim());
            return Err(Problem::fields(errors.into_iter().map(field).collect()));
        }
        region.host.try_config(&compiled, &bound.config).map_err(|fault| Problem::field("config", fault))
    });
    tried.await.map_err(|_| Problem::field("config", "the policy could not be tried with it"))?
}

fn render_bound(bound: &Bound) -> Value {
    let config: Value = serde_json::from_str(&bound.config).unwrap_or(Value::Null);
    json!({ "policy": bound.policy, "version": bound.version, "config": config })
}

fn render((namespace, service): &Place, binding: &Binding, modified: u64) -> Value {
    json!({
        "namespace": namespace,
        "service": service.as_ref().map_or(NAMESPACE_DEFAULT, |s| s.as_str()),
        "active": render_bound(&binding.active),
        "candidate": Value::Null,
        "lastGood": binding.last_good.iter().map(render_bound).collect::<Vec<_>>(),
        "limits": binding.limits,
        "callerLabels": binding.caller_labels,
        "updatedAt": rfc3339(binding.updated_at),
        "modifiedIndex": modified,
    })
}

/// The binding that results: what was active becomes the newest of the last good ones.
fn replace(before: Option<&Binding>, wanted: &Wanted) -> Binding {
    let mut last_good: Vec<Bound> = before.map(|b| b.last_good.clone()).unwrap_or_default();
    if let Some(before) = before.filter(|b| b.active != wanted.bound) {
        last_good.insert(0, before.active.clone());
    }
    last_good.retain(|bound| *bound != wanted.bound);
    last_good.truncate(LAST_GOOD_KEPT);
    Binding {
        active: wanted.bound.clone(),
        last_good,
        limits: wanted.limits.clone().or_else(|| before.map(|b| b.limits.clone())).unwrap_or_default(),
        caller_labels: wanted.caller_labels.clone().unwrap_or_default(),
        updated_at: clock::unix_now(),
        unknown: before.map(|b| b.unknown.clone()).unwrap_or_default(),
    }
}

fn decode(stored: Stored) -> Option<(Binding, u64)> {
    match record::decode(&stored.key, &stored.value) {
        Ok(Some(record::Record::Binding(binding))) => Some((*binding, stored.modified.0)),
        _ => None,
    }
}

/// Bind a policy to a service, or to a namespace under `_default`.
#[utoipa::path(put, path = "/v1/namespaces/{ns}/bindings/{service}", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path, description = "or _default for the whole namespace")),
    request_body(content = BindingBody),
    responses((status = 201, description = "bound for the first time"), (status = 200, description = "replaced"),
              (status = "4XX", body = Problem)))]
pub async fn put(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let place = place(&namespace, &service)?;
    identity.may_operate(&place.0)?;
    let body: BindingBody = request::json(&headers, body, BINDING_BODY).await?;
    let wanted = body.parse(&region)?;
    try_config(&region, &wanted.bound).await?;
    let precondition = request::precondition(&headers);
    let key = Key::Binding(place.0.clone(), place.1.clone());
    let (mut stored, _) = region.registry.read(&key).await?;
    for _ in 0..MAX_CONFLICTS {
        let revision = stored.as_ref().map(|s| s.modified);
        precondition.check(revision.map(|r| r.0))?;
        let before = stored.and_then(decode).map(|(binding, _)| binding);
        let binding = replace(before.as_ref(), &wanted);
        let condition = match revision {
            None => Condition::Absent(key.clone()),
            Some(revision) => Condition::Unchanged(key.clone(), revision),
        };
        let deed = Deed {
            action: "bind",
            target: target(&place),
            reason: "",
            before: value_of(before.as_ref()),
            after: value_of(Some(&binding)),
        };
        let put = Change::Put(key.clone(), record::encode(&binding)?);
        match region.write(&identity, condition, put, deed).await? {
            Ok(Revision(modified)) => {
                let applied = region.applied(Revision(modified)).await;
                let mut value = render(&place, &binding, modified);
                value["index"] = json!(modified);
                value["applied"] = json!(applied);
                let status = if revision.is_none() { StatusCode::CREATED } else { StatusCode::OK };
                return Ok(with_etag((status, axum::Json(value)).into_response(), modified));
            }
            Err(current) => stored = current,
        }
    }
    Err(Problem::new(StatusCode::CONFLICT, "conflict", "the binding is being changed by others; try again"))
}

/// The bindings of a namespace.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/bindings", tag = "operators", params(("ns" = String, Path)),
    responses((status = 200, description = "{items, index, next}"), (status = "4XX", body = Problem)))]
pub async fn list(
    State(region): State<Arc<Region>>,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let namespace: Namespace = request::name(&namespace)?;
    request::bearer(&region, &headers)?.may_read(&namespace)?;
    let page = request::page(query.as_deref())?;
    request::await_index(&region, query.as_deref()).await?;
    let rules = region.directory.rules();
    let bindings = rules.bindings.iter().filter(|((ns, _), _)| *ns == namespace);
    let (items, next) = request::cut(bindings, &page, |(place, _)| {
        place.1.as_ref().map(|s| s.to_string()).unwrap_or_default()
    });
    let items: Vec<Value> = items.into_iter().map(|(place, (b, m))| render(place, b, *m)).collect();
    let index = region.directory.currency.index();
    Ok(axum::Json(json!({ "items": items, "index": index, "next": next })).into_response())
}

/// One binding.
#[utoipa::path(get, path = "/v1/namespaces/{ns}/bindings/{service}", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path)),
    responses((status = 200, description = "the binding"), (status = 404, body = Problem)))]
pub async fn get(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = place(&namespace, &service)?;
    request::bearer(&region, &headers)?.may_read(&place.0)?;
    request::await_index(&region, query.as_deref()).await?;
    let rules = region.directory.rules();
    let Some((binding, modified)) = rules.bindings.get(&place) else { return Err(no_such_binding(&place)) };
    let mut value = render(&place, binding, *modified);
    value["index"] = json!(region.directory.currency.index());
    Ok(with_etag(axum::Json(value).into_response(), *modified))
}

/// Remove a binding: the namespace's default, or the built-in policy, answers again.
#[utoipa::path(delete, path = "/v1/namespaces/{ns}/bindings/{service}", tag = "operators",
    params(("ns" = String, Path), ("service" = String, Path)), responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn delete(
    State(region): State<Arc<Region>>,
    Path((namespace, service)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let identity = request::bearer(&region, &headers)?;
    let place = place(&namespace, &service)?;
    identity.may_operate(&place.0)?;
    let key = Key::Binding(place.0.clone(), place.1.clone());
    let (stored, _) = region.registry.read(&key).await?;
    let Some(stored) = stored else { return Err(no_such_binding(&place)) };
    request::precondition(&headers).check(Some(stored.modified.0))?;
    let condition = Condition::Unchanged(key.clone(), stored.modified);
    let deed = Deed {
        action: "unbind",
        target: target(&place),
        reason: "",
        before: value_of(decode(stored).map(|(binding, _)| binding).as_ref()),
        after: Value::Null,
    };
    match region.write(&identity, condition, Change::Delete(key), deed).await? {
        Ok(revision) => {
            region.applied(revision).await;
            Ok(StatusCode::NO_CONTENT)
        }
        Err(_) => Err(Problem::new(
            StatusCode::CONFLICT,
            "conflict",
            "the binding was changed at the same time; try again",
        )),
    }
}

fn no_such_binding(place: &Place) -> Problem {
    let detail = format!("{} has no binding of its own; the default answers for it", target(place));
    Problem::new(StatusCode::NOT_FOUND, "no-such-binding", detail)
}
