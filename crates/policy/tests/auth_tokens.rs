//! Tokens: a table for every rule, and the attacks of RFC 8725.

#![cfg(feature = "auth")]

use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use penstock_policy::auth::settings::AuthSettings;
use penstock_policy::auth::token::{Issuers, MAX_TOKEN_BYTES, TokenFault, TokenRefusal, Verified};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey;
use serde_json::{Value, json};
use std::sync::LazyLock;

const NOW_S: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW_S * 1_000;
const SECRET: &str = "sixty-four characters that nobody guesses, and they are all text";

/// A key and its algorithm, as an issuer has it.
struct Signer {
    alg: &'static str,
    key: EncodingKey,
    /// Its public half, with `kid`.
    jwk: Value,
}

impl Signer {
    fn new(alg: &'static str, kid: &str, key: EncodingKey) -> Self {
        let library = alg.parse().unwrap();
        let jwk = Jwk::from_encoding_key(&key, library).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        Self { alg, key, jwk }
    }

    fn signature(&self, message: &str) -> String {
        let library = self.alg.parse().unwrap();
        jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, library).unwrap()
    }

    fn kid(&self) -> &str {
        self.jwk["kid"].as_str().unwrap()
    }

    fn header(&self) -> Value {
        json!({"alg": self.alg, "kid": self.kid()})
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        self.raw(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    fn raw(&self, header: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", b64(header), b64(claims));
        let signature = self.signature(&message);
        format!("{message}.{signature}")
    }
}

fn b64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Keys of this run of the tests, generated from one seed.
struct Keys {
    rsa: Signer,
    pss: Signer,
    p256: Signer,
    p384: Signer,
    ed: Signer,
    /// Another issuer's.
    other_ed: Signer,
    /// One that no set has.
    stray_ed: Signer,
    secret: Signer,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let mut rng = StdRng::seed_from_u64(8725);
    let mut ed = |kid: &str| {
        let key = ed25519_dalek::SigningKey::generate(&mut rng);
        // Without the public half, as the library wants it.
        let pair = ed25519_dalek::pkcs8::KeypairBytes {
            secret_key: key.to_bytes(),
            public_key: None,
        };
        let der = pair.to_pkcs8_der().unwrap();
        Signer::new("EdDSA", kid, EncodingKey::from_ed_der(der.as_bytes()))
    };
    let (own_ed, other_ed, stray_ed) = (ed("ed"), ed("ed"), ed("ed"));
    let mut rsa = |alg: &'static str, kid: &str| {
        let key = rsa::RsaPrivateKey::new(&mut rng, 2_048).unwrap();
        let der = key.to_pkcs1_der().unwrap();
        Signer::new(alg, kid, EncodingKey::from_rsa_der(der.as_bytes()))
    };
    let (rsa, pss) = (rsa("RS256", "rsa"), rsa("PS512", "pss"));
    let p256 = p256::SecretKey::random(&mut rng).to_pkcs8_der().unwrap();
    let p384 = p384::SecretKey::random(&mut rng).to_pkcs8_der().unwrap();
    Keys {
        rsa,
        pss,
        p256: Signer::new("ES256", "p256", EncodingKey::from_ec_der(p256.as_bytes())),
        p384: Signer::new("ES384", "p384", EncodingKey::from_ec_der(p384.as_bytes())),
        ed: own_ed,
        other_ed,
        stray_ed,
        secret: Signer::new(
            "HS256",
            "secret",
            EncodingKey::from_secret(SECRET.as_bytes()),
        ),
    }
});

const POLICY: &str = r#"
[auth.tiers.free]
[auth.tiers.premium]

[[auth.issuers]]
name = "main"
issuer = "https://login.example"
audiences = ["penstock", "https://api.example"]
algorithms = ["RS256", "PS512", "ES256", "ES384", "EdDSA"]
jwks_url = "https://login.example/keys"
tenant_claim = "tenant"
tier_claim = "tier"
tier = "free"

[[auth.issuers]]
name = "other"
issuer = "https://other.example"
audiences = ["penstock"]
algorithms = ["EdDSA"]
jwks_file = "other.json"
tenant = "acme"
tier = "premium"

[[auth.issuers]]
name = "shared"
issuer = "shared.example"
audiences = ["penstock"]
algorithms = ["HS256", "HS512"]
secret_variable = "shared_secret"
tenant = "acme"
tier = "free"
"#;

fn settings(text: &str) -> AuthSettings {
    #[derive(serde::Deserialize)]
    struct Policy {
        auth: AuthSettings,
    }
    let auth = toml::from_str::<Policy>(text).unwrap().auth;
    assert_eq!(auth.faults(), []);
    auth
}

fn opened(text: &str) -> Issuers {
    let auth = settings(text);
    let secret = |name: &str| (name == "shared_secret").then(|| SECRET.to_owned());
    let mut issuers = Issuers::new(&auth.issuers, &auth.tiers, secret).unwrap();
    let keys = &*KEYS;
    let own = [&keys.rsa, &keys.pss, &keys.p256, &keys.p384, &keys.ed];
    issuers.set_keys("main", &set(&own)).unwrap();
    if issuers.key_count("other").is_none() && text.contains("\"other\"") {
        issuers.set_keys("other", &set(&[&keys.other_ed])).unwrap();
    }
    issuers
}

