//! Decides which pages of other origins may read answers in a browser (Fetch standard, §3.2, "CORS protocol"). Without
//! `[cors]` there are none: answers have no CORS headers, so the browser refuses the preflight and the answer.
//!
//! A preflight gets complete lists, regardless of its request. The browser compares them, and its console then names the
//! missing
//! method or header. An origin that is not allowed gets no lists.
//!
//! CORS binds only browsers. It keeps no other program out, and does not replace credentials.
//!
//! `Access-Control-Allow-Private-Network` is left out on purpose: it would let pages of the public internet reach a
//! server in a private network, and browsers no longer ask for it.

use serde::Deserialize;
use std::net::Ipv6Addr;

/// Most origins in `[cors]`. A request with an origin walks through all of them.
pub const MAX_ORIGINS: usize = 64;
/// The longest origin, in bytes: a scheme, the longest DNS name, and a port.
pub const MAX_ORIGIN_BYTES: usize = 300;
/// The most headers in a list. Every answer to a page contains all of them.
pub const MAX_HEADERS: usize = 64;
/// The longest name of a header.
pub const MAX_HEADER_NAME_BYTES: usize = 64;
/// Default time for which a browser may cache a preflight, in seconds.
pub const DEFAULT_MAX_AGE_S: u32 = 600;
/// Longest time for which a browser may cache a preflight: a day. No browser caches longer.
pub const MAX_MAX_AGE_S: u32 = 86_400;

/// Request headers of this API.
const REQUEST_HEADERS: [&str; 18] = [
    "accept",
    "api-key",
    "authorization",
    "cache-control",
    "content-digest",
    "content-encoding",
    "content-type",
    "idempotency-key",
    "if-none-match",
    "inference-header-content-length",
    "last-event-id",
    "prefer",
    "signature",
    "signature-input",
    "webhook-url",
    "x-api-key",
    "x-model-version",
    "x-request-id",
];

/// Answer headers of this API.
const ANSWER_HEADERS: [&str; 24] = [
    "accept-encoding",
    "age",
    "allow",
    "cache-status",
    "deprecation",
    "etag",
    "idempotency-replayed",
    "inference-header-content-length",
    "link",
    "location",
    "preference-applied",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "sunset",
    "www-authenticate",
    "x-model-version",
    "x-model-version-reason",
    "x-prediction-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
    "x-should-retry",
];

/// The headers of an answer, names in lower case.
pub type Headers = Vec<(&'static str, String)>;

/// The section `[cors]` of a policy file. Without it no page of another origin may read answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsSettings {
    /// Origins whose pages may read answers, as browsers write them; or `*` alone, for all.
    pub allowed_origins: Vec<String>,
    /// Headers that such a page may send.
    pub allowed_headers: Vec<String>,
    /// Headers of an answer that such a page may read.
    pub exposed_headers: Vec<String>,
    /// Seconds for which a browser may cache the answer to a preflight.
    pub max_age_s: u32,
    /// Whether the browser may add its own credentials: cookies or a client certificate. A key that the page sends in a
    /// header does not need this.
    pub allow_credentials: bool,
}

impl Default for CorsSettings {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            allowed_origins: Vec::new(),
            allowed_headers: owned(&REQUEST_HEADERS),
            exposed_headers: owned(&ANSWER_HEADERS),
            max_age_s: DEFAULT_MAX_AGE_S,
            allow_credentials: false,
        }
    }
}

