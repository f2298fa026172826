//! Generates the schemas of answers from the structs that the gate writes them from.

use crate::answer::batch::{Batch, BatchList, File, FileDeleted, FileList};
use crate::answer::errors::{BatchError, ErrorCatalogue, ErrorEntry};
use crate::answer::model::{Model, ModelList, ModelMetadata};
use crate::answer::operation::{Operation, OperationList, OperationMessage};
use crate::answer::server::{
    Health, ModelReady, Readiness, ServerLive, ServerMetadata, WebhookKeys,
};
use crate::answer::text::{
    Classification, ModerationResponse, Ranked, Reranking, ScoreResponse, TokenUsage,
};
use crate::answer::usage::Usage;
use crate::oip::ModelConfig;
use penstock_core::error_forms::{Error, OipError, ProblemDetails};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

/// Returns the schemas of all answers that are structs, and of the structs within them.
pub fn all() -> Map<String, Value> {
    schemas_of(|generator| {
        generator.subschema_for::<TokenUsage>();
        generator.subschema_for::<Classification<'_>>();
        generator.subschema_for::<ModerationResponse<'_>>();
        generator.subschema_for::<Reranking<'_>>();
        generator.subschema_for::<Ranked<'_>>();
        generator.subschema_for::<ScoreResponse<'_>>();
        generator.subschema_for::<Error<'_>>();
        generator.subschema_for::<OipError<'_>>();
        generator.subschema_for::<ProblemDetails<'_>>();
        generator.subschema_for::<BatchError<'_>>();
        generator.subschema_for::<ErrorCatalogue>();
        generator.subschema_for::<ErrorEntry>();
        generator.subschema_for::<Operation<'_>>();
        generator.subschema_for::<OperationList<'_>>();
        generator.subschema_for::<OperationMessage<'_>>();
        generator.subschema_for::<File>();
        generator.subschema_for::<FileList>();
        generator.subschema_for::<FileDeleted>();
        generator.subschema_for::<Batch>();
        generator.subschema_for::<BatchList>();
        generator.subschema_for::<WebhookKeys<'_>>();
        generator.subschema_for::<Health>();
        generator.subschema_for::<Readiness<'_>>();
        generator.subschema_for::<Usage<'_>>();
        generator.subschema_for::<ModelList<'_>>();
        generator.subschema_for::<Model<'_>>();
        generator.subschema_for::<ServerLive>();
        generator.subschema_for::<ServerMetadata>();
        generator.subschema_for::<ModelMetadata<'_>>();
        generator.subschema_for::<ModelConfig<'_>>();
        generator.subschema_for::<ModelReady<'_>>();
    })
}

/// Returns the schemas that `register` asks a generator for.
fn schemas_of(register: impl FnOnce(&mut SchemaGenerator)) -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut generator = settings
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    register(&mut generator);
    let mut schemas = generator.take_definitions(false);
    schemas.values_mut().for_each(narrow);
    schemas
}

/// Changes a schema of schemars to the forms that generators of clients accept, which are those of the schemas made by
/// hand.
fn narrow(schema: &mut Value) {
    if *schema == Value::Bool(true) {
        *schema = json!({});
    }
    let Value::Object(keywords) = schema else {
        return;
    };
    // Nothing may stand beside a reference.
    if keywords.contains_key("$ref") {
        keywords.retain(|keyword, _| keyword == "$ref");
        return;
    }
    if let Some(Value::String(text)) = keywords.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    // The formats of numbers are names of Rust's types, and so are the greatest values of 8 and 16 bits.
    match keywords.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16") => {
            keywords.retain(|keyword, _| keyword != "format" && keyword != "maximum");
        }
        Some("uint32" | "uint64" | "uint" | "int32" | "int64" | "float" | "double") => {
            keywords.shift_remove("format");
        }
        _ => {}
    }
    let required = keywords.get("required").cloned().unwrap_or_default();
    let required = required.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(Value::Object(members)) = keywords.get_mut("properties") {
        for (name, member) in members {
            if !required.iter().any(|one| one == name) {
                without_null(member);
            }
            narrow(member);
        }
    }
    if let Some(items) = keywords.get_mut("items") {
        narrow(items);
    }
    if let Some(others) = keywords.get_mut("additionalProperties")
        && others.is_object()
    {
        narrow(others);
    }
    if let Some(Value::Array(forms)) = keywords.get_mut("anyOf") {
        forms.iter_mut().for_each(narrow);
    }
}

/// Removes `null` from a member that answers omit. An `Option` is a list of types, or a reference or `null`. Any other
/// form was chosen by hand, and its `null` is in answers.
fn without_null(schema: &mut Value) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            schema["type"] = only.clone();
        }
    }
    if let Some([form, null]) = schema
        .get("anyOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        && form.get("$ref").is_some()
        && *null == json!({ "type": "null" })
    {
        *schema = form.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::{JsonSchema, Schema};

    /// An answer with a member
    /// of each form.
    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Every {
        status: u16,
        count: u64,
        share: f64,
        #[schemars(extend("format" = "date"))]
        day: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        word: Option<String>,
        /// Beside a reference.
        #[serde(skip_serializing_if = "Option::is_none")]
        other: Option<Other>,
        #[serde(skip_serializing_if = "Option::is_none")]
        most: Option<u64>,
        always: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "text_or_null")]
        chosen: Option<Option<String>>,
        any: Value,
        list: Vec<Value>,
        map: Map<String, Value>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Other {
        name: String,
    }

    fn text_or_null(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, { "type": "null" }] })
    }

    #[test]
    fn members_get_the_narrow_forms_and_null_only_where_answers_have_it() {
        let schemas = schemas_of(|generator| drop(generator.subschema_for::<Every>()));
        let expected = json!({
            "type": "object",
            "description": "An answer with a member of each form.",
            "properties": {
                "status": { "type": "integer", "minimum": 0 },
                "count": { "type": "integer", "minimum": 0 },
                "share": { "type": "number" },
                "day": { "type": "string", "format": "date" },
                "word": { "type": "string" },
                "other": { "$ref": "#/components/schemas/Other" },
                "most": { "type": "integer", "minimum": 0 },
                "always": { "type": ["string", "null"] },
                "chosen": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
                "any": {},
                "list": { "type": "array", "items": {} },
                "map": { "type": "object", "additionalProperties": true },
            },
            "required": ["status", "count", "share", "day", "always", "any", "list", "map"],
        });
        assert_eq!(schemas["Every"], expected);
        assert!(schemas["Other"].is_object());
    }
}
