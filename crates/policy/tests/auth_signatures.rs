//! Signed requests: accepted ones, refused ones, and the vectors of docs/SIGNING.md.

#![cfg(feature = "auth")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_policy::auth::signature::{
    MAX_BASE_BYTES, MAX_COVERED, MAX_INPUT_BYTES, SignatureFault, SignatureRefusal, Signed,
    good_until_ms, is_meant, mac, parse, replay_name, signature_base, verify,
};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const SECRET: &str = "pnss_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ID: &str = "k3yEXAMPLE01";
const NONCE: &str = "sixteen-or-more!";
const NOW_S: u64 = 1_800_000_000;
const WINDOW_S: u64 = 300;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A request, as it comes.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    fn headers(&self) -> Vec<(&str, &[u8])> {
        let headers = self.headers.iter();
        headers
            .map(|(name, value)| (name.as_str(), &value[..]))
            .collect()
    }

    fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.headers.retain(|(own, _)| own != name);
        self.add(name, value);
    }

    fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
    }

    fn parsed(&self) -> Result<Signed, SignatureRefusal> {
        parse(&self.method, &self.target, &self.headers())
    }

    fn judged_at(&self, now_s: u64) -> Result<Signed, SignatureRefusal> {
        let signed = self.parsed()?;
        verify(
            &signed,
            SECRET,
            &sha256(&self.body),
            WINDOW_S,
            now_s * 1_000,
        )?;
        Ok(signed)
    }

    fn judged(&self) -> Result<Signed, SignatureRefusal> {
        let verdict = self.judged_at(NOW_S);
        if let Err(refusal) = &verdict {
            let message = &refusal.message;
            assert!(!message.is_empty() && message.len() < 400, "{message}");
            assert!(!message.chars().any(char::is_control), "{message}");
        }
        verdict
    }
}

/// The signature of a request.
#[derive(Clone, Debug)]
struct Plan {
    covered: Vec<String>,
    params: String,
}

impl Plan {
    fn usual() -> Self {
        let covered = [
            "@method",
            "@path",
            "@query",
            "content-type",
            "content-digest",
        ];
        Self {
            covered: covered.map(str::to_owned).to_vec(),
            params: format!(
                ";created={NOW_S};nonce=\"{NONCE}\";alg=\"hmac-sha256\";keyid=\"{ID}\""
            ),
        }
    }

    fn params(params: &str) -> Self {
        let params = params.to_owned();
        Self {
            params,
            ..Self::usual()
        }
    }

    fn covering(covered: &[&str]) -> Self {
        let covered = covered.iter().map(|&name| name.to_owned()).collect();
        Self {
            covered,
            ..Self::usual()
        }
    }

    fn input(&self) -> String {
        let names: Vec<String> = self
            .covered
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        format!("({}){}", names.join(" "), self.params)
    }

    /// A request that is signed so.
    fn signed(&self) -> Request {
        self.sign(unsigned())
    }

    fn sign(&self, mut request: Request) -> Request {
        let input = self.input();
        let base = signature_base(
            &request.method,
            &request.target,
            &request.headers(),
            &self.covered,
            &input,
        )
        .unwrap_or_default();
        let signature = STANDARD.encode(mac(SECRET.as_bytes(), &base));
        request.set("signature-input", format!("sig={input}"));
        request.set("signature", format!("sig=:{signature}:"));
        request
    }
}

fn unsigned() -> Request {
    let body = b"{\"inputs\":{}}".to_vec();
    let digest = STANDARD.encode(sha256(&body));
    let mut request = Request {
        method: "POST".to_owned(),
        target: "/v1/models/m:predict?version=3".to_owned(),
        headers: Vec::new(),
        body,
    };
    request.add("host", "api.example");
    request.add("content-type", "application/json");
    request.add("content-digest", format!("sha-256=:{digest}:"));
    request.add("idempotency-key", "order-17");
    request
}

fn fault(verdict: Result<Signed, SignatureRefusal>) -> Option<SignatureFault> {
    verdict.err().map(|refusal| refusal.fault)
}

#[track_caller]
fn malformed(request: &Request, reason: &str) {
    let refusal = request.judged().expect_err(reason);
    assert_eq!(
        refusal.fault,
        SignatureFault::Malformed,
        "{}",
        refusal.message
    );
    assert!(refusal.message.contains(reason), "{}", refusal.message);
}

