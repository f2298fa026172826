//! Tables for the caller of a request and its permission: API keys, callers without credentials, certificates, tenants, tiers,
//! scopes, and a store that fails. Tokens and signatures have their own tables.

use penstock_core::kv::run_ready;
use penstock_core::{Caller, Kv};
use penstock_policy::auth::api_key::{self, Pepper, hex};
use penstock_policy::auth::record::{self, KeyRecord, TenantRecord, VERSION};
use penstock_policy::auth::scopes::Scope;
use penstock_policy::auth::{
    Admitted, Authenticator, CertificateShown, CheckRefusal, CredentialKind, Presented,
    RefusalKind, Secrets,
};
use penstock_policy::document;
use penstock_testkit::MemoryKv;
use proptest::prelude::*;

const NOW_MS: u64 = 1_800_000_000_000;
const PEPPER: &[u8] = b"a pepper that only tests have";
const POLICY: &str = r#"
[auth.tiers.free]
priority = 3
[auth.tiers.premium]
priority = 1
scopes = ["predict", "models"]
[[auth.models]]
models = ["acme-*"]
tenants = ["acme"]
"#;

fn scope(text: &str) -> Scope {
    Scope::try_from(text.to_owned()).unwrap()
}

fn secrets() -> Secrets {
    Secrets {
        pepper: Some(Pepper::new(PEPPER).unwrap()),
        shared: Vec::new(),
    }
}

fn authenticator(policy: &str) -> Authenticator {
    let settings = document::auth(policy).unwrap_or_else(|e| panic!("{e}"));
    Authenticator::new(settings, secrets(), false).unwrap()
}

/// A store with the tenants `acme` and `other`.
fn store() -> MemoryKv {
    let kv = MemoryKv::default();
    for tenant in ["acme", "other"] {
        put_tenant(&kv, tenant, None);
    }
    kv
}

fn put_tenant(kv: &MemoryKv, tenant: &str, disabled_ms: Option<u64>) {
    let record = TenantRecord {
        v: VERSION,
        tenant: tenant.into(),
        description: String::new(),
        created_ms: 1,
        disabled_ms,
    };
    run_ready(kv.set(&record::tenant_name(tenant), &record::encode(&record))).unwrap();
}

/// Makes a key; `change` may spoil its record.
fn put_key(kv: &MemoryKv, seed: u8, change: impl FnOnce(&mut KeyRecord)) -> String {
    let mut next = seed;
    let text = api_key::generate(|bytes| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(37);
        }
    });
    let id = api_key::parse(&text).unwrap().id.to_owned();
    let mut record = KeyRecord {
        v: VERSION,
        id: id.clone(),
        tenant: "acme".into(),
        tier: "free".into(),
        scopes: vec![scope("*")],
        name: String::new(),
        digest: hex(&Pepper::new(PEPPER).unwrap().digest(&text)),
        signs: false,
        created_ms: 1,
        expires_ms: None,
        rotated_to: None,
        rotated_from: None,
    };
    change(&mut record);
    run_ready(kv.set(&record::key_name(&id), &record::encode(&record))).unwrap();
    text
}

fn revoke(kv: &MemoryKv, text: &str) {
    let id = api_key::parse(text).unwrap().id;
    run_ready(kv.set(&record::revoked_name(id), b"1")).unwrap();
}

struct TestCall<'a> {
    bearer: Option<&'a str>,
    address: Option<&'a str>,
    forwarded: bool,
    route: &'a str,
    model: Option<&'a str>,
    now_ms: u64,
}

impl Default for TestCall<'_> {
    fn default() -> Self {
        Self {
            bearer: None,
            address: Some("192.0.2.7"),
            forwarded: false,
            route: "predict",
            model: Some("m"),
            now_ms: NOW_MS,
        }
    }
}

fn admit(
    auth: &mut Authenticator,
    kv: &MemoryKv,
    call: &TestCall<'_>,
) -> Result<Admitted, CheckRefusal> {
    let value = call.bearer.map(|text| format!("Bearer {text}"));
    let headers: Vec<(&str, &[u8])> = value
        .iter()
        .map(|value| ("authorization", value.as_bytes()))
        .collect();
    let shown = Presented {
        method: "POST",
        target: "/v1/models/m:predict",
        headers: &headers,
        body_sha256: None,
        address: call.address,
        forwarded: call.forwarded,
        certificate: None,
        route: call.route,
        model: call.model,
    };
    run_ready(auth.admit(kv, &shown, call.now_ms, 0))
}

