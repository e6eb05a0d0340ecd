//! How prepared cells reach the worker that will call them: moved, never shared, and never waited for.

use crate::callers::CallerId;
use crate::cell::{Cell, Handle};
use crate::limits::MAX_UNDELIVERED;
use crate::preparation::Parcel;
use crate::view::View;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

/// What lies ready for a worker.
#[derive(Default)]
pub(crate) struct Mail {
    /// In the order in which they were made: a later one replaces what an earlier one says of a service.
    pub(crate) news: Vec<News>,
    /// Services whose parcels were dropped, because too much lay here.
    pub(crate) lost: BTreeSet<u32>,
    /// Services that were removed meanwhile.
    pub(crate) removed: BTreeSet<u32>,
}

/// One thing that a worker learns.
pub(crate) enum News {
    /// Services were prepared.
    Prepared(Parcel),
    /// A service is gone, or was evicted.
    Forget(u32),
    /// A canary beside what was prepared of a service.
    Canary(CanaryParcel),
}

/// One worker's part of a prepared canary.
pub(crate) struct CanaryParcel {
    pub(crate) slot: u32,
    pub(crate) cell: Cell,
    /// The views, with the identity of what a caller without key gets from both sides.
    pub(crate) views: Vec<(CallerId, Arc<View>, Handle, u128)>,
}

/// One worker's inbox. The lock is held for moving a few words only, and the worker never waits for it.
#[derive(Default)]
pub(crate) struct Inbox {
    full: AtomicBool,
    mail: Mutex<Mail>,
}

impl Inbox {
    /// Puts news; returns how many older ones had to be dropped for it.
    pub(crate) fn put(&self, news: News) -> Vec<News> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = Vec::new();
        if mail.news.len() >= MAX_UNDELIVERED {
            dropped = std::mem::take(&mut mail.news);
            for news in &dropped {
                match news {
                    News::Prepared(parcel) => {
                        for (slot, _) in &parcel.services {
                            mail.removed.remove(slot);
                            mail.lost.insert(*slot);
                        }
                    }
                    News::Forget(slot) => {
                        mail.lost.remove(slot);
                        mail.removed.insert(*slot);
                    }
                    News::Canary(CanaryParcel { slot, .. }) => {
                        if !mail.removed.contains(slot) {
                            mail.lost.insert(*slot);
                        }
                    }
                }
            }
        }
        mail.news.push(news);
        drop(mail);
        self.full.store(true, Ordering::Release);
        dropped
    }

    /// What a lookup asks first.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Takes everything, if nobody is putting something at this moment.
    pub(crate) fn take(&self) -> Option<Mail> {
        let mut mail = match self.mail.try_lock() {
            Ok(mail) => mail,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.full.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *mail))
    }
}
