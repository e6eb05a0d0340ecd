//! `meridian dev` as the README shows it: its regions federate over sockets of loopback, a service that dies in one is answered
//! for by the next while a watch shows it, also when the sockets are cut, and no lookup fails.
//!
//! It runs in a network namespace, where its ports are free and its loopback can be cut.

use meridian_tests::binary;
use meridian_tests::figures::{self, Figures};
use meridian_tests::home::Home;
use meridian_tests::namespaces::Namespaces;
use meridian_tests::patience::{throughout, until};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use tempfile::TempDir;

/// Where the federation nodes of the three regions listen.
const FEDERATION_PORTS: &str = "8510:8512";
/// Instances of the demo in each region.
const INSTANCES: u64 = 14;
/// Until all regions have started, know each other, and their instances have passed their checks.
const STARTED: Duration = Duration::from_secs(60);
/// The demo's leases are of 6 s, and it beats every two.
const FAILED_OVER: Duration = Duration::from_secs(6 + 4);
/// What a busy start added to a round trip is smoothed away, so that the next region by distance is the nearest by name too.
const SETTLED: Duration = Duration::from_secs(30);
/// A service that was away for longer than this is given back in steps.
const AWAY: Duration = Duration::from_secs(3);
/// They are ten, of a second each.
const RETURNED: Duration = Duration::from_secs(20);
/// A region whose nodes do not answer for 5 s is unreachable.
const UNREACHABLE: Duration = Duration::from_secs(5 + 3);
/// Nobody is forgotten meanwhile.
const CUT: Duration = Duration::from_secs(3);
/// A link that is dead is given up after 8 s, and dialled again after at most that.
const HEALED: Duration = Duration::from_secs(20);

/// The demo, and who asks it things.
struct Demo {
    home: Home,
    /// Where its state is, and what its programs print.
    directory: TempDir,
    running: Vec<Child>,
    /// Ends what is left in it.
    _namespaces: Namespaces,
}

impl Demo {
    fn prepare() -> Self {
        let namespaces = Namespaces::make(1);
        let (home, directory) = (namespaces.home(0), tempfile::tempdir().unwrap());
        Self { home, directory, running: Vec::new(), _namespaces: namespaces }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
        let mut command = binary::command_of(&self.home, program.as_ref());
        command.args(arguments).current_dir(self.directory.path());
        command
    }

    /// Runs a program beside, which prints into a file.
    fn begin(&mut self, program: impl AsRef<Path>, arguments: &[&str], prints: &str) {
        let out = File::create(self.file(prints)).unwrap();
        let mut command = self.command(program, arguments);
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        self.running.push(child);
    }