fn kind(outcome: &Result<Admitted, CheckRefusal>) -> Option<RefusalKind> {
    outcome.as_ref().err().map(|refusal| refusal.kind)
}

#[test]
fn a_key_makes_a_caller_of_its_record() {
    let kv = store();
    let text = put_key(&kv, 1, |_| {});
    let mut auth = authenticator(POLICY);
    let call = TestCall {
        bearer: Some(&text),
        ..TestCall::default()
    };
    let admitted = admit(&mut auth, &kv, &call).unwrap();
    let id = api_key::parse(&text).unwrap().id.to_owned();
    assert_eq!(admitted.credential, CredentialKind::ApiKey);
    assert_eq!(admitted.priority, Some(3));
    assert_eq!(
        admitted.caller,
        Caller {
            tenant: "acme".into(),
            api_key_id: Some(id.clone()),
            subject: None,
            tier: "free".into(),
            scopes: vec!["*".into()],
            anonymous: false,
            address: Some("192.0.2.7".into()),
        }
    );
    let used = run_ready(kv.get(&record::used_name(&id))).unwrap().unwrap();
    assert_eq!(used, NOW_MS.to_string().into_bytes());
}

#[test]
fn each_way_a_key_can_be_wrong_has_its_own_refusal_and_unknown_and_wrong_look_alike() {
    let kv = store();
    let good = put_key(&kv, 1, |_| {});
    let wrong_secret = put_key(&kv, 2, |record| record.digest = "00".repeat(32));
    let expired = put_key(&kv, 3, |record| record.expires_ms = Some(NOW_MS));
    let lasting = put_key(&kv, 4, |record| record.expires_ms = Some(NOW_MS + 1));
    let revoked = put_key(&kv, 5, |_| {});
    revoke(&kv, &revoked);
    let both = put_key(&kv, 6, |record| record.expires_ms = Some(1));
    revoke(&kv, &both);
    let no_tenant = put_key(&kv, 7, |record| record.tenant = "nobody".into());
    let closed = put_key(&kv, 8, |record| record.tenant = "closed".into());
    put_tenant(&kv, "closed", Some(1));
    let odd_tier = put_key(&kv, 9, |record| record.tier = "gold".into());
    let unknown = {
        let other = MemoryKv::default();
        put_key(&other, 10, |_| {})
    };
    let mut messages = Vec::new();
    for (text, expected) in [
        (good.as_str(), None),
        (&lasting, None),
        (&unknown, Some(RefusalKind::Invalid)),
        (&wrong_secret, Some(RefusalKind::Invalid)),
        (&no_tenant, Some(RefusalKind::Invalid)),
        (&expired, Some(RefusalKind::Expired)),
        (&revoked, Some(RefusalKind::Revoked)),
        (&both, Some(RefusalKind::Revoked)),
        (&closed, Some(RefusalKind::TenantDisabled)),
        (&odd_tier, Some(RefusalKind::Denied)),
        (&good[..50], Some(RefusalKind::Unreadable)),
    ] {
        let mut auth = authenticator(POLICY);
        let call = TestCall {
            bearer: Some(text),
            ..TestCall::default()
        };
        let outcome = admit(&mut auth, &kv, &call);
        assert_eq!(kind(&outcome), expected, "{text}");
        if let Err(refusal) = outcome {
            let challenge = refusal.challenge("penstock").unwrap();
            assert!(
                challenge.starts_with("Bearer realm=\"penstock\", error=\""),
                "{challenge}"
            );
            assert!(!challenge.contains(&text[17..]) && !refusal.message.contains(&text[17..]));
            if refusal.kind == RefusalKind::Invalid {
                messages.push(refusal.message);
            }
        }
    }
    assert!(
        messages.windows(2).all(|pair| pair[0] == pair[1]),
        "{messages:?}"
    );
}

