//! An instance that behaves as the contract asks: it registers, beats every third of its TTL, goes to another gateway when
//! one does not answer, and registers again when its lease is unknown.

use crate::client::{Answer, Client, instance_path, registration};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What an instance saw.
#[derive(Clone, Debug, Default)]
pub struct Diary {
    /// Registrations that were accepted.
    pub registrations: u64,
    /// Heartbeats that were accepted.
    pub beats: u64,
    /// Heartbeats that were answered with anything but 200 or 404.
    pub refused: Vec<String>,
    /// Requests that got no answer.
    pub unanswered: u64,
    /// Registrations that were answered with a refusal; the next one is made after the next heartbeat.
    pub turned_away: u64,
    /// When the last heartbeat was sent that was accepted.
    pub last_beat: Option<Instant>,
    /// When it registered last.
    pub last_registration: Option<Instant>,
    /// The lease that it holds.
    pub lease: String,
}

/// A running instance.
pub struct Workload {
    /// Its service.
    pub service: String,
    /// Its id.
    pub id: String,
    diary: Arc<Mutex<Diary>>,
    /// Held from the sending of a heartbeat until what came of it is known.
    beating: Arc<tokio::sync::Mutex<()>>,
    task: JoinHandle<()>,
}

impl Workload {
    /// Registers at the first gateway that answers, and beats from then on.
    ///
    /// # Panics
    /// Where the first registration is refused.
    pub async fn start(
        gateways: &[SocketAddr],
        token: &str,
        service: &str,
        id: &str,
        zone: &str,
        ttl_seconds: u64,
    ) -> Self {
        let mut body = registration(zone, 8080);
        body["leaseTtlSeconds"] = json!(ttl_seconds);
        let clients: Vec<Client> = gateways.iter().map(|g| Client::new(*g).bearing(token)).collect();
        let (diary, beating) = (Arc::new(Mutex::new(Diary::default())), Arc::default());
        let mut life = Life {
            clients,
            at: 0,
            place: instance_path(service, id),
            body,
            pace: Duration::from_secs(ttl_seconds) / 3,
            diary: Arc::clone(&diary),
            beating: Arc::clone(&beating),
        };
        let answer = life.register().await.expect("no gateway answers");
        assert!(matches!(answer.status, 200 | 201), "{}: {}", answer.asked, answer.json);
        let task = tokio::spawn(life.run());
        Self { service: service.to_owned(), id: id.to_owned(), diary, beating, task }
    }

    /// What it saw so far.
    ///
    /// # Panics
    /// Where its keeping failed.
    #[must_use]
    pub fn diary(&self) -> Diary {
        self.diary.lock().unwrap().clone()
    }

    /// Dies without a word, between two heartbeats. Returns when the last accepted one, or its registration, was sent.
    ///
    /// # Panics
    /// Where its keeping failed.
    pub async fn fall_silent(&self) -> Instant {
        let _between = self.beating.lock().await;
        self.task.abort();
        let diary = self.diary();
        diary.last_beat.max(diary.last_registration).unwrap()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Life {
    clients: Vec<Client>,
    at: usize,
    place: String,
    body: Value,
    pace: Duration,
    diary: Arc<Mutex<Diary>>,
    beating: Arc<tokio::sync::Mutex<()>>,
}

impl Life {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(self.pace);
        tick.tick().await;
        loop {
            tick.tick().await;
            let beating = Arc::clone(&self.beating);
            let _beating = beating.lock().await;
            let lease = self.diary.lock().unwrap().lease.clone();
            let sent = Instant::now();
            let path = format!("{}/heartbeat", self.place);
            match self.ask(Method::POST, &path, &json!({ "lease": lease })).await {
                None => {}
                Some(answer) if answer.status == 200 => {
                    let mut diary = self.diary.lock().unwrap();
                    diary.beats += 1;
                    diary.last_beat = Some(sent);
                }
                Some(answer) if answer.status == 404 => {
                    let _ = self.register().await;
                }
                Some(answer) => {
                    self.diary.lock().unwrap().refused.push(format!("{} {}", answer.status, answer.json))
                }
            }
        }
    }

    async fn register(&mut self) -> Option<Answer> {
        let sent = Instant::now();
        let (place, body) = (self.place.clone(), self.body.clone());
        let answer = self.ask(Method::PUT, &place, &body).await?;
        if matches!(answer.status, 200 | 201) {
            let mut diary = self.diary.lock().unwrap();
            diary.registrations += 1;
            diary.last_registration = Some(sent);
            diary.lease = answer["lease"]["id"].as_str().unwrap_or_default().to_owned();
        } else {
            self.diary.lock().unwrap().turned_away += 1;
        }
        Some(answer)
    }

    /// Asks the gateway that answered last, then the others.
    async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Option<Answer> {
        let headers = [("content-type", "application/json")];
        for _ in 0..self.clients.len() {
            let client = self.clients.get(self.at)?;
            let sent = client.send(method.clone(), path, &headers, Some(body.to_string().into_bytes()));
            // A paused gateway accepts connections and never answers.
            match tokio::time::timeout(self.pace, sent).await {
                Ok(Ok(answer)) => return Some(answer),
                _ => {
                    self.diary.lock().unwrap().unanswered += 1;
                    self.at = (self.at + 1) % self.clients.len();
                }
            }
        }
        None
    }
}