impl CorsSettings {
    /// All faults of the settings, each with its remedy.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let origins = &self.allowed_origins;
        if origins.len() > MAX_ORIGINS {
            faults.push((
                "allowed_origins",
                format!("may name at most {MAX_ORIGINS}, not {}", origins.len()),
            ));
        }
        if self.allows_all() {
            if origins.len() > 1 {
                faults.push((
                    "allowed_origins",
                    "has `*` and other origins; `*` means every origin and must be the only entry"
                        .to_owned(),
                ));
            }
            if self.allow_credentials {
                faults.push((
                    "allow_credentials",
                    "cannot be true while `allowed_origins` is `*`: any page could act with its visitors' credentials; \
                     name the origins"
                        .to_owned(),
                ));
            }
        }
        for origin in origins.iter().filter(|origin| *origin != "*") {
            if let Err(what) = check_origin(origin) {
                faults.push((
                    "allowed_origins",
                    format!("has `{}`: {what}", shown(origin)),
                ));
            }
        }
        for (setting, names) in [
            ("allowed_headers", &self.allowed_headers),
            ("exposed_headers", &self.exposed_headers),
        ] {
            if names.len() > MAX_HEADERS {
                faults.push((
                    setting,
                    format!("may name at most {MAX_HEADERS}, not {}", names.len()),
                ));
            }
            for name in names.iter().filter(|name| !is_header_name(name)) {
                faults.push((
                    setting,
                    format!(
                        "has `{}`, which is not a header name; list each name, `*` would not cover `authorization`",
                        shown(name)
                    ),
                ));
            }
        }
        if self.max_age_s > MAX_MAX_AGE_S {
            faults.push((
                "max_age_s",
                format!("must be at most {MAX_MAX_AGE_S}, not {}", self.max_age_s),
            ));
        }
        faults
    }

    fn allows_all(&self) -> bool {
        self.allowed_origins.iter().any(|origin| origin == "*")
    }
}

/// The headers of an answer for a page of `origin`; without an origin, the headers for caches. Errors carry the same
/// headers, so that a page can read the reason.
pub fn answer_headers(settings: &CorsSettings, origin: Option<&[u8]>) -> Headers {
    let mut headers = allow_origin(settings, origin);
    if is_allowed(&headers) && !settings.exposed_headers.is_empty() {
        headers.push((
            "access-control-expose-headers",
            settings.exposed_headers.join(", "),
        ));
    }
    headers
}

/// The headers of the answer to a preflight. `methods` are those of the path, as `Allow` lists them.
pub fn preflight_headers(settings: &CorsSettings, origin: Option<&[u8]>, methods: &str) -> Headers {
    let mut headers = allow_origin(settings, origin);
    if is_allowed(&headers) {
        headers.push(("access-control-allow-methods", methods.to_owned()));
        if !settings.allowed_headers.is_empty() {
            headers.push((
                "access-control-allow-headers",
                settings.allowed_headers.join(", "),
            ));
        }
        headers.push(("access-control-max-age", settings.max_age_s.to_string()));
    }
    headers
}

/// Returns whether the headers say that the page may read the answer.
fn is_allowed(headers: &Headers) -> bool {
    headers
        .iter()
        .any(|(name, _)| *name == "access-control-allow-origin")
}

/// Returns the headers that let the origin read an answer, if it may. If that depends on the origin, `Vary` tells caches so
/// in every case.
fn allow_origin(settings: &CorsSettings, origin: Option<&[u8]>) -> Headers {
    let mut headers = Headers::new();
    if settings.allowed_origins.is_empty() {
        return headers;
    }
    if settings.allows_all() {
        headers.push(("access-control-allow-origin", "*".to_owned()));
        return headers;
    }
    // `null`, the origin of sandboxed pages and files, cannot be in the list.
    let mut known = settings.allowed_origins.iter();
    if let Some(allowed) = known.find(|allowed| Some(allowed.as_bytes()) == origin) {
        headers.push(("access-control-allow-origin", allowed.clone()));
        if settings.allow_credentials {
            headers.push(("access-control-allow-credentials", "true".to_owned()));
        }
    }
    headers.push(("vary", "origin".to_owned()));
    headers
}

