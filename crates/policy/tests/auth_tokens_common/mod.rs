//! Issuers, their keys and their tokens.

#![cfg(feature = "auth")]

use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use penstock_policy::auth::settings::AuthSettings;
use penstock_policy::auth::token::{Issuers, TokenFault, TokenRefusal, Verified};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey;
use serde_json::{Value, json};
use std::sync::LazyLock;

pub const NOW_S: u64 = 1_800_000_000;
pub const NOW_MS: u64 = NOW_S * 1_000;
pub const SECRET: &str = "sixty-four characters that nobody guesses, and they are all text";

/// A key and its algorithm, as an issuer has it.
pub struct Signer {
    pub alg: &'static str,
    pub key: EncodingKey,
    /// Its public half, with `kid`.
    pub jwk: Value,
}

impl Signer {
    pub fn new(alg: &'static str, kid: &str, key: EncodingKey) -> Self {
        let library = alg.parse().unwrap();
        let jwk = Jwk::from_encoding_key(&key, library).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        Self { alg, key, jwk }
    }

    pub fn signature(&self, message: &str) -> String {
        let library = self.alg.parse().unwrap();
        jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, library).unwrap()
    }

    pub fn kid(&self) -> &str {
        self.jwk["kid"].as_str().unwrap()
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.alg, "kid": self.kid()})
    }

    pub fn token(&self, header: &Value, claims: &Value) -> String {
        self.raw(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    pub fn raw(&self, header: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", b64(header), b64(claims));
        let signature = self.signature(&message);
        format!("{message}.{signature}")
    }
}

pub fn b64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Keys of this run of the tests, generated from one seed.
pub struct Keys {
    pub rsa: Signer,
    pub pss: Signer,
    pub p256: Signer,
    pub p384: Signer,
    pub ed: Signer,
    /// The key of another trusted issuer.
    pub other_ed: Signer,
    /// One that no set has.
    pub stray_ed: Signer,
    pub secret: Signer,
}

pub static KEYS: LazyLock<Keys> = LazyLock::new(|| {
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

pub const POLICY: &str = r#"
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

pub fn settings(text: &str) -> AuthSettings {
    #[derive(serde::Deserialize)]
    struct Policy {
        auth: AuthSettings,
    }
    let auth = toml::from_str::<Policy>(text).unwrap().auth;
    assert_eq!(auth.faults(), []);
    auth
}

pub fn opened(text: &str) -> Issuers {
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

pub fn set(signers: &[&Signer]) -> String {
    let keys: Vec<&Value> = signers.iter().map(|s| &s.jwk).collect();
    json!({ "keys": keys }).to_string()
}

pub static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| opened(POLICY));

pub fn claims() -> Value {
    json!({
        "iss": "https://login.example", "aud": "penstock", "exp": NOW_S + 600, "iat": NOW_S, "nbf": NOW_S,
        "sub": "user-1", "tenant": "acme", "tier": "premium", "scope": "predict:magika models openid"
    })
}

/// The usual claims with some of them changed; `null` takes one out.
pub fn with(changes: Value) -> Value {
    merged(claims(), changes)
}

pub fn merged(mut base: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base
}

pub fn verify(token: &str) -> Result<Verified, TokenRefusal> {
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
pub fn claiming(changes: Value) -> Result<Verified, TokenRefusal> {
    let ed = &KEYS.ed;
    verify(&ed.token(&ed.header(), &with(changes)))
}

/// Verifies the usual token with another header.
pub fn headed(changes: Value) -> Result<Verified, TokenRefusal> {
    let ed = &KEYS.ed;
    verify(&ed.token(&merged(ed.header(), changes), &claims()))
}

pub fn fault(verdict: Result<Verified, TokenRefusal>) -> Option<TokenFault> {
    verdict.err().map(|refusal| refusal.fault)
}

pub fn scopes(verdict: Result<Verified, TokenRefusal>) -> Vec<String> {
    let verified = verdict.unwrap();
    verified.scopes.iter().map(ToString::to_string).collect()
}
