//! Tests compressed bodies: accepted and refused ones, and that a decoder never exceeds the limit by more than a
//! step.

use crate::gate_common::answer;
use flate2::{
    Compress, Compression, FlushCompress, write::DeflateEncoder, write::GzEncoder,
    write::ZlibEncoder,
};
use penstock_core::ModelVersion;
use penstock_gate::Response;
use penstock_gate::coding::{
    Coding, DecodeError, Decoded, MAX_BLOCKS, MAX_PARTS, STEP_BYTES, decode,
};
use penstock_gate::ports::Failure;
use penstock_tensor::Tensor;
use penstock_testkit::InMemory;
use penstock_testkit::models::ADAPTED;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Write;

const MODEL: &str = r#"
description = "gives back what it gets"
[[inputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
[[outputs]]
name = "a"
datatype = "FP32"
shape = ["N", 2]
[limits]
max_body_bytes = 4096
"#;

const BODY: &[u8] = br#"{"inputs":{"a":[[1,2],[3,4]]}}"#;
const MODEL_PATH: &str = "/v1/models/m:predict";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Builds a zstd frame with a window of 128 KiB. Each block has a flag for the last block, a type, a size and its
/// content.
fn frame(blocks: &[(bool, u32, u32, &[u8])]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    for (last, kind, size, content) in blocks {
        let header = u32::from(*last) | kind << 1 | size << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(content);
    }
    frame
}

const RAW: u32 = 0;
const REPEATED: u32 = 1;
const COMPRESSED: u32 = 2;

fn decoded(coding: Coding, body: &[u8], limit: u64) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = Decoded::new(limit);
    let result = decode(coding, body, &mut decoded);
    assert!(decoded.bytes.len() as u64 <= limit);
    assert!(
        decoded.produced <= limit + STEP_BYTES as u64,
        "{}",
        decoded.produced
    );
    result.map(|()| decoded.bytes)
}

fn ports() -> InMemory {
    let run =
        |model: &str, _: ModelVersion, mut inputs: Vec<Tensor>| -> Result<Vec<Tensor>, Failure> {
            if model == "adapted" {
                inputs[0].name = "y".into();
            }
            Ok(inputs)
        };
    InMemory::new(&[("m", MODEL, &["1"]), ("adapted", ADAPTED, &["1"])], run)
}

fn post(ports: &InMemory, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (Response, Value) {
    answer(ports, "POST", path, headers, body)
}

#[test]
fn a_compressed_body_is_answered_like_the_same_body_uncompressed() {
    let (_, plain) = post(&ports(), MODEL_PATH, &[], BODY);
    assert_eq!(plain["predictions"][1], json!({"a": [3.0, 4.0]}));
    for (coding, body) in [
        ("gzip", gzip(BODY)),
        ("GZip", gzip(BODY)),
        ("x-gzip", gzip(BODY)),
        ("zstd", zstd(BODY)),
        (" zstd ,", zstd(BODY)),
        ("identity", BODY.to_vec()),
        ("", BODY.to_vec()),
    ] {
        let (response, value) = post(&ports(), MODEL_PATH, &[("content-encoding", coding)], &body);
        assert_eq!(response.status, 200, "{coding}: {value}");
        assert_eq!(value["predictions"], plain["predictions"], "{coding}");
    }
    let headers = [("content-encoding", "zstd"), ("content-type", "text/plain")];
    let (_, value) = post(
        &ports(),
        "/v1/models/adapted:predict",
        &headers,
        &zstd(b"abc"),
    );
    assert_eq!(
        value["predictions"],
        json!([{"length": 3}]),
        "adapters see what was compressed"
    );
}

#[test]
fn a_coding_that_is_not_taken_is_415_with_those_that_are() {
    for coding in [
        "br",
        "x-deflate",
        "gzip, zstd",
        "gzip,gzip",
        "identity, gzip",
        "gzip;q=1",
        "\u{e4}",
    ] {
        let (response, value) = post(
            &ports(),
            MODEL_PATH,
            &[("content-encoding", coding)],
            &gzip(BODY),
        );
        assert_eq!(
            (response.status, &value["error"]["code"]),
            (415, &json!("unsupported_media_type")),
            "{coding}"
        );
        assert_eq!(
            response.header("accept-encoding"),
            Some("gzip, deflate, zstd"),
            "{coding}"
        );
    }
    let twice = [("content-encoding", "gzip"), ("content-encoding", "gzip")];
    assert_eq!(
        post(&ports(), MODEL_PATH, &twice, &gzip(&gzip(BODY)))
            .0
            .status,
        415
    );
    // The content type is wrong, so no other coding would help.
    let (response, _) = post(&ports(), MODEL_PATH, &[("content-type", "image/png")], BODY);
    assert_eq!(
        (response.status, response.header("accept-encoding")),
        (415, None)
    );
}

#[test]
fn a_body_that_is_not_its_coding_is_400_and_says_where_it_breaks() {
    for (coding, body, words) in [
        ("gzip", BODY.to_vec(), "byte 0 is broken"),
        ("zstd", BODY.to_vec(), "byte 0 is broken"),
        ("gzip", zstd(BODY), "byte 0 is broken"),
        (
            "gzip",
            gzip(BODY)[..20].to_vec(),
            "ends within the member at byte 0",
        ),
        (
            "gzip",
            [gzip(BODY), b"x".to_vec()].concat(),
            "member at byte",
        ),
    ] {
        let (response, value) = post(&ports(), MODEL_PATH, &[("content-encoding", coding)], &body);
        assert_eq!(
            (response.status, &value["error"]["code"]),
            (400, &json!("invalid_content_coding")),
            "{coding}: {value}"
        );
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    // An empty body is empty in every coding, and is not JSON.
    let (response, value) = post(&ports(), MODEL_PATH, &[("content-encoding", "gzip")], b"");
    assert_eq!(
        (response.status, &value["error"]["code"]),
        (400, &json!("malformed_json"))
    );
}

#[test]
fn a_body_too_large_when_decoded_is_413_with_the_limit_of_decoded_bodies() {
    let large = format!("{}{}", String::from_utf8_lossy(BODY), " ".repeat(5000)).into_bytes();
    for (coding, body) in [("gzip", gzip(&large)), ("zstd", zstd(&large))] {
        let (response, value) = post(&ports(), MODEL_PATH, &[("content-encoding", coding)], &body);
        assert_eq!(
            (response.status, &value["error"]["code"]),
            (413, &json!("body_too_large"))
        );
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains("more than 4096 bytes"), "{message}");
        // The operator's limit for all bodies applies to decoded bodies too.
        let ports = ports();
        ports.set_policy("[server]\nmax_body_bytes = 20\n");
        let body = if coding == "gzip" {
            gzip(BODY)
        } else {
            zstd(BODY)
        };
        let (_, value) = post(&ports, MODEL_PATH, &[("content-encoding", coding)], &body);
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains("more than 20 bytes"), "{message}");
    }
}

#[test]
fn a_repeated_call_is_replayed_and_the_same_bytes_in_another_coding_are_another_call() {
    let ports = ports();
    let path = "/v1/models/adapted:predict";
    let body = gzip(b"abc");
    let keyed = [
        ("idempotency-key", "k"),
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
    ];
    let (first, _) = post(&ports, path, &keyed, &body);
    let (second, _) = post(&ports, path, &keyed, &body);
    assert_eq!((first.status, &second.body), (200, &first.body));
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    let (third, _) = post(&ports, path, &keyed[..2], &body);
    assert_eq!(third.status, 422);
    assert_eq!(ports.runs.get(), 1);
    // A body that cannot be decoded is not stored.
    let keyed = [("idempotency-key", "b"), ("content-encoding", "gzip")];
    assert_eq!(post(&ports, MODEL_PATH, &keyed, b"x").0.status, 400);
    assert_eq!(post(&ports, MODEL_PATH, &keyed, &gzip(BODY)).0.status, 200);
}

#[test]
fn a_gigabyte_of_zeros_stops_at_the_limit() {
    const MIB: usize = 1 << 20;
    // A full flush resets the compressor, so the part can be repeated in one stream.
    let mut part = Vec::with_capacity(MIB);
    let mut compress = Compress::new(Compression::best(), false);
    compress
        .compress_vec(&vec![0; MIB], &mut part, FlushCompress::Full)
        .unwrap();
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    (0..1024).for_each(|_| bomb.extend_from_slice(&part));
    let zeros = vec![(false, REPEATED, 128 << 10, &b"\0"[..]); 8192];
    let header = [0x78, 0xda];
    let zlib_bomb = [&header, &bomb[10..]].concat();
    for (coding, bomb) in [
        (Coding::Deflate, zlib_bomb),
        (Coding::Gzip, bomb),
        (Coding::Gzip, gzip(&vec![0; 8 * MIB]).repeat(128)),
        (Coding::Zstd, frame(&zeros)),
        (Coding::Zstd, zstd(&vec![0; 8 * MIB]).repeat(128)),
    ] {
        assert!(bomb.len() < 2 * MIB);
        for limit in [0, 1, 4096, 1 << 20, (16 << 20) + 1] {
            assert_eq!(
                decoded(coding, &bomb, limit),
                Err(DecodeError::TooLarge),
                "{coding:?} {limit}"
            );
        }
    }
}

#[test]
fn a_frame_that_declares_more_than_the_limit_is_not_even_tried() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.set_pledged_src_size(Some(5000)).unwrap();
    encoder.write_all(&[7; 5000]).unwrap();
    let body = encoder.finish().unwrap();
    let mut tried = Decoded::new(4096);
    assert_eq!(
        decode(Coding::Zstd, &body, &mut tried),
        Err(DecodeError::TooLarge)
    );
    assert_eq!(tried.produced, 0);
    assert_eq!(
        decoded(Coding::Zstd, &body, 5000).map(|b| b.len()),
        Ok(5000)
    );
}