/// Checks that a text is an origin in the form of browsers (RFC 6454 §6.2), so that bytes can be compared.
fn check_origin(origin: &str) -> Result<(), String> {
    const FORM: &str = "write scheme://host or scheme://host:port, as in https://app.example";
    if origin == "null" {
        return Err(
            "every sandboxed page and every local file has this origin, so it identifies no site"
                .to_owned(),
        );
    }
    if origin.len() > MAX_ORIGIN_BYTES {
        return Err(format!("longer than {MAX_ORIGIN_BYTES} bytes"));
    }
    if origin.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("browsers write origins in lower case".to_owned());
    }
    let Some((scheme, rest)) = origin.split_once("://") else {
        return Err(FORM.to_owned());
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    if !is_scheme {
        return Err(FORM.to_owned());
    }
    if rest.ends_with('/') {
        return Err("an origin has no path, and no slash at its end".to_owned());
    }
    if rest.contains('*') {
        return Err(
            "origins are compared as a whole; list each origin, or only `*` for all".to_owned(),
        );
    }
    // The colons of an IPv6 address are within its brackets.
    let after_address = rest.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match rest[after_address..].rfind(':') {
        Some(at) => {
            let at = after_address + at;
            (&rest[..at], Some(&rest[at + 1..]))
        }
        None => (rest, None),
    };
    if !is_host(host) {
        return Err(FORM.to_owned());
    }
    let Some(port) = port else { return Ok(()) };
    let number = port.parse::<u16>().ok().filter(|number| *number > 0);
    if number.is_none_or(|number| number.to_string() != port) {
        return Err("its port is not valid; write 1 to 65535".to_owned());
    }
    match (scheme, port) {
        ("https", "443") | ("http", "80") => {
            Err("browsers leave the scheme's own port out; leave it out here".to_owned())
        }
        _ => Ok(()),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        // The only form that browsers write.
        return address
            .parse::<Ipv6Addr>()
            .is_ok_and(|parsed| parsed.to_string() == address);
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    host.split('.').all(is_label)
}

/// A token (RFC 9110 §5.6.2) other than `*`, which has another meaning in these lists.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_HEADER_NAME_BYTES
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b))
}

