//! The routes, and the description of them that is generated from the same handlers.

use super::{
    bindings, instances, policies, recordings, regions, request, resolve, services, switches, system, trials,
};
use crate::metrics;
use crate::problem::Problem;
use crate::region::Region;
use axum::Router;
use axum::extract::MatchedPath;
use axum::response::IntoResponse;
use http::{Method, StatusCode, Uri};
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, Content, OpenApi as OpenApiDocument, Ref, RefOr, Response as Described};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(OpenApi)]
#[openapi(
    info(title = "Meridian", description = "Where to send traffic, right now. Refusals are RFC 9457 problems with a stable code."),
    components(schemas(Problem)),
    tags((name = "workloads", description = "Register, beat, patch, leave (role workload; operators may patch and delete)"),
         (name = "lookups", description = "Where to send traffic, and what there is (open or role reader)"),
         (name = "operators", description = "Policies, bindings, history (role operator)"),
         (name = "system", description = "For everyone"))
)]
struct Description;

fn routes() -> OpenApiRouter<Arc<Region>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(instances::register, instances::get, instances::patch, instances::deregister))
        .routes(routes!(instances::heartbeat))
        .routes(routes!(instances::heartbeats))
        .routes(routes!(services::namespaces))
        .routes(routes!(services::services))
        .routes(routes!(services::instances))
        .routes(routes!(recordings::record))
        .routes(routes!(resolve::resolve))
        .routes(routes!(resolve::batch))
        .routes(routes!(policies::list))
        .routes(routes!(policies::upload, policies::get))
        .routes(routes!(policies::version, policies::delete))
        .routes(routes!(policies::module))
        .routes(routes!(switches::disable))
        .routes(routes!(switches::enable))
        .routes(routes!(switches::disable_all))
        .routes(routes!(switches::enable_all))
        .routes(routes!(bindings::list))
        .routes(routes!(bindings::put, bindings::get, bindings::delete))
        .routes(routes!(trials::try_out))
        .routes(routes!(trials::simulate))
        .routes(routes!(bindings::promote))
        .routes(routes!(bindings::rollback))
        .routes(routes!(bindings::diff))
        .routes(routes!(regions::list))
        .routes(routes!(regions::get))
        .routes(routes!(regions::drain))
        .routes(routes!(regions::undrain))
        .routes(routes!(services::history))
        .routes(routes!(system::livez))
        .routes(routes!(system::readyz))
        .routes(routes!(metrics::scrape))
}

/// The scheme under which tokens are described.
const BEARER: &str = "bearer";

/// The description of the API: what the handlers say of themselves, and what holds for all of them.
#[must_use]
pub fn document() -> OpenApiDocument {
    let mut document = routes().to_openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                complete(operation, method, path);
            }
        }
    }
    document
}

/// A name of its own for an operation: `getRegionsByRegion`, `postRegionsDrain`.
fn operation_id(method: &str, path: &str) -> String {
    let mut id = method.to_owned();
    let mut parts = path.split('/').filter(|part| !part.is_empty() && *part != "v1").peekable();
    while let Some(part) = parts.next() {
        let (word, is_parameter) = match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(name) => (name, true),
            None => (part, false),
        };
        // Parameters in between tell nothing that the words around them do not.
        if is_parameter && parts.peek().is_some() {
            continue;
        }
        if is_parameter {
            id.push_str("By");
        }
        for word in word.split(['.', '_', '-']) {
            let (first, rest) = word.split_at(word.len().min(1));
            id.push_str(&first.to_ascii_uppercase());
            id.push_str(rest);
        }
    }
    id
}