#[test]
fn a_block_that_decodes_to_more_than_a_block_may_is_refused_before_it_does() {
    // 30,000 matches of at least 65,539 bytes each in 60 KB: one block decodes to two gigabytes.
    let matches: u16 = 30_000;
    let mut block = vec![0x00]; // no literals
    block.extend_from_slice(&[(matches >> 8) as u8 + 128, matches as u8]);
    block.extend_from_slice(&[0x54, 0, 0, 52]); // each table has one code: no literals, the last offset, the longest match
    block.extend(vec![0; usize::from(matches) * 2]);
    block.push(1);
    let body = frame(&[
        (false, REPEATED, 4096, b"\0"),
        (true, COMPRESSED, block.len() as u32, &block),
    ]);
    let mut tried = Decoded::new(u64::MAX);
    let fault = decode(Coding::Zstd, &body, &mut tried).unwrap_err();
    assert!(matches!(fault, DecodeError::Malformed(_)), "{fault:?}");
    assert!(tried.produced <= STEP_BYTES as u64, "{}", tried.produced);
}

#[test]
fn what_makes_a_decoder_work_without_end_has_a_bound() {
    let message = |coding, body: &[u8]| match decoded(coding, body, 1 << 20) {
        Err(DecodeError::Malformed(what)) => what,
        other => panic!("{:?}", other.map(|b| b.len())),
    };
    assert!(message(Coding::Gzip, &gzip(b"").repeat(MAX_PARTS + 1)).contains("4096 members"));
    assert!(message(Coding::Zstd, &zstd(b"").repeat(MAX_PARTS + 1)).contains("4096 frames"));
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    assert!(message(Coding::Zstd, &skippable.repeat(MAX_PARTS + 1)).contains("4096 frames"));
    let blocks = vec![(false, RAW, 0, &b""[..]); MAX_BLOCKS + 1];
    assert!(message(Coding::Zstd, &frame(&blocks)).contains("65536 blocks"));
    let empty = [0, 0, 0, 0xff, 0xff]; // an empty stored block of deflate
    let mut flushed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    (0..=MAX_BLOCKS).for_each(|_| flushed.extend_from_slice(&empty));
    assert!(message(Coding::Gzip, &flushed).contains("65536 blocks"));
    let mut wide = frame(&[(true, RAW, 1, b"x")]);
    wide[5] = 14 << 3;
    assert!(message(Coding::Zstd, &wide).contains("window of 16777216 bytes"));
    wide[5] = 13 << 3;
    assert_eq!(decoded(Coding::Zstd, &wide, 1), Ok(b"x".to_vec()));
}

