//! What a workload may do to its own instance: register, beat, patch, leave. Every write is conditional on the record
//! that it was based on, so a late one changes nothing.

use crate::clock;
use crate::history::value_of;
use crate::identity::{Identity, Role};
use crate::problem::Problem;
use crate::region::{Deed, Region, first_conflict};
use http::StatusCode;
use meridian_model::instance::{Instance, InstanceKey, Lease, LeaseId, RECORD_FORMAT};
use meridian_model::load::Beat;
use meridian_model::registration::{FieldError, MAX_WEIGHT, Registration, RenewBy, parse_pairs, parse_tags};
use meridian_model::status::{CheckVerdict, Declared, Status};
use meridian_model::time::UnixMillis;
use meridian_registry::record::{self, Record};
use meridian_registry::{Change, Committed, Condition, Key, RegistryError, Revision, Stored, Write};
use serde::Deserialize;
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest registration, as JSON (DESIGN 5).
const MAX_REGISTRATION: usize = 16 * 1024;
/// How often a write is tried again when somebody else wrote in between.
const MAX_CONFLICTS: usize = 8;

/// `If-Match` and `If-None-Match` of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The tag that must stand there.
    pub if_match: Option<String>,
    /// Nothing may stand there.
    pub if_none_match_any: bool,
}

/// The `ETag` of a record: the revision that wrote it.
#[must_use]
pub fn etag(modified: u64) -> String {
    format!("\"{modified}\"")
}

impl Precondition {
    /// Checks what stands there.
    ///
    /// # Errors
    /// 412.
    pub fn check(&self, modified: Option<u64>) -> Result<(), Problem> {
        let failed = |detail: String| {
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", detail))
        };
        if self.if_none_match_any && modified.is_some() {
            return failed("If-None-Match: * was sent, and it exists already".into());
        }
        let Some(wanted) = &self.if_match else { return Ok(()) };
        match modified {
            Some(modified) if wanted == "*" || *wanted == etag(modified) => Ok(()),
            Some(modified) => failed(format!("If-Match is {wanted}, but the ETag is now {}", etag(modified))),
            None => failed("If-Match was sent, but nothing is there".into()),
        }
    }
}

/// A record with the revision that wrote it.
#[derive(Clone, Debug)]
pub struct Known {
    /// The record.
    pub instance: Arc<Instance>,
    /// Its revision; zero where it is held from a lost registry and cannot be compared.
    pub modified: u64,
}

/// How a registration ended.
#[derive(Debug)]
pub struct Registered {
    /// As it is stored.
    pub known: Known,
    /// Whether nothing stood there before.
    pub created: bool,
    /// Whether this gateway serves it already.
    pub applied: bool,
    /// The index that includes it.
    pub index: u64,
    /// Until when the lease holds if nothing renews it.
    pub expires_at: UnixMillis,
}

/// A heartbeat's body.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BeatBody {
    /// The lease that it is for; a superseded one is refused.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub lease: Option<LeaseId>,
    /// Requests under way, in the unit of `capacity`.
    #[serde(default)]
    pub load: Option<f64>,
    /// A new declared status.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub status: Option<Declared>,
}

/// An accepted heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// Until when the lease holds if nothing renews it.
    pub expires_at: UnixMillis,
    /// The index at this gateway.
    pub index: u64,
}

/// A merge patch of an instance. An absent field stays; `metadata` is merged key by key, null removes.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchBody {
    /// The declared status.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub status: Option<Declared>,
    /// 1 to 10,000.
    #[serde(default)]
    pub weight: Option<i64>,
    /// Replaces all tags.
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    /// Pairs to set; null removes.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, Option<String>>>,
    /// The lease that it is for; a superseded one is refused.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub lease: Option<LeaseId>,
    /// Why, for the history.
    #[serde(default)]
    pub reason: Option<String>,
}

fn lease_unknown(key: &InstanceKey) -> Problem {
    let detail = format!("{key} is not registered: register it again with PUT");
    Problem::new(StatusCode::NOT_FOUND, "lease-unknown", detail)
}

