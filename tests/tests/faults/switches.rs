//! Kill switches, thrown in every state that a policy can be in: what is disabled runs nowhere, every lookup is answered, and
//! what is enabled again runs as if nothing had been.

use crate::PACE;
use crate::guests;
use crate::world::{World, register_many};
use meridian_registry::testing::RealEtcd;
use meridian_tests::client::{Answer, Client};
use meridian_tests::figures;
use meridian_tests::gateway::{GatewayProcess, etcd};
use meridian_tests::load::{Load, incarnation};
use meridian_tests::patience::{throughout, until};
use meridian_tests::tokens::Issuer;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "/v1/namespaces/default/bindings";
/// From the call to the last gateway that answers by it, as for a roll-back.
const EFFECT: Duration = Duration::from_millis(500);
/// From a binding's answer to its effect.
const BOUND: Duration = Duration::from_secs(1);
const WHY: &str = "it does harm";

/// A region of two gateways, and services of four instances each.
async fn region(services: &[&str]) -> World {
    let (etcd_process, issuer) = (RealEtcd::start(), Issuer::init());
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let gateway = GatewayProcess::new(&issuer, etcd(&etcd_process.endpoints()));
        // Neither moving all lookups of a zone nor failing is what anything is to be rolled back for here.
        let gateway = gateway.with("policies", "max_shift", 1.0).with("policies", "max_faults", 1_000_000);
        gateways.push(gateway.started().await);
    }
    let world = World { gateways, etcd: etcd_process, issuer };
    for service in services {
        let owner = world.client().bearing(&world.issuer.workload(service));
        register_many(&owner, service, "o", 4).await;
        everywhere(&world, service, "its instances are known", BOUND, |answer| answer.status == 200).await;
    }
    world
}

/// The time until every gateway answers so.
async fn everywhere(
    world: &World,
    service: &str,
    what: &str,
    within: Duration,
    is: impl Fn(&Answer) -> bool,
) -> Duration {
    let begun = Instant::now();
    for gateway in &world.gateways {
        let client = gateway.client();
        until(&format!("{service}: {what}"), within, async || {
            is(&client.resolve(service, "?zone=test-1a&key=k").await)
        })
        .await;
    }
    begun.elapsed()
}

fn by(answer: &Answer, outcome: &str) -> bool {
    answer.status == 200 && answer["policy"]["outcome"] == outcome
}

fn says_disabled(answer: &Answer, outcome: &str) -> bool {
    by(answer, outcome) && answer["policy"]["reason"] == format!("disabled: {WHY}")
}

struct Switches<'a> {
    operator: Client,
    world: &'a World,
}

impl<'a> Switches<'a> {
    fn of(world: &'a World) -> Self {
        Self { operator: world.client().bearing(&world.issuer.operator()), world }
    }

    /// Uploads a version of `p` and waits until every gateway can run it: how long one compiles is not what is measured here.
    async fn upload(&self, letter: char) -> String {
        let version = self.operator.upload("p", &guests::only_zone(letter)).await;
        for gateway in &self.world.gateways {
            let client = gateway.client().bearing(&self.world.issuer.operator());
            until("the gateway can run the version", Duration::from_secs(10), async || {
                client.get(&format!("/v1/policies/p/versions/{version}")).await["runnable"] == true
            })
            .await;
        }
        version
    }

    /// Every gateway answers so, by a switch that was just thrown.
    async fn takes_effect(&self, service: &str, what: &str, is: impl Fn(&Answer) -> bool) {
        let took = everywhere(self.world, service, what, EFFECT, is).await;
        println!("{service}: {what} in all gateways after {took:?}");
    }

    async fn throw(&self, policy: &str, version: &str, what: &str) {
        let path = format!("/v1/policies/{policy}/versions/{version}/{what}");
        let answer = self.operator.post(&path, &json!({ "reason": WHY })).await.expect(200);
        assert_eq!(answer["disabled"], what == "disable", "{}", answer.json);
    }

    /// Disables the version, sees every gateway answer otherwise, and enables it again.
    async fn there_and_back(&self, service: &str, policy: &str, version: &str, instead: &str) {
        let former = |answer: &Answer| by(answer, "ok") && answer["policy"]["version"] == version;
        everywhere(self.world, service, "the version answers", BOUND, former).await;
        self.throw(policy, version, "disable").await;
        let other = |answer: &Answer| says_disabled(answer, instead);
        self.takes_effect(service, "it answers no more", other).await;
        self.throw(policy, version, "enable").await;
        everywhere(self.world, service, "the version answers again", BOUND, former).await;
    }

