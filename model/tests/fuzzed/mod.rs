//! What fuzzing feeds with bytes: each function takes any, and panics where something does not hold that must. The fuzz
//! targets in `fuzz/` and the replay of their corpus (`model/tests/corpus.rs`) are these very functions.

use meridian_model::binding::{Binding, Bound, Candidate, Effective, Stage};
use meridian_model::locality;
use meridian_model::names::{PolicyVersion, ServiceKey};
use meridian_model::plan::{
    self, Choice, Destination, MAX_PLANS, MAX_REASON_BYTES, MAX_TIERS, Plan, ReadyPlan, ReadyPlans,
    ReadyTier, Tier, WHOLE_SHARE,
};
use meridian_model::policy::case;
use meridian_model::policy::schema::Schema;
use meridian_model::policy::sections::{MAX_SECTION_BYTES, Sections};
use meridian_model::remote::{FULL_RAMP, Freshness, Remote, Standing};
use meridian_model::rollout::{Return, Terms};
use meridian_model::snapshot::{Endpoint, Snapshot, Withheld};
use meridian_model::summary::{IdAndHost, Ingress, RemoteEndpoint, Subset, Summary};
use meridian_model::time::UnixMillis;
use serde_json::Value;
use std::sync::Arc;

/// Reads a document of small numbers; zero after its end.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> usize {
        usize::from(self.byte() % bound)
    }

    /// Mostly small; some at the edges.
    fn number(&mut self) -> u32 {
        match self.byte() {
            255 => u32::MAX,
            254 => u32::MAX / 2 + 1,
            253 => u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()]),
            252 => WHOLE_SHARE,
            251 => WHOLE_SHARE / 2,
            small => u32::from(small),
        }
    }

    /// How many; now and then beyond every bound.
    fn count(&mut self, usual: u8, beyond: usize) -> usize {
        match self.byte() {
            255 => beyond,
            some => usize::from(some % usual),
        }
    }
}

fn bound() -> Bound {
    Bound { policy: "fuzzed".parse().unwrap(), version: PolicyVersion::of(b""), config: "".into() }
}

fn remote(words: &mut Words<'_>, n: usize) -> Remote {
    let subsets = 1 + words.below(3);
    let subset = |at: usize, words: &mut Words<'_>| Subset {
        zone: format!("zone-{at}").parse().unwrap(),
        version: "1".into(),
        group: "".into(),
        healthy: words.number(),
        total: u32::MAX,
        weight: u64::from(words.number()) * 10_000,
    };
    let subsets: Vec<Subset> = (0..subsets).map(|at| subset(at, words)).collect();
    let endpoint = |at: usize, words: &mut Words<'_>| RemoteEndpoint {
        names: IdAndHost::new(&format!("i-{at}"), "10.0.0.1"),
        port: 80,
        weight: u16::try_from(1 + words.number() % 10_000).unwrap(),
        subset: u16::try_from(words.below(3) % subsets.len()).unwrap(),
        degraded: false,
        labels: Arc::default(),
    };
    let endpoints = (0..words.below(4)).map(|at| endpoint(at, words)).collect();
    let sampled = words.below(2) == 1;
    let ingress = Ingress { host: "edge.example".into(), port: 443 };
    Remote {
        region: format!("region-{n}").parse().unwrap(),
        standing: Standing {
            freshness: Freshness::Fresh,
            reachable: true,
            draining: false,
            ramp: FULL_RAMP,
            round_trip_ms: words.number(),
        },
        summary: Arc::new(Summary { subsets, endpoints, sampled, headroom: None }),
        ingress: if words.below(2) == 1 { Arc::new([ingress]) } else { Arc::new([]) },
    }
}

