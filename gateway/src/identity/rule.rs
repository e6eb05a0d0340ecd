//! Rules: which role a verified token gets. The first that matches decides.

use super::config::{ClaimValue, ConfigError, RuleConfig};
use super::error::Quoted;
use super::pattern::{Bound, Pattern};
use super::role::{Role, Scope};
use meridian_model::names::{BadName, InstanceId, Namespace, ServiceName, ZoneName};
use serde_json::{Map, Value};
use std::str::FromStr;

/// A rule that was checked.
pub(super) struct Rule {
    /// Position of its issuer.
    pub(super) issuer: usize,
    subject: Option<Pattern>,
    claims: Vec<(String, Value)>,
    grant: Grant,
}

enum Grant {
    Workload {
        namespace: Binding<Namespace>,
        service: Binding<ServiceName>,
        zone: Binding<ZoneName>,
        instance: Binding<InstanceId>,
    },
    Operator(Binding<Namespace>),
    Reader(Binding<Namespace>),
}

/// Where a name of a role comes from.
enum Binding<T> {
    Any,
    Literal(T),
    Captured,
}

/// Why a rule gives nothing, ordered by how near it came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Miss {
    Subject,
    Claim(String),
    /// A capture holds what is no such name.
    Grammar(String),
}

impl Rule {
    /// Checks `config`; `place` is where it stands. All mistakes are added to `mistakes`.
    pub(super) fn check(
        config: &RuleConfig,
        place: &str,
        issuers: &[&str],
        mistakes: &mut Vec<ConfigError>,
    ) -> Option<Self> {
        let before = mistakes.len();
        let issuer = issuers.iter().position(|known| *known == config.issuer);
        if issuer.is_none() {
            let known = if issuers.is_empty() { "none is configured".to_owned() } else { issuers.join(", ") };
            let detail =
                format!("{:?} is not the issuer of any [[identity.issuers]] ({known})", config.issuer);
            mistakes.push(ConfigError::new(format!("{place}.issuer"), detail));
        }
        let subject = config.subject.as_deref().and_then(|text| match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(detail) => {
                mistakes.push(ConfigError::new(format!("{place}.subject"), format!("the pattern {detail}")));
                None
            }
        });
        let claims = config
            .claims
            .iter()
            .map(|(name, expected)| {
                let expected = match expected {
                    ClaimValue::Text(text) => Value::from(text.as_str()),
                    ClaimValue::Integer(number) => Value::from(*number),
                    ClaimValue::Boolean(truth) => Value::from(*truth),
                };
                (name.clone(), expected)
            })
            .collect();
        if config.claims.keys().any(String::is_empty) {
            mistakes.push(ConfigError::new(format!("{place}.claims"), "a claim needs a name"));
        }
        if config.role != "reader" && config.subject.is_none() && config.claims.is_empty() {
            let detail = "the rule would match every token of the issuer: give subject, claims or both";
            mistakes.push(ConfigError::new(place, detail));
        }
        let mut binder = Binder { config, place, subject: subject.as_ref(), mistakes };
        let grant = binder.grant();
        let (Some(issuer), Some(grant)) = (issuer, grant) else { return None };
        (mistakes.len() == before).then_some(Self { issuer, subject, claims, grant })
    }

    /// The role that it gives to a token with `subject` and `claims`.
    pub(super) fn role(&self, subject: &str, claims: &Map<String, Value>) -> Result<Role, Miss> {
        let captures = match &self.subject {
            Some(pattern) => pattern.matches(subject).ok_or(Miss::Subject)?,
            None => Vec::new(),
        };
        if let Some((name, _)) =
            self.claims.iter().find(|(name, expected)| !claim_holds(claims, name, expected))
        {
            return Err(Miss::Claim(name.clone()));
        }
        let captures = Captures(captures);
        captures.check()?;
        Ok(match &self.grant {
            Grant::Workload { namespace, service, zone, instance } => Role::Workload {
                namespace: captures.scope(namespace, Bound::Namespace)?,
                service: captures.scope(service, Bound::Service)?,
                zone: captures.limit(zone, Bound::Zone)?,
                instance: captures.limit(instance, Bound::Instance)?,
            },
            Grant::Operator(namespace) => {
                Role::Operator { namespace: captures.limit(namespace, Bound::Namespace)? }
            }
            Grant::Reader(namespace) => {
                Role::Reader { namespace: captures.limit(namespace, Bound::Namespace)? }
            }
        })
    }
}

/// Equal to the claim, or one of a list. Never part of a text: "platform" is not in "not-platform".
fn claim_holds(claims: &Map<String, Value>, name: &str, expected: &Value) -> bool {
    let claim = if name.starts_with('/') { pointer(claims, name) } else { claims.get(name) };
    match claim {
        Some(Value::Array(all)) => all.contains(expected),
        Some(claim) => claim == expected,
        None => false,
    }
}

/// RFC 6901 within the claims.
fn pointer<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut steps = path.strip_prefix('/')?.splitn(2, '/');
    let first = steps.next()?.replace("~1", "/").replace("~0", "~");
    let found = claims.get(&first)?;
    match steps.next() {
        Some(rest) => found.pointer(&format!("/{rest}")),
        None => Some(found),
    }
}

