//! What callers and stores hand to the policies: header values, records, and policy files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_policy::{disclosure, document};
use penstock_policy::idempotency::{IdempotencyKey, Outcome};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = IdempotencyKey::parse(bytes) {
        let quoted = key.as_str().replace('\\', "\\\\").replace('"', "\\\"");
        let again = IdempotencyKey::parse(format!("\"{quoted}\"").as_bytes());
        assert_eq!(again.as_ref(), Ok(&key));
    }
    if let Some(outcome) = Outcome::decode(bytes) {
        assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = document::quota(text);
        let _ = document::idempotency(text);
        let _ = document::usage(text);
        let _ = document::cors(text);
        let _ = document::body_limit(text);
        if let Ok(entries) = document::disclosure(text)
            && let Some(rules) = disclosure::rules(&entries, "m", "t")
        {
            let _ = rules.answer(text);
        }
    }
});
