//! The trial: a module runs on its own test cases and on the corpus before anybody may bind it.
//!
//! A policy may refuse a config or a caller by its own words. It may not trap, use up its fuel, answer nonsense, or answer
//! the same question in two ways.

use crate::cell::{Cell, Handle};
use crate::compiler::StepWords;
use crate::contract::{Caller, INTERFACE, Service};
use crate::corpus::{self, Input};
use crate::fault::{Fault, FaultKind};
use crate::gate::Rejected;
use crate::library::Compiled;
use crate::limits::{BIND_CPU, PREPARE_FUEL, ROUTE_FUEL, TRIAL_CPU};
use crate::processor;
use meridian_model::plan::{self, Plan};
use meridian_model::policy::case::{Answered, Case, Expectation};
use meridian_model::policy::schema::Schema;
use meridian_model::policy::shown;
use meridian_model::selection::Words;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol_str::SmolStr;
use std::time::{Duration, Instant};

/// Lookups that each view is asked.
const ROUTES: u64 = 16;
/// Lookups between two times that the same is asked.
const BETWEEN: u64 = 1_000;
/// Configs that the corpus is tried with: none, those that the module's schema shows, and those of its own cases.
const MAX_CONFIGS: usize = 6;
/// Of these, from the schema.
const MAX_CONFIGS_SHOWN: usize = 2;
/// Characters of a config that a refusal shows.
const SHOWN_OF_CONFIG: usize = 80;
/// Configs that the largest service is tried with.
const MAX_CONFIGS_LARGE: usize = 2;
/// Samples whose median is told, and calls in each of them.
const SAMPLES: usize = 15;
const CALLS: u64 = 200;

/// One check that was passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `size`, `component`, `sections`, `compiles`, `no-imports`, `world`, `test-cases`, `corpus`, `purity` or `time`.
    pub name: SmolStr,
    /// `passed`, or `none` where there was nothing to check.
    pub outcome: SmolStr,
    /// How long it took.
    pub millis: u64,
    /// On how many inputs.
    pub inputs: u32,
}

/// What calls cost for a service of a size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Endpoints of the service.
    pub endpoints: u32,
    /// Of `open`, once per change of the service.
    pub open_micros: u64,
    /// Fuel of the same, of 50 million.
    pub open_fuel: u64,
    /// Of `admit`, once per distinct caller.
    pub admit_micros: u64,
    /// Fuel of the same.
    pub admit_fuel: u64,
    /// Of `plans`, likewise.
    pub plans_micros: u64,
    /// Fuel of the same.
    pub plans_fuel: u64,
    /// Of `route`, at every lookup: the median.
    pub route_nanos: u64,
    /// Fuel of the same, of 20,000.
    pub route_fuel: u64,
}

/// What the trial showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// `answered`, or the words with which the policy refused an empty config.
    pub(crate) trial: SmolStr,
    pub(crate) checks: Vec<Check>,
    pub(crate) costs: Vec<Cost>,
}

/// What a view gave.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    /// Refused, by `open` or `admit`.
    Words(SmolStr),
    Plans(Vec<Plan>, Vec<u32>),
}

