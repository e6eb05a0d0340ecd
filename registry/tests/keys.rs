//! Keys as text: no two records ever share a place, whatever their names.

// Helpers of tests assert by unwrapping, as the tests do; clippy exempts only functions that are marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use meridian_model::instance::InstanceKey;
use meridian_model::names::ServiceKey;
use meridian_model::names::{GatewayId, InstanceId, Namespace, PolicyName, PolicyVersion, ServiceName};
use meridian_model::time::UnixMillis;
use meridian_registry::Key;
use proptest::prelude::*;

fn label<T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    // Short ones collide more often, which is what this is after.
    prop_oneof!["[a-c0-1]([a-c0-1_-]{0,2}[a-c0-1])?", "[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"]
        .prop_map(|text| text.parse().expect("a label"))
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    prop_oneof!["[A-Za_][a.:@-]{0,3}", "[A-Za-z0-9_][A-Za-z0-9._:@-]{0,127}"]
        .prop_map(|text| text.parse().expect("an id"))
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        Just(Key::Region),
        Just(Key::Incarnation),
        (label::<Namespace>(), label::<ServiceName>(), id::<InstanceId>()).prop_map(
            |(namespace, service, id)| {
                Key::Instance(InstanceKey { service: ServiceKey::new(namespace, service), id })
            }
        ),
        (label(), proptest::option::of(label()))
            .prop_map(|(namespace, service)| Key::Binding(namespace, service)),
        (label::<PolicyName>(), any::<[u8; 4]>())
            .prop_map(|(name, m)| Key::Policy(name, PolicyVersion::of(&m))),
        proptest::option::of(any::<[u8; 4]>()).prop_map(|m| Key::Disabled(m.map(|m| PolicyVersion::of(&m)))),
        (label(), proptest::option::of(label())).prop_map(|(region, zone)| Key::Drain(region, zone)),
        (label(), label()).prop_map(|(namespace, service)| Key::Load(ServiceKey::new(namespace, service))),
        id::<GatewayId>().prop_map(Key::Member),
        id::<GatewayId>().prop_map(Key::Beats),
        (any::<u64>(), any::<u32>()).prop_map(|(at, random)| Key::History(UnixMillis(at), random)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_key_is_read_back_from_its_text(key in key()) {
        prop_assert_eq!(Key::decode(&key.encode()), Some(key));
    }

    #[test]
    fn different_keys_have_different_texts(one in key(), other in key()) {
        prop_assert_eq!(one == other, one.encode() == other.encode());
    }

    #[test]
    fn history_sorts_by_time(one in any::<(u64, u32)>(), other in any::<(u64, u32)>()) {
        let text = |(at, random)| Key::History(UnixMillis(at), random).encode();
        prop_assert_eq!(one.cmp(&other), text(one).cmp(&text(other)));
    }

    #[test]
    fn no_text_is_a_key_by_accident(text in ".{0,80}") {
        prop_assert!(Key::decode(&text).is_none_or(|key| key.encode() == text));
    }

    #[test]
    fn what_looks_like_a_key_has_one_text(
        text in "(state|history)/(region|incarnation|instances|bindings|policies|loads|members|beats)?/?[a-zA-Z0-9_:@./+-]{0,40}"
    ) {
        prop_assert!(Key::decode(&text).is_none_or(|key| key.encode() == text));
    }

    #[test]
    fn a_history_key_has_one_text(text in "history/[0-9+]{20}-[0-9a-fA-F+]{8}") {
        prop_assert!(Key::decode(&text).is_none_or(|key| key.encode() == text));
    }
}
