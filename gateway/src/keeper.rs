//! The keeper: the one task that applies what the registry reports and publishes snapshots, a service at a time.
//!
//! Readers never wait for it and it never waits for them. A change is applied to the catalog, the services that it
//! touched are published, and only then does the index move: whoever sees the index sees the change.

use crate::clock;
use crate::directory::{Directory, Rules};
use crate::emptied::Emptied;
use crate::guardian::{GuardianInput, LoadRecord};
use crate::image::Image;
use crate::loader::{Wanted, Wish};
use crate::neighbourhood::{Bounds, Neighbourhood, News};
use crate::signature;
use meridian_model::binding::{Effective, Source};
use meridian_model::catalog::{Catalog, Touched};
use meridian_model::failover::{Homecoming, Return};
use meridian_model::instance::{Instance, InstanceKey};
use meridian_model::load::Beat;
use meridian_model::names::{GatewayId, Namespace, PolicyVersion, ServiceKey};
use meridian_model::remote::FULL_RAMP;
use meridian_model::snapshot::Snapshot;
use meridian_model::time::Monotonic;
use meridian_policies::Host;
use meridian_registry::record::{self, Record};
use meridian_registry::{Event, Incarnation, Key, Observed, Revision, Stored};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What others ask of the keeper.
#[derive(Debug)]
pub enum Command {
    /// A version can be run now that could not before: prepare again whoever is bound to it.
    Prepared(PolicyVersion),
    /// An upload of this version came to nothing: unless somebody else has it, it is not kept.
    NotStored(PolicyVersion),
    /// What other regions tell.
    News(News),
    /// The state, to be written to disk.
    Image(oneshot::Sender<Option<Image>>),
}

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct KeeperStats {
    /// Snapshots published.
    pub published: AtomicU64,
    /// Changes applied.
    pub changes: AtomicU64,
    /// Grows with each change of an instance, a binding or a manifest and with each reset, before the index moves.
    pub content: AtomicU64,
    /// Records that could not be read.
    pub unreadable: AtomicU64,
    /// Times that the whole state was replaced.
    pub resets: AtomicU64,
    /// Instances held over from a lost registry at this moment.
    pub held: AtomicU64,
}

/// Where the keeper's news go, besides the directory.
pub struct Feeds {
    /// To the guardian.
    pub guardian: mpsc::Sender<GuardianInput>,
    /// Which modules are wanted, to the policy loader.
    pub modules: mpsc::UnboundedSender<Wish>,
}

/// The keeper's state.
pub struct Keeper {
    catalog: Catalog,
    directory: Arc<Directory>,
    host: Arc<Host>,
    feeds: Feeds,
    stats: Arc<KeeperStats>,
    incarnation: Option<Incarnation>,
    revision: Revision,
    members: BTreeSet<GatewayId>,
    held: BTreeMap<InstanceKey, Monotonic>,
    /// How other regions stand.
    neighbourhood: Neighbourhood,
    /// The way of the own region back from a drain, and its ramp.
    homecoming: (Homecoming, u32),
    /// Services that have nothing healthy here and something elsewhere, by their slots: that may be nearly all.
    away: HashMap<u32, Return>,
    /// Those that are on their way back from other regions.
    returning: BTreeMap<ServiceKey, Return>,
    /// The binding that services of a namespace had last which have none of their own.
    shared: BTreeMap<Namespace, Arc<Effective>>,
    /// Services that have no instances.
    emptied: Emptied,
    /// Versions that lost their manifests, or never had one: not kept once no binding names them.
    unlisted: BTreeSet<PolicyVersion>,
    serial: u64,
}

