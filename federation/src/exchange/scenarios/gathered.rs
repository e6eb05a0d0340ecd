//! What is gathered aside is bounded for each region, whatever the number of its links.

use super::*;

/// A part of a state that is never complete.
fn part(origin: &str, index: u64, fill: u8) -> Message {
    let records = (0..4).map(|n| record(n, fill, 50_000)).collect();
    let (_, message) = update_at(origin, origin, Place { incarnation: LIFE, index }, records);
    let Message::Update(update) = message else { unreachable!() };
    Message::Update(Update { last: false, ..update })
}

#[test]
fn many_links_of_a_region_have_the_room_of_few() {
    let mut exchange = exchange("b", Node);
    exchange.limits.gathered_bytes = 1_000_000;
    for n in 0..20 {
        exchange.handle_link_up(Monotonic(1_000), LinkId(n), peer("a", Node));
    }
    exchange.handle_link_up(Monotonic(1_000), LinkId(99), peer("c", Node));
    exchange.handle_message(Monotonic(1_000), LinkId(99), part("c", 1, 1));
    for n in 0..20 {
        exchange.handle_message(Monotonic(1_001 + n), LinkId(n), part("a", 9 + n, n as u8));
    }
    let gathered = |name: &str| -> Vec<u64> {
        let of = exchange.links.iter().filter(|(_, link)| !link.gathers.is_empty());
        of.filter(|(_, link)| link.peer.region == region(name)).map(|(id, _)| id.0).collect()
    };
    // Of its own, the latest are kept; nobody else's gave way.
    assert_eq!((gathered("a"), gathered("c")), (vec![16, 17, 18, 19], vec![99]));
    assert_eq!(exchange.counters().transfers_dropped, 16);
}
