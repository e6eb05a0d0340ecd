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
            text(&e.id);
            text(&e.host);
            let subset = remote.subset_of(e);
            text(subset.map_or("", |s| s.zone.as_str()));
            text(subset.map_or("", |s| s.version.as_str()));
            text(if e.degraded { "degraded" } else { "" });
            text(&e.tags.len().to_string());
            e.tags.iter().for_each(|tag| text(tag));
            e.metadata.iter().for_each(|(key, value)| {
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
