//! Which figures the parts of a gateway show as metrics.

use crate::beats::BeatStats;
use crate::clock;
use crate::directory::Directory;
use crate::disk::saver::SaveStats;
use crate::guardian::GuardianStats;
use crate::keeper::KeeperStats;
use crate::loader::LoaderStats;
use crate::lookup::watch::WatchStats;
use crate::metrics::{Figure, Source};
use crate::steward::StewardStats;
use meridian_model::names::RegionName;
use meridian_model::remote::{FULL_RAMP, Freshness};
use meridian_model::status::Status;
use meridian_policies::Host;
use meridian_registry::etcd::Stats as EtcdStats;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn counter(name: &'static str, help: &'static str, from: &AtomicU64) -> Figure {
    Figure::counter(name, help, get(from))
}

fn gauge(name: &'static str, help: &'static str, from: &AtomicU64) -> Figure {
    Figure::gauge(name, help, get(from) as f64)
}

/// What is served, and how current it is.
pub fn directory(directory: Arc<Directory>) -> Source {
    Box::new(move || {
        let currency = &directory.currency;
        let mut by_status =
            [Status::Healthy, Status::Unhealthy, Status::Starting, Status::Draining, Status::Expired]
                .map(|status| (status, 0u64));
        for published in directory.services().into_values() {
            for endpoint in &published.current().endpoints {
                if let Some((_, count)) = by_status.iter_mut().find(|(status, _)| *status == endpoint.status)
                {
                    *count += 1;
                }
            }
        }
        let instances = Figure {
            name: "meridian_instances",
            kind: "gauge",
            help: "Instances by status",
            values: by_status.map(|(s, n)| (format!("status=\"{}\"", s.as_str()), n as f64)).into(),
        };
        let flag = |name, help, on: bool| Figure::gauge(name, help, f64::from(u8::from(on)));
        let age = currency.age_ms(clock::monotonic_now()) as f64 / 1000.0;
        vec![
            instances,
            Figure::gauge("meridian_services", "Services that are known", directory.len() as f64),
            Figure::gauge(
                "meridian_policies_disabled",
                "Switches that let a version of a policy, or all of them, not run",
                directory.rules().switches.len() as f64,
            ),
            Figure::gauge(
                "meridian_index",
                "Registry revision that answers reflect",
                currency.index() as f64,
            ),
            Figure::gauge(
                "meridian_age_seconds",
                "Time since the registry last proved this gateway current",
                age,
            ),
            Figure::counter(
                "meridian_endpoints_given_elsewhere_total",
                "Endpoints of other regions in answers",
                currency.given_elsewhere(),
            ),
            flag("meridian_registry_connected", "1 while the registry answers", currency.is_connected()),
            flag(
                "meridian_serving_from_disk",
                "1 while unconfirmed state from disk is served",
                currency.is_from_disk(),
            ),
        ]
    })
}

/// Regions as lookups see them, those too that nothing was ever heard of.
pub fn regions(own: RegionName, peers: BTreeSet<RegionName>, directory: Arc<Directory>) -> Source {
    Box::new(move || {
        let (currency, rules, now) = (&directory.currency, directory.rules(), clock::monotonic_now());
        let heard = currency.others();
        let mut known = vec![(&own, Freshness::of_age_ms(currency.age_ms(now)), currency.own_ramp())];
        known.extend(heard.iter().map(|other| {
            let freshness = other.age_ms(now).map_or(Freshness::Stale, Freshness::of_age_ms);
            (&other.name, freshness, other.page().map_or(FULL_RAMP, |page| page.standing.ramp))
        }));
        let unheard = peers.iter().filter(|peer| heard.iter().all(|other| other.name != **peer));
        known.extend(unheard.map(|peer| (peer, Freshness::Stale, FULL_RAMP)));
        let mut freshnesses = Vec::new();
        let (mut ramps, mut draining) = (Vec::new(), Vec::new());
        for (name, is, ramp) in known {
            for freshness in [Freshness::Fresh, Freshness::Suspect, Freshness::Stale] {
                let labels = format!("region=\"{name}\",freshness=\"{}\"", freshness.as_str());
                freshnesses.push((labels, f64::from(u8::from(freshness == is))));
            }
            let label = format!("region=\"{name}\"");
            ramps.push((label.clone(), f64::from(ramp) / f64::from(FULL_RAMP)));
            let asked = rules.drains.keys().filter(|(drained, _)| drained == name).count();
            draining.push((label, asked as f64));
        }
        let gauge = |name, help, values| Figure { name, kind: "gauge", help, values };
        vec![
            gauge("meridian_region_freshness", "1 for what the state of a region is", freshnesses),
            gauge("meridian_region_ramp_ratio", "Part of its rightful traffic that a region takes", ramps),
            gauge(
                "meridian_region_drains",
                "Drains that operators of this region asked for, whole or by zone",
                draining,
            ),
        ]
    })
}

