//! A contract with every datatype, and the check of a value against a schema.

use serde_json::{Value, json};

pub const EVERY_TYPE: &str = r#"
description = "one input of each type"
inputs = [
    { name = "bool", datatype = "BOOL", shape = ["N", 2] },
    { name = "u8", datatype = "UINT8", shape = ["N"] },
    { name = "u64", datatype = "UINT64", shape = ["N", "M"] },
    { name = "i64", datatype = "INT64", shape = ["N", 1, 1] },
    { name = "half", datatype = "FP16", shape = ["N", 3] },
    { name = "brain", datatype = "BF16", shape = ["N", 3] },
    { name = "double", datatype = "FP64", shape = ["N"] },
    { name = "bytes", datatype = "BYTES", shape = ["N", 2] },
]
outputs = [{ name = "class", datatype = "INT32", shape = ["N", 2], labels = ["a", "a"] }]
[axes]
N = { min = 2, max = 5 }
M = { min = 3 }
"#;

/// Returns the violation of a schema by a value, if any. Supports the keywords of the document, and panics on others.
pub fn wrong(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let Value::Object(keywords) = schema else {
        return (schema == &json!(false)).then(|| "nothing may be here".to_owned());
    };
    let each = |schemas: &Value| -> Vec<Option<String>> {
        let schemas = schemas.as_array().unwrap().iter();
        schemas.map(|one| wrong(document, one, value)).collect()
    };
    for (keyword, says) in keywords {
        let fault = match keyword.as_str() {
            "$ref" => {
                let place = says.as_str().unwrap().strip_prefix('#').unwrap();
                wrong(document, document.pointer(place).expect(place), value)
            }
            "type" => {
                let names = match says {
                    Value::Array(names) => names.clone(),
                    one => vec![one.clone()],
                };
                let fits = names.iter().any(|name| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                });
                (!fits).then(|| format!("{value} is no {says}"))
            }
            "enum" => {
                (!says.as_array().unwrap().contains(value)).then(|| format!("{value} of {says}"))
            }
            "const" => (says != value).then(|| format!("{value} for {says}")),
            "anyOf" => {
                let faults = each(says);
                faults
                    .iter()
                    .all(Option::is_some)
                    .then(|| format!("{faults:?}"))
            }
            "oneOf" => {
                let faults = each(says);
                let fitting = faults.iter().filter(|fault| fault.is_none()).count();
                (fitting != 1).then(|| format!("{fitting} fit: {faults:?}"))
            }
            "allOf" => each(says).into_iter().flatten().next(),
            "required" => value.as_object().and_then(|members| {
                let names = says.as_array().unwrap().iter().map(|n| n.as_str().unwrap());
                let mut missing = names.filter(|name| !members.contains_key(*name));
                missing.next().map(|name| format!("no {name}"))
            }),
            "properties" => value.as_object().and_then(|members| {
                let known = says.as_object().unwrap().iter();
                known
                    .filter_map(|(name, schema)| Some((schema, members.get(name)?)))
                    .find_map(|(schema, value)| wrong(document, schema, value))
            }),
            "additionalProperties" => value.as_object().and_then(|members| {
                let known = schema.get("properties").and_then(Value::as_object);
                let known = |name: &String| known.is_some_and(|known| known.contains_key(name));
                let mut others = members.iter().filter(|(name, _)| !known(name));
                others.find_map(|(_, value)| wrong(document, says, value))
            }),
            "items" => value.as_array().and_then(|elements| {
                let first = schema.get("prefixItems").and_then(Value::as_array);
                let mut rest = elements.iter().skip(first.map_or(0, Vec::len));
                rest.find_map(|element| wrong(document, says, element))
            }),
            "prefixItems" => value.as_array().and_then(|elements| {
                let mut pairs = says.as_array().unwrap().iter().zip(elements);
                pairs.find_map(|(schema, element)| wrong(document, schema, element))
            }),
            "minItems" | "maxItems" => value.as_array().and_then(|elements| {
                let (length, bound) = (elements.len() as u64, says.as_u64().unwrap());
                let fits = if keyword == "minItems" {
                    length >= bound
                } else {
                    length <= bound
                };
                (!fits).then(|| format!("{length} elements, {keyword} {bound}"))
            }),
            "minimum" | "maximum" => value.as_f64().and_then(|number| {
                let bound = says.as_f64().unwrap();
                let fits = if keyword == "minimum" {
                    number >= bound
                } else {
                    number <= bound
                };
                (!fits).then(|| format!("{number}, {keyword} {bound}"))
            }),
            "minLength" | "maxLength" => value.as_str().and_then(|text| {
                let (length, bound) = (text.chars().count() as u64, says.as_u64().unwrap());
                let fits = if keyword == "minLength" {
                    length >= bound
                } else {
                    length <= bound
                };
                (!fits).then(|| format!("{length} characters, {keyword} {bound}"))
            }),
            "description" | "title" | "examples" | "format" | "contentEncoding" | "pattern" => None,
            other => panic!("the check does not know the keyword {other}"),
        };
        if fault.is_some() {
            return fault;
        }
    }
    None
}
