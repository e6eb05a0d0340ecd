//! What all edges of a gateway share: the region, its directory, its registry and who may do what.

use crate::clock;
use crate::config::{Config, Reads};
use crate::directory::Directory;
use crate::history::{Actor, Entry};
use crate::identity::{Identity, Verifier};
use crate::keeper::Command;
use crate::lookup::watch::{Hub, WatchStats};
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::recorder::Recorder;
use crate::signature::Trust;
use crate::steward::StewardStats;
use meridian_model::load::Beat;
use meridian_model::names::{GatewayId, Namespace, RegionName, ZoneName};
use meridian_model::rollout::Settings;
use meridian_policies::Host;
use meridian_registry::{Committed, Registry, Revision};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a write waits until it is applied here, before it answers `applied: false`; and how long `index=` waits.
pub const APPLY_WAIT: Duration = Duration::from_secs(1);

/// A gateway's view of its region.
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// Its zones.
    pub zones: Vec<ZoneName>,
    /// The regions that it is configured to exchange with, heard of or not.
    pub peers: BTreeSet<RegionName>,
    /// This gateway.
    pub me: GatewayId,
    /// Who may look up.
    pub reads: Reads,
    /// Past this age, unconfirmed state from disk is refused.
    pub max_age_from_disk: Duration,
    /// When a version of a policy is good, and when it is not.
    pub rollout: Settings,
    /// Whose signature an upload needs.
    pub trust: Trust,
    /// What lookups read.
    pub directory: Arc<Directory>,
    /// What runs policies.
    pub host: Arc<Host>,
    /// Where writes go.
    pub registry: Arc<dyn Registry>,
    /// Who bears a token.
    pub verifier: Arc<Verifier>,
    /// Where heartbeats go.
    pub beats: mpsc::Sender<Beat>,
    /// The keeper.
    pub keeper: mpsc::Sender<Command>,
    /// Ends what would wait: streams and long polls.
    pub stop: CancellationToken,
    /// Lookups for replay.
    pub recorder: Arc<Recorder>,
    /// What became of versions that were tried or had yet to soak.
    pub steward: Arc<StewardStats>,
    hub: Hub,
    metrics: OnceLock<Metrics>,
}

/// What a region is put together from.
pub struct Parts {
    /// This gateway.
    pub me: GatewayId,
    /// What lookups read.
    pub directory: Arc<Directory>,
    /// What runs policies.
    pub host: Arc<Host>,
    /// Where writes go.
    pub registry: Arc<dyn Registry>,
    /// Who bears a token.
    pub verifier: Arc<Verifier>,
    /// Where heartbeats go.
    pub beats: mpsc::Sender<Beat>,
    /// The keeper.
    pub keeper: mpsc::Sender<Command>,
    /// Where watched questions are evaluated.
    pub runtime: tokio::runtime::Handle,
    /// What the watches count.
    pub watch_stats: Arc<WatchStats>,
    /// Cancelled when the gateway stops.
    pub stop: CancellationToken,
}

/// What a history entry says besides when and where.
pub struct Deed<'a> {
    /// `register`, `patch`, …
    pub action: &'static str,
    /// Of what.
    pub target: String,
    /// Why.
    pub reason: &'a str,
    /// What stood there.
    pub before: Value,
    /// What stands there now.
    pub after: Value,
}

impl Region {
    /// The region of this configuration around its parts.
    #[must_use]
    pub fn new(config: &Config, parts: Parts) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            name: config.region.clone(),
            zones: config.zones.clone(),
            peers: config.federation.iter().flat_map(|section| section.others(&config.region)).collect(),
            me: parts.me,
            reads: config.reads(),
            max_age_from_disk: config.lookups.max_age_from_disk,
            rollout: config.policies.settings(),
            trust: Trust::read(&config.policies.trusted_keys).unwrap_or_else(|wrong| {
                tracing::error!(?wrong, "trusted keys cannot be used any more; no upload is taken");
                Trust::nobody()
            }),
            directory: parts.directory,
            host: parts.host,
            registry: parts.registry,
            verifier: parts.verifier,
            beats: parts.beats,
            keeper: parts.keeper,
            stop: parts.stop,
            recorder: Arc::default(),
            steward: Arc::default(),
            hub: Hub::new(this.clone(), parts.runtime, parts.watch_stats),
            metrics: OnceLock::new(),
        })
    }

    /// Who watches what.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// All metrics, once the gateway is put together.
    #[must_use]
    pub fn metrics(&self) -> Option<&Metrics> {
        self.metrics.get()
    }

    pub(crate) fn set_metrics(&self, metrics: Metrics) {
        // Set once, by the one who puts the gateway together.
        let _ = self.metrics.set(metrics);
    }

    /// The bearer of the `Authorization` header's token.
    ///
    /// # Errors
    /// 401 where there is none or it does not hold.
    pub fn bearer(&self, authorization: Option<&str>) -> Result<Arc<Identity>, Problem> {
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let Some(token) = token else {
            return Err(Problem::new(
                http::StatusCode::UNAUTHORIZED,
                "token-missing",
                "send the workload's or operator's token as \"Authorization: Bearer …\"",
            ));
        };
        Ok(self.verifier.verify(token, clock::unix_now())?)
    }

    /// Whether whoever sends this header may look up in `namespace`.
    ///
    /// # Errors
    /// 401 or 403.
    pub fn may_read(&self, authorization: Option<&str>, namespace: &Namespace) -> Result<(), Problem> {
        match self.reads {
            Reads::Open => Ok(()),
            Reads::Token => Ok(self.bearer(authorization)?.may_read(namespace)?),
        }
    }

    /// The history entry of a deed.
    #[must_use]
    pub fn entry(&self, identity: &Identity, deed: Deed<'_>) -> Entry {
        Entry {
            at: clock::unix_now(),
            actor: Actor::bearer(identity),
            action: deed.action.to_owned(),
            target: deed.target,
            reason: deed.reason.to_owned(),
            gateway: self.me.to_string(),
            before: deed.before,
            after: deed.after,
        }
    }

    /// Waits until a committed write is published here; whether it was within [`APPLY_WAIT`].
    pub async fn applied(&self, revision: Revision) -> bool {
        tokio::time::timeout(APPLY_WAIT, self.directory.currency.reached(revision.0)).await.is_ok()
    }
}

/// The revision of a write that must have been applied, or the conflict as what stood at the first condition's key.
pub(crate) fn first_conflict(committed: Committed) -> Result<Revision, Option<meridian_registry::Stored>> {
    match committed {
        Committed::Applied(revision) => Ok(revision),
        Committed::Conflict(mut current) if !current.is_empty() => Err(current.swap_remove(0)),
        Committed::Conflict(_) => Err(None),
    }
}
