//! Signed requests: any headers, and any under a signature that holds.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use penstock_policy::auth::signature::{self, mac};

const SECRET: &str = "pnss_secret";

// Lines: method, target, Signature-Input behind its label, Content-Digest, a header's value.
fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.splitn(5, |&b| b == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (method, target, input, digest, more) = (next(), next(), next(), next(), next());
    let (Ok(method), Ok(target)) = (std::str::from_utf8(method), std::str::from_utf8(target))
    else {
        return;
    };
    let named = [b"sig=", input].concat();
    let parsed = |signature: &[u8]| {
        let headers = [
            ("host", &b"api.example"[..]),
            ("signature-input", &named),
            ("signature", signature),
            ("content-digest", digest),
            ("x-more", more),
        ];
        signature::parse(method, target, &headers)
    };
    let Ok(unsigned) = parsed(b"sig=:AAAA:") else {
        return;
    };
    let (body, now_ms) = (unsigned.content_sha256, unsigned.created_s * 1_000);
    assert!(signature::verify(&unsigned, SECRET, &body, 300, now_ms).is_err());
    let made = STANDARD.encode(mac(SECRET.as_bytes(), &unsigned.base));
    let signed = parsed(format!("sig=:{made}:").as_bytes()).unwrap();
    assert_eq!(signed.base, unsigned.base);
    assert_eq!(
        signature::replay_name(&signed),
        signature::replay_name(&unsigned)
    );
    if signed.expires_s.is_none_or(|s| s >= signed.created_s) {
        signature::verify(&signed, SECRET, &body, 300, now_ms).unwrap();
    }
});