/// Told before each input, so that whoever watches knows what a process was at when it died.
pub(crate) type Step<'a> = &'a mut dyn FnMut(&'static str, &str);

/// Tries the module.
pub(crate) fn run(
    compiled: &Compiled,
    cases: &[Case],
    schema: Option<&Schema>,
    step: Step<'_>,
) -> Result<Findings, Rejected> {
    let mut trial = Trial::new(compiled, TRIAL_CPU, step);
    let mut findings = Findings::default();
    let mut timed = |trial: &mut Trial<'_, '_>,
                     check: &'static str,
                     run: &mut dyn FnMut(&mut Trial<'_, '_>) -> Result<u32, Fault>| {
        let begun = Instant::now();
        trial.check = check;
        let inputs = run(trial).map_err(|fault| trial.failed(&fault))?;
        let outcome = if inputs == 0 { "none" } else { "passed" };
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        findings.checks.push(Check { name: check.into(), outcome: outcome.into(), millis, inputs });
        Ok::<_, Rejected>(())
    };
    let (inputs, configs) = (corpus::inputs(), configs(cases, schema));
    let mut answers = Vec::new();
    let mut costs = Vec::new();
    timed(&mut trial, "world", &mut |trial| trial.cell("", "an instance").map(|_| 1))?;
    timed(&mut trial, "test-cases", &mut |trial| trial.cases(cases, schema))?;
    timed(&mut trial, "corpus", &mut |trial| trial.corpus(&inputs, &configs, &mut answers))?;
    let first_that_answers = answers
        .iter()
        .position(|answers| answers.iter().flatten().any(|answer| matches!(answer, Answer::Plans(..))));
    let words = match answers.first().and_then(|inputs| inputs.first()).and_then(|input| input.first()) {
        Some(Answer::Words(words)) => words.clone(),
        _ => "answered".into(),
    };
    // One that carries no config may be as good as any: it is tried with the one that it is bound with.
    let answers_a_case = || cases.iter().any(|case| !matches!(case.expect, Expectation::Refused(_)));
    if configs.len() > 1 && first_that_answers.is_none() && !answers_a_case() {
        return Err(trial.unproven(&words));
    }
    timed(&mut trial, "purity", &mut |trial| trial.purity(&inputs, &configs, &answers))?;
    let config = first_that_answers.and_then(|at| configs.get(at)).cloned();
    timed(&mut trial, "time", &mut |trial| match &config {
        Some(config) => trial.time(config, &mut costs),
        None => Ok(0),
    })?;
    findings.trial = words;
    findings.costs = costs;
    Ok(findings)
}

/// Tries a config for whoever wants to bind it, as those that a module carries are tried at the gate: whatever the corpus
/// shows, but for the largest services. The policy has to answer an ordinary service with it.
pub(crate) fn try_config(compiled: &Compiled, config: &str) -> Result<(), Rejected> {
    let mut step = |_: &'static str, _: &str| {};
    let mut trial = Trial::new(compiled, BIND_CPU, &mut step);
    trial.config(config).map_err(|fault| match fault.kind {
        // Its own words need no explanation.
        FaultKind::Open | FaultKind::Admit => Rejected::new("trial-failed", fault.to_string()),
        _ => trial.failed(&fault),
    })
}

/// The empty one first, then those that the schema shows, then those of the cases, each once.
fn configs(cases: &[Case], schema: Option<&Schema>) -> Vec<String> {
    let shown = schema.map(shown_by).unwrap_or_default();
    let mut configs = vec![String::new()];
    for config in shown.into_iter().chain(cases.iter().map(Case::config)) {
        if configs.len() < MAX_CONFIGS && !configs.contains(&config) {
            configs.push(config);
        }
    }
    configs
}

/// Configs that a schema gives as its default and its examples, and would let pass.
fn shown_by(schema: &Schema) -> Vec<String> {
    let examples = schema.value().get("examples").and_then(Value::as_array).into_iter().flatten();
    let all = schema.value().get("default").into_iter().chain(examples);
    let fits = |config: &&Value| config.is_object() && schema.errors(config).is_empty();
    all.filter(fits).take(MAX_CONFIGS_SHOWN).map(Value::to_string).collect()
}

/// Key and entropy of the `n`th lookup.
pub(crate) fn lookup(n: u64) -> (u64, u64) {
    let words = Words::of(n);
    (n % 2 * words.pick, words.route)
}

/// Admits the caller, checks the plans and asks the routes.
pub(crate) fn consult(
    cell: &mut Cell,
    router: Handle,
    service: &shown::Service,
    caller: &shown::Caller,
) -> Result<(Handle, Vec<Plan>), Fault> {
    let view = cell.admit(router, &Caller::shown(caller, &service.region))?;
    let plans = cell.plans(view)?;
    let subsets = service.remotes.iter().map(|remote| remote.subsets.len());
    plan::check(&plans, service.endpoints.len(), subsets)
        .map_err(|nonsense| Fault::new(FaultKind::Plans, nonsense.to_string()))?;
    Ok((view, plans))
}

pub(crate) fn route(
    cell: &mut Cell,
    view: Handle,
    plans: usize,
    key: u64,
    entropy: u64,
) -> Result<u32, Fault> {
    let at = cell.route(view, key, entropy)?;
    if (at as usize) < plans {
        Ok(at)
    } else {
        Err(Fault::new(FaultKind::Route, format!("plan {at} of {plans}")))
    }
}

fn routes(cell: &mut Cell, view: Handle, plans: usize) -> Result<Vec<u32>, Fault> {
    let one = |n| {
        let (key, entropy) = lookup(n);
        route(cell, view, plans, key, entropy)
    };
    (0..ROUTES).map(one).collect()
}

/// The same, asked in the opposite order, which shows whoever counts.
fn routes_backwards(cell: &mut Cell, view: Handle, plans: usize) -> Result<Vec<u32>, Fault> {
    let mut routes = Vec::new();
    for n in (0..ROUTES).rev() {
        let (key, entropy) = lookup(n);
        routes.push(route(cell, view, plans, key, entropy)?);
    }
    routes.reverse();
    Ok(routes)
}

/// Words of `open` or `admit` are an answer here.
fn or_words<T>(result: Result<T, Fault>) -> Result<Result<T, SmolStr>, Fault> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(fault) if matches!(fault.kind, FaultKind::Open | FaultKind::Admit) => {
            Ok(Err(smol_str::format_smolstr!("{fault}")))
        }
        Err(fault) => Err(fault),
    }
}

