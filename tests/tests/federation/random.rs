//! Faults at random, one or two at a time: in namespaces, and on loopback, where links are slow too. No gateway dies, so that every lookup in every region has to be answered.

/// Some minutes.
mod long {
    use crate::world::{Fleet, Loads, REGIONS, World};
    use crate::{HEALED, RAMPED, SLACK};
    use meridian_tests::draw::Draw;
    use meridian_tests::place::Place;
    use std::time::Duration;

    /// Faults, one after the other.
    const STEPS: usize = 16;

    fn region(draw: &mut Draw) -> usize {
        draw.below(REGIONS.len())
    }

    /// Two regions that differ.
    fn pair(draw: &mut Draw) -> (usize, usize) {
        let from = region(draw);
        (from, (from + 1 + draw.below(REGIONS.len() - 1)) % REGIONS.len())
    }

    /// One that this place has.
    fn fault(draw: &mut Draw, place: &Place) -> Fault {
        let (from, to) = pair(draw);
        match draw.below(if place.delays() { 7 } else { 6 }) {
            0 => Fault::Cut(from, to),
            1 => Fault::CutOneWay(from, to),
            2 => Fault::Isolate(from),
            3 => Fault::PauseNode(from),
            4 => Fault::KillNode(from),
            5 => Fault::PauseRegistry(from),
            _ => Fault::Slow(from, to, Duration::from_millis(50 + draw.below(400) as u64)),
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Fault {
        Cut(usize, usize),
        CutOneWay(usize, usize),
        Isolate(usize),
        Slow(usize, usize, Duration),
        PauseNode(usize),
        KillNode(usize),
        PauseRegistry(usize),
    }

    impl Fault {
        fn begin(self, world: &mut World) {
            match self {
                Self::Cut(a, b) => world.place.cut(a, b),
                Self::CutOneWay(from, to) => world.place.cut_one_way(from, to),
                Self::Isolate(at) => world.isolate(at),
                Self::Slow(a, b, by) => world.place.slow(a, b, by),
                Self::PauseNode(at) => world.regions[at].node.pause(),
                Self::KillNode(at) => world.regions[at].node.kill(),
                Self::PauseRegistry(at) => world.regions[at].etcd.pause(),
            }
        }

        async fn end(self, world: &mut World) {
            match self {
                Self::Cut(..) | Self::CutOneWay(..) | Self::Isolate(_) => world.place.heal(),
                Self::Slow(a, b, _) => world.place.slow(a, b, Duration::ZERO),
                Self::PauseNode(at) => world.regions[at].node.resume(),
                Self::KillNode(at) => world.regions[at].node.start().await,
                Self::PauseRegistry(at) => world.regions[at].etcd.resume(),
            }
        }

        /// Whether both can happen at once: what is dead cannot be stopped too.
        fn goes_with(self, other: Self) -> bool {
            let node = |fault| match fault {
                Self::PauseNode(at) | Self::KillNode(at) => Some(at),
                _ => None,
            };
            node(self).is_none() || node(self) != node(other)
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_lookup_fails_under_random_faults() {
        no_lookup_fails(World::start().await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_lookup_fails_under_random_faults_with_real_loss() {
        no_lookup_fails(World::apart().await).await;
    }

    /// `MERIDIAN_SEED` draws the same faults again.
    async fn no_lookup_fails(mut world: World) {
        let mut draw = Draw::of_environment();
        let _fleet = Fleet::start(&world).await;
        let loads = Loads::all(&world);
        for step in 0..STEPS {
            let first = fault(&mut draw, &world.place);
            let second = Some(fault(&mut draw, &world.place))
                .filter(|fault| draw.below(2) == 0 && fault.goes_with(first));
            let span = Duration::from_millis(1_000 + draw.below(19_000) as u64);
            first.begin(&mut world);
            if let Some(fault) = second {
                fault.begin(&mut world);
            }
            tokio::time::sleep(span).await;
            first.end(&mut world).await;
            if let Some(fault) = second {
                fault.end(&mut world).await;
            }
            let fresh = world
                .all_show("all are fresh again", 2 * HEALED + SLACK, |shown| {
                    shown["freshness"] == "fresh" && shown["reachable"] == true
                })
                .await;
            world.settled("all have their traffic again", RAMPED + SLACK).await;
            println!("{step}: {first:?} and {second:?} for {span:?}: fresh after {fresh:?}");
        }
        loads.check();
    }
}
