//! A component for tests: the path names the case of `wasi:nn` or of `penstock:nn/tensors` that it runs. The answer has
//! its observations as JSON.
//!
//! It judges nothing: `tests/nn_contract.rs` does. Errors of the interface are answered as `[code, data]`.

#![deny(dead_code)]
#![allow(missing_docs)]

use serde_json::Value;
use std::collections::HashMap;

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package penstock:test-guest;
            world nn {
                import wasi:nn/tensor@0.2.0-rc-2024-10-28;
                import wasi:nn/graph@0.2.0-rc-2024-10-28;
                import wasi:nn/inference@0.2.0-rc-2024-10-28;
                import wasi:nn/errors@0.2.0-rc-2024-10-28;
                import penstock:nn/tensors@0.1.0;
                export penstock:gate/door@0.1.0;
            }
        ",
        path: [
            "../../../wit/deps/keyvalue", "../../../wit/types", "../../../wit/deps/nn", "../../../wit/nn", "../../../wit/deps/spin", "../../../wit/auth", "../../../wit/quota",
            "../../../wit/idempotency", "../../../wit/usage", "../../../wit/operations", "../../../wit/batches", "../../../wit/validation", "../../../wit/inference",
            "../../../wit/adapter", "../../../wit/models", "../../../wit/cache", "../../../wit/policy", "../../../wit/gate",
        ],
        world: "penstock:test-guest/nn",
        generate_all,
    });
}

mod cases;

include!("list.rs");

struct Guest;
bindings::export!(Guest with_types_in bindings);

/// The parameters of a call.
struct Call(HashMap<String, String>);

impl Call {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or_default()
    }
}

fn play(target: &str) -> Option<Value> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let call = Call(query.map(|(n, v)| (n.to_owned(), v.to_owned())).collect());
    macro_rules! dispatch {
        ($($case:ident)*) => {
            match path.strip_prefix('/')? {
                $(stringify!($case) => Some(cases::$case(&call)),)*
                _ => None,
            }
        };
    }
    for_each_case!(dispatch)
}

fn answer(target: &str) -> (u16, Vec<u8>) {
    match play(target) {
        Some(value) => (200, value.to_string().into_bytes()),
        None => (404, b"null".to_vec()),
    }
}

impl bindings::exports::penstock::gate::door::Guest for Guest {
    fn handle(
        request: bindings::exports::penstock::gate::door::Request,
    ) -> bindings::exports::penstock::gate::door::Response {
        let (status, body) = answer(&request.target);
        bindings::exports::penstock::gate::door::Response {
            status,
            headers: Vec::new(),
            body,
            rest: Vec::new(),
        }
    }
}

#[spin_sdk::http_service]
async fn handle(
    request: spin_sdk::http::Request,
) -> spin_sdk::http::Response<spin_sdk::http::FullBody<bytes::Bytes>> {
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str());
    let (status, body) = answer(target);
    let mut response =
        spin_sdk::http::Response::new(spin_sdk::http::FullBody::new(bytes::Bytes::from(body)));
    *response.status_mut() = spin_sdk::http::StatusCode::from_u16(status)
        .unwrap_or(spin_sdk::http::StatusCode::INTERNAL_SERVER_ERROR);
    response
}
