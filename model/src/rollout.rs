//! How a version comes to answer, and how it goes: the changes of a binding, and the judgement on what was seen of one.
//!
//! Nothing here knows how lookups are counted. What was counted comes in as [`Evidence`], which adds up over services and
//! gateways; what follows from it comes out as a [`Verdict`].

use crate::binding::{Activation, Binding, Bound, Candidate, Former, LAST_GOOD_KEPT, Limits, Stage, Way};
use crate::plan::Clamped;
use crate::time::UnixMillis;
use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, format_smolstr};
use std::collections::{BTreeMap, BTreeSet};

/// What a binding is for besides its versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// What no policy may widen.
    pub limits: Limits,
    /// Labels of callers that reach the policy.
    pub caller_labels: BTreeSet<SmolStr>,
}

/// There is nothing to return to, or to promote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPossible {
    /// Promoting needs a candidate.
    #[error("the binding has no candidate: bind one with stage shadow or canary first")]
    NoCandidate,
    /// Rolling back needs a candidate or a former version.
    #[error("the binding remembers no former version; bind the one that you want")]
    NothingToReturnTo,
    /// Every former version was disabled.
    #[error("every former version of the binding is disabled; enable one, or bind the one that you want")]
    Disabled,
}

impl Binding {
    /// A first binding.
    #[must_use]
    pub fn new(active: Bound, terms: Terms, now: UnixMillis) -> Self {
        Self {
            active,
            activation: Activation { since: now, ..Activation::default() },
            candidate: None,
            last_good: Vec::new(),
            limits: terms.limits,
            caller_labels: terms.caller_labels,
            updated_at: now,
            unknown: serde_json::Map::new(),
        }
    }

    /// Every version that it names: the active one, what is tried, and the former ones.
    pub fn versions(&self) -> impl Iterator<Item = &Bound> {
        let candidate = self.candidate.iter().map(|candidate| &candidate.bound);
        std::iter::once(&self.active)
            .chain(candidate)
            .chain(self.last_good.iter().map(|former| &former.bound))
    }

    /// What answers when the active one cannot: those known to be good, newest first, then the others.
    pub fn chain(&self) -> impl Iterator<Item = &Bound> {
        let (good, others): (Vec<_>, Vec<_>) = self.last_good.iter().partition(|former| former.soaked);
        good.into_iter().chain(others).map(|former| &former.bound)
    }

    /// With another active version. The same again leaves its soak as it is.
    #[must_use]
    pub fn bind(&self, active: Bound, terms: Terms, now: UnixMillis) -> Self {
        let mut next = Self { limits: terms.limits, caller_labels: terms.caller_labels, ..self.clone() };
        next.updated_at = now;
        next.activate(active, Way::Bound, now);
        next
    }

    /// With a candidate in place of any that there was.
    #[must_use]
    pub fn try_out(&self, candidate: Candidate, now: UnixMillis) -> Self {
        Self { candidate: Some(candidate), updated_at: now, ..self.clone() }
    }

    /// The candidate becomes the active one.
    ///
    /// # Errors
    /// There is none.
    pub fn promote(&self, forced: bool, now: UnixMillis) -> Result<Self, NotPossible> {
        let candidate = self.candidate.clone().ok_or(NotPossible::NoCandidate)?;
        let mut next = self.clone();
        next.updated_at = now;
        next.activate(candidate.bound, if forced { Way::Forced } else { Way::Promoted }, now);
        Ok(next)
    }

    /// Gives up the candidate, if there is one; else what answered before answers again, and what was rolled back is not
    /// kept among the former ones, unless it was known to be good.
    ///
    /// Only what `may_run` is returned to; what may not stays where it is.
    ///
    /// # Errors
    /// There is neither a candidate nor a former version that may run.
    pub fn roll_back(
        &self,
        to: Return,
        may_run: impl Fn(&Bound) -> bool,
        now: UnixMillis,
    ) -> Result<Self, NotPossible> {
        if self.candidate.is_some() {
            return Ok(Self { candidate: None, updated_at: now, ..self.clone() });
        }
        self.roll_back_active(to, may_run, now)
    }