#[test]
fn known_and_unknown_ids_ask_the_store_alike() {
    let kv = store();
    let wrong = put_key(&kv, 2, |record| record.digest = "00".repeat(32));
    let unknown = put_key(&MemoryKv::default(), 10, |_| {});
    let mut auth = authenticator(POLICY);
    let mut asked = Vec::new();
    for text in [&wrong, &unknown, &wrong, &unknown] {
        let before = kv.operations();
        let call = TestCall {
            bearer: Some(text),
            ..TestCall::default()
        };
        assert_eq!(
            kind(&admit(&mut auth, &kv, &call)),
            Some(RefusalKind::Invalid)
        );
        asked.push(kv.operations() - before);
    }
    // Both are read once, and remembered alike.
    assert_eq!(asked, [2, 2, 0, 0]);
}

#[test]
fn a_revocation_takes_effect_within_the_stated_time_and_so_does_a_disabled_tenant() {
    let kv = store();
    let text = put_key(&kv, 1, |_| {});
    let other = put_key(&kv, 2, |record| record.tenant = "other".into());
    let mut auth = authenticator(POLICY);
    let mut at = |text: &str, now_ms| {
        let call = TestCall {
            bearer: Some(text),
            now_ms,
            ..TestCall::default()
        };
        kind(&admit(&mut auth, &kv, &call))
    };
    assert_eq!((at(&text, NOW_MS), at(&other, NOW_MS)), (None, None));
    revoke(&kv, &text);
    put_tenant(&kv, "other", Some(NOW_MS));
    assert_eq!(
        (at(&text, NOW_MS + 999), at(&other, NOW_MS + 999)),
        (None, None)
    );
    assert_eq!(at(&text, NOW_MS + 1_000), Some(RefusalKind::Revoked));
    assert_eq!(
        at(&other, NOW_MS + 1_000),
        Some(RefusalKind::TenantDisabled)
    );
    // A clock that goes back trusts nothing.
    assert_eq!(at(&text, NOW_MS - 1), Some(RefusalKind::Revoked));
}

#[test]
fn a_new_key_works_although_its_id_was_asked_for_before() {
    let kv = store();
    let text = put_key(&MemoryKv::default(), 1, |_| {});
    let mut auth = authenticator(POLICY);
    let mut call = TestCall {
        bearer: Some(&text),
        ..TestCall::default()
    };
    assert_eq!(
        kind(&admit(&mut auth, &kv, &call)),
        Some(RefusalKind::Invalid)
    );
    put_key(&kv, 1, |_| {});
    call.now_ms += 1_000;
    assert_eq!(kind(&admit(&mut auth, &kv, &call)), None);
}

#[test]
fn a_store_that_fails_closes_the_door_and_what_was_confirmed_is_honoured_for_the_grace() {
    let kv = store();
    let text = put_key(&kv, 1, |_| {});
    let never_seen = put_key(&kv, 2, |_| {});
    let mut auth = authenticator(POLICY);
    let mut at = |text: &str, now_ms| {
        let call = TestCall {
            bearer: Some(text),
            now_ms,
            ..TestCall::default()
        };
        admit(&mut auth, &kv, &call)
    };
    assert_eq!(kind(&at(&text, NOW_MS)), None);
    kv.set_failing(true);
    for (text, after_ms, expected) in [
        (&text, 29_999, None),
        (&text, 30_000, Some(RefusalKind::StoreFailed)),
        (&never_seen, 1, Some(RefusalKind::StoreFailed)),
    ] {
        let outcome = at(text, NOW_MS + after_ms);
        assert_eq!(kind(&outcome), expected, "{after_ms}");
        if let Err(refusal) = outcome {
            assert_eq!(refusal.retry_after_s, Some(2));
            assert_eq!(refusal.challenge("r"), None);
        }
    }
    kv.set_failing(false);
    assert_eq!(kind(&at(&never_seen, NOW_MS + 40_000)), None);
}

#[test]
fn a_record_that_cannot_be_read_opens_nothing() {
    let kv = store();
    let text = put_key(&kv, 1, |_| {});
    let name = record::key_name(api_key::parse(&text).unwrap().id);
    for spoiled in [&b"{"[..], b"{}", b"\xff", b"{\"v\":1,\"digest\":\"\"}"] {
        run_ready(kv.set(&name, spoiled)).unwrap();
        let call = TestCall {
            bearer: Some(&text),
            ..TestCall::default()
        };
        let outcome = admit(&mut authenticator(POLICY), &kv, &call);
        assert_eq!(kind(&outcome), Some(RefusalKind::StoreFailed));
    }
}

