//! The host as the gateway sees it, and the threads that it runs.

use crate::artefact::{self, Artefacts};
use crate::callers::{CallerId, Callers};
use crate::canary::Split;
use crate::carried::Carried;
use crate::clerk::{Clerk, Command, Evaluate, Failure, Job, Place, Waiter};
use crate::compiler::Compiler;
use crate::fault::{Fault, FaultKind};
use crate::gate::{Gate, Rejected, Report};
use crate::inbox::Inbox;
use crate::lane::LaneName;
use crate::library::{Compiled, Library, LibraryFull};
use crate::limits::{
    self, BESIDE_NICENESS, EVALUATE_WAIT, MAX_WAITING, MAX_WAITING_CONFIGS, TRY_WAIT, Threads,
};
use crate::observation::Observation;
use crate::preparation::{self, CanaryOrder, Order, Parcel};
use crate::processor;
use crate::remains::{self, Remains};
use crate::shadow::{Log, Runner, Tasks};
use crate::standard::{STANDARD, Standard, standard_of};
use crate::stats::{Counters, HostStats, WorkerCounters};
use crate::trial;
use crate::view::{View, WARMING};
use crate::worker::{Pending, Worker, is_of};
use meridian_model::binding::Bound;
use meridian_model::caller::Caller;
use meridian_model::names::PolicyVersion;
use meridian_model::policy::schema::ConfigError;
use meridian_model::selection::Words;
use meridian_model::snapshot::Snapshot;
use smol_str::SmolStr;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What the gateway decides.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Estimated size of all routers and views, over all workers, in bytes.
    pub router_cache_bytes: usize,
    /// Where uploads are compiled. The standard policies are compiled here: they are this program's own.
    pub compiler: Compiler,
    /// Where compiled modules are kept, below the data directory; nowhere, if none is named.
    pub artefacts: Option<PathBuf>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { router_cache_bytes: 64 * 1024 * 1024, compiler: Compiler::Here, artefacts: None }
    }
}

/// Why the host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The engine refuses this machine: no memory, or a processor or kernel that it does not know.
    #[error("the WebAssembly engine cannot run here: {0}")]
    Engine(String),
    /// The system gives no more threads, or hides this program from itself.
    #[error("cannot start a thread or a process")]
    Thread(#[from] std::io::Error),
    /// Compiled modules cannot be kept where they should be.
    #[error("{}: {source}", dir.display())]
    Artefacts {
        /// Where.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A standard policy does not compile: this program was built wrongly.
    #[error("the standard policy {0}: {1}")]
    Standard(&'static str, Rejected),
}

/// Why a config is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigRefused {
    /// The policy's own words, or the check that failed and on what.
    #[error("{0}")]
    Rejected(Rejected),
    /// Too many are being tried; in a second there is room.
    #[error("too many configs are being tried; try again in a second")]
    Busy,
}

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The view, prepared for exactly the snapshot that was asked about.
    pub view: Arc<View>,
    /// For a key, the position of its plan.
    pub plan: Option<usize>,
}

/// A config to be tried.
struct TryConfig {
    compiled: Arc<Compiled>,
    config: SmolStr,
    answer: oneshot::Sender<Result<(), Rejected>>,
}

/// What workers, the clerk and the preparers have in common.
pub(crate) struct Shared {
    commands: Sender<Command>,
    remains: Sender<Remains>,
    configs: SyncSender<TryConfig>,
    pub(crate) callers: Callers,
    pub(crate) counters: Arc<Counters>,
    library: Arc<Library>,
    gate: Arc<Gate>,
    waiting: Arc<AtomicUsize>,
    workers: Mutex<BTreeMap<usize, Arc<WorkerCounters>>>,
    next_worker: AtomicUsize,
}

impl Shared {
    pub(crate) fn send(&self, command: Command) {
        // Without clerk there is no host any more; whoever waits for an answer sees its sender dropped.
        let _ = self.commands.send(command);
    }

    pub(crate) fn bury(&self, remains: Remains) {
        if !remains.is_empty() {
            // Without that thread there is no host any more, and it is dropped here.
            let _ = self.remains.send(remains);
        }
    }

