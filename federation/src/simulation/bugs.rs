//! Bugs planted in production code, each of which some seed must find.

use super::{Broken, run};
use crate::planted::bugs::Bug;

/// Seeds that a bug may survive.
const PATIENCE: u64 = 600;
/// Where a bug is looked for that shows in one of a thousand worlds: there is such a world among those after this.
const RARE: u64 = 1_000;

fn is_found(bug: Bug) -> Broken {
    is_found_from(0, bug)
}

fn is_found_from(first: u64, bug: Bug) -> Broken {
    let mut seeds = first..first + PATIENCE;
    let found = seeds.find_map(|seed| run(seed, Some(bug)).err().map(|broken| (seed, broken)));
    let Some((seed, broken)) = found else { panic!("{bug:?} survived {PATIENCE} seeds from {first} on") };
    println!("{bug:?} is found by seed {seed}: {broken}");
    broken
}

/// Nothing that is promised of the exchange alone is broken by it.
fn is_found_by_lookups(bug: Bug) {
    let found = is_found(bug);
    assert!(found.contains("no endpoint"), "{bug:?} was found otherwise: {found}");
}

macro_rules! planted_bugs {
    ($($test:ident: $bug:ident,)*) => {
        $(#[test] fn $test() { is_found(Bug::$bug); })*
    };
}

planted_bugs! {
    older_accepted: OlderAccepted,
    incarnation_ignored: IncarnationIgnored,
    beat_time_of_arrival: BeatTimeOfArrival,
    relay_age_dropped: RelayAgeDropped,
    root_unchecked: RootUnchecked,
    signature_unchecked: SignatureUnchecked,
    own_taken_from_peers: OwnTakenFromPeers,
    raise_only_for_counter: RaiseOnlyForCounter,
    published_while_behind: PublishedWhileBehind,
    pause_forgiven: PauseForgiven,
    shown_before_complete: ShownBeforeComplete,
    no_digest: NoDigest,
    limit_off: LimitOff,
    removals_dropped: RemovalsDropped,
    silent_still_reachable: SilentStillReachable,
    claim_ahead: ClaimAhead,
    missing_not_asked: MissingNotAsked,
    image_unchecked: ImageUnchecked,
    image_fresh: ImageFresh,
    source_kept: SourceKept,
    nonce_unchecked: NonceUnchecked,
    raise_unproven: RaiseUnproven,
    raise_unlimited: RaiseUnlimited,
    turns_forgotten: TurnsForgotten,
    down_untold: DownUntold,
    window_ignored: WindowIgnored,
    verified_by_signature: VerifiedBySignature,
    vanished_bucket_untold: VanishedBucketUntold,
    unpublished_vouched: UnpublishedVouched,
    life_proof_kept: LifeProofKept,
    older_life_credited: OlderLifeCredited,
    window_kept: WindowKept,
    stale_turn_forgotten: StaleTurnForgotten,
    heard_anew: HeardAnew,
    farthest_shown: FarthestShown,
    contradiction_unshown: ContradictionUnshown,
    leaf_unasked: LeafUnasked,
    strays_kept: StraysKept,
}

#[test]
fn earlier_credited() {
    is_found_from(RARE, Bug::EarlierCredited);
}

macro_rules! planted_bugs_of_lookups {
    ($($test:ident: $bug:ident,)*) => {
        $(#[test] fn $test() { is_found_by_lookups(Bug::$bug); })*
    };
}

planted_bugs_of_lookups! {
    doubtful_not_saved: DoubtfulNotSaved,
    subset_misread: SubsetMisread,
    stale_forgotten: StaleForgotten,
    unknown_age_refused: UnknownAgeRefused,
    suspect_dropped: SuspectDropped,
    drain_empties: DrainEmpties,
}