#[test]
fn without_a_pepper_no_key_is_good() {
    let kv = store();
    let text = put_key(&kv, 1, |_| {});
    let settings = document::auth(POLICY).unwrap();
    let none = Secrets {
        pepper: None,
        shared: Vec::new(),
    };
    let mut auth = Authenticator::new(settings, none, false).unwrap();
    let call = TestCall {
        bearer: Some(&text),
        ..TestCall::default()
    };
    assert_eq!(
        kind(&admit(&mut auth, &kv, &call)),
        Some(RefusalKind::StoreFailed)
    );
}

#[test]
fn a_caller_without_credentials_is_admitted_only_where_the_policy_says_so() {
    let none = "";
    let local = "[auth.anonymous]\nscopes = [\"*\"]\n";
    let anywhere = "[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n";
    let scopeless = "[auth.anonymous]\nfrom = \"anywhere\"\n";
    let missing = Some(RefusalKind::Missing);
    for (policy, public, address, forwarded, expected) in [
        (none, false, Some("127.0.0.1"), false, missing),
        (local, false, Some("127.0.0.1"), false, None),
        (local, false, Some("::1"), false, None),
        (local, false, Some("::ffff:127.0.0.1"), false, None),
        (local, false, Some("127.8.8.8"), false, None),
        (local, true, Some("127.0.0.1"), false, missing),
        (local, false, Some("127.0.0.1"), true, missing),
        (local, false, Some("192.0.2.7"), false, missing),
        (local, false, Some("localhost"), false, missing),
        (local, false, None, false, missing),
        (anywhere, true, Some("192.0.2.7"), true, None),
        (anywhere, true, None, false, None),
        (scopeless, false, Some("127.0.0.1"), false, missing),
    ] {
        let settings = document::auth(policy).unwrap();
        let mut auth = Authenticator::new(settings, secrets(), public).unwrap();
        let call = TestCall {
            address,
            forwarded,
            ..TestCall::default()
        };
        let outcome = admit(&mut auth, &store(), &call);
        assert_eq!(
            kind(&outcome),
            expected,
            "{policy} {public} {address:?} {forwarded}"
        );
        match outcome {
            Ok(admitted) => assert!(admitted.caller.anonymous),
            Err(refusal) => assert_eq!(
                refusal.challenge("penstock").unwrap(),
                "Bearer realm=\"penstock\""
            ),
        }
    }
}

#[test]
fn a_wrong_credential_is_refused_where_none_would_do() {
    let mut auth = authenticator("[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n");
    let unknown = put_key(&MemoryKv::default(), 10, |_| {});
    for (bearer, expected) in [
        (unknown.as_str(), RefusalKind::Invalid),
        ("nonsense", RefusalKind::Unreadable),
        ("a.b.c", RefusalKind::Invalid),
    ] {
        let call = TestCall {
            bearer: Some(bearer),
            ..TestCall::default()
        };
        assert_eq!(
            kind(&admit(&mut auth, &store(), &call)),
            Some(expected),
            "{bearer}"
        );
    }
}