fn snapshot(words: &mut Words<'_>) -> Snapshot {
    let mut effective = Effective::only(bound());
    let most = words.byte();
    effective.limits.max_remote_share = f64::from(most) / 200.0;
    let remotes = words.below(4);
    Snapshot {
        key: ServiceKey::new("default".parse().unwrap(), "fuzzed".parse().unwrap()),
        region: "here".parse().unwrap(),
        slot: 0,
        serial: 1,
        index: 1,
        endpoints: endpoints::some(words.below(8), words.byte()),
        binding: Arc::new(effective),
        // Then other regions come before what is at home.
        draining_zones: if most & 1 == 1 { vec!["zone-a".parse().unwrap()] } else { Vec::new() },
        ramp: FULL_RAMP,
        remotes: (0..remotes).map(|n| remote(words, n)).collect(),
        withheld: Withheld::default(),
    }
}

fn choice(words: &mut Words<'_>) -> Choice {
    let kind = words.below(4);
    let position = words.number();
    let destination = match kind {
        0 | 1 => Destination::Endpoint(position),
        2 => Destination::Remote { remote: position, subset: None },
        _ => Destination::Remote { remote: position, subset: Some(words.number()) },
    };
    Choice { destination, weight: words.number() }
}

fn tier(words: &mut Words<'_>) -> Tier {
    let reason = "é".repeat(words.count(8, 200));
    Tier { choices: (0..words.count(8, 40)).map(|_| choice(words)).collect(), reason }
}

/// Plans of a policy against what it was shown: refused by a sentence, or ready to be drawn from.
pub fn plans(bytes: &[u8]) {
    let mut words = Words(bytes);
    let snapshot = snapshot(&mut words);
    let plans: Vec<Plan> = (0..words.count(4, MAX_PLANS + 1))
        .map(|_| Plan {
            share: words.number(),
            tiers: (0..words.count(4, MAX_TIERS + 1)).map(|_| tier(&mut words)).collect(),
        })
        .collect();
    match plan::expand(&plans, &snapshot) {
        Err(nonsense) => assert!(!nonsense.to_string().is_empty()),
        Ok(ready) => {
            assert_eq!(ready.plans.len(), plans.len());
            hold(&ready, &snapshot);
        }
    }
    hold(&locality::fallback(&snapshot, None), &snapshot);
}

fn hold(ready: &ReadyPlans, snapshot: &Snapshot) {
    assert_eq!(ready.shares.iter().map(|share| u64::from(*share)).sum::<u64>(), u64::from(WHOLE_SHARE));
    for plan in &ready.plans {
        let ReadyPlan::Tiers(tiers) = plan else { continue };
        assert!(!tiers.is_empty());
        hold_remote_share(tiers, snapshot);
        for tier in tiers {
            assert!(tier.total_weight() > 0 && tier.reason.len() <= MAX_REASON_BYTES);
            assert_eq!(tier.endpoints.len(), tier.weights.len());
            assert!(tier.endpoints.iter().all(|at| snapshot.is_eligible(*at)));
            assert!(tier.weights.iter().all(|weight| *weight > 0));
        }
    }
}

/// Where anything in the region can take the rest, no more than the binding's share of lookups leaves it.
fn hold_remote_share(tiers: &[ReadyTier], snapshot: &Snapshot) {
    let sum = |tier: &ReadyTier, local: bool| -> f64 {
        let here = |at: &u32| (*at as usize) < snapshot.endpoints.len();
        let of = tier.endpoints.iter().zip(&tier.weights).filter(|(at, _)| here(at) == local);
        of.map(|(_, weight)| *weight as f64).sum()
    };
    let weighs = |endpoint: &Endpoint| endpoint.status.is_eligible() && endpoint.instance.declared.weight > 0;
    if !snapshot.endpoints.iter().any(weighs) && tiers.iter().all(|tier| sum(tier, true) == 0.0) {
        return;
    }
    let Some(first) = tiers.first() else { return };
    let share = sum(first, false) / (sum(first, true) + sum(first, false));
    let most = snapshot.binding.limits.max_remote_share;
    assert!(share <= most + 1e-5, "{share} of at most {most}");
}