fn superseded(given: LeaseId, current: LeaseId) -> Problem {
    let detail = format!(
        "lease {given} was superseded by a newer registration ({current}): whoever holds it must stop"
    );
    Problem::new(StatusCode::CONFLICT, "lease-superseded", detail)
}

fn check_lease(given: Option<LeaseId>, known: &Instance) -> Result<(), Problem> {
    match given {
        Some(lease) if lease != known.lease.id => Err(superseded(lease, known.lease.id)),
        _ => Ok(()),
    }
}

fn expires_at(instance: &Instance, now: UnixMillis) -> UnixMillis {
    let ttl = instance.declared.lease_ttl();
    let renewed = now.plus(ttl);
    match (instance.declared.renew_by, instance.lease.token_expires_at) {
        (RenewBy::Heartbeat, Some(token)) => renewed.min(token.plus(ttl)),
        _ => renewed,
    }
}

/// A load as it is summed; what no instance carries is the most that is counted.
fn whole(load: f64) -> u32 {
    // A cast of a number that is too large, or none, gives the nearest that there is.
    load.round() as u32
}

fn decode(key: &InstanceKey, stored: Stored) -> Result<Known, Problem> {
    match record::decode(&stored.key, &stored.value) {
        Ok(Some(Record::Instance(instance))) => {
            Ok(Known { instance: Arc::from(instance), modified: stored.modified.0 })
        }
        _ => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "record-unreadable",
            format!("the record of {key} is unreadable; delete it in the registry and register again"),
        )),
    }
}

impl Region {
    /// The instance as this gateway serves it.
    #[must_use]
    pub fn instance(&self, key: &InstanceKey) -> Option<Known> {
        let snapshot = self.directory.get(&key.service)?.snapshot();
        let endpoint = snapshot.endpoints.get(snapshot.position(key.id.as_str())?)?;
        Some(Known { instance: Arc::clone(&endpoint.instance), modified: endpoint.modified })
    }

    async fn read_instance(&self, key: &InstanceKey) -> Result<Option<Known>, Problem> {
        let (stored, _) = self.registry.read(&Key::Instance(key.clone())).await?;
        stored.map(|stored| decode(key, stored)).transpose()
    }

    /// Registers or replaces. The same again, by the same owner under a living lease, writes nothing.
    ///
    /// # Errors
    /// 403 where the token does not cover it or another owner holds it, 412, 422, 503.
    pub async fn register(
        &self,
        identity: &Identity,
        key: &InstanceKey,
        declared: Registration,
        precondition: &Precondition,
    ) -> Result<Registered, Problem> {
        if !self.zones.contains(&declared.zone) {
            let zones: Vec<&str> = self.zones.iter().map(|z| z.as_str()).collect();
            let detail = format!(
                "{} is not a zone of region {}, which has {}",
                declared.zone,
                self.name,
                zones.join(", ")
            );
            return Err(Problem::field("zone", detail));
        }
        identity.may_register(&key.service, &key.id, &declared.zone)?;
        let now = clock::unix_now();
        let mut known = self.instance(key).filter(|k| k.modified != 0);
        for _ in 0..MAX_CONFLICTS {
            let before = known.as_ref();
            precondition.check(before.map(|k| k.modified))?;
            let alive = before.filter(|k| k.instance.status() != Status::Expired);
            if let Some(alive) = alive {
                identity.may_change(&key.service, &key.id, &alive.instance.owner)?;
                if alive.instance.declared == declared && alive.instance.owner == *identity.owner() {
                    return self.register_again(identity, key, alive.clone(), now).await;
                }
            }
            let instance = Arc::new(self.new_instance(identity, key, declared.clone(), now));
            let condition = match before {
                None => Condition::Absent(Key::Instance(key.clone())),
                Some(k) => Condition::Unchanged(Key::Instance(key.clone()), Revision(k.modified)),
            };
            let deed = Deed {
                action: if before.is_some() { "replace" } else { "register" },
                target: key.to_string(),
                reason: "",
                before: value_of(before.map(|k| &*k.instance)),
                after: value_of(Some(&*instance)),
            };
            let put = Change::Put(Key::Instance(key.clone()), record::encode(&*instance)?);
            match self.write(identity, condition, put, deed).await? {
                Ok(revision) => {
                    let applied = self.applied(revision).await;
                    return Ok(Registered {
                        created: before.is_none(),
                        applied,
                        index: revision.0,
                        expires_at: expires_at(&instance, now),
                        known: Known { instance, modified: revision.0 },
                    });
                }
                Err(current) => known = current.map(|stored| decode(key, stored)).transpose()?,
            }
        }
        Err(contended(key))
    }