#[test]
fn a_made_up_key_counts_as_none_only_where_the_policy_says_so() {
    let policy =
        |more: &str| format!("[auth.anonymous]\nscopes = [\"*\"]\nfrom = \"anywhere\"\n{more}");
    let (off, on) = (
        policy(""),
        policy("ignore_unrecognised_credentials = true\n"),
    );
    let unknown = put_key(&MemoryKv::default(), 10, |_| {});
    let long = format!("{unknown}x");
    for (bearer, without, with) in [
        ("none", Some(RefusalKind::Unreadable), None),
        ("sk-proj-1234", Some(RefusalKind::Unreadable), None),
        ("a.b", Some(RefusalKind::Unreadable), None),
        ("", Some(RefusalKind::Unreadable), None),
        // Meant as ours, or as a token: wrong with either setting.
        (
            unknown.as_str(),
            Some(RefusalKind::Invalid),
            Some(RefusalKind::Invalid),
        ),
        (
            &long,
            Some(RefusalKind::Unreadable),
            Some(RefusalKind::Unreadable),
        ),
        (
            "pnst_",
            Some(RefusalKind::Unreadable),
            Some(RefusalKind::Unreadable),
        ),
        (
            "a.b.c",
            Some(RefusalKind::Invalid),
            Some(RefusalKind::Invalid),
        ),
        (
            "two words",
            Some(RefusalKind::Malformed),
            Some(RefusalKind::Malformed),
        ),
    ] {
        for (policy, expected) in [(&off, without), (&on, with)] {
            let call = TestCall {
                bearer: Some(bearer),
                ..TestCall::default()
            };
            let outcome = admit(&mut authenticator(policy), &store(), &call);
            assert_eq!(kind(&outcome), expected, "{bearer} {policy}");
            if let Ok(admitted) = outcome {
                assert!(admitted.caller.anonymous);
            }
        }
    }
    // If callers without credentials are refused, the answer is about the made-up key.
    let loopback = on.replace("anywhere", "loopback");
    let call = TestCall {
        bearer: Some("none"),
        ..TestCall::default()
    };
    let outcome = admit(&mut authenticator(&loopback), &store(), &call);
    assert_eq!(kind(&outcome), Some(RefusalKind::Unreadable));
}

#[test]
fn scopes_and_tiers_bound_what_a_caller_may_do_and_nothing_is_allowed_unsaid() {
    let kv = store();
    for (scopes, tier, route, model, allowed) in [
        (vec![], "free", "predict", Some("m"), false),
        (vec!["predict"], "free", "predict", Some("m"), true),
        (vec!["predict"], "free", "infer", Some("m"), false),
        (vec!["predict:m"], "free", "predict", Some("m"), true),
        (vec!["predict:n"], "free", "predict", Some("m"), false),
        (vec!["*"], "premium", "predict", Some("m"), true),
        (vec!["*"], "premium", "usage", None, false),
        (vec!["usage"], "free", "usage", None, true),
    ] {
        let text = put_key(&kv, 1, |record| {
            record.scopes = scopes.iter().map(|text| scope(text)).collect();
            record.tier = tier.into();
        });
        let call = TestCall {
            bearer: Some(&text),
            route,
            model,
            ..TestCall::default()
        };
        let outcome = admit(&mut authenticator(POLICY), &kv, &call);
        let expected = (!allowed).then_some(RefusalKind::Denied);
        assert_eq!(kind(&outcome), expected, "{scopes:?} {tier} {route}");
        if let Err(refusal) = outcome {
            let challenge = refusal.challenge("penstock").unwrap();
            assert!(
                challenge.contains("error=\"insufficient_scope\""),
                "{challenge}"
            );
            assert!(
                challenge.contains(&format!("scope=\"{route}")),
                "{challenge}"
            );
            assert_eq!(refusal.caller.unwrap().tenant, "acme");
        }
    }
}

#[test]
fn another_tenants_models_are_hidden_and_those_nobody_owns_are_everybodys() {
    let kv = store();
    let acme = put_key(&kv, 1, |_| {});
    let other = put_key(&kv, 2, |record| record.tenant = "other".into());
    let mut auth = authenticator(POLICY);
    for (text, model, expected) in [
        (&acme, "acme-1", None),
        (&acme, "m", None),
        (&other, "m", None),
        (&other, "acme-1", Some(RefusalKind::Hidden)),
    ] {
        let call = TestCall {
            bearer: Some(text),
            model: Some(model),
            ..TestCall::default()
        };
        let outcome = admit(&mut auth, &kv, &call);
        assert_eq!(kind(&outcome), expected, "{model}");
    }
    let caller = |tenant: &str, scopes: &[&str]| Caller {
        tenant: tenant.into(),
        scopes: scopes.iter().map(|&text| text.to_owned()).collect(),
        tier: "free".into(),
        ..Caller::anonymous(None)
    };
    let models = ["acme-1".to_owned(), "m".to_owned()];
    assert_eq!(auth.sees(&caller("acme", &["*"]), &models), [true, true]);
    assert_eq!(auth.sees(&caller("other", &["*"]), &models), [false, true]);
    assert_eq!(
        auth.sees(&caller("acme", &["predict:acme-*"]), &models),
        [true, false]
    );
    assert_eq!(auth.sees(&caller("acme", &[]), &models), [false, false]);
}

