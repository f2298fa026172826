//! The gate component for every host; this crate contains only wiring. It exports two entry points: the typed one for
//! Penstock's own host, and `wasi:http/handler` for Spin and other hosts.

#![allow(missing_docs)]

use penstock_guest::gate::DirectEntryPoint;

penstock_guest::imports::bindings::export!(DirectEntryPoint with_types_in penstock_guest::imports::bindings);

#[spin_sdk::http_service]
async fn handle(request: spin_sdk::http::Request) -> penstock_guest::gate::HttpResponse {
    penstock_guest::gate::answer_http(request).await
}
