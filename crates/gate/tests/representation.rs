//! Checks that common decoders can read every compressed body.

use penstock_core::negotiate::ContentCoding;
use penstock_gate::representation::{SAMPLE_BYTES, encoded};
use proptest::prelude::*;
use std::io::Read;

/// Generates bodies like those of models: repetitive, random, numeric, and mixtures.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..3_000),
        proptest::collection::vec(0u8..4, 0..3_000),
        (any::<u8>(), 0usize..200_000).prop_map(|(byte, times)| vec![byte; times]),
        (proptest::collection::vec(any::<u8>(), 1..40), 0usize..4_000)
            .prop_map(|(word, times)| word.repeat(times)),
        proptest::collection::vec(any::<f32>(), 0..2_000).prop_map(|numbers| {
            let texts: Vec<String> = numbers.iter().map(f32::to_string).collect();
            texts.join(",").into_bytes()
        }),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn check(body: &[u8]) {
    if let Some(short) = encoded(body, ContentCoding::Gzip) {
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(short.as_slice())
            .read_to_end(&mut read)
            .unwrap();
        assert!(read == body);
    }
    let short = encoded(body, ContentCoding::Zstd).unwrap();
    assert!(zstd::decode_all(short.as_slice()).unwrap() == body);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn other_decoders_read_what_was_compressed(body in body()) {
        check(&body);
    }
}

#[test]
fn bodies_of_every_length_around_a_block_are_readable() {
    let text: Vec<u8> = (0..u32::MAX)
        .flat_map(|i| i.to_string().into_bytes())
        .take(300_000)
        .collect();
    let lengths = (0..70).chain([SAMPLE_BYTES - 1, SAMPLE_BYTES, SAMPLE_BYTES + 1]);
    let around = [1 << 17, 1 << 18].into_iter().flat_map(|n| n - 2..n + 3);
    for length in lengths.chain(around) {
        check(&text[..length]);
    }
}
