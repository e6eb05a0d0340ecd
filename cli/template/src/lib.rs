//! Callers with the label `preview` get the preview version; everybody else gets the rest. Own zone first.

use meridian_sdk_wasm::{Answer, Caller, Details, Plan, Policy, Service, Tier, export};

/// What a binding says; `schema.json` describes it to operators.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    preview_version: String,
}

pub struct Preview {
    version: String,
}

impl Policy for Preview {
    type Config = Config;

    /// Once for every change of the service.
    fn open(config: Config, _: &Details<'_>) -> Result<Self, String> {
        if config.preview_version.is_empty() {
            return Err("previewVersion: name a version".into());
        }
        Ok(Preview { version: config.preview_version })
    }

    /// Once for every distinct caller; the result serves any number of lookups.
    fn answer(&self, service: &Service, caller: &Caller) -> Result<Answer, String> {
        let preview = caller.label("preview").is_some();
        let fitting = || service.healthy().filter(|e| (e.version() == self.version) == preview);
        let near = fitting().filter(|e| e.zone() == caller.zone);
        Ok(Plan::new([
            Tier::new("own zone").endpoints(near),
            Tier::new("the region").endpoints(fitting()),
        ])
        .into())
    }
}

export!(
    Preview,
    description = "Callers with the label preview get the preview version",
    schema = include_bytes!("../schema.json"),
    tests = include_bytes!("../cases.json"),
);

#[cfg(test)]
mod tests {
    use super::Preview;
    use meridian_sdk_wasm::testing::{self, Service, caller};

    /// Here a panic tells its line; `meridian policy test` and every gateway run the same cases in WebAssembly.
    #[test]
    fn the_cases_hold() {
        testing::cases::<Preview>(include_str!("../cases.json"));
    }

    #[test]
    fn curious_callers_share_the_preview_by_weight() {
        let service = Service::named("orders-api")
            .endpoint("a-1", |e| e.zone("ap-south-1a").version("1"))
            .endpoint("a-2", |e| e.zone("ap-south-1a").version("2").weight(300))
            .endpoint("a-3", |e| e.zone("ap-south-1a").version("2"));
        let curious = caller("ap-south-1a").with_label("preview", "yes");
        let asked = testing::ask::<Preview>(r#"{"previewVersion": "2"}"#, &service, &curious).unwrap();
        assert_eq!(asked.share_of("a-2"), 0.75);
        assert_eq!(asked.share_of_version("1"), 0.0);
    }
}
