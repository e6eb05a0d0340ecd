//! The routes of policies: upload, list, fetch, delete.

use super::instances::rfc3339;
use super::request;
use super::{bindings, schema, switches};
use crate::clock;
use crate::directory::Rules;
use crate::history::value_of;
use crate::identity::Identity;
use crate::keeper::Command;
use crate::loader::{is_stored, store_module};
use crate::problem::Problem;
use crate::region::{Deed, Region};
use crate::signature::{self, Trust};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use meridian_model::binding::{Bound, Manifest};
use meridian_model::names::{PolicyName, PolicyVersion};
use meridian_policies::{MAX_MODULE_BYTES, Rejected, STANDARD, standard_of};
use meridian_registry::{Change, Condition, Key, Revision, record};
use serde_json::{Value, json};
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// After which an upload that found the gate busy may come again.
const BUSY_SECONDS: u32 = 5;

fn refused(rejected: Rejected) -> Problem {
    let status = match rejected.code {
        "module-too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "library-full" => StatusCode::CONFLICT,
        "gate-busy" | "gate-unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let (check, input) = (rejected.check.map(String::from), rejected.input.map(String::from));
    let retry_after = (rejected.code == "gate-busy").then_some(BUSY_SECONDS);
    let problem = Problem::new(status, rejected.code, rejected.detail);
    Problem { check, input, retry_after: retry_after.or(problem.retry_after), ..problem }
}

/// The module of an upload. One that is too large is refused as the gate would, which never sees it.
async fn module_of(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    request::check_media_type(headers, &["application/wasm", "application/octet-stream"])?;
    request::body(body, MAX_MODULE_BYTES).await.map_err(|problem| match problem.code {
        "too-large" => {
            let detail = format!("a module has at most {MAX_MODULE_BYTES} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "module-too-large", detail)
        }
        _ => problem,
    })
}

/// A version that is in the library, and in no manifest yet. When it goes out of scope the keeper looks whether there is one,
/// so that an upload that comes to nothing, or that nobody waits for any more, takes no place.
struct Provisional {
    keeper: mpsc::Sender<Command>,
    version: PolicyVersion,
}

impl Drop for Provisional {
    fn drop(&mut self) {
        // A keeper that cannot keep up has lost nothing but a place in the library.
        let _ = self.keeper.try_send(Command::NotStored(self.version));
    }
}

/// Upload a version of a policy.
///
/// It is checked before it is stored: size, form, sections, compilation in a process of its own, imports, world, its own test
/// cases, a corpus of services, purity. A refusal names the check, and the input that it failed on.
#[utoipa::path(put, path = "/v1/policies/{name}", tag = "operators", params(("name" = String, Path),
    ("reason" = Option<String>, Query, description = "why, for the history"),
    ("Meridian-Signature" = Option<String>, Header, description = "base64, over the version")),
    request_body(content = schema::Module, content_type = "application/wasm"),
    responses((status = 201, description = "stored, with the report of its checks", body = schema::Uploaded),
              (status = 200, description = "the same bytes were there", body = schema::Uploaded),
              (status = 403, description = "signature-missing or signature-invalid, where the region trusts keys", body = Problem),
              (status = 409, description = "library-full: delete versions that nothing is bound to", body = Problem),
              (status = 413, description = "module-too-large", body = Problem), (status = 422, description = "the code says which check failed", body = Problem)))]
