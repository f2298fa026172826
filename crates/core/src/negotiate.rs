//! Decides which representation an `Accept` header asks for (RFC 9110 §12.5.1).

/// How an error is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorStyle {
    /// `{"error":{…}}`: Penstock's own form, the default outside `/v2`.
    Penstock,
    /// RFC 9457 `application/problem+json`, when `Accept` prefers it.
    ProblemJson,
    /// `{"error":"message",…}`: the Open Inference Protocol's form, on `/v2`.
    OpenInference,
}

/// Only this many media ranges of an `Accept` header are read; browsers send fewer than ten.
const MAX_MEDIA_RANGES: usize = 32;

/// The quality (0 to 1000) an `Accept` header gives `type/subtype`; the most specific range wins.
/// No header means everything is acceptable.
pub fn quality(accept: Option<&str>, media_type: &str) -> u16 {
    let Some(accept) = accept else { return 1000 };
    if accept.trim().is_empty() {
        return 1000;
    }
    let main = media_type.split('/').next().unwrap_or_default();
    let (mut best, mut best_specificity) = (0, 0);
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
        let q = parts
            .filter_map(|p| p.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .map_or(1000, |(_, value)| qvalue(value.trim()));
        if specificity > best_specificity || (specificity == best_specificity && q > best) {
            (best, best_specificity) = (q, specificity);
        }
    }
    best
}

/// A weight in thousandths; an unreadable one counts as 1, as if it had not been sent.
fn qvalue(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(q) if (0.0..=1.0).contains(&q) => (q * 1000.0) as u16,
        _ => 1000,
    }
}

/// Whether the caller accepts a JSON answer at all. Naming `application/problem+json` counts: who
/// asks for errors in that form reads JSON.
pub fn accepts_json(accept: Option<&str>) -> bool {
    quality(accept, "application/json") > 0 || quality(accept, "application/problem+json") > 0
}

/// The style of an error for a request to `path` with this `Accept` header. An error is always
/// answered, in JSON, even where `Accept` rules JSON out: RFC 9110 §15.5.7 allows it and a caller
/// is helped more by a body than by none.
pub fn error_style(path: &str, accept: Option<&str>) -> ErrorStyle {
    let named = accept.is_some_and(|a| a.to_ascii_lowercase().contains("application/problem+json"));
    let problem = if named {
        quality(accept, "application/problem+json")
    } else {
        0
    };
    if problem > 0 && problem >= explicit_json_quality(accept) {
        ErrorStyle::ProblemJson
    } else if path == "/v2" || path.starts_with("/v2/") {
        ErrorStyle::OpenInference
    } else {
        ErrorStyle::Penstock
    }
}

/// The weight of `application/json` where it is named; a wildcard beside a named
/// `application/problem+json` does not outweigh it.
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
        ] {
            assert_eq!(quality(accept, "application/json"), expected, "{accept:?}");
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
        ] {
            assert_eq!(error_style(path, accept), style, "{path} {accept:?}");
        }
    }
}
