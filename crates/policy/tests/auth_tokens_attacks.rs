//! Attacks on tokens: those of RFC 8725, and random changes.

#![cfg(feature = "auth")]

use crate::auth_tokens_common::{
    ISSUERS, KEYS, NOW_MS, NOW_S, POLICY, Signer, b64, claiming, claims, fault, headed, merged,
    opened, set, settings, verify, with,
};
use jsonwebtoken::EncodingKey;
use penstock_policy::auth::token::{Issuers, TokenFault};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

// RFC 8725, section 2 and 3, in its order.

/// A token whose parts are all right except those that the attack changes.
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
