//! Every switch and limit of the engine and of the host, in one place, with its reason and what it does not limit.

use crate::processor;
use std::time::Duration;
use wasmtime::{Config, Engine, ResourceLimiter, Store, UpdateDeadline};

/// Largest module (DESIGN 7). Does not limit what compiling it costs: that grows faster than its size for some modules, and
/// is bounded apart, in a process of its own.
pub const MAX_MODULE_BYTES: usize = 8 * 1024 * 1024;

/// Linear memory of one instance (DESIGN 7), also the sum over its memories. Does not limit how many instances there
/// are: the budget of the router cache does.
pub const MAX_MEMORY_BYTES: usize = 16 * 1024 * 1024;

/// Elements of one table. A Rust guest of 150 KB has some hundreds of functions in its table.
const MAX_TABLE_ELEMENTS: usize = 20_000;

/// Core instances, tables and memories that one component may bring. Components of other languages bring four or five.
const MAX_CORE_INSTANCES: usize = 20;
const MAX_TABLES: usize = 20;
const MAX_MEMORIES: usize = 4;

/// Stack of a guest. Workers call with at least 2 MiB of native stack, so a guest's overflow is its own trap.
const WASM_STACK_BYTES: usize = 256 * 1024;

/// Fuel of one `route` (DESIGN 7): some 20 µs. One unit is about one instruction, and one byte of bulk memory operations.
pub(crate) const ROUTE_FUEL: u64 = 20_000;

/// Fuel of each `open`, `admit` and `plans`, and of instantiation (DESIGN 7): 30 to 100 ms.
pub(crate) const PREPARE_FUEL: u64 = 50_000_000;

/// One tick of the epoch. Fuel is the budget; epochs are the net behind it, for whatever fuel does not count well. A
/// process that does nothing wakes up this often.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(4);

/// The net of one kind of call. Ticks also pass while a thread waits for its turn on a busy machine, and that must not be
/// taken for a policy's fault: so every `ticks` it is looked what processor time the thread has used, and the call ends once
/// that is `most` since the first look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    ticks: u64,
    most: Duration,
}

/// The net of `route`: a quarter of a second, far beyond what its fuel allows.
pub(crate) const ROUTE_NET: Net = Net { ticks: 16, most: Duration::from_millis(192) };

/// The net of `open`, `admit` and `plans`, and of instantiation: four seconds.
pub(crate) const PREPARE_NET: Net = Net { ticks: 250, most: Duration::from_secs(3) };

/// What one call may hand to the host, in bytes as the host holds them: lists that alias one another in the guest's
/// memory are counted each time. 256 plans of 5,000 endpoints would be 20 MB; nobody needs both.
const MAX_LIFTED_BYTES: usize = 16 * 1024 * 1024;

/// Longest text of a refusal that is kept, in bytes.
pub(crate) const MAX_DETAIL_BYTES: usize = 256;

/// Views of one service; the least recently used callers beyond are forgotten (DESIGN 7).
pub const MAX_VIEWS: usize = 1_024;

/// Distinct callers that the host can tell apart at once. Beyond, one is forgotten for each new one, mostly one that nothing is
/// prepared for.
pub(crate) const MAX_CALLERS: usize = 65_536;

/// How long a cold lookup may wait for its own preparation (invariant 1).
pub const COLD_WAIT: Duration = Duration::from_millis(20);

/// How long [`Host::evaluate`](crate::Host::evaluate) may wait before the native fallback answers.
pub(crate) const EVALUATE_WAIT: Duration = Duration::from_millis(500);

/// How long [`Host::try_out`](crate::Host::try_out) may wait: an operator does, and other trials may be before it.
pub(crate) const TRY_WAIT: Duration = Duration::from_secs(5);

/// Cold lookups that wait at once; one more is answered by the native fallback without waiting.
pub(crate) const MAX_WAITING: usize = 16_384;

/// Services that share one instance of a standard policy, at most. Looking up 5,000 services uniformly, most of the time
/// is cache misses on instances, so fewer of them are faster; but what shares an instance is rebuilt together, if it ever
/// traps.
pub(crate) const SHARED_SERVICES: usize = 256;

/// Services that are prepared together while lookups wait for them: two milliseconds' work of a core. What ends up in too
/// many instances that way is brought together later.
pub(crate) const BATCH_SERVICES: usize = 32;

