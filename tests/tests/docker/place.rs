//! Terraform and docker as the tests call them: state and keys in a folder of the run's own, names with a prefix of its own.

use meridian_tests::binary;
use meridian_tests::client::Client;
use meridian_tests::patience::until;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// The regions, by position.
pub(crate) const REGIONS: [&str; 3] = ["ap-south-1", "eu-west-1", "us-east-1"];
/// Gateways in each.
pub(crate) const GATEWAYS: u16 = 2;
/// Has an instance in each zone of each region.
pub(crate) const ORDERS: &str = "orders-api";

/// From one region's first port to the next one's: workloads are published from ten above.
const APART: u16 = 50;

/// Below what systems give out by themselves (Linux: from 32768), so that no connection of somebody else holds one, and below those
/// of `terraform test`, which runs beside these.
const PORTS: std::ops::Range<u16> = 20_000..28_500;

/// Seconds until a terraform that does not end is told to, which fails the test.
const LIMIT: &str = "240";

/// A copy of `terraform/local`. What docker made for it ends with it, also when a test panics.
pub(crate) struct Place {
    pub(crate) project: String,
    variables: BTreeMap<&'static str, Value>,
    directory: TempDir,
    port: u16,
}

/// A copy of `terraform/` without what somebody else applied there: state and modules of a run stand where it is run.
fn copy_terraform(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../terraform");
    let _ = run(Command::new("cp").arg("-R").arg(from).arg(to));
    for left in ["*.tfstate*", ".terraform", ".run"] {
        let arguments = ["-name", left, "-prune", "-exec", "rm", "-rf", "{}", "+"];
        let _ = run(Command::new("find").arg(to.join("terraform")).args(arguments));
    }
}

/// An image of `terraform/images/build`, with the tag that `MERIDIAN_IMAGES` names.
fn image(name: &str) -> String {
    format!("{name}:{}", std::env::var("MERIDIAN_IMAGES").unwrap_or_else(|_| "dev".to_owned()))
}

/// Both streams, for messages.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
pub(crate) fn docker(arguments: &[&str]) -> String {
    run(Command::new("docker").args(arguments))
}

