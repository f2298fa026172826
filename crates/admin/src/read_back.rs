//! The checks that the tests of all actions share.

use penstock_core::{Code, Problem};
use serde_json::Value;
use std::fmt::Debug;

/// The time of the tests, in milliseconds since 1970.
pub(crate) const NOW_MS: u64 = 1_795_262_400_000;

/// Reads an action from method, path, query, body and time.
pub(crate) type Of<A> = fn(&str, &str, Option<&str>, &[u8], u64) -> Result<A, Problem>;

/// Reads a request, whose target may have a query.
pub(crate) fn read<A>(of: Of<A>, method: &str, target: &str, body: &str) -> Result<A, Problem> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    of(method, path, query, body.as_bytes(), NOW_MS)
}

/// Asserts that the server reads the same action from the request that the command line sends.
#[track_caller]
pub(crate) fn assert_read_back<A: Debug + PartialEq>(
    of: Of<A>,
    action: A,
    request: (&'static str, String, Option<Value>),
) {
    let (method, target, body) = request;
    let body = body.map_or(String::new(), |body| body.to_string());
    assert_eq!(read(of, method, &target, &body), Ok(action));
}

/// Asserts that a request is refused with a code.
#[track_caller]
pub(crate) fn assert_refused<A: Debug>(
    of: Of<A>,
    method: &str,
    target: &str,
    body: &str,
    code: Code,
) {
    let refused = read(of, method, target, body).expect_err(target);
    assert_eq!(refused.code, code, "{method} {target} {body}");
}
