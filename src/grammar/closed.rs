//! Objects of a JSON schema that says nothing about other properties than its own get none.
//!
//! JSON Schema allows any property that is not spoken of. Few who write a schema think of that, and a model that has told
//! all it was asked for may go on with properties of its own invention until it is cut off. So such an object is closed, as
//! llama.cpp and Ollama do it; what is made then still fits the schema. `"additionalProperties": true` keeps it open.
//! Schemas that put an object together from several descriptions are left alone: each of these knows only a part.

use serde_json::{Map, Value, json};

/// Closes the objects of `schema`.
pub fn close(schema: &mut Value) {
    if !is_composed(schema) {
        close_all(schema, true);
    }
}

/// Whether one value has to fit several descriptions, anywhere in a schema.
fn is_composed(schema: &Value) -> bool {
    let Value::Object(map) = schema else {
        return false;
    };
    const SEVERAL: [&str; 6] =
        ["not", "if", "dependentSchemas", "dependencies", "unevaluatedProperties", "$dynamicRef"];
    let has_own = map.contains_key("properties");
    let is_joined = match map.get("allOf") {
        None => false,
        Some(Value::Array(all)) => has_own || all.len() > 1,
        Some(_) => true,
    };
    is_joined
        || SEVERAL.iter().any(|key| map.contains_key(*key))
        || (has_own && map.contains_key("$ref"))
        || parts(map).any(is_composed)
}

/// The schemas inside a schema.
fn parts(map: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    map.iter().flat_map(|(key, value)| match (Place::of(key), value) {
        (Some(Place::Named), Value::Object(named)) => named.values().collect(),
        (Some(Place::Listed), Value::Array(list)) => list.iter().collect(),
        (Some(_), one) => vec![one],
        (None, _) => Vec::new(),
    })
}

/// Where a schema keeps others.
enum Place {
    One,
    Listed,
    Named,
}

impl Place {
    fn of(key: &str) -> Option<Place> {
        match key {
            "properties" | "patternProperties" | "$defs" | "definitions" => Some(Place::Named),
            "anyOf" | "oneOf" | "allOf" | "prefixItems" | "items" => Some(Place::Listed),
            "additionalProperties" | "additionalItems" | "contains" => Some(Place::One),
            _ => None,
        }
    }
}

fn close_all(schema: &mut Value, is_whole: bool) {
    let Value::Object(map) = schema else {
        return;
    };
    let has_own = map.contains_key("properties");
    for (key, value) in map.iter_mut() {
        // Alternatives beside properties describe the same object.
        let is_whole = !has_own || !["anyOf", "oneOf"].contains(&key.as_str());
        match (Place::of(key), value) {
            (Some(Place::Named), Value::Object(named)) => named.values_mut().for_each(|part| close_all(part, is_whole)),
            (Some(Place::Listed), Value::Array(list)) => list.iter_mut().for_each(|part| close_all(part, is_whole)),
            (Some(_), one) => close_all(one, is_whole),
            (None, _) => {}
        }
    }
    if is_whole && is_silent(map) {
        map.insert("additionalProperties".into(), json!(false));
    }
}

/// Whether it describes an object and says nothing about other properties.
fn is_silent(map: &Map<String, Value>) -> bool {
    const ABOUT_OTHERS: [&str; 6] =
        ["additionalProperties", "patternProperties", "propertyNames", "minProperties", "anyOf", "oneOf"];
    let Some(own) = map.get("properties").and_then(Value::as_object) else {
        return false;
    };
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    let knows = |name: &Value| name.as_str().is_some_and(|name| own.contains_key(name));
    !ABOUT_OTHERS.iter().any(|key| map.contains_key(*key)) && required.into_iter().all(knows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut schema: Value, closed: &[&str]) {
        let all = schema.clone();
        close(&mut schema);
        let mut expected = all;
        for path in closed {
            let object = expected.pointer_mut(path).and_then(Value::as_object_mut).expect("an object");
            object.insert("additionalProperties".into(), json!(false));
        }
        assert_eq!(schema, expected);
    }

    fn object() -> Value {
        json!({ "type": "object", "properties": { "a": { "type": "integer" } } })
    }

    #[test]
    fn an_object_that_says_nothing_about_other_properties_is_closed() {
        check(object(), &[""]);
        check(json!({ "type": "array", "items": object() }), &["/items"]);
        check(json!({ "properties": { "b": object() }, "required": ["b"] }), &["", "/properties/b"]);
        check(json!({ "anyOf": [object(), { "type": "null" }] }), &["/anyOf/0"]);
        check(json!({ "$defs": { "x": object() }, "$ref": "#/$defs/x" }), &["/$defs/x"]);
        check(json!({ "allOf": [{ "$ref": "#/$defs/x" }], "$defs": { "x": object() } }), &["/$defs/x"]);
        check(json!({ "properties": { "not": object(), "if": { "type": "string" } } }), &["", "/properties/not"]);
    }

    #[test]
    fn an_object_that_speaks_of_others_or_is_described_twice_is_left_alone() {
        for schema in [
            json!(true),
            json!({ "type": "object" }),
            json!({ "properties": {}, "additionalProperties": true }),
            json!({ "properties": {}, "patternProperties": { "^x": { "type": "string" } } }),
            json!({ "properties": {}, "minProperties": 1 }),
            json!({ "properties": { "a": {} }, "required": ["a", "b"] }),
            json!({ "properties": { "a": {} }, "oneOf": [object(), { "properties": { "b": {} } }] }),
            json!({ "allOf": [object(), { "properties": { "b": {} } }] }),
            json!({ "items": { "$ref": "#/$defs/x", "properties": { "b": {} } }, "$defs": { "x": object() } }),
            json!({ "if": object(), "then": { "properties": { "b": {} } } }),
            json!({ "enum": [object()] }),
        ] {
            check(schema, &[]);
        }
    }
}