fn set(signers: &[&Signer]) -> String {
    let keys: Vec<&Value> = signers.iter().map(|s| &s.jwk).collect();
    json!({ "keys": keys }).to_string()
}

static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| opened(POLICY));

fn claims() -> Value {
    json!({
        "iss": "https://login.example", "aud": "penstock", "exp": NOW_S + 600, "iat": NOW_S, "nbf": NOW_S,
        "sub": "user-1", "tenant": "acme", "tier": "premium", "scope": "predict:magika models openid"
    })
}

/// The usual claims with some of them changed; `null` takes one out.
fn with(changes: Value) -> Value {
    merged(claims(), changes)
}

fn merged(mut base: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base
}

fn verify(token: &str) -> Result<Verified, TokenRefusal> {
    let verdict = ISSUERS.verify(token, NOW_MS);
    if let Err(refusal) = &verdict {
        let message = &refusal.message;
        assert!(!message.is_empty() && message.len() < 400, "{message}");
        assert!(!message.chars().any(char::is_control), "{message}");
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!message.contains(part), "{message}");
        }
    }
    verdict
}

/// Verifies the usual token with other claims.
fn claiming(changes: Value) -> Result<Verified, TokenRefusal> {
    let ed = &KEYS.ed;
    verify(&ed.token(&ed.header(), &with(changes)))
}

/// Verifies the usual token with another header.
fn headed(changes: Value) -> Result<Verified, TokenRefusal> {
    let ed = &KEYS.ed;
    verify(&ed.token(&merged(ed.header(), changes), &claims()))
}

fn fault(verdict: Result<Verified, TokenRefusal>) -> Option<TokenFault> {
    verdict.err().map(|refusal| refusal.fault)
}

