//! The task that writes the region's state to disk as it changes.
//!
//! The whole state is written only when its content changed. Heartbeats move the registry's revision and change no
//! content: then a small note says that the state on disk is still what the registry had.

use super::Disk;
use crate::clock;
use crate::directory::Directory;
use crate::keeper::Command;
use meridian_model::time::{Monotonic, UnixMillis};
use meridian_registry::{Incarnation, Known, Revision};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// After a write, the disk and the keeper are left alone for this many times as long: about 5 % of the time is writing.
const REST_FACTOR: u32 = 20;
/// How long the keeper may take to hand out the state; it answers in well under a second.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the disk is written.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two saves, at least. A save that takes long stretches it.
    pub min_interval: Duration,
    /// Between two notes that the state is still complete, while the registry moves on.
    pub confirm: Duration,
    /// The same while the registry answers but nothing moves, so that `saved_at` stays near.
    pub confirm_idle: Duration,
    /// After repeated failures, at most.
    pub max_backoff: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(2),
            confirm: Duration::from_secs(5),
            confirm_idle: Duration::from_secs(60),
            max_backoff: Duration::from_secs(60),
        }
    }
}

/// Counters for the metrics.
#[derive(Debug, Default)]
pub struct SaveStats {
    /// States written.
    pub saves: AtomicU64,
    /// Notes written.
    pub confirmations: AtomicU64,
    /// Writes that failed.
    pub failures: AtomicU64,
    /// Whether the last write failed.
    pub failing: AtomicBool,
    /// Size of the last state.
    pub last_bytes: AtomicU64,
    /// How long the last state took to write.
    pub last_millis: AtomicU64,
    /// Until when the state on disk is known to be complete, in Unix milliseconds; 0 before the first write.
    pub saved_at: AtomicU64,
}

/// What the saver needs.
pub struct Saver {
    /// Where to.
    pub disk: Arc<Disk>,
    /// The keeper.
    pub commands: mpsc::Sender<Command>,
    /// How current the keeper's state is.
    pub directory: Arc<Directory>,
    /// Another number for every content: it must grow with each change of an instance, a binding or a manifest and with
    /// each reset, and must do so before the directory's index moves.
    pub generation: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// How often.
    pub pace: Pace,
    /// What it counts.
    pub stats: Arc<SaveStats>,
}

impl Saver {
    /// Saves until `stop`, and once more then. The keeper must outlive it for that.
    pub async fn run(self, stop: CancellationToken) {
        let mut saving = Saving { saver: self, on_disk: None, noted: None, in_a_row: 0 };
        // A gateway that began from disk mostly hears from the registry before the first pause is over, and then does
        // not write what it has just read.
        let mut pause = saving.saver.pace.min_interval;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = saving.step(false).await;
        }
        saving.step(true).await;
    }
}

/// What is to be compared to know whether something must be written.
#[derive(Clone, Copy)]
struct Sight {
    revision: Revision,
    generation: u64,
    proved_at: UnixMillis,
    is_connected: bool,
}

/// The content that the disk has.
#[derive(Clone, Copy)]
struct OnDisk {
    incarnation: Incarnation,
    generation: u64,
}

/// How far it has been confirmed.
#[derive(Clone, Copy)]
struct Noted {
    revision: Revision,
    at: Monotonic,
}

struct Saving {
    saver: Saver,
    on_disk: Option<OnDisk>,
    noted: Option<Noted>,
    /// Failures since the last success.
    in_a_row: u32,
}

impl Saving {
    /// The revision is read before the generation: if the generation is the one on disk, so is everything up to this
    /// revision.
    fn look(&self) -> Sight {
        let currency = &self.saver.directory.currency;
        let is_connected = currency.is_connected();
        let age = currency.age_ms(clock::monotonic_now());
        let revision = Revision(currency.index());
        let generation = (self.saver.generation)();
        let proved_at = UnixMillis(clock::unix_now().0.saturating_sub(age));
        Sight { revision, generation, proved_at, is_connected }
    }

    /// Writes what is due, and answers how long to wait then.
    async fn step(&mut self, last: bool) -> Duration {
        let started = clock::monotonic_now();
        let sight = self.look();
        let done = match self.on_disk {
            Some(on_disk) if on_disk.generation == sight.generation => {
                if !self.note_is_due(sight, started, last) {
                    return self.saver.pace.min_interval;
                }
                self.note(on_disk.incarnation, sight).await
            }
            _ => self.save(sight).await,
        };
        let pace = self.saver.pace;
        let stats = &self.saver.stats;
        match done {
            Ok(written) => {
                if written && std::mem::take(&mut self.in_a_row) > 0 {
                    stats.failing.store(false, Ordering::Relaxed);
                    tracing::info!("the region's state is being saved again");
                }
                let took = clock::monotonic_now().since(started);
                pace.min_interval.max(took.saturating_mul(REST_FACTOR))
            }
            Err(e) => {
                stats.failures.fetch_add(1, Ordering::Relaxed);
                stats.failing.store(true, Ordering::Relaxed);
                if self.in_a_row == 0 {
                    tracing::warn!(
                        "cannot save the region's state; a restart would begin with an older one: {e}"
                    );
                }
                self.in_a_row = self.in_a_row.saturating_add(1);
                let doubled = 2_u32.saturating_pow(self.in_a_row);
                pace.min_interval.saturating_mul(doubled).min(pace.max_backoff)
            }
        }
    }

