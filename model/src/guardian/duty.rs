//! What a guardian remembers of one instance, and when its lease ends.

use super::checking::Checking;
use super::timers::NEVER;
use super::{Decision, Moment, Settings};
use crate::instance::Instance;
use crate::registration::{HealthCheck, RenewBy};
use crate::status::CheckVerdict;
use crate::time::Monotonic;
use smol_str::{SmolStr, format_smolstr};

#[derive(Debug)]
pub(super) struct Duty {
    /// The last sign of life, or when the guardianship began.
    pub(super) renewed: Monotonic,
    /// No ruling before this: one is under way or was refused just now.
    pub(super) wait: Monotonic,
    /// The timer that counts; [`NEVER`] if there is none.
    pub(super) armed: Monotonic,
    pub(super) checking: Option<Box<Checking>>,
    pub(super) ruling_queued: bool,
    pub(super) check_queued: bool,
}

/// What renews a lease.
pub(super) enum Renewal<'a> {
    Beats,
    Checks(&'a HealthCheck),
}

/// What renews the lease of this instance. A record that asks for checks but has none (no gateway writes that) beats.
pub(super) fn renewal(instance: &Instance) -> Renewal<'_> {
    match (instance.declared.renew_by, instance.declared.health_check.as_deref()) {
        (RenewBy::Check, Some(check)) => Renewal::Checks(check),
        _ => Renewal::Beats,
    }
}

/// A ruling and when it is due, which may be later than now.
pub(super) struct Prospect {
    pub(super) at: Monotonic,
    pub(super) cause: Cause,
}

/// Why a ruling is due; the words are found when it is handed out.
pub(super) enum Cause {
    Kept,
    Silence,
    Token,
    Checked(CheckVerdict, SmolStr),
}

impl Cause {
    pub(super) fn decision(self, instance: &Instance, settings: &Settings) -> Decision {
        let ttl = instance.declared.lease_ttl();
        let checks = matches!(renewal(instance), Renewal::Checks(_));
        let reason = match self {
            Self::Checked(verdict, detail) => return Decision::Verdict { verdict, detail },
            Self::Kept => {
                let kept = settings.expired_kept.as_secs();
                return Decision::Remove { reason: format_smolstr!("expired for {kept} s") };
            }
            Self::Silence if checks => {
                format_smolstr!("lease expired: no passing check for {} s", ttl.as_secs())
            }
            Self::Silence => format_smolstr!("lease expired: no heartbeat for {} s", ttl.as_secs()),
            Self::Token => {
                let outlived = if checks { settings.check_outlives_token } else { ttl };
                format_smolstr!(
                    "lease expired: its token ended {} s ago and no newer one came",
                    outlived.as_secs()
                )
            }
        };
        Decision::Expire { reason }
    }
}

impl Duty {
    pub(super) fn begin(instance: &Instance, now: Monotonic) -> Self {
        let checking = begin_checking(instance, now);
        Self { renewed: now, wait: now, armed: NEVER, checking, ruling_queued: false, check_queued: false }
    }

    /// Takes note of another record of the same instance.
    pub(super) fn follow(&mut self, before: &Instance, after: &Instance, now: Monotonic) {
        self.wait = now;
        let (was, is) = (&before.declared, &after.declared);
        let another_life = before.lease.id != after.lease.id
            || (before.lease.expired_at.is_some() && after.lease.expired_at.is_none());
        if another_life {
            self.renewed = now;
        }
        if another_life || (&was.host, was.port, &was.health_check) != (&is.host, is.port, &is.health_check) {
            self.checking = begin_checking(after, now);
            self.check_queued = false;
        } else if let Some(checking) = &mut self.checking {
            checking.reconcile(after.check);
        }
    }

    /// The next ruling on this instance, if the world stays as it is. `floor`: where every lease begins to count at the
    /// earliest.
    pub(super) fn prospect(
        &self,
        instance: &Instance,
        settings: &Settings,
        floor: Monotonic,
        now: Moment,
    ) -> Option<Prospect> {
        if let Some(expired_at) = instance.lease.expired_at {
            return Some(Prospect {
                at: now.until(expired_at.plus(settings.expired_kept)),
                cause: Cause::Kept,
            });
        }
        let end = self.end(instance, settings, floor, now);
        let unrecorded = self.checking.as_ref().and_then(|c| c.unrecorded(instance.check));
        match (end, unrecorded) {
            (Some(end), _) if end.at <= now.mono => Some(end),
            (_, Some((verdict, detail))) => {
                Some(Prospect { at: now.mono, cause: Cause::Checked(verdict, detail) })
            }
            (end, None) => end,
        }
    }

    /// When the lease ends unless it is renewed. None while it cannot end.
    fn end(
        &self,
        instance: &Instance,
        settings: &Settings,
        floor: Monotonic,
        now: Moment,
    ) -> Option<Prospect> {
        let ttl = instance.declared.lease_ttl();
        let (silence, outlives) = match renewal(instance) {
            Renewal::Beats => (self.renewed.plus(ttl), ttl),
            Renewal::Checks(check) => {
                let failing = self.checking.as_ref().is_some_and(|c| c.is_failing(check));
                (if failing { self.renewed.plus(ttl) } else { NEVER }, settings.check_outlives_token)
            }
        };
        let token = instance.lease.token_expires_at.map_or(NEVER, |exp| now.until(exp.plus(outlives)));
        let (at, cause) = if token < silence { (token, Cause::Token) } else { (silence, Cause::Silence) };
        // Nobody could renew, by beat or by a newer token, while the floor rose.
        (at != NEVER).then(|| Prospect { at: at.max(floor.plus(ttl)), cause })
    }
}

fn begin_checking(instance: &Instance, now: Monotonic) -> Option<Box<Checking>> {
    let check = instance.declared.health_check.as_deref()?;
    Some(Box::new(Checking::begin(instance.check, check, instance.lease.id.0, now)))
}
