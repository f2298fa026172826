//! Decides the final form of a written answer: its content coding, its entity tag, and whether a conditional request
//! is answered with 304 (RFC 9110 §8.4, §8.8.3, §13.1.2).
//!
//! Compression costs the instance time, so only bodies from [`MIN_ENCODED_BYTES`] to [`MAX_ENCODED_BYTES`] are
//! compressed. A long body is compressed only if a sample of it shrinks. The levels have the best ratio of time spent
//! to bytes saved (`examples/coding.rs` measures them; docs/PERFORMANCE.md).
//!
//! **Length side channel.** The length of a compressed answer reveals whether one part of it repeats another
//! (BREACH). Suppose that an answer contains the caller's text beside a secret. An attacker that can trigger a
//! client's requests can then guess the secret. Errors repeat sent names beside existing names, so errors are never
//! compressed. Other answers repeat only an `id` beside the model's answer to the same request. No answer of this
//! crate contains a credential.
//!
//! **Tags.** A tag is a digest of the body, so it is strong, and each coding has its own tag. A client must
//! revalidate a stored copy before each use (`no-cache`), with its own credentials. A copy therefore never outlives
//! the right to read it. Only the caller's own client may store a personal answer (`private`).

use crate::record::{Request, Response};
use crate::route::Route;
use penstock_core::negotiate::{ContentCoding, content_coding};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use structured_zstd::encoding::{CompressionLevel, FrameCompressor};
use zlib_rs::{Deflate, DeflateFlush, Status};

/// The smallest body that is compressed. A smaller body fits into one packet without compression.
pub const MIN_ENCODED_BYTES: usize = 1 << 10;
/// The smallest compressed body of `/v2` metadata. `tritonclient.http.aio` requests gzip on every call but
/// decompresses only the answers of `infer`. Longer answers are compressed all the same, because most clients
/// benefit.
pub const MIN_ENCODED_V2_BYTES: usize = 64 << 10;
/// The largest body that is compressed. Compression of it takes a tenth of a second, and memory holds it twice
/// meanwhile.
pub const MAX_ENCODED_BYTES: usize = 16 << 20;
/// The bytes of a longer body that are compressed as a sample, to see whether the body shrinks.
pub const SAMPLE_BYTES: usize = 32 << 10;

/// The level of gzip. Level 1 is twice as fast and leaves a third more bytes. Level 6 takes two to three times as
/// long and saves a twentieth.
const GZIP_LEVEL: i32 = 2;
/// The level of zstd: as fast as gzip's 1 and as small as gzip's 6.
const ZSTD_LEVEL: CompressionLevel = CompressionLevel::Level(1);
/// Selects the `gzip` format and the largest window, in zlib's encoding of both.
const GZIP_WINDOW_BITS: u8 = 16 + ZLIB_WINDOW_BITS;
/// The largest window of the zlib format, which `deflate` uses (RFC 9110 §8.4.1.2).
const ZLIB_WINDOW_BITS: u8 = 15;
/// The length of a tag's digest in bytes. A chance collision of 128 bits is negligible.
const TAG_BYTES: usize = 16;

/// The class of an answer, which decides its caching and compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Representation {
    /// The result of one call, or a momentary state. It has no entity tag, because no client revalidates it.
    Result,
    /// Content that changes seldom and is the same for all callers.
    Public,
    /// Content that changes seldom and depends on the caller.
    Personal,
    /// A stream of events, or bytes that are compressed already.
    Opaque,
}

impl Representation {
    /// Returns the class of a route's answers. `personal` says whether the caller is authenticated.
    pub fn of(route: &Route, personal: bool) -> Self {
        match route {
            Route::ErrorCatalogue | Route::ErrorEntry(_) | Route::Docs | Route::WebhookKeys => {
                Self::Public
            }
            Route::OpenApi
            | Route::ModelList
            | Route::Model(_)
            | Route::ServerMetadata
            | Route::ModelMetadata(_) => {
                if personal {
                    Self::Personal
                } else {
                    Self::Public
                }
            }
            _ => Self::Result,
        }
    }

    /// Returns the `Cache-Control` value. A stored answer always needs revalidation.
    fn cache_control(self) -> Option<&'static str> {
        match self {
            Self::Public => Some("no-cache"),
            Self::Personal => Some("private, no-cache"),
            Self::Result | Self::Opaque => None,
        }
    }
}