pub async fn upload(
    State(region): State<Arc<Region>>,
    Path(policy): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let identity = request::bearer(&region, &headers)?;
    identity.may_operate_region()?;
    let policy: PolicyName = request::name(&policy)?;
    let reason = request::reason(query.as_deref())?;
    let module = module_of(&headers, body).await?;
    let version = PolicyVersion::of(&module);
    let size = module.len();
    let signed = require_signature(&region, &headers, version)?;
    let key = Key::Policy(policy.clone(), version);
    let answer = |status: StatusCode, report: Value, index: u64, applied: bool| {
        let value = json!({
            "name": policy, "version": version, "sizeBytes": size, "report": report, "index": index, "applied": applied,
        });
        (status, axum::Json(value)).into_response()
    };
    let known = region.directory.rules().policies.get(&(policy.clone(), version)).map(|(m, _)| Arc::clone(m));
    if let Some(manifest) = known {
        let lacks = Lacks::of(&region, &manifest, &signed).await?;
        if lacks == Lacks::Nothing {
            let index = region.directory.currency.index();
            return Ok(answer(StatusCode::OK, json!({ "unchanged": true }), index, true));
        }
        let Revision(index) = complete(&region, &identity, &manifest, lacks, signed, module, &reason).await?;
        let applied = region.applied(Revision(index)).await;
        return Ok(answer(
            StatusCode::OK,
            json!({ "unchanged": true, "completed": lacks.word() }),
            index,
            applied,
        ));
    }
    let mut provisional = None;
    let report = match standard_of(version) {
        Some(standard) if standard.name == policy.as_str() => {
            let index = region.directory.currency.index();
            return Ok(answer(StatusCode::OK, json!({ "unchanged": true, "standard": true }), index, true));
        }
        // Its own tests are this program's, and it runs already.
        Some(standard) => json!({ "aliasOf": standard.name }),
        None => {
            let (report, entered) = try_module(&region, version, module.clone()).await?;
            provisional = Some(entered);
            report
        }
    };
    let chunks = store_module(&*region.registry, version, module.clone()).await?;
    let manifest = Manifest {
        name: policy.clone(),
        version,
        size_bytes: size as u64,
        chunks,
        uploaded_at: clock::unix_now(),
        uploaded_by: SmolStr::new(format!("{} {}", identity.issuer(), identity.subject())),
        unknown: signed.clone(),
    };
    let deed = Deed {
        action: "upload",
        target: policy.to_string(),
        reason: &reason,
        before: Value::Null,
        after: value_of(Some(&manifest)),
    };
    let put = Change::Put(key.clone(), record::encode(&manifest)?);
    match region.write(&identity, Condition::Absent(key), put, deed).await? {
        Ok(revision) => {
            let applied = region.applied(revision).await;
            drop(provisional);
            // Whoever deleted the same bytes under another name may have taken the chunks along.
            if !is_stored(&*region.registry, version, chunks).await? {
                complete(&region, &identity, &manifest, Lacks::Module, signed, module, &reason).await?;
            }
            Ok(answer(StatusCode::CREATED, report, revision.0, applied))
        }
        // Somebody uploaded the same bytes at the same time.
        Err(_) => Ok(answer(StatusCode::OK, report, region.directory.currency.index(), true)),
    }
}

/// What a version that is known needs of another upload of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacks {
    Nothing,
    /// The registry lost the bytes.
    Module,
    /// It came in before a signature was asked for, or with one of a key that is not trusted any more.
    Signature,
}

impl Lacks {
    async fn of(
        region: &Region,
        manifest: &Manifest,
        sent: &serde_json::Map<String, Value>,
    ) -> Result<Self, Problem> {
        if !is_stored(&*region.registry, manifest.version, manifest.chunks).await? {
            return Ok(Self::Module);
        }
        let holds = |kept: String| region.trust.verify(manifest.version, &kept).is_ok();
        let kept = signature::value(&manifest.unknown);
        let signed = match region.trust.is_required() {
            true => kept.is_some_and(holds),
            // What stands there may be trusted elsewhere: it stays.
            false => sent.is_empty() || kept.is_some(),
        };
        Ok(if signed { Self::Nothing } else { Self::Signature })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Module => "module",
            Self::Signature => "signature",
        }
    }
}

/// Stores the bytes of a version again, and its manifest, so that gateways that gave it up try again.
async fn complete(
    region: &Region,
    identity: &Identity,
    manifest: &Manifest,
    lacks: Lacks,
    signed: serde_json::Map<String, Value>,
    module: Bytes,
    reason: &str,
) -> Result<Revision, Problem> {
    let chunks = match lacks {
        Lacks::Module => store_module(&*region.registry, manifest.version, module).await?,
        Lacks::Nothing | Lacks::Signature => manifest.chunks,
    };
    let mut unknown = manifest.unknown.clone();
    if region.trust.is_required() || signature::kept(&unknown).is_none() {
        unknown.extend(signed);
    }
    let new = Manifest { chunks, unknown, ..manifest.clone() };
    let deed = Deed {
        action: "upload",
        target: manifest.name.to_string(),
        reason,
        before: value_of(Some(manifest)),
        after: value_of(Some(&new)),
    };
    let key = Key::Policy(manifest.name.clone(), manifest.version);
    let put = Change::Put(key.clone(), record::encode(&new)?);
    let written = region.write(identity, Condition::Present(key), put, deed).await?;
    written.map_err(|_| conflict())
}

fn conflict() -> Problem {
    Problem::new(StatusCode::CONFLICT, "conflict", "the version was changed at the same time; try again")
}

