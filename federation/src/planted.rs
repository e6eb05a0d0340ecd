//! Bugs that tests plant, to prove that the simulator would find them. Nothing of this is in a production build: there,
//! `planted!` is `false`.

/// Whether a test planted this bug.
#[cfg(test)]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::bugs::is_planted($crate::planted::bugs::Bug::$bug)
    };
}

/// Whether a test planted this bug: never, in production.
#[cfg(not(test))]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::never()
    };
}

/// A call, so that conditions with it are not taken for mistakes.
#[cfg(not(test))]
pub(crate) const fn never() -> bool {
    false
}

pub(crate) use planted;

#[cfg(test)]
pub(crate) mod bugs {
    use std::cell::Cell;

    /// A bug in production code.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Bug {
        /// An older state replaces a newer one.
        OlderAccepted,
        /// Places are compared by index alone.
        IncarnationIgnored,
        /// A beat counts from when it came, not from when its ping went.
        BeatTimeOfArrival,
        /// A relay says nothing of its own age.
        RelayAgeDropped,
        /// What comes out of an update is not compared with the root.
        RootUnchecked,
        /// Heads are not checked.
        SignatureUnchecked,
        /// A node believes others about its own region.
        OwnTakenFromPeers,
        /// Only a greater counter counts as ahead, not a greater index of the same life.
        RaiseOnlyForCounter,
        /// A node publishes its region although peers know a later state.
        PublishedWhileBehind,
        /// Ages stand still while the process is paused.
        PauseForgiven,
        /// The first part of an update is shown.
        ShownBeforeComplete,
        /// No digests are sent.
        NoDigest,
        /// Three times as many records as allowed are gathered, and larger ones.
        LimitOff,
        /// Removals are left out of deltas.
        RemovalsDropped,
        /// A link that was answered once counts as answered for as long as it is up.
        SilentStillReachable,
        /// A claim about a state that is not held yet counts for the one that is.
        ClaimAhead,
        /// What beats show to be missing is not asked for.
        MissingNotAsked,
        /// An image is believed without checking its signatures.
        ImageUnchecked,
        /// What comes from the disk counts as known to be new at the start of the process.
        ImageFresh,
        /// A source that is gone is not replaced.
        SourceKept,
        /// A beat counts although its ping was answered before or never sent.
        NonceUnchecked,
        /// The registry is raised before it proved that it lacks what was heard of.
        RaiseUnproven,
        /// The registry is asked to be raised as often as there is cause.
        RaiseUnlimited,
        /// An origin that grows old is noticed only when something else happens.
        TurnsForgotten,
        /// A lost link changes nothing that is told.
        DownUntold,
        /// Parts are sent without waiting for those before.
        WindowIgnored,
        /// A signature that was good once is good for whatever head it stands under.
        VerifiedBySignature,
        /// Records whose buckets are empty now are not among those that changed.
        VanishedBucketUntold,
        /// What is published is as new as the registry's last answer, even if that could not be published.
        UnpublishedVouched,
        /// A claim about an earlier state of the same life counts, even if a later one had been taken by then.
        EarlierCredited,
        /// What was proven of a life counts for the next one that comes.
        LifeProofKept,
        /// A claim about an older life counts for the one that is held.
        OlderLifeCredited,
        /// What was on its way counts as unanswered although the subscriber began anew.
        WindowKept,
        /// An origin that grows stale after it was suspect is noticed only when something else happens.
        StaleTurnForgotten,
        /// What is known of the own region already counts as heard of now.
        HeardAnew,
        /// A region is as far as the farthest of its nodes.
        FarthestShown,
        /// Who asks how new its own region is here is not shown a head that contradicts its own.
        ContradictionUnshown,
        /// What a leaf alone remembers is not asked for.
        LeafUnasked,
        /// What is kept on disk leaves out regions that were not heard of lately.
        DoubtfulNotSaved,
        /// What a peer makes up has a source for as long as its link is up.
        StraysKept,
        /// All endpoints of a summary are taken for those of its first subset.
        SubsetMisread,
        /// Not in production code, but in what stands for the gateway: a stale region's services are forgotten.
        StaleForgotten,
        /// Likewise: a region whose age nobody knows counts as infinitely old.
        UnknownAgeRefused,
        /// Likewise: a suspect region takes nothing.
        SuspectDropped,
        /// Likewise: a region that is drained takes nothing, even where nobody else can.
        DrainEmpties,
    }

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants `bug`, and no other, in what this thread runs.
    pub(crate) fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