#[test]
fn a_certificate_stands_for_the_caller_it_is_named_for() {
    let sha256 = "ab".repeat(32);
    let policy = format!(
        "[auth.tiers.free]\n\
         [[auth.certificates]]\nname = \"uri:spiffe://a/b\"\ntenant = \"acme\"\ntier = \"free\"\nscopes = [\"*\"]\n\
         [[auth.certificates]]\nsha256 = \"{sha256}\"\ntenant = \"other\"\ntier = \"free\"\nscopes = [\"*\"]\n"
    );
    let names = ["uri:spiffe://a/b".to_owned()];
    for (sha, names, expected) in [
        ("00", &names[..], Ok("acme")),
        (&sha256, &[], Ok("other")),
        ("00", &[], Err(RefusalKind::Invalid)),
    ] {
        let shown = Presented {
            method: "POST",
            target: "/",
            headers: &[],
            body_sha256: None,
            address: None,
            forwarded: false,
            certificate: Some(CertificateShown { sha256: sha, names }),
            route: "predict",
            model: Some("m"),
        };
        let kv = store();
        let outcome = run_ready(authenticator(&policy).admit(&kv, &shown, NOW_MS, 0));
        let outcome = outcome
            .map(|admitted| admitted.caller.tenant)
            .map_err(|refusal| refusal.kind);
        assert_eq!(outcome, expected.map(str::to_owned));
    }
}