    /// Asks for a preparation and lets the lookup wait, if it may.
    pub(crate) fn ask(&self, worker: usize, snapshot: &Arc<Snapshot>, caller: CallerId) -> Pending {
        let Some(caller) = self.callers.get(caller) else { return Pending(None) };
        let place = Place::take(&self.waiting, MAX_WAITING);
        let Some(place) = place else { return Pending(None) };
        let (done, pending) = oneshot::channel();
        let waiter = Some(Waiter { done, place });
        self.send(Command::Cold { worker, snapshot: Arc::clone(snapshot), caller, waiter });
        Pending(Some(pending))
    }

    /// Asks for a preparation.
    pub(crate) fn ask_again(&self, worker: usize, snapshot: &Arc<Snapshot>, caller: CallerId) {
        if let Some(caller) = self.callers.get(caller) {
            self.send(Command::Cold { worker, snapshot: Arc::clone(snapshot), caller, waiter: None });
        }
    }

    /// The native fallback for a lookup that cannot wait.
    pub(crate) fn warming(&self, snapshot: &Arc<Snapshot>, caller: CallerId) -> Arc<View> {
        let nobody = || Arc::new(Caller::in_zone(snapshot.region.clone(), None));
        let caller = self.callers.get(caller).map_or_else(nobody, |known| Arc::clone(&known.caller));
        Arc::new(View::fallback(snapshot, &caller, SmolStr::new_static(WARMING)))
    }

    pub(crate) fn joined(&self, worker: usize, counters: &Arc<WorkerCounters>) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.insert(worker, Arc::clone(counters));
    }

    pub(crate) fn left(&self, worker: usize, counters: &WorkerCounters) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).remove(&worker);
        self.counters.worker_left(counters);
        self.send(Command::Left(worker));
    }
}

/// Runs policies. Its threads end when it is dropped.
pub struct Host {
    shared: Arc<Shared>,
}

