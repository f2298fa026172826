//! Compressed bodies: no panic, never more than the limit, and not more than a step decoded beyond it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_gate::coding::{Coding, Decoded, STEP_BYTES, decode};

fuzz_target!(|bytes: &[u8]| {
    // The first bytes choose the limit and whether the rest is given the beginning that each coding wants.
    let Some(([small, form], rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let limit = u64::from(*small) * 1024;
    for (coding, beginning) in [
        (Coding::Gzip, &b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"[..]),
        (Coding::Zstd, b"\x28\xb5\x2f\xfd"),
    ] {
        let mut body = Vec::new();
        if form % 2 == 0 {
            body.extend_from_slice(beginning);
        }
        body.extend_from_slice(rest);
        let mut decoded = Decoded::new(limit);
        let whole = decode(coding, &body, &mut decoded).is_ok();
        assert!(decoded.bytes.len() as u64 <= limit);
        assert!(decoded.produced <= limit + STEP_BYTES as u64);
        assert!(!whole || decoded.bytes.len() as u64 == decoded.produced);
    }
});