    /// What answered before answers again, whatever is tried: the candidate stays, to be tried beside that, unless that is
    /// what it is.
    ///
    /// # Errors
    /// There is no former version that may run.
    pub fn roll_back_active(
        &self,
        to: Return,
        may_run: impl Fn(&Bound) -> bool,
        now: UnixMillis,
    ) -> Result<Self, NotPossible> {
        let mut next = Self { updated_at: now, ..self.clone() };
        let first = |good: bool| {
            next.last_good.iter().position(|former| (former.soaked || !good) && may_run(&former.bound))
        };
        let at = match to {
            Return::Before => first(false),
            Return::Good => first(true).or_else(|| first(false)),
        };
        let nothing =
            if next.last_good.is_empty() { NotPossible::NothingToReturnTo } else { NotPossible::Disabled };
        let at = at.ok_or(nothing)?;
        // What came between is younger than what is returned to, and was not good either.
        let mut left = next.last_good.split_off(at);
        let Former { bound, soaked } = left.remove(0);
        next.last_good.retain(|former| !may_run(&former.bound));
        next.last_good.append(&mut left);
        let gone = std::mem::replace(&mut next.active, bound);
        // An operator may change its mind about what is known to be good; what failed is not kept.
        if next.activation.soaked && to == Return::Before {
            next.last_good.insert(0, Former { bound: gone, soaked: true });
        }
        next.activation = Activation { since: now, way: Way::RolledBack, soaked, ..Activation::default() };
        next.candidate = next.candidate.filter(|candidate| candidate.bound != next.active);
        Ok(next)
    }

    /// The active one is known to be good.
    #[must_use]
    pub fn soaked(&self) -> Self {
        Self { activation: Activation { soaked: true, ..self.activation.clone() }, ..self.clone() }
    }

    fn activate(&mut self, active: Bound, way: Way, now: UnixMillis) {
        if self.candidate.as_ref().is_some_and(|candidate| candidate.bound == active) {
            self.candidate = None;
        }
        if self.active == active {
            return;
        }
        let soaked = self.activation.soaked;
        let bound = std::mem::replace(&mut self.active, active);
        let known = self.last_good.iter().any(|former| former.bound == bound && former.soaked);
        // What was good once, and became active again, need not soak again.
        let again = self.last_good.iter().any(|former| former.bound == self.active && former.soaked);
        self.last_good.retain(|former| former.bound != bound && former.bound != self.active);
        self.last_good.insert(0, Former { bound, soaked: soaked || known });
        let (mut good, mut others) = (0, 0);
        self.last_good.retain(|former| {
            let count = if former.soaked { &mut good } else { &mut others };
            *count += 1;
            *count <= LAST_GOOD_KEPT
        });
        self.activation = Activation { since: now, way, soaked: again, ..Activation::default() };
    }
}

/// Where a roll-back leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// To what answered before: what an operator means who undoes a change.
    Before,
    /// To the newest that is known to be good, else to what answered before.
    Good,
}

/// When a version is good, and when it is not.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// A version has soaked when it has been active for so long, in milliseconds,
    pub soak_millis: u64,
    /// and has answered so many lookups.
    pub soak_lookups: u64,
    /// A candidate has to see so many lookups before it may be promoted.
    pub promote_lookups: u64,
    /// So many faults of a canary, or of what was promoted, roll it back. An operator's own binding is given
    /// [`PATIENCE`] times as many: its word stands, and its predecessor answers wherever it fails.
    pub max_faults: u64,
    /// Greatest rise of the share of lookups that are refused or given nothing.
    pub max_refused_rise: f64,
    /// Greatest share of all lookups that any zone or region may lose at once.
    pub max_shift: f64,
    /// Before so many lookups were seen, shares say nothing. At most [`KEPT`], or they never said anything.
    pub min_lookups: u64,
}

/// See [`Settings::max_faults`]. With those that are under way when it is used up, no version fails more than ten times.
pub const PATIENCE: u64 = 4;

impl Default for Settings {
    fn default() -> Self {
        Self {
            soak_millis: 5 * 60_000,
            soak_lookups: 100,
            promote_lookups: 100,
            max_faults: 2,
            max_refused_rise: 0.1,
            max_shift: 0.5,
            min_lookups: 10,
        }
    }
}

