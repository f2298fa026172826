//! Names of headers that several crates use, in lower case.

/// Headers for an answer: names in lower case, and values.
pub type Headers = Vec<(String, String)>;

/// Headers that contain a whole credential.
pub const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Headers of a signed request (RFC 9421).
pub const SIGNATURE: [&str; 2] = ["signature", "signature-input"];

/// The pseudo-header with the authority of the request's target: `:authority` of HTTP/2, or that of an absolute-form target.
/// The server sets it; no client can send a header of this name.
pub const AUTHORITY: &str = ":authority";

/// Headers by which proxies report that they forwarded a request.
pub const FORWARDING: [&str; 9] = [
    "forwarded",
    "x-forwarded-for",
    "via",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-envoy-external-address",
    "cf-connecting-ip",
    "true-client-ip",
];
