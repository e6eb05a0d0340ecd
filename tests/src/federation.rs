//! A federation node as a process: `meridian federation`.

use crate::gateway::place;
use crate::home::Home;
use crate::process::{Process, told_address};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use toml::{Table, Value};

/// One node. What can be done to any process can be done to it.
pub struct FederationProcess {
    process: Process,
    address: Option<SocketAddr>,
    status: Option<SocketAddr>,
}

impl Deref for FederationProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for FederationProcess {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl FederationProcess {
    /// A node that is not yet started. `peers` are other regions with the URLs of their nodes, `tls` is
    /// `[federation.tls]`.
    #[must_use]
    pub fn of(
        region: &str,
        zones: &[impl AsRef<str>],
        registry: Table,
        peers: &[(String, Vec<String>)],
        tls: Table,
    ) -> Self {
        let peers = peers.iter().map(|(region, urls)| {
            let urls = urls.iter().map(|url| Value::from(url.as_str())).collect();
            Value::Table(Table::from_iter([
                ("region".to_owned(), Value::from(region.as_str())),
                ("urls".to_owned(), Value::Array(urls)),
            ]))
        });
        let federation = Table::from_iter([
            ("listen".to_owned(), Value::from("127.0.0.1:0")),
            ("status".to_owned(), Value::from("127.0.0.1:0")),
            ("peers".to_owned(), Value::Array(peers.collect())),
            ("tls".to_owned(), Value::Table(tls)),
        ]);
        let mut config = place(region, zones);
        config.insert("registry".to_owned(), Value::Table(registry));
        config.insert("federation".to_owned(), Value::Table(federation));
        Self { process: Process::new("federation", config), address: None, status: None }
    }

    /// Runs it there, where peers find it at `listens`.
    #[must_use]
    pub fn at(mut self, home: &Home, listens: SocketAddr) -> Self {
        self.stand_at(home);
        self.set("federation", "listen", listens.to_string());
        self.set("federation", "status", SocketAddr::new(home.host(), 0).to_string());
        self.set("federation", "status_plaintext", true);
        self
    }

    /// Starts it and waits until it listens; its addresses stay what they were.
    ///
    /// # Panics
    /// If it ends, or does not listen in time.
    pub async fn start(&mut self) {
        let line = self.process.launch().await;
        for (key, name, known) in
            [("listen", "address", &mut self.address), ("status", "status", &mut self.status)]
        {
            let address = told_address(&line, name);
            *known = Some(address);
            self.process.set("federation", key, address.to_string());
        }
    }

    /// Where other nodes and the region's gateways connect.
    ///
    /// # Panics
    /// Before the first start.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it was never started")
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    ///
    /// # Panics
    /// Before the first start.
    #[must_use]
    pub fn status(&self) -> SocketAddr {
        self.status.expect("it was never started")
    }
}