    async fn bind(&self, place: &str, body: &Value) -> Answer {
        self.operator.put(&format!("{NAMESPACE}/{place}"), body).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_disabled_answers_nowhere_in_whatever_state_it_is() {
    const ALL: [&str; 4] = ["plain-api", "own-api", "tried-api", "trap-api"];
    let world = region(&ALL).await;
    let loads: Vec<Load> = ALL
        .iter()
        .map(|service| Load::start(&world.addresses(), &format!("/v1/resolve/{service}?zone=test-1a"), PACE))
        .collect();
    let operator = world.client().bearing(&world.issuer.operator());
    let standard = operator.resolve("plain-api", "").await.expect(200)["policy"]["version"].clone();
    let standard = standard.as_str().unwrap().to_owned();
    let switches = Switches::of(&world);
    let [to_a, to_b] = [switches.upload('a').await, switches.upload('b').await];
    let bound = |version: &str| json!({ "policy": "p", "version": version });

    // Without a reason, a token or a version, nothing happens.
    let path = format!("/v1/policies/p/versions/{to_b}/disable");
    let _ = operator.post(&path, &json!({})).await.refused(422, "invalid");
    let _ = world.client().post(&path, &json!({ "reason": WHY })).await.refused(401, "token-missing");
    let unknown = format!("/v1/policies/q/versions/{to_b}/disable");
    let _ = operator.post(&unknown, &json!({ "reason": WHY })).await.refused(404, "no-such-version");

    // What is bound nowhere, or to a service, or to a namespace; what answered before is the last good one.
    switches.there_and_back("plain-api", "zone-fallback", &standard, "fallback").await;
    let _ = switches.bind("own-api", &bound(&to_a)).await.expect(201);
    switches.there_and_back("own-api", "p", &to_a, "last-good").await;
    let _ = switches.bind("own-api", &bound(&to_b)).await.expect(200);
    switches.there_and_back("own-api", "p", &to_b, "last-good").await;
    let _ = switches.bind("_default", &bound(&to_a)).await.expect(201);
    switches.there_and_back("plain-api", "p", &to_a, "last-good").await;
    let _ = operator.delete(&format!("{NAMESPACE}/_default")).await.expect(204);
    everywhere(&world, "plain-api", "the standard policy answers", BOUND, |a| {
        a["policy"]["name"] == "zone-fallback"
    })
    .await;

    // What is tried: neither asked nor answering, neither bound nor promoted anew.
    let canary = json!({ "policy": "p", "version": to_b, "stage": "canary", "percent": 100 });
    let _ = switches.bind("tried-api", &canary).await.expect(201);
    let is_canary = |answer: &Answer| by(answer, "ok") && answer["policy"]["version"] == to_b.as_str();
    everywhere(&world, "tried-api", "the canary answers", BOUND, is_canary).await;
    switches.throw("p", &to_b, "disable").await;
    let active = |answer: &Answer| by(answer, "ok") && answer["policy"]["name"] == "zone-fallback";
    switches.takes_effect("tried-api", "the active version answers", active).await;
    let shown = operator.get(&format!("{NAMESPACE}/tried-api")).await.expect(200);
    assert_eq!(shown["candidate"]["disabled"]["reason"], WHY, "{}", shown.json);
    assert_eq!(shown["active"]["disabled"], Value::Null, "{}", shown.json);
    for body in [&canary, &bound(&to_b), &json!({ "policy": "p", "version": to_b, "stage": "shadow" })] {
        let refused = switches.bind("tried-api", body).await.refused(409, "disabled");
        assert!(refused["detail"].as_str().unwrap().contains(WHY), "{}", refused.json);
    }
    let force = json!({ "force": true, "reason": "x" });
    let _ = operator.post(&format!("{NAMESPACE}/tried-api/promote"), &force).await.refused(409, "disabled");
    let trial = json!({ "service": "tried-api", "version": to_b });
    let _ = operator.post("/v1/policies/p/try", &trial).await.refused(409, "disabled");
    let history = operator.get("/v1/history").await.expect(200);
    assert_eq!(history["items"][0]["action"], "disable", "{}", history.json);
    assert_eq!(figures::one(&world.client(), "meridian_policies_disabled").await, 1.0);
    switches.throw("p", &to_b, "enable").await;
    everywhere(&world, "tried-api", "the canary answers again", BOUND, is_canary).await;
    let _ = operator.post(&format!("{NAMESPACE}/tried-api/promote"), &force).await.expect(200);
    // Promoted, and not known to be good.
    switches.there_and_back("tried-api", "p", &to_b, "last-good").await;

    // What fails, and is kept from running for that: the reason is the operator's word.
    let _ = switches.bind("trap-api", &bound(&to_b)).await.expect(201);
    let trapped = |answer: &Answer| {
        by(answer, "last-good") && answer["policy"]["reason"].as_str().unwrap().contains("trap")
    };
    everywhere(&world, "trap-api", "it trapped", BOUND, trapped).await;
    switches.throw("p", &to_b, "disable").await;
    switches.takes_effect("trap-api", "it is disabled", |a| says_disabled(a, "last-good")).await;
    switches.throw("p", &to_b, "enable").await;
    everywhere(&world, "trap-api", "it is tried again", Duration::from_secs(5), |a| {
        by(a, "last-good") && !says_disabled(a, "last-good")
    })
    .await;

    // All at once, whatever they are; single switches stay thrown when that one is put back.
    switches.throw("p", &to_a, "disable").await;
    let _ = operator.post("/v1/policies/_all/disable", &json!({ "reason": WHY })).await.expect(200);
    let begun = Instant::now();
    for service in ALL {
        everywhere(&world, service, "no policy runs", EFFECT, |a| says_disabled(a, "fallback")).await;
    }
    println!("no policy runs in both gateways after {:?}", begun.elapsed());
    let policies = operator.get("/v1/policies").await.expect(200);
    assert_eq!(policies["disabled"]["reason"], WHY, "{}", policies.json);
    let _ = operator.post("/v1/policies/_all/enable", &json!({})).await.expect(200);
    everywhere(&world, "plain-api", "policies run again", BOUND, |a| by(a, "ok")).await;
    let _ = switches.bind("own-api", &bound(&to_a)).await.refused(409, "disabled");
    for (service, load) in ALL.iter().zip(loads) {
        let report = load.stop();
        println!("{service}: {} lookups, outcomes {:?}", report.lookups, report.outcomes);
        report.check();
    }
}

/// What does not answer, and what answers only where another fails, are switched off as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_beside_or_behind_is_disabled_too() {
    let world = region(&["shadow-api", "trap-api"]).await;
    let operator = world.client().bearing(&world.issuer.operator());
    let switches = Switches::of(&world);
    let [to_a, to_b] = [switches.upload('a').await, switches.upload('b').await];
    let bound = |version: &str| json!({ "policy": "p", "version": version });

    // A shadow that is asked at every gateway, until it is disabled, and then no more.
    let shadow = json!({ "policy": "p", "version": to_b, "stage": "shadow" });
    let _ = switches.bind("shadow-api", &shadow).await.expect(201);
    let asked = async |client: &Client| {
        let diff = client.get(&format!("{NAMESPACE}/shadow-api/diff")).await.expect(200);
        diff["candidate"]["seen"]["answered"].as_u64().unwrap()
    };
    let clients: Vec<Client> =
        world.gateways.iter().map(|gateway| gateway.client().bearing(&world.issuer.operator())).collect();
    let load = Load::start(&world.addresses(), "/v1/resolve/shadow-api?zone=test-1a", PACE);
    for client in &clients {
        until("the shadow is asked", Duration::from_secs(10), async || asked(client).await >= 20).await;
    }
    switches.throw("p", &to_b, "disable").await;
    tokio::time::sleep(EFFECT).await;
    for client in &clients {
        let before = asked(client).await;
        throughout("it is asked no more", Duration::from_secs(1), async || asked(client).await <= before)
            .await;
    }
    switches.throw("p", &to_b, "enable").await;
    for client in &clients {
        let before = asked(client).await;
        until("it is asked again", Duration::from_secs(10), async || asked(client).await > before).await;
    }
    let report = load.stop();
    assert_eq!(report.outcomes.keys().collect::<Vec<_>>(), ["ok"], "a shadow changes no answer");
    report.check();

    // What stands in for a version that traps is what is known to be good, and where that may not run, what came after it.
    let _ = switches.bind("trap-api", &json!({ "policy": "spillover" })).await.expect(201);
    let _ = switches.bind("trap-api", &bound(&to_a)).await.expect(200);
    let load = Load::start(&world.addresses(), "/v1/resolve/trap-api?zone=test-1a", PACE);
    let by_former = |name: &'static str| {
        move |answer: &Answer| by(answer, "last-good") && answer["policy"]["name"] == name
    };
    everywhere(&world, "trap-api", "the good one answers", BOUND, by_former("zone-fallback")).await;
    let listed = operator.get("/v1/policies/zone-fallback").await.expect(200);
    let good = listed["versions"][0]["version"].as_str().unwrap().to_owned();
    switches.throw("zone-fallback", &good, "disable").await;
    everywhere(&world, "trap-api", "the other one answers", EFFECT, by_former("spillover")).await;
    switches.throw("zone-fallback", &good, "enable").await;
    everywhere(&world, "trap-api", "the good one answers again", BOUND, by_former("zone-fallback")).await;
    load.stop().check();
}

