//! A policy at its author's: its cases one by one, what it answers to a service, what its calls cost. No threads, no clock
//! of epochs: fuel alone ends what does not end.

use crate::cell::{Cell, Handle};
use crate::contract::{Caller, Service};
use crate::corpus;
use crate::fault::{Fault, FaultKind};
use crate::gate::{Gate, Rejected, Report};
use crate::host::HostError;
use crate::library::Compiled;
use crate::limits::{self, PREPARE_FUEL, ROUTE_FUEL, Threads};
use crate::replay;
use crate::trial;
use meridian_model::names::{PolicyName, PolicyVersion};
use meridian_model::plan::WHOLE_SHARE;
use meridian_model::policy::case::{self, Case};
use meridian_model::policy::schema::Schema;
use meridian_model::policy::sections::{CASES, SCHEMA, Sections};
use meridian_model::policy::shown;
use meridian_model::recording::Recording;
use serde::Serialize;
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often the calls that prepare are made; the median is told.
const PREPARATIONS: usize = 9;
/// Runs of lookups, and lookups in each: reading the clock at every one would cost a third of it.
const RUNS: usize = 2_000;
const RUN: u64 = 50;

/// One version of a policy, compiled.
pub struct Workbench {
    compiled: Arc<Compiled>,
    compile_time: Duration,
    cases: Vec<Case>,
    schema: Option<Schema>,
}

/// What a policy answered to one caller of one service.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It refused with these words.
    Words(String),
    /// Where lookups without key go, as long as first tiers hold, the largest share first; the rest is refused.
    Shares(Vec<Share>),
}

/// A destination of an [`Answer`].
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// An endpoint's id, a region, or `region/zone/version/group`.
    pub name: String,
    /// Of all lookups without key; 0 to 1.
    pub share: f64,
    /// The tier's reason.
    pub reason: String,
}

/// What calls cost for a service of a size. Times of `open`, `admit` and `plans` are medians.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bench {
    /// Endpoints of the service.
    pub endpoints: usize,
    /// Once for each change of the service.
    pub open_micros: u64,
    /// Fuel of the same, of 50 million.
    pub open_fuel: u64,
    /// Once for each distinct caller.
    pub admit_micros: u64,
    /// Fuel of the same.
    pub admit_fuel: u64,
    /// Likewise.
    pub plans_micros: u64,
    /// Fuel of the same.
    pub plans_fuel: u64,
    /// At every lookup: the median over runs of 50.
    pub route_nanos_p50: u64,
    /// The 99th percentile over the same runs.
    pub route_nanos_p99: u64,
    /// The most fuel that a lookup took, of 20,000.
    pub route_fuel: u64,
    /// What the instance holds, by the host's own estimate.
    pub instance_bytes: usize,
}

/// What many services that are bound to the policy hold, for each worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// How many, of 20 endpoints each, with one caller.
    pub services: usize,
    /// With an instance for each, as an uploaded policy has: by the host's own estimate.
    pub apart_bytes: usize,
    /// The same, as the system counts what the process holds: memory that it wrote to, and page tables. Nothing, where it does
    /// not tell.
    pub apart_held_bytes: Option<u64>,
    /// With one instance for all, as a standard policy has.
    pub shared_bytes: usize,
    /// The same, as the system counts.
    pub shared_held_bytes: Option<u64>,
}

impl Workbench {
    /// Compiles a module, a component, on all cores.
    ///
    /// # Errors
    /// Those of the gate, without the trial; or the engine cannot run here.
    pub fn compile(module: &[u8]) -> Result<Self, Rejected> {
        let gate = gate().map_err(unavailable)?;
        let begun = Instant::now();
        let compiled = gate.load(module)?;
        let compile_time = begun.elapsed();
        let sections = Sections::find(module).map_err(|bad| Rejected::sections(&bad))?;
        let cases = match sections.cases {
            Some(section) => {
                case::parse(section.bytes).map_err(|why| Rejected::sections(&section.error(CASES, why)))?
            }
            None => Vec::new(),
        };
        let schema = match sections.schema {
            Some(section) => Some(
                Schema::parse(section.bytes)
                    .map_err(|why| Rejected::sections(&section.error(SCHEMA, why)))?,
            ),
            None => None,
        };
        Ok(Self { compiled, compile_time, cases, schema })
    }

