//! What a verified bearer may do. The token decides; a request never widens it.

use meridian_model::instance::Owner;
use meridian_model::names::{InstanceId, Namespace, ServiceKey, ServiceName, ZoneName};
use meridian_model::time::UnixMillis;
use std::fmt;

/// One name, or every name where a rule said `"*"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope<T> {
    /// Any name: a registrar.
    Any,
    /// This one only.
    Only(T),
}

impl<T: PartialEq> Scope<T> {
    /// Whether `name` lies within.
    #[must_use]
    pub fn covers(&self, name: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Only(only) => only == name,
        }
    }
}

/// What a token's rule makes of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Registers and keeps instances; reads everything.
    Workload {
        /// The namespace that it speaks for.
        namespace: Scope<Namespace>,
        /// The service that it speaks for.
        service: Scope<ServiceName>,
        /// The zone that its instances must be in; `None`: any.
        zone: Option<ZoneName>,
        /// The one id that it may use; `None`: any.
        instance: Option<InstanceId>,
    },
    /// Binds policies, drains, patches and deletes; registers nothing.
    Operator {
        /// The namespace that it is limited to, for reading too; `None`: all, and what belongs to the region as a whole.
        namespace: Option<Namespace>,
    },
    /// Looks up.
    Reader {
        /// The namespace that it is limited to; `None`: all.
        namespace: Option<Namespace>,
    },
}

impl Role {
    /// The word for it in configuration, logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Workload { .. } => "workload",
            Self::Operator { .. } => "operator",
            Self::Reader { .. } => "reader",
        }
    }
}

/// Why a request is not within the bearer's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeniedCode {
    /// Another identity registered the instance.
    NotOwner,
    /// The namespace is not the token's.
    Namespace,
    /// The service is not the token's.
    Service,
    /// The zone is not the token's.
    Zone,
    /// The instance id is not the token's.
    Instance,
    /// The role does not include this at all.
    Role,
}

impl DeniedCode {
    /// The code as it stands in a problem (status 403) and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotOwner => "not-owner",
            Self::Namespace => "namespace-denied",
            Self::Service => "service-denied",
            Self::Zone => "zone-denied",
            Self::Instance => "instance-denied",
            Self::Role => "role-denied",
        }
    }
}

impl fmt::Display for DeniedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal by role: always HTTP status 403.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Denied {
    code: DeniedCode,
    detail: String,
}

impl Denied {
    fn new(code: DeniedCode, detail: String) -> Self {
        Self { code, detail }
    }

    /// What kind of refusal it is.
    #[must_use]
    pub fn code(&self) -> DeniedCode {
        self.code
    }

    /// What the token is for and what was asked, for the bearer to read.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// The verified bearer of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    owner: Owner,
    role: Role,
    expires_at: UnixMillis,
}

impl Identity {
    pub(super) fn new(owner: Owner, role: Role, expires_at: UnixMillis) -> Self {
        Self { owner, role, expires_at }
    }

    /// Who it is, as records name it: (issuer, subject).
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The token's `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.owner.issuer
    }

    /// The token's `sub`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.owner.subject
    }

    /// What it may do.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The token's `exp`, without leeway: what bounds the leases taken with it.
    #[must_use]
    pub fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// Whether it may register `id` of `service` in `zone`. Where a living instance of that id exists already,
    /// [`Self::may_change`] must hold too.
    pub fn may_register(&self, service: &ServiceKey, id: &InstanceId, zone: &ZoneName) -> Result<(), Denied> {
        self.speaks_for(service, id)?;
        if let Role::Workload { zone: Some(only), .. } = &self.role
            && only != zone
        {
            return Err(Denied::new(
                DeniedCode::Zone,
                format!("the token speaks for zone {only}, the registration is in zone {zone}"),
            ));
        }
        Ok(())
    }

    /// Whether it may patch, drain or delete `id` of `service`, which `owner` registered: the owner itself while its
    /// token still covers it, or an operator of the namespace.
    pub fn may_change(&self, service: &ServiceKey, id: &InstanceId, owner: &Owner) -> Result<(), Denied> {
        match &self.role {
            Role::Operator { .. } => self.may_operate(&service.namespace),
            _ => self.may_beat(service, id, owner),
        }
    }

    /// Whether it may renew the lease of `id` of `service`, which `owner` registered: nobody but the owner, operators
    /// included, can say that an instance lives.
    pub fn may_beat(&self, service: &ServiceKey, id: &InstanceId, owner: &Owner) -> Result<(), Denied> {
        self.speaks_for(service, id)?;
        if &self.owner == owner {
            return Ok(());
        }
        Err(Denied::new(
            DeniedCode::NotOwner,
            format!("{service}/{id} was registered by another identity than {}", self.subject()),
        ))
    }

    /// Whether it may look up in `namespace`. Workloads may everywhere: they call services of other namespaces.
    pub fn may_read(&self, namespace: &Namespace) -> Result<(), Denied> {
        match &self.role {
            Role::Workload { .. } => Ok(()),
            Role::Operator { namespace: only } | Role::Reader { namespace: only } => {
                within(only.as_ref(), namespace)
            }
        }
    }

    /// Whether it may bind policies and change instances in `namespace`.
    pub fn may_operate(&self, namespace: &Namespace) -> Result<(), Denied> {
        match &self.role {
            Role::Operator { namespace: only } => within(only.as_ref(), namespace),
            _ => Err(self.needs("operator")),
        }
    }

    /// Whether it may change what no namespace holds: policies and the drains of regions.
    pub fn may_operate_region(&self) -> Result<(), Denied> {
        match &self.role {
            Role::Operator { namespace: None } => Ok(()),
            Role::Operator { namespace: Some(only) } => Err(Denied::new(
                DeniedCode::Namespace,
                format!(
                    "the token is limited to namespace {only}; this needs an operator of the whole region"
                ),
            )),
            _ => Err(self.needs("operator")),
        }
    }

    fn speaks_for(&self, asked: &ServiceKey, asked_id: &InstanceId) -> Result<(), Denied> {
        let Role::Workload { namespace, service, instance, .. } = &self.role else {
            return Err(self.needs("workload"));
        };
        if let Scope::Only(only) = namespace
            && only != &asked.namespace
        {
            return Err(Denied::new(
                DeniedCode::Namespace,
                format!("the token speaks for namespace {only}, not {}", asked.namespace),
            ));
        }
        if let Scope::Only(only) = service
            && only != &asked.service
        {
            return Err(Denied::new(
                DeniedCode::Service,
                format!("the token speaks for service {only}, not {}", asked.service),
            ));
        }
        match instance {
            Some(only) if only != asked_id => Err(Denied::new(
                DeniedCode::Instance,
                format!("the token speaks for instance {only}, not {asked_id}"),
            )),
            _ => Ok(()),
        }
    }

    fn needs(&self, role: &str) -> Denied {
        let detail = format!("this needs the role {role}; the token has the role {}", self.role.name());
        Denied::new(DeniedCode::Role, detail)
    }
}

fn within(only: Option<&Namespace>, asked: &Namespace) -> Result<(), Denied> {
    match only {
        Some(only) if only != asked => Err(Denied::new(
            DeniedCode::Namespace,
            format!("the token is limited to namespace {only}, not {asked}"),
        )),
        _ => Ok(()),
    }
}
