//! Near before far: the caller's zone, then its region, then other regions, spilling gradually as health falls.
//!
//! A level (a zone, the rest of the region, another region) can carry its healthy fraction times the overprovisioning
//! factor, at most all; what it cannot carry goes on to the next level, so there is no health at which traffic jumps.
//! Envoy distributes load over priorities in the same way.

use std::fmt;

use serde::Deserialize;

use crate::caller::Caller;
use crate::order::sorted;
use crate::plan::{Destination, Plan, Tier};
use crate::service::{Endpoint, Freshness, Remote, Service, Status, Subset};

/// How locality is weighed against health. Every field has a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// How much more than its part of the load the rest of a level can carry. With the default of 1.4 a level keeps all of
    /// its traffic down to 71.4 % healthy.
    pub overprovisioning_factor: Overprovisioning,
    /// When other regions are used.
    pub region_fallback: RegionFallback,
    /// How other regions share what is left for them: the policy's choice, not the config's.
    #[serde(skip)]
    pub region_share: RegionShare,
}

/// An overprovisioning factor, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Overprovisioning {
    parts: u32,
}

impl Default for Overprovisioning {
    fn default() -> Self {
        Overprovisioning { parts: 14_000 }
    }
}

impl TryFrom<f64> for Overprovisioning {
    type Error = &'static str;

    fn try_from(factor: f64) -> Result<Self, Self::Error> {
        if (1.0..=100.0).contains(&factor) {
            Ok(Overprovisioning { parts: (factor * 10_000.0 + 0.5) as u32 })
        } else {
            Err("a number from 1 to 100 is expected")
        }
    }
}

/// When other regions are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RegionFallback {
    /// They take what the region's health cannot carry.
    #[default]
    Gradual,
    /// They take everything once nothing healthy is left in the region, and nothing before.
    WhenEmpty,
    /// Never: with nothing healthy in the region, the lookup is refused. That is the policy's word, and holds while the policy
    /// answers; what must hold also while it cannot are a binding's limits (`limits.regions: []`).
    Never,
}

/// How other regions share what the own one cannot carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegionShare {
    /// The best one first, the next one only with what that cannot carry.
    #[default]
    InOrder,
    /// By what each can still take, less for the distant ones.
    ByHeadroom {
        /// At this round trip, a region gets half of what it would get next door.
        round_trip_half_ms: u32,
    },
}

