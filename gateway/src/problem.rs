//! Refusals, as RFC 9457 problems: a stable code for programs, a sentence for people that says what to do next.

use crate::identity::{Denied, TokenError};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use meridian_model::names::BadName;
use meridian_model::registration::FieldError;
use meridian_registry::RegistryError;
use serde::Serialize;

/// A refusal. The request id is added where the answer leaves the gateway.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:meridian:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// Stable, for programs: `none-healthy`.
    pub code: &'static str,
    /// What is wrong and what would change it.
    pub detail: String,
    /// Of the request, and of its trace.
    #[serde(rename = "requestId", skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// The fields that are wrong, where the refusal is about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub errors: Vec<FieldError>,
    /// The check of a policy's trial that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// What it failed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Seconds after which it may be tried again.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

impl Problem {
    /// A problem with this status and code.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:meridian:problem:{code}"),
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            code,
            detail: detail.into(),
            request_id: String::new(),
            errors: Vec::new(),
            check: None,
            input: None,
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    /// 422: understood, and wrong in these fields.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let say = |e: &FieldError| match e.field.as_str() {
            // About the body as a whole.
            "" => e.detail.to_string(),
            field => format!("{field}: {}", e.detail),
        };
        let detail = errors.iter().map(say).collect::<Vec<_>>().join("; ");
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
    }

    /// 422 about one field.
    pub fn field(field: &str, detail: impl std::fmt::Display) -> Self {
        Self::fields(vec![FieldError::new(field, detail)])
    }

    /// 400 about a name in the path or the query.
    pub fn bad_name(error: &BadName) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-name", error.to_string())
    }

    /// 400 about a parameter of the query.
    pub fn bad_query(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-query", detail)
    }

    /// The body, as it goes out.
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The answer to a request with this id.
    pub fn answer(mut self, request_id: &str) -> Response {
        self.request_id = request_id.to_owned();
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.body()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"meridian\""));
        }
        response
    }
}

/// Leaves the rendering to the outermost layer, which knows the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Self::new(StatusCode::FORBIDDEN, denied.code().as_str(), denied.detail())
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let status = StatusCode::from_u16(error.code().status()).unwrap_or(StatusCode::UNAUTHORIZED);
        Self::new(status, error.code().as_str(), error.detail())
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unavailable(reason) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "registry-unavailable",
                format!(
                    "nothing can be written while the registry does not answer ({reason}); lookups go on; try again"
                ),
            ),
            refused => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "registry-refused", refused.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_names_each_field_that_has_a_name() {
        let whole = FieldError::new("", "missing field `host`");
        assert_eq!(Problem::fields(vec![whole.clone()]).detail, "missing field `host`");
        let both = Problem::fields(vec![whole, FieldError::new("port", "must be a number")]);
        assert_eq!(both.detail, "missing field `host`; port: must be a number");
    }
}