fn impure(detail: &str) -> Fault {
    let rule = "a policy must be a pure function of what it is shown";
    Fault::new(FaultKind::Plans, format!("{detail}; {rule}"))
}

/// Runs one case in an instance of its own.
pub(crate) fn judge(compiled: &Compiled, case: &Case, schema: Option<&Schema>) -> Result<(), Fault> {
    let mut cell = Cell::new(compiled)?;
    let wrong = |detail: String| Fault::new(FaultKind::Plans, detail);
    let opened = or_words(cell.open(&case.config(), &Service::shown(&case.service)))?;
    let consulted = match opened {
        Ok(router) => or_words(consult(&mut cell, router, &case.service, &case.caller))?,
        Err(words) => Err(words),
    };
    let (view, plans) = match consulted {
        Err(words) => return case.judge(Answered::Words(&words)).map_err(wrong),
        Ok(consulted) => consulted,
    };
    let at = route(&mut cell, view, plans.len(), case.key_hash(), Words::of(1).route)?;
    case.judge(Answered::Plans(&plans, at as usize)).map_err(wrong)?;
    // What the schema refuses could never be bound.
    let empty = serde_json::json!({});
    let config = if case.config.is_null() { &empty } else { &case.config };
    match schema.and_then(|schema| schema.errors(config).into_iter().next()) {
        Some(error) => {
            Err(wrong(format!("its config is refused by the schema: {} {}", error.pointer, error.message)))
        }
        None => Ok(()),
    }
}

struct Trial<'a, 's> {
    compiled: &'a Compiled,
    step: Step<'s>,
    begun: Duration,
    /// Processor time that it may take.
    limit: Duration,
    check: &'static str,
    /// What is being tried, for people.
    input: String,
}

impl<'a, 's> Trial<'a, 's> {
    fn new(compiled: &'a Compiled, limit: Duration, step: Step<'s>) -> Self {
        Self { compiled, step, begun: processor::used(), limit, check: "world", input: String::new() }
    }

    fn unproven(&self, words: &str) -> Rejected {
        let why = format!(
            "it refuses everything ({words}), so that nothing is known of how it answers; give it a test case that it answers, or \
             its schema a `default` or an example with which it does"
        );
        Rejected::at(
            &StepWords { check: self.check.into(), input: "every config that it carries".into() },
            &why,
        )
    }

