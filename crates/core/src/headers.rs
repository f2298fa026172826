//! Names of headers that several rooms act upon, in lower case.

/// Headers for an answer: names in lower case, and values.
pub type Headers = Vec<(String, String)>;

/// Those that carry a credential whole.
pub const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Those that say a request is signed (RFC 9421).
pub const SIGNATURE: [&str; 2] = ["signature", "signature-input"];

/// Where doors put the authority of the request's target: `:authority` of HTTP/2, or the one in an absolute-form target.
/// No client can send a header of this name.
pub const AUTHORITY: &str = ":authority";

/// Those by which proxies say that they passed a request on.
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
