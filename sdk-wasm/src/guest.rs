//! Between the trait and the contract: plan numbers, tables, resources.

use std::cell::Cell;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::bindings::routing as wire;
use crate::caller::Caller;
use crate::policy::Policy;
use crate::rollout::Rollout;
use crate::service::{Details, Service};

/// A policy opened for one service.
pub(crate) struct Opened<P> {
    pub(crate) policy: P,
    pub(crate) service: Service,
}

/// What one caller gets.
pub(crate) struct Admitted {
    pub(crate) plans: Vec<wire::Plan>,
    pub(crate) rollout: Rollout,
    /// The plans' names, in their order; the host never sees them.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) names: Vec<String>,
}

impl<P: Policy> Opened<P> {
    pub(crate) fn new(config: &str, from: &wire::Service) -> Result<Self, String> {
        let config = parse(config)?;
        let service = Service::new(from);
        let policy = P::open(config, &Details::new(&service, from))?;
        Ok(Opened { policy, service })
    }

    pub(crate) fn admit(&self, caller: &Caller) -> Result<Admitted, String> {
        let mut answer = self.policy.answer(&self.service, caller)?;
        if answer.arms.len() > 1 {
            // A plan that nothing leads to need not cross, nor cost anything at a lookup.
            answer.arms.retain(|arm| arm.weight > 0);
        }
        let salt = match answer.salt {
            Some(salt) => salt,
            None => format!("{}/{}", self.service.namespace(), self.service.name()),
        };
        let weights: Vec<(&str, u32)> = answer.arms.iter().map(|arm| (&*arm.name, arm.weight)).collect();
        let (rollout, shares) = Rollout::new(&salt, &weights)?;
        #[cfg(not(target_arch = "wasm32"))]
        let names = answer.arms.iter().map(|arm| arm.name.clone()).collect();
        let plans = answer.arms.into_iter().zip(shares);
        let plans = plans.map(|(arm, share)| arm.plan.into_wire(share, &self.service)).collect();
        Ok(Admitted {
            plans,
            rollout,
            #[cfg(not(target_arch = "wasm32"))]
            names,
        })
    }
}

/// A blank config means the defaults. A refusal names the field.
fn parse<C: DeserializeOwned>(config: &str) -> Result<C, String> {
    let config = if config.trim().is_empty() { "{}" } else { config };
    let mut reader = serde_json::Deserializer::from_str(config);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if path == "." { format!("config: {cause}") } else { format!("config: {path}: {cause}") }
    })?;
    reader.end().map_err(|error| format!("config: {error}"))?;
    Ok(parsed)
}

/// The component's side of a policy; named by `export!` only.
pub struct Exported<P>(PhantomData<P>);

impl<P: Policy> wire::Guest for Exported<P> {
    type View = View;
    type Router = Router<P>;
}

/// A policy opened for one service, as the host holds it.
pub struct Router<P>(Opened<P>);

impl<P: Policy> wire::GuestRouter for Router<P> {
    fn open(config: String, service: wire::Service) -> Result<wire::Router, String> {
        Opened::<P>::new(&config, &service).map(|opened| wire::Router::new(Router(opened)))
    }

    fn admit(&self, caller: wire::Caller) -> Result<wire::View, String> {
        let admitted = self.0.admit(&caller.into())?;
        Ok(wire::View::new(View { plans: Cell::new(admitted.plans), rollout: admitted.rollout }))
    }
}

/// What one caller gets, as the host holds it.
pub struct View {
    /// Asked for once, and not kept after.
    plans: Cell<Vec<wire::Plan>>,
    rollout: Rollout,
}

impl wire::GuestView for View {
    fn plans(&self) -> Vec<wire::Plan> {
        self.plans.take()
    }

    fn route(&self, key: u64, entropy: u64) -> u32 {
        self.rollout.route(key, entropy)
    }
}