#[test]
fn a_signed_request_is_taken_and_says_whose_it_is() {
    let signed = Plan::usual().signed().judged().unwrap();
    assert_eq!(signed.api_key_id, ID);
    assert_eq!((signed.created_s, signed.expires_s), (NOW_S, None));
    assert_eq!(signed.nonce, NONCE);
    let base = String::from_utf8(signed.base).unwrap();
    let lines: Vec<&str> = base.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "\"@method\": POST",
            "\"@path\": /v1/models/m:predict",
            "\"@query\": ?version=3",
            "\"content-type\": application/json",
        ]
    );
    assert!(lines[5].starts_with("\"@signature-params\": (\"@method\" ") && lines.len() == 6);
}

#[test]
fn rfc_9421_b_2_5_is_what_is_computed_here() {
    let secret =
        "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
    let headers: [(&str, &[u8]); 3] = [
        ("host", b"example.com"),
        ("date", b"Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", b"application/json"),
    ];
    let covered = ["date", "@authority", "content-type"].map(str::to_owned);
    let params = "(\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"";
    let base = signature_base(
        "POST",
        "/foo?param=Value&Pet=dog",
        &headers,
        &covered,
        params,
    )
    .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&base),
        format!(
            "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@authority\": example.com\n\
             \"content-type\": application/json\n\"@signature-params\": {params}"
        )
    );
    let signature = mac(&STANDARD.decode(secret).unwrap(), &base);
    assert_eq!(
        STANDARD.encode(signature),
        "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="
    );
}

/// The blocks of a page between three backquotes: the word after the first three, and the text of the block.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = page.split("```").collect();
    assert_eq!(parts.len() % 2, 1, "an open block");
    let inside = parts.into_iter().skip(1).step_by(2);
    inside
        .map(|block| block.split_once('\n').unwrap())
        .collect()
}

#[test]
fn the_vectors_that_are_published_hold() {
    let page = include_str!("../../../docs/SIGNING.md");
    let vectors = page.split_once("## Test vectors").unwrap().1;
    let blocks = blocks(vectors);
    let (("", secret), vectors) = blocks.split_first().unwrap() else {
        panic!("the secret comes first")
    };
    let secret = secret.trim();
    assert_eq!(vectors.len(), 6);
    for pair in vectors.chunks(2) {
        let [("http", text), ("text", base)] = pair else {
            panic!("a request, and what was signed")
        };
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let mut first = lines.next().unwrap().split(' ');
        let mut request = Request {
            method: first.next().unwrap().to_owned(),
            target: first.next().unwrap().to_owned(),
            headers: Vec::new(),
            body: body.strip_suffix('\n').unwrap_or(body).as_bytes().to_vec(),
        };
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            request.add(&name.to_ascii_lowercase(), value);
        }
        let base = base.strip_suffix('\n').unwrap();
        // From the request to the signed bytes.
        let signed = request.parsed().unwrap();
        assert_eq!(String::from_utf8_lossy(&signed.base), base);
        let now_ms = signed.created_s * 1_000;
        let judged =
            |secret: &str| verify(&signed, secret, &sha256(&request.body), WINDOW_S, now_ms);
        assert_eq!(judged(secret), Ok(()));
        assert!(judged(&secret.to_uppercase()).is_err());
        // And from the signed bytes to the signature.
        let signature = STANDARD.encode(mac(secret.as_bytes(), base.as_bytes()));
        let header = request.headers.iter().find(|(name, _)| name == "signature");
        let expected = format!("sig=:{signature}:");
        assert_eq!(String::from_utf8_lossy(&header.unwrap().1), expected);
    }
    let empty = STANDARD.encode(sha256(b""));
    assert!(page.contains(&format!("`sha-256=:{empty}:`")));
    assert!(
        page.contains(
            "| `created` | seconds since 1970; at most `window_s` (300) before or after "
        )
    );
    assert!(page.contains(&format!("at most {MAX_COVERED}, without")));
}