/// Ends a gateway as an operator does, and starts it.
async fn again(gateway: &mut GatewayProcess) {
    gateway.terminate();
    let _ = gateway.ended(Duration::from_secs(20)).await;
    gateway.start().await;
}

/// A switch holds over restarts, with and without the registry, and outlives the version that it is for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_is_remembered() {
    let mut world = region(&["own-api"]).await;
    let operator = world.client().bearing(&world.issuer.operator());
    let version = Switches::of(&world).upload('b').await;
    let _ = operator
        .put(&format!("{NAMESPACE}/own-api"), &json!({ "policy": "p", "version": version }))
        .await
        .expect(201);
    Switches::of(&world).throw("p", &version, "disable").await;
    let disabled = |answer: &Answer| says_disabled(answer, "last-good");
    everywhere(&world, "own-api", "it is disabled", EFFECT, disabled).await;

    again(world.gateway()).await;
    everywhere(&world, "own-api", "it is disabled after a restart", BOUND, disabled).await;
    world.etcd.stop();
    again(world.gateway()).await;
    let client = world.client();
    until("it is disabled after a restart without etcd", BOUND, async || {
        disabled(&client.resolve("own-api", "?zone=test-1a").await)
    })
    .await;
    throughout("it stays disabled", Duration::from_secs(1), async || {
        disabled(&client.resolve("own-api", "?zone=test-1a").await)
    })
    .await;
    world.etcd.start_again();
    let operator = world.client().bearing(&world.issuer.operator());
    let path = format!("/v1/policies/p/versions/{version}");
    until("the registry takes writes again", Duration::from_secs(10), async || {
        operator.delete(&format!("{NAMESPACE}/own-api")).await.status == 204
    })
    .await;
    let _ = operator.delete(&path).await.expect(204);
    assert_eq!(operator.upload("p", &guests::only_zone('b')).await, version);
    let body = json!({ "policy": "p", "version": version });
    let _ = operator.put(&format!("{NAMESPACE}/own-api"), &body).await.refused(409, "disabled");
}

