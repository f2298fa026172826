//! docs/errors.md is written from the catalogue, so that no code is without its page entry.

use penstock_core::Code;
use std::path::Path;

fn page() -> String {
    let mut page = String::from(
        "# Errors\n\n\
         Every error Penstock answers with. The `code` is stable; messages may change. A running server gives\n\
         each entry at `/errors/{code}`, which is also the `type` of RFC 9457 answers. This page is written by\n\
         the tests from `crates/core/src/problem.rs` (`UPDATE_DOCS=1 cargo test -p penstock-core`).\n\n\
         An error is `{\"error\":{\"code\",\"message\",\"status\",\"details\":[{\"pointer\",\"rule\",\"expected\",\"message\"}],\n\
         \"request_id\",\"timestamp\"}}`; on `/v1/embeddings` and `/v1/moderations` with OpenAI's `type` and `param` in it; on `/v2` it is `{\"error\":\"message\",\"code\",…}`; and with\n\
         `Accept: application/problem+json` it is RFC 9457's. `details` lists each thing wrong with a body, with\n\
         a JSON pointer; `available` lists what exists where something was not found. 503 carries `Retry-After`,\n\
         405 carries `Allow`.\n\n\
         Over gRPC an error is a status code, named beside the HTTP status below, with the message and\n\
         `grpc-status-details-bin`: `google.rpc.ErrorInfo` has the `code`, `BadRequest` the `details`, `RetryInfo` when to\n\
         come back, `RequestInfo` the request's id.\n",
    );
    for code in Code::ALL {
        page.push_str(&format!(
            "\n## `{}`\n\n{}, gRPC {} – {}\n\n{}\n",
            code.as_str(),
            code.status(),
            code.grpc_status(),
            code.title(),
            code.remedy()
        ));
    }
    page
}

#[test]
fn every_code_is_described_in_the_docs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).expect("docs/errors.md is writable");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written,
        page(),
        "docs/errors.md is out of date: UPDATE_DOCS=1 cargo test -p penstock-core"
    );
}