    /// The same registration again: a heartbeat, with the lease that it has.
    async fn register_again(
        &self,
        identity: &Identity,
        key: &InstanceKey,
        known: Known,
        now: UnixMillis,
    ) -> Result<Registered, Problem> {
        let known = self.take_newer_token(identity, key, known).await;
        self.pass_on(known.instance.lease.id.into());
        Ok(Registered {
            created: false,
            applied: true,
            index: self.directory.currency.index().max(known.modified),
            expires_at: expires_at(&known.instance, now),
            known,
        })
    }

    fn new_instance(
        &self,
        identity: &Identity,
        key: &InstanceKey,
        declared: Registration,
        now: UnixMillis,
    ) -> Instance {
        Instance {
            format: RECORD_FORMAT,
            id: key.id.clone(),
            owner: identity.owner().clone(),
            declared,
            lease: Lease {
                id: LeaseId(rand::random()),
                token_expires_at: Some(identity.expires_at()),
                expired_at: None,
            },
            check: CheckVerdict::Pending,
            check_detail: SmolStr::default(),
            registered_at: now,
            updated_at: now,
            reason: SmolStr::default(),
            unknown: serde_json::Map::new(),
        }
    }

    /// Takes a heartbeat. With the registry away, one for an instance that is known here is taken all the same.
    ///
    /// # Errors
    /// 404 `lease-unknown` after a linearizable read, 409 `lease-superseded`, 403, 503.
    pub async fn beat(
        &self,
        identity: &Identity,
        key: &InstanceKey,
        body: &BeatBody,
    ) -> Result<Beaten, Problem> {
        if body.load.is_some_and(|load| !load.is_finite() || load < 0.0) {
            return Err(Problem::field("load", "must be a number of at least 0"));
        }
        let here = self.instance(key);
        let sure = here.as_ref().is_some_and(|known| {
            known.modified != 0
                && known.instance.status() != Status::Expired
                && body.lease.is_none_or(|lease| lease == known.instance.lease.id)
        });
        let known = if sure { here } else { self.look_again(key, here).await? };
        let Some(known) = known.filter(|k| k.instance.status() != Status::Expired) else {
            return Err(lease_unknown(key));
        };
        identity.may_beat(&key.service, &key.id, &known.instance.owner)?;
        check_lease(body.lease, &known.instance)?;
        let now = clock::unix_now();
        if let Some(status) = body.status.filter(|status| *status != known.instance.declared.status) {
            let patch = PatchBody { status: Some(status), lease: body.lease, ..PatchBody::default() };
            self.patch(identity, key, patch, &Precondition::default()).await?;
        }
        let known = self.take_newer_token(identity, key, known).await;
        self.pass_on(Beat { lease: known.instance.lease.id, load: body.load.map(whole) });
        Ok(Beaten { expires_at: expires_at(&known.instance, now), index: self.directory.currency.index() })
    }

    /// What the registry says of an instance that this gateway does not know for sure; what this gateway knows, while
    /// the registry is away.
    async fn look_again(&self, key: &InstanceKey, here: Option<Known>) -> Result<Option<Known>, Problem> {
        match self.registry.read(&Key::Instance(key.clone())).await {
            Ok((stored, _)) => stored.map(|stored| decode(key, stored)).transpose(),
            Err(RegistryError::Unavailable(_)) if here.is_some() => Ok(here),
            Err(error) => Err(error.into()),
        }
    }

    fn pass_on(&self, beat: Beat) {
        // Full only if the batcher stands still; the owner beats again before its lease ends.
        if self.beats.try_send(beat).is_err() {
            tracing::debug!(lease = %beat.lease, "a heartbeat was dropped: the batch is full");
        }
    }