/// What was seen of a version beside the one that it replaces or is to replace. Sums, so that they add up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Lookups of callers whose answers by both versions were compared: all that a shadow saw; of other versions, those
    /// of late, see [`Evidence::fade`].
    #[serde(default)]
    pub lookups: u64,
    /// Of those that it answered, how many since it last failed.
    #[serde(default)]
    pub clean: u64,
    /// Those that the version answered; of a shadow, those that it was asked beside the active one.
    #[serde(default)]
    pub answered: u64,
    /// How often it failed.
    #[serde(default)]
    pub faults: u64,
    /// Whether another one stands in for it now, for some caller: it is not asked then, and shows nothing.
    #[serde(default)]
    pub rests: bool,
    /// The last failure, in words.
    #[serde(default, skip_serializing_if = "SmolStr::is_empty")]
    pub last_fault: SmolStr,
    /// Lookups, by expectation, that would be refused or given nothing: by the other version, and by this one.
    #[serde(default)]
    pub refused: Pair,
    /// Whether `changed` is of those that were answered: a shadow is asked a sample of the lookups.
    #[serde(default)]
    pub sampled: bool,
    /// Lookups, by expectation, whose answer would differ.
    #[serde(default)]
    pub changed: f64,
    /// Where lookups go, by expectation: zones of this region and other regions.
    #[serde(default)]
    pub places: BTreeMap<SmolStr, Pair>,
    /// What the host took out of its plans.
    #[serde(default)]
    pub clamped: Clamped,
}

/// A figure of the other version, and of this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Of the one that it replaces.
    pub before: f64,
    /// Of the version itself.
    pub after: f64,
}

/// Shares of a version that answers are of fewer lookups than these, and of [`KEPT`] at least once there were so many. What
/// is counted are expectations, not samples, so that few are enough.
pub const WINDOW: u64 = 2_000;
/// What the lookups before weigh then.
pub const KEPT: u64 = WINDOW / 2;

/// Places that evidence tells apart; the rest is told together.
pub const MAX_PLACES: usize = 64;

impl Evidence {
    /// Adds what was seen elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.lookups = self.lookups.saturating_add(other.lookups);
        self.answered = self.answered.saturating_add(other.answered);
        self.clean = self.clean.saturating_add(other.clean);
        self.faults = self.faults.saturating_add(other.faults);
        if !other.last_fault.is_empty() {
            self.last_fault = other.last_fault.clone();
        }
        self.clamped = self.clamped.and(other.clamped);
        self.rests |= other.rests;
        self.sampled |= other.sampled;
        self.changed += other.changed;
        self.refused.before += other.refused.before;
        self.refused.after += other.refused.after;
        for (place, pair) in &other.places {
            self.place(place, *pair);
        }
    }

    /// Lets what shares are made of weigh as [`KEPT`] lookups once it is of [`WINDOW`], so that a version that was good for a
    /// million lookups and is bad from now on does not hide behind them. Counts of failures and of what was answered stay.
    pub fn fade(&mut self) {
        if self.lookups < WINDOW {
            return;
        }
        let scale = KEPT as f64 / self.lookups as f64;
        self.lookups = KEPT;
        self.changed *= scale;
        let pairs = self.places.values_mut().chain([&mut self.refused]);
        pairs.for_each(|pair| *pair = Pair { before: pair.before * scale, after: pair.after * scale });
    }

    /// Adds lookups that go to a place.
    pub fn place(&mut self, place: &SmolStr, pair: Pair) {
        let room = self.places.len() < MAX_PLACES || self.places.contains_key(place);
        let at = self.places.entry(if room { place.clone() } else { "other".into() }).or_default();
        at.before += pair.before;
        at.after += pair.after;
    }

    /// How much more of all lookups is refused, 0 to 1.
    #[must_use]
    pub fn refused_rise(&self) -> f64 {
        // Sums of fractions may pass the whole by their last digit.
        ((self.refused.after - self.refused.before) / (self.lookups.max(1) as f64)).min(1.0)
    }

    /// The place that loses most, and which share of all lookups, 0 to 1.
    #[must_use]
    pub fn shift(&self) -> Option<(&SmolStr, f64)> {
        let losses = self.places.iter().map(|(place, pair)| (place, pair.before - pair.after));
        let worst = losses.max_by(|(_, a), (_, b)| a.total_cmp(b));
        worst
            .map(|(place, loss)| (place, (loss / (self.lookups.max(1) as f64)).min(1.0)))
            .filter(|(_, loss)| *loss > 0.0)
    }
}