    /// Everything that a gateway checks at an upload, but in this process.
    ///
    /// # Errors
    /// Those of the gate; or the engine cannot run here.
    pub fn check(module: &[u8]) -> Result<Report, Rejected> {
        gate().map_err(unavailable)?.check(module).map(|(_, report)| report)
    }

    /// How long compiling took, on all cores.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Runs each of the module's own cases.
    #[must_use]
    pub fn cases(&self) -> Vec<(&str, Result<(), String>)> {
        let run = |case: &Case| {
            // A difference is told as it is; `plans:` before it would say nothing to its author.
            trial::judge(&self.compiled, case, self.schema.as_ref()).map_err(|fault| match fault.kind {
                FaultKind::Plans => fault.detail.to_string(),
                _ => fault.to_string(),
            })
        };
        self.cases.iter().map(|case| (case.name.as_str(), run(case))).collect()
    }

    /// The configs of the cases, each once, none first.
    #[must_use]
    pub fn configs(&self) -> Vec<String> {
        let mut configs = vec![String::new()];
        for config in self.cases.iter().map(Case::config) {
            if !configs.contains(&config) {
                configs.push(config);
            }
        }
        configs
    }

    /// Asks for one caller of one service.
    ///
    /// # Errors
    /// A fault, or plans that are nonsense. That the policy refuses is an answer.
    pub fn ask(
        &self,
        config: &str,
        service: &shown::Service,
        caller: &shown::Caller,
    ) -> Result<Answer, Fault> {
        let words = |fault: Fault| match fault.kind {
            FaultKind::Open | FaultKind::Admit => Ok(Answer::Words(fault.to_string())),
            _ => Err(fault),
        };
        let mut cell = Cell::new(&self.compiled)?;
        let router = match cell.open(config, &Service::shown(service)) {
            Ok(router) => router,
            Err(fault) => return words(fault),
        };
        let (view, plans) = match trial::consult(&mut cell, router, service, caller) {
            Ok(consulted) => consulted,
            Err(fault) => return words(fault),
        };
        trial::route(&mut cell, view, plans.len(), 0, 0)?;
        let mut shares: BTreeMap<String, (f64, String)> = BTreeMap::new();
        for plan in &plans {
            let share = if plans.len() == 1 { WHOLE_SHARE } else { plan.share };
            let Some(first) = plan.tiers.first() else { continue };
            let all: f64 = first.choices.iter().map(|choice| f64::from(choice.weight)).sum();
            for choice in first.choices.iter().filter(|choice| choice.weight > 0) {
                let part = f64::from(choice.weight) / all * f64::from(share) / f64::from(WHOLE_SHARE);
                let name = service.name_of(choice.destination).unwrap_or_default();
                shares.entry(name).or_insert_with(|| (0.0, first.reason.clone())).0 += part;
            }
        }
        let mut shares: Vec<Share> =
            shares.into_iter().map(|(name, (share, reason))| Share { name, share, reason }).collect();
        shares.sort_by(|a, b| b.share.total_cmp(&a.share));
        Ok(Answer::Shares(shares))
    }

    /// Which version it is.
    #[must_use]
    pub fn version(&self) -> PolicyVersion {
        self.compiled.version()
    }

    /// Answers recorded lookups again, with one config (JSON, or empty for none) or, without one, each with the config that
    /// answered it: in their order, each with the answer or the fault.
    #[must_use]
    pub fn replay(
        &self,
        recording: &Recording,
        policy: &PolicyName,
        config: Option<&str>,
    ) -> Vec<Result<SmolStr, Fault>> {
        replay::replay(&self.compiled, recording, policy, config)
    }

    /// What calls cost for services of 20 and of 5,000 endpoints, with one config.
    ///
    /// # Errors
    /// A fault, or a refusal.
    pub fn bench(&self, config: &str) -> Result<Vec<Bench>, Fault> {
        corpus::timed()
            .into_iter()
            .map(|(endpoints, service)| self.bench_one(config, endpoints, &service))
            .collect()
    }