fn complete(operation: &mut Operation, method: &str, path: &str) {
    operation.operation_id = Some(operation_id(method, path));
    let tag = operation.tags.as_ref().and_then(|tags| tags.first()).map_or("", String::as_str);
    let token = || SecurityRequirement::new(BEARER, std::iter::empty::<String>());
    operation.security = match tag {
        // Open, or with a token: `http.reads` says.
        "lookups" => Some(vec![SecurityRequirement::default(), token()]),
        "system" => None,
        _ => Some(vec![token()]),
    };
    let responses = &mut operation.responses.responses;
    // Every refusal is of one kind, whichever handlers name.
    responses
        .entry("default".to_owned())
        .or_insert_with(|| Described::new("refused; the code says why").into());
    for (status, response) in responses {
        if let RefOr::T(response) = response
            && (status == "default" || status.starts_with(['4', '5']))
        {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            response.content =
                [("application/problem+json".to_owned(), problem.into())].into_iter().collect();
            if response.description.is_empty() {
                response.description = "refused; the code says why".to_owned();
            }
        }
    }
}

/// The parameters that each write takes in its query, by method and template: those that are described.
struct WriteQueries(HashMap<(Method, String), Vec<String>>);

impl WriteQueries {
    fn of(document: &OpenApiDocument) -> Self {
        let mut queries = HashMap::new();
        for (path, item) in &document.paths.paths {
            let writes = [
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            let described =
                writes.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)));
            for (method, operation) in described.filter(|(_, operation)| !is_tagged(operation, "lookups")) {
                let names = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
                    RefOr::T(own) if own.parameter_in == ParameterIn::Query => Some(own.name.clone()),
                    _ => None,
                });
                let names = names.collect();
                queries.insert((method, path.clone()), names);
            }
        }
        Self(queries)
    }

    /// Refuses what a write would not take into account: without `?zone=`, misspelt, all of a region is drained.
    fn check(&self, method: &Method, route: &str, query: Option<&str>) -> Result<(), Problem> {
        let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(()) };
        let Some(taken) = self.0.get(&(method.clone(), route.to_owned())) else { return Ok(()) };
        let mut seen = Vec::new();
        for (name, _) in request::query_pairs(Some(query)) {
            let shown: String = name.chars().take(80).collect();
            if !taken.iter().any(|taken| *taken == name) {
                let instead = match taken.is_empty() {
                    true => "it takes none in its query; what is to be written stands in the body".to_owned(),
                    false => format!("it takes {}", taken.join(", ")),
                };
                return Err(Problem::bad_query(format!(
                    "{shown:?} is no parameter of this write: {instead}"
                )));
            }
            if seen.contains(&name) {
                return Err(Problem::bad_query(format!("{shown} is given more than once")));
            }
            seen.push(name);
        }
        Ok(())
    }
}

fn is_tagged(operation: &Operation, tag: &str) -> bool {
    operation.tags.as_ref().is_some_and(|tags| tags.iter().any(|own| own == tag))
}

/// All routes of a region.
pub fn router(region: Arc<Region>) -> Router {
    let document = document();
    let queries = Arc::new(WriteQueries::of(&document));
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let json = [(http::header::CONTENT_TYPE, "application/json")];
    let (router, _) = routes().split_for_parts();
    router
        .route("/openapi.json", axum::routing::get(move || async move { (json, document.to_string()) }))
        .route_layer(axum::middleware::from_fn(move |request, next| {
            mark_route(Arc::clone(&queries), request, next)
        }))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(region)
}

/// Refuses a path or query that is no text, and hands the route's template to the envelope, which counts by it.
async fn mark_route(
    queries: Arc<WriteQueries>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    if percent_encoding::percent_decode_str(request.uri().path()).decode_utf8().is_err() {
        let detail = "a name in the path is not UTF-8; names are lower-case ASCII letters, digits, - and _";
        return Problem::new(StatusCode::BAD_REQUEST, "bad-name", detail).into_response();
    }
    let query = request.uri().query();
    let template = route.as_ref().map_or("", MatchedPath::as_str);
    let readable = request::require_utf8(query);
    if let Err(problem) = readable.and_then(|()| queries.check(request.method(), template, query)) {
        return problem.into_response();
    }
    let mut response = next.run(request).await;
    if let Some(route) = route {
        response.extensions_mut().insert(route);
    }
    response
}

async fn no_such_route(uri: Uri) -> impl IntoResponse {
    let path: String = uri.path().chars().take(128).collect();
    let detail = format!("nothing is at {path:?}; /openapi.json describes all routes");
    Problem::new(StatusCode::NOT_FOUND, "no-such-route", detail)
}