#[test]
fn any_label_and_any_order_will_do() {
    for label in ["s", "sig1", "*a-b_c.d"] {
        let mut request = Plan::usual().signed();
        for (name, value) in &mut request.headers {
            if name.starts_with("signature") {
                let text = String::from_utf8_lossy(value).replacen("sig", label, 1);
                *value = text.into_bytes();
            }
        }
        assert!(request.judged().is_ok(), "{label}");
    }
    let covered = [
        "content-digest",
        "idempotency-key",
        "@query",
        "content-type",
        "@path",
        "@authority",
        "@method",
    ];
    assert!(Plan::covering(&covered).signed().judged().is_ok());
    let params = format!(";keyid=\"{ID}\";nonce=\"{NONCE}\";created={NOW_S}");
    assert!(Plan::params(&params).signed().judged().is_ok());
}

#[test]
fn a_signature_without_a_required_component_is_refused() {
    let usual = Plan::usual();
    for missing in &usual.covered {
        let covered: Vec<&str> = usual
            .covered
            .iter()
            .filter(|n| *n != missing)
            .map(String::as_str)
            .collect();
        let plan = Plan::covering(&covered);
        malformed(&plan.signed(), &format!("\"{missing}\""));
    }
    malformed(&Plan::covering(&[]).signed(), "\"@method\"");
    // Without a body there is no type to cover, but there is a digest.
    let mut bare = unsigned();
    bare.headers.retain(|(name, _)| name != "content-type");
    bare.body.clear();
    bare.set(
        "content-digest",
        format!("sha-256=:{}:", STANDARD.encode(sha256(b""))),
    );
    let plan = Plan::covering(&["@method", "@path", "@query", "content-digest"]);
    assert!(plan.sign(bare.clone()).judged().is_ok());
    bare.headers.retain(|(name, _)| name != "content-digest");
    malformed(&plan.sign(bare), "`content-digest`");
}

#[test]
fn a_component_that_cannot_be_covered_is_refused() {
    let with = |name: &str| {
        let mut plan = Plan::usual();
        plan.covered.push(name.to_owned());
        plan.signed()
    };
    for (name, reason) in [
        ("@target-uri", "cannot be covered"),
        ("@request-target", "cannot be covered"),
        ("@scheme", "cannot be covered"),
        ("@query-param", "cannot be covered"),
        ("@status", "cannot be covered"),
        ("@signature-params", "cannot be covered"),
        ("Idempotency-Key", "cannot be covered"),
        ("", "cannot be covered"),
        ("a b", "cannot be covered"),
        ("a:", "cannot be covered"),
        ("@path", "twice"),
        ("content-type", "twice"),
        ("signature", "itself"),
        ("signature-input", "itself"),
        ("x-absent", "is missing"),
    ] {
        malformed(&with(name), reason);
    }
    for parameter in [
        ";sf",
        ";bs",
        ";req",
        ";tr",
        ";key=\"a\"",
        ";name=\"a\"",
        ";x",
    ] {
        let mut request = Plan::usual().signed();
        let input = Plan::usual().input();
        let input = input.replace(
            "\"content-digest\"",
            &format!("\"content-digest\"{parameter}"),
        );
        request.set("signature-input", format!("sig={input}"));
        malformed(&request, "parameter");
    }
    let mut request = unsigned();
    let mut plan = Plan::usual();
    for n in plan.covered.len()..MAX_COVERED {
        request.add(&format!("x-{n}"), "v");
        plan.covered.push(format!("x-{n}"));
    }
    assert!(plan.sign(request.clone()).judged().is_ok());
    plan.covered.push("host".to_owned());
    malformed(&plan.sign(request), "at most 32");
}