impl Host {
    /// Starts the engine, the clerk and the preparers. A standard policy is compiled when the first service is bound to it,
    /// unless [`Host::load_standard`] was called before.
    ///
    /// # Errors
    /// The engine or the system refuses.
    pub fn start(config: HostConfig) -> Result<Arc<Self>, HostError> {
        let engine = limits::engine(Threads::All).map_err(|error| HostError::Engine(format!("{error:#}")))?;
        let library = Arc::new(Library::default());
        let counters = Arc::new(Counters::default());
        let artefacts = match config.artefacts {
            Some(dir) => Some(
                Artefacts::open(dir.clone(), artefact::engine_number(&engine))
                    .map_err(|source| HostError::Artefacts { dir, source })?,
            ),
            None => None,
        };
        let gate = Arc::new(Gate {
            engine: engine.clone(),
            compiler: config.compiler,
            artefacts,
            library: Arc::clone(&library),
            counters: Arc::clone(&counters),
            turn: Mutex::default(),
            waiting: AtomicUsize::new(0),
        });
        let (commands, inbox) = mpsc::channel();
        let mut lanes = Vec::new();
        for name in LaneName::ALL {
            let (jobs, queue) = mpsc::channel();
            let lane =
                Lane { name, library: Arc::clone(&library), gate: Arc::clone(&gate), done: commands.clone() };
            spawn(lane.thread_name(), move || lane.run(&queue))?;
            lanes.push((name, jobs));
        }
        let shadows = Arc::new(Tasks::default());
        let runner = Runner::new(Arc::clone(&library), commands.clone());
        let tasks = Arc::clone(&shadows);
        spawn("policy-shadow", move || runner.run(&tasks))?;
        let budget = config.router_cache_bytes;
        let clerk = Clerk::new(Arc::clone(&library), Arc::clone(&counters), budget, lanes, shadows);
        spawn("policy-clerk", move || run_clerk(clerk, &inbox))?;
        let (remains, buried) = mpsc::channel();
        spawn("policy-remains", move || remains::bury(&buried))?;
        let (configs, tried) = mpsc::sync_channel(MAX_WAITING_CONFIGS);
        spawn("policy-configs", move || try_configs(&tried))?;
        let weak = engine.weak();
        spawn("policy-epochs", move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(limits::EPOCH_TICK);
            }
        })?;
        let shared = Shared {
            commands,
            remains,
            configs,
            callers: Callers::default(),
            counters,
            library,
            gate,
            waiting: Arc::default(),
            workers: Mutex::default(),
            next_worker: AtomicUsize::new(0),
        };
        Ok(Arc::new(Self { shared: Arc::new(shared) }))
    }

    /// Compiles a module and tries whether it keeps the contract. Takes up to a minute of this thread, and waits for other
    /// uploads; nothing is bound, and nothing stored but the machine code.
    ///
    /// # Errors
    /// What the module lacks.
    pub fn check(&self, module: &[u8]) -> Result<(Arc<Compiled>, Report), Rejected> {
        self.shared.gate.check(module)
    }

    /// Makes a module of the registry, which passed some gateway's gate, runnable: from its machine code if it was compiled
    /// here before, else by compiling it.
    ///
    /// # Errors
    /// What the module lacks, or the library is full.
    pub fn load(&self, module: &[u8]) -> Result<(), Rejected> {
        let compiled = self.shared.gate.load(module)?;
        self.insert(compiled).map_err(|full| Rejected::full(&full))
    }

    /// Forgets a version that was deleted. Cells that run it go on; a standard one stays.
    pub fn remove(&self, version: PolicyVersion) {
        if standard_of(version).is_none() {
            self.shared.library.remove(&version);
            self.shared.gate.forget(version);
        }
    }

    /// Tries a config on made-up services and callers, as the gate tries those that a module carries: ordinarily some 20 ms,
    /// at most two seconds. One after the other and behind lookups, whoever asks.
    ///
    /// # Errors
    /// The policy's own words, or the check that failed and on what; or too many are being tried.
    pub async fn try_config(&self, compiled: Arc<Compiled>, config: SmolStr) -> Result<(), ConfigRefused> {
        let (answer, answered) = oneshot::channel();
        let waiting = self.shared.configs.try_send(TryConfig { compiled, config, answer });
        waiting.map_err(|_| ConfigRefused::Busy)?;
        answered.await.map_err(|_| ConfigRefused::Busy)?.map_err(ConfigRefused::Rejected)
    }

    /// What a version carries beside its code, if it is a standard one or in the library.
    #[must_use]
    pub fn carried(&self, version: PolicyVersion) -> Option<Carried> {
        if let Some(compiled) = self.shared.library.get(&version) {
            return Some(compiled.carried().clone());
        }
        Carried::read(standard_of(version)?.module).ok()
    }

    /// What the schema of a version says is wrong with a config (JSON, or empty for none). Nothing where there is no schema,
    /// or where the version is unknown.
    #[must_use]
    pub fn config_errors(&self, version: PolicyVersion, config: &str) -> Vec<ConfigError> {
        self.carried(version).map_or_else(Vec::new, |carried| carried.config_errors(config))
    }

    /// The compiled versions.
    #[must_use]
    pub fn library(&self) -> &Library {
        &self.shared.library
    }

    /// Puts a version into the library. Services that are bound to it and wait for it are prepared.
    ///
    /// # Errors
    /// The library is full.
    pub fn insert(&self, compiled: Arc<Compiled>) -> Result<(), LibraryFull> {
        let version = compiled.version();
        self.shared.library.insert(compiled)?;
        self.shared.send(Command::Inserted(version));
        Ok(())
    }

    /// Compiles a standard policy, unless it is in the library already. Takes some 100 ms of this thread the first time.
    ///
    /// # Errors
    /// It does not compile, or the library is full.
    pub fn load_standard(&self, standard: &'static Standard) -> Result<PolicyVersion, HostError> {
        let version = PolicyVersion::of(standard.module);
        if !self.shared.library.contains(&version) {
            let failed = |rejected| HostError::Standard(standard.name, rejected);
            let compiled = self.shared.gate.standard(standard.module).map_err(failed)?;
            self.insert(compiled).map_err(|full| failed(Rejected::full(&full)))?;
        }
        Ok(version)
    }

    /// The binding where nothing is bound: the first standard policy, without config.
    #[must_use]
    pub fn built_in() -> Bound {
        let [first, ..] = STANDARD;
        #[allow(clippy::expect_used, reason = "a constant of this program, parsed by a test")]
        let policy = first.name.parse().expect("names of standard policies fit the grammar");
        Bound { policy, version: PolicyVersion::of(first.module), config: SmolStr::default() }
    }

    /// Tells that a service changed. Cheap, and never waits.
    pub fn published(&self, snapshot: &Arc<Snapshot>) {
        self.shared.send(Command::Published(Arc::clone(snapshot)));
    }

    /// Tells that the service of this slot is gone.
    pub fn removed(&self, slot: u32) {
        self.shared.send(Command::Removed(slot));
    }

    /// A worker for one thread.
    #[must_use]
    pub fn worker(&self) -> Worker {
        let number = self.shared.next_worker.fetch_add(1, Ordering::Relaxed);
        let inbox = Arc::new(Inbox::default());
        let samples = Arc::new(Log::new());
        self.shared.send(Command::Joined(number, Arc::clone(&inbox), Arc::clone(&samples)));
        Worker::new(Arc::clone(&self.shared), number, inbox, samples)
    }

    /// What the policy gives this caller over exactly this snapshot; for a key also which plan. Off the path of lookups:
    /// for `n=all`, explain and watches. After 500 ms the native fallback answers. Needs tokio's timer.
    pub async fn evaluate(&self, snapshot: Arc<Snapshot>, caller: Caller, key: Option<u64>) -> Evaluation {
        self.ask(snapshot, caller, key, EVALUATE_WAIT).await
    }

    /// As [`Host::evaluate`], over a snapshot that nobody published: nothing is taken from what is prepared, nor kept, and
    /// a policy that takes long is waited for.
    pub async fn try_out(&self, snapshot: Arc<Snapshot>, caller: Caller, key: Option<u64>) -> Evaluation {
        // No service has this slot, so there is nothing prepared that could be mistaken for it.
        let apart = Snapshot { slot: u32::MAX, ..(*snapshot).clone() };
        self.ask(Arc::new(apart), caller, key, TRY_WAIT).await
    }

    async fn ask(
        &self,
        snapshot: Arc<Snapshot>,
        caller: Caller,
        key: Option<u64>,
        wait: Duration,
    ) -> Evaluation {
        let known = self.shared.callers.intern(caller);
        let caller = Arc::clone(&known.caller);
        let (answer, answered) = oneshot::channel();
        let question =
            Evaluate { snapshot: Arc::clone(&snapshot), caller: known, key, seed: key.unwrap_or(0), answer };
        self.shared.send(Command::Evaluate(question));
        match tokio::time::timeout(wait, answered).await {
            Ok(Ok((view, plan))) => Evaluation { view, plan },
            _ => {
                let view = View::fallback(&snapshot, &caller, SmolStr::new_static(WARMING));
                Evaluation { view: Arc::new(view), plan: key.map(|_| 0) }
            }
        }
    }

    /// What lookups have shown, here, of versions that are tried or have yet to soak.
    pub async fn observations(&self) -> Vec<Observation> {
        let (answer, answered) = oneshot::channel();
        self.shared.send(Command::Observe(answer));
        answered.await.unwrap_or_default()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> HostStats {
        let workers = self.shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let callers = self.shared.callers.count();
        let versions = self.shared.library.versions().len();
        self.shared.counters.read(workers.values().map(AsRef::as_ref), callers, versions)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.send(Command::Stop);
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("library", &self.shared.library).finish_non_exhaustive()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(|_| ())
}

fn try_configs(waiting: &Receiver<TryConfig>) {
    processor::stand_back(BESIDE_NICENESS);
    for TryConfig { compiled, config, answer } in waiting {
        // Whoever asked may have stopped waiting.
        if !answer.is_closed() {
            let _ = answer.send(trial::try_config(&compiled, &config));
        }
    }
}

fn run_clerk(mut clerk: Clerk, inbox: &Receiver<Command>) {
    loop {
        let wait = clerk.next_timer().map(|at| at.saturating_duration_since(Instant::now()));
        // A day: nothing is waited for.
        let first = match inbox.recv_timeout(wait.unwrap_or(Duration::from_secs(86_400))) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = Instant::now();
        // What came meanwhile is taken at once, so that it is prepared together.
        for command in first.into_iter().chain(inbox.try_iter()) {
            if matches!(command, Command::Stop) {
                return;
            }
            clerk.handle(command, now);
        }
        clerk.handle_timers(now);
        clerk.dispatch(now);
    }
}

/// One preparer.
struct Lane {
    name: LaneName,
    library: Arc<Library>,
    gate: Arc<Gate>,
    done: Sender<Command>,
}

impl Lane {
    fn thread_name(&self) -> &'static str {
        match self.name {
            LaneName::House => "policy-house",
            LaneName::Quick => "policy-quick",
            LaneName::Slow => "policy-slow",
        }
    }

    fn run(&self, jobs: &Receiver<Job>) {
        match self.name {
            LaneName::House => {}
            LaneName::Quick => processor::stand_back(limits::QUICK_NICENESS),
            LaneName::Slow => processor::stand_back(limits::SLOW_NICENESS),
        }
        while let Ok(job) = jobs.recv() {
            let begun = Instant::now();
            let report = match job {
                Job::Prepare { orders, workers } => {
                    orders.iter().for_each(|order| self.load_standards(order));
                    let batch = preparation::prepare(&self.library, workers.len(), &orders);
                    Command::Prepared { lane: self.name, batch, workers, took: begun.elapsed() }
                }
                Job::Evaluate { order, question } => self.evaluate(&order, question),
                Job::Canary { order, workers } => {
                    order.snapshot.binding.versions().for_each(|bound| self.load_standard(&bound.version));
                    let canary = preparation::prepare_canary(&self.library, workers.len(), &order);
                    Command::Bred { lane: self.name, order, canary, workers }
                }
            };
            if self.done.send(report).is_err() {
                return;
            }
        }
    }

    fn load_standards(&self, order: &Order) {
        order.snapshot.binding.versions().for_each(|bound| self.load_standard(&bound.version));
    }

    /// Compiles a standard policy when the first service is bound to it.
    fn load_standard(&self, version: &PolicyVersion) {
        if self.library.contains(version) {
            return;
        }
        let Some(standard) = standard_of(*version) else { return };
        match self.gate.standard(standard.module) {
            Ok(compiled) => {
                if let Err(full) = self.library.insert(compiled) {
                    tracing::error!(policy = standard.name, %full, "a standard policy cannot be loaded");
                }
            }
            Err(rejected) => {
                tracing::error!(policy = standard.name, %rejected, "a standard policy does not compile");
            }
        }
    }

    fn evaluate(&self, order: &Order, question: Evaluate) -> Command {
        self.load_standards(order);
        let mut batch = preparation::prepare(&self.library, 1, std::slice::from_ref(order));
        let parcel = batch.parcels.pop().unwrap_or_default();
        let mut failures = Vec::new();
        for prepared in batch.prepared {
            let whole = prepared.faults.into_iter().map(|(bound, fault)| (bound, None, fault));
            let of_callers =
                prepared.of_callers.into_iter().map(|(bound, id, fault)| (bound, Some(id), fault));
            let all = whole.chain(of_callers);
            failures.extend(all.map(|(bound, caller, fault)| Failure { bound, caller, fault }));
        }
        let (view, plan) = route_once(parcel, &question, order, &mut failures);
        let (view, plan) = match Split::of(&order.snapshot) {
            Some(split) => self.evaluate_canary(split, view, plan, &question, order, &mut failures),
            None => (view, plan),
        };
        let _ = question.answer.send((Arc::clone(&view), plan));
        Command::Evaluated { lane: self.name, caller: question.caller.id, view, failures }
    }

    /// The canary's answer where the key is its own, or both sides in one where there is no key.
    fn evaluate_canary(
        &self,
        split: Split,
        active: Arc<View>,
        plan: Option<usize>,
        question: &Evaluate,
        order: &Order,
        failures: &mut Vec<Failure>,
    ) -> (Arc<View>, Option<usize>) {
        let words = Words::of(question.seed);
        let candidate = order.snapshot.binding.candidate.as_ref().map(|candidate| &candidate.bound);
        let Some(bound) = candidate.filter(|bound| order.banned(bound).is_none()) else {
            return (active, plan);
        };
        if question.key.is_some() && !split.takes(words) {
            return (active, plan);
        }
        let mut failed = |caller, fault| failures.push(Failure { bound: bound.clone(), caller, fault });
        let callers = vec![(Arc::clone(&question.caller), Arc::clone(&active))];
        let canary_order = CanaryOrder { snapshot: Arc::clone(&order.snapshot), callers };
        let bred = preparation::prepare_canary(&self.library, 1, &canary_order);
        let Some(mut canary) = bred else { return (active, plan) };
        canary.faults.into_iter().for_each(|fault| failed(Some(question.caller.id), fault));
        let Some((_, view, handles)) = canary.views.pop() else { return (active, plan) };
        let Some(key) = question.key else { return (Arc::new(split.merge(&active, &view)), None) };
        let routed = canary
            .cells
            .first_mut()
            .zip(handles.first())
            .map(|(cell, handle)| cell.route(*handle, key, words.route));
        match routed {
            Some(Ok(named)) if (named as usize) < view.plans.plans.len() => {
                return (view, Some(named as usize));
            }
            Some(Ok(named)) => failed(None, no_such_plan(named, &view)),
            Some(Err(fault)) => failed(None, fault),
            None => {}
        }
        (active, plan)
    }
}