/// Which version is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// A candidate.
    Candidate(Stage),
    /// The active one, which has yet to soak.
    Active {
        /// How it became active.
        way: Way,
        /// For how long it has been, or since some gateway last told that it failed, in milliseconds.
        age_millis: u64,
    },
}

/// What a version is rolled back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It failed.
    Faults,
    /// It refuses lookups, or gives them nothing.
    Refused,
    /// It takes lookups from a zone or region.
    Shift,
    /// Somebody wants it so.
    Operator,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Faults, Self::Refused, Self::Shift, Self::Operator];

    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Faults => "faults",
            Self::Refused => "refused",
            Self::Shift => "shift",
            Self::Operator => "operator",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// It is known to be good.
    Good,
    /// It must not go on, for this cause: in a word, and in words.
    RollBack(Cause, SmolStr),
}

/// Time between two tellings that the active version failed: it must not become known to be good anywhere while it fails
/// somewhere, and is not to be written at each failure.
const TELL_EVERY_MILLIS: u64 = 5_000;

/// Whether a gateway that saw the active version fail is to tell the region.
///
/// `told` is how many of its failures it has told already.
#[must_use]
pub fn is_to_be_told(
    activation: &Activation,
    evidence: &Evidence,
    told: u64,
    settings: &Settings,
    now: UnixMillis,
) -> bool {
    let every = TELL_EVERY_MILLIS.min(settings.soak_millis / 2);
    let is_due =
        activation.failed_at.0 == 0 || now.since(activation.failed_at).as_millis() >= u128::from(every);
    evidence.faults > told && is_due
}

/// Judges a version by what was seen of it.
#[must_use]
pub fn judge(trial: Trial, evidence: &Evidence, settings: &Settings) -> Verdict {
    // A shadow hurts nobody, so it stays for its author to look at.
    if matches!(trial, Trial::Candidate(Stage::Shadow)) {
        return Verdict::Wait;
    }
    let staged = match trial {
        Trial::Candidate(_) => true,
        Trial::Active { way, .. } => way == Way::Promoted,
    };
    let max_faults = if staged { settings.max_faults } else { settings.max_faults.saturating_mul(PATIENCE) };
    if evidence.faults > 0 && evidence.faults >= max_faults {
        let text = format_smolstr!("{} faults, the last one {}", evidence.faults, evidence.last_fault);
        return Verdict::RollBack(Cause::Faults, text);
    }
    // Where an operator has decided, against the evidence or without any, only failures count.
    if staged && let Some((cause, why)) = worse(evidence, settings) {
        return Verdict::RollBack(cause, why);
    }
    match trial {
        Trial::Active { age_millis, .. }
            if age_millis >= settings.soak_millis
                && evidence.clean >= settings.soak_lookups
                && !evidence.rests =>
        {
            Verdict::Good
        }
        _ => Verdict::Wait,
    }
}

/// Whether lookups would be worse off.
fn worse(evidence: &Evidence, settings: &Settings) -> Option<(Cause, SmolStr)> {
    if evidence.lookups < settings.min_lookups {
        return None;
    }
    let percent = |part: f64| (part * 1000.0).round() / 10.0;
    let rise = evidence.refused_rise();
    if rise > settings.max_refused_rise {
        let why = format_smolstr!(
            "{} % of lookups would be refused or given nothing that were not before, more than {} %",
            percent(rise),
            percent(settings.max_refused_rise)
        );
        return Some((Cause::Refused, why));
    }
    let (place, loss) = evidence.shift()?;
    (loss > settings.max_shift).then(|| {
        let why = format_smolstr!(
            "{place} would lose {} % of all lookups at once, more than {} %",
            percent(loss),
            percent(settings.max_shift)
        );
        (Cause::Shift, why)
    })
}

/// Why a candidate may not be promoted yet, by what was seen of it.
#[must_use]
pub fn objection(evidence: &Evidence, settings: &Settings) -> Option<SmolStr> {
    if evidence.faults > 0 {
        return Some(format_smolstr!("it failed {} times, last: {}", evidence.faults, evidence.last_fault));
    }
    if evidence.answered < settings.promote_lookups {
        return Some(format_smolstr!(
            "it has been asked in {} lookups; {} are needed",
            evidence.answered,
            settings.promote_lookups
        ));
    }
    worse(evidence, settings).map(|(_, why)| why)
}

#[cfg(test)]
mod tests;