fn scopes(verdict: Result<Verified, TokenRefusal>) -> Vec<String> {
    let verified = verdict.unwrap();
    verified.scopes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_token_proves_what_it_says() {
    let verified = claiming(json!({})).unwrap();
    assert_eq!(verified.issuer, "main");
    assert_eq!(verified.tenant, "acme");
    assert_eq!(verified.tier, "premium");
    assert_eq!(verified.subject.as_deref(), Some("user-1"));
    assert_eq!(verified.expires_ms, NOW_MS + 600_000 + 30_000);
    assert_eq!(scopes(Ok(verified)), ["predict:magika", "models"]);
}

#[test]
fn every_algorithm_is_checked_with_its_key() {
    let keys = &*KEYS;
    for signer in [&keys.rsa, &keys.pss, &keys.p256, &keys.p384, &keys.ed] {
        let token = signer.token(&signer.header(), &claims());
        assert!(verify(&token).is_ok(), "{}", signer.alg);
        assert!(Issuers::is_meant(&token));
        assert_eq!(ISSUERS.issuer_of(&token), Some("main"));
    }
    let shared = with(json!({"iss": "shared.example"}));
    for alg in ["HS256", "HS512"] {
        let signer = Signer::new(alg, "any", EncodingKey::from_secret(SECRET.as_bytes()));
        let token = signer.token(&json!({"alg": alg}), &shared);
        assert_eq!(verify(&token).unwrap().issuer, "shared");
        let token = signer.token(&signer.header(), &shared);
        assert!(verify(&token).is_ok(), "a secret has no kid to differ from");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let ed = &KEYS.ed;
    let good = ed.token(&ed.header(), &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims_part, signature] = parts[..] else {
        panic!()
    };
    for wrong in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        good[..good.len() - 1].to_owned() + "=",
        format!("{good}=="),
        format!("{good}."),
        format!("{good}.x"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}.{claims_part}"),
        format!("{header}..{signature}"),
        format!(".{claims_part}.{signature}"),
        format!("{header}.{claims_part}.{}+/", &signature[2..]),
        ed.raw(b"", b"{}"),
        ed.raw(b"[]", b"{}"),
        ed.raw(b"{}", claims().to_string().as_bytes()),
        ed.raw(ed.header().to_string().as_bytes(), b""),
        ed.raw(ed.header().to_string().as_bytes(), b"[]"),
        ed.raw(ed.header().to_string().as_bytes(), b"\"text\""),
        ed.raw(
            b"{\"alg\":[\"EdDSA\"],\"kid\":\"ed\"}",
            claims().to_string().as_bytes(),
        ),
        ed.token(&json!({"alg": "EdDSA", "kid": 7}), &claims()),
        ed.token(&json!({"alg": "EdDSA", "kid": "ed", "typ": {}}), &claims()),
        // The JSON forms of RFC 7515, 7.2 are not taken.
        json!({"protected": header, "payload": claims_part, "signature": signature}).to_string(),
    ] {
        assert_eq!(
            fault(verify(&wrong)),
            Some(TokenFault::Malformed),
            "{wrong}"
        );
    }
}

#[test]
fn a_token_may_be_as_long_as_stated_and_no_longer() {
    let ed = &KEYS.ed;
    let sized = |filling: usize| {
        let claims = with(json!({"more": "x".repeat(filling)}));
        ed.token(&ed.header(), &claims)
    };
    let least = sized(0).len();
    let fitting = sized((MAX_TOKEN_BYTES - least) / 4 * 3);
    assert!(fitting.len() > MAX_TOKEN_BYTES - 8);
    assert!(verify(&fitting).is_ok());
    let longer = sized((MAX_TOKEN_BYTES - least) / 4 * 3 + 9);
    assert_eq!(fault(verify(&longer)), Some(TokenFault::Malformed));
    // It is still meant to be one, so that its caller is told what is wrong.
    assert!(Issuers::is_meant(&longer));
    assert_eq!(ISSUERS.issuer_of(&longer), None);
}

#[test]
fn claims_as_deep_or_as_many_as_nobody_has_are_malformed() {
    let ed = &KEYS.ed;
    let header = ed.header().to_string();
    let base = claims().to_string();
    let base = base.strip_suffix('}').unwrap();
    for more in [
        format!("{}{}", "[".repeat(1_500), "]".repeat(1_500)),
        format!("{}1{}", "{\"a\":".repeat(9), "}".repeat(9)),
        format!("[{}0]", "0,".repeat(1_024)),
    ] {
        let token = ed.raw(
            header.as_bytes(),
            format!("{base},\"m\":{more}}}").as_bytes(),
        );
        assert!(token.len() <= MAX_TOKEN_BYTES);
        assert_eq!(fault(verify(&token)), Some(TokenFault::Malformed));
    }
}

#[test]
fn only_what_looks_like_a_token_is_meant_to_be_one() {
    for (text, meant) in [
        ("a.b.c", true),
        ("..", true),
        ("eyJhbGciOiJub25lIn0.e30.", true),
        ("", false),
        ("a.b", false),
        ("a.b.c.d", false),
        ("a.b.c.d.e", false),
        ("pnst_abc", false),
        ("a b.c.d", false),
        ("a.b.c=", false),
        ("ä.b.c", false),
    ] {
        assert_eq!(Issuers::is_meant(text), meant, "{text}");
    }
}

#[test]
fn the_issuer_is_compared_byte_by_byte() {
    for (issuer, expected) in [
        (json!("https://login.example"), None),
        (json!("https://login.example/"), Some(TokenFault::Invalid)),
        (json!("https://LOGIN.example"), Some(TokenFault::Invalid)),
        (json!("https://login.exampl"), Some(TokenFault::Invalid)),
        (json!("main"), Some(TokenFault::Invalid)),
        (json!(""), Some(TokenFault::Invalid)),
        (json!(null), Some(TokenFault::Invalid)),
        (
            json!(["https://login.example"]),
            Some(TokenFault::Malformed),
        ),
        (json!("\u{1b}[2J\r\nx"), Some(TokenFault::Invalid)),
    ] {
        let verdict = claiming(json!({ "iss": issuer }));
        assert_eq!(fault(verdict), expected, "{issuer}");
    }
}

#[test]
fn the_audience_holds_one_of_ours() {
    for (audience, expected) in [
        (json!("penstock"), None),
        (json!("https://api.example"), None),
        (json!(["x", "penstock"]), None),
        (json!(["penstock"]), None),
        (json!("Penstock"), Some(TokenFault::Invalid)),
        (json!("penstock "), Some(TokenFault::Invalid)),
        (json!("penstock x"), Some(TokenFault::Invalid)),
        (json!(["x", "y"]), Some(TokenFault::Invalid)),
        (json!([]), Some(TokenFault::Invalid)),
        (json!(""), Some(TokenFault::Invalid)),
        (json!(null), Some(TokenFault::Invalid)),
        (json!(["penstock", 1]), Some(TokenFault::Malformed)),
        (json!({"penstock": true}), Some(TokenFault::Malformed)),
        (json!(1), Some(TokenFault::Malformed)),
    ] {
        let verdict = claiming(json!({ "aud": audience }));
        assert_eq!(fault(verdict), expected, "{audience}");
    }
}

#[test]
fn times_are_held_against_the_clock_with_the_stated_leeway() {
    let expired = Some(TokenFault::Expired);
    let malformed = Some(TokenFault::Malformed);
    for (changes, expected) in [
        (json!({"exp": NOW_S + 1}), None),
        (json!({"exp": NOW_S}), None),
        (json!({"exp": NOW_S - 29}), None),
        (json!({"exp": NOW_S as f64 - 29.5}), None),
        (json!({"exp": NOW_S as f64 - 30.5}), expired.clone()),
        (json!({"exp": NOW_S - 30}), expired.clone()),
        (json!({"exp": 0}), expired.clone()),
        (json!({"exp": -1}), expired.clone()),
        (json!({"exp": -1e300}), expired.clone()),
        (json!({"exp": 1e300}), None),
        (json!({"exp": u64::MAX}), None),
        (json!({"exp": i64::MAX}), None),
        (json!({"exp": i64::MIN}), expired.clone()),
        (json!({"exp": null}), Some(TokenFault::Invalid)),
        (json!({"exp": (NOW_S + 600).to_string()}), malformed.clone()),
        (json!({"exp": true}), malformed.clone()),
        (json!({"exp": [NOW_S + 600]}), malformed.clone()),
        (json!({"nbf": NOW_S + 30}), None),
        (json!({"nbf": NOW_S + 31}), expired.clone()),
        (json!({"nbf": NOW_S as f64 + 30.25}), expired.clone()),
        (json!({"nbf": -5}), None),
        (json!({"nbf": 1e300}), expired.clone()),
        (json!({"nbf": null}), None),
        (json!({"nbf": "soon"}), malformed.clone()),
        (json!({"iat": NOW_S + 30}), None),
        (json!({"iat": NOW_S + 31}), expired.clone()),
        (json!({"iat": u64::MAX}), expired),
        (json!({"iat": 0}), None),
        (json!({"iat": null}), None),
        (json!({"iat": {}}), malformed),
    ] {
        assert_eq!(fault(claiming(changes.clone())), expected, "{changes}");
    }
    // Between the members that JSON can only write as `null` and those left out there is a difference.
    let ed = &KEYS.ed;
    let text = claims()
        .to_string()
        .replace(&format!("\"nbf\":{NOW_S}"), "\"nbf\":null");
    let token = ed.raw(ed.header().to_string().as_bytes(), text.as_bytes());
    assert_eq!(fault(verify(&token)), Some(TokenFault::Malformed));
}

#[test]
fn a_token_ends_when_it_says_and_no_clock_overflows() {
    let ed = &KEYS.ed;
    let token = ed.token(&ed.header(), &claims());
    let last = NOW_MS + 630_000;
    assert!(ISSUERS.verify(&token, last - 1).is_ok());
    let after = ISSUERS.verify(&token, last);
    assert_eq!(fault(after), Some(TokenFault::Expired));
    assert_eq!(
        fault(ISSUERS.verify(&token, u64::MAX)),
        Some(TokenFault::Expired)
    );
    assert_eq!(fault(ISSUERS.verify(&token, 0)), Some(TokenFault::Expired));
    let forever = ed.token(&ed.header(), &with(json!({"exp": 1e300})));
    let verified = ISSUERS.verify(&forever, NOW_MS).unwrap();
    assert_eq!(verified.expires_ms, u64::MAX);
}

#[test]
fn the_subject_is_bounded_and_has_no_control_characters() {
    let longest = "s".repeat(255);
    assert_eq!(
        claiming(json!({"sub": longest})).unwrap().subject,
        Some(longest)
    );
    assert_eq!(claiming(json!({"sub": null})).unwrap().subject, None);
    for (subject, expected) in [
        (json!("s".repeat(256)), TokenFault::Invalid),
        (json!("\u{e4}".repeat(128)), TokenFault::Invalid),
        (json!(""), TokenFault::Invalid),
        (json!("a\nb"), TokenFault::Invalid),
        (json!("a\u{0}"), TokenFault::Invalid),
        (json!("a\u{9b}b"), TokenFault::Invalid),
        (json!(7), TokenFault::Malformed),
        (json!(["a"]), TokenFault::Malformed),
    ] {
        let verdict = claiming(json!({ "sub": subject }));
        assert_eq!(fault(verdict), Some(expected), "{subject}");
    }
}

#[test]
fn tenant_and_tier_are_names_there_are_here() {
    for (changes, expected) in [
        (json!({"tenant": "a.b-c_9"}), Ok(("a.b-c_9", "premium"))),
        (json!({"tier": "free"}), Ok(("acme", "free"))),
        (json!({"tier": null}), Ok(("acme", "free"))),
        (json!({"tenant": null}), Err(TokenFault::Denied)),
        (json!({"tenant": ""}), Err(TokenFault::Denied)),
        (json!({"tenant": "anonymous"}), Err(TokenFault::Denied)),
        (json!({"tenant": "../acme"}), Err(TokenFault::Denied)),
        (json!({"tenant": "acme:x"}), Err(TokenFault::Denied)),
        (json!({"tenant": "t".repeat(65)}), Err(TokenFault::Denied)),
        (json!({"tenant": ["acme"]}), Err(TokenFault::Denied)),
        (json!({"tenant": 1}), Err(TokenFault::Denied)),
        (json!({"tier": "gold"}), Err(TokenFault::Denied)),
        (json!({"tier": "anonymous"}), Err(TokenFault::Denied)),
        (json!({"tier": "Premium"}), Err(TokenFault::Denied)),
        (json!({"tier": ""}), Err(TokenFault::Denied)),
        (json!({"tier": ["premium"]}), Err(TokenFault::Denied)),
        (json!({"tier": false}), Err(TokenFault::Denied)),
    ] {
        let verdict = claiming(changes.clone());
        let verdict = verdict.map(|v| (v.tenant, v.tier)).map_err(|r| r.fault);
        let expected = expected.map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(verdict, expected, "{changes}");
    }
    // Where the operator said whose and what they are, claims say nothing.
    let other = &KEYS.other_ed;
    let claims = with(json!({"iss": "https://other.example", "tenant": "evil", "tier": "free"}));
    let verified = verify(&other.token(&other.header(), &claims)).unwrap();
    assert_eq!(
        (verified.tenant.as_str(), verified.tier.as_str()),
        ("acme", "premium")
    );
}

#[test]
fn without_a_tier_of_its_own_a_token_needs_the_issuers() {
    let issuers = opened(&POLICY.replace(
        "tier_claim = \"tier\"\ntier = \"free\"",
        "tier_claim = \"tier\"",
    ));
    let ed = &KEYS.ed;
    let token = ed.token(&ed.header(), &with(json!({"tier": null})));
    assert_eq!(
        fault(issuers.verify(&token, NOW_MS)),
        Some(TokenFault::Denied)
    );
}

#[test]
fn scopes_are_text_with_spaces_or_a_list_and_what_is_not_ours_is_passed_over() {
    for (scope, expected) in [
        (json!("predict models"), vec!["predict", "models"]),
        (json!("  predict   predict "), vec!["predict"]),
        (json!(["predict", "infer:m*"]), vec!["predict", "infer:m*"]),
        (json!("openid profile admin"), vec![]),
        (json!("Predict predict: predict\tmodels"), vec![]),
        (json!(""), vec![]),
        (json!([]), vec![]),
        (json!(null), vec![]),
        (json!("*"), vec!["*"]),
    ] {
        assert_eq!(
            scopes(claiming(json!({ "scope": scope }))),
            expected,
            "{scope}"
        );
    }
    for wrong in [
        json!(1),
        json!(true),
        json!({"predict": true}),
        json!(["predict", 1]),
    ] {
        let verdict = claiming(json!({ "scope": wrong }));
        assert_eq!(fault(verdict), Some(TokenFault::Denied), "{wrong}");
    }
    let many = |count: usize| {
        let list: Vec<String> = (0..count).map(|n| format!("predict:m{n}")).collect();
        claiming(json!({ "scope": list }))
    };
    assert_eq!(many(64).unwrap().scopes.len(), 64);
    assert_eq!(fault(many(65)), Some(TokenFault::Denied));
}

#[test]
fn scopes_that_are_mapped_mean_what_the_operator_says_and_nothing_else() {
    let issuers = opened(&POLICY.replacen(
        "tier = \"free\"\n",
        "tier = \"free\"\nscope_claim = \"realm_access.roles\"\n\
         scope_map = { \"inference.call\" = [\"predict\", \"infer:m*\"], \"reader\" = [\"models\"] }\n",
        1,
    ));
    let ed = &KEYS.ed;
    let verdict = |changes: Value| {
        let token = ed.token(&ed.header(), &with(changes));
        issuers.verify(&token, NOW_MS)
    };
    let roles = json!(["inference.call", "offline_access", "usage", "*"]);
    let mapped = verdict(json!({"realm_access": {"roles": roles}}));
    assert_eq!(scopes(mapped), ["predict", "infer:m*"]);
    // A member of exactly that name goes before the path.
    let exact = verdict(json!({"realm_access.roles": "reader", "realm_access": {"roles": roles}}));
    assert_eq!(scopes(exact), ["models"]);
    for none in [
        json!({}),
        json!({"realm_access": "reader"}),
        json!({"realm_access": {}}),
        json!({"realm_access": [{"roles": "reader"}]}),
        json!({"roles": "reader"}),
    ] {
        assert_eq!(
            scopes(verdict(none.clone())),
            Vec::<String>::new(),
            "{none}"
        );
    }
}

#[test]
fn the_kid_chooses_the_key_and_without_one_there_must_be_no_choice() {
    let unknown = |issuer: &str| TokenFault::UnknownKey {
        issuer: issuer.to_owned(),
    };
    assert_eq!(fault(headed(json!({"kid": "new"}))), Some(unknown("main")));
    assert_eq!(fault(headed(json!({"kid": ""}))), Some(unknown("main")));
    assert_eq!(
        fault(headed(json!({"kid": "rsa"}))),
        Some(TokenFault::Invalid)
    );
    assert_eq!(fault(headed(json!({"kid": null}))), None);
    let mut issuers = opened(POLICY);
    let (ed, stray) = (&KEYS.ed, &KEYS.stray_ed);
    let mut second = serde_json::from_str::<Value>(&set(&[ed, stray])).unwrap();
    second["keys"][1]["kid"] = json!("ed2");
    issuers.set_keys("main", &second.to_string()).unwrap();
    let nameless = ed.token(&json!({"alg": "EdDSA"}), &claims());
    assert_eq!(
        fault(issuers.verify(&nameless, NOW_MS)),
        Some(TokenFault::Invalid)
    );
    let named = ed.token(&ed.header(), &claims());
    assert!(issuers.verify(&named, NOW_MS).is_ok());
    // A set without any key for the algorithm: a newer one may have it.
    issuers.set_keys("main", r#"{"keys":[]}"#).unwrap();
    assert_eq!(issuers.key_count("main"), Some(0));
    for token in [&nameless, &named] {
        assert_eq!(fault(issuers.verify(token, NOW_MS)), Some(unknown("main")));
    }
}

#[test]
fn before_the_first_set_there_are_no_keys_and_a_bad_set_changes_nothing() {
    let auth = settings(POLICY);
    let mut issuers =
        Issuers::new(&auth.issuers, &auth.tiers, |_| Some(SECRET.to_owned())).unwrap();
    let ed = &KEYS.ed;
    let token = ed.token(&ed.header(), &claims());
    let none = Some(TokenFault::NoKeys {
        issuer: "main".to_owned(),
    });
    assert_eq!(issuers.key_count("main"), None);
    assert_eq!(fault(issuers.verify(&token, NOW_MS)), none);
    assert!(issuers.set_keys("main", "{}").is_err());
    assert_eq!(fault(issuers.verify(&token, NOW_MS)), none);
    issuers.set_keys("main", &set(&[ed])).unwrap();
    assert!(issuers.verify(&token, NOW_MS).is_ok());
    let mut private = ed.jwk.clone();
    private["d"] = json!("AAAA");
    for bad in [
        "",
        "{\"keys\":[{}]}",
        &json!({"keys": [private]}).to_string(),
    ] {
        let said = issuers.set_keys("main", bad).unwrap_err();
        assert!(
            said.starts_with("the key set of the issuer `main` "),
            "{said}"
        );
        assert!(issuers.verify(&token, NOW_MS).is_ok());
    }
    assert!(issuers.set_keys("nobody", &set(&[ed])).is_err());
    assert!(issuers.set_keys("shared", &set(&[ed])).is_err());
    // A key that the issuer took out no longer counts.
    issuers.set_keys("main", &set(&[&KEYS.rsa])).unwrap();
    assert!(issuers.verify(&token, NOW_MS).is_err());
}

// RFC 8725, section 2 and 3, in its order.

/// A token whose parts are right but for what the attack needs.
fn unsigned(alg: &str) -> String {
    let header = json!({"alg": alg, "kid": "ed"}).to_string();
    let claims = claims().to_string();
    format!("{}.{}.", b64(header.as_bytes()), b64(claims.as_bytes()))
}

#[test]
fn rfc_8725_2_1_a_token_of_algorithm_none_is_refused() {
    for alg in [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        " none",
        "none\u{0}",
        "null",
    ] {
        let token = unsigned(alg);
        assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid), "{alg:?}");
        let signed = KEYS.ed.token(&json!({"alg": alg, "kid": "ed"}), &claims());
        assert_eq!(fault(verify(&signed)), Some(TokenFault::Invalid), "{alg:?}");
    }
    assert_eq!(fault(verify(&unsigned("EdDSA"))), Some(TokenFault::Invalid));
    for secret_kept in ["HS256", "HS512"] {
        let header = json!({"alg": secret_kept}).to_string();
        let claims = with(json!({"iss": "shared.example"})).to_string();
        let token = format!("{}.{}.", b64(header.as_bytes()), b64(claims.as_bytes()));
        assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
    }
}