    fn failed(&self, fault: &Fault) -> Rejected {
        if fault.detail.contains(INTERFACE) || fault.detail.starts_with("type mismatch") {
            return Rejected::new("wrong-world", fault.to_string());
        }
        Rejected::trial(self.check, &self.input, fault)
    }

    /// A fresh instance, if there is time left for it.
    fn cell(&mut self, config: &str, input: &str) -> Result<Cell, Fault> {
        self.at(config, input)?;
        Cell::new(self.compiled)
    }

    fn at(&mut self, config: &str, input: &str) -> Result<(), Fault> {
        // What is wrong is told behind it, and a refusal is a few lines.
        let config: String = config.chars().take(SHOWN_OF_CONFIG).collect();
        self.input = if config.is_empty() { input.to_owned() } else { format!("{input}, config {config}") };
        (self.step)(self.check, &self.input);
        if processor::used_since(self.begun) > self.limit {
            let detail = format!("the trial took more than {} s of processor time", self.limit.as_secs());
            return Err(Fault::new(FaultKind::Time, detail));
        }
        Ok(())
    }

    fn config(&mut self, config: &str) -> Result<(), Fault> {
        let (service, caller) = (corpus::ordinary(), corpus::neighbour());
        self.check = "corpus";
        let mut cell = self.cell(config, "an ordinary service")?;
        let router = cell.open(config, &Service::shown(&service))?;
        let (view, plans) = consult(&mut cell, router, &service, &caller)?;
        routes(&mut cell, view, plans.len())?;
        let inputs: Vec<Input> = corpus::inputs().into_iter().filter(|input| !input.is_large).collect();
        let (configs, mut answers) = ([config.to_owned()], Vec::new());
        self.corpus(&inputs, &configs, &mut answers)?;
        self.check = "purity";
        self.purity(&inputs, &configs, &answers).map(drop)
    }

    fn cases(&mut self, cases: &[Case], schema: Option<&Schema>) -> Result<u32, Fault> {
        for case in cases {
            self.at("", &format!("case {:?}", case.name))?;
            judge(self.compiled, case, schema)?;
        }
        Ok(count(cases.len()))
    }

    fn corpus(
        &mut self,
        inputs: &[Input],
        configs: &[String],
        answers: &mut Vec<Vec<Vec<Answer>>>,
    ) -> Result<u32, Fault> {
        let mut tried = 0;
        for (n, config) in configs.iter().enumerate() {
            let mut of_config = Vec::new();
            for input in inputs {
                let mut of_input = Vec::new();
                if !input.is_large || n < MAX_CONFIGS_LARGE {
                    let mut cell = self.cell(config, input.name)?;
                    let router = or_words(cell.open(config, &Service::shown(&input.service)))?;
                    for (name, caller) in &input.callers {
                        tried += 1;
                        self.at(config, &format!("{}, {name}", input.name))?;
                        of_input.push(match &router {
                            Ok(router) => answer(&mut cell, *router, &input.service, caller)?.0,
                            Err(words) => Answer::Words(words.clone()),
                        });
                    }
                }
                of_config.push(of_input);
            }
            answers.push(of_config);
        }
        Ok(tried)
    }