/// Routes a key through the chain of one fresh preparation.
fn route_once(
    parcel: Parcel,
    question: &Evaluate,
    order: &Order,
    failures: &mut Vec<Failure>,
) -> (Arc<View>, Option<usize>) {
    let fallback =
        |reason: SmolStr| Arc::new(View::fallback(&order.snapshot, &question.caller.caller, reason));
    let Parcel { mut cells, services } = parcel;
    let Some(post) = services.into_iter().flat_map(|(_, posts)| posts).next() else {
        return (fallback(SmolStr::new_static(WARMING)), question.key.map(|_| 0));
    };
    let Some(key) = question.key else { return (post.view, None) };
    let words = Words::of(question.seed);
    let mut chain = vec![(post.view, post.seat)];
    chain.extend(post.standby.map(|(view, seat)| (view, Some(seat))));
    let mut failed: Option<Fault> = None;
    for (view, seat) in chain {
        let Some(cell) = seat.and_then(|seat| cells.get_mut(seat.cell).map(|cell| (cell, seat.handle)))
        else {
            return (view, Some(0));
        };
        let (cell, handle) = cell;
        match cell.route(handle, key, words.route) {
            Ok(plan) if (plan as usize) < view.plans.plans.len() => {
                let view = match &failed {
                    None => view,
                    Some(fault) => Arc::new(view.after(fault)),
                };
                return (view, Some(plan as usize));
            }
            routed => {
                let fault = routed.map_or_else(|fault| fault, |plan| no_such_plan(plan, &view));
                let bound = order.snapshot.binding.versions().find(|bound| is_of(&view, bound)).cloned();
                failures.extend(bound.map(|bound| Failure { bound, caller: None, fault: fault.clone() }));
                failed.get_or_insert(fault);
            }
        }
    }
    let reason = failed.map_or(SmolStr::new_static(WARMING), |f| smol_str::format_smolstr!("{f}"));
    (fallback(reason), Some(0))
}

fn no_such_plan(plan: u32, view: &View) -> Fault {
    Fault::new(FaultKind::Route, format!("plan {plan} of {}", view.plans.plans.len()))
}