#[test]
fn rfc_8725_2_1_a_public_key_is_never_taken_for_a_shared_secret() {
    let keys = &*KEYS;
    for signer in [&keys.rsa, &keys.p256, &keys.ed] {
        let jwk = signer.jwk.to_string();
        let member = |name: &str| {
            signer.jwk[name]
                .as_str()
                .map(|text| text.as_bytes().to_vec())
        };
        let forms = [Some(jwk.into_bytes()), member("n"), member("x")];
        for bytes in forms.into_iter().flatten() {
            for alg in ["HS256", "HS384", "HS512"] {
                let forged = Signer::new(alg, signer.kid(), EncodingKey::from_secret(&bytes));
                let token = forged.token(&forged.header(), &claims());
                assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
            }
        }
    }
    // And an issuer that shares a secret has no public keys to be confused with.
    let claims = with(json!({"iss": "shared.example"}));
    for signer in [&keys.rsa, &keys.ed] {
        let token = signer.token(&signer.header(), &claims);
        assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
    }
    assert_eq!(
        fault(verify(
            &keys.secret.token(&json!({"alg": "HS384"}), &claims)
        )),
        Some(TokenFault::Invalid)
    );
}

#[test]
fn rfc_8725_2_2_and_3_5_a_secret_that_can_be_guessed_is_refused_at_start() {
    let auth = settings(POLICY);
    let open = |algorithms: &str, bytes: usize| {
        let text = POLICY.replace("[\"HS256\", \"HS512\"]", algorithms);
        let auth = settings(&text);
        Issuers::new(&auth.issuers, &auth.tiers, |_| Some("s".repeat(bytes)))
    };
    for (algorithms, least) in [
        ("[\"HS256\"]", 32),
        ("[\"HS384\", \"HS256\"]", 48),
        ("[\"HS256\", \"HS512\"]", 64),
    ] {
        assert!(open(algorithms, least).is_ok());
        let said = open(algorithms, least - 1).unwrap_err();
        assert!(
            said.contains("`shared_secret`") && said.contains(&least.to_string()),
            "{said}"
        );
        assert!(!said.contains("sss"), "{said}");
    }
    let said = Issuers::new(&auth.issuers, &auth.tiers, |_| None).unwrap_err();
    assert!(said.contains("`shared_secret`"), "{said}");
}