    fn bench_one(&self, config: &str, endpoints: usize, service: &shown::Service) -> Result<Bench, Fault> {
        let caller = corpus::neighbour();
        let (mut opens, mut admits, mut plannings) = (Vec::new(), Vec::new(), Vec::new());
        let mut fuel = [0; 3];
        let mut kept = None;
        for _ in 0..PREPARATIONS {
            let mut cell = Cell::new(&self.compiled)?;
            let shown = Service::shown(service);
            let begun = Instant::now();
            let router = cell.open(config, &shown)?;
            opens.push(begun.elapsed());
            let open_fuel = used(&cell, PREPARE_FUEL);
            let asking = Caller::shown(&caller, &service.region);
            let begun = Instant::now();
            let view = cell.admit(router, &asking)?;
            admits.push(begun.elapsed());
            let admit_fuel = used(&cell, PREPARE_FUEL);
            let begun = Instant::now();
            let plans = cell.plans(view)?.len();
            plannings.push(begun.elapsed());
            fuel = [open_fuel, admit_fuel, used(&cell, PREPARE_FUEL)];
            kept = Some((cell, view, plans));
        }
        let Some((mut cell, view, plans)) = kept else {
            return Err(Fault::new(FaultKind::Missing, "nothing was prepared"));
        };
        let (mut routes, route_fuel) = lookups(&mut cell, view, plans)?;
        let [open_fuel, admit_fuel, plans_fuel] = fuel;
        Ok(Bench {
            endpoints,
            open_micros: micros(median(&mut opens)),
            open_fuel,
            admit_micros: micros(median(&mut admits)),
            admit_fuel,
            plans_micros: micros(median(&mut plannings)),
            plans_fuel,
            route_nanos_p50: at(&mut routes, 50),
            route_nanos_p99: at(&mut routes, 99),
            route_fuel,
            instance_bytes: cell.estimated_bytes(),
        })
    }

    /// What `services` services of 20 endpoints, each with one caller, hold.
    ///
    /// # Errors
    /// A fault, or a refusal.
    pub fn memory(&self, config: &str, services: usize) -> Result<Memory, Fault> {
        let [(_, service), _] = corpus::timed();
        let (shown, caller) = (Service::shown(&service), corpus::neighbour());
        // The first instance also pays for what all of them share.
        let fill = |cell: &mut Cell| {
            let router = cell.open(config, &shown)?;
            let view = cell.admit(router, &Caller::shown(&caller, &service.region))?;
            cell.plans(view).map(|_| ())
        };
        let mut first = Cell::new(&self.compiled)?;
        fill(&mut first)?;
        let before = held_bytes();
        let mut shared = Cell::new(&self.compiled)?;
        for _ in 0..services {
            fill(&mut shared)?;
        }
        let between = held_bytes();
        let mut apart = Vec::new();
        for _ in 0..services {
            let mut cell = Cell::new(&self.compiled)?;
            fill(&mut cell)?;
            apart.push(cell);
        }
        let after = held_bytes();
        let grown = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?));
        Ok(Memory {
            services,
            apart_bytes: apart.iter().map(Cell::estimated_bytes).sum(),
            apart_held_bytes: grown(between, after),
            shared_bytes: shared.estimated_bytes(),
            shared_held_bytes: grown(before, between),
        })
    }
}

fn gate() -> Result<Gate, HostError> {
    let engine = limits::engine(Threads::All).map_err(|error| HostError::Engine(format!("{error:#}")))?;
    Ok(Gate {
        engine,
        compiler: crate::Compiler::Here,
        artefacts: None,
        library: Arc::default(),
        counters: Arc::default(),
        turn: Mutex::default(),
        waiting: AtomicUsize::new(0),
    })
}

fn unavailable(error: HostError) -> Rejected {
    Rejected::new("gate-unavailable", error.to_string())
}

/// Nanoseconds of a lookup in each run, and the most fuel that one took.
fn lookups(cell: &mut Cell, view: Handle, plans: usize) -> Result<(Vec<u64>, u64), Fault> {
    let (mut routes, mut fuel) = (Vec::with_capacity(RUNS), 0);
    for first in (0..).step_by(RUN as usize).take(RUNS) {
        let begun = Instant::now();
        for n in first..first + RUN {
            let (key, entropy) = trial::lookup(n);
            trial::route(cell, view, plans, key, entropy)?;
        }
        routes.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX) / RUN);
        fuel = fuel.max(used(cell, ROUTE_FUEL));
    }
    Ok((routes, fuel))
}

fn used(cell: &Cell, of: u64) -> u64 {
    of.saturating_sub(cell.fuel_left())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn at(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values.get(values.len() * percent / 100).copied().unwrap_or(0)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What this process holds that no other memory could stand in for, page tables included, where the system tells it as
/// Linux does. Pages of a memory's image that an instance has only read are not among it: they exist once for all of them.
fn held_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("RssAnon")? + kib("VmPTE")?) * 1024)
}