#[test]
fn members_frames_and_frames_to_skip_follow_each_other() {
    let all = [&gzip(b"one ")[..], &gzip(b""), &gzip(b"two")].concat();
    assert_eq!(decoded(Coding::Gzip, &all, 7), Ok(b"one two".to_vec()));
    assert_eq!(decoded(Coding::Gzip, &all, 6), Err(DecodeError::TooLarge));
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
    let all = [&zstd(b"one ")[..], &skipped, &zstd(b""), &zstd(b"two")].concat();
    assert_eq!(decoded(Coding::Zstd, &all, 7), Ok(b"one two".to_vec()));
    assert_eq!(decoded(Coding::Zstd, &all, 6), Err(DecodeError::TooLarge));
    assert!(decoded(Coding::Zstd, &skipped[..9], 7).is_err());
    assert_eq!(decoded(Coding::Zstd, b"", 0), Ok(Vec::new()));
    assert_eq!(decoded(Coding::Gzip, &gzip(b""), 0), Ok(Vec::new()));
}

#[test]
fn a_body_that_is_cut_or_changed_is_not_taken_for_whole() {
    let text: Vec<u8> = (0..2000u32)
        .flat_map(|n| n.to_string().into_bytes())
        .collect();
    for (coding, body) in [
        (Coding::Gzip, gzip(&text)),
        (Coding::Deflate, encoded(Coding::Deflate, 6, &text)),
        (Coding::Zstd, zstd(&text)),
    ] {
        for end in 1..body.len() {
            let cut = decoded(coding, &body[..end], 1 << 20);
            assert!(
                matches!(cut, Err(DecodeError::Malformed(_))),
                "{coding:?} {end}"
            );
        }
        // The last bytes belong to the checksum: of the content in zstd, and before the length in gzip.
        for at in [body.len() - 1, body.len() - 4] {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert!(
                decoded(coding, &changed, 1 << 20).is_err(),
                "{coding:?} {at}"
            );
        }
        let garbage = [&body[..], b"garbage"].concat();
        assert!(decoded(coding, &garbage, 1 << 20).is_err(), "{coding:?}");
    }
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u8>(), 0..200_000usize).prop_map(|(byte, count)| vec![byte; count]),
        (vec(any::<u8>(), 1..40), 0..500usize).prop_map(|(bytes, times)| bytes.repeat(times)),
    ];
    vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn encoded(coding: Coding, level: u32, content: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Zstd => zstd::encode_all(content, level as i32 * 2).unwrap(),
    }
}