/// What the manifest keeps of the upload's signature. Where the region asks for none, it is kept as it came: whoever names keys
/// later finds it there.
fn require_signature(
    region: &Region,
    headers: &HeaderMap,
    version: PolicyVersion,
) -> Result<serde_json::Map<String, Value>, Problem> {
    let forbidden = |code, detail: String| Problem::new(StatusCode::FORBIDDEN, code, detail);
    let Some(sent) = headers.get(signature::HEADER) else {
        if !region.trust.is_required() {
            return Ok(serde_json::Map::new());
        }
        let detail = "this region takes only signed modules: `meridian policy sign FILE --key KEY.pem`, then `meridian policy \
                      push NAME FILE --signature FILE.sig` (or the header Meridian-Signature)";
        return Err(forbidden("signature-missing", detail.into()));
    };
    let verified = sent.to_str().map_err(|_| signature::SignatureError::NotASignature).and_then(|text| {
        match region.trust.is_required() {
            true => region.trust.verify(version, text),
            false => Trust::keep(text),
        }
    });
    verified.map_err(|error| forbidden("signature-invalid", format!("{version}: {error}")))
}

/// Runs the gate where blocking is allowed. What passes is runnable here before anyone can bind it.
async fn try_module(
    region: &Arc<Region>,
    version: PolicyVersion,
    module: Bytes,
) -> Result<(Value, Provisional), Problem> {
    let (host, keeper) = (Arc::clone(&region.host), region.keeper.clone());
    let tried = tokio::task::spawn_blocking(move || {
        let (compiled, report) = host.check(&module).map_err(refused)?;
        // From here on, since the upload may end while this thread is at work.
        let provisional = Provisional { keeper, version };
        host.insert(compiled).map_err(|full| {
            let detail = format!(
                "{full}: GET /v1/policies lists them, DELETE /v1/policies/{{name}}/versions/{{version}} makes room"
            );
            Problem::new(StatusCode::CONFLICT, "library-full", detail)
        })?;
        Ok((serde_json::to_value(&report).unwrap_or_default(), provisional))
    });
    tried.await.map_err(|_| {
        let detail = "the gate failed on this module";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "does-not-compile", detail)
    })?
}

fn render(region: &Region, manifest: &Manifest) -> Value {
    let mut value = json!({
        "version": manifest.version, "sizeBytes": manifest.size_bytes, "uploadedAt": rfc3339(manifest.uploaded_at),
        "uploadedBy": manifest.uploaded_by, "standard": false,
    });
    value["disabled"] = switches::render(region, manifest.version);
    if let Some(signature) = signature::kept(&manifest.unknown) {
        value["signature"] = signature.clone();
    }
    if let Some(standard) = standard_of(manifest.version) {
        value["aliasOf"] = json!(standard.name);
        value["description"] = json!(standard.description);
    } else if let Some(compiled) = region.host.library().get(&manifest.version)
        && let Some(description) = compiled.carried().description()
    {
        value["description"] = json!(description);
    }
    value
}

/// Bindings that a list shows of each version; the version itself shows them all.
const MAX_BOUND_SHOWN: usize = 10;

/// By what every version is bound, as lists show it.
fn bindings_of(region: &Region) -> BTreeMap<(PolicyName, PolicyVersion), (u64, Vec<String>)> {
    let mut all: BTreeMap<_, (u64, Vec<String>)> = BTreeMap::new();
    for (place, (binding, _)) in &region.directory.rules().bindings {
        let candidate = binding.candidate.as_ref().map(|candidate| &candidate.bound);
        for bound in std::iter::once(&binding.active).chain(candidate.filter(|c| **c != binding.active)) {
            let (count, shown) = all.entry((bound.policy.clone(), bound.version)).or_default();
            *count += 1;
            if shown.len() < MAX_BOUND_SHOWN {
                shown.push(bindings::target(place));
            }
        }
    }
    all
}

/// All versions of every policy with their bindings, newest first, the standard ones at the end of theirs.
fn listed(region: &Region) -> BTreeMap<PolicyName, Vec<Value>> {
    let (mut all, bound) = (versions(region), bindings_of(region));
    for ((policy, version), (count, shown)) in bound {
        let wanted = json!(version);
        let of = all.get_mut(&policy).and_then(|all| all.iter_mut().find(|v| v["version"] == wanted));
        if let Some(of) = of {
            (of["bindings"], of["boundBy"]) = (json!(count), json!(shown));
        }
    }
    all
}