/// A part of a service, described by what belongs to it.
pub trait Side {
    /// Whether the endpoint belongs to it.
    fn has(&self, endpoint: Endpoint<'_>) -> bool;
    /// Whether another region's subset belongs to it.
    fn has_subset(&self, subset: Subset<'_>) -> bool;
    /// What reasons call it; empty where there is nothing to tell it from.
    fn name(&self) -> &str {
        ""
    }
}

/// All of the service.
#[derive(Clone, Copy, Debug)]
pub struct Everyone;

impl Side for Everyone {
    fn has(&self, _: Endpoint<'_>) -> bool {
        true
    }

    fn has_subset(&self, _: Subset<'_>) -> bool {
        true
    }
}

/// Parts in a million: what level can carry, and what it gets.
type Load = u128;
const ALL: Load = 1_000_000;

/// What the weights of a mixed tier add up to, so that an endpoint's part of a small spill is still exact.
const MIXED_TIER: u128 = 1 << 30;

#[derive(Clone, Debug)]
struct Level {
    reason: String,
    members: Vec<(Destination, u64)>,
    capacity: Load,
}

impl Level {
    fn weight(&self) -> u128 {
        self.members.iter().map(|(_, weight)| u128::from(*weight)).sum()
    }
}

/// The levels of one side for one caller, nearest first.
#[derive(Clone)]
pub struct Levels<'a> {
    service: &'a Service,
    local: Vec<Level>,
    remote: Vec<Level>,
    /// How strongly each of `remote` draws what is left; empty where they take it in order.
    pulls: Vec<Load>,
    /// Only when everything above is empty, in this order: other regions that are not used before, zones being drained,
    /// regions in doubt, regions being drained. What is drained yields, but not to what may not answer.
    last: [Vec<Level>; 4],
    /// Only when those are empty too.
    at_last: Vec<Level>,
    /// Whether traffic stays in the region, whatever becomes of it.
    at_home: bool,
}

impl<'a> Levels<'a> {
    /// The levels of one side.
    pub fn of(service: &'a Service, caller: &Caller, settings: Settings, side: &dyn Side) -> Self {
        let builder = Builder { service, settings, side };
        let [nearest, rest, evacuated] = builder.local(caller);
        let mut levels = Levels {
            service,
            local: vec![nearest, rest],
            remote: Vec::new(),
            pulls: Vec::new(),
            last: [const { Vec::new() }; 4],
            at_last: Vec::new(),
            at_home: settings.region_fallback == RegionFallback::Never,
        };
        let [unused, evacuated_zones, in_doubt, drained] = &mut levels.last;
        evacuated_zones.push(evacuated);
        if levels.at_home {
            return levels;
        }
        let standing = |remote: &Remote<'a>| {
            (!remote.is_reachable(), remote.freshness(), remote.round_trip_ms(), remote.region())
        };
        let remotes: Vec<Remote<'a>> = service.remotes().collect();
        let remotes = sorted(&remotes, |one, other| standing(one).cmp(&standing(other)));
        let (draining, others): (Vec<_>, Vec<_>) = remotes.into_iter().partition(Remote::is_draining);
        let (known, doubtful): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|remote| remote.is_reachable() && remote.freshness() != Freshness::Stale);
        let pulls = pulls(&known, settings.region_share, side);
        let known = known.into_iter().map(|remote| builder.remote(remote, ""));
        if settings.region_fallback == RegionFallback::Gradual {
            levels.pulls = pulls;
            levels.remote.extend(known);
        } else {
            unused.extend(known);
        }
        let doubt = |remote: &Remote<'_>| match remote.freshness() {
            // Others hear it, or heard it a moment ago: it is the way there that is broken.
            Freshness::Fresh => ", not reachable",
            Freshness::Suspect | Freshness::Stale => ", not heard of lately",
        };
        in_doubt.extend(doubtful.into_iter().map(|remote| builder.remote(remote, doubt(&remote))));
        drained.extend(draining.into_iter().map(|remote| builder.remote(remote, ", being drained")));
        levels
    }

    /// What these levels cannot carry goes on to the other side's: in the region first, then in other regions, where these
    /// levels' own come before the other side's.
    pub fn then(mut self, next: Levels<'a>) -> Self {
        self.local.extend(next.local);
        self.remote.extend(next.remote);
        self.pulls.extend(next.pulls);
        for (last, next) in self.last.iter_mut().zip(next.last) {
            last.extend(next);
        }
        self.at_last.extend(next.at_last);
        self
    }

    /// The other side serves only when these levels are empty.
    pub fn or_at_last(mut self, next: Levels<'a>) -> Self {
        self.at_last.extend(next.local);
        self.at_last.extend(next.remote);
        self.at_last.extend(next.last.into_iter().flatten());
        self.at_last.extend(next.at_last);
        self
    }

    /// Whether nothing healthy is in any of them.
    pub fn is_empty(&self) -> bool {
        self.local.iter().chain(&self.remote).chain(self.waiting()).all(|level| level.members.is_empty())
    }

    /// What serves only when everything else is empty.
    fn waiting(&self) -> impl Iterator<Item = &Level> {
        self.last.iter().flatten().chain(&self.at_last)
    }

    /// The first tier mixes the levels that carry traffic now, in their proportions; the others follow in order. If nothing
    /// is healthy anywhere, the plan names every endpoint, so that the caller is told so rather than refused; but a lookup
    /// that may not leave the region is refused, because the host's own fallback would look for others.
    pub fn plan(&self) -> Plan {
        let loads = self.loads();
        let mut carrying = Vec::new();
        let mut waiting = Vec::new();
        for (level, load) in self.local.iter().chain(&self.remote).zip(loads) {
            if level.members.is_empty() {
                continue;
            }
            if load > 0 { carrying.push((level, load)) } else { waiting.push(level) }
        }
        waiting.extend(self.waiting().filter(|level| !level.members.is_empty()));
        let mut tiers = Vec::new();
        match carrying.as_slice() {
            [] => {}
            [(only, _)] => tiers.push(alone(only)),
            several => tiers.push(mixed(several)),
        }
        tiers.extend(waiting.into_iter().map(alone));
        if let Some(first) = tiers.first_mut().filter(|tier| tier.leaves_the_region()) {
            first.remark(self.why_elsewhere());
        }
        if tiers.is_empty() && self.at_home {
            return Plan::refuse();
        }
        if tiers.is_empty() {
            tiers.push(Tier::new("nothing is healthy").endpoints(self.service.endpoints()));
        }
        Plan::new(tiers)
    }

    /// What takes all lookups out of the region.
    fn why_elsewhere(&self) -> &'static str {
        let any = |levels: &[Level]| levels.iter().any(|level| !level.members.is_empty());
        let [_, evacuated_zones, ..] = &self.last;
        let is_here =
            |level: &Level| level.members.iter().any(|(to, _)| matches!(to, Destination::Endpoint(_)));
        match self.service.endpoints().next() {
            // It is on its way back, or the other side has something here.
            _ if any(&self.local) || self.at_last.iter().any(is_here) => "",
            _ if any(evacuated_zones) => ", zones here are being drained",
            Some(_) => ", nothing healthy here",
            None => ", nothing here",
        }
    }

    /// What each local and then each remote level gets. A recovering region takes its ramp's part of what it could carry.
    fn loads(&self) -> Vec<Load> {
        let mut left = ALL;
        let mut loads: Vec<Load> = Vec::new();
        for level in &self.local {
            let load = level.capacity.min(left);
            left -= load;
            loads.push(load);
        }
        let ramp = Load::from(self.service.ramp().min(1_000));
        for load in &mut loads {
            *load = *load * ramp / 1_000;
        }
        left = ALL - loads.iter().sum::<Load>();
        if self.pulls.len() == self.remote.len() && !self.pulls.is_empty() {
            loads.extend(self.drawn(left));
            return loads;
        }
        for level in &self.remote {
            let load = level.capacity.min(left);
            left -= load;
            loads.push(load);
        }
        loads
    }

    /// What each remote level gets of `left`, in proportion to its pull and at most what it can carry.
    fn drawn(&self, mut left: Load) -> Vec<Load> {
        let mut loads: Vec<Load> = self.remote.iter().map(|_| 0).collect();
        // Each round fills at least one level or uses up what is left.
        for _ in &self.remote {
            let open = |at: usize, loads: &[Load]| loads[at] < self.remote[at].capacity;
            let total: Load = (0..loads.len()).filter(|at| open(*at, &loads)).map(|at| self.pulls[at]).sum();
            if left == 0 || total == 0 {
                break;
            }
            let share = left;
            for at in 0..loads.len() {
                if open(at, &loads) {
                    let more = (share * self.pulls[at] / total).min(self.remote[at].capacity - loads[at]);
                    loads[at] += more;
                    left -= more;
                }
            }
        }
        loads
    }
}