#[test]
fn rfc_8725_2_3_and_2_5_encrypted_tokens_are_not_taken() {
    let part = b64(b"{\"alg\":\"ECDH-ES\",\"enc\":\"A128GCM\",\"epk\":{}}");
    assert_eq!(
        fault(verify(&format!("{part}..AAAA.AAAA.AAAA"))),
        Some(TokenFault::Malformed)
    );
    for alg in ["RSA-OAEP", "RSA1_5", "ECDH-ES", "dir", "A128KW"] {
        let token = KEYS.ed.token(&json!({"alg": alg, "kid": "ed"}), &claims());
        assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid), "{alg}");
    }
}

#[test]
fn rfc_8725_2_4_and_3_6_compressed_tokens_are_not_taken() {
    assert_eq!(
        fault(headed(json!({"zip": "DEF"}))),
        Some(TokenFault::Invalid)
    );
}

#[test]
fn rfc_8725_2_6_and_3_7_json_that_can_be_read_two_ways_is_refused() {
    let ed = &KEYS.ed;
    let header = ed.header().to_string();
    let text = claims().to_string();
    let twice =
        |claims: &str, more: &str| format!("{},{more}}}", claims.strip_suffix('}').unwrap());
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let with_mark = [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat();
    let latin = text.replace("user-1", "user-?").into_bytes();
    let latin: Vec<u8> = latin
        .into_iter()
        .map(|b| if b == b'?' { 0xe4 } else { b })
        .collect();
    for claims in [
        twice(&text, "\"tier\":\"free\"").into_bytes(),
        twice(&text, "\"\\u0074ier\":\"free\"").into_bytes(),
        twice(&text, "\"iss\":\"https://login.example\"").into_bytes(),
        twice(&text, "\"more\":{\"a\":1,\"a\":1}").into_bytes(),
        format!("{text}{text}").into_bytes(),
        utf16,
        with_mark,
        latin,
    ] {
        let token = ed.raw(header.as_bytes(), &claims);
        assert_eq!(fault(verify(&token)), Some(TokenFault::Malformed));
        assert_eq!(ISSUERS.issuer_of(&token), None);
    }
    let token = ed.raw(
        twice(&header, "\"alg\":\"none\"").as_bytes(),
        text.as_bytes(),
    );
    assert_eq!(fault(verify(&token)), Some(TokenFault::Malformed));
    // Members whose names differ in case are different members.
    let token = ed.raw(
        header.as_bytes(),
        twice(&text, "\"TIER\":\"free\"").as_bytes(),
    );
    assert_eq!(verify(&token).unwrap().tier, "premium");
}

#[test]
fn rfc_8725_2_7_and_3_9_a_token_for_another_service_is_refused() {
    assert_eq!(
        fault(claiming(json!({"aud": "billing"}))),
        Some(TokenFault::Invalid)
    );
    assert_eq!(
        fault(claiming(json!({"aud": null}))),
        Some(TokenFault::Invalid)
    );
    // A name that is one issuer's is not another's.
    let other = &KEYS.other_ed;
    let claims = with(json!({"iss": "https://other.example", "aud": "https://api.example"}));
    let token = other.token(&other.header(), &claims);
    assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
}

#[test]
fn rfc_8725_2_7_and_3_8_a_key_counts_only_for_the_issuer_whose_it_is() {
    let (ed, other) = (&KEYS.ed, &KEYS.other_ed);
    assert_eq!(ed.kid(), other.kid());
    let token = other.token(&other.header(), &claims());
    assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
    let token = ed.token(&ed.header(), &with(json!({"iss": "https://other.example"})));
    assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
}

#[test]
fn rfc_8725_2_8_and_3_11_a_token_of_another_type_is_refused() {
    let issuers = opened(&POLICY.replacen(
        "tier = \"free\"\n",
        "tier = \"free\"\ntyp = \"at+jwt\"\n",
        1,
    ));
    let ed = &KEYS.ed;
    for (typ, taken) in [
        (json!("at+jwt"), true),
        (json!("AT+JWT"), true),
        (json!("application/at+jwt"), true),
        (json!("Application/At+Jwt"), true),
        (json!("JWT"), false),
        (json!("at+jwt "), false),
        (json!("text/at+jwt"), false),
        (json!("application/application/at+jwt"), false),
        (json!("secevent+jwt"), false),
        (json!(""), false),
        (json!(null), false),
    ] {
        let header = merged(ed.header(), json!({ "typ": typ }));
        let verdict = issuers.verify(&ed.token(&header, &claims()), NOW_MS);
        let expected = (!taken).then_some(TokenFault::Invalid);
        assert_eq!(fault(verdict), expected, "{typ}");
    }
    // An issuer whose tokens have no stated type.
    assert!(headed(json!({"typ": "JWT"})).is_ok());
}

#[test]
fn rfc_8725_2_9_and_3_10_a_token_brings_no_key_and_sends_nobody_anywhere() {
    let stray = &KEYS.stray_ed;
    for (name, value) in [
        ("jwk", stray.jwk.clone()),
        ("jwk", json!(null)),
        ("jku", json!("https://evil.example/keys")),
        ("jku", json!("http://169.254.169.254/")),
        ("x5u", json!("https://evil.example/chain")),
        ("x5c", json!(["MIIB"])),
    ] {
        let mut header = stray.header();
        header[name] = value;
        let token = stray.token(&header, &claims());
        assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid), "{name}");
        // Not even where the signature is the issuer's.
        let token = KEYS.ed.token(&header, &claims());
        let refusal = verify(&token).unwrap_err();
        assert_eq!(refusal.fault, TokenFault::Invalid);
        assert!(refusal.message.contains(name), "{}", refusal.message);
    }
    for kid in [
        "../../etc/passwd",
        "' OR 1=1 --",
        "ed\u{0}",
        "ED",
        "*",
        "\r\nevil",
    ] {
        let unknown = Some(TokenFault::UnknownKey {
            issuer: "main".to_owned(),
        });
        assert_eq!(fault(headed(json!({ "kid": kid }))), unknown, "{kid:?}");
    }
}