    /// Extends what bounds the lease where the owner has a newer token. Failing is no reason to refuse a heartbeat: the
    /// next one tries again.
    async fn take_newer_token(&self, identity: &Identity, key: &InstanceKey, known: Known) -> Known {
        let newer = known.instance.lease.token_expires_at.is_some_and(|had| had < identity.expires_at());
        if !newer || known.modified == 0 {
            return known;
        }
        let mut instance = (*known.instance).clone();
        instance.lease.token_expires_at = Some(identity.expires_at());
        let Ok(value) = record::encode(&instance) else { return known };
        let place = Key::Instance(key.clone());
        let write = Write {
            conditions: vec![Condition::Unchanged(place.clone(), Revision(known.modified))],
            changes: vec![Change::Put(place, value)],
        };
        match self.registry.commit(write).await.map(first_conflict) {
            Ok(Ok(revision)) => Known { instance: Arc::new(instance), modified: revision.0 },
            _ => known,
        }
    }

    /// Changes what a merge patch names.
    ///
    /// # Errors
    /// 403, 404 `no-such-instance`, 409, 412, 422, 503.
    pub async fn patch(
        &self,
        identity: &Identity,
        key: &InstanceKey,
        patch: PatchBody,
        precondition: &Precondition,
    ) -> Result<Registered, Problem> {
        let reason = patch.reason.clone().unwrap_or_default();
        self.change(identity, key, patch.lease, precondition, "patch", &reason, |instance| {
            apply_patch(instance, &patch, &reason)
        })
        .await
    }

    #[allow(clippy::too_many_arguments, reason = "one private function under patch, which names all of them")]
    async fn change(
        &self,
        identity: &Identity,
        key: &InstanceKey,
        lease: Option<LeaseId>,
        precondition: &Precondition,
        action: &'static str,
        reason: &str,
        edit: impl Fn(&mut Instance) -> Result<(), Problem>,
    ) -> Result<Registered, Problem> {
        let mut known = match self.instance(key).filter(|k| k.modified != 0) {
            Some(known) => Some(known),
            None => self.read_instance(key).await?,
        };
        for _ in 0..MAX_CONFLICTS {
            let Some(before) = known else { return Err(no_such_instance(key)) };
            identity.may_change(&key.service, &key.id, &before.instance.owner)?;
            check_lease(lease, &before.instance)?;
            precondition.check(Some(before.modified))?;
            let mut instance = (*before.instance).clone();
            edit(&mut instance)?;
            let now = clock::unix_now();
            let expires_at = expires_at(&instance, now);
            if instance == *before.instance {
                let index = self.directory.currency.index().max(before.modified);
                return Ok(Registered { known: before, created: false, applied: true, index, expires_at });
            }
            instance.updated_at = now;
            let deed = Deed {
                action,
                target: key.to_string(),
                reason,
                before: value_of(Some(&*before.instance)),
                after: value_of(Some(&instance)),
            };
            let place = Key::Instance(key.clone());
            let condition = Condition::Unchanged(place.clone(), Revision(before.modified));
            let put = Change::Put(place, record::encode(&instance)?);
            match self.write(identity, condition, put, deed).await? {
                Ok(revision) => {
                    let applied = self.applied(revision).await;
                    let known = Known { instance: Arc::new(instance), modified: revision.0 };
                    return Ok(Registered { known, created: false, applied, index: revision.0, expires_at });
                }
                Err(current) => known = current.map(|stored| decode(key, stored)).transpose()?,
            }
        }
        Err(contended(key))
    }