/// All versions of every policy, newest first, the standard ones at the end of theirs.
fn versions(region: &Region) -> BTreeMap<PolicyName, Vec<Value>> {
    let rules = region.directory.rules();
    let mut manifests: Vec<&Arc<Manifest>> = rules.policies.values().map(|(m, _)| m).collect();
    manifests.sort_by_key(|m| std::cmp::Reverse(m.uploaded_at));
    let mut all: BTreeMap<PolicyName, Vec<Value>> = BTreeMap::new();
    for manifest in manifests {
        all.entry(manifest.name.clone()).or_default().push(render(region, manifest));
    }
    for standard in &STANDARD {
        let Ok(name) = standard.name.parse::<PolicyName>() else { continue };
        let version = PolicyVersion::of(standard.module);
        all.entry(name).or_default().push(json!({
            "version": version, "sizeBytes": standard.module.len(), "standard": true,
            "description": standard.description, "disabled": switches::render(region, version),
        }));
    }
    all
}

/// The bindings that name a version, as `ns/service`.
fn bound_to(rules: &Rules, policy: &PolicyName, version: PolicyVersion, also_last_good: bool) -> Vec<String> {
    let names = |bound: &Bound| bound.policy == *policy && bound.version == version;
    let bound = rules.bindings.iter().filter(|(_, (binding, _))| {
        names(&binding.active)
            || binding.candidate.as_ref().is_some_and(|candidate| names(&candidate.bound))
            || (also_last_good && binding.last_good.iter().any(|former| names(&former.bound)))
    });
    bound.map(|(place, _)| bindings::target(place)).collect()
}

/// All policies.
#[utoipa::path(get, path = "/v1/policies", tag = "operators",
    params(("limit" = Option<u32>, Query), ("next" = Option<String>, Query)),
    responses((status = 200, description = "a page", body = schema::PolicyPage)))]
pub async fn list(
    State(region): State<Arc<Region>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    request::bearer(&region, &headers)?;
    request::await_index(&region, query.as_deref()).await?;
    let page = request::page(query.as_deref())?;
    let (items, next) = request::cut(listed(&region).into_iter(), &page, |(name, _)| name.to_string());
    let items: Vec<Value> =
        items.into_iter().map(|(name, versions)| json!({ "name": name, "versions": versions })).collect();
    let index = region.directory.currency.index();
    let page = json!({ "items": items, "index": index, "next": next, "disabled": switches::all(&region) });
    Ok(axum::Json(page).into_response())
}

/// One policy with its versions.
#[utoipa::path(get, path = "/v1/policies/{name}", tag = "operators", params(("name" = String, Path)),
    responses((status = 200, description = "the policy", body = schema::Policy), (status = 404, body = Problem)))]
pub async fn get(
    State(region): State<Arc<Region>>,
    Path(policy): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    request::bearer(&region, &headers)?;
    let policy: PolicyName = request::name(&policy)?;
    match listed(&region).remove(&policy) {
        Some(versions) => Ok(axum::Json(json!({ "name": policy, "versions": versions })).into_response()),
        None => Err(no_such_policy(&policy)),
    }
}

fn no_such_policy(policy: &PolicyName) -> Problem {
    let detail = format!("no policy is called {policy}: GET /v1/policies lists them");
    Problem::new(StatusCode::NOT_FOUND, "no-such-policy", detail)
}

pub(super) fn no_such_version(policy: &PolicyName, version: PolicyVersion) -> Problem {
    let detail = format!("{policy} has no version {version}: GET /v1/policies/{policy} lists what it has");
    Problem::new(StatusCode::NOT_FOUND, "no-such-version", detail)
}

/// Whether there is such a version, uploaded or standard.
pub(super) fn is_known(region: &Region, policy: &PolicyName, version: PolicyVersion) -> bool {
    region.directory.rules().policies.contains_key(&(policy.clone(), version))
        || standard_module(policy, version).is_some()
}

pub(super) fn path_of((policy, version): &(String, String)) -> Result<(PolicyName, PolicyVersion), Problem> {
    Ok((request::name(policy)?, request::name(version)?))
}

fn standard_module(policy: &PolicyName, version: PolicyVersion) -> Option<&'static [u8]> {
    let named = STANDARD.iter().find(|s| s.name == policy.as_str())?;
    (PolicyVersion::of(named.module) == version).then_some(named.module)
}

