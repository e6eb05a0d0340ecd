//! What uploaded policies hold. A process of its own, because what it holds is counted whole.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "unwrap in tests is the assertion itself, in their helpers too"
)]

use meridian_policies::{STANDARD, Workbench};

const SERVICES: usize = 100;
/// For each worker.
const MOST: u64 = 4 << 20;

#[test]
fn a_hundred_services_of_twenty_hold_four_mebibytes() {
    for standard in &STANDARD {
        let workbench = Workbench::compile(standard.module).unwrap();
        let memory =
            workbench.configs().iter().find_map(|config| workbench.memory(config, SERVICES).ok()).unwrap();
        println!("{}: {memory:?}", standard.name);
        let Some(held) = memory.apart_held_bytes else { return };
        assert!(held <= MOST, "{}: {memory:?}", standard.name);
        // The budget of the cache is in these: too high, and it holds half of what it could.
        let estimated = memory.apart_bytes as u64;
        assert!(
            (held * 3 / 4..=held * 3 / 2).contains(&estimated),
            "{}: estimated {estimated} for {held}",
            standard.name
        );
    }
}