#[test]
fn parameters_are_those_stated() {
    let (created, nonce, id) = (
        format!(";created={NOW_S}"),
        format!(";nonce=\"{NONCE}\""),
        format!(";keyid=\"{ID}\""),
    );
    for (params, reason) in [
        (format!("{nonce}{id}"), "no `created`"),
        (format!("{created}{id}"), "`nonce`"),
        (format!("{created}{nonce}"), "`keyid`"),
        (format!(";created=\"{NOW_S}\"{nonce}{id}"), "`created`"),
        (format!(";created={NOW_S}.0{nonce}{id}"), "`created`"),
        (format!(";created=@{NOW_S}{nonce}{id}"), "`created`"),
        (format!(";created=-1{nonce}{id}"), "`created`"),
        (format!(";created{nonce}{id}"), "`created`"),
        (format!("{created}{nonce}{id};expires=soon"), "`expires`"),
        (format!("{created}{nonce}{id};expires=-1"), "`expires`"),
        (format!("{created}{nonce}{id};alg=\"hmac-sha512\""), "`alg`"),
        (format!("{created}{nonce}{id};alg=\"none\""), "`alg`"),
        (format!("{created}{nonce}{id};alg=hmac-sha256"), "`alg`"),
        (format!("{created}{nonce}{id};tag=\"app\""), "not one of"),
        (
            format!("{created};nonce=\"fifteen-charact\"{id}"),
            "`nonce`",
        ),
        (
            format!("{created};nonce=\"{}\"{id}", "n".repeat(65)),
            "`nonce`",
        ),
        (
            format!("{created};nonce=\"sixteen or more!\"{id}"),
            "`nonce`",
        ),
        (format!("{created};nonce=sixteen-or-more!{id}"), "`nonce`"),
        (format!("{created}{nonce};keyid=\"short\""), "`keyid`"),
        (
            format!("{created}{nonce};keyid=\"k3y-EXAMPLE0\""),
            "`keyid`",
        ),
        (format!("{created}{nonce};keyid={ID}"), "`keyid`"),
    ] {
        malformed(&Plan::params(&params).signed(), reason);
    }
    for nonce in [
        "n".repeat(16),
        "n".repeat(64),
        "\\\"quoted\\\\and-more".to_owned(),
    ] {
        let params = format!("{created};nonce=\"{nonce}\"{id}");
        assert!(Plan::params(&params).signed().judged().is_ok(), "{nonce}");
    }
}

#[test]
fn there_is_one_signature_written_in_one_form() {
    let usual = Plan::usual();
    let input = usual.input();
    let good = usual.signed();
    let header = |name: &str| {
        let found = good.headers.iter().find(|(own, _)| own == name).unwrap();
        String::from_utf8(found.1.clone()).unwrap()
    };
    let signature = header("signature");
    for (name, value, reason) in [
        ("signature-input", String::new(), "one label"),
        (
            "signature-input",
            format!("sig={input}, other={input}"),
            "one label",
        ),
        (
            "signature-input",
            format!("sig={input}, sig={input}"),
            "RFC 9651",
        ),
        (
            "signature-input",
            format!("sig={}", input.replace("\" \"", "\"  \"")),
            "RFC 9651",
        ),
        (
            "signature-input",
            format!("sig={}", input.replace(';', "; ")),
            "RFC 9651",
        ),
        (
            "signature-input",
            format!("sig={}", input.replace("d=18", "d=018")),
            "RFC 9651",
        ),
        (
            "signature-input",
            format!("sig={};created={NOW_S}", input),
            "RFC 9651",
        ),
        (
            "signature-input",
            format!("sig=( {}", &input[1..]),
            "RFC 9651",
        ),
        ("signature-input", "sig=1".to_owned(), "parentheses"),
        ("signature-input", "sig".to_owned(), "parentheses"),
        ("signature-input", input.clone(), "structured field"),
        (
            "signature-input",
            format!("sig={input}\u{7f}"),
            "visible ASCII",
        ),
        (
            "signature-input",
            format!("sig={}\u{e4}", input),
            "visible ASCII",
        ),
        (
            "signature-input",
            format!("sig=({}", "x".repeat(MAX_INPUT_BYTES)),
            "more than",
        ),
        (
            "signature-input",
            "sig=(created)".to_owned(),
            "quotation marks",
        ),
        ("signature", String::new(), "one label"),
        ("signature", signature.replacen("sig", "other", 1), "label"),
        (
            "signature",
            format!("{signature}, other=:AAAA:"),
            "one label",
        ),
        ("signature", format!("{signature};a"), "label"),
        ("signature", "sig=\"text\"".to_owned(), "base64"),
        ("signature", "sig=(:AAAA:)".to_owned(), "label"),
        (
            "signature",
            signature.trim_end_matches("=:").to_owned() + ":",
            "RFC 9651",
        ),
        ("signature", "sig=:*:".to_owned(), "structured field"),
        (
            "signature",
            format!("sig=:{}:", "A".repeat(2_000)),
            "more than",
        ),
        ("content-digest", String::new(), "SHA-256"),
        ("content-digest", "sha-256=:AAAA:".to_owned(), "SHA-256"),
        ("content-digest", "sha-256=text".to_owned(), "SHA-256"),
        ("content-digest", "sha-512=:AAAA:".to_owned(), "SHA-256"),
        ("content-digest", "SHA-256=x".to_owned(), "SHA-256"),
    ] {
        let mut request = good.clone();
        request.set(name, value);
        malformed(&request, reason);
    }
    for name in ["signature-input", "signature"] {
        let mut request = good.clone();
        request.headers.retain(|(own, _)| own != name);
        assert!(is_meant(&request.headers()));
        malformed(&request, "is missing");
        let mut request = good.clone();
        request.add(name, header(name));
        malformed(&request, "RFC 9651");
    }
    assert!(!is_meant(&unsigned().headers()));
    // Digests of other kinds may stand beside the one.
    let mut request = unsigned();
    let digest = format!(
        "sha-512=:AAAA:, sha-256=:{}:",
        STANDARD.encode(sha256(&request.body))
    );
    request.set("content-digest", digest);
    assert!(usual.sign(request).judged().is_ok());
}

