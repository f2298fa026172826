//! Content negotiation: the media type by `Accept` (RFC 9110 §12.5.1) and the content coding by `Accept-Encoding` (§12.5.3).

use std::borrow::Cow;

/// The format of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorStyle {
    /// `{"error":{…}}`: Penstock's own form, the default outside `/v2`.
    Penstock,
    /// RFC 9457 `application/problem+json`, when `Accept` prefers it.
    ProblemJson,
    /// Penstock's own form with OpenAI's members `type` and `param`, on `/v1/embeddings` and `/v1/moderations`.
    OpenAi,
    /// `{"error":"message",…}`: the Open Inference Protocol's form, on `/v2`.
    OpenInference,
}

/// The most media ranges of an `Accept` header that are read. Browsers send fewer than ten.
const MAX_MEDIA_RANGES: usize = 32;

/// The quality (0 to 1000) of `type/subtype` in an `Accept` header; the most specific range wins. Without the header every
/// type is acceptable.
pub fn quality(accept: Option<&str>, media_type: &str) -> u16 {
    match accept.filter(|accept| !accept.trim().is_empty()) {
        None => 1000,
        Some(accept) => range_quality(accept, media_type).unwrap_or(0),
    }
}

/// The quality of the most specific range that matches `type/subtype`; `None` if no range matches.
fn range_quality(accept: &str, media_type: &str) -> Option<u16> {
    let main = media_type.split('/').next().unwrap_or_default();
    let (mut best, mut best_specificity) = (None, 0);
    for range in accept.split(',').take(MAX_MEDIA_RANGES) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let specificity = if name.eq_ignore_ascii_case(media_type) {
            3
        } else if name
            .strip_suffix("/*")
            .is_some_and(|m| m.eq_ignore_ascii_case(main))
        {
            2
        } else if name == "*/*" || name == "*" {
            1
        } else {
            continue;
        };
        let q = Some(weight_of(parts));
        if specificity > best_specificity || (specificity == best_specificity && q > best) {
            (best, best_specificity) = (q, specificity);
        }
    }
    best
}

/// The available media type with the highest quality; the earlier one of two equals. `None` if `Accept` excludes all.
pub fn choose<'a>(accept: Option<&str>, offered: &[&'a str]) -> Option<&'a str> {
    let mut best = None;
    for media_type in offered {
        let q = quality(accept, media_type);
        if q > best.map_or(0, |(q, _)| q) {
            best = Some((q, *media_type));
        }
    }
    best.map(|(_, media_type)| media_type)
}

/// The media type of event streams, without parameters.
pub const EVENT_STREAM: &str = "text/event-stream";
const OCTETS: &str = "application/octet-stream";

/// How a caller accepts an event stream in place of another answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    /// It names no event stream, or it prefers another form of the answer.
    #[default]
    No,
    /// It prefers an event stream, and accepts another form as well.
    Preferred,
    /// It accepts nothing else.
    Only,
}

/// Returns whether an `Accept` header names a media type, with any weight. A wildcard names none.
pub fn names(accept: &str, media_type: &str) -> bool {
    let mut ranges = accept.split(',').take(MAX_MEDIA_RANGES);
    ranges.any(|range| {
        let name = range.split(';').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(media_type)
    })
}

/// Returns how a caller accepts an event stream in place of one of the `offered` types. It must name the stream, because a stream
/// turns a call into an operation, and `*/*` is no wish for that. Of equal weights the other form wins.
pub fn events(accept: Option<&str>, offered: &[&str]) -> Events {
    let Some(accept) = accept.filter(|accept| names(accept, EVENT_STREAM)) else {
        return Events::No;
    };
    let other = offered.iter().map(|offered| quality(Some(accept), offered));
    let other = other.max().unwrap_or(0);
    match quality(Some(accept), EVENT_STREAM) {
        streamed if streamed <= other => Events::No,
        _ if other > 0 => Events::Preferred,
        _ => Events::Only,
    }
}

/// Returns whether a caller accepts tensors as bytes and no JSON.
pub fn accepts_only_octets(accept: Option<&str>) -> bool {
    !accepts_json(accept) && quality(accept, OCTETS) > 0
}

/// The content coding of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// The answer is sent without a coding.
    Identity,
    /// The coding `gzip` (RFC 1952).
    Gzip,
    /// `deflate`, which is the zlib format (RFC 9110 §8.4.1.2).
    Deflate,
    /// The coding `zstd` (RFC 8878).
    Zstd,
}

