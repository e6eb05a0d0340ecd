//! All demo workloads, which can be stopped and started by region, zone and service.

use super::control::{Action, Deed, Order, Outcome};
use super::layout::{Region, Seat, seats};
use super::workload::Workload;
use crate::connection::{Connection, GatewayUrl, client};
use crate::credential::{Credential, Development, Role};
use crate::failure::Failure;
use futures::future::join_all;
use meridian_gateway::identity::Issuer;
use meridian_model::names::{Namespace, RegionName, ServiceName, ZoneName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A place in the demo, taken or empty.
struct Post {
    seat: Seat,
    workload: Option<Workload>,
}

/// The demo.
pub(super) struct Fleet {
    posts: Vec<Post>,
    /// How the workloads of a region reach its gateway.
    gateways: BTreeMap<RegionName, (GatewayUrl, reqwest::Client)>,
    issuer: Arc<Issuer>,
}

/// Where a region's gateway is.
pub(super) fn url_of(region: &Region) -> Result<GatewayUrl, Failure> {
    format!("http://{}", region.address)
        .parse()
        .map_err(|text: String| Failure::Failed(anyhow::anyhow!(text)))
}

impl Fleet {
    /// The demo of these regions, with every place empty.
    pub(super) fn new(regions: &[Region], issuer: Arc<Issuer>) -> Result<Self, Failure> {
        let (mut posts, mut gateways) = (Vec::new(), BTreeMap::new());
        for region in regions {
            posts.extend(seats(region)?.into_iter().map(|seat| Post { seat, workload: None }));
            let url = url_of(region)?;
            let client = client(&url)?;
            gateways.insert(region.name.clone(), (url, client));
        }
        Ok(Self { posts, gateways, issuer })
    }

    /// How many workloads each region has when all run.
    pub(super) fn seats_of(&self, region: &RegionName) -> usize {
        self.posts.iter().filter(|post| post.seat.region == *region).count()
    }

    /// Starts everything at once.
    pub(super) async fn start_all(&mut self) -> Result<usize, Failure> {
        let Self { posts, gateways, issuer } = self;
        let count = posts.len();
        let started = join_all(posts.iter_mut().map(|post| start(post, gateways, issuer))).await;
        started.into_iter().collect::<Result<Vec<Deed>, _>>()?;
        Ok(count)
    }

    /// Carries out an order. An order that names nothing here is refused with what there is.
    pub(super) async fn carry_out(&mut self, order: Order) -> Result<Vec<Outcome>, String> {
        self.check(&order)?;
        let Self { posts, gateways, issuer } = self;
        let chosen = posts.iter_mut().filter(|post| order.names(&post.seat));
        let deeds = chosen.map(|post| async {
            let seat = post.seat.clone();
            let deed = match order.action {
                Action::Start => start(post, gateways, issuer).await,
                Action::Stop { graceful: false } => Ok(crash(post)),
                Action::Stop { graceful: true } => leave(post).await,
            };
            let address = post.workload.as_ref().map(Workload::address);
            let deed = deed.unwrap_or_else(|failure| Deed::Failed { reason: failure.to_string() });
            Outcome {
                region: seat.region,
                zone: seat.zone,
                service: seat.service,
                instance: seat.id,
                address,
                deed,
            }
        });
        Ok(join_all(deeds).await)
    }

    fn check(&self, order: &Order) -> Result<(), String> {
        let here = || self.posts.iter().map(|post| &post.seat).filter(|seat| seat.region == order.region);
        if here().next().is_none() {
            let regions: BTreeSet<&RegionName> = self.posts.iter().map(|post| &post.seat.region).collect();
            return Err(format!("there is no region {} here, but {}", order.region, list(regions)));
        }
        if order.zone.as_ref().is_some_and(|zone| !here().any(|seat| seat.zone == *zone)) {
            let zones: BTreeSet<&ZoneName> = here().map(|seat| &seat.zone).collect();
            return Err(format!("region {} has no such zone, but {}", order.region, list(zones)));
        }
        if order.service.as_ref().is_some_and(|service| !here().any(|seat| seat.service == *service)) {
            let services: BTreeSet<&ServiceName> = here().map(|seat| &seat.service).collect();
            return Err(format!("the demo has no such service, but {}", list(services)));
        }
        Ok(())
    }
}

fn list<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}

async fn start(
    post: &mut Post,
    gateways: &BTreeMap<RegionName, (GatewayUrl, reqwest::Client)>,
    issuer: &Arc<Issuer>,
) -> Result<Deed, Failure> {
    if let Some(workload) = post.workload.as_ref().filter(|workload| workload.is_beating()) {
        workload.register().await?;
        return Ok(Deed::RegisteredAgain);
    }
    let Some((gateway, client)) = gateways.get(&post.seat.region) else {
        return Err(Failure::Failed(anyhow::anyhow!("region {} has no gateway", post.seat.region)));
    };
    let role = Role::Workload(Namespace::default(), post.seat.service.clone());
    let credential = Credential::Development(Development::new(Arc::clone(issuer), role));
    let connection = Connection::new(gateway.clone(), client.clone(), credential);
    post.workload = Some(Workload::start(&post.seat, connection).await?);
    Ok(Deed::Started)
}

fn crash(post: &mut Post) -> Deed {
    match post.workload.take() {
        Some(workload) => {
            drop(workload);
            Deed::Crashed
        }
        None => Deed::WasStopped,
    }
}

async fn leave(post: &mut Post) -> Result<Deed, Failure> {
    match post.workload.take() {
        Some(workload) => workload.leave().await.map(|()| Deed::Left),
        None => Ok(Deed::WasStopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout;

    fn fleet() -> Fleet {
        let directory = tempfile::tempdir().unwrap();
        let issuer = Arc::new(Issuer::init(directory.path()).unwrap());
        Fleet::new(&layout::regions(layout::DEFAULT_PORT_BASE).unwrap(), issuer).unwrap()
    }

    fn order(region: &str, zone: Option<&str>, service: Option<&str>) -> Order {
        Order {
            action: Action::Stop { graceful: false },
            region: region.parse().unwrap(),
            zone: zone.map(|zone| zone.parse().unwrap()),
            service: service.map(|service| service.parse().unwrap()),
        }
    }

    #[tokio::test]
    async fn an_order_reaches_only_what_it_names() {
        let mut fleet = fleet();
        let all = fleet.seats_of(&"eu-west-1".parse().unwrap());
        for (zone, service, count) in [
            (None, None, all),
            (Some("eu-west-1a"), None, all / 2),
            (Some("eu-west-1a"), Some("checkout-api"), 2),
        ] {
            let outcomes = fleet.carry_out(order("eu-west-1", zone, service)).await.unwrap();
            assert_eq!(outcomes.len(), count);
            assert!(outcomes.iter().all(|outcome| outcome.deed == Deed::WasStopped));
        }
    }

    #[tokio::test]
    async fn an_order_that_names_nothing_is_told_what_there_is() {
        let mut fleet = fleet();
        for (order, said) in [
            (order("mars-1", None, None), "ap-south-1, eu-west-1, us-east-1"),
            (order("eu-west-1", Some("us-east-1a"), None), "eu-west-1a, eu-west-1b"),
            (order("eu-west-1", None, Some("billing")), "checkout-api, inventory-api, orders-api"),
        ] {
            let refused = fleet.carry_out(order).await.unwrap_err();
            assert!(refused.ends_with(said), "{refused}");
        }
    }
}