/// A rebuilt service waits this long after a fault in `route` or `open`, doubled each time up to the second value.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// While what was bound lately has yet to soak, it is asked again so soon, so often: whether it fails for good is known
/// in a fifth of a second, and it is rolled back within half a second. Then it is asked less and less often, from the pause
/// on that comes second, so that the roll-back comes before the next failure.
pub(crate) const PROBATION: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(800));
pub(crate) const PROBATION_FAULTS: u32 = 8;

/// The same of one caller that a policy failed for while it goes on for others. Longer, since every failure makes a whole
/// service be prepared again, and so long that of many such callers fewer are tried each time.
pub(crate) const CALLER_BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Faults after which an uploaded policy rests on this gateway whatever it is bound to, if it works nearly nowhere. With
/// those that are under way by then, it fails ten times at most.
pub(crate) const QUARANTINE_FAULTS: usize = 8;

/// For how long, doubled each time up to the second value.
pub(crate) const QUARANTINE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// Two faults further apart than this are not the same trouble: the backoff begins anew.
pub(crate) const BACKOFF_FORGOTTEN: Duration = Duration::from_secs(120);

/// A policy whose preparation took more processor time than this is prepared apart from the quick ones, so that it delays
/// only policies like itself.
pub(crate) const SLOW_PREPARATION: Duration = Duration::from_millis(5);

/// For how long after such a preparation: a policy that is slow for some of its services must not come back for each other one.
pub(crate) const SLOW_FOR: Duration = Duration::from_secs(60);

/// Processor time that an uploaded policy may take for all callers of one service and all workers: while it does, no other of
/// its lane is prepared. One that takes more than the first has become a slow one, and may take the second.
pub(crate) const QUICK_ROW: Duration = Duration::from_millis(500);
pub(crate) const SLOW_ROW: Duration = Duration::from_secs(5);

/// How far the preparers of uploaded policies stand back behind lookups, of policies that prepare quickly and of others: one
/// that burns all its fuel each time it is prepared must not take the processor from lookups. Limits nothing on an idle
/// machine.
pub(crate) const QUICK_NICENESS: i32 = 10;
pub(crate) const SLOW_NICENESS: i32 = 19;

/// The same for what else is done beside lookups and may take long: compiling, trying configs, giving memory back.
pub(crate) const BESIDE_NICENESS: i32 = 10;

/// Configs that wait to be tried; one more is refused.
pub(crate) const MAX_WAITING_CONFIGS: usize = 64;

/// Deliveries that may lie at a worker which makes no lookups. Beyond, they are dropped and made again when it wakes.
pub(crate) const MAX_UNDELIVERED: usize = 64;

/// Versions in the library, standard ones included. Each compiled one is some 0.2 to 10 MiB of code.
pub const MAX_VERSIONS: usize = 256;

/// Services that have a shadow at once; beyond, the oldest goes. Each has an instance of its own.
pub(crate) const MAX_SHADOWS: usize = 512;

/// Estimated size of all shadows' instances.
pub(crate) const MAX_SHADOW_BYTES: usize = 64 * 1024 * 1024;

/// Callers of one service that a shadow is asked for: enough to see what it would change.
pub(crate) const MAX_SHADOW_CALLERS: usize = 64;

/// Sampled lookups that wait at one worker for the shadows; one more is not sampled.
pub(crate) const MAX_SAMPLES: usize = 256;

/// How often shadows are asked.
pub(crate) const SHADOW_TICK: Duration = Duration::from_millis(20);

/// Shadows take at most one part in so many of one core, whatever they do.
pub(crate) const SHADOW_PART: u32 = 10;

/// Processor time of one compilation: 5 s and 5 s a MiB (issue of the gate). An ordinary module takes 1.2 s a MiB; a compile
/// bomb takes minutes. Counted by the system, whole seconds.
pub(crate) fn compile_cpu(module_bytes: usize) -> Duration {
    let seconds = (module_bytes as u64).saturating_mul(5).div_ceil(MIB);
    Duration::from_secs(seconds.saturating_add(5))
}

/// Memory of one compilation, in bytes, and of the trial after it. Limits what the process may write to; what it merely
/// reserves (an instance reserves 4 GiB of addresses) is not counted.
pub(crate) fn compile_memory(module_bytes: usize) -> u64 {
    (256 * MIB).saturating_add((module_bytes as u64).saturating_mul(64))
}

const MIB: u64 = 1024 * 1024;

