//! A stream of lookups of several services in turn, with the time of each and with what was said of each service.

use meridian_tests::client::{Answer, Client};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Width of the windows whose p99 are compared.
const WINDOW: Duration = Duration::from_secs(1);

/// What an answer says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Said {
    pub(crate) policy: String,
    pub(crate) outcome: String,
    pub(crate) reason: String,
    /// Of the endpoint that was given.
    pub(crate) region: String,
}

/// What came of it so far.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    times: Vec<(Instant, Duration)>,
    /// Lookups that gave no endpoint.
    pub(crate) failures: Vec<String>,
    /// What answers said, by service, and how often.
    pub(crate) said: BTreeMap<String, BTreeMap<Said, usize>>,
}

impl Seen {
    pub(crate) fn lookups(&self) -> usize {
        self.times.len()
    }

    pub(crate) fn count(&mut self, service: &str, answer: Result<Answer, reqwest::Error>) {
        let answer = match answer {
            Ok(answer) if answer.status == 200 && !answer.endpoints().is_empty() => answer,
            Ok(answer) => return self.failures.push(format!("{service}: {} {}", answer.status, answer.json)),
            Err(error) => return self.failures.push(format!("{service}: {error:?}")),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let said = Said {
            policy: text(&answer["policy"]["name"]),
            outcome: text(&answer["policy"]["outcome"]),
            reason: text(&answer["policy"]["reason"]),
            region: text(&answer["endpoints"][0]["region"]),
        };
        *self.said.entry(service.to_owned()).or_default().entry(said).or_default() += 1;
    }

    /// How many answers of a service said what `is` holds for.
    pub(crate) fn count_of(&self, service: &str, is: impl Fn(&Said) -> bool) -> usize {
        self.said
            .get(service)
            .into_iter()
            .flatten()
            .filter(|(said, _)| is(said))
            .map(|(_, count)| count)
            .sum()
    }

    /// Takes over another stream's times.
    pub(crate) fn add_times(&mut self, other: &Self) {
        self.times.extend(&other.times);
    }

    /// The p99 of each window between two moments.
    pub(crate) fn p99s(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let mut windows: BTreeMap<u128, Vec<Duration>> = BTreeMap::new();
        for (at, took) in self.times.iter().filter(|(at, _)| (from..to).contains(at)) {
            windows.entry((*at - from).as_nanos() / WINDOW.as_nanos()).or_default().push(*took);
        }
        let p99 = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[(times.len() - 1) * 99 / 100]
        };
        windows.into_values().map(p99).collect()
    }
}

/// A running stream.
pub(crate) struct Stream {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Stream {
    pub(crate) fn start(client: Client, services: Vec<String>, pace: Duration) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let told = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            for (n, service) in services.iter().cycle().enumerate() {
                // With a key and without, so that both ways of choosing a plan are asked.
                let query = if n % 2 == 0 { String::new() } else { format!("?key=k{n}") };
                let begun = Instant::now();
                let answer = client.try_get(&format!("/v1/resolve/{service}{query}")).await;
                let took = begun.elapsed();
                {
                    let mut seen = told.lock().unwrap();
                    seen.times.push((begun, took));
                    seen.count(service, answer);
                }
                tokio::time::sleep(pace).await;
            }
        });
        Self { seen, task }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