/// How strongly regions draw what is left: by headroom if all that can take any of it tell theirs, else by the weight of
/// what is healthy. A region without a healthy endpoint has no headroom to tell.
fn pulls(remotes: &[Remote<'_>], share: RegionShare, side: &dyn Side) -> Vec<Load> {
    let RegionShare::ByHeadroom { round_trip_half_ms } = share else { return Vec::new() };
    let serves =
        |remote: &Remote<'_>| remote.subsets().any(|subset| subset.healthy() > 0 && side.has_subset(subset));
    let told = remotes.iter().all(|remote| remote.headroom().is_some() || !serves(remote));
    let half = Load::from(round_trip_half_ms.max(1));
    let pull = |remote: &Remote<'_>| {
        let room = match remote.headroom() {
            Some(headroom) if told => headroom,
            _ => remote.subsets().fold(0u64, |sum, subset| sum.saturating_add(subset.weight())),
        };
        // Below 2^64 parts a thousand times: no product here overflows.
        Load::from(room.min(1 << 40)) * 1_000 * half / (half + Load::from(remote.round_trip_ms()))
    };
    remotes.iter().map(pull).collect()
}

impl fmt::Debug for Levels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.local.iter().chain(&self.remote).chain(self.waiting())).finish()
    }
}

fn alone(level: &Level) -> Tier {
    level.members.iter().fold(Tier::new(&*level.reason), |tier, (destination, weight)| {
        tier.with(*destination, u32::try_from(*weight).unwrap_or(u32::MAX))
    })
}

