//! The identity of a final answer: equal on every gateway that has the same inputs, other when anything that a caller
//! would see is other. Ages, indexes and reasons are left out: they change without the answer changing.

use crate::view::View;
use meridian_model::plan::{ReadyPlan, ReadyPlans};
use meridian_model::remote::Address;
use meridian_model::snapshot::{Place, Snapshot};
use xxhash_rust::xxh3::Xxh3;

/// Hashes of a view's plans.
#[derive(Debug)]
pub(crate) struct Fingerprint {
    /// Of all plans with their shares: what a caller without key gets.
    whole: u128,
    /// Of each plan: what a caller with a key gets, whose key is routed to it.
    plans: Box<[u128]>,
    /// The version as text, for answers.
    version: Box<str>,
}

fn hash_plan(hash: &mut Xxh3, plan: &ReadyPlan, snapshot: &Snapshot) {
    match plan {
        ReadyPlan::Refused => hash.update(b"refused"),
        ReadyPlan::NothingEligible => hash.update(b"nothing"),
        ReadyPlan::Tiers(tiers) => {
            for tier in tiers {
                hash.update(b"tier");
                hash.update(&tier.number.to_be_bytes());
                for (at, weight) in tier.endpoints.iter().zip(&tier.weights) {
                    if let Some(place) = snapshot.place(*at) {
                        hash_place(hash, place);
                        hash.update(&weight.to_be_bytes());
                    }
                }
            }
        }
    }
}

fn hash_place(hash: &mut Xxh3, place: Place<'_>) {
    let mut text = |text: &str| {
        hash.update(&text.len().to_be_bytes());
        hash.update(text.as_bytes());
    };
    let (remote, address) = match place {
        Place::Here(endpoint) => {
            hash.update(&endpoint.rendered);
            return hash.update(&[u8::from(endpoint.degraded)]);
        }
        Place::There(remote, address) => (remote, address),
    };
    text(remote.region.as_str());
    let port = match address {
        Address::Endpoint(e) => {
            text(e.names.id());
            text(e.names.host());
            let subset = remote.subset_of(e);
            text(subset.map_or("", |s| s.zone.as_str()));
            text(subset.map_or("", |s| s.version.as_str()));
            text(if e.degraded { "degraded" } else { "" });
            text(&e.labels.tags.len().to_string());
            e.labels.tags.iter().for_each(|tag| text(tag));
            e.labels.metadata.iter().for_each(|(key, value)| {
                text(key);
                text(value);
            });
            u64::from(e.port) << 32 | u64::from(e.weight)
        }
        Address::Ingress(ingress) => {
            text(&ingress.host);
            u64::from(ingress.port)
        }
    };
    hash.update(&port.to_be_bytes());
}

impl Fingerprint {
    fn of(view: &View) -> Self {
        let start = |plans: &ReadyPlans| {
            let mut hash = Xxh3::new();
            hash.update(view.policy.as_str().as_bytes());
            hash.update(view.version.to_string().as_bytes());
            hash.update(view.outcome.as_str().as_bytes());
            hash.update(&plans.plans.len().to_be_bytes());
            hash
        };
        // Where a plan has nothing eligible the native fallback answers, so it belongs to the answer.
        let native = view.native();
        let mut whole = start(&view.plans);
        let plans = view.plans.plans.iter().zip(&view.plans.shares).map(|(plan, share)| {
            let mut one = start(&view.plans);
            for hash in [&mut whole, &mut one] {
                hash_plan(hash, plan, &view.snapshot);
                if matches!(plan, ReadyPlan::NothingEligible) {
                    native.plans.iter().for_each(|plan| hash_plan(hash, plan, &view.snapshot));
                }
            }
            whole.update(&share.to_be_bytes());
            one.digest128()
        });
        let plans = plans.collect();
        Self { whole: whole.digest128(), plans, version: view.version.to_string().into() }
    }
}

impl View {
    /// The version as it stands in answers.
    #[must_use]
    pub fn version_text(&self) -> &str {
        &self.fingerprint.get_or_init(|| Fingerprint::of(self)).version
    }

