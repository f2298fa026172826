//! What callers show as tokens and issuers publish as keys: any text, and any header and claims under a signature that
//! holds, so that everything behind the signature is reached.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use libfuzzer_sys::fuzz_target;
use penstock_policy::auth::settings::AuthSettings;
use penstock_policy::auth::token::Issuers;
use sha2::Sha256;
use std::sync::LazyLock;

const SECRET: &str = "thirty-two bytes for a fuzz test";
const NOW_MS: u64 = 1_800_000_000_000;

const POLICY: &str = r#"
[tiers.free]

[[issuers]]
name = "shared"
issuer = "s"
audiences = ["a"]
algorithms = ["HS256"]
secret_variable = "shared"
tenant_claim = "org.tenant"
tier_claim = "tier"
tier = "free"

[[issuers]]
name = "pairs"
issuer = "p"
audiences = ["a"]
algorithms = ["RS256", "PS384", "ES256", "ES384", "EdDSA"]
jwks_file = "keys.json"
tenant = "acme"
tier = "free"
"#;

static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| {
    let auth: AuthSettings = toml::from_str(POLICY).unwrap();
    Issuers::new(&auth.issuers, &auth.tiers, |_| Some(SECRET.to_owned())).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(ISSUERS.verify(text, NOW_MS).is_err());
        let _ = ISSUERS.issuer_of(text);
        let mut issuers = ISSUERS.clone();
        if issuers.set_keys("pairs", text).is_ok() {
            assert!(issuers.key_count("pairs").is_some());
        }
    }
    let cut = bytes.iter().position(|&b| b == b'\n').unwrap_or(0);
    let (header, claims) = bytes.split_at(cut);
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    let token = format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    );
    if let Ok(verified) = ISSUERS.verify(&token, NOW_MS) {
        assert!(verified.expires_ms > NOW_MS);
        assert_eq!(verified.tier, "free");
        assert_ne!(verified.tenant, "anonymous");
    }
});