/// One version, with who is bound to it.
#[utoipa::path(get, path = "/v1/policies/{name}/versions/{version}", tag = "operators",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, description = "the version", body = schema::PolicyVersion), (status = 404, body = Problem)))]
pub async fn version(
    State(region): State<Arc<Region>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    request::bearer(&region, &headers)?;
    let (policy, version) = path_of(&path)?;
    let known = versions(&region).remove(&policy).unwrap_or_default();
    let wanted = json!(version);
    let Some(mut value) = known.into_iter().find(|v| v["version"] == wanted) else {
        return Err(no_such_version(&policy, version));
    };
    value["name"] = json!(policy);
    value["boundBy"] = json!(bound_to(&region.directory.rules(), &policy, version, false));
    value["runnable"] = json!(region.host.library().contains(&version));
    value["schema"] = json!(region.host.carried(version).and_then(|carried| carried.schema()));
    Ok(axum::Json(value).into_response())
}

/// The module of a version.
#[utoipa::path(get, path = "/v1/policies/{name}/versions/{version}/module", tag = "operators",
    params(("name" = String, Path), ("version" = String, Path)),
    responses((status = 200, description = "the module", body = Vec<u8>, content_type = "application/wasm"), (status = 404, body = Problem)))]
pub async fn module(
    State(region): State<Arc<Region>>,
    Path(path): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    request::bearer(&region, &headers)?;
    let (policy, version) = path_of(&path)?;
    let bytes = match standard_module(&policy, version) {
        Some(module) => Bytes::from_static(module),
        None => {
            let rules = region.directory.rules();
            let Some((manifest, _)) = rules.policies.get(&(policy.clone(), version)) else {
                return Err(no_such_version(&policy, version));
            };
            let mut module = BytesMut::new();
            for number in 0..manifest.chunks {
                let chunk = region.registry.get_chunk(version, number).await?;
                module.extend_from_slice(&chunk.ok_or_else(|| no_such_version(&policy, version))?);
            }
            module.freeze()
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/wasm")], bytes).into_response())
}

/// Delete a version that nothing is bound to.
#[utoipa::path(delete, path = "/v1/policies/{name}/versions/{version}", tag = "operators",
    params(("name" = String, Path), ("version" = String, Path),
           ("reason" = Option<String>, Query, description = "why, for the history")),
    responses((status = 204, description = "removed"), (status = 404, body = Problem), (status = 409, description = "still bound", body = Problem)))]
pub async fn delete(
    State(region): State<Arc<Region>>,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let identity = request::bearer(&region, &headers)?;
    identity.may_operate_region()?;
    let (policy, version) = path_of(&path)?;
    let reason = request::reason(query.as_deref())?;
    if standard_module(&policy, version).is_some() {
        let detail = "a standard policy is part of the gateway and cannot be deleted";
        return Err(Problem::new(StatusCode::CONFLICT, "standard-policy", detail));
    }
    let key = Key::Policy(policy.clone(), version);
    let (stored, _) = region.registry.read(&key).await?;
    let Some(stored) = stored else { return Err(no_such_version(&policy, version)) };
    region.applied(stored.modified).await;
    // One picture of both: whoever binds the version writes its manifest too, and so takes away what this is based on.
    let rules = region.directory.rules();
    let Some((manifest, modified)) = rules.policies.get(&(policy.clone(), version)) else {
        return Err(conflict());
    };
    let bound = bound_to(&rules, &policy, version, true);
    if !bound.is_empty() {
        let detail = format!(
            "{policy} {version} is active, a candidate or last good in {}: bind another version there first",
            bound.join(", ")
        );
        return Err(Problem::new(StatusCode::CONFLICT, "still-bound", detail));
    }
    let deed = Deed {
        action: "delete",
        target: policy.to_string(),
        reason: &reason,
        before: value_of(Some(&**manifest)),
        after: Value::Null,
    };
    let condition = Condition::Unchanged(key.clone(), Revision(*modified));
    match region.write(&identity, condition, Change::Delete(key), deed).await? {
        Ok(revision) => {
            region.applied(revision).await;
            // The same bytes may stand under another name.
            let shared = region.directory.rules().policies.keys().any(|(_, other)| *other == version);
            if !shared && let Err(error) = region.registry.delete_chunks(version).await {
                // The version is deleted all the same; the next upload of these bytes takes the chunks over.
                tracing::warn!(%policy, %version, %error, "the bytes of a deleted version stay in the registry");
            }
            Ok(StatusCode::NO_CONTENT)
        }
        Err(_) => Err(conflict()),
    }
}
