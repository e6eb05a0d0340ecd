//! The JSON schema of a policy's config, and what it says of a config.
//!
//! The keywords of JSON Schema 2020-12 that configs need, and no others: an unknown one is refused when the policy is
//! uploaded, since a rule that is silently not enforced is worse than none. Written here rather than taken from a
//! library because both sides come from outside: references may go in circles and alternatives may multiply, so the work is
//! counted, and ends. There are no regular expressions and nothing is fetched.

use serde::Serialize;
use serde_json::{Map, Value};

/// Work that one config may cost: each keyword and each member is a unit. The largest config has some 10,000 members.
const MAX_STEPS: usize = 100_000;
/// Schemas within schemas, references followed included.
const MAX_DEPTH: usize = 48;
/// Errors that are told at once.
const MAX_ERRORS: usize = 16;

const TYPES: [&str; 7] = ["object", "array", "string", "number", "integer", "boolean", "null"];
/// They say something to people and to editors, and nothing here.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "format",
];

/// A schema that was read and understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    root: Value,
}

/// What is wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// Where in the config, as a JSON pointer (RFC 6901); empty for the whole.
    pub pointer: String,
    /// What is expected there.
    pub message: String,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// A sentence with line and column, or with the place in the schema.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let root: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !root.is_object() {
            return Err("must be a JSON object".into());
        }
        check(&root, &root, "", 0)?;
        Ok(Self { root })
    }

    /// The schema as it was written.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.root
    }

    /// What is wrong with `config`; nothing if it fits.
    #[must_use]
    pub fn errors(&self, config: &Value) -> Vec<ConfigError> {
        let mut judge = Judge { root: &self.root, steps: MAX_STEPS, silent: 0, errors: Vec::new() };
        let fits = judge.fits(&self.root, config, "", 0);
        if judge.steps == 0 {
            judge.errors.clear();
            judge.tell("", "the policy's schema asks for too much work with this config");
        } else if !fits && judge.errors.is_empty() {
            judge.tell("", "does not fit the policy's schema");
        }
        judge.errors
    }
}

fn escaped(member: &str) -> String {
    member.replace('~', "~0").replace('/', "~1")
}

/// Refuses what [`Judge`] would not understand.
fn check(root: &Value, schema: &Value, at: &str, depth: usize) -> Result<(), String> {
    let wrong = |what: &str| {
        let place = if at.is_empty() { "the schema" } else { at };
        Err(format!("{place}: {what}"))
    };
    if depth > MAX_DEPTH {
        return wrong("is nested too deeply");
    }
    let keywords = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(keywords) => keywords,
        _ => return wrong("must be a schema: an object, true or false"),
    };
    for (keyword, value) in keywords {
        let at = format!("{at}/{}", escaped(keyword));
        let wrong = |what: &str| Err(format!("{at}: {what}"));
        let is_fine = match keyword.as_str() {
            "type" => match value {
                Value::Array(types) => types.iter().all(is_type),
                one => is_type(one),
            },
            "properties" | "$defs" | "definitions" => {
                let Value::Object(members) = value else { return wrong("must be an object of schemas") };
                for (member, schema) in members {
                    check(root, schema, &format!("{at}/{}", escaped(member)), depth + 1)?;
                }
                true
            }
            "additionalProperties" | "propertyNames" | "items" | "not" => {
                check(root, value, &at, depth + 1)?;
                true
            }
            "anyOf" | "oneOf" | "allOf" => {
                let Value::Array(schemas) = value else { return wrong("must be a list of schemas") };
                for (n, schema) in schemas.iter().enumerate() {
                    check(root, schema, &format!("{at}/{n}"), depth + 1)?;
                }
                !schemas.is_empty()
            }
            "enum" => value.is_array(),
            "const" => true,
            "required" => value.as_array().is_some_and(|names| names.iter().all(Value::is_string)),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => value.is_number(),
            "multipleOf" => value.as_f64().is_some_and(|of| of > 0.0),
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                value.is_u64()
            }
            "uniqueItems" => value.is_boolean(),
            "$ref" => value.as_str().is_some_and(|to| target(root, to).is_some()),
            annotation if ANNOTATIONS.contains(&annotation) => true,
            _ => return wrong("this keyword is not supported"),
        };
        if !is_fine {
            return wrong(match keyword.as_str() {
                "$ref" => "must be `#` and the pointer to a schema in this document",
                _ => "has no value that this keyword can have",
            });
        }
    }
    Ok(())
}

fn is_type(name: &Value) -> bool {
    name.as_str().is_some_and(|name| TYPES.contains(&name))
}

/// What a reference within the document leads to.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let found = root.pointer(reference.strip_prefix('#')?)?;
    (found.is_object() || found.is_boolean()).then_some(found)
}