struct Captures<'a>(Vec<(Bound, &'a str)>);

impl Captures<'_> {
    /// Every capture fits its grammar, bound or not.
    fn check(&self) -> Result<(), Miss> {
        for (bound, text) in &self.0 {
            let fits = match bound {
                Bound::Namespace => text.parse::<Namespace>().map(drop),
                Bound::Service => text.parse::<ServiceName>().map(drop),
                Bound::Zone => text.parse::<ZoneName>().map(drop),
                Bound::Instance => text.parse::<InstanceId>().map(drop),
            };
            fits.map_err(|e| Miss::Grammar(format!("{{{bound}}} is {} in sub, but a {e}", Quoted(text))))?;
        }
        Ok(())
    }

    fn scope<T: FromStr<Err = BadName> + Clone>(
        &self,
        binding: &Binding<T>,
        bound: Bound,
    ) -> Result<Scope<T>, Miss> {
        match binding {
            Binding::Any => Ok(Scope::Any),
            Binding::Literal(name) => Ok(Scope::Only(name.clone())),
            Binding::Captured => {
                let found = self.0.iter().find(|(captured, _)| *captured == bound);
                let (_, text) = found.ok_or(Miss::Subject)?;
                text.parse().map(Scope::Only).map_err(|e: BadName| Miss::Grammar(e.to_string()))
            }
        }
    }

    fn limit<T: FromStr<Err = BadName> + Clone>(
        &self,
        binding: &Binding<T>,
        bound: Bound,
    ) -> Result<Option<T>, Miss> {
        Ok(match self.scope(binding, bound)? {
            Scope::Any => None,
            Scope::Only(name) => Some(name),
        })
    }
}

/// Finds where each name of a role comes from.
struct Binder<'a> {
    config: &'a RuleConfig,
    place: &'a str,
    /// `None` also where the pattern itself is wrong.
    subject: Option<&'a Pattern>,
    mistakes: &'a mut Vec<ConfigError>,
}

impl Binder<'_> {
    fn grant(&mut self) -> Option<Grant> {
        match self.config.role.as_str() {
            "workload" => {
                // Evaluated before `?`, so that the mistakes of all four are reported.
                let (namespace, service) = (self.bound(Bound::Namespace), self.bound(Bound::Service));
                let (zone, instance) = (self.optional(Bound::Zone), self.optional(Bound::Instance));
                Some(Grant::Workload {
                    namespace: namespace?,
                    service: service?,
                    zone: zone?,
                    instance: instance?,
                })
            }
            "operator" => self.without_service().map(Grant::Operator),
            "reader" => self.without_service().map(Grant::Reader),
            other => {
                let detail = format!("{other:?} is not a role: workload, operator or reader");
                self.mistake(".role", detail);
                None
            }
        }
    }

    fn without_service(&mut self) -> Option<Binding<Namespace>> {
        for bound in [Bound::Service, Bound::Zone, Bound::Instance] {
            if self.literal(bound).is_some() {
                let detail = format!("only the role workload is bound to a {bound}");
                self.mistake(&format!(".{bound}"), detail);
            }
        }
        self.optional(Bound::Namespace)
    }

    /// What a workload rule must say, because leaving it out would give every name.
    fn bound<T: FromStr<Err = BadName>>(&mut self, bound: Bound) -> Option<Binding<T>> {
        let captured = self.subject.is_some_and(|pattern| pattern.captures(bound));
        // A pattern that does not parse is reported already, and may well have captured it.
        let unreadable = self.subject.is_none() && self.config.subject.is_some();
        if self.literal(bound).is_none() && !captured && !unreadable {
            let detail = format!(
                "a workload rule says which {bound} it speaks for: capture {{{bound}}} in subject, or write {bound} = \"NAME\", or {bound} = \"*\" for all (a registrar)"
            );
            self.mistake(&format!(".{bound}"), detail);
            return None;
        }
        self.optional(bound)
    }

    fn optional<T: FromStr<Err = BadName>>(&mut self, bound: Bound) -> Option<Binding<T>> {
        let captured = self.subject.is_some_and(|pattern| pattern.captures(bound));
        match self.literal(bound) {
            Some(_) if captured => {
                let detail = format!("{bound} is captured by subject as well: keep one of the two");
                self.mistake(&format!(".{bound}"), detail);
                None
            }
            Some("*") => Some(Binding::Any),
            Some(text) => match text.parse() {
                Ok(name) => Some(Binding::Literal(name)),
                Err(e) => {
                    self.mistake(&format!(".{bound}"), format!("{text:?}: a {e}"));
                    None
                }
            },
            None if captured => Some(Binding::Captured),
            None => Some(Binding::Any),
        }
    }

    fn literal(&self, bound: Bound) -> Option<&str> {
        match bound {
            Bound::Namespace => self.config.namespace.as_deref(),
            Bound::Service => self.config.service.as_deref(),
            Bound::Zone => self.config.zone.as_deref(),
            Bound::Instance => self.config.instance.as_deref(),
        }
    }

    fn mistake(&mut self, below: &str, detail: String) {
        self.mistakes.push(ConfigError::new(format!("{}{below}", self.place), detail));
    }
}
