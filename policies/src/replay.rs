//! Recorded lookups, answered again by any version: the same calls on the same inputs, without threads or clocks.

use crate::cell::{Cell, Handle};
use crate::contract::{Caller as Asking, Service};
use crate::fault::{Fault, FaultKind};
use crate::library::Compiled;
use crate::pick::{Pick, Routed};
use crate::view::{Outcome, View};
use meridian_model::binding::Bound;
use meridian_model::caller::Caller;
use meridian_model::names::{PolicyName, RegionName};
use meridian_model::plan;
use meridian_model::recording::{NOTHING, Noted, REFUSED, Recording};
use meridian_model::selection::Words;
use meridian_model::snapshot::{Place, Snapshot};
use smol_str::{SmolStr, format_smolstr};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where a lookup went, in the words of recordings, and whose answer that was.
#[must_use]
pub fn answer_of(routed: &Routed<'_>, current: &Snapshot) -> (SmolStr, &'static str) {
    let picked = match routed.pick(current) {
        Pick::Endpoint(picked) => picked,
        Pick::Refused => return (REFUSED.into(), routed.view.outcome.as_str()),
        Pick::NothingEligible => return (NOTHING.into(), routed.view.outcome.as_str()),
    };
    let answer = match current.place(picked.position) {
        Some(Place::Here(endpoint)) => endpoint.id().into(),
        Some(Place::There(remote, address)) => format_smolstr!("{}/{}", remote.region, address.name()),
        None => NOTHING.into(),
    };
    (answer, routed.outcome(picked.by).as_str())
}

/// A version at work on a recording: each lookup with `config`, or with the one that answered it where none is given.
pub(crate) fn replay(
    compiled: &Compiled,
    recording: &Recording,
    policy: &PolicyName,
    config: Option<&str>,
) -> Vec<Result<SmolStr, Fault>> {
    let mut answers: Vec<Result<SmolStr, Fault>> = vec![Ok(SmolStr::default()); recording.lookups.len()];
    let mut by_config: BTreeMap<&str, Vec<(usize, &Noted)>> = BTreeMap::new();
    for ((at, noted), answer) in recording.lookups.iter().enumerate().zip(&mut answers) {
        let recorded = || recording.answered_by.get(noted.by as usize).map(|bound| bound.config.as_str());
        match config.or_else(recorded) {
            Some(config) => by_config.entry(config).or_default().push((at, noted)),
            None => {
                let detail = format!("whose answer it was, {}, is not in the recording", noted.by);
                *answer = Err(Fault::new(FaultKind::Missing, detail));
            }
        }
    }
    for (config, lookups) in by_config {
        let bound = Bound { policy: policy.clone(), version: compiled.version(), config: config.into() };
        replay_with(compiled, recording, &bound, lookups, &mut answers);
    }
    answers
}

/// Lookups with one config, picture by picture: in one instance each, as the service would have of it.
fn replay_with(
    compiled: &Compiled,
    recording: &Recording,
    bound: &Bound,
    mut order: Vec<(usize, &Noted)>,
    answers: &mut [Result<SmolStr, Fault>],
) {
    order.sort_by_key(|(_, noted)| noted.planned);
    let mut snapshots = Snapshots { recording, bound, made: HashMap::new() };
    let mut stage: Option<Stage<'_>> = None;
    for (at, noted) in order {
        if stage.as_ref().is_none_or(|stage| stage.planned != noted.planned) {
            // Lookups are in order of their pictures: older ones are only looked at again as current ones.
            stage = None;
        }
        let answer = snapshots.of(noted.planned).and_then(|planned| {
            let current = snapshots.of(noted.current)?;
            let stage = stage.get_or_insert_with(|| Stage {
                compiled,
                bound,
                planned: noted.planned,
                snapshot: planned,
                opened: None,
            });
            stage.answer(noted, &recording.region, &current)
        });
        if let Some(place) = answers.get_mut(at) {
            *place = answer;
        }
    }
}

struct Snapshots<'a> {
    recording: &'a Recording,
    bound: &'a Bound,
    made: HashMap<u64, Arc<Snapshot>>,
}

impl Snapshots<'_> {
    fn of(&mut self, serial: u64) -> Result<Arc<Snapshot>, Fault> {
        if let Some(made) = self.made.get(&serial) {
            return Ok(Arc::clone(made));
        }
        let missing = || Fault::new(FaultKind::Missing, format!("picture {serial} is not in the recording"));
        let picture = self.recording.pictures.get(&serial).ok_or_else(missing)?;
        let snapshot = Arc::new(picture.snapshot(self.recording, serial, self.bound));
        self.made.insert(serial, Arc::clone(&snapshot));
        Ok(snapshot)
    }
}

/// The version over one picture.
struct Stage<'a> {
    compiled: &'a Compiled,
    bound: &'a Bound,
    planned: u64,
    snapshot: Arc<Snapshot>,
    opened: Option<Opened>,
}

struct Opened {
    cell: Cell,
    router: Handle,
    views: HashMap<Caller, Result<(Handle, Arc<View>), Fault>>,
}

impl Stage<'_> {
    fn answer(&mut self, noted: &Noted, region: &RegionName, current: &Snapshot) -> Result<SmolStr, Fault> {
        let answer = self.ask(noted, region, current);
        if answer.as_ref().is_err_and(Fault::ends_instance) {
            // The next lookup has a fresh one, as it would have had after a moment.
            self.opened = None;
        }
        answer
    }

    fn ask(&mut self, noted: &Noted, region: &RegionName, current: &Snapshot) -> Result<SmolStr, Fault> {
        let opened = match &mut self.opened {
            Some(opened) => opened,
            None => {
                let mut cell = Cell::new(self.compiled)?;
                let router = cell.open(&self.bound.config, &Service::of(&self.snapshot))?;
                self.opened.insert(Opened { cell, router, views: HashMap::new() })
            }
        };
        let Opened { cell, router, views } = opened;
        let caller = noted.caller(region);
        let admitted = match views.entry(caller) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let view = admit(cell, *router, &self.snapshot, place.key(), self.bound);
                place.insert(view)
            }
        };
        let (handle, view) = admitted.as_ref().map_err(Fault::clone)?;
        let words = Words::of(noted.key.unwrap_or(noted.entropy));
        let plan = cell.route(*handle, noted.key.unwrap_or(0), words.route)? as usize;
        let plans = view.plans.plans.len();
        if plan >= plans {
            return Err(Fault::new(FaultKind::Route, format!("plan {plan} of {plans}")));
        }
        Ok(answer_of(&Routed::new(view, plan, noted.key, words), current).0)
    }
}

fn admit(
    cell: &mut Cell,
    router: Handle,
    snapshot: &Arc<Snapshot>,
    caller: &Caller,
    bound: &Bound,
) -> Result<(Handle, Arc<View>), Fault> {
    let handle = cell.admit(router, &Asking::of(caller))?;
    let plans = cell.plans(handle)?;
    let ready = plan::expand(&plans, snapshot)
        .map_err(|nonsense| Fault::new(FaultKind::Plans, nonsense.to_string()))?;
    let (snapshot, caller) = (Arc::clone(snapshot), Arc::new(caller.clone()));
    Ok((handle, Arc::new(View::new(snapshot, caller, Arc::new(ready), bound, Outcome::Ok))))
}
