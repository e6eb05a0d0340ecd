//! An etcd in a namespace, as a process like the others. On loopback tests have `RealEtcd`, which finds free ports and can
//! be set back; here every port is free.

use crate::home::Home;
use crate::process::Process;
use std::ops::{Deref, DerefMut};
use std::path::Path;

/// An etcd of one member. What can be done to any process can be done to it.
pub struct EtcdProcess {
    process: Process,
}

impl Deref for EtcdProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for EtcdProcess {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Inside its namespace, as a region's registry is of no concern to others.
const CLIENTS: &str = "http://127.0.0.1:2379";
const PEERS: &str = "http://127.0.0.1:2380";

impl EtcdProcess {
    /// One that serves. `MERIDIAN_ETCD` names another binary than `etcd`.
    ///
    /// # Panics
    /// If it does not start: install etcd-server.
    pub async fn started(home: &Home) -> Self {
        let binary = std::env::var("MERIDIAN_ETCD").unwrap_or_else(|_| "etcd".into());
        // In memory where there is such a place: tests are about order and loss of processes, not of power.
        let shm = Path::new("/dev/shm");
        let directory = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let data = directory.path().join("data").display().to_string();
        let cluster = format!("test={PEERS}");
        let arguments = [
            ["--name", "test"],
            ["--data-dir", &data],
            ["--listen-client-urls", CLIENTS],
            ["--advertise-client-urls", CLIENTS],
            ["--listen-peer-urls", PEERS],
            ["--initial-advertise-peer-urls", PEERS],
            ["--initial-cluster", &cluster],
        ];
        let arguments = arguments.concat().into_iter().map(str::to_owned).collect();
        let mut process = Process::foreign(binary, arguments, "ready to serve client requests", directory);
        process.stand_at(home);
        let mut etcd = Self { process };
        etcd.start().await;
        etcd
    }

    /// Starts it on the data that it has, and waits until it serves.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(&mut self) {
        let _ = self.process.launch().await;
    }

    /// Where the processes of its region find it.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        vec![CLIENTS.to_owned()]
    }
}