#[test]
fn the_memory_of_an_instance_is_bounded_under_a_flood_and_good_keys_stay() {
    let kv = store();
    let good = put_key(&kv, 1, |_| {});
    let mut auth = authenticator(POLICY);
    let mut state = 9_u64;
    for at in 0..5_000 {
        let text = api_key::generate(|bytes| {
            for byte in bytes {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
        });
        let call = TestCall {
            bearer: Some(if at == 0 { &good } else { &text }),
            ..TestCall::default()
        };
        let _ = admit(&mut auth, &kv, &call);
    }
    let before = kv.operations();
    let call = TestCall {
        bearer: Some(&good),
        ..TestCall::default()
    };
    assert!(admit(&mut auth, &kv, &call).is_ok());
    assert_eq!(kv.operations(), before, "the good key was still remembered");
}

#[test]
fn an_address_whose_tokens_do_not_hold_is_held_back_and_others_are_not() {
    let policy = "[auth.tiers.free]\n[[auth.issuers]]\nname = \"idp\"\nissuer = \"https://idp\"\naudiences = [\"a\"]\n\
                  algorithms = [\"HS256\"]\nsecret_variable = \"s\"\ntenant = \"acme\"\ntier = \"free\"\n";
    let with = Secrets {
        shared: vec![(
            "s".into(),
            "a secret of at least 32 bytes, for HS256".into(),
        )],
        ..secrets()
    };
    let settings = document::auth(policy).unwrap();
    let mut auth = Authenticator::new(settings, with, false).unwrap();
    let kv = store();
    // {"alg":"HS256"}.{"iss":"https://idp"} and a signature that is none.
    let bad = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lkcCJ9.AAAA";
    let mut at = |address, now_ms| {
        let call = TestCall {
            bearer: Some(bad),
            address: Some(address),
            now_ms,
            ..TestCall::default()
        };
        kind(&admit(&mut auth, &kv, &call))
    };
    for count in 0..20 {
        let expected = if count < 10 {
            RefusalKind::Invalid
        } else {
            RefusalKind::Throttled
        };
        assert_eq!(at("192.0.2.7", NOW_MS + count), Some(expected), "{count}");
    }
    assert_eq!(at("192.0.2.8", NOW_MS + 20), Some(RefusalKind::Invalid));
    assert_eq!(at("192.0.2.7", NOW_MS + 10_000), Some(RefusalKind::Invalid));
}

#[test]
fn every_fault_of_the_settings_is_named() {
    let issuer = |lines: &str| {
        format!(
            "[auth.tiers.free]\n[[auth.issuers]]\nname = \"idp\"\nissuer = \"https://idp\"\ntenant = \"acme\"\ntier = \"free\"\n{lines}"
        )
    };
    let jwks = "jwks_url = \"https://idp/keys\"\n";
    for (policy, words) in [
        ("[auth]\nrealm = \"a\\\"b\"\n".to_owned(), "auth.realm"),
        (
            "[auth]\nrevocation_ms = 0\n".to_owned(),
            "auth.revocation_ms",
        ),
        (
            "[auth]\nstore_failure_grace_ms = 10\n".to_owned(),
            "revocation_ms",
        ),
        ("[auth]\nopen = true\n".to_owned(), "unknown field"),
        ("[auth.anonymous]\ntier = \"gold\"\n".to_owned(), "`gold`"),
        (
            "[auth.anonymous]\nscopes = [\"admin\"]\n".to_owned(),
            "`admin` is not a scope",
        ),
        (
            "[auth.tiers.free]\npriority = 0\n".to_owned(),
            "the highest priority",
        ),
        (
            "[[auth.models]]\nmodels = []\ntenants = [\"a\"]\n".to_owned(),
            "at least one model",
        ),
        (
            issuer(&format!("algorithms = [\"RS256\"]\n{jwks}audiences = []\n")),
            "aud",
        ),
        (
            issuer(&format!(
                "algorithms = [\"RS256\", \"HS256\"]\n{jwks}audiences = [\"a\"]\n"
            )),
            "mixes",
        ),
        (
            issuer(&format!(
                "algorithms = [\"none\"]\n{jwks}audiences = [\"a\"]\n"
            )),
            "unknown variant",
        ),
        (
            issuer("algorithms = [\"RS256\"]\naudiences = [\"a\"]\n"),
            "exactly one",
        ),
        (
            issuer("algorithms = [\"RS256\"]\naudiences = [\"a\"]\njwks_url = \"http://idp\"\n"),
            "https://",
        ),
        (
            issuer(&format!(
                "algorithms = [\"HS256\"]\n{jwks}audiences = [\"a\"]\n"
            )),
            "HS algorithms",
        ),
    ] {
        let fault = document::auth(&policy).unwrap_err();
        assert!(fault.contains(words), "{policy}\n{fault}");
    }
    assert!(
        document::auth(&issuer(&format!(
            "algorithms = [\"RS256\"]\naudiences = [\"a\"]\n{jwks}"
        )))
        .is_ok()
    );
    // Nothing said is nothing allowed.
    assert!(document::auth("").unwrap().anonymous.is_none());
}

proptest! {
    #[test]
    fn every_made_up_credential_is_answered_and_admits_nobody(
        name in prop_oneof![Just("authorization"), Just("x-api-key"), Just("api-key"), Just("signature"), Just("signature-input")],
        value in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "[Bb]earer pnst_[0-9A-Za-z_]{0,60}".prop_map(String::into_bytes),
            "Bearer [A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}".prop_map(String::into_bytes),
        ],
        also in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
    ) {
        let kv = store();
        put_key(&kv, 1, |_| {});
        let mut auth = authenticator("[auth.tiers.free]\n[auth.signatures]\n");
        let mut headers: Vec<(&str, &[u8])> = vec![(name, &value)];
        if let Some(also) = &also {
            headers.push(("signature-input", also));
        }
        let shown = Presented {
            method: "POST",
            target: "/v1/models/m:predict?x",
            headers: &headers,
            body_sha256: Some([0; 32]),
            address: Some("127.0.0.1"),
            forwarded: false,
            certificate: None,
            route: "predict",
            model: Some("m"),
        };
        let outcome = run_ready(auth.admit(&kv, &shown, NOW_MS, 7));
        prop_assert!(outcome.is_err());
    }

    #[test]
    fn a_key_that_was_changed_anywhere_is_never_good(at in 0_usize..56, to in 33_u8..127) {
        let kv = store();
        let good = put_key(&kv, 1, |_| {});
        let mut changed = good.clone().into_bytes();
        prop_assume!(changed[at] != to);
        changed[at] = to;
        let changed = String::from_utf8(changed).unwrap();
        let call = TestCall { bearer: Some(&changed), ..TestCall::default() };
        prop_assert!(admit(&mut authenticator(POLICY), &kv, &call).is_err());
    }
}