#[test]
fn a_signature_that_is_shorter_or_longer_or_nothing_is_invalid() {
    for length in [0, 1, 31, 33, 64] {
        let mut request = Plan::usual().signed();
        request.set(
            "signature",
            format!("sig=:{}:", STANDARD.encode(vec![0; length])),
        );
        assert_eq!(
            fault(request.judged()),
            Some(SignatureFault::Invalid),
            "{length}"
        );
    }
    let mut cut = Plan::usual().signed();
    let whole = cut.parsed().unwrap().signature;
    cut.set(
        "signature",
        format!("sig=:{}:", STANDARD.encode(&whole[..31])),
    );
    assert_eq!(fault(cut.judged()), Some(SignatureFault::Invalid));
}

#[test]
fn times_are_held_against_the_clock() {
    let at = |created: u64, more: &str| {
        let params = format!(";created={created}{more};nonce=\"{NONCE}\";keyid=\"{ID}\"");
        fault(Plan::params(&params).signed().judged())
    };
    assert_eq!(at(NOW_S - WINDOW_S, ""), None);
    assert_eq!(at(NOW_S - WINDOW_S - 1, ""), Some(SignatureFault::Expired));
    assert_eq!(at(NOW_S + WINDOW_S, ""), None);
    assert_eq!(at(NOW_S + WINDOW_S + 1, ""), Some(SignatureFault::Expired));
    assert_eq!(at(0, ""), Some(SignatureFault::Expired));
    assert_eq!(at(999_999_999_999_999, ""), Some(SignatureFault::Expired));
    assert_eq!(at(NOW_S, &format!(";expires={NOW_S}")), None);
    assert_eq!(
        at(NOW_S - 2, &format!(";expires={}", NOW_S - 1)),
        Some(SignatureFault::Expired)
    );
    assert_eq!(at(NOW_S, ";expires=0"), Some(SignatureFault::Expired));
    // `expires` never makes it good for longer.
    assert_eq!(
        at(NOW_S - 301, ";expires=999999999999999"),
        Some(SignatureFault::Expired)
    );
    let signed = Plan::usual().signed().parsed().unwrap();
    let body = sha256(&unsigned().body);
    assert!(verify(&signed, SECRET, &body, u64::MAX, u64::MAX).is_ok());
    assert!(verify(&signed, SECRET, &body, 1, u64::MAX).is_err());
}

#[test]
fn a_signature_is_remembered_for_as_long_as_it_would_pass() {
    let body = sha256(&unsigned().body);
    for (created, more) in [
        (NOW_S, String::new()),
        (NOW_S + WINDOW_S, String::new()),
        (NOW_S - 100, format!(";expires={}", NOW_S + 7)),
        (NOW_S, format!(";expires={}", NOW_S + 9_999)),
    ] {
        let params = format!(";created={created}{more};nonce=\"{NONCE}\";keyid=\"{ID}\"");
        let signed = Plan::params(&params).signed().parsed().unwrap();
        let until_ms = good_until_ms(&signed, WINDOW_S);
        let at = |now_ms| verify(&signed, SECRET, &body, WINDOW_S, now_ms);
        assert_eq!(at(until_ms), Ok(()));
        assert_eq!(at(until_ms + 1).unwrap_err().fault, SignatureFault::Expired);
    }
}

