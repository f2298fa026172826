//! Describes the operations on files and batches, in OpenAI's form.

use super::content::{as_json, named};
use super::operation::{Operation, operation};
use crate::openapi::errors::Kind;
use crate::openapi::schema::reference;
use serde_json::{Value, json};

const TAG: &str = "batches";

/// Returns the operations on files and batches.
pub fn operations() -> Vec<Operation> {
    let one = |(method, path): (&'static str, &str), id: &str, summary: &str, says: &str| {
        operation((method, path), id, TAG, summary, Kind::Batches).saying(says)
    };
    let mut list_files = one(
        ("get", "/v1/files"),
        "listFiles",
        "List files",
        "The files of the caller's tenant, those of results included, the newest first.",
    )
    .answering("200", "A page of files.", named("OpenAiFileList"));
    list_files.parameters.extend(page(100, 1_000));
    list_files.parameters.extend([
        json!({
            "name": "order", "in": "query",
            "description": "Whether the newest (`desc`, the default) or the oldest comes first.",
            "schema": { "type": "string", "enum": ["asc", "desc"] },
        }),
        json!({
            "name": "purpose", "in": "query",
            "description": "Lists only files with this purpose.",
            "schema": { "type": "string", "enum": ["batch", "batch_output"] },
        }),
    ]);
    let mut list_batches = one(
        ("get", "/v1/batches"),
        "listBatches",
        "List batches",
        "The batches of the caller's tenant, the newest first.",
    )
    .answering("200", "A page of batches.", named("OpenAiBatchList"));
    list_batches.parameters.extend(page(20, 100));
    let binary = json!({ "schema": { "type": "string", "format": "binary" } });
    vec![
        one(
            ("post", "/v1/files"),
            "createFile",
            "Upload a file",
            "A file with the calls of a batch: one JSON object in each line, with `custom_id`, `method`, `url` and `body`.",
        )
        .taking(json!({ "multipart/form-data": { "schema": reference("OpenAiFileUpload") } }))
        .answering("200", "The file.", named("OpenAiFile")),
        list_files,
        one(("get", "/v1/files/{file}"), "retrieveFile", "Get a file", "Describes a file.")
            .with(&["file"])
            .answering("200", "The file.", named("OpenAiFile")),
        one(
            ("delete", "/v1/files/{file}"),
            "deleteFile",
            "Delete a file",
            "Deletes a file with its content. One that a batch reads is refused with 409.",
        )
        .with(&["file"])
        .answering("200", "It is deleted.", named("OpenAiFileDeleted")),
        one(
            ("get", "/v1/files/{file}/content"),
            "downloadFile",
            "Get the content of a file",
            "The bytes of a file.",
        )
        .with(&["file"])
        .answering(
            "200",
            "The content.",
            json!({ "application/jsonl": binary, "application/binary": binary, "application/octet-stream": binary }),
        ),
        one(
            ("post", "/v1/batches"),
            "createBatch",
            "Create a batch",
            "Runs each line of a file as a call of `endpoint`, within a day.",
        )
        .taking(named("OpenAiBatchCreation"))
        .answering("200", "The batch.", named("OpenAiBatch")),
        list_batches,
        one(
            ("get", "/v1/batches/{batch}"),
            "retrieveBatch",
            "Get a batch",
            "Describes a batch and its progress. Limits on calls do not apply.",
        )
        .with(&["batch"])
        .answering("200", "The batch.", named("OpenAiBatch")),
        one(
            ("post", "/v1/batches/{batch}/cancel"),
            "cancelBatch",
            "Cancel a batch",
            "Asks for the end. Lines that have run keep their answers. A batch that is over stays as it is.",
        )
        .with(&["batch"])
        .taking_if_any(as_json(json!({})))
        .answering("200", "The batch.", named("OpenAiBatch")),
    ]
}

/// Returns the parameters of a page.
fn page(usual: u32, most: u32) -> Vec<Value> {
    vec![
        json!({
            "name": "limit", "in": "query",
            "description": format!("The entries on a page: {usual} if it is missing, and {most} at most."),
            "schema": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
        }),
        json!({
            "name": "after", "in": "query",
            "description": "The `last_id` of the page before.",
            "schema": { "type": "string" },
        }),
    ]
}