#[test]
fn rfc_8725_3_1_the_algorithm_is_one_the_issuer_uses_and_its_key_is_for() {
    // One the library knows and the issuer does not use.
    let keys = &*KEYS;
    let rs384 = Signer {
        alg: "RS384",
        key: keys.rsa.key.clone(),
        jwk: keys.rsa.jwk.clone(),
    };
    let token = rs384.token(&json!({"alg": "RS384", "kid": "rsa"}), &claims());
    assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
    // One the issuer uses, with a key that its set has for another.
    let ps512 = Signer {
        alg: "PS512",
        key: keys.rsa.key.clone(),
        jwk: keys.rsa.jwk.clone(),
    };
    let token = ps512.token(&ps512.header(), &claims());
    assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
    // The same key and algorithm pass where the set does not tie them.
    let mut issuers = opened(POLICY);
    let mut free = serde_json::from_str::<Value>(&set(&[&keys.rsa])).unwrap();
    free["keys"][0].as_object_mut().unwrap().remove("alg");
    issuers.set_keys("main", &free.to_string()).unwrap();
    assert!(issuers.verify(&token, NOW_MS).is_ok());
    for alg in ["eddsa", "EDDSA", "Ed25519", "ES256K", "ES512", "rs256"] {
        assert_eq!(
            fault(headed(json!({ "alg": alg }))),
            Some(TokenFault::Invalid),
            "{alg}"
        );
    }
}

