//! A service as a gateway shows its instances, as policies would be shown it.

use meridian_model::policy::shown::{Endpoint, Service, Status};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One service of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Snapshot {
    pub(super) service: Service,
    /// Its zones, each with a caller, and nobody's zone.
    pub(super) zones: BTreeSet<String>,
}

/// Reads what `GET /v1/namespaces/{ns}/services/{service}` answered: one page, several in a list, or the instances alone.
pub(super) fn parse(text: &str) -> Result<Vec<Snapshot>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let mut services: BTreeMap<(String, String), Snapshot> = BTreeMap::new();
    for instance in instances(&value)? {
        let (key, region, endpoint) = read(instance)?;
        let (namespace, name) = key.clone();
        let of = services.entry(key).or_insert_with(|| Snapshot {
            service: Service { namespace, name, region, ..Service::default() },
            zones: BTreeSet::from([String::new()]),
        });
        of.zones.insert(endpoint.zone.clone());
        of.service.endpoints.push(endpoint);
    }
    if services.is_empty() {
        return Err("holds no instances".into());
    }
    Ok(services.into_values().collect())
}

fn instances(value: &Value) -> Result<Vec<&Value>, String> {
    let pages: Vec<&Value> = match value {
        Value::Array(all) if all.iter().all(|one| one.get("items").is_some()) => all.iter().collect(),
        Value::Array(instances) => return Ok(instances.iter().collect()),
        page => vec![page],
    };
    let mut instances = Vec::new();
    for page in pages {
        let items = page.get("items").and_then(Value::as_array);
        instances.extend(items.ok_or("holds no items: it must be a gateway's list of instances")?);
    }
    Ok(instances)
}

fn read(instance: &Value) -> Result<((String, String), String, Endpoint), String> {
    let text = |name: &str| instance.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = text("id").ok_or_else(|| {
        "lists no instances\n  next: curl \"$MERIDIAN_GATEWAY/v1/namespaces/default/services/SERVICE?limit=1000\"".to_owned()
    })?;
    let lacks = |what: &str| format!("instance {id}: no {what}");
    let status = match text("status").as_deref() {
        Some("healthy") => Status::Healthy,
        // To a policy, an instance whose lease ended is one that should be there and is not.
        Some("unhealthy" | "expired") => Status::Unhealthy,
        Some("starting") => Status::Starting,
        Some("draining") => Status::Draining,
        other => return Err(format!("instance {id}: status {other:?} is none")),
    };
    let endpoint = Endpoint {
        zone: text("zone").ok_or_else(|| lacks("zone"))?,
        version: text("version").unwrap_or_default(),
        group: text("deploymentGroup").unwrap_or_default(),
        protocol: text("protocol").unwrap_or_default(),
        weight: instance
            .get("weight")
            .and_then(Value::as_u64)
            .and_then(|weight| u32::try_from(weight).ok())
            .ok_or_else(|| lacks("weight"))?,
        capacity: instance.get("capacity").and_then(Value::as_u64),
        status,
        degraded: instance.get("degraded").and_then(Value::as_bool).unwrap_or(false),
        tags: instance.get("tags").map(words).unwrap_or_default(),
        metadata: instance.get("metadata").and_then(Value::as_object).map(pairs).unwrap_or_default(),
        id: id.clone(),
    };
    let named = |name: &str| text(name).ok_or_else(|| lacks(name));
    Ok(((named("namespace")?, named("service")?), named("region")?, endpoint))
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn pairs(object: &serde_json::Map<String, Value>) -> BTreeMap<String, String> {
    object.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn instance(id: &str, zone: &str, status: &str) -> Value {
        json!({ "id": id, "service": "orders-api", "namespace": "default", "region": "ap-south-1", "zone": zone,
            "weight": 100, "version": "1.4.0", "status": status, "tags": ["v2"], "metadata": { "team": "a" } })
    }

    #[test]
    fn a_page_pages_and_bare_instances_are_the_same() {
        let all = [instance("a", "ap-south-1a", "healthy"), instance("b", "ap-south-1b", "expired")];
        let page = json!({ "items": all, "index": 7, "next": null });
        let [of_page] = &parse(&page.to_string()).unwrap()[..] else { panic!("one service") };
        let pages = json!([{ "items": all[..1] }, { "items": all[1..] }]);
        for other in [pages, json!(all)] {
            assert_eq!(&parse(&other.to_string()).unwrap()[..], std::slice::from_ref(of_page));
        }
        assert_eq!(of_page.zones.iter().collect::<Vec<_>>(), ["", "ap-south-1a", "ap-south-1b"]);
        let statuses: Vec<Status> = of_page.service.endpoints.iter().map(|e| e.status).collect();
        assert_eq!(statuses, [Status::Healthy, Status::Unhealthy]);
    }

    #[test]
    fn what_is_no_list_of_instances_is_refused() {
        for (text, says) in [
            ("x", "no JSON"),
            ("{}", "no items"),
            (r#"{"items": []}"#, "no instances"),
            (r#"{"items": [{"name": "orders-api"}]}"#, "next: curl"),
            (r#"{"items": [{"id": "a", "status": "removed"}]}"#, "status"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }
}