    /// Everything again: in one other instance, in the opposite order, and after many lookups.
    fn purity(
        &mut self,
        inputs: &[Input],
        configs: &[String],
        answers: &[Vec<Vec<Answer>>],
    ) -> Result<u32, Fault> {
        let mut tried = 0;
        for (config, answers) in configs.iter().zip(answers) {
            let mut cell = self.cell(config, "another instance")?;
            let mut views = Vec::new();
            let small = || inputs.iter().zip(answers).filter(|(input, _)| !input.is_large);
            // The first one comes twice: what another service leaves behind may show only then.
            for (input, before) in small().rev().chain(small().rev().take(1)) {
                self.at(config, input.name)?;
                let router = or_words(cell.open(config, &Service::shown(&input.service)))?;
                for ((name, caller), before) in input.callers.iter().zip(before).rev() {
                    tried += 1;
                    self.at(config, &format!("{}, {name}", input.name))?;
                    let (now, view) = match &router {
                        Ok(router) => answer(&mut cell, *router, &input.service, caller)?,
                        Err(words) => (Answer::Words(words.clone()), None),
                    };
                    if now != *before {
                        return Err(impure("another instance, in another order, gave another answer"));
                    }
                    if let (Some(view), Answer::Plans(plans, routes)) = (view, now) {
                        views.push((input.name, *name, view, plans.len(), routes));
                    }
                }
            }
            if let Some((_, _, view, plans, _)) = views.first() {
                self.at(config, "many lookups")?;
                for n in 0..BETWEEN {
                    let (key, entropy) = lookup(n);
                    route(&mut cell, *view, *plans, key, entropy)?;
                }
            }
            for (input, caller, view, plans, before) in &views {
                self.at(config, &format!("{input}, {caller}"))?;
                if routes(&mut cell, *view, *plans)? != *before {
                    return Err(impure("after other lookups, the same key and entropy gave another plan"));
                }
            }
        }
        Ok(tried)
    }

    fn time(&mut self, config: &str, costs: &mut Vec<Cost>) -> Result<u32, Fault> {
        let micros = |begun: Instant| u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        for (endpoints, service) in corpus::timed() {
            let mut cell = self.cell(config, &format!("{endpoints} endpoints"))?;
            let shown = Service::shown(&service);
            let begun = Instant::now();
            let Ok(router) = or_words(cell.open(config, &shown))? else { continue };
            let (open_micros, open_fuel) = (micros(begun), PREPARE_FUEL - cell.fuel_left().min(PREPARE_FUEL));
            let caller = corpus::neighbour();
            let begun = Instant::now();
            let Ok(view) = or_words(cell.admit(router, &Caller::shown(&caller, &service.region)))? else {
                continue;
            };
            let (admit_micros, admit_fuel) =
                (micros(begun), PREPARE_FUEL - cell.fuel_left().min(PREPARE_FUEL));
            let begun = Instant::now();
            let plans = cell.plans(view)?.len();
            let (plans_micros, plans_fuel) =
                (micros(begun), PREPARE_FUEL - cell.fuel_left().min(PREPARE_FUEL));
            let mut samples = [0u64; SAMPLES];
            let mut route_fuel = 0;
            for (sample, first) in samples.iter_mut().zip((0..).step_by(CALLS as usize)) {
                let begun = Instant::now();
                for n in first..first + CALLS {
                    let (key, entropy) = lookup(n);
                    route(&mut cell, view, plans, key, entropy)?;
                    route_fuel = route_fuel.max(ROUTE_FUEL - cell.fuel_left().min(ROUTE_FUEL));
                }
                *sample = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX) / CALLS;
            }
            samples.sort_unstable();
            costs.push(Cost {
                endpoints: count(endpoints),
                open_micros,
                open_fuel,
                admit_micros,
                admit_fuel,
                plans_micros,
                plans_fuel,
                route_nanos: samples.get(SAMPLES / 2).copied().unwrap_or(0),
                route_fuel,
            });
        }
        Ok(count(costs.len()))
    }
}

/// Asks everything twice, so that a policy that counts its calls shows it.
fn answer(
    cell: &mut Cell,
    router: Handle,
    service: &shown::Service,
    caller: &shown::Caller,
) -> Result<(Answer, Option<Handle>), Fault> {
    let (view, plans) = match or_words(consult(cell, router, service, caller))? {
        Ok(consulted) => consulted,
        Err(words) => return Ok((Answer::Words(words), None)),
    };
    let first = routes(cell, view, plans.len())?;
    if routes_backwards(cell, view, plans.len())? != first {
        return Err(impure("the same key and entropy gave two plans"));
    }
    Ok((Answer::Plans(plans, first), Some(view)))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
