//! Regions in network namespaces: a machine's worth of network each, behind a router that drops what a fault says.
//!
//! ```text
//!  this process ── host ┐                 ┌ r0 ── region 0
//!                       ├─ router (drops) ┼ r1 ── region 1
//!                                         └ r2 ── region 2
//! ```
//!
//! What is dropped is lost without a word, as on a dead link: no reset, no refusal, and TCP goes on sending less and less
//! often. Only what goes from region to region can be dropped, so that a test's own clients reach all of them throughout.
//!
//! A world has a /24 of its own, whose route is also the claim on it: the kernel refuses a second one. Names carry the
//! process that made them; what one left that was killed is removed by the next.

use crate::home::Home;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Begins the names of namespaces, which are `meridian-test-PID-COUNT-PART`.
pub const NAMES: &str = "meridian-test";
/// Worlds have `10.213.N.0/24`.
const PREFIX: [u8; 2] = [10, 213];
/// Addresses between two links of a world: a /28 each.
const LINK: u8 = 16;
/// Regions that have room in a /24 beside this process.
const MOST: usize = 8;

/// The namespaces of one world, and the links between them.
pub struct Namespaces {
    /// Without its part.
    name: String,
    regions: usize,
    /// The third byte of every address.
    net: u8,
}

#[track_caller]
fn succeeded(what: &str, output: &Output) -> String {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn ip(arguments: &[&str]) -> Output {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| panic!("cannot run ip ({e}): install iproute2 (apt-get install iproute2)"))
}

/// Lines for `ip`, in a namespace or in this process's own.
#[track_caller]
fn ip_lines(namespace: Option<&str>, lines: &str) {
    let mut command = Command::new("ip");
    command.args(namespace.iter().flat_map(|name| ["-n", name])).args(["-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let _ = succeeded(&format!("ip -batch in {namespace:?}:\n{lines}"), &child.wait_with_output().unwrap());
}

/// Where this process has no right to make namespaces, or no tool for it, the test fails.
#[track_caller]
fn require() {
    assert_eq!(std::env::consts::OS, "linux", "network namespaces are Linux's: run these tests there");
    assert!(geteuid().is_root(), "only root makes network namespaces: run these tests as root");
    for (program, package) in [("ip", "iproute2"), ("iptables", "iptables")] {
        let there = Command::new(program).arg("-V").output().is_ok_and(|output| output.status.success());
        assert!(there, "{program} is not there: install {package} (apt-get install {package})");
    }
}

/// Names of the namespaces of all worlds, with the process that made each.
///
/// # Panics
/// Where they cannot be listed.
#[must_use]
pub fn all() -> Vec<(String, u32)> {
    let listed = succeeded("ip netns list", &ip(&["netns", "list"]));
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    let made_by = |name: &str| name.strip_prefix(NAMES)?.strip_prefix('-')?.split('-').next()?.parse().ok();
    names.filter_map(|name| Some((name.to_owned(), made_by(name)?))).collect()
}

/// Ends what runs in a namespace, and the namespace. Another run may be at it too.
fn remove(name: &str) {
    let inside = ip(&["netns", "pids", name]);
    for pid in String::from_utf8_lossy(&inside.stdout).lines() {
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = ip(&["netns", "delete", name]);
}

impl Namespaces {
    /// So many regions, all of which reach each other.
    ///
    /// # Panics
    /// Where this process may not, or a tool is missing: says what to do.
    #[must_use]
    pub fn make(regions: usize) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        assert!(regions <= MOST, "a /24 has no room for {regions} regions");
        require();
        let left = all().into_iter().filter(|(_, by)| !Path::new(&format!("/proc/{by}")).exists());
        left.for_each(|(name, _)| remove(&name));

        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut made = Self { name: format!("{NAMES}-{pid}-{count}"), regions, net: 0 };
        for part in made.names() {
            let _ = succeeded("ip netns add", &ip(&["netns", "add", &part]));
            ip_lines(Some(&part), "link set lo up\n");
        }
        made.reach_from_here(&format!("mn{pid}-{count}"));
        (0..regions).for_each(|at| made.connect(at));
        made.in_router("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        made
    }

    fn router(&self) -> String {
        format!("{}-router", self.name)
    }

    fn region(&self, at: usize) -> String {
        format!("{}-{at}", self.name)
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        std::iter::once(self.router()).chain((0..self.regions).map(|at| self.region(at))).collect()
    }

    /// The router's and the other end's address on a link: that to this process is the first, then come the regions.
    fn ends(&self, link: usize) -> [Ipv4Addr; 2] {
        let first = LINK * u8::try_from(link).unwrap();
        [1, 2].map(|end| Ipv4Addr::new(PREFIX[0], PREFIX[1], self.net, first + end))
    }

    /// A link from this process's own namespace to the router, and the claim on a /24.
    fn reach_from_here(&mut self, device: &str) {
        let router = self.router();
        ip_lines(
            None,
            &format!("link add {device} type veth peer name host netns {router}\nlink set {device} up\n"),
        );
        let first = u8::try_from(std::process::id() % 256).unwrap();
        let claimed = (0..=255).map(|n| first.wrapping_add(n)).find(|net| {
            let net = format!("{}.{}.{net}.0/24", PREFIX[0], PREFIX[1]);
            ip(&["route", "add", &net, "dev", device]).status.success()
        });
        self.net = claimed.expect("every /24 is taken, or routes cannot be added");
        let ([at_router, here], net) = (self.ends(0), Ipv4Addr::new(PREFIX[0], PREFIX[1], self.net, 0));
        ip_lines(Some(&router), &format!("addr add {at_router}/28 dev host\nlink set host up\n"));
        ip_lines(
            None,
            &format!(
                "addr add {here}/28 dev {device}\nroute replace {net}/24 via {at_router} dev {device}\n"
            ),
        );
    }

    fn connect(&self, at: usize) {
        let ([at_router, there], (router, region)) = (self.ends(at + 1), (self.router(), self.region(at)));
        let lines = format!(
            "link add r{at} type veth peer name out netns {region}\naddr add {at_router}/28 dev r{at}\nlink set r{at} up\n"
        );
        ip_lines(Some(&router), &lines);
        let lines = format!(
            "addr add {there}/28 dev out\nlink set out up\nroute add default via {at_router} dev out\n"
        );
        ip_lines(Some(&region), &lines);
    }

    /// Where a region's processes run.
    #[must_use]
    pub fn home(&self, at: usize) -> Home {
        Home::within(self.region(at), IpAddr::V4(self.ends(at + 1)[1]))
    }

    #[track_caller]
    fn in_router(&self, program: &str, arguments: &[&str]) {
        let output = ip(&[&["netns", "exec", &self.router(), program], arguments].concat());
        let _ = succeeded(&format!("{program} {arguments:?} in the router"), &output);
    }

    /// Whatever a region sends to another is lost.
    ///
    /// # Panics
    /// If the rule cannot be set.
    pub fn drop_from(&self, from: usize, to: usize) {
        let (from, to) = (format!("r{from}"), format!("r{to}"));
        self.in_router("iptables", &["-w", "-A", "FORWARD", "-i", &from, "-o", &to, "-j", "DROP"]);
    }

    /// Nothing is lost any more.
    ///
    /// # Panics
    /// If the rules cannot be removed.
    pub fn drop_nothing(&self) {
        self.in_router("iptables", &["-w", "-F", "FORWARD"]);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // With the router goes its end of every link, hence the other end and the route.
        self.names().iter().for_each(|part| remove(part));
    }
}