struct Judge<'a> {
    root: &'a Value,
    /// Work that is left; nothing is judged any more when there is none.
    steps: usize,
    /// Alternatives that are being tried: what is wrong in there is nobody's error yet.
    silent: usize,
    errors: Vec<ConfigError>,
}

impl<'a> Judge<'a> {
    fn tell(&mut self, pointer: &str, message: impl Into<String>) -> bool {
        if self.silent == 0 && self.errors.len() < MAX_ERRORS {
            self.errors.push(ConfigError { pointer: pointer.to_owned(), message: message.into() });
        }
        false
    }

    fn tried(&mut self, schema: &'a Value, value: &Value, at: &str, depth: usize) -> bool {
        self.silent += 1;
        let fits = self.fits(schema, value, at, depth);
        self.silent -= 1;
        fits
    }

    fn spend(&mut self, steps: usize) -> bool {
        self.steps = self.steps.saturating_sub(steps);
        self.steps > 0
    }

    fn fits(&mut self, schema: &'a Value, value: &Value, at: &str, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            self.steps = 0;
        }
        if !self.spend(1) {
            return false;
        }
        let keywords = match schema {
            Value::Bool(true) => return true,
            Value::Object(keywords) => keywords,
            _ => return self.tell(at, "is not allowed"),
        };
        let mut fits = true;
        for (keyword, rule) in keywords {
            if !self.spend(1) {
                return false;
            }
            fits &= match keyword.as_str() {
                "$ref" => match rule.as_str().and_then(|to| target(self.root, to)) {
                    Some(schema) => self.fits(schema, value, at, depth + 1),
                    None => false,
                },
                "allOf" => {
                    let mut all = true;
                    for schema in rule.as_array().into_iter().flatten() {
                        all &= self.fits(schema, value, at, depth + 1);
                    }
                    all
                }
                "anyOf" => {
                    let schemas = rule.as_array().map_or(&[][..], Vec::as_slice);
                    schemas.iter().any(|schema| self.tried(schema, value, at, depth + 1))
                        || self.tell(at, format!("fits none of the {} forms that are allowed", schemas.len()))
                }
                "oneOf" => {
                    let schemas = rule.as_array().map_or(&[][..], Vec::as_slice);
                    match schemas.iter().filter(|schema| self.tried(schema, value, at, depth + 1)).count() {
                        1 => true,
                        0 => self
                            .tell(at, format!("fits none of the {} forms that are allowed", schemas.len())),
                        more => self.tell(at, format!("fits {more} forms of which exactly one is allowed")),
                    }
                }
                "not" => {
                    !self.tried(rule, value, at, depth + 1) || self.tell(at, "has a form that is not allowed")
                }
                _ => {
                    let of_its_type = match value {
                        Value::Object(members) => self.object(keyword, rule, keywords, members, at, depth),
                        Value::Array(items) => self.array(keyword, rule, items, at, depth),
                        Value::String(text) => self.string(keyword, rule, text, at),
                        Value::Number(_) => self.number(keyword, rule, value, at),
                        Value::Bool(_) | Value::Null => true,
                    };
                    of_its_type && self.any(keyword, rule, value, at)
                }
            };
        }
        fits
    }

    fn any(&mut self, keyword: &str, rule: &Value, value: &Value, at: &str) -> bool {
        match keyword {
            "type" => {
                let types: Vec<&str> = match rule {
                    Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                types.iter().any(|name| has_type(value, name))
                    || self.tell(at, format!("must be of type {}", types.join(" or ")))
            }
            "const" => equal(rule, value) || self.tell(at, format!("must be {}", short(rule))),
            "enum" => {
                let allowed = rule.as_array().map_or(&[][..], Vec::as_slice);
                if !self.spend(allowed.len()) {
                    return false;
                }
                let told = || {
                    let names: Vec<String> = allowed.iter().take(8).map(short).collect();
                    format!("must be one of {}", names.join(", "))
                };
                allowed.iter().any(|one| equal(one, value)) || self.tell(at, told())
            }
            _ => true,
        }
    }

    fn object(
        &mut self,
        keyword: &str,
        rule: &'a Value,
        keywords: &'a Map<String, Value>,
        members: &Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> bool {
        let mut fits = true;
        let named = keywords.get("properties").and_then(Value::as_object);
        match keyword {
            "properties" => {
                for (name, member) in members {
                    if let Some(schema) = named.and_then(|named| named.get(name)) {
                        fits &= self.fits(schema, member, &format!("{at}/{}", escaped(name)), depth + 1);
                    }
                }
            }
            "additionalProperties" => {
                for (name, member) in members {
                    if named.is_some_and(|named| named.contains_key(name)) {
                        continue;
                    }
                    let at = format!("{at}/{}", escaped(name));
                    fits &= match rule {
                        Value::Bool(false) => self.tell(&at, "is not known here"),
                        schema => self.fits(schema, member, &at, depth + 1),
                    };
                }
            }
            "propertyNames" => {
                for name in members.keys() {
                    let at = format!("{at}/{}", escaped(name));
                    fits &= self.fits(rule, &Value::String(name.clone()), &at, depth + 1);
                }
            }
            "required" => {
                let names: Vec<&str> =
                    rule.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                if !self.spend(names.len()) {
                    return false;
                }
                for name in names.into_iter().filter(|name| !members.contains_key(*name)) {
                    fits = self.tell(&format!("{at}/{}", escaped(name)), "is missing");
                }
            }
            "minProperties" | "maxProperties" => {
                fits = self.count(keyword, rule, members.len(), "members", at);
            }
            _ => {}
        }
        fits
    }

    fn array(&mut self, keyword: &str, rule: &'a Value, items: &[Value], at: &str, depth: usize) -> bool {
        match keyword {
            "items" => {
                let mut fits = true;
                for (n, item) in items.iter().enumerate() {
                    fits &= self.fits(rule, item, &format!("{at}/{n}"), depth + 1);
                }
                fits
            }
            "uniqueItems" if rule == &Value::Bool(true) => {
                if !self.spend(items.len().saturating_mul(items.len())) {
                    return false;
                }
                let twice = items
                    .iter()
                    .enumerate()
                    .any(|(n, item)| items.iter().take(n).any(|other| equal(item, other)));
                !twice || self.tell(at, "must not hold the same item twice")
            }
            "minItems" | "maxItems" => self.count(keyword, rule, items.len(), "items", at),
            _ => true,
        }
    }

    fn string(&mut self, keyword: &str, rule: &Value, text: &str, at: &str) -> bool {
        match keyword {
            "minLength" | "maxLength" => self.count(keyword, rule, text.chars().count(), "characters", at),
            _ => true,
        }
    }

    fn count(&mut self, keyword: &str, rule: &Value, count: usize, what: &str, at: &str) -> bool {
        let bound = rule.as_u64().unwrap_or(0);
        let fits = if keyword.starts_with("min") { count as u64 >= bound } else { count as u64 <= bound };
        let most = if keyword.starts_with("min") { "at least" } else { "at most" };
        fits || self.tell(at, format!("must have {most} {bound} {what}, not {count}"))
    }

    fn number(&mut self, keyword: &str, rule: &Value, value: &Value, at: &str) -> bool {
        let (Some(number), Some(bound)) = (value.as_f64(), rule.as_f64()) else { return true };
        let (fits, words) = match keyword {
            "minimum" => (number >= bound, "at least"),
            "maximum" => (number <= bound, "at most"),
            "exclusiveMinimum" => (number > bound, "greater than"),
            "exclusiveMaximum" => (number < bound, "less than"),
            "multipleOf" => {
                let times = number / bound;
                // 0.3 is three times 0.1, whatever binary fractions say.
                ((times - times.round()).abs() < 1e-9 * times.abs().max(1.0), "a multiple of")
            }
            _ => return true,
        };
        fits || self.tell(at, format!("must be {words} {rule}, not {value}"))
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(_) => name == "object",
        Value::Array(_) => name == "array",
        Value::String(_) => name == "string",
        Value::Bool(_) => name == "boolean",
        Value::Null => name == "null",
        Value::Number(number) => match name {
            "number" => true,
            "integer" => {
                number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            _ => false,
        },
    }
}

/// 1 and 1.0 are the same number.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => one == other,
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn schema(value: &Value) -> Schema {
        Schema::parse(value.to_string().as_bytes()).unwrap()
    }

    #[track_caller]
    fn judged(schema: &Schema, config: &Value) -> Vec<(String, String)> {
        schema.errors(config).into_iter().map(|e| (e.pointer, e.message)).collect()
    }

    #[test]
    fn each_keyword_refuses_what_it_should_and_nothing_else() {
        for (rule, good, bad) in [
            (json!({"type": "object"}), json!({}), json!([])),
            (json!({"type": ["string", "null"]}), json!(null), json!(1)),
            (json!({"type": "integer"}), json!(3.0), json!(3.5)),
            (json!({"type": "number"}), json!(3.5), json!("3.5")),
            (json!({"type": "boolean"}), json!(true), json!(0)),
            (json!({"enum": ["a", 1]}), json!(1.0), json!("b")),
            (json!({"const": {"a": [1]}}), json!({"a": [1]}), json!({"a": [2]})),
            (json!({"properties": {"a": {"type": "string"}}}), json!({"b": 1}), json!({"a": 1})),
            (
                json!({"properties": {"a": true}, "additionalProperties": false}),
                json!({"a": 1}),
                json!({"b": 1}),
            ),
            (json!({"additionalProperties": {"type": "integer"}}), json!({"x": 1}), json!({"x": "1"})),
            (json!({"propertyNames": {"maxLength": 2}}), json!({"ab": 1}), json!({"abc": 1})),
            (json!({"required": ["a"]}), json!({"a": null}), json!({"b": 1})),
            (json!({"minProperties": 1, "maxProperties": 1}), json!({"a": 1}), json!({})),
            (json!({"items": {"type": "string"}}), json!(["a"]), json!(["a", 1])),
            (json!({"minItems": 1, "maxItems": 2}), json!([1]), json!([1, 2, 3])),
            (json!({"uniqueItems": true}), json!([1, 2]), json!([1, 1.0])),
            (json!({"minLength": 1, "maxLength": 2}), json!("äö"), json!("abc")),
            (json!({"minimum": 0, "maximum": 100}), json!(100), json!(100.5)),
            (json!({"exclusiveMinimum": 0, "exclusiveMaximum": 1}), json!(0.5), json!(0)),
            (json!({"multipleOf": 0.01}), json!(0.07), json!(0.075)),
            (json!({"anyOf": [{"type": "string"}, {"minimum": 3}]}), json!(4), json!(2)),
            (
                json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
                json!({"a": 1}),
                json!({"a": 1, "b": 1}),
            ),
            (json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}), json!(2), json!(3)),
            (json!({"not": {"type": "null"}}), json!(1), json!(null)),
            (json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}), json!("x"), json!(1)),
            (json!({"properties": {"a": false}}), json!({}), json!({"a": 1})),
        ] {
            let schema = schema(&rule);
            assert_eq!(judged(&schema, &good), [], "{rule} and {good}");
            assert!(!judged(&schema, &bad).is_empty(), "{rule} and {bad}");
        }
    }

    #[test]
    fn errors_say_where() {
        let schema = schema(&json!({
            "type": "object", "additionalProperties": false,
            "properties": { "rules": { "items": { "properties": { "a/b": { "maximum": 5 } }, "required": ["side"] } } },
        }));
        let config = json!({ "rules": [{ "side": 1 }, { "a/b": 7 }], "percnt": 3 });
        let told = judged(&schema, &config);
        let places: Vec<&str> = told.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(places.len(), 3, "{told:?}");
        for place in ["/percnt", "/rules/1/a~1b", "/rules/1/side"] {
            assert!(places.contains(&place), "{told:?}");
        }
    }

    #[test]
    fn what_would_not_be_enforced_is_refused_by_name() {
        for (rule, says) in [
            (json!({"properties": {"a": {"pattern": "^a"}}}), "/properties/a/pattern"),
            (json!({"$ref": "https://example.test/x"}), "/$ref"),
            (json!({"$ref": "#/$defs/none"}), "/$ref"),
            (json!({"type": "text"}), "/type"),
            (json!({"minimum": "1"}), "/minimum"),
            (json!({"anyOf": []}), "/anyOf"),
            (json!({"items": 3}), "/items"),
            (json!([]), "object"),
        ] {
            let refused = Schema::parse(rule.to_string().as_bytes()).unwrap_err();
            assert!(refused.contains(says), "{rule}: {refused}");
        }
        assert!(Schema::parse(b"{\"a\" 1}").unwrap_err().contains("line 1 column"));
    }

    #[test]
    fn circles_and_multiplying_alternatives_end() {
        let circle = schema(&json!({"$ref": "#"}));
        let mut defs = Map::new();
        for n in 0..40 {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            defs.insert(format!("d{n}"), json!({"allOf": [next, next]}));
        }
        defs.insert("d40".into(), json!({"type": "string"}));
        let tower = schema(&json!({"$ref": "#/$defs/d0", "$defs": defs}));
        for schema in [circle, tower] {
            let told = judged(&schema, &json!({}));
            assert!(told.len() == 1 && told[0].1.contains("too much work"), "{told:?}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c#/$]{0,8}".prop_map(Value::from),
        ];
        let names = prop::sample::select(vec![
            "type",
            "properties",
            "$ref",
            "anyOf",
            "items",
            "required",
            "enum",
            "not",
            "minimum",
            "a",
            "$defs",
        ]);
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_schema_is_refused_or_judges(rule in any_json(), config in any_json()) {
            if let Ok(schema) = Schema::parse(rule.to_string().as_bytes()) {
                let _ = schema.errors(&config);
            }
        }
    }
}
