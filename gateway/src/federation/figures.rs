//! What the federation shows as metrics.

use super::receiver::ReceiverStats;
use crate::clock;
use crate::metrics::{Figure, Source};
use meridian_federation::service::Handle;
use meridian_federation::service::figures::PeerFigures;
use meridian_model::names::RegionName;
use std::sync::Arc;
use std::sync::atomic::Ordering;

type Read = fn(&PeerFigures) -> u64;

/// By peer region: the name, whether it only grows, the help, and where it is read.
const BY_PEER: [(&str, &str, &str, Read); 11] = [
    ("meridian_federation_links", "gauge", "Links that are up", |p| p.connected.get()),
    ("meridian_federation_links_opened_total", "counter", "Links that came up", |p| p.opened.get()),
    ("meridian_federation_dial_failures_total", "counter", "Attempts to dial that failed", |p| {
        p.dial_failures.get()
    }),
    ("meridian_federation_violations_total", "counter", "Links ended because the peer broke a rule", |p| {
        p.violations.get()
    }),
    ("meridian_federation_overflows_total", "counter", "Links ended because the peer did not read", |p| {
        p.overflows.get()
    }),
    ("meridian_federation_silences_total", "counter", "Links ended because nothing came", |p| {
        p.silences.get()
    }),
    ("meridian_federation_messages_received_total", "counter", "Messages received", |p| p.messages_in.get()),
    ("meridian_federation_messages_sent_total", "counter", "Messages sent", |p| p.messages_out.get()),
    ("meridian_federation_bytes_received_total", "counter", "Bytes received, TLS included", |p| {
        p.bytes_in.get()
    }),
    ("meridian_federation_bytes_sent_total", "counter", "Bytes sent, TLS included", |p| p.bytes_out.get()),
    ("meridian_federation_queued_messages", "gauge", "Messages that wait to be sent", |p| p.queued.get()),
];

/// How other regions stand, what the links carry, and what the exchange counted.
pub(crate) fn federation(own: RegionName, handle: Handle, stats: Arc<ReceiverStats>) -> Source {
    Box::new(move || {
        let mut figures = standings(&own, &handle);
        let peers = handle.figures().peers();
        figures.extend(BY_PEER.map(|(name, kind, help, read)| {
            let values = peers.iter().map(|(region, p)| (format!("peer=\"{region}\""), read(p) as f64));
            Figure { name, kind, help, values: values.collect() }
        }));
        let (all, counters) = (handle.figures(), handle.overview().counters);
        let get = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
        figures.extend(
            [
                (
                    "meridian_federation_strangers_total",
                    "Connections dropped without a name",
                    all.strangers.get(),
                ),
                ("meridian_federation_refused_peers_total", "Peers refused by name", all.refused.get()),
                (
                    "meridian_federation_certificate_reloads_total",
                    "Certificates taken into force",
                    all.reloads.get(),
                ),
                (
                    "meridian_federation_certificate_reload_failures_total",
                    "Certificate files that could not be used",
                    all.failed_reloads.get(),
                ),
                ("meridian_federation_states_total", "States of origins taken", counters.states_taken),
                ("meridian_federation_outdated_total", "News older than what is held", counters.outdated),
                ("meridian_federation_divergences_total", "Two states at one place", counters.divergences),
                ("meridian_federation_bucket_syncs_total", "Comparisons of buckets", counters.bucket_syncs),
                (
                    "meridian_federation_dropped_transfers_total",
                    "Updates given up",
                    counters.transfers_dropped,
                ),
                ("meridian_federation_signatures_total", "Signatures checked", counters.signatures_checked),
                ("meridian_federation_refused_heads_total", "Heads refused", counters.refused_heads),
                ("meridian_federation_raises_total", "Incarnations asked to be raised", counters.raises),
                (
                    "meridian_federation_unreadable_total",
                    "Records that could not be read",
                    get(&stats.unreadable),
                ),
                ("meridian_federation_saves_total", "Times the held state was saved", get(&stats.saves)),
                (
                    "meridian_federation_save_failures_total",
                    "Times it could not be",
                    get(&stats.save_failures),
                ),
            ]
            .map(|(name, help, value)| Figure::counter(name, help, value)),
        );
        let ends = all.certificate_ends.get() as f64;
        let help = "When the certificate in force ends, in seconds since 1970";
        figures.push(Figure::gauge("meridian_federation_certificate_expiry_timestamp_seconds", help, ends));
        figures
    })
}

fn standings(own: &RegionName, handle: &Handle) -> Vec<Figure> {
    let overview = handle.overview();
    let since = clock::monotonic_now().since(overview.at);
    let others = || overview.standings.iter().filter(|(region, _)| *region != own);
    let label = |region: &RegionName| format!("region=\"{region}\"");
    let gauge = |name, help, values| Figure { name, kind: "gauge", help, values };
    let ages = others()
        .filter_map(|(region, standing)| Some((label(region), (standing.age? + since).as_secs_f64())))
        .collect();
    let reachable = others().map(|(region, s)| (label(region), f64::from(u8::from(s.reachable)))).collect();
    let round_trips =
        others().filter_map(|(region, s)| Some((label(region), s.round_trip?.as_secs_f64()))).collect();
    vec![
        gauge("meridian_region_age_seconds", "Time since a region's state was proven current", ages),
        gauge("meridian_region_reachable", "1 while a node of the region answers directly", reachable),
        gauge("meridian_region_round_trip_seconds", "Smoothed round trip to a region", round_trips),
    ]
}
