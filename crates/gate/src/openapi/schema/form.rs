//! Builds common forms of schemas.

use serde_json::{Value, json};

/// Returns a reference to a schema.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Returns the schema of an object that allows other members.
pub(super) fn object(description: &str, properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({ "type": "object", "properties": properties });
    if !description.is_empty() {
        schema["description"] = json!(description);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Returns the schema of an object that allows no other members.
pub(super) fn closed(description: &str, properties: Value, required: &[&str]) -> Value {
    let mut schema = object(description, properties, required);
    schema["additionalProperties"] = json!(false);
    schema
}

/// Makes a request's member optional: `null` counts as absent.
pub(super) fn or_null(schema: Value) -> Value {
    match schema.get("type") {
        Some(Value::String(one)) => {
            let types = json!([one, "null"]);
            let mut schema = schema;
            schema["type"] = types;
            if let Some(Value::Array(values)) = schema.get_mut("enum") {
                values.push(Value::Null);
            }
            schema
        }
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// Returns an array of one schema. Every array has `items`, because generators refuse arrays without it.
pub(super) fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// Returns the schema of a plain type with a description.
pub(super) fn typed(kind: &str, description: &str) -> Value {
    json!({ "type": kind, "description": description })
}

/// Returns an object with any members.
pub(super) fn any_object(description: &str) -> Value {
    json!({ "type": "object", "description": description, "additionalProperties": true })
}

/// A schema with its name.
pub(super) type Named = (&'static str, Value);
