//! A constant stream of lookups that counts what failed. A lookup failed if it gave no endpoint although a live one
//! exists, which is so as long as the stream runs: that is the test's business.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

use crate::client::{Answer, Client};

/// Failures that are told in words.
const TOLD: usize = 10;
/// Streams at each gateway, on a connection each.
pub const STREAMS: usize = 2;

/// What came of the stream so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Lookups asked.
    pub lookups: u64,
    /// Lookups that gave no endpoint.
    pub failed: u64,
    /// The first failures: when, and what was answered instead.
    pub failures: Vec<String>,
    /// How often each endpoint was given.
    pub given: BTreeMap<String, u64>,
    /// The last time that each endpoint was given.
    pub last_given: BTreeMap<String, Instant>,
    /// The last time that an endpoint of each region was given.
    pub last_from: BTreeMap<String, Instant>,
    /// Answers by the policy's outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The greatest age of an answer, in milliseconds.
    pub max_age_ms: u64,
    /// Times that an answer was older than the one before it at the same gateway, by (incarnation, index).
    pub went_back: Vec<String>,
    /// The slowest answer.
    pub slowest: Duration,
}

/// A running stream.
pub struct Load {
    report: Arc<Mutex<Report>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Asks every gateway for `path`, [`STREAMS`] at a time, each about every `pace`.
    #[must_use]
    pub fn start(gateways: &[SocketAddr], path: &str, pace: Duration) -> Self {
        let report = Arc::new(Mutex::new(Report::default()));
        let began = Instant::now();
        let tasks =
            gateways.iter().flat_map(|gateway| std::iter::repeat_n(*gateway, STREAMS)).map(|gateway| {
                let (report, path) = (Arc::clone(&report), path.to_owned());
                tokio::spawn(async move {
                    let client = Client::new(gateway);
                    let mut newest = (0, 0);
                    loop {
                        let asked = Instant::now();
                        let answer = client.try_get(&path).await;
                        report.lock().unwrap().count(answer, &mut newest, began, asked);
                        tokio::time::sleep(pace).await;
                    }
                })
            });
        let tasks = tasks.collect();
        Self { report, tasks }
    }

    /// What came of it so far.
    ///
    /// # Panics
    /// Where the counting itself failed.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.lock().unwrap().clone()
    }

    /// Forgets the greatest age so far.
    ///
    /// # Panics
    /// Where the counting itself failed.
    pub fn forget_age(&self) {
        self.report.lock().unwrap().max_age_ms = 0;
    }

    /// Ends it and returns what came of it.
    #[must_use]
    pub fn stop(self) -> Report {
        self.report()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Report {
    fn count(
        &mut self,
        answer: Result<Answer, reqwest::Error>,
        newest: &mut (u64, u64),
        began: Instant,
        asked: Instant,
    ) {
        self.lookups += 1;
        self.slowest = self.slowest.max(asked.elapsed());
        let answer = match answer {
            Ok(answer) if answer.status == 200 && !answer.endpoints().is_empty() => answer,
            Ok(answer) => return self.fail(began, format!("{} {}", answer.status, answer.json)),
            Err(error) => return self.fail(began, format!("{error:?}")),
        };
        let now = Instant::now();
        for endpoint in answer["endpoints"].as_array().into_iter().flatten() {
            let region = endpoint["region"].as_str().unwrap_or("none").to_owned();
            self.last_from.insert(region, now);
        }
        for id in answer.endpoints() {
            self.last_given.insert(id.clone(), now);
            *self.given.entry(id).or_default() += 1;
        }
        let outcome = answer["policy"]["outcome"].as_str().unwrap_or("none").to_owned();
        *self.outcomes.entry(outcome).or_default() += 1;
        self.max_age_ms = self.max_age_ms.max(answer.number("ageMs"));
        let position = (incarnation(&answer), answer.number("index"));
        if position < *newest {
            self.went_back.push(format!("from {newest:?} to {position:?}"));
        }
        *newest = position;
    }

    fn fail(&mut self, began: Instant, what: String) {
        self.failed += 1;
        if self.failures.len() < TOLD {
            self.failures.push(format!("after {:?}: {what}", began.elapsed()));
        }
    }

    /// Checks that lookups were asked and none failed.
    ///
    /// # Panics
    /// Where one failed, with the first failures.
    #[track_caller]
    pub fn check(&self) {
        assert!(self.lookups > 50, "only {} lookups were asked", self.lookups);
        assert_eq!(self.failed, 0, "of {} lookups; the first: {:#?}", self.lookups, self.failures);
        assert!(self.went_back.is_empty(), "older answers after newer ones: {:?}", self.went_back);
    }
}

/// The counter of an answer's incarnation, `3` of `3-9f2c`.
///
/// # Panics
/// Where the answer has none.
#[must_use]
pub fn incarnation(answer: &Answer) -> u64 {
    let text = answer["incarnation"].as_str().unwrap_or_default();
    let counter = text.split('-').next().and_then(|counter| counter.parse().ok());
    counter.unwrap_or_else(|| panic!("{}: the incarnation is {text:?}", answer.asked))
}