/// The keeper.
pub fn keeper(stats: Arc<KeeperStats>) -> Source {
    Box::new(move || {
        vec![
            counter("meridian_snapshots_published_total", "Snapshots published", &stats.published),
            counter("meridian_registry_changes_total", "Changes applied from the registry", &stats.changes),
            counter(
                "meridian_registry_resets_total",
                "Times that the whole state was replaced",
                &stats.resets,
            ),
            counter("meridian_unreadable_records_total", "Records that could not be read", &stats.unreadable),
            gauge("meridian_instances_held", "Instances held over from a lost registry", &stats.held),
        ]
    })
}

/// The watches.
pub fn watches(stats: Arc<WatchStats>) -> Source {
    Box::new(move || {
        vec![
            gauge("meridian_watchers", "Watchers that wait", &stats.watchers),
            gauge("meridian_watched_questions", "Distinct questions that are watched", &stats.subjects),
            counter("meridian_watch_evaluations_total", "Evaluations made for watchers", &stats.evaluations),
            counter(
                "meridian_watch_wakes_total",
                "Answers that changed and woke their watchers",
                &stats.wakes,
            ),
        ]
    })
}

/// The policy host.
pub fn host(host: Arc<Host>) -> Source {
    Box::new(move || {
        let stats = host.stats();
        let faults: Vec<(&str, u64)> = stats.faults.iter().map(|(kind, n)| (kind.as_str(), *n)).collect();
        let seconds = |name, help, micros: u64| Figure {
            name,
            kind: "counter",
            help,
            values: vec![(String::new(), micros as f64 / 1e6)],
        };
        vec![
            Figure::counter("meridian_lookups_total", "Lookups routed", stats.lookups),
            Figure::by(
                "meridian_lookups_stood_in_total",
                "Lookups that another than the bound version of a policy answered, by the outcome that they tell",
                "outcome",
                &stats.stood_in,
            ),
            Figure::counter("meridian_policy_calls_total", "Calls of route", stats.calls),
            Figure::counter(
                "meridian_lookups_cold_total",
                "Lookups that found nothing prepared",
                stats.cold_lookups,
            ),
            Figure::counter(
                "meridian_lookups_warming_total",
                "Answers of the native fallback meanwhile",
                stats.warming_answers,
            ),
            Figure::by("meridian_policy_faults_total", "Faults of policies by kind", "kind", &faults),
            Figure::by(
                "meridian_policy_clamped_total",
                "Choices that the host took out of policies' plans when it prepared views, by limit",
                "limit",
                &stats.clamped,
            ),
            Figure::counter("meridian_policy_preparations_total", "Cells prepared", stats.preparations),
            seconds(
                "meridian_policy_preparation_seconds_total",
                "Time spent preparing",
                stats.preparation_micros,
            ),
            Figure::counter(
                "meridian_policy_evictions_total",
                "Services evicted from the router cache",
                stats.evictions,
            ),
            Figure::gauge(
                "meridian_policy_cache_bytes",
                "Estimated size of routers and views",
                stats.cache_bytes as f64,
            ),
            Figure::gauge(
                "meridian_policy_services",
                "Services with prepared routers",
                stats.services as f64,
            ),
            Figure::gauge("meridian_policy_views", "Prepared views", stats.views as f64),
            Figure::gauge("meridian_policy_cells", "Instances of policies", stats.cells as f64),
            Figure::gauge(
                "meridian_policy_quarantined",
                "Uploaded policies that failed wherever they were bound, and rest on this gateway",
                stats.quarantined as f64,
            ),
            Figure::gauge("meridian_policy_versions", "Versions that can be run", stats.versions as f64),
            seconds("meridian_policy_compile_seconds_total", "Time spent compiling", stats.compile_micros),
            Figure::counter("meridian_policy_compilations_total", "Modules compiled", stats.compiled),
            Figure::counter(
                "meridian_policy_artefacts_used_total",
                "Versions made runnable from disk, without compiling",
                stats.artefacts_used,
            ),
            Figure::counter(
                "meridian_policy_compilers_killed_total",
                "Compiling processes that were ended at a limit",
                stats.compilers_killed,
            ),
            Figure::by(
                "meridian_policy_rejected_total",
                "Modules that the gate refused, by code",
                "code",
                &stats.rejected,
            ),
        ]
    })
}