    /// What a program prints that must succeed; nothing where it does not.
    fn ask(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Option<String> {
        let output = self.command(program, arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn meridian(&self, arguments: &[&str]) -> String {
        let answer = self.ask(binary::meridian(), arguments);
        answer.unwrap_or_else(|| panic!("meridian {arguments:?} failed; {}", self.printed("dev")))
    }

    fn printed(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// How the first region shows each, by name.
    fn regions(&self) -> Vec<Value> {
        let answer = self.ask(binary::meridian(), &["regions", "--json"]).unwrap_or_default();
        let shown: Value = serde_json::from_str(&answer).unwrap_or_default();
        shown["items"].as_array().cloned().unwrap_or_default()
    }

    fn others_are(&self, so: impl Fn(&Value) -> bool) -> bool {
        let regions = self.regions();
        regions.len() == 3 && regions.iter().filter(|shown| shown["self"] == false).all(so)
    }

    /// The lines that a program has printed; the last one may be written just now.
    fn lines(&self, name: &str) -> Vec<String> {
        let printed = self.printed(name);
        let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    /// The newest answer of the watch: a region's share.
    fn watched(&self, region: &str) -> Option<f64> {
        let event: Value = serde_json::from_str(self.lines("watch").last()?).ok()?;
        let endpoints = event["data"]["endpoints"].as_array()?;
        let of_region = endpoints.iter().filter(|endpoint| endpoint["region"] == region);
        Some(of_region.filter_map(|endpoint| endpoint["share"].as_f64()).sum())
    }

    /// One of the others has all: which of them is nearer on loopback is chance.
    fn next_region_has_all(&self) -> bool {
        ["eu-west-1", "us-east-1"].iter().any(|region| self.watched(region) > Some(0.99))
    }

    fn figures(&self) -> Figures {
        let text = self.ask("curl", &["-sf", "http://127.0.0.1:8500/metrics"]).unwrap();
        figures::parse(&text).unwrap()
    }

    /// Bytes that the first region's node has read from others.
    fn received(&self) -> f64 {
        let figures = self.figures();
        let read =
            figures.iter().filter(|(name, _)| name.starts_with("meridian_federation_bytes_received_total"));
        read.map(|(_, bytes)| bytes).sum()
    }

    fn iptables(&self, what: &str) {
        let rule =
            ["-w", what, "INPUT", "-p", "tcp", "-m", "multiport", "--ports", FEDERATION_PORTS, "-j", "DROP"];
        assert!(self.ask("iptables", &rule).is_some(), "iptables {rule:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_loses_a_service_and_its_sockets_and_no_lookup() {
    let mut demo = Demo::prepare();
    demo.begin(binary::meridian(), &["dev"], "dev");
    until("the demo is there", STARTED, async || {
        let regions = demo.regions();
        let whole = |shown: &Value| {
            shown["freshness"] == "fresh" && shown["healthy"] == INSTANCES && shown["total"] == INSTANCES
        };
        regions.len() == 3 && regions.iter().all(whole)
    })
    .await;
    demo.begin(binary::meridian(), &["watch", "orders-api", "--zone", "ap-south-1a", "--json"], "watch");
    let asked = "http://127.0.0.1:8500/v1/resolve/orders-api?zone=ap-south-1a#[1-1000000]";
    let told = ["-s", "--rate", "50/s", "-o", "/dev/null", "-w", "%{stderr}%{http_code}\\n", asked];
    demo.begin("curl", &told, "lookups");
    until("the watch shows the own region", FAILED_OVER, async || demo.watched("ap-south-1") > Some(0.99))
        .await;

    let began = demo.received();
    // What the two others tell is of some kilobytes.
    assert!(began > 2_000.0, "two regions told {began} bytes");
    let service = ["--region", "ap-south-1", "--service", "orders-api"];
    let _ = demo.meridian(&[&["demo", "stop"][..], &service].concat());
    let took = until("the watch shows other regions only", FAILED_OVER, async || {
        demo.watched("ap-south-1") == Some(0.0)
    })
    .await;
    println!("left its region {took:?} after the service was stopped");
    until("the watch shows the next region", SETTLED, async || demo.next_region_has_all()).await;
    until("beats go over the sockets", CUT, async || demo.received() > began + 1_000.0).await;

    // All sockets between regions are cut: what was told is remembered.
    demo.iptables("-A");
    // What the kernel took before the cut may not have been read yet.
    let mut cut = demo.received();
    until("all that came is read", CUT, async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = std::mem::replace(&mut cut, demo.received());
        before == cut
    })
    .await;
    throughout("nothing comes over the sockets", CUT, async || demo.received() <= cut).await;
    until("no region answers", UNREACHABLE, async || demo.others_are(|shown| shown["reachable"] == false))
        .await;
    assert!(
        demo.watched("eu-west-1") > Some(0.0) || demo.watched("us-east-1") > Some(0.99),
        "{:?}",
        demo.regions()
    );
    demo.iptables("-D");
    let took = until("all regions answer", HEALED, async || {
        demo.others_are(|shown| shown["reachable"] == true && shown["freshness"] == "fresh")
    })
    .await;
    println!("heard again {took:?} after the sockets were mended, {} bytes in all", demo.received());

    tokio::time::sleep(AWAY).await;
    let _ = demo.meridian(&[&["demo", "start"][..], &service].concat());
    let took =
        until("the watch shows the return", RETURNED, async || demo.watched("ap-south-1") > Some(0.99)).await;
    println!("returned {took:?} after the service was started");
    let steps = demo.lines("watch").len();
    assert!(steps > 5, "{steps} changes were watched: it did not return in steps");
    let codes = demo.lines("lookups");
    let failed: Vec<&String> = codes.iter().filter(|code| *code != "200").collect();
    println!("{} lookups", codes.len());
    assert!(codes.len() > 500 && failed.is_empty(), "{failed:?} of {}", codes.len());
}