impl ContentCoding {
    /// The value of `Content-Encoding`; `None` without a coding.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Deflate => Some("deflate"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// The most codings of an `Accept-Encoding` header that are read. The registry has ten.
const MAX_CODINGS: usize = 32;

/// The preferred coding of an `Accept-Encoding` header. Without the header, no coding is used. If the header excludes every
/// coding, the answer is sent without one, because an error would not help the client. `zstd` comes before `gzip` at equal
/// quality, because it takes less time for fewer bytes.
pub fn content_coding(accept_encoding: Option<&str>) -> ContentCoding {
    let Some(list) = accept_encoding else {
        return ContentCoding::Identity;
    };
    let (mut gzip, mut deflate, mut zstd) = (None, None, None);
    let (mut identity, mut others) = (None, None);
    for entry in list.split(',').take(MAX_CODINGS) {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = match name {
            "*" => &mut others,
            _ if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                &mut gzip
            }
            _ if name.eq_ignore_ascii_case("deflate") => &mut deflate,
            _ if name.eq_ignore_ascii_case("zstd") => &mut zstd,
            _ if name.eq_ignore_ascii_case("identity") => &mut identity,
            _ => continue,
        };
        *weight = Some(weight_of(parts));
    }
    let weight = |named: Option<u16>| named.or(others).unwrap_or(0);
    // If `identity` is not named, every named coding is preferred.
    let mut best = (identity.unwrap_or(0), ContentCoding::Identity);
    for (q, coding) in [
        (weight(zstd), ContentCoding::Zstd),
        (weight(gzip), ContentCoding::Gzip),
        // Only if it is named explicitly: some clients mean another format by it, and no client prefers it.
        (deflate.unwrap_or(0), ContentCoding::Deflate),
    ] {
        let wins = match best.1 {
            ContentCoding::Identity => q > 0 && q >= best.0,
            _ => q > best.0,
        };
        if wins {
            best = (q, coding);
        }
    }
    best.1
}

/// The weight among the parameters of a range or coding; 1 by default.
fn weight_of<'a>(parameters: impl Iterator<Item = &'a str>) -> u16 {
    parameters
        .filter_map(|p| p.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .map_or(1000, |(_, value)| qvalue(value.trim()))
}

/// A weight in thousandths; an invalid one counts as 1, as if it were absent.
fn qvalue(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(q) if (0.0..=1.0).contains(&q) => (q * 1000.0).round() as u16,
        _ => 1000,
    }
}

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// Returns whether the caller accepts JSON. A range that matches `application/json` decides. Without one, a named
/// `application/problem+json` counts, because a client that reads errors in that form reads JSON.
pub fn accepts_json(accept: Option<&str>) -> bool {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return true;
    };
    range_quality(accept, JSON)
        .or_else(|| range_quality(accept, PROBLEM))
        .is_some_and(|q| q > 0)
}

