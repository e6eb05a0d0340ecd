//! What is heard of other regions: into the keeper, and onto disk.

use crate::clock;
use crate::disk::Disk;
use crate::keeper::Command;
use crate::neighbourhood::News;
use meridian_federation::exchange::Image;
use meridian_federation::exchange::message::RecordKey;
use meridian_federation::record::{decode_notice, decode_summary};
use meridian_federation::service::Running;
use meridian_federation::service::news::{Batch, Changed};
use meridian_model::names::RegionName;
use meridian_registry::Incarnation;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often ages are passed on; between, they grow by this process's clock.
const AGES_EVERY: Duration = Duration::from_millis(500);
/// How often what changed is written to disk, at most; a write that takes longer is waited for by the next one only.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// How often it is written although nothing changed: what is read after a crash is as old as its last proof on disk.
const SAVE_QUIET: Duration = Duration::from_secs(30);

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct ReceiverStats {
    /// Records of other regions that could not be read: a newer version, or a bug.
    pub unreadable: AtomicU64,
    /// Times that what is held was written to disk.
    pub saves: AtomicU64,
    /// Times that it could not be.
    pub save_failures: AtomicU64,
}

/// Reads the federation's news for one process.
pub struct Receiver {
    /// The own region, of which nothing is news.
    pub region: RegionName,
    /// The service.
    pub running: Running,
    /// The gateway's keeper; none in a process that is only a node.
    pub keeper: Option<mpsc::Sender<Command>>,
    /// Where what is held is kept.
    pub disk: Arc<Disk>,
    /// To the origin: past which life the registry must be raised.
    pub raises: watch::Sender<Option<Incarnation>>,
    /// What it counts.
    pub stats: Arc<ReceiverStats>,
}

impl Receiver {
    /// Reads until `stop`, saves, and ends the service.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ages = tokio::time::interval(AGES_EVERY);
        let mut save = tokio::time::interval(SAVE_EVERY);
        ages.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut unsaved, mut saved_at) = (false, tokio::time::Instant::now());
        // At most one at a time, and never in the way of news: a disk may hang.
        let mut saving: Option<JoinHandle<bool>> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                batch = self.running.news().next() => {
                    unsaved |= !batch.changed.is_empty();
                    self.pass_on(batch).await;
                }
                _ = ages.tick() => self.pass_on_ages().await,
                _ = save.tick() => {
                    if saving.as_ref().is_some_and(|task| !task.is_finished()) {
                        continue;
                    }
                    if let Some(task) = saving.take() {
                        unsaved |= !task.await.unwrap_or(false);
                    }
                    if (unsaved || saved_at.elapsed() >= SAVE_QUIET)
                        && let Ok(image) = self.running.handle().export().await
                    {
                        (unsaved, saved_at) = (false, tokio::time::Instant::now());
                        let (disk, stats) = (Arc::clone(&self.disk), Arc::clone(&self.stats));
                        saving = Some(tokio::spawn(async move { save_image(&disk, &stats, image).await }));
                    }
                }
            }
        }
        let Self { running, disk, stats, .. } = self;
        if let Some(task) = saving {
            // What is written last must be the newest.
            let _ = task.await;
        }
        if let Some(image) = running.stop().await {
            save_image(&disk, &stats, image).await;
        }
    }

    async fn pass_on(&mut self, batch: Batch) {
        for news in self.news_of(batch) {
            self.tell(news).await;
        }
    }

    /// A batch as the keeper takes it.
    pub(super) fn news_of(&self, batch: Batch) -> Vec<News> {
        if let Some(past) = batch.raise {
            self.raises.send_replace(Some(past));
        }
        // A region's standing first: what it tells is of no use while it counts as never heard of.
        let heard = batch.standing.into_iter().map(|(region, (standing, at))| {
            let since = clock::monotonic_now().since(at);
            heard(region, standing, since)
        });
        let mut news: Vec<News> = heard.collect();
        news.extend(batch.changed.into_iter().map(|(region, changed)| self.read(region, changed)));
        news.retain(|(News::Told { region, .. } | News::Heard { region, .. })| *region != self.region);
        news
    }

    async fn pass_on_ages(&mut self) {
        let overview = self.running.handle().overview();
        let since = clock::monotonic_now().since(overview.at);
        for (region, standing) in &overview.standings {
            self.tell(heard(region.clone(), *standing, since)).await;
        }
    }

    async fn tell(&self, news: News) {
        let (News::Told { region, .. } | News::Heard { region, .. }) = &news;
        if *region != self.region
            && let Some(keeper) = &self.keeper
        {
            // The keeper ends only with the gateway.
            let _ = keeper.send(Command::News(news)).await;
        }
    }

    /// The changes of an origin. A record that cannot be read leaves what was known of that service.
    fn read(&self, region: RegionName, changed: Changed) -> News {
        let Changed { head, state, keys } = changed;
        let mut notice = None;
        let mut services = Vec::with_capacity(keys.len());
        let (mut unreadable, mut count) = (BTreeSet::new(), 0);
        for key in keys {
            let bytes = state.get(&key);
            match key {
                RecordKey::Region => match bytes.map(|bytes| decode_notice(bytes)) {
                    Some(Ok(read)) => notice = Some(read),
                    Some(Err(reason)) => {
                        count += 1;
                        unreadable.insert(reason.to_string());
                    }
                    None => notice = Some(meridian_model::summary::RegionNotice::default()),
                },
                RecordKey::Service(service) => match bytes.map(|bytes| decode_summary(bytes)) {
                    Some(Ok(summary)) => services.push((service, Some(Arc::new(summary)))),
                    Some(Err(reason)) => {
                        count += 1;
                        unreadable.insert(reason.to_string());
                    }
                    None => services.push((service, None)),
                },
            }
        }
        if count > 0 {
            self.stats.unreadable.fetch_add(count, Ordering::Relaxed);
            tracing::warn!(%region, count, reasons = ?unreadable, "some records cannot be read; keeping what was known");
        }
        let version = head.head.version;
        News::Told { region, incarnation: version.incarnation, index: version.index, notice, services }
    }
}

/// How a region stands, `since` later than it was judged.
fn heard(region: RegionName, standing: meridian_federation::exchange::Standing, since: Duration) -> News {
    let round_trip = standing.round_trip.map(|t| u32::try_from(t.as_millis()).unwrap_or(u32::MAX));
    News::Heard {
        region,
        age: standing.age.map(|age| age + since),
        reachable: standing.reachable,
        round_trip_ms: round_trip,
    }
}

/// Whether it was saved.
async fn save_image(disk: &Arc<Disk>, stats: &Arc<ReceiverStats>, image: Image) -> bool {
    let disk = Arc::clone(disk);
    let saved = tokio::task::spawn_blocking(move || super::save(&disk, &image)).await;
    match saved {
        Ok(Ok(())) => {
            stats.saves.fetch_add(1, Ordering::Relaxed);
            true
        }
        Ok(Err(error)) => {
            stats.save_failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "cannot keep what other regions told; a restart would begin without it");
            false
        }
        Err(_) => false,
    }
}