#[test]
fn rfc_8725_3_3_every_signature_is_checked_whatever_it_looks_like() {
    let keys = &*KEYS;
    for signer in [&keys.rsa, &keys.pss, &keys.p256, &keys.p384, &keys.ed] {
        let token = signer.token(&signer.header(), &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        for length in [0, 1, 31, 32, 63, 64, 65, 96, 255, 256, 257, 512] {
            for byte in [0_u8, 0xff] {
                let forged = format!("{message}.{}", b64(&vec![byte; length]));
                assert_eq!(fault(verify(&forged)), Some(TokenFault::Invalid));
            }
        }
        for longer in [format!("{signature}AA"), format!("AAAA{signature}")] {
            assert!(verify(&format!("{message}.{longer}")).is_err());
        }
        // Another token's signature.
        let second = signer.token(&signer.header(), &with(json!({"tenant": "other"})));
        let (second, _) = second.rsplit_once('.').unwrap();
        assert_eq!(
            fault(verify(&format!("{second}.{signature}"))),
            Some(TokenFault::Invalid)
        );
    }
    let stray = &keys.stray_ed;
    let token = stray.token(&stray.header(), &claims());
    assert_eq!(fault(verify(&token)), Some(TokenFault::Invalid));
}

#[test]
fn rfc_8725_3_4_keys_that_are_none_are_refused_with_their_set() {
    let mut issuers = opened(POLICY);
    let mut off_curve = KEYS.p256.jwk.clone();
    off_curve["y"] = off_curve["x"].clone();
    let set = json!({"keys": [off_curve]}).to_string();
    let said = issuers.set_keys("main", &set).unwrap_err();
    assert!(said.contains("not a point on its curve"), "{said}");
}

#[test]
fn extensions_that_are_not_understood_are_refused() {
    for header in [
        json!({"crit": ["exp"], "exp": NOW_S}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": []}),
        json!({"crit": "b64"}),
        json!({"b64": true}),
        json!({"b64": false}),
    ] {
        assert_eq!(
            fault(headed(header.clone())),
            Some(TokenFault::Invalid),
            "{header}"
        );
    }
    // A member that is not critical may be ignored.
    assert!(headed(json!({"x5t": "AAAA", "cty": "x", "more": {"a": [1]}})).is_ok());
}

static SIGNED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let keys = &*KEYS;
    let mut tokens: Vec<String> = [&keys.rsa, &keys.pss, &keys.p256, &keys.p384, &keys.ed]
        .into_iter()
        .map(|signer| signer.token(&signer.header(), &claims()))
        .collect();
    let shared = with(json!({"iss": "shared.example"}));
    tokens.push(keys.secret.token(&keys.secret.header(), &shared));
    tokens
});

