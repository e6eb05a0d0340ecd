//! What every module is tried on: services and callers at the edges of what a gateway shows, where policies go wrong that
//! were only ever tried on ordinary ones.
//!
//! Blank zones and the like cannot be registered; a policy has to live with them all the same, because what a gateway lets
//! in is not for a policy to rely on.

use meridian_model::policy::shown::{Caller, Endpoint, Freshness, Remote, Service, Status, Subset};

/// DESIGN 10 measures lookups of services up to this size.
const MANY: usize = 5_000;
const ZONES: [&str; 3] = ["ap-south-1a", "ap-south-1b", "ap-south-1c"];

/// One service with those who ask for it.
pub(crate) struct Input {
    /// What reports call it.
    pub(crate) name: &'static str,
    pub(crate) service: Service,
    /// With their names.
    pub(crate) callers: Vec<(&'static str, Caller)>,
    /// Costs so much that it is tried once only.
    pub(crate) is_large: bool,
}

/// Endpoints `e-0`, `e-1`, … as they mostly are, over the zones in turn.
fn endpoints(count: usize) -> Vec<Endpoint> {
    let endpoint = |n: usize| Endpoint {
        id: format!("e-{n}"),
        zone: ZONES.get(n % 3).copied().unwrap_or_default().into(),
        version: if n % 4 == 3 { "1.5.0" } else { "1.4.0" }.into(),
        group: if n % 4 == 3 { "canary" } else { "stable" }.into(),
        protocol: "http".into(),
        weight: 100,
        capacity: n.is_multiple_of(2).then_some(500),
        tags: vec!["v2".into()],
        metadata: [("team".to_owned(), "inventory".to_owned())].into(),
        ..Endpoint::default()
    };
    (0..count).map(endpoint).collect()
}

fn with_status(count: usize, status: Status) -> Vec<Endpoint> {
    endpoints(count).into_iter().map(|endpoint| Endpoint { status, ..endpoint }).collect()
}

fn subset(zone: &str, healthy: u32, total: u32) -> Subset {
    let (version, group) = ("1.4.0".into(), "stable".into());
    Subset { zone: zone.into(), version, group, healthy, total: Some(total), weight: None }
}

fn remotes() -> Vec<Remote> {
    let region = |name: &str, round_trip_ms, headroom| Remote {
        region: name.into(),
        round_trip_ms,
        headroom,
        subsets: vec![subset(&format!("{name}a"), 3, 4), subset(&format!("{name}b"), 2, 2)],
        ..Remote::default()
    };
    vec![region("eu-west-1", 100, Some(2_000)), region("us-east-1", 200, None)]
}

fn remotes_that(are: impl Fn(&mut Remote)) -> Vec<Remote> {
    let mut all = remotes();
    all.iter_mut().for_each(are);
    all
}

fn service(endpoints: Vec<Endpoint>, remotes: Vec<Remote>) -> Service {
    Service { endpoints, remotes, ..Service::default() }
}

/// Every status, two regions: what a config is tried on.
pub(crate) fn ordinary() -> Service {
    let mut all = endpoints(20);
    let statuses = [Status::Unhealthy, Status::Draining, Status::Starting];
    for (endpoint, status) in all.iter_mut().skip(1).step_by(5).zip(statuses) {
        endpoint.status = status;
    }
    if let Some(last) = all.last_mut() {
        last.degraded = true;
    }
    service(all, remotes())
}

/// A caller in the first zone.
pub(crate) fn neighbour() -> Caller {
    Caller::in_zone("ap-south-1a")
}

fn callers() -> Vec<(&'static str, Caller)> {
    let labels = [("team", "inventory"), ("x-canary", "always"), ("größe", "übergroß 🦀"), ("blank", "")];
    let labelled = Caller {
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..neighbour()
    };
    vec![
        ("a caller in the first zone", neighbour()),
        ("a caller without zone", Caller::default()),
        ("a caller in an unknown zone", Caller::in_zone("nowhere-9z")),
        (
            "a caller of another region",
            Caller { region: Some("eu-west-1".into()), ..Caller::in_zone("eu-west-1a") },
        ),
        ("a caller with labels", labelled),
    ]
}

fn blank() -> Service {
    let endpoint = |n: usize| Endpoint { id: format!("e-{n}"), weight: 100, ..Endpoint::default() };
    let nameless = Remote { subsets: vec![Subset { healthy: 1, ..Subset::default() }], ..Remote::default() };
    Service {
        endpoints: (0..4).map(endpoint).collect(),
        remotes: vec![nameless, Remote { region: "eu-west-1".into(), ..Remote::default() }],
        ..Service::default()
    }
}

fn unicode() -> Service {
    let words =
        ["größe", "версия-2", "バージョン", "🦀🦀🦀", "e\u{301}", "\u{202e}right to left", "\u{0}nul"];
    let endpoint = |(n, word): (usize, &&str)| Endpoint {
        id: format!("e-{n}"),
        zone: if n % 2 == 0 { "ap-south-1a".into() } else { format!("zone-{word}") },
        version: (*word).into(),
        group: word.repeat(8),
        protocol: (*word).into(),
        weight: 100,
        tags: words.iter().map(|tag| (*tag).to_owned()).collect(),
        metadata: words.iter().map(|key| ((*key).to_owned(), (*word).to_owned())).collect(),
        ..Endpoint::default()
    };
    let part = |word: &&str| Subset {
        zone: (*word).into(),
        version: (*word).into(),
        group: (*word).into(),
        healthy: 1,
        ..Subset::default()
    };
    let other =
        Remote {
            region: "région-é".into(), subsets: words.iter().map(part).collect(), ..Remote::default()
        };
    service(words.iter().enumerate().map(endpoint).collect(), vec![other])
}

fn zeros() -> Service {
    let nothing = Endpoint { weight: 0, capacity: Some(0), ..Endpoint::default() };
    let endpoints = endpoints(6).into_iter().map(|e| Endpoint { id: e.id, zone: e.zone, ..nothing.clone() });
    let remotes = remotes_that(|remote| {
        (remote.ramp, remote.round_trip_ms, remote.headroom) = (0, 0, Some(0));
        remote.subsets.iter_mut().for_each(|s| (s.healthy, s.total, s.weight) = (0, Some(0), Some(0)));
    });
    Service { ramp: 0, ..service(endpoints.collect(), remotes) }
}

/// As large as registrations allow, and sums of them over a large region.
fn large_numbers() -> Service {
    let endpoints = endpoints(6).into_iter().map(|e| Endpoint {
        weight: 10_000,
        capacity: Some(u64::from(u32::MAX)),
        ..e
    });
    let remotes = remotes_that(|remote| {
        (remote.round_trip_ms, remote.headroom) = (60_000, Some(u64::from(u32::MAX) * 1_000));
        remote.subsets.iter_mut().for_each(|s| {
            (s.healthy, s.total, s.weight) = (1_000_000, Some(1_000_000), Some(10_000_000_000));
        });
    });
    service(endpoints.collect(), remotes)
}

fn many_zones() -> Service {
    let scattered = endpoints(64)
        .into_iter()
        .enumerate()
        .map(|(n, e)| Endpoint { zone: format!("ap-south-1-zone-{n}"), ..e });
    let region = |n: usize| Remote {
        region: format!("region-{n}"),
        round_trip_ms: 10 * n as u32,
        subsets: (0..8).map(|zone| subset(&format!("region-{n}-zone-{zone}"), zone, 8)).collect(),
        ..Remote::default()
    };
    service(scattered.collect(), (0..16).map(region).collect())
}

/// `count` endpoints as they mostly are, a third unhealthy so that traffic spills.
fn crowd(count: usize) -> Service {
    let mut all = endpoints(count);
    all.iter_mut().skip(2).step_by(3).for_each(|endpoint| endpoint.status = Status::Unhealthy);
    service(all, remotes())
}

/// The services whose calls are timed: DESIGN 10 has numbers for these sizes.
pub(crate) fn timed() -> [(usize, Service); 2] {
    [(20, crowd(20)), (MANY, crowd(MANY))]
}

/// All of it.
pub(crate) fn inputs() -> Vec<Input> {
    let draining = Service {
        draining_zones: ZONES.map(str::to_owned).into(),
        ..service(endpoints(6), remotes_that(|remote| remote.draining = true))
    };
    let lonely = |are: fn(&mut Remote)| service(with_status(3, Status::Unhealthy), remotes_that(are));
    let inputs = [
        ("an ordinary service", ordinary()),
        ("no endpoints", service(vec![], remotes())),
        ("nothing at all", service(vec![], vec![])),
        ("one endpoint", service(endpoints(1), vec![])),
        ("no remotes", service(endpoints(6), vec![])),
        ("all unhealthy", service(with_status(6, Status::Unhealthy), remotes())),
        ("all unhealthy, no remotes", service(with_status(6, Status::Unhealthy), vec![])),
        ("all draining", service(with_status(6, Status::Draining), remotes())),
        ("all starting", service(with_status(6, Status::Starting), vec![])),
        ("every zone and region evacuated", draining),
        ("all remotes stale", lonely(|remote| remote.freshness = Freshness::Stale)),
        ("all remotes unreachable", lonely(|remote| remote.reachable = false)),
        ("remotes without endpoints", lonely(|remote| remote.subsets.clear())),
        ("blank fields", blank()),
        ("unicode", unicode()),
        ("zeros", zeros()),
        ("large numbers", large_numbers()),
        ("many zones", many_zones()),
    ];
    let mut all: Vec<Input> = inputs
        .into_iter()
        .map(|(name, service)| Input { name, service, callers: callers(), is_large: false })
        .collect();
    let first = callers().into_iter().take(1).collect();
    all.push(Input { name: "5,000 endpoints", service: crowd(MANY), callers: first, is_large: true });
    all
}