/// What is kept on disk.
pub fn disk(saves: Arc<SaveStats>, loads: Arc<LoaderStats>) -> Source {
    Box::new(move || {
        vec![
            counter("meridian_disk_saves_total", "States written to disk", &saves.saves),
            counter("meridian_disk_failures_total", "Writes to disk that failed", &saves.failures),
            gauge("meridian_disk_state_bytes", "Size of the last state on disk", &saves.last_bytes),
            gauge(
                "meridian_disk_saved_at_milliseconds",
                "Until when the state on disk is complete, Unix time",
                &saves.saved_at,
            ),
            counter("meridian_modules_prepared_total", "Modules of policies made runnable", &loads.prepared),
            counter(
                "meridian_modules_given_up_total",
                "Modules that are damaged, missing or refused",
                &loads.given_up,
            ),
            gauge("meridian_modules_waiting", "Versions that wait to be made runnable", &loads.waiting),
        ]
    })
}

/// The etcd registry.
pub fn etcd(stats: Arc<EtcdStats>) -> Source {
    Box::new(move || {
        vec![
            Figure::counter("meridian_etcd_writes_total", "Writes that etcd answered", stats.writes.get()),
            Figure::counter(
                "meridian_etcd_transactions_total",
                "Transactions that carried them",
                stats.transactions.get(),
            ),
            Figure::counter("meridian_etcd_reconnects_total", "Watches opened again", stats.reconnects.get()),
            Figure::counter(
                "meridian_etcd_relists_total",
                "Times that the whole state was read",
                stats.relists.get(),
            ),
            Figure::counter("meridian_etcd_compares_total", "Full compares", stats.compares.get()),
            Figure::counter(
                "meridian_etcd_divergences_total",
                "Records that a full compare found different",
                stats.divergences.get(),
            ),
        ]
    })
}

/// The guardian.
pub fn guardian(stats: Arc<GuardianStats>) -> Source {
    Box::new(move || {
        vec![
            gauge("meridian_guarded_instances", "Instances that this gateway guards", &stats.guarded),
            counter("meridian_expired_total", "Leases that it ended", &stats.expired),
            counter("meridian_removed_total", "Expired instances that it removed", &stats.removed),
            counter("meridian_check_verdicts_total", "Verdicts of health checks written", &stats.verdicts),
            counter("meridian_loads_written_total", "Loads of services written", &stats.loads),
            counter(
                "meridian_guardian_conflicts_total",
                "Rulings overtaken by another write",
                &stats.conflicts,
            ),
            counter("meridian_guardian_refused_total", "Rulings that the registry refused", &stats.refused),
            counter("meridian_guardian_unanswered_total", "Rulings without an answer", &stats.unanswered),
            counter("meridian_checks_passed_total", "Health checks that passed", &stats.checks_passed),
            counter("meridian_checks_failed_total", "Health checks that failed", &stats.checks_failed),
            gauge("meridian_checks_running", "Health checks under way", &stats.checks_running),
        ]
    })
}

/// Heartbeats.
pub fn beats(stats: Arc<BeatStats>) -> Source {
    Box::new(move || {
        vec![
            counter("meridian_heartbeats_total", "Heartbeats taken at this gateway", &stats.taken),
            counter(
                "meridian_heartbeat_batches_total",
                "Batches published to the registry",
                &stats.published,
            ),
            counter(
                "meridian_heartbeat_batches_failed_total",
                "Batches that the registry did not take",
                &stats.failed,
            ),
            counter(
                "meridian_heartbeats_dropped_total",
                "Heartbeats dropped because too many waited",
                &stats.dropped,
            ),
        ]
    })
}

/// What the steward does with versions that are tried or have yet to soak.
pub fn steward(stats: Arc<StewardStats>) -> Source {
    Box::new(move || {
        vec![
            Figure::by(
                "meridian_policy_rollbacks_total",
                "Candidates given up and active versions replaced by this gateway, by reason",
                "reason",
                &stats.rollbacks(),
            ),
            counter(
                "meridian_policy_soaked_total",
                "Versions that this gateway found to be good",
                &stats.soaked,
            ),
            counter(
                "meridian_policy_faults_reported_total",
                "Failures of versions that this gateway told to the region",
                &stats.reported,
            ),
            counter(
                "meridian_policy_decisions_unwritten_total",
                "Decisions that the registry did not take, or that another gateway had written already",
                &stats.unwritten,
            ),
            gauge(
                "meridian_policy_bindings_observed",
                "Bindings with a candidate, or with an active version that has yet to soak",
                &stats.observed,
            ),
        ]
    })
}
