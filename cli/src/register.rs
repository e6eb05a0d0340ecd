//! `meridian register`: puts an instance into a service, for a moment or as long as the command runs.

use crate::arguments;
use crate::connection::{Answer, Connection, Global, instance_path};
use crate::credential::Role;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::membership::{Event, Membership, heartbeat_of};
use crate::output::{self, text_of};
use meridian_model::names::{InstanceId, Namespace, ServiceName, ZoneName};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Register an instance of a service, and keep it registered with --hold
///
/// Without --hold the instance expires when its lease ends, unless something else sends its heartbeats.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    meridian register billing --id billing-1 --host 127.0.0.1 --port 9000 --zone ap-south-1a --hold\n  \
    meridian register billing --id billing-2 --host 10.0.0.7 --port 9000 --zone ap-south-1b \\\n      \
    --version 2.1 --group canary --tag v2 --metadata team=money --check-http /health/ready")]
pub(crate) struct Arguments {
    /// Service
    service: ServiceName,
    /// Instance id, unique within the service
    #[arg(long)]
    id: InstanceId,
    /// Address or DNS name where the instance listens
    #[arg(long)]
    host: String,
    /// Port where the instance listens
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Zone that the instance is in
    #[arg(long)]
    zone: ZoneName,
    /// Namespace of the service
    #[arg(long, default_value = "default")]
    namespace: Namespace,
    /// Version that it runs
    #[arg(long)]
    version: Option<String>,
    /// Share of traffic relative to others, 1 to 10000 [default: 100]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    weight: Option<u32>,
    /// Load that it can carry, in the unit of what it reports; `spillover` shares by what is left of it
    #[arg(long, value_name = "N")]
    capacity: Option<u64>,
    /// Deployment group, such as stable or canary
    #[arg(long)]
    group: Option<String>,
    /// Tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Metadata; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = arguments::pair)]
    metadata: Vec<(String, String)>,
    /// Lease without a heartbeat, 3s to 1h [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    ttl: Option<Duration>,
    /// Let the gateway check it: GET this path must answer 2xx. Until the first pass it gets no traffic
    #[arg(long, value_name = "PATH", conflicts_with = "check_tcp")]
    check_http: Option<String>,
    /// Let the gateway check it: its port must accept connections
    #[arg(long)]
    check_tcp: bool,
    /// Send heartbeats until Ctrl-C, then deregister
    #[arg(long)]
    hold: bool,
}

impl Arguments {
    fn body(&self) -> Result<Value, Failure> {
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
        put("host", json!(self.host));
        put("port", json!(self.port));
        put("zone", json!(self.zone));
        if let Some(version) = &self.version {
            put("version", json!(version));
        }
        if let Some(weight) = self.weight {
            put("weight", json!(weight));
        }
        if let Some(capacity) = self.capacity {
            put("capacity", json!(capacity));
        }
        if let Some(group) = &self.group {
            put("deploymentGroup", json!(group));
        }
        if !self.tags.is_empty() {
            put("tags", json!(self.tags));
        }
        if !self.metadata.is_empty() {
            let pairs = self.metadata.iter().map(|(key, value)| (key.clone(), json!(value)));
            put("metadata", Value::Object(pairs.collect()));
        }
        if let Some(ttl) = self.ttl {
            if ttl.subsec_nanos() != 0 {
                return Err(Failure::Usage("--ttl must be whole seconds, such as 6s".to_owned()));
            }
            put("leaseTtlSeconds", json!(ttl.as_secs()));
        }
        if let Some(path) = &self.check_http {
            put("healthCheck", json!({ "http": { "path": path } }));
        } else if self.check_tcp {
            put("healthCheck", json!({ "tcp": {} }));
        }
        Ok(Value::Object(body))
    }
}

pub(crate) async fn run(arguments: Arguments, global: &Global) -> Result<(), Failure> {
    let body = arguments.body()?;
    let role = Role::Workload(arguments.namespace.clone(), arguments.service.clone());
    let connection = Connection::open(global, role)?;
    // Before the registration: from there on an interrupt has to end it.
    let interrupt = if arguments.hold { Some(Interrupt::listen()?) } else { None };
    let path = instance_path(&arguments.namespace, &arguments.service, &arguments.id);
    let membership = Membership::new(connection, path, body);
    let answer = membership.register().await?;
    if global.json {
        output::json(&answer.body);
    } else {
        output::say(render(&answer));
    }
    match interrupt {
        Some(interrupt) => hold(&membership, heartbeat_of(&answer), interrupt)
            .await
            .map_err(|failure| failure.after_json(global.json)),
        None => Ok(()),
    }
}

async fn hold(membership: &Membership, heartbeat: Duration, mut interrupt: Interrupt) -> Result<(), Failure> {
    output::remark(format_args!("sending a heartbeat every {} s; Ctrl-C deregisters", heartbeat.as_secs()));
    tokio::select! {
        failure = membership.keep(heartbeat, tell) => Err(failure),
        () = interrupt.next() => {
            interrupt.force_at_next();
            membership.deregister("meridian register --hold was stopped").await?;
            output::remark("deregistered");
            Ok(())
        }
    }
}

fn tell(event: Event) {
    match event {
        Event::RegisteredAgain => output::remark("the lease was not known any more: registered again"),
        Event::Trouble(failure, wait) => {
            output::remark(format_args!("{failure}\n  trying again, first in {} ms", wait.as_millis()));
        }
        Event::Recovered => output::remark("heartbeats are taken again"),
    }
}

fn render(answer: &Answer) -> String {
    let body = &answer.body;
    let text = |pointer| text_of(body, pointer);
    let done = if answer.status == 201 { "registered" } else { "registered again, replacing what was there" };
    let mut said = format!(
        "{} of {}/{} in {} is {done}\n  status  {}\n  lease   {} s, until {} without a heartbeat; beat every {} s\n  index   {}",
        text("/id"),
        text("/namespace"),
        text("/service"),
        text("/zone"),
        text("/status"),
        text("/lease/ttlSeconds"),
        text("/lease/expiresAt"),
        text("/lease/heartbeatSeconds"),
        text("/index"),
    );
    if body.get("applied") == Some(&Value::Bool(false)) {
        said.push_str(" (stored; not in the answers yet)");
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use clap::Parser;

    fn body(line: &str) -> Result<Value, Failure> {
        let parsed = CommandLine::try_parse_from(format!("meridian register {line}").split(' ')).unwrap();
        let Command::Register(arguments) = parsed.command else { panic!("not register") };
        arguments.body()
    }

    #[test]
    fn what_is_not_said_is_left_to_the_gateway() {
        let plain = body("s --id a --host h --port 80 --zone z").unwrap();
        assert_eq!(plain, json!({ "host": "h", "port": 80, "zone": "z" }));
    }

    #[test]
    fn everything_said_reaches_the_body() {
        let full = body(
            "s --id a --host h --port 80 --zone z --version 1 --weight 5 --capacity 500 --group g --tag t --tag u --metadata k=v=w --ttl 6s --check-http /r",
        );
        let wanted = json!({ "host": "h", "port": 80, "zone": "z", "version": "1", "weight": 5, "capacity": 500, "deploymentGroup": "g",
            "tags": ["t", "u"], "metadata": { "k": "v=w" }, "leaseTtlSeconds": 6, "healthCheck": { "http": { "path": "/r" } } });
        assert_eq!(full.unwrap(), wanted);
    }

    #[test]
    fn a_lease_is_whole_seconds() {
        assert!(matches!(body("s --id a --host h --port 80 --zone z --ttl 1500ms"), Err(Failure::Usage(_))));
    }
}