    /// The identity of what a caller gets: without a key by all plans, with one by the plan that it was routed to.
    #[must_use]
    pub fn fingerprint(&self, routed: Option<(usize, u64)>) -> u128 {
        let fingerprint = self.fingerprint.get_or_init(|| Fingerprint::of(self));
        match routed {
            None => fingerprint.whole,
            Some((plan, key)) => {
                let plan = fingerprint.plans.get(plan).copied().unwrap_or(fingerprint.whole);
                plan ^ (u128::from(meridian_model::selection::mix(key)) << 32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_model::instance::{Instance, Lease, LeaseId, Owner, RECORD_FORMAT, render_endpoint};
    use meridian_model::registration::{Host, Registration, RenewBy};
    use meridian_model::remote::{FULL_RAMP, Freshness, Remote, Standing};
    use meridian_model::snapshot::Endpoint;
    use meridian_model::status::{CheckVerdict, Declared, Status};
    use meridian_model::summary::{IdAndHost, Ingress, Labels, RemoteEndpoint, Subset, Summary};
    use meridian_model::time::UnixMillis;
    use smol_str::SmolStr;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    fn digest(place: Place<'_>) -> u128 {
        let mut hash = Xxh3::new();
        hash_place(&mut hash, place);
        hash.digest128()
    }

    fn told() -> RemoteEndpoint {
        RemoteEndpoint {
            names: IdAndHost::new("ab", "c"),
            port: 80,
            weight: 100,
            subset: 0,
            degraded: false,
            labels: Arc::default(),
        }
    }

    fn there(endpoint: &RemoteEndpoint, freshness: Freshness) -> u128 {
        let subset = Subset {
            zone: "eu-west-1a".parse().unwrap(),
            version: "1".into(),
            group: "stable".into(),
            healthy: 1,
            total: 1,
            weight: 100,
        };
        let standing =
            Standing { freshness, reachable: true, draining: false, ramp: FULL_RAMP, round_trip_ms: 1 };
        let remote = Remote {
            region: "eu-west-1".parse().unwrap(),
            standing,
            summary: Arc::new(Summary { subsets: vec![subset], ..Summary::default() }),
            ingress: Arc::new([]),
        };
        digest(Place::There(&remote, Address::Endpoint(endpoint)))
    }

    fn labelled(tags: &[&str], pairs: &[(&str, &str)]) -> RemoteEndpoint {
        let tags = tags.iter().map(SmolStr::new).collect();
        let metadata = pairs.iter().map(|(key, value)| (SmolStr::new(key), SmolStr::new(value))).collect();
        RemoteEndpoint { labels: Labels { tags, metadata }.into(), ..told() }
    }

    /// Whoever watches would otherwise not hear of the change.
    #[test]
    fn every_difference_of_an_address_elsewhere_is_another_answer() {
        let all = [
            told(),
            RemoteEndpoint { degraded: true, ..told() },
            RemoteEndpoint { names: IdAndHost::new("a", "bc"), ..told() },
            RemoteEndpoint { port: 81, ..told() },
            RemoteEndpoint { weight: 101, ..told() },
            // The same letters, cut differently.
            labelled(&["a", "b"], &[]),
            labelled(&["ab"], &[]),
            labelled(&["a", "b", "c", "d"], &[]),
            labelled(&["a", "b"], &[("c", "d")]),
            labelled(&[], &[("a", "b"), ("c", "d")]),
            labelled(&[], &[("a", "bc")]),
            labelled(&[], &[("ab", "c")]),
            labelled(&["degraded"], &[]),
        ];
        let digests: BTreeSet<u128> = all.iter().map(|endpoint| there(endpoint, Freshness::Fresh)).collect();
        assert_eq!(digests.len(), all.len(), "two answers have one fingerprint");
        // Ages change without the answer changing.
        assert_eq!(there(&told(), Freshness::Fresh), there(&told(), Freshness::Suspect));
        let ingress = |port| digest_of_ingress(&Ingress { host: "edge.example".into(), port });
        assert_ne!(ingress(443), ingress(444));
    }

    fn digest_of_ingress(ingress: &Ingress) -> u128 {
        let standing = Standing {
            freshness: Freshness::Fresh,
            reachable: true,
            draining: false,
            ramp: FULL_RAMP,
            round_trip_ms: 1,
        };
        let remote = Remote {
            region: "eu-west-1".parse().unwrap(),
            standing,
            summary: Arc::default(),
            ingress: Arc::new([ingress.clone()]),
        };
        digest(Place::There(&remote, Address::Ingress(ingress)))
    }

    fn here(tags: &[&str], degraded: bool) -> u128 {
        let declared = Registration {
            host: Host::parse("10.0.0.1").unwrap(),
            port: 8080,
            zone: "ap-south-1a".parse().unwrap(),
            version: "1".into(),
            weight: 100,
            deployment_group: "stable".into(),
            protocol: "http".into(),
            tags: tags.iter().map(SmolStr::new).collect(),
            metadata: BTreeMap::new(),
            status: Declared::Healthy,
            lease_ttl_seconds: 30,
            renew_by: RenewBy::Heartbeat,
            capacity: None,
            health_check: None,
        };
        let instance = Instance {
            format: RECORD_FORMAT,
            id: "orders-1".parse().unwrap(),
            owner: Owner { issuer: "i".into(), subject: "s".into() },
            declared,
            lease: Lease { id: LeaseId(1), token_expires_at: None, expired_at: None },
            check: CheckVerdict::Pending,
            check_detail: SmolStr::default(),
            registered_at: UnixMillis(0),
            updated_at: UnixMillis(0),
            reason: SmolStr::default(),
            unknown: serde_json::Map::new(),
        };
        let rendered = render_endpoint(&instance, &"ap-south-1".parse().unwrap()).into();
        digest(Place::Here(&Endpoint::new(Arc::new(instance), Status::Healthy, degraded, rendered)))
    }

    #[test]
    fn every_difference_of_an_endpoint_here_is_another_answer() {
        let all =
            [here(&["a", "b"], false), here(&["a", "b"], true), here(&["ab"], false), here(&["a,b"], false)];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(here(&["a"], true), here(&["a"], true));
    }
}