#[test]
fn deflate_is_one_stream_of_the_zlib_format_and_nothing_else() {
    let zlib = encoded(Coding::Deflate, 6, BODY);
    let headers = [("content-encoding", "deflate")];
    let (response, _) = post(&ports(), MODEL_PATH, &headers, &zlib);
    assert_eq!(response.status, 200);
    let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
    bare.write_all(BODY).unwrap();
    for (body, words) in [
        (bare.finish().unwrap(), "RFC 1950"),
        (gzip(BODY), "RFC 1950"),
        (zlib.repeat(2), "bytes after its end"),
        (zlib[..zlib.len() - 1].to_vec(), "it ends within"),
    ] {
        let (response, value) = post(&ports(), MODEL_PATH, &headers, &body);
        assert_eq!(response.status, 400);
        assert_eq!(value["error"]["code"], "invalid_content_coding");
        let message = value["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
}

fn coding() -> impl Strategy<Value = Coding> {
    prop_oneof![
        Just(Coding::Gzip),
        Just(Coding::Deflate),
        Just(Coding::Zstd)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_was_compressed_comes_back_and_a_byte_less_is_too_little(
        coding in coding(), level in 1..10u32, contents in vec(content(), 1..3),
    ) {
        // Several gzip members or zstd frames may follow each other. The zlib format has a single stream.
        let contents = match coding {
            Coding::Deflate => vec![contents.concat()],
            _ => contents,
        };
        let body: Vec<u8> = contents.iter().flat_map(|c| encoded(coding, level, c)).collect();
        let content = contents.concat();
        let limit = content.len() as u64;
        prop_assert_eq!(decoded(coding, &body, limit), Ok(content));
        if limit > 0 {
            prop_assert_eq!(decoded(coding, &body, limit - 1), Err(DecodeError::TooLarge));
        }
    }

    #[test]
    fn whatever_the_bytes_decoding_ends_within_the_limit(
        coding in coding(), limit in 0..100_000u64, noise in vec(any::<u8>(), 0..200), content in content(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let _ = decoded(coding, &noise, limit);
        let mut body = encoded(coding, 3, &content);
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let _ = decoded(coding, &body, limit);
        body.extend(noise);
        let _ = decoded(coding, &body, limit);
    }
}