#[test]
fn the_name_of_a_seen_signature_depends_on_all_that_was_signed() {
    let name = |request: Request| replay_name(&request.parsed().unwrap());
    let usual = name(Plan::usual().signed());
    assert_eq!(usual, name(Plan::usual().signed()));
    assert!(usual.len() == 32 && usual.bytes().all(|b| b.is_ascii_hexdigit()));
    let params = |created: u64, nonce: &str, id: &str| {
        let params =
            format!(";created={created};nonce=\"{nonce}\";alg=\"hmac-sha256\";keyid=\"{id}\"");
        name(Plan::params(&params).signed())
    };
    let mut other_body = unsigned();
    other_body.set(
        "content-digest",
        format!("sha-256=:{}:", STANDARD.encode([0; 32])),
    );
    let names = [
        usual,
        params(NOW_S + 1, NONCE, ID),
        params(NOW_S, "another-nonce-16", ID),
        params(NOW_S, NONCE, "an0therKEY12"),
        name(Plan::usual().sign(other_body)),
        name(
            Plan::covering(&[
                "@path",
                "@method",
                "@query",
                "content-type",
                "content-digest",
            ])
            .signed(),
        ),
    ];
    let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    // It does not depend on the parts that are not signed: a replay cannot get by with another label or header.
    let mut relabelled = Plan::usual().signed();
    let input = Plan::usual().input();
    let signature = STANDARD.encode(relabelled.parsed().unwrap().signature);
    relabelled.set("signature-input", format!("x={input}"));
    relabelled.set("signature", format!("x=:{signature}:"));
    relabelled.add("x-more", "1");
    assert!(relabelled.judged().is_ok());
    assert_eq!(name(relabelled), names[0]);
}

#[test]
fn headers_are_signed_as_the_rfc_says() {
    let mut plan = Plan::usual();
    plan.covered.push("x-list".to_owned());
    let line = |request: &Request| {
        let base = String::from_utf8(request.parsed().unwrap().base).unwrap();
        base.lines()
            .find(|l| l.starts_with("\"x-list\""))
            .unwrap()
            .to_owned()
    };
    let mut request = unsigned();
    request.add("x-list", "  a\t ");
    request.add("x-list", "");
    request.add("x-list", "b  c,d");
    assert_eq!(line(&plan.sign(request)), "\"x-list\": a, , b  c,d");
    let mut empty = unsigned();
    empty.add("x-list", " ");
    assert_eq!(line(&plan.sign(empty)), "\"x-list\": ");
    for bad in [
        &b"a\nb"[..],
        b"a\r\n\"@method\": GET",
        b"\0",
        b"\x7f",
        b"\xe4",
        "ä".as_bytes(),
    ] {
        let mut request = unsigned();
        request.add("x-list", bad);
        malformed(&plan.sign(request), "visible ASCII");
    }
    let mut large = unsigned();
    large.add("x-list", vec![b'x'; MAX_BASE_BYTES]);
    malformed(&plan.sign(large.clone()), "more than");
    for _ in 0..20 {
        large.add("x-list", vec![b'x'; MAX_BASE_BYTES]);
    }
    malformed(&plan.sign(large), "more than");
}

#[test]
fn the_authority_is_in_lower_case_without_a_usual_port_and_there_is_one() {
    let mut plan = Plan::usual();
    plan.covered.insert(0, "@authority".to_owned());
    for (host, signed) in [
        ("API.Example", "api.example"),
        ("api.example:443", "api.example"),
        ("api.example:80", "api.example"),
        ("api.example:8080", "api.example:8080"),
        ("[::1]:80", "[::1]"),
    ] {
        let mut request = unsigned();
        request.set("host", host);
        let base = String::from_utf8(plan.sign(request).judged().unwrap().base).unwrap();
        assert!(
            base.starts_with(&format!("\"@authority\": {signed}\n")),
            "{base}"
        );
    }
    let mut none = unsigned();
    none.headers.retain(|(name, _)| name != "host");
    malformed(&plan.sign(none.clone()), "`host`");
    none.add(":authority", "api.example");
    assert!(plan.sign(none.clone()).judged().is_ok());
    none.add("host", "other.example");
    malformed(&plan.sign(none), "`host`");
}

#[test]
fn only_a_path_can_be_the_target() {
    let good = Plan::usual().signed();
    for target in [
        "",
        "*",
        "http://api.example/",
        "api.example:443",
        "/a b",
        "/a\n",
        "/\u{e4}",
    ] {
        let mut request = good.clone();
        request.target = target.to_owned();
        malformed(&request, "path");
    }
    // A query that is empty and none are the same, as the RFC has it.
    for target in ["/a", "/a?"] {
        let mut request = unsigned();
        request.target = target.to_owned();
        let base = String::from_utf8(Plan::usual().sign(request).judged().unwrap().base).unwrap();
        assert!(base.contains("\"@path\": /a\n\"@query\": ?\n"), "{base}");
    }
}