    fn note_is_due(&self, sight: Sight, now: Monotonic, last: bool) -> bool {
        let Some(noted) = self.noted else { return true };
        let moved = sight.revision > noted.revision;
        let since = now.since(noted.at);
        let pace = self.saver.pace;
        (moved && (last || since >= pace.confirm)) || (sight.is_connected && since >= pace.confirm_idle)
    }

    /// Whether something was written: before the first complete state there is nothing to write.
    async fn save(&mut self, sight: Sight) -> io::Result<bool> {
        let (reply, image) = oneshot::channel();
        let asking = async {
            self.saver.commands.send(Command::Image(reply)).await.ok()?;
            image.await.ok()?
        };
        let Ok(Some(mut image)) = tokio::time::timeout(ASK_TIMEOUT, asking).await else { return Ok(false) };
        // Its age counts from the registry's last proof. A state that has been unconfirmed for a day must not look new
        // because it was written again.
        image.saved_at = sight.proved_at;
        let (incarnation, revision) = (image.incarnation, image.revision);
        let disk = Arc::clone(&self.saver.disk);
        let saved = blocking(move || disk.save(&image)).await?;
        self.on_disk = Some(OnDisk { incarnation, generation: sight.generation });
        self.noted = Some(Noted { revision, at: clock::monotonic_now() });
        let stats = &self.saver.stats;
        stats.saves.fetch_add(1, Ordering::Relaxed);
        stats.last_bytes.store(saved.bytes, Ordering::Relaxed);
        stats.last_millis.store(saved.millis, Ordering::Relaxed);
        stats.saved_at.store(sight.proved_at.0, Ordering::Relaxed);
        Ok(true)
    }