async fn wrong_method() -> impl IntoResponse {
    let detail = "this path has no such method; the Allow header lists what it has";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn written() -> Value {
        serde_json::to_value(document()).unwrap()
    }

    fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
        let paths = document["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .iter()
                .map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
    }

    #[test]
    fn operations_have_names_of_their_own() {
        assert_eq!(operation_id("get", "/v1/regions/{region}"), "getRegionsByRegion");
        assert_eq!(operation_id("post", "/v1/regions/{region}/drain"), "postRegionsDrain");
        assert_eq!(operation_id("get", "/openapi.json"), "getOpenapiJson");
        let document = written();
        let mut seen = BTreeSet::new();
        for (at, operation) in operations(&document) {
            assert!(
                seen.insert(operation["operationId"].as_str().unwrap()),
                "{at}: {}",
                operation["operationId"]
            );
        }
    }

    fn check_references(at: &str, value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(to) = members.get("$ref").and_then(Value::as_str) {
                    let found = to.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                    assert!(found.is_some(), "{at}: nothing is at {to}");
                }
                members
                    .iter()
                    .for_each(|(name, value)| check_references(&format!("{at}/{name}"), value, document));
            }
            Value::Array(items) => items.iter().for_each(|item| check_references(at, item, document)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = written();
        check_references("", &document, &document);
        assert!(document["components"]["schemas"].as_object().unwrap().len() > 20);
    }

    #[test]
    fn every_refusal_is_a_problem_and_every_answer_is_described() {
        let document = written();
        for (at, operation) in operations(&document) {
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                assert!(!response["description"].as_str().unwrap_or_default().is_empty(), "{at} {status}");
                let content = response["content"].as_object();
                if status == "default" || status.starts_with(['4', '5']) {
                    let kinds: Vec<&String> = content.into_iter().flatten().map(|(kind, _)| kind).collect();
                    assert_eq!(kinds, ["application/problem+json"], "{at} {status}");
                } else if status != "204" && status != "304" {
                    let schemas: Vec<&Value> =
                        content.into_iter().flatten().map(|(_, c)| &c["schema"]).collect();
                    assert!(!schemas.is_empty() && schemas.iter().all(|s| s.is_object()), "{at} {status}");
                }
            }
            assert!(responses.contains_key("default"), "{at}");
        }
    }

    #[test]
    fn a_write_takes_the_parameters_that_are_described_and_no_others() {
        let queries = WriteQueries::of(&document());
        let check = |method: Method, route: &str, query| {
            queries.check(&method, route, Some(query)).map_err(|p| p.detail)
        };
        let drain = "/v1/regions/{region}/drain";
        let binding = "/v1/namespaces/{ns}/bindings/{service}";
        assert_eq!(check(Method::POST, drain, "zone=eu-west-1a"), Ok(()));
        assert_eq!(check(Method::DELETE, binding, "reason=over"), Ok(()));
        let refused = check(Method::POST, drain, "zones=eu-west-1a").unwrap_err();
        assert_eq!(refused, "\"zones\" is no parameter of this write: it takes zone");
        assert!(check(Method::POST, drain, "zone=a&zone=b").unwrap_err().contains("more than once"));
        assert!(check(Method::PUT, binding, "stage=shadow").unwrap_err().contains("stands in the body"));
        // Reads say so themselves, and what is no route is none anyway.
        assert_eq!(check(Method::POST, "/v1/resolve", "x=1"), Ok(()));
        assert_eq!(check(Method::GET, binding, "index=3"), Ok(()));
    }

    #[test]
    fn whoever_writes_bears_a_token() {
        let document = written();
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        for (at, operation) in operations(&document) {
            let open = operation["security"]
                .as_array()
                .is_none_or(|ways| ways.iter().any(|way| way == &serde_json::json!({})));
            let reads = at.starts_with("get ") || at == "post /v1/resolve";
            assert!(reads || !open, "{at} needs no token");
        }
    }
}