proptest! {
    #[test]
    fn any_change_of_what_was_signed_is_refused(
        part in 0_usize..8,
        at in any::<prop::sample::Index>(),
        with in "[!-~]",
    ) {
        let mut plan = Plan::usual();
        plan.covered.push("idempotency-key".to_owned());
        let mut request = plan.signed();
        prop_assert!(request.judged().is_ok());
        let change = |bytes: &mut Vec<u8>| {
            let at = at.index(bytes.len());
            let before = bytes[at];
            bytes[at] = with.as_bytes()[0];
            before != bytes[at]
        };
        let names = ["content-type", "idempotency-key", "content-digest", "signature", "signature-input"];
        let changed = match part {
            0 => {
                let mut bytes = request.method.clone().into_bytes();
                let changed = change(&mut bytes);
                request.method = String::from_utf8(bytes).unwrap();
                changed
            }
            1 => {
                let mut bytes = request.target.clone().into_bytes();
                let changed = change(&mut bytes);
                request.target = String::from_utf8(bytes).unwrap();
                changed
            }
            2 => change(&mut request.body),
            part => {
                let name = names[part - 3];
                let header = request.headers.iter_mut().find(|(own, _)| own == name);
                let value = &mut header.unwrap().1;
                let label = value.starts_with(b"sig=") && at.index(value.len()) < 3;
                change(value) && !label
            }
        };
        if changed {
            prop_assert!(request.judged().is_err(), "{:?}", request);
        }
    }

    #[test]
    fn a_request_that_was_added_to_or_taken_from_is_refused(
        more in "[a-z0-9=&?/]{1,9}",
        what in 0_usize..4,
    ) {
        let mut request = Plan::usual().signed();
        match what {
            0 => request.target.push_str(&more),
            1 => request.target = format!("/{more}{}", request.target),
            2 => request.body.extend_from_slice(more.as_bytes()),
            _ => request.add("content-type", &more),
        }
        prop_assert!(request.judged().is_err());
    }

    #[test]
    fn any_bytes_of_headers_are_judged(
        input in prop::collection::vec(any::<u8>(), 0..80),
        signature in prop::collection::vec(any::<u8>(), 0..80),
        digest in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut request = unsigned();
        request.set("content-digest", &digest);
        request.add("signature-input", &input);
        request.add("signature", &signature);
        prop_assert!(request.judged().is_err());
    }

    #[test]
    fn any_structured_fields_are_judged(
        input in "sig=\\((\"[a-z@-]{0,9}\"(;[a-z]{1,3})? ?){0,4}\\)(;[a-z]{1,7}(=[0-9a-z\":@?.-]{1,9})?){0,4}",
        signature in "(sig|s)=(:[A-Za-z0-9+/=]{0,44}:|[0-9a-z\"()]{0,9})",
    ) {
        let mut request = unsigned();
        request.add("signature-input", &input);
        request.add("signature", &signature);
        prop_assert!(request.judged().is_err());
    }

    #[test]
    fn what_is_signed_in_any_way_that_is_allowed_is_taken(
        method in "[A-Z]{1,9}",
        target in "/[!-~]{0,40}",
        value in "[ -~\t]{0,40}",
        body in prop::collection::vec(any::<u8>(), 0..60),
        nonce in "[!-~&&[^\"\\\\]]{16,64}",
        shuffle in Just(vec!["@method", "@path", "@query", "content-type", "content-digest", "x-more"]).prop_shuffle(),
    ) {
        let mut request = unsigned();
        (request.method, request.target, request.body) = (method, target, body);
        request.set("content-digest", format!("sha-256=:{}:", STANDARD.encode(sha256(&request.body))));
        request.add("x-more", &value);
        let mut plan = Plan::covering(&shuffle);
        plan.params = format!(";nonce=\"{nonce}\";created={NOW_S};keyid=\"{ID}\"");
        let verdict = plan.sign(request).judged();
        prop_assert!(verdict.is_ok(), "{:?}", verdict);
    }
}