proptest! {
    #[test]
    fn no_token_that_was_changed_is_accepted(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in "[A-Za-z0-9_.=-]{0,3}",
        taken in 0_usize..3,
    ) {
        let token = which.get(&SIGNED);
        prop_assert!(verify(token).is_ok());
        let at = at.index(token.len());
        let end = (at + taken).min(token.len());
        let changed = format!("{}{with}{}", &token[..at], &token[end..]);
        if changed != *token {
            prop_assert!(ISSUERS.verify(&changed, NOW_MS).is_err(), "{}", changed);
        }
    }

    #[test]
    fn parts_of_different_tokens_make_no_token(
        picks in prop::array::uniform3(any::<prop::sample::Index>()),
    ) {
        let part = |n: usize| picks[n].get(&SIGNED).split('.').nth(n).unwrap();
        let mixed = format!("{}.{}.{}", part(0), part(1), part(2));
        let whole = SIGNED.contains(&mixed);
        prop_assert_eq!(ISSUERS.verify(&mixed, NOW_MS).is_ok(), whole);
    }

    #[test]
    fn any_text_is_judged(text in "\\PC{0,80}|[a-zA-Z0-9_.-]{0,80}", now_ms in any::<u64>()) {
        prop_assert!(ISSUERS.verify(&text, now_ms).is_err());
        let _ = ISSUERS.issuer_of(&text);
        let _ = Issuers::is_meant(&text);
    }

    #[test]
    fn any_header_and_claims_are_judged(
        header in prop::collection::vec(any::<u8>(), 0..60),
        claims in prop::collection::vec(any::<u8>(), 0..60),
        signature in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let token = format!("{}.{}.{}", b64(&header), b64(&claims), b64(&signature));
        prop_assert!(verify(&token).is_err());
    }

    #[test]
    fn any_set_is_taken_whole_or_not_at_all(text in "[\\[\\]{}\":,a-z0-9 ]{0,80}") {
        let mut issuers = ISSUERS.clone();
        let taken = issuers.set_keys("main", &text).is_ok();
        prop_assert_eq!(issuers.verify(&SIGNED[4], NOW_MS).is_ok(), !taken);
    }
}
