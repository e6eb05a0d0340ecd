//! One health check: resolve, ask the guard, connect to that very address, ask.
//!
//! A connection serves one check and is not kept: with an interval of seconds it would be idle nearly always, and an
//! instance that no longer accepts connections should fail. Of an answer only the status counts; its body is never
//! shown, since whoever registered the address could read through it what only this gateway can reach.

mod exchange;
mod guard;
#[cfg(test)]
mod tests;

pub use guard::Guard;

use meridian_model::guardian::{Check, CheckOutcome};
use meridian_model::registration::{Host, Probe};
use smol_str::{SmolStr, format_smolstr};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Names resolved at once. Each takes a thread for as long as the system's resolver likes, whatever the check's timeout
/// says; registering addresses instead of names costs none.
const MAX_RESOLVING: usize = 32;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Makes checks. How many run at once is the caller's business.
#[derive(Debug)]
pub struct Checker {
    guard: Guard,
    resolving: Arc<Semaphore>,
}

impl Checker {
    /// A checker that asks only what `guard` lets it.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { guard, resolving: Arc::new(Semaphore::new(MAX_RESOLVING)) }
    }

    /// Makes one check. Takes no longer than the check's timeout.
    pub async fn run(&self, check: &Check) -> CheckOutcome {
        let seconds = check.check.timeout_seconds;
        let limit = Duration::from_secs(u64::from(seconds));
        match tokio::time::timeout(limit, self.ask(check)).await {
            Ok(Ok(())) => CheckOutcome::Passed,
            Ok(Err(detail)) => CheckOutcome::Failed(detail),
            Err(_) => CheckOutcome::Failed(format_smolstr!("no answer within {seconds} s")),
        }
    }

    async fn ask(&self, check: &Check) -> Result<(), SmolStr> {
        let stream = connect(&self.addresses(&check.host, check.port).await?).await?;
        match &check.check.probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path } => exchange::get(stream, &check.host, check.port, path).await,
        }
    }

    /// The addresses of `host`, all of which may be asked. A name that has one which may not is refused whole: no honest
    /// owner has such a name.
    async fn addresses(&self, host: &Host, port: u16) -> Result<Vec<SocketAddr>, SmolStr> {
        let addresses = match host.ip() {
            Some(ip) => vec![SocketAddr::new(ip, port)],
            None => self.resolve(host, port).await?,
        };
        for address in addresses.iter().map(SocketAddr::ip) {
            if let Some(why) = self.guard.refuses(address) {
                return Err(refusal(host, address, why));
            }
        }
        Ok(addresses)
    }

    async fn resolve(&self, host: &Host, port: u16) -> Result<Vec<SocketAddr>, SmolStr> {
        let unresolved =
            |error: &dyn std::fmt::Display| format_smolstr!("{} cannot be resolved: {error}", host.as_str());
        let permit = Arc::clone(&self.resolving).acquire_owned().await.map_err(|e| unresolved(&e))?;
        let name = host.as_str().to_owned();
        let resolved = tokio::task::spawn_blocking(move || {
            // Held until the resolver returns, even if nobody waits for it any more.
            let _permit = permit;
            (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
        });
        let addresses = resolved.await.map_err(|e| unresolved(&e))?.map_err(|e| unresolved(&e))?;
        if addresses.is_empty() {
            return Err(unresolved(&"the name has no address"));
        }
        Ok(addresses)
    }
}

fn refusal(host: &Host, address: IpAddr, why: &str) -> SmolStr {
    if host.ip().is_some() {
        format_smolstr!("{address} is not checked: {why}")
    } else {
        format_smolstr!("{} resolves to {address}, which is not checked: {why}", host.as_str())
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, SmolStr> {
    let mut failure = SmolStr::default();
    for address in addresses.iter().take(MAX_ADDRESSES) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = format_smolstr!("cannot connect to {address}: {}", plain(&error)),
        }
    }
    Err(failure)
}

/// The error without the platform's number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}
