//! How the active version of a binding stands: whether it answers, and what does where it cannot.

use super::bind::whom;
use crate::output::{items_of, printable, short_version, text_of};
use serde_json::Value;

/// What the API's members say together.
enum Standing {
    Disabled,
    /// Some gateway saw it fail, and it has not soaked since.
    Failing,
    Soaking,
    Good,
}

impl Standing {
    fn of(binding: &Value) -> Self {
        let active = |name: &str| binding.pointer(&format!("/active/{name}"));
        let is_soaked = active("soaked").and_then(Value::as_bool) == Some(true);
        match (
            active("disabled").is_some_and(Value::is_object),
            active("failedAt").is_some_and(Value::is_string),
        ) {
            (true, _) => Self::Disabled,
            (false, true) if !is_soaked => Self::Failing,
            _ if is_soaked => Self::Good,
            _ => Self::Soaking,
        }
    }
}

/// A cell of a table: `failed`, or `soaking, rolled-back` where how it became active tells more.
pub(super) fn word(binding: &Value) -> String {
    let word = match Standing::of(binding) {
        Standing::Disabled => "disabled",
        Standing::Failing => "failed",
        Standing::Soaking => "soaking",
        Standing::Good => "good",
    };
    match text_of(binding, "/active/way").as_str() {
        way @ ("rolled-back" | "forced") => format!("{word}, {way}"),
        _ => word.to_owned(),
    }
}

/// A sentence: what answers for whom, or what is active and does not, why, since when, and what answers in its place.
pub(super) fn told(binding: &Value) -> String {
    let (active, whom) = (version(binding, "/active"), whom(binding));
    let text = |pointer: &str| printable(&text_of(binding, pointer));
    let instead = || format!("\n  instead   {}", stand_in(binding));
    match Standing::of(binding) {
        Standing::Good => format!("{active} answers for {whom} and is known to be good"),
        Standing::Soaking => format!("{active} answers for {whom} and has yet to soak"),
        Standing::Disabled => format!(
            "{active} is active for {whom} and disabled: {}\n  since     {}{}",
            text("/active/disabled/reason"),
            text("/active/disabled/since"),
            instead()
        ),
        Standing::Failing => {
            let answers = binding.pointer("/active/seen/rests") == Some(&Value::Bool(false));
            let does = if answers { "answers for" } else { "is active for" };
            let fails = if answers { "failed" } else { "fails" };
            let mut said = format!(
                "{active} {does} {whom} and {fails}: {}\n  last      {}, active since {}",
                text("/active/fault"),
                text("/active/failedAt"),
                text("/active/since"),
            );
            if binding.pointer("/active/seen/lookups").is_some() {
                said.push_str(&format!(
                    "\n  here      {} faults, {} lookups answered",
                    text("/active/seen/faults"),
                    text("/active/seen/answered")
                ));
            }
            if answers { said } else { said + &instead() }
        }
    }
}

/// What answers where the active version cannot: of what answered before, what is known to be good comes first.
fn stand_in(binding: &Value) -> String {
    let is_enabled = |former: &&Value| former.get("disabled").is_none_or(Value::is_null);
    let is_good = |former: &&Value| former.get("soaked").and_then(Value::as_bool) == Some(true);
    let former = || items_of(binding, "/lastGood").iter().filter(is_enabled);
    match former().find(is_good).or_else(|| former().next()) {
        Some(former) => format!("{}, which answered before", version(former, "")),
        None => "the native zone fallback".to_owned(),
    }
}

/// The policy and version at a place of a binding.
pub(super) fn version(binding: &Value, at: &str) -> String {
    let text = |name: &str| text_of(binding, &format!("{at}/{name}"));
    format!("{} {}", text("policy"), short_version(&text("version")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn binding(active: Value) -> Value {
        let mut binding = json!({ "namespace": "default", "service": "orders-api", "active": active,
            "lastGood": [{ "policy": "new", "version": "1", "soaked": false }, { "policy": "off", "version": "1",
                "soaked": true, "disabled": { "reason": "r" } }, { "policy": "good", "version": "1", "soaked": true }] });
        (binding["active"]["policy"], binding["active"]["version"]) = (json!("p"), json!("2"));
        binding
    }

    #[test]
    fn a_version_that_fails_is_told_with_what_answers_in_its_place() {
        let mut failing =
            binding(json!({ "soaked": false, "since": "t1", "failedAt": "t2", "fault": "trap at g-1",
            "way": "bound", "seen": { "lookups": 9, "faults": 9, "answered": 0 } }));
        assert_eq!(word(&failing), "failed");
        assert_eq!(
            told(&failing),
            "p 2 is active for default/orders-api and fails: trap at g-1\n  last      t2, active since t1\n  \
             here      9 faults, 0 lookups answered\n  instead   good 1, which answered before"
        );
        failing["lastGood"] = json!([]);
        assert!(told(&failing).ends_with("the native zone fallback"));
        failing["active"]["seen"]["rests"] = json!(false);
        assert!(
            told(&failing)
                .starts_with("p 2 answers for default/orders-api and failed: trap at g-1\n  last      t2")
        );
        assert!(told(&failing).ends_with("0 lookups answered"));
    }

    #[test]
    fn a_version_that_soaked_after_a_failure_is_good_again() {
        assert_eq!(word(&binding(json!({ "soaked": true, "failedAt": "t2" }))), "good");
        let disabled = binding(json!({ "soaked": true, "disabled": { "reason": "it loops", "since": "t" } }));
        assert_eq!(word(&disabled), "disabled");
        assert!(told(&disabled).contains("disabled: it loops\n  since     t\n  instead   good 1"));
        let back = binding(json!({ "soaked": false, "way": "rolled-back", "disabled": null }));
        assert_eq!(word(&back), "soaking, rolled-back");
    }
}
