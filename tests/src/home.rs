//! Where the processes of a region run, and the address at which others find them.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// A place for processes: this machine's loopback, or a network namespace.
#[derive(Clone, Debug)]
pub struct Home {
    namespace: Option<String>,
    host: IpAddr,
}

impl Home {
    /// Among all other processes of this machine.
    #[must_use]
    pub fn loopback() -> Self {
        Self { namespace: None, host: IpAddr::V4(Ipv4Addr::LOCALHOST) }
    }

    /// In a namespace that is reached at `host`.
    pub(crate) fn within(namespace: String, host: IpAddr) -> Self {
        Self { namespace: Some(namespace), host }
    }

    /// Whether it is no namespace.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.namespace.is_none()
    }

    /// What its processes listen on.
    #[must_use]
    pub fn host(&self) -> IpAddr {
        self.host
    }

    /// A program that will run there, as the very process that is spawned: `ip netns exec` becomes it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }
}