/// Returns whether `media_type` is JSON: `application/json`, any `+json`, or `text/json`, which older clients send (the
/// WHATWG MIME Sniffing Standard, §4.6, counts it). Parameters are not part of `media_type`.
pub fn is_json(media_type: &str) -> bool {
    let suffix = media_type.rsplit_once('+').map(|(_, suffix)| suffix);
    media_type.eq_ignore_ascii_case(JSON)
        || media_type.eq_ignore_ascii_case("text/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
}

/// The style of an error for a request to `path` with this `Accept` header. Errors are always JSON, even if `Accept` excludes
/// JSON. RFC 9110 §15.5.7 allows it, and a body helps a client more than none.
pub fn error_style(path: &str, accept: Option<&str>) -> ErrorStyle {
    let named = accept.is_some_and(|a| a.to_ascii_lowercase().contains("application/problem+json"));
    let problem = if named {
        quality(accept, "application/problem+json")
    } else {
        0
    };
    if problem > 0 && problem >= explicit_json_quality(accept) {
        ErrorStyle::ProblemJson
    } else {
        let path = spelt_plainly(path);
        match &*path {
            "/v2" => ErrorStyle::OpenInference,
            // The path of Cohere's API, which is not part of the Open Inference Protocol.
            "/v2/rerank" => ErrorStyle::Penstock,
            path if path.starts_with("/v2/") => ErrorStyle::OpenInference,
            "/v1/embeddings" | "/v1/moderations" | "/v1/files" | "/v1/batches" => {
                ErrorStyle::OpenAi
            }
            path if path.starts_with("/v1/files/") || path.starts_with("/v1/batches/") => {
                ErrorStyle::OpenAi
            }
            _ => ErrorStyle::Penstock,
        }
    }
}

/// A path with its percent-encoded ASCII characters decoded, except `/`, so that equal paths compare equal (RFC 3986
/// §6.2.2.2).
fn spelt_plainly(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let digits = after.get(..2);
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|byte| byte.is_ascii_graphic() && *byte != b'/') {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &after[2..];
            }
            None => {
                plain.push('%');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// The weight of `application/json` if it is named. A wildcard does not outweigh a named `application/problem+json`.
fn explicit_json_quality(accept: Option<&str>) -> u16 {
    match accept {
        Some(a)
            if a.split(',').any(|r| {
                r.trim_start()
                    .to_ascii_lowercase()
                    .starts_with("application/json")
            }) =>
        {
            quality(accept, "application/json").saturating_add(1)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_range_gives_the_quality() {
        for (accept, expected) in [
            (None, 1000),
            (Some(""), 1000),
            (Some("*/*"), 1000),
            (Some("text/html,*/*;q=0.8"), 800),
            (Some("application/*;q=0.5, */*;q=0.1"), 500),
            (Some("application/json;q=0, */*"), 0),
            (Some("text/html"), 0),
            (Some("APPLICATION/JSON; q=0.3"), 300),
            (Some("application/json;q=nonsense"), 1000),
            (Some("application/json;q=0.29"), 290),
        ] {
            assert_eq!(quality(accept, "application/json"), expected, "{accept:?}");
        }
    }

    #[test]
    fn json_that_the_most_specific_range_excludes_is_not_accepted() {
        for (accept, expected) in [
            (None, true),
            (Some(" "), true),
            (Some("*/*"), true),
            (Some("application/json"), true),
            (Some("text/html, application/*;q=0.1"), true),
            (Some("application/problem+json"), true),
            (Some("text/html, application/problem+json;q=0.5"), true),
            (Some("text/html"), false),
            (Some("application/json;q=0, */*"), false),
            (Some("*/*, application/json; q=0.0"), false),
            (Some("application/*;q=0, */*"), false),
            (Some("*/*;q=0, application/json"), true),
            (
                Some("application/json;q=0, application/problem+json"),
                false,
            ),
            (Some("application/problem+json, */*;q=0"), false),
        ] {
            assert_eq!(accepts_json(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn json_has_several_media_types() {
        for (media_type, expected) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("text/json", true),
            ("application/vnd.x+JSON", true),
            ("image/svg+xml", false),
            ("text/plain", false),
            ("json", false),
            ("", false),
        ] {
            assert_eq!(is_json(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn the_most_wanted_of_what_is_offered_is_chosen_and_the_first_of_equals() {
        const TENSORS: [&str; 2] = ["application/json", "application/octet-stream"];
        for (accept, expected) in [
            (None, Some(TENSORS[0])),
            (Some("*/*"), Some(TENSORS[0])),
            (
                Some("application/octet-stream, application/json"),
                Some(TENSORS[0]),
            ),
            (Some("application/octet-stream"), Some(TENSORS[1])),
            (
                Some("application/json;q=0.5, application/octet-stream"),
                Some(TENSORS[1]),
            ),
            (
                Some("application/octet-stream, */*;q=0.1"),
                Some(TENSORS[1]),
            ),
            (
                Some("application/*;q=0.2, application/json;q=0"),
                Some(TENSORS[1]),
            ),
            (Some("text/html"), None),
            (Some("application/json;q=0"), None),
        ] {
            assert_eq!(choose(accept, &TENSORS), expected, "{accept:?}");
        }
        let many = "text/x, ".repeat(1_000_000) + "application/json";
        assert_eq!(choose(Some(&many), &TENSORS), None);
    }

    #[test]
    fn an_event_stream_is_chosen_only_if_it_is_named_and_outweighs_the_other_forms() {
        const JSON_ONLY: [&str; 1] = ["application/json"];
        for (accept, expected) in [
            (None, Events::No),
            (Some(""), Events::No),
            (Some("*/*"), Events::No),
            (Some("text/*"), Events::No),
            (Some("text/html, */*;q=0.8"), Events::No),
            (Some("text/event-stream"), Events::Only),
            (Some("TEXT/Event-Stream; q=0.2"), Events::Only),
            (Some("text/event-stream;q=0"), Events::No),
            (Some("text/event-stream, application/json"), Events::No),
            (
                Some("application/json;q=0.5, text/event-stream;q=0.4"),
                Events::No,
            ),
            (
                Some("application/json;q=0.5, text/event-stream"),
                Events::Preferred,
            ),
            (Some("text/event-stream, */*"), Events::No),
            (Some("text/event-stream, */*;q=0.1"), Events::Preferred),
            (
                Some("application/json;q=0, text/event-stream"),
                Events::Only,
            ),
            (
                Some("application/problem+json, text/event-stream"),
                Events::Only,
            ),
            (
                Some("application/octet-stream, text/event-stream;q=0.5"),
                Events::Only,
            ),
        ] {
            assert_eq!(events(accept, &JSON_ONLY), expected, "{accept:?}");
        }
        let tensors = [JSON_ONLY[0], OCTETS];
        let accept = Some("application/octet-stream, text/event-stream;q=0.5");
        assert_eq!(events(accept, &tensors), Events::No);
        let many = "text/x, ".repeat(1_000_000) + EVENT_STREAM;
        assert_eq!(events(Some(&many), &JSON_ONLY), Events::No);
    }

    #[test]
    fn tensors_are_all_bytes_only_for_a_caller_that_accepts_bytes_and_no_json() {
        for (accept, expected) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/json, application/octet-stream"), false),
            (Some("application/octet-stream"), true),
            (Some("application/json;q=0, */*"), true),
            (Some("text/event-stream"), false),
            (
                Some("text/event-stream, application/octet-stream;q=0.1"),
                true,
            ),
        ] {
            assert_eq!(accepts_only_octets(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_content_coding_is_the_one_of_the_highest_weight() {
        use ContentCoding::*;
        for (accept, expected) in [
            (None, Identity),
            (Some(""), Identity),
            (Some("br"), Identity),
            (Some("deflate"), Deflate),
            (Some("gzip, deflate"), Gzip),
            (Some("gzip;q=0.5, deflate"), Deflate),
            (Some("*, zstd;q=0, gzip;q=0"), Identity),
            (Some("gzip"), Gzip),
            (Some("x-gzip"), Gzip),
            (Some("GZIP;Q=0.1"), Gzip),
            (Some("gzip, deflate, br, zstd"), Zstd),
            (Some("gzip;q=1, zstd;q=0.5"), Gzip),
            (Some("*"), Zstd),
            (Some("*, zstd;q=0"), Gzip),
            (Some("*;q=0"), Identity),
            (Some("gzip;q=0"), Identity),
            (Some("identity"), Identity),
            (Some("identity, gzip"), Gzip),
            (Some("identity, gzip;q=0.5"), Identity),
            (Some("identity;q=0"), Identity),
            (Some("identity;q=0.5, *;q=0"), Identity),
            (Some("gzip;q=nonsense"), Gzip),
        ] {
            assert_eq!(content_coding(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn problem_json_is_used_when_it_is_named_and_not_outweighed() {
        use ErrorStyle::*;
        for (path, accept, style) in [
            ("/v1/models", None, Penstock),
            ("/v1/models", Some("*/*"), Penstock),
            ("/v1/models", Some("application/problem+json"), ProblemJson),
            (
                "/v1/models",
                Some("application/problem+json, */*"),
                ProblemJson,
            ),
            (
                "/v1/models",
                Some("application/json, application/problem+json"),
                Penstock,
            ),
            (
                "/v1/models",
                Some("application/json;q=0.5, application/problem+json"),
                ProblemJson,
            ),
            ("/v1/models", Some("application/problem+json;q=0"), Penstock),
            ("/v2", None, OpenInference),
            ("/v2/models/x/infer", Some("*/*"), OpenInference),
            (
                "/v2/models/x/infer",
                Some("application/problem+json"),
                ProblemJson,
            ),
            ("/v2x", None, Penstock),
            ("/%762/models/x/infer", None, OpenInference),
            ("/v2%2Fmodels", None, Penstock),
            ("/v1/embeddings", None, OpenAi),
            ("/v1/%65mbeddings", None, OpenAi),
            ("/v1/embeddings%", None, Penstock),
            ("/v1/embeddings%zz%\u{e4}", None, Penstock),
            (
                "/v1/embeddings",
                Some("application/problem+json"),
                ProblemJson,
            ),
        ] {
            assert_eq!(error_style(path, accept), style, "{path} {accept:?}");
        }
    }
}