/// Returns the number of bytes from which a route's answers are compressed.
pub fn encoded_from_bytes(route: &Route) -> usize {
    match route {
        Route::ServerMetadata
        | Route::ServerReady
        | Route::ServerLive
        | Route::ModelMetadata(_)
        | Route::ModelReady(_)
        | Route::ModelConfig(_)
        | Route::Statistics(_)
        | Route::RepositoryIndex { .. }
        | Route::RepositoryLoad(_)
        | Route::RepositoryUnload(_) => MIN_ENCODED_V2_BYTES,
        _ => MIN_ENCODED_BYTES,
    }
}

/// Sets the answer's coding, tag and cache headers. Bodies of `encoded_from` bytes or more are compressed.
pub fn finish(
    request: &Request,
    mut response: Response,
    kind: Representation,
    encoded_from: usize,
) -> Response {
    if !matches!(response.status, 200 | 207) || kind == Representation::Opaque {
        return response;
    }
    let chosen = if is_encodable(&response, encoded_from) {
        response.push("vary", "accept-encoding");
        content_coding(request.header_list("accept-encoding").as_deref())
    } else {
        ContentCoding::Identity
    };
    let Some(cache_control) = kind.cache_control() else {
        encode(&mut response, chosen);
        return response;
    };
    if response.header("cache-control").is_none() {
        response.push("cache-control", cache_control);
    }
    let tag = tag(&response.body);
    let reads = matches!(request.method.as_str(), "GET" | "HEAD");
    let held = request.header_list("if-none-match").filter(|_| reads);
    if let Some(matched) = held.and_then(|list| matching(&list, &tag, chosen)) {
        response.status = 304;
        response.body = Vec::new().into();
        response
            .headers
            .retain(|header| header.name != "content-type");
        response.push("etag", matched);
        return response;
    }
    let coding = encode(&mut response, chosen);
    response.push("etag", tagged(&tag, coding));
    response
}

/// Returns whether an answer may be compressed for a client that accepts a coding.
fn is_encodable(response: &Response, encoded_from: usize) -> bool {
    let content_type = response.header("content-type").unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let shrinks = matches!(
        essence,
        "application/json" | "application/octet-stream" | "text/html" | "text/plain"
    );
    shrinks
        && (encoded_from..=MAX_ENCODED_BYTES).contains(&response.body.len())
        && response.header("content-encoding").is_none()
}

/// Compresses a body if that makes it smaller. Returns the coding that the body then has.
fn encode(response: &mut Response, coding: ContentCoding) -> ContentCoding {
    let Some(name) = coding.name() else {
        return ContentCoding::Identity;
    };
    // Binary numbers hardly shrink, and compression of a long body takes long, so test a sample first.
    if response.body.len() > 2 * SAMPLE_BYTES
        && let Some(sample) = response.body.part(0..SAMPLE_BYTES)
        && encoded(&sample, coding).is_none_or(|short| short.len() > SAMPLE_BYTES / 8 * 7)
    {
        return ContentCoding::Identity;
    }
    match encoded(&response.body, coding) {
        Some(short) if short.len() < response.body.len() => {
            response.body = short.into();
            response.push("content-encoding", name);
            coding
        }
        _ => ContentCoding::Identity,
    }
}

/// Compresses a body with a coding. Returns `None` if the encoder fails; the body is then sent uncompressed.
pub fn encoded(body: &[u8], coding: ContentCoding) -> Option<Vec<u8>> {
    match coding {
        ContentCoding::Identity => None,
        ContentCoding::Gzip => deflate(body, GZIP_LEVEL, GZIP_WINDOW_BITS),
        ContentCoding::Deflate => deflate(body, GZIP_LEVEL, ZLIB_WINDOW_BITS),
        ContentCoding::Zstd => Some(zstd(body, ZSTD_LEVEL)),
    }
}

/// Compresses with `gzip` at zlib's level 1 to 9.
pub fn gzip(body: &[u8], level: i32) -> Option<Vec<u8>> {
    deflate(body, level, GZIP_WINDOW_BITS)
}

/// Compresses to `gzip` or the zlib format, as `window_bits` selects.
fn deflate(body: &[u8], level: i32, window_bits: u8) -> Option<Vec<u8>> {
    let mut encoder = Deflate::new(level, true, window_bits);
    let mut out = vec![0; body.len() / 2 + 64];
    loop {
        let (taken, given) = (encoder.total_in() as usize, encoder.total_out() as usize);
        let status = encoder
            .compress(
                body.get(taken..)?,
                out.get_mut(given..)?,
                DeflateFlush::Finish,
            )
            .ok()?;
        let given = encoder.total_out() as usize;
        if status == Status::StreamEnd {
            out.truncate(given);
            return Some(out);
        }
        // A result longer than the body is useless.
        if out.len() > body.len() {
            return None;
        }
        out.resize(body.len() + 1, 0);
    }
}