fn mixed(levels: &[(&Level, Load)]) -> Tier {
    let carried: Load = levels.iter().map(|(_, load)| load).sum();
    let mut reason = String::new();
    let mut choices = Vec::new();
    for (level, load) in levels {
        let permille = load * 1_000 / carried;
        if !reason.is_empty() {
            reason.push_str(", ");
        }
        reason.push_str(&format!("{} {}.{} %", level.reason, permille / 10, permille % 10));
        let total = level.weight();
        for (destination, weight) in &level.members {
            let weight = MIXED_TIER * load * u128::from(*weight) / (carried * total);
            // A healthy endpoint is never rounded away.
            choices.push((*destination, u32::try_from(weight).unwrap_or(u32::MAX).max(1)));
        }
    }
    choices.into_iter().fold(Tier::new(reason), |tier, (to, weight)| tier.with(to, weight))
}

/// Endpoints of one level, with the weights on both sides of its health fraction.
struct Gathered {
    members: Vec<(Destination, u64)>,
    healthy: u64,
    unhealthy: u64,
}

impl Gathered {
    const fn new() -> Self {
        Gathered { members: Vec::new(), healthy: 0, unhealthy: 0 }
    }

    fn add(&mut self, endpoint: Endpoint<'_>) {
        let weight = u64::from(endpoint.weight());
        match endpoint.status() {
            Status::Healthy => {
                self.healthy += weight;
                self.members.push((Destination::Endpoint(endpoint.position()), weight));
            }
            Status::Unhealthy => self.unhealthy += weight,
            Status::Starting | Status::Draining => {}
        }
    }
}

struct Builder<'s, 'a> {
    service: &'a Service,
    settings: Settings,
    side: &'s dyn Side,
}

// Sides and filters are called through pointers: a copy of this code for each would double a policy's size.
impl<'a> Builder<'_, 'a> {
    fn reason(&self, level: &str, remark: &str) -> String {
        let mut reason = String::from(self.side.name());
        if !reason.is_empty() {
            reason.push_str(": ");
        }
        reason.push_str(level);
        reason.push_str(remark);
        reason
    }

    fn capacity(&self, healthy: u128, unhealthy: u128) -> Load {
        let all = healthy + unhealthy;
        if all == 0 {
            // Nothing, or nothing but what is starting or draining: nothing to send traffic to either.
            return 0;
        }
        let factor = u128::from(self.settings.overprovisioning_factor.parts);
        (ALL * factor * healthy / (all * 10_000)).min(ALL)
    }

    /// The caller's own zone, the other zones, and those that are being drained.
    fn local(&self, caller: &Caller) -> [Level; 3] {
        let zone = self.service.zone_number(&caller.zone);
        let [mut own, mut others, mut evacuated] = [const { Gathered::new() }; 3];
        // Once over the endpoints, of which there may be thousands.
        for endpoint in self.service.endpoints().filter(|one| self.side.has(*one)) {
            if endpoint.is_in_draining_zone() {
                evacuated.add(endpoint);
            } else if endpoint.is_in(zone) {
                own.add(endpoint);
            } else {
                others.add(endpoint);
            }
        }
        let rest = if own.members.is_empty() { "the region" } else { "other zones" };
        let level = |name, gathered: Gathered| Level {
            reason: self.reason(name, ""),
            capacity: self.capacity(gathered.healthy.into(), gathered.unhealthy.into()),
            members: gathered.members,
        };
        [level("own zone", own), level(rest, others), level("zones being drained", evacuated)]
    }

    fn remote(&self, remote: Remote<'a>, remark: &str) -> Level {
        let mut members = Vec::new();
        let (mut healthy, mut total, mut whole) = (0u128, 0u128, true);
        for subset in remote.subsets() {
            if !self.side.has_subset(subset) {
                whole &= subset.healthy() == 0;
                continue;
            }
            healthy += u128::from(subset.healthy());
            total += u128::from(subset.total());
            if subset.healthy() > 0 {
                let (remote, position) = subset.positions();
                // Healthy endpoints that all say weight 0 are still better than none.
                members.push((Destination::Subset(remote, position), subset.weight().max(1)));
            }
        }
        if whole && !members.is_empty() {
            let weight = members.iter().fold(0u64, |sum, (_, weight)| sum.saturating_add(*weight));
            members = vec![(Destination::Remote(remote.position()), weight)];
        }
        let unhealthy = total.saturating_sub(healthy);
        let capacity = self.capacity(healthy, unhealthy) * Load::from(remote.ramp().min(1_000)) / 1_000;
        Level { reason: self.reason(remote.region(), remark), members, capacity }
    }
}
