//! Tokens: a table for every rule.

#![cfg(feature = "auth")]

use crate::auth_tokens_common::{
    ISSUERS, KEYS, NOW_MS, NOW_S, POLICY, SECRET, Signer, claiming, claims, fault, headed, opened,
    scopes, set, settings, verify, with,
};
use jsonwebtoken::EncodingKey;
use penstock_policy::auth::token::{Issuers, MAX_TOKEN_BYTES, TokenFault};
use serde_json::{Value, json};

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
fn text_that_is_no_token_is_malformed() {
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
    // It still counts as a token, so that its caller learns the fault.
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
    // If the operator's settings give the tenant and the tier, claims about them are ignored.
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