/// Compresses with `zstd` at one of its levels, with a checksum.
pub fn zstd(body: &[u8], level: CompressionLevel) -> Vec<u8> {
    let mut encoder: FrameCompressor<&[u8], Vec<u8>> = FrameCompressor::new(level);
    encoder.set_content_checksum(true);
    encoder.compress_independent_frame(body)
}

/// Returns the hexadecimal digest of a body.
fn tag(body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    let mut tag = String::with_capacity(2 * TAG_BYTES);
    for byte in digest.iter().take(TAG_BYTES) {
        // Writing to a string cannot fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag
}

/// Returns the entity tag of a body in a coding.
fn tagged(tag: &str, coding: ContentCoding) -> String {
    match coding.name() {
        None => format!("\"{tag}\""),
        Some(name) => format!("\"{tag}-{name}\""),
    }
}

/// Returns the tag that `If-None-Match` matches, in whichever coding the caller's copy has. The comparison is weak as
/// RFC 9110 §13.1.2 requires, because a proxy that changed the coding marks tags as weak.
fn matching(list: &str, tag: &str, chosen: ContentCoding) -> Option<String> {
    if list.trim() == "*" {
        return Some(tagged(tag, chosen));
    }
    let codings = [
        ContentCoding::Identity,
        ContentCoding::Gzip,
        ContentCoding::Deflate,
        ContentCoding::Zstd,
    ];
    list.split(',').find_map(|listed| {
        let listed = listed.trim();
        let opaque = listed.strip_prefix("W/").unwrap_or(listed);
        codings
            .into_iter()
            .map(|coding| tagged(tag, coding))
            .find(|own| own == opaque)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::{self, Coding, Decoded};
    use crate::record::Header;

    fn finish(request: &Request, response: Response, kind: Representation) -> Response {
        super::finish(request, response, kind, MIN_ENCODED_BYTES)
    }

    fn asking(method: &str, headers: &[(&str, &str)]) -> Request {
        Request {
            method: method.to_owned(),
            target: "/v1/models".to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| Header {
                    name: (*name).to_owned(),
                    value: value.as_bytes().to_vec(),
                })
                .collect(),
            body: Vec::new().into(),
        }
    }

    fn answer(bytes: usize) -> Response {
        let body = br#"{"name":"digits","ready":true},"#.iter().copied();
        Response::new(
            200,
            "application/json",
            body.cycle().take(bytes).collect::<Vec<u8>>(),
        )
    }

    fn decoded(response: &Response) -> Vec<u8> {
        let coding = match response.header("content-encoding") {
            None => return response.body.to_vec(),
            Some("gzip") => Coding::Gzip,
            Some("deflate") => Coding::Deflate,
            Some("zstd") => Coding::Zstd,
            Some(other) => panic!("{other}"),
        };
        let mut decoded = Decoded::new(u64::MAX);
        coding::decode(coding, &response.body, &mut decoded).unwrap();
        decoded.bytes
    }

    /// Returns bytes that no encoder can shorten.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 33) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn a_body_is_compressed_as_asked_and_decodes_to_what_it_was() {
        for bytes in [MIN_ENCODED_BYTES, 5_000, 100_000, 1 << 20] {
            for (accept, coding) in [
                ("gzip", "gzip"),
                ("deflate", "deflate"),
                ("gzip, deflate", "gzip"),
                ("zstd", "zstd"),
                ("gzip, zstd", "zstd"),
            ] {
                let plain = answer(bytes);
                let request = asking("POST", &[("accept-encoding", accept)]);
                let response = finish(&request, plain.clone(), Representation::Result);
                assert_eq!(response.header("content-encoding"), Some(coding));
                assert_eq!(response.header("vary"), Some("accept-encoding"));
                assert_eq!(response.header("etag"), None);
                assert!(response.body.len() < bytes / 2);
                assert_eq!(plain.body, decoded(&response));
            }
        }
    }

    #[test]
    fn answers_that_would_gain_nothing_or_tell_too_much_are_not_compressed() {
        let request = asking("POST", &[("accept-encoding", "gzip, zstd")]);
        let mut error = answer(5_000);
        error.status = 404;
        let mut coded = answer(5_000);
        coded.push("content-encoding", "gzip");
        let image = Response::new(200, "image/png", answer(5_000).body);
        let events = Response::new(200, "text/event-stream", answer(5_000).body);
        for response in [answer(MIN_ENCODED_BYTES - 1), error, coded, image, events] {
            let finished = finish(&request, response.clone(), Representation::Result);
            assert_eq!(finished, response);
        }
        let opaque = finish(&request, answer(5_000), Representation::Opaque);
        assert_eq!(opaque, answer(5_000));
        for bytes in [2_000, 4 * SAMPLE_BYTES] {
            let noise = Response::new(200, "application/octet-stream", noise(bytes));
            let finished = finish(&request, noise.clone(), Representation::Result);
            assert_eq!(finished.body, noise.body);
            assert_eq!(finished.header("content-encoding"), None);
        }
    }

    #[test]
    fn a_copy_that_is_still_good_is_answered_with_304_and_no_body() {
        for kind in [Representation::Public, Representation::Personal] {
            for accept in ["identity", "gzip", "zstd"] {
                let first = finish(
                    &asking("GET", &[("accept-encoding", accept)]),
                    answer(5_000),
                    kind,
                );
                let tag = first.header("etag").unwrap().to_owned();
                assert!(tag.starts_with('"') && tag.ends_with('"'));
                for (list, status) in [
                    (tag.clone(), 304),
                    (format!("W/{tag}"), 304),
                    (format!("\"x\", {tag}"), 304),
                    ("*".to_owned(), 304),
                    ("\"x\"".to_owned(), 200),
                    (tag.trim_matches('"').to_owned(), 200),
                    (String::new(), 200),
                ] {
                    for method in ["GET", "HEAD"] {
                        let headers = [
                            ("accept-encoding", accept),
                            ("if-none-match", list.as_str()),
                        ];
                        let again = finish(&asking(method, &headers), answer(5_000), kind);
                        assert_eq!(again.status, status, "{list}");
                        assert_eq!(again.header("etag"), Some(tag.as_str()));
                        assert_eq!(again.header("vary"), Some("accept-encoding"));
                        let kept = again.header("cache-control").unwrap();
                        assert!(kept.ends_with("no-cache"));
                        assert_eq!(kept.contains("private"), kind == Representation::Personal);
                        assert_eq!(again.body.is_empty(), status == 304);
                        assert_eq!(again.header("content-type").is_none(), status == 304);
                    }
                }
            }
        }
    }

    #[test]
    fn each_coding_has_a_tag_of_its_own_and_each_body_too() {
        let tag = |accept: &str, bytes| {
            let request = asking("GET", &[("accept-encoding", accept)]);
            let response = finish(&request, answer(bytes), Representation::Public);
            response.header("etag").unwrap().to_owned()
        };
        let tags = [
            tag("identity", 5_000),
            tag("gzip", 5_000),
            tag("zstd", 5_000),
            tag("identity", 5_001),
            tag("gzip", 5_001),
        ];
        for (place, one) in tags.iter().enumerate() {
            assert_eq!(tags.iter().position(|other| other == one), Some(place));
        }
    }

    #[test]
    fn descriptions_of_models_under_v2_are_compressed_from_64_kib_on() {
        let request = asking("GET", &[("accept-encoding", "gzip")]);
        let target = || crate::route::target("m", None);
        for route in [
            Route::ServerMetadata,
            Route::ModelMetadata(target()),
            Route::ModelConfig(target()),
            Route::Statistics(None),
            Route::RepositoryIndex { ready: false },
        ] {
            let from = encoded_from_bytes(&route);
            for (bytes, coding) in [(from - 1, None), (from, Some("gzip"))] {
                let finished = super::finish(
                    &request,
                    answer(bytes),
                    Representation::of(&route, false),
                    from,
                );
                assert_eq!(finished.header("content-encoding"), coding, "{route:?}");
            }
        }
        assert_eq!(
            encoded_from_bytes(&Route::Infer(target())),
            MIN_ENCODED_BYTES
        );
        assert_eq!(encoded_from_bytes(&Route::ModelList), MIN_ENCODED_BYTES);
    }

    #[test]
    fn a_call_is_never_answered_with_304() {
        let request = asking("POST", &[("if-none-match", "*")]);
        let response = finish(&request, answer(5_000), Representation::Result);
        assert_eq!(response.status, 200);
    }
}