/// Every gateway shows the zone as drained, or not.
async fn drained(world: &World, drained: bool) {
    for gateway in &world.gateways {
        until(&format!("the zone's drain is shown: {drained}"), BOUND, async || {
            let shown = gateway.client().get("/v1/regions/test-1").await.expect(200);
            shown.json.to_string().contains(WHY) == drained
        })
        .await;
    }
}

/// Gateways go on by what they remember of an emptied registry. What they go by can be taken back, in all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_wiped_registry_forgot_can_be_taken_back() {
    let mut world = region(&["own-api"]).await;
    let operator = world.client().bearing(&world.issuer.operator());
    let version = Switches::of(&world).upload('b').await;
    let body = json!({ "policy": "p", "version": version });
    let _ = operator.put(&format!("{NAMESPACE}/own-api"), &body).await.expect(201);
    Switches::of(&world).throw("p", &version, "disable").await;
    let _ =
        operator.post("/v1/regions/test-1/drain?zone=test-1a", &json!({ "reason": WHY })).await.expect(200);
    let disabled = |answer: &Answer| says_disabled(answer, "last-good");
    everywhere(&world, "own-api", "it is disabled", EFFECT, disabled).await;
    drained(&world, true).await;

    let life = incarnation(&world.client().resolve("own-api", "").await.expect(200));
    world.etcd.wipe();
    for gateway in &world.gateways {
        until("the new life is served", Duration::from_secs(10), async || {
            incarnation(&gateway.client().resolve("own-api", "").await.expect(200)) > life
        })
        .await;
    }
    everywhere(&world, "own-api", "it is still disabled", BOUND, disabled).await;
    drained(&world, true).await;

    Switches::of(&world).throw("p", &version, "enable").await;
    let _ = operator.post("/v1/regions/test-1/undrain?zone=test-1a", &json!({})).await.expect(200);
    everywhere(&world, "own-api", "it is enabled", BOUND, |answer| answer.status == 200 && !disabled(answer))
        .await;
    drained(&world, false).await;
}