/// A text of the operator for a message.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_HEADER_NAME_BYTES).collect();
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(origins: &[&str]) -> CorsSettings {
        CorsSettings {
            allowed_origins: origins.iter().map(|&o| o.to_owned()).collect(),
            ..CorsSettings::default()
        }
    }

    fn value<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
        let found = headers.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    const APP: &[u8] = b"https://app.example";

    #[test]
    fn without_settings_no_answer_has_a_cors_header() {
        let none = CorsSettings::default();
        for origin in [None, Some(APP), Some(&b"null"[..])] {
            assert_eq!(answer_headers(&none, origin), Headers::new());
            assert_eq!(preflight_headers(&none, origin, "POST"), Headers::new());
        }
    }

    #[test]
    fn an_allowed_origin_is_named_and_every_other_is_told_nothing_but_that_answers_vary() {
        let settings = settings(&["https://app.example", "http://localhost:8080"]);
        for origin in [APP, b"http://localhost:8080"] {
            let headers = answer_headers(&settings, Some(origin));
            let allowed = value(&headers, "access-control-allow-origin");
            assert_eq!(allowed.map(str::as_bytes), Some(origin));
            assert_eq!(value(&headers, "vary"), Some("origin"));
            assert_eq!(value(&headers, "access-control-allow-credentials"), None);
            let exposed = value(&headers, "access-control-expose-headers").unwrap();
            for name in [
                "x-request-id",
                "retry-after",
                "x-model-version-reason",
                "deprecation",
                "sunset",
                "link",
                "etag",
            ] {
                assert!(exposed.split(", ").any(|one| one == name), "{name}");
            }
        }
        for origin in [
            &b"https://app.example.evil.example"[..],
            b"https://evil-app.example",
            b"http://app.example",
            b"https://app.example:8443",
            b"https://app.example/",
            b"https://APP.example",
            b"HTTPS://app.example",
            b"https://app.example, https://evil.example",
            b"null",
            b"*",
            b"",
            b"\xff\xfe",
        ] {
            for headers in [
                answer_headers(&settings, Some(origin)),
                preflight_headers(&settings, Some(origin), "POST"),
            ] {
                assert_eq!(headers, [("vary", "origin".to_owned())], "{origin:?}");
            }
        }
        assert_eq!(
            answer_headers(&settings, None),
            [("vary", "origin".to_owned())],
            "a cache keeps answers to different origins apart from those to none"
        );
    }

    #[test]
    fn a_star_is_for_all_and_the_same_for_all() {
        let settings = settings(&["*"]);
        let all = answer_headers(&settings, None);
        assert_eq!(value(&all, "access-control-allow-origin"), Some("*"));
        assert_eq!(value(&all, "vary"), None);
        for origin in [APP, b"null"] {
            assert_eq!(answer_headers(&settings, Some(origin)), all);
        }
    }

    #[test]
    fn a_preflight_is_told_the_paths_methods_the_headers_and_for_how_long() {
        let settings = CorsSettings {
            allow_credentials: true,
            ..settings(&["https://app.example"])
        };
        let headers = preflight_headers(&settings, Some(APP), "GET, HEAD");
        for (name, expected) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-methods", "GET, HEAD"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "600"),
            ("vary", "origin"),
        ] {
            assert_eq!(value(&headers, name), Some(expected), "{name}");
        }
        let allowed = value(&headers, "access-control-allow-headers").unwrap();
        for name in [
            "authorization",
            "x-api-key",
            "content-type",
            "idempotency-key",
            "if-none-match",
            "x-model-version",
        ] {
            assert!(allowed.split(", ").any(|one| one == name), "{name}");
        }
        assert_eq!(value(&headers, "access-control-expose-headers"), None);
    }

    #[test]
    fn lists_that_are_empty_are_left_out() {
        let settings = CorsSettings {
            allowed_headers: Vec::new(),
            exposed_headers: Vec::new(),
            ..settings(&["*"])
        };
        let headers = preflight_headers(&settings, Some(APP), "POST");
        assert_eq!(value(&headers, "access-control-allow-headers"), None);
        let headers = answer_headers(&settings, Some(APP));
        assert_eq!(value(&headers, "access-control-expose-headers"), None);
    }

    #[test]
    fn an_origin_that_no_browser_would_send_is_a_fault() {
        for (origin, words) in [
            ("app.example", "scheme://host"),
            ("https://", "scheme://host"),
            ("://app.example", "scheme://host"),
            ("1https://app.example", "scheme://host"),
            ("https://app.example/", "no path"),
            ("https://app.example/x", "scheme://host"),
            ("https://user@app.example", "scheme://host"),
            ("https://App.example", "lower case"),
            ("https://*.app.example", "compared as a whole"),
            ("https://app..example", "scheme://host"),
            ("https://app.example:443", "own port"),
            ("http://app.example:80", "own port"),
            ("http://app.example:", "its port"),
            ("http://app.example:0", "its port"),
            ("http://app.example:+1", "its port"),
            ("http://app.example:080", "its port"),
            ("http://app.example:65536", "its port"),
            ("http://[::1", "scheme://host"),
            ("http://[0:0::1]", "scheme://host"),
            ("http://\u{e4}.example", "scheme://host"),
            ("http://a b", "scheme://host"),
            ("", "scheme://host"),
            ("null", "identifies no site"),
            (&format!("https://{}", "a".repeat(300)), "longer"),
        ] {
            let faults = settings(&[origin]).faults();
            assert!(
                faults.len() == 1 && faults[0].1.contains(words),
                "{origin}: {faults:?}"
            );
        }
        for origin in [
            "https://app.example",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "https://[2001:db8::1]",
            "https://a_b.example",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefghijklmnop",
            "capacitor://localhost",
            "http://app.example:443",
        ] {
            assert_eq!(settings(&[origin]).faults(), [], "{origin}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_or_have_no_bound_are_faults() {
        let credentials = CorsSettings {
            allow_credentials: true,
            ..settings(&["*"])
        };
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        for (settings, setting) in [
            (credentials, "allow_credentials"),
            (settings(&["*", "https://a.example"]), "allowed_origins"),
            (settings(&["https://a.example"; 65]), "allowed_origins"),
            (
                CorsSettings {
                    max_age_s: 86_401,
                    ..CorsSettings::default()
                },
                "max_age_s",
            ),
            (
                CorsSettings {
                    allowed_headers: list(&["*"]),
                    ..CorsSettings::default()
                },
                "allowed_headers",
            ),
            (
                CorsSettings {
                    allowed_headers: list(&["x y"]),
                    ..CorsSettings::default()
                },
                "allowed_headers",
            ),
            (
                CorsSettings {
                    exposed_headers: list(&["x\r\nset-cookie: a"]),
                    ..CorsSettings::default()
                },
                "exposed_headers",
            ),
            (
                CorsSettings {
                    exposed_headers: list(&["x"; 65]),
                    ..CorsSettings::default()
                },
                "exposed_headers",
            ),
        ] {
            let faults = settings.faults();
            assert!(
                faults.len() == 1 && faults[0].0 == setting,
                "{setting}: {faults:?}"
            );
        }
        assert_eq!(CorsSettings::default().faults(), []);
    }
}
