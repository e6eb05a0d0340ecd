//! A gateway as a process, with the configuration that tests need.

use crate::client::Client;
use crate::home::Home;
use crate::patience;
use crate::process::{Process, START_TIMEOUT, told_address};
use crate::tokens::Issuer;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use toml::{Table, Value};

/// The region of every test's gateway, where nothing else is said.
pub const REGION: &str = "test-1";
/// Its zones.
pub const ZONES: [&str; 2] = ["test-1a", "test-1b"];

/// One gateway. What can be done to any process can be done to it.
pub struct GatewayProcess {
    process: Process,
    address: Option<SocketAddr>,
}

impl Deref for GatewayProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for GatewayProcess {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// `[registry]` of the embedded kind.
#[must_use]
pub fn embedded() -> Table {
    Table::from_iter([("kind".to_owned(), Value::from("embedded"))])
}

/// `[registry]` of an etcd.
#[must_use]
pub fn etcd(endpoints: &[String]) -> Table {
    let endpoints = Value::Array(endpoints.iter().map(|url| Value::from(url.as_str())).collect());
    Table::from_iter([("kind".to_owned(), Value::from("etcd")), ("endpoints".to_owned(), endpoints)])
}

fn identity(issuer: &Issuer) -> Table {
    let rule = |role: &str| {
        format!(
            "[[rules]]\nissuer = \"https://dev.meridian\"\nclaims = {{ groups = \"{role}\" }}\nrole = \"{role}\"\n"
        )
    };
    let text = format!(
        "[[issuers]]\nissuer = \"https://dev.meridian\"\naudience = \"meridian\"\nalgorithms = [\"ES256\"]\njwks_file = {}\n{}{}\
         [[rules]]\nissuer = \"https://dev.meridian\"\nsubject = \"spiffe://dev.meridian/ns/{{namespace}}/sa/{{service}}\"\nrole = \"workload\"\n",
        Value::from(issuer.jwks().display().to_string()),
        rule("operator"),
        rule("reader"),
    );
    toml::from_str(&text).unwrap()
}

/// The top level of a configuration.
pub(crate) fn place(region: &str, zones: &[impl AsRef<str>]) -> Table {
    let zones = zones.iter().map(|zone| Value::from(zone.as_ref())).collect();
    Table::from_iter([
        ("region".to_owned(), Value::from(region)),
        ("zones".to_owned(), Value::Array(zones)),
        ("data_dir".to_owned(), Value::from("data")),
    ])
}

impl GatewayProcess {
    /// A gateway of [`REGION`] that is not yet started, with two workers and everything else by default.
    #[must_use]
    pub fn new(issuer: &Issuer, registry: Table) -> Self {
        Self::of(REGION, &ZONES, issuer, registry)
    }

    /// The same of another region.
    #[must_use]
    pub fn of(region: &str, zones: &[impl AsRef<str>], issuer: &Issuer, registry: Table) -> Self {
        let http = Table::from_iter([
            ("listen".to_owned(), Value::from("127.0.0.1:0")),
            ("workers".to_owned(), Value::from(2)),
        ]);
        let mut config = place(region, zones);
        config.extend([
            ("registry".to_owned(), Value::Table(registry)),
            ("http".to_owned(), Value::Table(http)),
            ("identity".to_owned(), Value::Table(identity(issuer))),
        ]);
        Self { process: Process::new("gateway", config), address: None }
    }

    /// Sets a key of a section for the next start.
    #[must_use]
    pub fn with(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        self.set(section, key, value);
        self
    }

    /// Runs it there.
    #[must_use]
    pub fn at(mut self, home: &Home) -> Self {
        self.stand_at(home);
        self.set("http", "listen", SocketAddr::new(home.host(), 0).to_string());
        if !home.is_loopback() {
            // A namespace has only tests around it; a gateway wants that said.
            self.set("http", "plaintext", true);
            self.set("http", "reads", "open");
        }
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn started(mut self) -> Self {
        self.start().await;
        self
    }

    /// As [`GatewayProcess::started`]; the address stays what it was.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn start(&mut self) {
        self.launch().await;
        let client = self.client();
        patience::until("the gateway gets ready", START_TIMEOUT, async || {
            assert!(self.is_running(), "the gateway ended before it was ready");
            matches!(client.try_get("/readyz").await, Ok(answer) if answer.status == 200)
        })
        .await;
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it ends, or does not listen in time.
    pub async fn launch(&mut self) {
        let address = told_address(&self.process.launch().await, "address");
        self.address = Some(address);
        // The next start has to find the clients that this one had.
        self.set("http", "listen", address.to_string());
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Before the first start.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it was never started")
    }

    /// A client of it without a token.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.address())
    }
}