    /// Removes an instance on its owner's or an operator's word.
    ///
    /// # Errors
    /// 403, 404 `no-such-instance`, 409 `lease-superseded`, 412, 503.
    pub async fn deregister(
        &self,
        identity: &Identity,
        key: &InstanceKey,
        lease: Option<LeaseId>,
        reason: &str,
        precondition: &Precondition,
    ) -> Result<(), Problem> {
        let mut known = match self.instance(key).filter(|k| k.modified != 0) {
            Some(known) => Some(known),
            None => self.read_instance(key).await?,
        };
        for _ in 0..MAX_CONFLICTS {
            let Some(before) = known else { return Err(no_such_instance(key)) };
            identity.may_change(&key.service, &key.id, &before.instance.owner)?;
            check_lease(lease, &before.instance)?;
            precondition.check(Some(before.modified))?;
            let deed = Deed {
                action: "deregister",
                target: key.to_string(),
                reason,
                before: value_of(Some(&*before.instance)),
                after: serde_json::Value::Null,
            };
            let place = Key::Instance(key.clone());
            let condition = Condition::Unchanged(place.clone(), Revision(before.modified));
            match self.write(identity, condition, Change::Delete(place), deed).await? {
                Ok(revision) => {
                    self.applied(revision).await;
                    return Ok(());
                }
                Err(current) => known = current.map(|stored| decode(key, stored)).transpose()?,
            }
        }
        Err(contended(key))
    }

    /// Writes one change with its history. The inner error is what stood there instead.
    pub(crate) async fn write(
        &self,
        identity: &Identity,
        condition: Condition,
        change: Change,
        deed: Deed<'_>,
    ) -> Result<Result<Revision, Option<Stored>>, Problem> {
        let write = Write { conditions: vec![condition], changes: vec![change] };
        Ok(first_conflict(self.commit(identity, write, deed).await?))
    }

    /// Writes along with its history entry.
    pub(crate) async fn commit(
        &self,
        identity: &Identity,
        mut write: Write,
        deed: Deed<'_>,
    ) -> Result<Committed, Problem> {
        write.changes.extend(self.entry(identity, deed).change());
        Ok(self.registry.commit(write).await?)
    }
}

fn no_such_instance(key: &InstanceKey) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-such-instance", format!("{key} is not registered"))
}

fn contended(key: &InstanceKey) -> Problem {
    let detail = format!("{key} is being changed by others at the same time; try again");
    Problem::new(StatusCode::CONFLICT, "conflict", detail)
}

fn apply_patch(instance: &mut Instance, patch: &PatchBody, reason: &str) -> Result<(), Problem> {
    let mut errors: Vec<FieldError> = Vec::new();
    if let Some(weight) = patch.weight {
        match u32::try_from(weight).ok().filter(|w| (1..=MAX_WEIGHT).contains(w)) {
            Some(weight) => instance.declared.weight = weight,
            None => errors
                .push(FieldError::new("weight", format!("must be from 1 to {MAX_WEIGHT}, not {weight}"))),
        }
    }
    if let Some(tags) = patch.tags.clone() {
        parse_tags(tags).map_or_else(|e| errors.extend(e), |tags| instance.declared.tags = tags);
    }
    if let Some(changes) = &patch.metadata {
        let mut merged: BTreeMap<&str, &str> =
            instance.declared.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        for (key, value) in changes {
            match value {
                Some(value) => merged.insert(key, value),
                None => merged.remove(key.as_str()),
            };
        }
        match parse_pairs("metadata", merged) {
            Ok(metadata) => instance.declared.metadata = metadata,
            Err(found) => errors.extend(found),
        }
    }
    if let Some(status) = patch.status {
        instance.declared.status = status;
    }
    if patch.status.is_some() || !reason.is_empty() {
        if reason.len() > 256 || reason.chars().any(char::is_control) {
            errors.push(FieldError::new("reason", "must be at most 256 bytes without control characters"));
        }
        instance.reason = SmolStr::new(reason);
    }
    // Patch upon patch must not make what no registration could be.
    let size = serde_json::to_vec(&instance.declared).map_or(usize::MAX, |bytes| bytes.len());
    if size > MAX_REGISTRATION {
        let detail = format!(
            "the instance would take {size} bytes, more than the {MAX_REGISTRATION} of a registration"
        );
        errors.push(FieldError::new("metadata", detail));
    }
    if errors.is_empty() { Ok(()) } else { Err(Problem::fields(errors)) }
}

/// Whether the bearer is a workload, which alone may register.
#[must_use]
pub fn is_workload(identity: &Identity) -> bool {
    matches!(identity.role(), Role::Workload { .. })
}