/// So many ports in a row that nobody listens on now, others for each place of this process.
fn ports(count: u16, place: usize) -> u16 {
    let span = PORTS.end - PORTS.start - count;
    let offset = std::process::id() as usize * 97 + place * usize::from(count);
    let offset = u16::try_from(offset % usize::from(span)).unwrap();
    let mut starts = (0..span).step_by(16).map(|step| PORTS.start + (offset + step) % span);
    let free = |start: u16| (start..start + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    starts.find(|start| free(*start)).expect("no free ports")
}

impl Place {
    /// Nothing is there yet.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let place = COUNT.fetch_add(1, Ordering::Relaxed);
        let project = format!("mt{}-{place}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        let port = ports(3 * APART, place);
        copy_terraform(directory.path());
        let mut place = Self { project, variables: BTreeMap::new(), directory, port };
        place.init("local");
        place.variables.insert("project", json!(place.project));
        place.variables.insert("image", json!(image("meridian")));
        place.variables.insert("etcd_image", json!(image("meridian-etcd")));
        place.variables.insert("workload_image", json!(image("meridian-workload")));
        place.variables.insert("directory", json!(place.directory.path().join("run")));
        place.set_workloads([1; 3]);
        place
    }

    /// Sets a variable for the next apply.
    pub(crate) fn set(&mut self, variable: &'static str, value: Value) {
        self.variables.insert(variable, value);
    }

    /// All regions with so many instances in each zone; the first has three members of etcd, the others one.
    pub(crate) fn set_workloads(&mut self, instances: [u16; 3]) {
        let region = |at: u16| {
            json!({ "port": self.port + at * APART, "gateways": GATEWAYS, "etcd_members": if at == 0 { 3 } else { 1 },
                "workloads": { ORDERS: instances[usize::from(at)] } })
        };
        let regions = REGIONS.iter().zip(0..).map(|(name, at)| ((*name).to_owned(), region(at)));
        let regions = Value::Object(regions.collect());
        self.set("regions", regions);
    }

    /// Only two regions, with one process of each kind and no workloads.
    pub(crate) fn set_small(&mut self) {
        let region = |at: u16| json!({ "port": self.port + at * APART, "gateways": 1, "etcd_members": 1, "workloads": {} });
        let small = json!({ REGIONS[0]: region(0), REGIONS[1]: region(1) });
        self.set("regions", small);
    }

    /// A command of terraform in a module.
    pub(crate) fn terraform(&self, module: &str, command: &str, arguments: &[&str]) -> Command {
        let mut terraform = Command::new("timeout");
        let folder = self.directory.path().join("terraform").join(module);
        terraform.args(["--foreground", LIMIT, "terraform"]);
        terraform.arg(format!("-chdir={}", folder.display())).arg(command).args(arguments);
        terraform.env("TF_IN_AUTOMATION", "1").env("CHECKPOINT_DISABLE", "1").stdin(Stdio::null());
        terraform
    }

    /// Once for a module, before anything else of it.
    #[track_caller]
    pub(crate) fn init(&self, module: &str) {
        let _ = run(&mut self.terraform(module, "init", &["-input=false"]));
    }

    /// `terraform plan|apply|destroy` of the regions, yet to be run.
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        let mut terraform = self.terraform("local", command, &["-no-color", "-input=false"]);
        terraform.args(arguments).args(self.variables.iter().map(|(name, value)| variable(name, value)));
        terraform
    }

    /// The same, run.
    pub(crate) fn regions(&self, command: &str, arguments: &[&str]) -> Output {
        self.command(command, arguments).output().unwrap()
    }

    /// Makes the regions as the variables say.
    #[track_caller]
    pub(crate) fn apply(&self) {
        let output = self.regions("apply", &["-auto-approve"]);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Whether the regions are as the variables say.
    #[track_caller]
    pub(crate) fn is_as_said(&self) -> bool {
        let output = self.regions("plan", &["-detailed-exitcode"]);
        assert!(matches!(output.status.code(), Some(0 | 2)), "{}", said(&output));
        output.status.code() == Some(0)
    }

    #[track_caller]
    pub(crate) fn destroy(&self) {
        let output = self.regions("destroy", &["-auto-approve"]);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Everything of this copy that docker has, by kind and name, with what is another when it is made again.
    pub(crate) fn objects(&self) -> BTreeMap<String, String> {
        let filter = format!("label=meridian.project={}", self.project);
        let mut found = BTreeMap::new();
        for (kind, list, format) in [
            ("container", &["ps", "--all"][..], "{{.Names}} {{.ID}}"),
            ("network", &["network", "ls"], "{{.Name}} {{.ID}}"),
            ("volume", &["volume", "ls"], "{{.Name}}"),
        ] {
            let mut listed = docker(&[list, &["--filter", &filter, "--format", format]].concat());
            if kind == "volume" && !listed.is_empty() {
                // A volume has no id, and is as old as its newest file.
                let names = listed.split_whitespace();
                let owner = "{{.Name}} {{index .Labels \"meridian.owner\"}}";
                let inspect = ["volume", "inspect", "--format", owner];
                listed = docker(&inspect.into_iter().chain(names).collect::<Vec<_>>());
            }
            found.extend(listed.lines().filter_map(|line| {
                let (name, id) = line.split_once(' ')?;
                Some((
                    format!("{kind} {}", name.strip_prefix(&self.project)?.trim_start_matches('-')),
                    id.to_owned(),
                ))
            }));
        }
        found
    }

    /// Names of a region's containers of one role.
    pub(crate) fn containers(&self, region: &str, role: &str) -> Vec<String> {
        let filters = [("project", self.project.as_str()), ("region", region), ("role", role)]
            .map(|(k, v)| format!("label=meridian.{k}={v}"));
        let mut arguments = vec!["ps", "--all", "--format", "{{.Names}}"];
        arguments.extend(filters.iter().flat_map(|filter| ["--filter", filter]));
        docker(&arguments).lines().map(str::to_owned).collect()
    }

    /// `terraform/local/mend`, which applies too, yet to be run.
    pub(crate) fn mend(&self) -> Command {
        let mut script = Command::new(self.directory.path().join("terraform/local/mend"));
        script.args(["-no-color", "-input=false", "-auto-approve"]);
        script.args(self.variables.iter().map(|(name, value)| variable(name, value)));
        script.env("TF_IN_AUTOMATION", "1").env("CHECKPOINT_DISABLE", "1").stdin(Stdio::null());
        script
    }

    /// The folder of keys, tokens and configurations.
    pub(crate) fn keys(&self) -> PathBuf {
        self.directory.path().join("run").join(&self.project)
    }

    /// Where `terraform/images/build` says what it built as an image, in the copy of this place.
    pub(crate) fn built(&self, name: &str) -> PathBuf {
        let file = image(name).replace(':', "_");
        self.directory.path().join("terraform/images/.built").join(file)
    }

    /// `terraform/faults/fault begin|end` of a region.
    #[track_caller]
    pub(crate) fn fault(&self, verb: &str, fault: &str, region: &str) {
        self.fault_with(verb, fault, region, &[]);
    }

    /// The same with options of that fault.
    #[track_caller]
    pub(crate) fn fault_with(&self, verb: &str, fault: &str, region: &str, options: &[&str]) {
        let _ = run(self.fault_command(verb, fault, region).args(options));
    }

    /// The same, yet to be run.
    pub(crate) fn fault_command(&self, verb: &str, fault: &str, region: &str) -> Command {
        let mut script = Command::new(self.directory.path().join("terraform/faults/fault"));
        script.args([verb, fault, "--region", region, "--project", &self.project]);
        script.args(["--image", &image("meridian-faults"), "--token-file"]).arg(self.operator());
        script
    }

    /// File with a token of role operator.
    pub(crate) fn operator(&self) -> PathBuf {
        self.keys().join("tokens/operator")
    }

    /// A folder of the run.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where a region's gateways are.
    pub(crate) fn gateways(&self, at: usize) -> Vec<SocketAddr> {
        let first = self.port + u16::try_from(at).unwrap() * APART;
        (first..first + GATEWAYS).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    /// A client of a region's first gateway, as operator.
    pub(crate) fn client(&self, at: usize) -> Client {
        let token = std::fs::read_to_string(self.operator()).unwrap();
        Client::new(self.gateways(at)[0]).bearing(token.trim())
    }

    /// Every endpoint that a region's gateway gives of the service answers by HTTP, as the instance that it is called.
    pub(crate) async fn endpoints_answer(&self, at: usize, count: usize) {
        let answer = self.client(at).get(&format!("/v1/resolve/{ORDERS}?n=all")).await.expect(200);
        let endpoints = answer["endpoints"].as_array().unwrap();
        assert_eq!(endpoints.len(), count, "{}", answer.json);
        for endpoint in endpoints {
            let address = format!("{}:{}", endpoint["host"].as_str().unwrap(), endpoint["port"]);
            let said = Client::new(address.parse().unwrap()).get("/").await.expect(200);
            assert_eq!(said["instance"], endpoint["id"], "{address} is another instance");
            assert_eq!(said["region"], endpoint["region"], "{address} is in another region");
        }
    }

    /// Waits until every gateway shows every region as fresh, reachable, with all of its traffic and this many instances.
    pub(crate) async fn settled(&self, healthy: u64, within: Duration) -> Duration {
        let gateways: Vec<Client> =
            (0..REGIONS.len()).flat_map(|at| self.gateways(at)).map(Client::new).collect();
        until("all regions know each other", within, async || {
            for gateway in &gateways {
                let Ok(answer) = gateway.try_get("/v1/regions").await else { return false };
                let Some(items) = answer["items"].as_array().cloned() else { return false };
                let well = |region: &Value| {
                    region["freshness"] == "fresh"
                        && region["reachable"] == true
                        // What lookups go by comes later than what is heard; a region does not damp itself.
                        && (region["shownFreshness"].is_null() || region["shownFreshness"] == "fresh")
                        && region["shownReachable"] != false
                        && region["ramp"] == 1_000
                        && region["draining"].is_null()
                };
                let sum: u64 = items.iter().filter_map(|region| region["healthy"].as_u64()).sum();
                if items.len() != REGIONS.len() || !items.iter().all(well) || sum != healthy {
                    return false;
                }
            }
            true
        })
        .await
    }
}

/// `-var` with a value that may be any.
pub(crate) fn variable(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("-var={name}={text}"),
        other => format!("-var={name}={other}"),
    }
}

/// The binary under test, for modules that call it.
pub(crate) fn meridian() -> Value {
    json!(binary::meridian().canonicalize().unwrap())
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for region in REGIONS {
                for container in ["gateway", "node", "etcd", "workload"]
                    .iter()
                    .flat_map(|role| self.containers(region, role))
                {
                    let output = Command::new("docker").args(["logs", "--tail", "15", &container]).output();
                    eprintln!(
                        "the end of the log of {container}:\n{}",
                        output.as_ref().map(said).unwrap_or_default()
                    );
                }
            }
        }
        // Whatever terraform knows of it; a panic here would hide another.
        for kind in ["container", "network", "volume"] {
            let found = self.objects();
            for name in found.keys().filter_map(|object| object.strip_prefix(kind)) {
                let name = format!("{}-{}", self.project, name.trim_start());
                let remove = if kind == "container" {
                    vec![kind, "rm", "--force", "--volumes"]
                } else {
                    vec![kind, "rm"]
                };
                let _ = Command::new("docker").args(remove).arg(name).output();
            }
        }
    }
}
