//! The forms that schemas are made of.

use serde_json::{Value, json};

/// A reference to a schema.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object that may have further members.
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

/// An object whose other members are refused.
pub(super) fn closed(description: &str, properties: Value, required: &[&str]) -> Value {
    let mut schema = object(description, properties, required);
    schema["additionalProperties"] = json!(false);
    schema
}

/// An optional member of a request: `null` stands for nothing.
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

/// An array of one schema. Every array says what it holds: generators refuse one that does not.
pub(super) fn array(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A string, an integer, a number: each with what it is.
pub(super) fn typed(kind: &str, description: &str) -> Value {
    json!({ "type": kind, "description": description })
}

/// An object of any members.
pub(super) fn any_object(description: &str) -> Value {
    json!({ "type": "object", "description": description, "additionalProperties": true })
}

/// A schema and its name.
pub(super) type Named = (&'static str, Value);