    async fn note(&mut self, incarnation: Incarnation, sight: Sight) -> io::Result<bool> {
        let known = Known { incarnation, revision: sight.revision };
        let disk = Arc::clone(&self.saver.disk);
        blocking(move || disk.confirm(known, sight.proved_at)).await?;
        self.noted = Some(Noted { revision: sight.revision, at: clock::monotonic_now() });
        self.saver.stats.confirmations.fetch_add(1, Ordering::Relaxed);
        self.saver.stats.saved_at.store(sight.proved_at.0, Ordering::Relaxed);
        Ok(true)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{disk, image};
    use super::*;
    use crate::image::Image;
    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    /// A saver, and in place of the keeper someone who hands out `image`.
    struct World {
        dir: TempDir,
        disk: Arc<Disk>,
        directory: Arc<Directory>,
        generation: Arc<AtomicU64>,
        stats: Arc<SaveStats>,
        image: Arc<std::sync::Mutex<Option<Image>>>,
        asked: mpsc::UnboundedReceiver<()>,
        stop: CancellationToken,
        running: JoinHandle<()>,
    }

    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(5);

    fn world(pace: Pace) -> World {
        let (dir, disk) = disk();
        let disk = Arc::new(disk);
        let directory = Arc::new(Directory::default());
        let generation = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&generation);
        let (commands, mut asking) = mpsc::channel(1);
        let stats = Arc::new(SaveStats::default());
        let image = Arc::new(std::sync::Mutex::new(None));
        let handed_out = Arc::clone(&image);
        let (seen, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Command::Image(reply)) = asking.recv().await {
                let _ = reply.send(handed_out.lock().unwrap().clone());
                let _ = seen.send(());
            }
        });
        let saver = Saver {
            disk: Arc::clone(&disk),
            commands,
            directory: Arc::clone(&directory),
            generation: Arc::new(move || counter.load(Ordering::SeqCst)),
            pace,
            stats: Arc::clone(&stats),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(saver.run(stop.clone()));
        World { dir, disk, directory, generation, stats, image, asked, stop, running }
    }

    impl World {
        fn change(&self, revision: u64, records: u64) {
            let mut changed = image(revision, records);
            changed.saved_at = clock::unix_now();
            *self.image.lock().unwrap() = Some(changed);
            self.generation.fetch_add(1, Ordering::SeqCst);
            self.directory.currency.advance(revision, clock::monotonic_now());
        }

        async fn until(&self, what: impl Fn(&SaveStats) -> bool) {
            let waiting = async {
                while !what(&self.stats) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), waiting)
                .await
                .expect("the saver did not get there");
        }

        async fn stop(self) -> (TempDir, Arc<Disk>, Arc<SaveStats>) {
            self.stop.cancel();
            self.running.await.unwrap();
            (self.dir, self.disk, self.stats)
        }
    }

    fn saves(at_least: u64) -> impl Fn(&SaveStats) -> bool {
        move |stats| stats.saves.load(Ordering::Relaxed) >= at_least
    }

    #[tokio::test]
    async fn a_change_is_saved_without_being_told_to() {
        let mut world =
            world(Pace { min_interval: SOON, confirm: NEVER, confirm_idle: NEVER, ..Pace::default() });
        world.asked.recv().await;
        assert_eq!(world.stats.saves.load(Ordering::Relaxed), 0, "nothing is known yet");
        world.change(7, 3);
        world.until(saves(1)).await;
        let loaded = world.disk.load().unwrap();
        assert_eq!(loaded.image.unwrap().records.len(), 3);
        world.change(9, 4);
        world.until(saves(2)).await;
        assert_eq!(world.disk.load().unwrap().image.unwrap().revision, Revision(9));
    }

    #[tokio::test]
    async fn heartbeats_do_not_write_the_whole_state() {
        let mut world =
            world(Pace { min_interval: SOON, confirm: SOON, confirm_idle: NEVER, ..Pace::default() });
        world.change(7, 3);
        world.until(saves(1)).await;
        // The first note is written when the disk has everything.
        world.directory.currency.advance(8, clock::monotonic_now());
        world.until(|stats| stats.confirmations.load(Ordering::Relaxed) > 0).await;
        while world.asked.try_recv().is_ok() {}
        for revision in 9..12 {
            let before = world.stats.confirmations.load(Ordering::Relaxed);
            world.directory.currency.advance(revision, clock::monotonic_now());
            world.until(|stats| stats.confirmations.load(Ordering::Relaxed) > before).await;
        }
        assert!(world.asked.try_recv().is_err(), "the keeper was asked for a state that had not changed");
        let (_dir, disk, _stats) = world.stop().await;
        let loaded = disk.load().unwrap();
        assert_eq!(loaded.known.unwrap().revision, Revision(11));
        assert_eq!(loaded.image.unwrap().revision, Revision(11));
    }

    /// What is read after a crash is as old as the last proof on disk, also where nothing happened for a day before it.
    #[tokio::test]
    async fn a_quiet_region_stays_as_new_on_disk_as_it_is() {
        let mut world =
            world(Pace { min_interval: SOON, confirm: NEVER, confirm_idle: SOON, ..Pace::default() });
        world.change(7, 3);
        world.until(saves(1)).await;
        while world.asked.try_recv().is_ok() {}
        let before = clock::unix_now();
        // Nothing moves any more: the registry only says that it is still there.
        world
            .until(|stats| {
                world.directory.currency.prove(clock::monotonic_now());
                stats.saved_at.load(Ordering::Relaxed) >= before.0 + 20
            })
            .await;
        assert_eq!(world.stats.saves.load(Ordering::Relaxed), 1, "the whole state was written for nothing");
        assert!(world.asked.try_recv().is_err(), "the keeper was asked for a state that had not changed");
        let saved_at = world.disk.load().unwrap().image.unwrap().saved_at;
        assert!(saved_at >= before, "{saved_at:?} is before {before:?}");
    }

    #[tokio::test]
    async fn the_last_change_before_the_end_is_saved() {
        let mut world = world(Pace { min_interval: SOON, ..Pace::default() });
        world.asked.recv().await;
        world.change(7, 3);
        let (_dir, disk, _stats) = world.stop().await;
        assert_eq!(disk.load().unwrap().image.unwrap().revision, Revision(7));
    }

    #[tokio::test]
    async fn a_state_that_nobody_confirms_grows_old_though_it_is_written() {
        let world = world(Pace { min_interval: SOON, confirm: SOON, confirm_idle: SOON, ..Pace::default() });
        let yesterday = clock::unix_now().0 - 86_400_000;
        *world.image.lock().unwrap() = Some(Image { saved_at: clock::unix_now(), ..image(7, 3) });
        world.directory.currency.serve_from_disk(7, yesterday);
        world.until(saves(1)).await;
        let (_dir, disk, stats) = world.stop().await;
        let saved_at = disk.load().unwrap().image.unwrap().saved_at;
        assert!(saved_at.0.abs_diff(yesterday) < 1_000, "{saved_at:?}");
        assert_eq!(stats.confirmations.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_failing_disk_is_tried_again() {
        let world = world(Pace { min_interval: SOON, max_backoff: SOON, ..Pace::default() });
        let in_the_way = world.dir.path().join("state.new");
        std::fs::create_dir(&in_the_way).unwrap();
        world.change(7, 3);
        world.until(|stats| stats.failures.load(Ordering::Relaxed) >= 3).await;
        assert!(world.stats.failing.load(Ordering::Relaxed));
        assert_eq!(world.stats.saves.load(Ordering::Relaxed), 0);
        std::fs::remove_dir(&in_the_way).unwrap();
        world.until(|stats| !stats.failing.load(Ordering::Relaxed)).await;
        assert_eq!(world.disk.load().unwrap().image.unwrap().revision, Revision(7));
    }
}
