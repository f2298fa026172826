//! Serves the page at `/docs` on which the API can be read and tried. It is one document and sends requests only to
//! this server.
//!
//! Its content security policy allows only its own script and style, identified by their digests, and requests to its
//! own origin. The script inserts all data as text, and trusted types enforce this. An API key that the user enters
//! stays in the page's memory.

use crate::record::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The complete HTML document, style and script included.
const PAGE: &str = concat!(
    include_str!("head.html"),
    "<style>",
    include_str!("style.css"),
    "</style>\n",
    include_str!("body.html"),
    "<script>",
    include_str!("script.js"),
    "</script>\n",
    include_str!("tail.html"),
);

/// Returns the `Content-Security-Policy` of the page.
fn policy() -> String {
    let digest = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src blob:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        digest(SCRIPT),
        digest(STYLE),
    )
}

/// Returns the answer to `/docs`.
pub fn response() -> Response {
    let mut response = Response::new(200, "text/html; charset=utf-8", PAGE.as_bytes());
    response.push("content-security-policy", policy());
    response.push("x-content-type-options", "nosniff");
    response.push("referrer-policy", "no-referrer");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text between a tag and its end tag, as a browser reads it.
    fn between<'p>(page: &'p str, tag: &str) -> &'p str {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!(page.matches(&open).count(), 1, "{tag}");
        let (_, rest) = page.split_once(&open).unwrap();
        rest.split_once(&close).unwrap().0
    }

    #[test]
    fn the_policy_names_the_digests_of_what_the_page_carries_and_no_other_source() {
        let response = response();
        let page = std::str::from_utf8(&response.body).unwrap();
        let policy = response.header("content-security-policy").unwrap();
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let digest = STANDARD.encode(Sha256::digest(between(page, tag)));
            assert!(policy.contains(&format!("{directive} 'sha256-{digest}';")));
        }
        assert!(policy.starts_with("default-src 'none';"));
        assert!(!policy.contains("unsafe") && !policy.contains('*'));
    }

    #[test]
    fn the_page_is_small_and_carries_nothing_that_its_policy_forbids() {
        assert!(PAGE.len() < 60_000, "{} bytes", PAGE.len());
        // Data from the network must never be interpreted as markup or code.
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "Function(",
            "localStorage",
            "sessionStorage",
            "document.cookie",
            "style=",
            "onclick=",
            "http://",
            "https://",
            "@import",
            "url(",
        ] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn every_element_the_script_looks_for_is_in_the_page() {
        let mut rest = SCRIPT;
        let mut found = 0;
        while let Some((_, after)) = rest.split_once("at('") {
            let (id, after) = after.split_once('\'').unwrap();
            assert!(PAGE.contains(&format!("id=\"{id}\"")), "{id}");
            rest = after;
            found += 1;
        }
        assert!(found > 20);
    }
}
