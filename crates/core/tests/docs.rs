//! docs/errors.md is written from the catalogue, and the table of docs/METRICS.md from the list of families, so that no code and
//! no family is without its entry.

use penstock_core::Code;
use penstock_core::metrics::families;
use std::path::Path;

fn page() -> String {
    let mut page = String::from(
        "# Errors\n\
         \n\
         Penstock answers errors with these codes. A `code` is stable; its message may change. `GET /errors/{code}` on a running server\n\
         returns the entry of a code. Its address is also the `type` of RFC 9457 answers. A test writes this page from\n\
         `crates/core/src/problem.rs` (`UPDATE_DOCS=1 cargo test -p penstock-core`).\n\
         \n\
         An error is `{\"error\":{\"code\",\"message\",\"status\",\"details\":[{\"pointer\",\"rule\",\"expected\",\"message\"}],\n\
         \"request_id\",\"timestamp\"}}`. On `/v1/embeddings`, `/v1/moderations`, `/v1/files` and `/v1/batches` it also has OpenAI's `type` and `param`. On `/v2` it is\n\
         `{\"error\":\"message\",\"code\",…}`. With `Accept: application/problem+json` it has the form of RFC 9457. `details` lists each mistake in\n\
         a body with a JSON pointer. `available` lists the existing names when one was not found. 503 carries `Retry-After`, 405 `Allow`.\n\
         \n\
         Over gRPC an error is a status code, given beside the HTTP status below, with the message and `grpc-status-details-bin`:\n\
         `google.rpc.ErrorInfo` has the `code`, `BadRequest` the `details`, `RetryInfo` the time of a retry, `RequestInfo` the request's id.\n",
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

/// The table of families, with the marks around it.
fn families() -> String {
    let mut table = String::from("\n| family | type | labels | meaning |\n|---|---|---|---|\n");
    for family in families::ALL {
        let labels: Vec<String> = (family.labels.iter())
            .map(|label| format!("`{label}`"))
            .collect();
        table.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind.as_str(),
            labels.join(", "),
            family.help
        ));
    }
    table + "\n"
}

#[test]
fn every_family_of_metrics_is_described_in_the_docs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md");
    let page = std::fs::read_to_string(&path).expect("docs/METRICS.md");
    let begin = "<!-- families: UPDATE_DOCS=1 cargo test -p penstock-core writes this table -->\n";
    let end = "<!-- end of families -->\n";
    let (before, rest) = page.split_once(begin).expect("the mark before the table");
    let (_, after) = rest.split_once(end).expect("the mark after the table");
    let expected = format!("{before}{begin}{}{end}{after}", families());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("docs/METRICS.md is writable");
        return;
    }
    assert_eq!(
        page, expected,
        "docs/METRICS.md is out of date: UPDATE_DOCS=1 cargo test -p penstock-core"
    );
}