/// Processor time of the trial of one module, over all its inputs. Ordinary policies take a quarter of a second; a policy
/// that uses all its fuel everywhere does not get through.
pub(crate) const TRIAL_CPU: Duration = Duration::from_secs(10);

/// The same where a config is tried before it is bound, in the gateway's own process: an ordinary policy takes some 20 ms.
pub(crate) const BIND_CPU: Duration = Duration::from_secs(2);

/// The net behind processor time: a compiling process may take this many times as long by the clock, since it may have to
/// wait for its turn on a busy machine.
pub(crate) const WALL_FACTOR: u32 = 4;

/// Uploads that wait while one is compiled; one more is refused at once.
pub(crate) const MAX_WAITING_UPLOADS: usize = 8;

/// Largest compiled module that is taken from the compiling process. 8 MiB of ordinary code become 40 MiB.
pub(crate) const MAX_ARTEFACT_BYTES: usize = 128 * 1024 * 1024;

/// Compiled modules on disk, together. Their number is bounded by [`MAX_VERSIONS`].
pub(crate) const MAX_ARTEFACTS_BYTES: u64 = 1024 * MIB;

/// How far an engine spreads one compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Over all cores: for the standard policies, which lookups may be waiting for.
    All,
    /// One: an upload may take its time, and must not take the cores of the lookups.
    One,
}

/// The engine that compiles and runs every policy.
pub(crate) fn engine(threads: Threads) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        // Budgets (DESIGN 7). They do not limit memory, nor time in the host.
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        // The same answer on every gateway, whatever its processor does with the payload of a NaN.
        .cranelift_nan_canonicalization(true)
        // Backtraces name functions of the guest, cost a walk at every trap, and nobody reads them here.
        .wasm_backtrace_max_frames(None)
        // A synchronous call costs a third of one that could be suspended.
        .concurrency_support(false)
        // What rustc emits for wasm32-unknown-unknown is needed: bulk memory, multi-value, reference types. All else is off:
        // most of what was wrong with Wasm engines was wrong in these.
        .wasm_simd(false)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .wasm_extended_const(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        // No part of what makes one engine's code strange to another.
        .parallel_compilation(threads == Threads::All);
    Engine::new(&config)
}

/// The limits of one store, and what it has used of them.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory_bytes: usize,
    refused: bool,
    net: Net,
    /// What its thread had used when the running call was first looked at.
    looked: Option<Duration>,
}

impl Limiter {
    fn new() -> Self {
        Self { memory_bytes: 0, refused: false, net: PREPARE_NET, looked: None }
    }

    /// A call that used too much ends; one that did not is looked at again.
    fn look(&mut self, used: Duration) -> UpdateDeadline {
        let first = *self.looked.get_or_insert(used);
        if used.saturating_sub(first) < self.net.most {
            UpdateDeadline::Continue(self.net.ticks)
        } else {
            UpdateDeadline::Interrupt
        }
    }

    /// Size of all linear memories.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Whether the guest asked for more memory than it may have. What it did then (mostly a trap) is told as `memory`.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if wanted > MAX_MEMORY_BYTES {
            self.refused = true;
            return Ok(false);
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= MAX_TABLE_ELEMENTS;
        self.refused |= !fits;
        Ok(fits)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// A store under these limits.
pub(crate) fn store(engine: &Engine) -> Store<Limiter> {
    let mut store = Store::new(engine, Limiter::new());
    store.limiter(|limiter| limiter);
    store.set_hostcall_fuel(MAX_LIFTED_BYTES);
    store.epoch_deadline_callback(|mut store| Ok(store.data_mut().look(processor::used())));
    store
}

/// The budget of the next call.
#[inline]
pub(crate) fn allow(store: &mut Store<Limiter>, fuel: u64, net: Net) {
    // Fails only where the engine does not count fuel; this one does.
    let _ = store.set_fuel(fuel);
    store.set_epoch_deadline(net.ticks);
    let limiter = store.data_mut();
    (limiter.net, limiter.looked) = (net, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processor_time_ends_a_call() {
        let mut limiter = Limiter::new();
        let goes_on = |update| matches!(update, UpdateDeadline::Continue(_));
        let before = Duration::from_secs(100);
        // However often it is looked at: that it waits for its turn costs it nothing.
        assert!((0..10_000).all(|_| goes_on(limiter.look(before))));
        assert!(goes_on(limiter.look(before + PREPARE_NET.most - Duration::from_millis(1))));
        assert!(!goes_on(limiter.look(before + PREPARE_NET.most)));
    }
}