impl Keeper {
    /// A keeper that knows nothing yet.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        directory: Arc<Directory>,
        host: Arc<Host>,
        feeds: Feeds,
        stats: Arc<KeeperStats>,
        known_for: Duration,
        max_remote_age: Duration,
    ) -> Self {
        let bounds = Bounds { max_age: max_remote_age, known_for };
        let neighbourhood = Neighbourhood::new(Arc::clone(&directory), bounds);
        Self {
            neighbourhood,
            homecoming: (Homecoming::default(), FULL_RAMP),
            away: HashMap::new(),
            returning: BTreeMap::new(),
            catalog,
            directory,
            host,
            feeds,
            stats,
            incarnation: None,
            revision: Revision::default(),
            members: BTreeSet::new(),
            held: BTreeMap::new(),
            shared: BTreeMap::new(),
            emptied: Emptied::new(known_for),
            unlisted: BTreeSet::new(),
            serial: 0,
        }
    }

    /// Serves a state that was read from disk until the registry answers.
    pub fn start_from(&mut self, image: Image) {
        self.incarnation = Some(image.incarnation);
        self.revision = image.revision;
        let mut touched = Touched::default();
        for stored in &image.records {
            touched.merge(self.apply_put(stored));
        }
        let now = clock::monotonic_now();
        for (key, since) in image.emptied {
            if self.emptied.restore(key.clone(), clock::unix_now().since(since), now) {
                touched.merge(self.catalog.remember_service(&key));
            }
        }
        self.publish(touched, now);
        self.publish_rules();
        self.directory.currency.begin(&image.incarnation.to_string());
        self.directory.currency.serve_from_disk(image.revision.0, image.saved_at.0);
        self.directory.set_ready();
    }

    /// Takes what is remembered of other regions, before the first event.
    pub fn remember(&mut self, news: Vec<News>) {
        let now = clock::monotonic_now();
        for news in news {
            let touched = self.neighbourhood.hear(&mut self.catalog, news, now);
            self.publish(touched, now);
        }
    }

    /// Applies events until the registry's channel ends.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, mut commands: mpsc::Receiver<Command>) {
        let mut sweep = tokio::time::interval(Duration::from_millis(500));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => {
                        let inputs = self.handle(event, clock::monotonic_now());
                        for input in inputs {
                            // The guardian ends only with the gateway.
                            let _ = self.feeds.guardian.send(input).await;
                        }
                    }
                    None => return,
                },
                Some(command) = commands.recv() => self.obey(command),
                _ = sweep.tick() => self.sweep(clock::monotonic_now()),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Prepared(version) => {
                let now = clock::monotonic_now();
                let bound = self.directory.services().into_iter().filter(|(_, published)| {
                    published.current().binding.versions().any(|bound| bound.version == version)
                });
                let services = bound.map(|(key, _)| key).collect();
                self.publish(Touched { services }, now);
                // It may have been deleted while it was compiled.
                self.unlist(version);
                self.let_go();
            }
            Command::NotStored(version) => {
                self.unlist(version);
                self.let_go();
            }
            Command::News(news) => {
                let now = clock::monotonic_now();
                let touched = self.neighbourhood.hear(&mut self.catalog, news, now);
                self.publish(touched, now);
            }
            Command::Image(reply) => {
                // A reply that nobody waits for any more is no loss.
                let _ = reply.send(self.image());
            }
        }
    }

    fn image(&self) -> Option<Image> {
        let incarnation = self.incarnation?;
        let mut records = Vec::new();
        let mut add = |key: Key, value, modified: u64| {
            if let Ok(value) = value {
                records.push(Stored { key, value, modified: Revision(modified) });
            }
        };
        for (service, id, entry) in self.catalog.instances() {
            let key = InstanceKey { service: service.clone(), id: id.clone() };
            add(Key::Instance(key), record::encode(&*entry.instance), entry.modified);
        }
        for ((namespace, service), binding, modified) in self.catalog.bindings() {
            add(Key::Binding(namespace.clone(), service.clone()), record::encode(&**binding), modified);
        }
        for (manifest, modified) in self.catalog.policies() {
            let key = Key::Policy(manifest.name.clone(), manifest.version);
            add(key, record::encode(&**manifest), modified);
        }
        for (switch, (disabled, modified)) in self.catalog.switches() {
            add(Key::Disabled(*switch), record::encode(&**disabled), *modified);
        }
        for ((region, zone), drain, modified) in self.catalog.drains() {
            add(Key::Drain(region.clone(), zone.clone()), record::encode(&**drain), modified);
        }
        let (now, saved_at) = (clock::monotonic_now(), clock::unix_now());
        let emptied = self.emptied.ages(now).map(|(key, age)| (key.clone(), saved_at.before(age)));
        Some(Image { incarnation, revision: self.revision, saved_at, records, emptied: emptied.collect() })
    }

    fn handle(&mut self, event: Event, now: Monotonic) -> Vec<GuardianInput> {
        match event {
            Event::Reset { incarnation, revision, records, asked } => {
                let inputs = self.reset(incarnation, revision, &records, now);
                self.directory.currency.advance(revision.0, clock::monotonic_at(asked));
                self.directory.set_ready();
                inputs
            }
            Event::Changed { revision, changes } => self.change(revision, changes, now),
            Event::Current { revision, asked } => {
                let asked = clock::monotonic_at(asked);
                if revision > self.revision {
                    self.revision = revision;
                    self.directory.currency.advance(revision.0, asked);
                } else {
                    self.directory.currency.prove(asked);
                }
                vec![GuardianInput::Current]
            }
            Event::Lost { reason } => {
                if self.directory.currency.is_connected() {
                    tracing::warn!(reason, "the registry does not answer; serving what is known");
                }
                self.directory.currency.disconnect();
                vec![GuardianInput::Lost]
            }
        }
    }

    fn reset(
        &mut self,
        incarnation: Incarnation,
        revision: Revision,
        records: &[Stored],
        now: Monotonic,
    ) -> Vec<GuardianInput> {
        self.stats.resets.fetch_add(1, Ordering::Relaxed);
        self.stats.content.fetch_add(1, Ordering::Release);
        let same_life = self.incarnation == Some(incarnation);
        let mut touched = Touched::default();
        let present: BTreeSet<InstanceKey> = records
            .iter()
            .filter_map(|r| if let Key::Instance(key) = &r.key { Some(key.clone()) } else { None })
            .collect();
        let gone: Vec<InstanceKey> = self
            .catalog
            .instances()
            .map(|(service, id, _)| InstanceKey { service: service.clone(), id: id.clone() })
            .filter(|key| !same_life || !present.contains(key))
            .collect();
        for key in gone {
            if same_life {
                touched.merge(self.catalog.remove_instance(&key.service, &key.id, revision.0));
                continue;
            }
            // Another life of the registry: what it does not know has not left, it was forgotten. Owners that are
            // alive register again within one heartbeat; the lease is their time to do so.
            let ttl = self.catalog.instance(&key.service, &key.id).map(|e| e.instance.declared.lease_ttl());
            touched.merge(self.catalog.hold_instance(&key.service, &key.id));
            self.held.insert(key, now.plus(ttl.unwrap_or_default().saturating_mul(2)));
        }
        if same_life {
            self.drop_missing_rules(records, &mut touched);
        } else if let Some(former) = self.incarnation {
            tracing::warn!(%former, new = %incarnation, held = self.held.len(), "the registry began a new life");
        }
        self.members.clear();
        let (mut beats, mut loads) = (Vec::new(), Vec::new());
        for stored in records {
            match &stored.key {
                Key::Member(id) => {
                    self.members.insert(id.clone());
                }
                Key::Beats(_) => beats.extend(self.beats_of(stored)),
                Key::Load(service) => loads.extend(self.load_of(service, stored)),
                _ => touched.merge(self.apply_put(stored)),
            }
        }
        self.incarnation = Some(incarnation);
        self.revision = revision;
        self.directory.currency.begin(&incarnation.to_string());
        self.publish(touched, now);
        self.publish_rules();
        self.let_go();
        // The disk may hold what was deleted while nobody looked.
        self.keep_modules();
        self.directory.services().values().for_each(|published| published.set_load(None));
        self.show_loads(&loads);
        let instances = self
            .catalog
            .instances()
            .filter(|(_, _, entry)| !entry.held)
            .map(|(service, id, entry)| {
                let key = InstanceKey { service: service.clone(), id: id.clone() };
                (key, Arc::clone(&entry.instance), Revision(entry.modified))
            })
            .collect();
        vec![
            GuardianInput::Members(self.members.clone()),
            GuardianInput::Reset(instances),
            GuardianInput::Loads(loads),
            GuardianInput::Beats(beats),
            GuardianInput::Current,
        ]
    }

    /// Bindings and policies that the same registry no longer has.
    fn drop_missing_rules(&mut self, records: &[Stored], touched: &mut Touched) {
        let present: BTreeSet<&Key> = records.iter().map(|r| &r.key).collect();
        let bindings: Vec<_> =
            self.catalog.bindings().map(|((ns, s), _, _)| (ns.clone(), s.clone())).collect();
        for (namespace, service) in bindings {
            if !present.contains(&Key::Binding(namespace.clone(), service.clone())) {
                touched.merge(self.catalog.remove_binding(&namespace, service.as_ref()));
            }
        }
        let policies: Vec<_> = self.catalog.policies().map(|(m, _)| (m.name.clone(), m.version)).collect();
        for (name, version) in policies {
            if !present.contains(&Key::Policy(name.clone(), version)) {
                self.catalog.remove_policy(&name, version);
                self.unlist(version);
            }
        }
        let switches: Vec<_> = self.catalog.switches().keys().copied().collect();
        for switch in switches {
            if !present.contains(&Key::Disabled(switch)) {
                touched.merge(self.catalog.remove_disabled(switch));
            }
        }
        let drains: Vec<_> = self.catalog.drains().map(|(drained, ..)| drained.clone()).collect();
        for drained in drains {
            if !present.contains(&Key::Drain(drained.0.clone(), drained.1.clone())) {
                touched.merge(self.catalog.remove_drain(&drained));
            }
        }
    }

    fn change(&mut self, revision: Revision, changes: Vec<Observed>, now: Monotonic) -> Vec<GuardianInput> {
        self.stats.changes.fetch_add(changes.len() as u64, Ordering::Relaxed);
        let mut touched = Touched::default();
        let mut instances: Vec<(InstanceKey, Option<(Arc<Instance>, Revision)>)> = Vec::new();
        let (mut beats, mut loads) = (Vec::new(), Vec::new());
        let (mut members_changed, mut rules_changed) = (false, false);
        for change in changes {
            match change {
                Observed::Put(stored) => match &stored.key {
                    Key::Instance(key) => {
                        touched.merge(self.apply_put(&stored));
                        let entry = self.catalog.instance(&key.service, &key.id);
                        let known = entry.map(|e| (Arc::clone(&e.instance), Revision(e.modified)));
                        instances.push((key.clone(), known));
                    }
                    Key::Member(id) => members_changed |= self.members.insert(id.clone()),
                    Key::Beats(_) => beats.extend(self.beats_of(&stored)),
                    Key::Load(service) => loads.extend(self.load_of(service, &stored)),
                    _ => {
                        touched.merge(self.apply_put(&stored));
                        rules_changed = true;
                    }
                },
                Observed::Deleted(Key::Load(service), _) => loads.push((service, None)),
                Observed::Deleted(key, at) => {
                    self.stats.content.fetch_add(1, Ordering::Release);
                    match key {
                        Key::Instance(key) => {
                            touched.merge(self.catalog.remove_instance(&key.service, &key.id, at.0));
                            instances.push((key, None));
                        }
                        Key::Binding(namespace, service) => {
                            touched.merge(self.catalog.remove_binding(&namespace, service.as_ref()));
                            rules_changed = true;
                        }
                        Key::Policy(name, version) => {
                            self.catalog.remove_policy(&name, version);
                            self.unlist(version);
                            rules_changed = true;
                        }
                        Key::Disabled(switch) => {
                            touched.merge(self.catalog.remove_disabled(switch));
                            rules_changed = true;
                        }
                        Key::Drain(region, zone) => {
                            touched.merge(self.catalog.remove_drain(&(region, zone)));
                            rules_changed = true;
                        }
                        Key::Member(id) => members_changed |= self.members.remove(&id),
                        Key::Region | Key::Incarnation | Key::Load(_) | Key::Beats(_) | Key::History(..) => {}
                    }
                }
            }
        }
        self.publish(touched, now);
        if rules_changed {
            self.publish_rules();
            self.let_go();
        }
        self.show_loads(&loads);
        self.revision = self.revision.max(revision);
        self.directory.currency.advance(self.revision.0, now);
        let mut inputs = Vec::new();
        if members_changed {
            inputs.push(GuardianInput::Members(self.members.clone()));
        }
        if !instances.is_empty() {
            inputs.push(GuardianInput::Instances(instances));
        }
        if !loads.is_empty() {
            inputs.push(GuardianInput::Loads(loads));
        }
        if !beats.is_empty() {
            inputs.push(GuardianInput::Beats(beats));
        }
        inputs.push(GuardianInput::Current);
        inputs
    }

    fn apply_put(&mut self, stored: &Stored) -> Touched {
        self.stats.content.fetch_add(1, Ordering::Release);
        match (record::decode(&stored.key, &stored.value), &stored.key) {
            (Ok(Some(Record::Instance(instance))), Key::Instance(key)) => {
                self.held.remove(key);
                self.catalog.put_instance(&key.service, Arc::new(*instance), stored.modified.0)
            }
            (Ok(Some(Record::Binding(binding))), Key::Binding(namespace, service)) => self
                .catalog
                .put_binding(namespace.clone(), service.clone(), Arc::new(*binding), stored.modified.0),
            (Ok(Some(Record::Policy(manifest))), Key::Policy(name, version)) => {
                self.unlisted.remove(version);
                // The loader ends only with the gateway.
                let _ = self.feeds.modules.send(Wish::Load(Wanted {
                    name: name.clone(),
                    version: *version,
                    chunks: manifest.chunks,
                    signature: signature::value(&manifest.unknown),
                }));
                self.catalog.put_policy(Arc::new(*manifest), stored.modified.0);
                Touched::default()
            }
            (Ok(Some(Record::Disabled(disabled))), Key::Disabled(switch)) => {
                self.catalog.put_disabled(*switch, Arc::new(*disabled), stored.modified.0)
            }
            (Ok(Some(Record::Drain(drain))), Key::Drain(region, zone)) => {
                self.catalog.put_drain((region.clone(), zone.clone()), Arc::new(*drain), stored.modified.0)
            }
            (Err(reason), _) => {
                self.stats.unreadable.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(reason, "keeping what was known");
                Touched::default()
            }
            _ => Touched::default(),
        }
    }

    fn load_of(&self, service: &ServiceKey, stored: &Stored) -> Option<LoadRecord> {
        match record::decode(&stored.key, &stored.value) {
            Ok(Some(Record::Load(load))) => Some((service.clone(), Some((load.total, stored.modified)))),
            _ => {
                self.stats.unreadable.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Loads are shown to people, besides what the guardian makes of them; no snapshot changes with them.
    fn show_loads(&self, loads: &[LoadRecord]) {
        for (service, load) in loads {
            if let Some(published) = self.directory.get(service) {
                published.set_load(load.map(|(total, _)| total));
            }
        }
    }

    fn beats_of(&self, stored: &Stored) -> Vec<Beat> {
        match record::decode(&stored.key, &stored.value) {
            Ok(Some(Record::Beats(beats))) => beats,
            _ => {
                self.stats.unreadable.fetch_add(1, Ordering::Relaxed);
                Vec::new()
            }
        }
    }

    fn publish(&mut self, mut touched: Touched, now: Monotonic) {
        let spared = self.catalog.is_drained(self.catalog.region());
        let ramp = self.homecoming.0.ramp(spared, now);
        if ramp != std::mem::replace(&mut self.homecoming.1, ramp) {
            self.directory.currency.set_own_ramp(ramp);
            touched.services.extend(self.catalog.services().cloned());
        }
        for key in touched.services {
            self.serial += 1;
            let Some(mut snapshot) = self.catalog.snapshot(&key, self.serial) else { continue };
            let ramp = self.ramp(&snapshot, now);
            if ramp != snapshot.ramp {
                self.catalog.set_ramp(&key, ramp);
                snapshot.ramp = ramp;
            }
            self.share_binding(&mut snapshot);
            // What another region knows is not forgotten while it does.
            let (here, elsewhere) = (!snapshot.endpoints.is_empty(), self.catalog.neighbours().knows(&key));
            self.emptied.note(&key, here, elsewhere, now);
            let snapshot = self.directory.publish(snapshot);
            self.host.published(&snapshot);
            self.stats.published.fetch_add(1, Ordering::Relaxed);
        }
        self.neighbourhood.show();
    }

    /// Thousands of services have the binding of their namespace, or none: they share one.
    fn share_binding(&mut self, snapshot: &mut Snapshot) {
        if snapshot.binding.source == Source::Own {
            return;
        }
        match self.shared.get_mut(&snapshot.key.namespace) {
            Some(shared) if *shared == snapshot.binding => snapshot.binding = Arc::clone(shared),
            Some(shared) => *shared = Arc::clone(&snapshot.binding),
            None => {
                self.shared.insert(snapshot.key.namespace.clone(), Arc::clone(&snapshot.binding));
            }
        }
    }

    /// What the service may take of its own traffic: all, unless it is on its way back from other regions.
    fn ramp(&mut self, snapshot: &Snapshot, now: Monotonic) -> u32 {
        let here = snapshot.endpoints.iter().any(|e| e.status.is_eligible());
        let elsewhere = snapshot.remotes.iter().any(|r| r.address_count() > 0);
        let known = self.returning.get(&snapshot.key).or_else(|| self.away.get(&snapshot.slot));
        let before = known.copied().unwrap_or_default();
        let mut course = before;
        let mut ramp = course.ramp(here, elsewhere, now);
        if elsewhere {
            ramp = ramp.min(self.homecoming.1);
        }
        if course != before {
            self.away.remove(&snapshot.slot);
            self.returning.remove(&snapshot.key);
            match course {
                Return::Home => {}
                Return::Away(..) => drop(self.away.insert(snapshot.slot, course)),
                Return::Ramping(_) => drop(self.returning.insert(snapshot.key.clone(), course)),
            }
        }
        ramp
    }

    /// Notes a version that may have no manifest any more. The same bytes may stand under another name.
    fn unlist(&mut self, version: PolicyVersion) {
        if !self.catalog.policies().any(|(manifest, _)| manifest.version == version) {
            self.unlisted.insert(version);
        }
    }

    /// Versions that some binding names, as the active one, to try, or to fall back on.
    fn bound(&self) -> BTreeSet<PolicyVersion> {
        let bindings = self.catalog.bindings().map(|(_, binding, _)| binding);
        bindings.flat_map(|binding| binding.versions()).map(|bound| bound.version).collect()
    }

    /// Ends what has neither a manifest nor a binding. A version that is bound runs on, whatever became of its manifest.
    fn let_go(&mut self) {
        if self.unlisted.is_empty() {
            return;
        }
        let bound = self.bound();
        let gone: Vec<_> = self.unlisted.extract_if(.., |version| !bound.contains(version)).collect();
        for version in &gone {
            self.host.remove(*version);
        }
        if !gone.is_empty() {
            self.keep_modules();
        }
    }

    /// Tells which modules are still wanted on disk.
    fn keep_modules(&self) {
        let listed = self.catalog.policies().map(|(manifest, _)| manifest.version);
        let kept = listed.chain(self.bound()).collect();
        // The loader ends only with the gateway.
        let _ = self.feeds.modules.send(Wish::Keep(kept));
    }

    fn publish_rules(&self) {
        let bindings = self.catalog.bindings().map(|(at, b, m)| (at.clone(), (Arc::clone(b), m))).collect();
        let policies = self
            .catalog
            .policies()
            .map(|(manifest, m)| ((manifest.name.clone(), manifest.version), (Arc::clone(manifest), m)))
            .collect();
        let drains = self.catalog.drains().map(|(at, d, m)| (at.clone(), (Arc::clone(d), m))).collect();
        let switches = self.catalog.switches().clone();
        self.directory.publish_rules(Rules { bindings, policies, drains, switches });
    }

    /// Ends what was held too long and forgets services that have had nothing for long.
    fn sweep(&mut self, now: Monotonic) {
        let over: Vec<InstanceKey> =
            self.held.iter().filter(|(_, until)| **until <= now).map(|(key, _)| key.clone()).collect();
        let mut touched = Touched::default();
        for key in over {
            self.held.remove(&key);
            if self.catalog.instance(&key.service, &key.id).is_some_and(|e| e.held) {
                touched.merge(self.catalog.remove_instance(&key.service, &key.id, self.revision.0));
                self.stats.content.fetch_add(1, Ordering::Release);
            }
        }
        self.stats.held.store(self.held.len() as u64, Ordering::Relaxed);
        touched.merge(self.neighbourhood.sweep(&mut self.catalog, now));
        for (key, course) in &self.returning {
            let ramp = course.clone().ramp(true, true, now);
            touched.merge(self.catalog.set_ramp(key, ramp));
        }
        self.publish(touched, now);
        for key in self.neighbourhood.take_forgotten() {
            self.emptied.give_up(&key, now);
        }
        let forgotten = self.emptied.take_over(now);
        if !forgotten.is_empty() {
            // It may have been the last one of its namespace.
            self.shared.clear();
        }
        for key in forgotten {
            let slot = self.directory.get(&key).map(|published| published.current().slot);
            if self.catalog.forget_service(&key) {
                self.directory.forget(&key);
                if let Some(slot) = slot {
                    self.away.remove(&slot);
                    self.host.removed(slot);
                }
            }
        }
    }
}