/// A binding's record as it lies in the registry: what is read survives being written, and every change of it.
pub fn binding(bytes: &[u8]) {
    let Ok(binding) = serde_json::from_slice::<Binding>(bytes) else { return };
    let text = serde_json::to_string(&binding).unwrap();
    let again: Binding = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    let now = UnixMillis(1_000);
    let terms = || Terms { limits: binding.limits.clone(), caller_labels: binding.caller_labels.clone() };
    let bound = binding.bind(bound(), terms(), now);
    assert_eq!(bound.active, self::bound());
    assert!(bound.last_good.len() <= binding.last_good.len() + 1);
    for way in [Return::Before, Return::Good] {
        if let Ok(back) = binding.roll_back(way, |_| true, now) {
            assert!(back.candidate.is_none());
        }
    }
    if let Ok(promoted) = binding.promote(false, now) {
        assert!(promoted.candidate.is_none());
    }
    let candidate = Candidate {
        bound: self::bound(),
        stage: Stage::Canary,
        percent: binding.candidate.as_ref().map_or(0.0, |candidate| candidate.percent),
        since: now,
        fault: "".into(),
    };
    assert!(candidate.percent > 0.0 || candidate.threshold() == 0);
    let tried = binding.try_out(candidate, now);
    let effective = Effective::of(Some(&tried), Some(&binding), &self::bound());
    assert_eq!(effective.versions().next(), Some(&tried.active));
}

/// A module's custom sections, and what stands in them.
pub fn sections(bytes: &[u8]) {
    let found = match Sections::find(bytes) {
        Ok(found) => found,
        Err(bad) => return assert!(!bad.to_string().is_empty()),
    };
    for section in [found.about, found.schema, found.cases].into_iter().flatten() {
        assert!(section.bytes.len() <= MAX_SECTION_BYTES);
        assert_eq!(bytes.get(section.offset..section.offset + section.bytes.len()), Some(section.bytes));
    }
    let _ = found.about();
    let cases =
        found.cases.map(|section| case::parse(section.bytes)).and_then(Result::ok).unwrap_or_default();
    let schema = found.schema.and_then(|section| Schema::parse(section.bytes).ok());
    for case in &cases {
        let _ = (case.config(), case.key_hash());
        let _ = case.judge(case::Answered::Words("no"));
        let plan = Plan { share: WHOLE_SHARE, tiers: Vec::new() };
        let _ = case.judge(case::Answered::Plans(&[plan], 0));
    }
    if let Some(schema) = schema {
        let configs = cases.iter().map(|case| &case.config).chain([&Value::Null]);
        for config in configs {
            let _ = schema.errors(config);
        }
    }
}

mod endpoints {
    use meridian_model::instance::{Instance, render_endpoint};
    use meridian_model::snapshot::Endpoint;
    use meridian_model::status::Status;
    use serde_json::json;
    use std::sync::Arc;

    /// So many; a bit of `unhealthy` each.
    pub(super) fn some(count: usize, unhealthy: u8) -> Vec<Endpoint> {
        (0..count)
            .map(|n| {
                let instance: Instance = serde_json::from_value(json!({
                    "format": 1, "id": format!("i-{n}"), "owner": { "issuer": "i", "subject": "s" },
                    "declared": { "host": "10.0.0.1", "port": 80, "zone": "zone-a", "weight": 100, "status": "healthy", "leaseTtlSeconds": 30 },
                    "lease": { "id": "0000000000000001" }, "registeredAt": 0, "updatedAt": 0,
                }))
                .unwrap();
                let rendered = render_endpoint(&instance, &"here".parse().unwrap()).into();
                let status = if unhealthy >> n & 1 == 1 { Status::Unhealthy } else { Status::Healthy };
                Endpoint::new(Arc::new(instance), status, false, rendered)
            })
            .collect()
    }
}
