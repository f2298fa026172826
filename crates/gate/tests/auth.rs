//! Tests authentication in the gate: the kind of each route, hidden models, and the audit record.

use crate::gate_common::{json_of, send};
use penstock_gate::Response;
use penstock_policy::custom::words::{Refusal, RefusalKind};
use penstock_testkit::keys::{add_key, add_tenant};
use penstock_testkit::models::{ECHO, echo};
use penstock_testkit::{InMemory, ScriptedPolicy};
use serde_json::Value;

const POLICY: &str = "[auth.tiers.free]\npriority = 2\n[[auth.models]]\nmodels = [\"acme-*\"]\ntenants = [\"acme\"]\n";
const BODY: &[u8] = br#"{"inputs":{"a":[[1,2]]}}"#;

/// Returns a gate with a model for every tenant and a model that only `acme` sees.
fn ports(policy: &str) -> InMemory {
    let ports = InMemory::new(&[("m", ECHO, &["1"]), ("acme-x", ECHO, &["1"])], echo);
    ports.set_policy(policy);
    for tenant in ["acme", "other"] {
        add_tenant(&ports, tenant);
    }
    ports
}

fn key(ports: &InMemory, tenant: &str, scopes: &[&str]) -> String {
    add_key(ports, tenant, scopes, "free")
}

/// Calls the model if the target is a call of one, and gets anything else.
fn ask(ports: &InMemory, target: &str, headers: &[(&str, &str)]) -> (Response, Value) {
    let response = ask_raw(ports, target, headers);
    let value = json_of(&response);
    (response, value)
}

fn ask_raw(ports: &InMemory, target: &str, headers: &[(&str, &str)]) -> Response {
    let calls = target.contains("predict") || target.contains("infer");
    let (method, body) = if calls {
        ("POST", BODY)
    } else {
        ("GET", &b""[..])
    };
    send(ports, method, target, headers, body)
}

const ROUTES: [&str; 9] = [
    "/v1/models",
    "/v1/models/m",
    "/v1/models/m:predict",
    "/v1/usage",
    "/v2",
    "/v2/models/m",
    "/v2/models/m/ready",
    "/v2/models/m/infer",
    "/v1/models/nothing",
];

#[test]
fn without_credentials_every_route_but_probes_and_errors_is_closed() {
    let ports = ports(POLICY);
    for target in ROUTES {
        let (response, body) = ask(&ports, target, &[]);
        assert_eq!(response.status, 401, "{target}");
        let code = &body["error"];
        let code = code["code"].as_str().or(body["code"].as_str());
        assert_eq!(code, Some("credentials_missing"), "{target} {body}");
        assert_eq!(
            response.header("www-authenticate"),
            Some("Bearer realm=\"penstock\"")
        );
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
    for target in [
        "/healthz",
        "/v2/health/live",
        "/v2/health/ready",
        "/errors",
        "/errors/internal",
    ] {
        assert_eq!(ask(&ports, target, &[]).0.status, 200, "{target}");
    }
    assert_eq!(ports.runs.get(), 0);
}

#[test]
fn ready_tells_everybody_whether_and_only_who_may_know_what() {
    let ports = ports(POLICY);
    let all = key(&ports, "acme", &["*"]);
    let some = key(&ports, "other", &["*"]);
    let none = key(&ports, "other", &["predict"]);
    for (credentials, models) in [
        (None, None),
        (Some("nonsense"), None),
        (Some(none.as_str()), None),
        (Some(some.as_str()), Some(1)),
        (Some(all.as_str()), Some(2)),
    ] {
        let headers: Vec<(&str, &str)> = credentials.iter().map(|c| ("x-api-key", *c)).collect();
        let (response, body) = ask(&ports, "/ready", &headers);
        assert_eq!((response.status, &body["ready"]), (200, &Value::Bool(true)));
        assert_eq!(
            body["models"].as_array().map(Vec::len),
            models,
            "{credentials:?}"
        );
    }
}

#[test]
fn another_tenants_model_and_one_there_is_not_are_answered_alike() {
    let ports = ports(POLICY);
    let other = key(&ports, "other", &["*"]);
    let narrow = key(&ports, "other", &["predict:m", "models:m"]);
    for text in [&other, &narrow] {
        for route in ["", ":predict"] {
            let [hidden, absent] = ["acme-x", "acme-y"].map(|model| {
                let target = format!("/v1/models/{model}{route}");
                let (response, body) = ask(&ports, &target, &[("api-key", text)]);
                assert_eq!(response.status, 404, "{target}");
                let mut body = body.to_string().replace(model, "?");
                let id = response.header("x-request-id").unwrap();
                body = body.replace(id, "-");
                let headers: Vec<String> = response
                    .headers
                    .iter()
                    .filter(|header| header.name != "x-request-id")
                    .map(|header| format!("{header:?}"))
                    .collect();
                assert!(!body.contains("acme"), "{body}");
                (body, headers)
            });
            assert_eq!(hidden, absent);
        }
    }
    let (_, listed) = ask(&ports, "/v1/models", &[("api-key", &other)]);
    let names: Vec<&str> = listed["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["m"]);
    // Its tenant sees it, and gets the names of the other models.
    let acme = key(&ports, "acme", &["*"]);
    assert_eq!(
        ask(&ports, "/v1/models/acme-x:predict", &[("api-key", &acme)])
            .0
            .status,
        200
    );
    let (_, body) = ask(&ports, "/v1/models/acme-y", &[("api-key", &acme)]);
    assert!(body.to_string().contains("acme-x"), "{body}");
}

/// Adds two limits that admit every call and report in headers. One applies only to explanations. They limit
/// concurrency, so every call sees the same remainder, as long as each call returns its place.
fn limited(ports: &InMemory) {
    let limit = "[[limits]]\nalgorithm = \"concurrency\"\nlimit = 10\n";
    ports.add_policy(&format!("{limit}name = \"a\"\n"));
    ports.add_policy(&format!("{limit}name = \"b\"\nroutes = [\"explain\"]\n"));
}

#[test]
fn a_challenge_names_the_realm_of_the_settings() {
    let ports = ports(&format!("[auth]\nrealm = \"models of acme\"\n{POLICY}"));
    for (headers, challenge) in [
        (vec![], "Bearer realm=\"models of acme\""),
        (
            vec![("authorization", "Basic Zm9vOmJhcg==")],
            "Bearer realm=\"models of acme\", error=\"invalid_request\"",
        ),
    ] {
        let (response, _) = ask(&ports, "/v1/models/m", &headers);
        assert_eq!(response.status, 401);
        let told = response.header("www-authenticate").unwrap();
        assert!(told.starts_with(challenge), "{told}");
    }
}

/// Returns a custom policy that adds a header to every answer.
fn adding() -> ScriptedPolicy {
    ScriptedPolicy::new(&[], |_| Ok(vec![("x-custom".to_owned(), b"1".to_vec())]))
}

/// Returns a custom policy that forbids every call.
fn forbidding() -> ScriptedPolicy {
    ScriptedPolicy::new(&[], |_| {
        Err(Refusal {
            kind: RefusalKind::Forbidden,
            message: "closed".to_owned(),
            retry_after_s: 0,
            headers: Vec::new(),
        })
    })
}

#[test]
fn the_policy_of_the_operators_own_knows_the_caller_and_never_the_credential() {
    let mut ports = ports(POLICY);
    ports.custom = ScriptedPolicy::new(
        &["api-key", "authorization", "x-api-key", "x-team"],
        |call| {
            assert_eq!(call.headers.len(), 1, "{:?}", call.headers);
            Ok(vec![(
                "x-tenant".to_owned(),
                call.caller.tenant.clone().into_bytes(),
            )])
        },
    );
    let text = key(&ports, "acme", &["*"]);
    for name in ["api-key", "x-api-key"] {
        let headers = [
            (name, text.as_str()),
            ("x-team", "red"),
            ("content-type", "application/json"),
        ];
        let (answer, body) = ask(&ports, "/v1/models/m:predict", &headers);
        assert_eq!(
            (answer.status, answer.header("x-tenant")),
            (200, Some("acme")),
            "{body}"
        );
    }
    let (answer, _) = ask(&ports, "/v1/models/m:predict", &[]);
    assert_eq!((answer.status, ports.custom.log.borrow().len()), (401, 4));
}

#[test]
fn nobody_can_tell_a_hidden_model_from_none_whoever_asks_and_however() {
    let anonymous = |scopes: &str| {
        format!("{POLICY}[auth.anonymous]\nfrom = \"anywhere\"\nscopes = [{scopes}]\n")
    };
    for (with_limits, custom) in [
        (false, ScriptedPolicy::default()),
        (true, ScriptedPolicy::default()),
        (true, adding()),
        (false, forbidding()),
    ] {
        for (policy, scopes, tier) in [
            (POLICY.to_owned(), Some(vec!["*"]), "free"),
            (
                POLICY.to_owned(),
                Some(vec!["predict:m", "models:m"]),
                "free",
            ),
            (POLICY.to_owned(), Some(vec![]), "free"),
            (POLICY.to_owned(), Some(vec!["*"]), "gold"),
            (POLICY.to_owned(), None, ""),
            (anonymous("\"*\""), None, ""),
            (anonymous("\"predict:m\""), None, ""),
            (anonymous(""), None, ""),
        ] {
            let mut ports = ports(&policy);
            ports.custom = custom.clone();
            if with_limits {
                limited(&ports);
            }
            let text = scopes
                .as_ref()
                .map(|scopes| add_key(&ports, "other", scopes, tier));
            let headers: Vec<(&str, &str)> = text.iter().map(|t| ("api-key", t.as_str())).collect();
            for path in [
                "/v1/models/{}",
                "/v1/models/{}/versions/1",
                "/v1/models/{}:predict",
                "/v1/models/{}:predict?explain=true",
                "/v2/models/{}",
                "/v2/models/{}/ready",
                "/v2/models/{}/infer",
            ] {
                let [hidden, absent] = ["acme-x", "acme-y"].map(|model| {
                    let (response, body) = ask(&ports, &path.replace("{}", model), &headers);
                    let id = response.header("x-request-id").unwrap().to_owned();
                    let plain = |text: String| text.replace(&id, "-").replace(model, "?");
                    let headers = response.headers.iter().map(|header| {
                        let value = String::from_utf8_lossy(&header.value).into_owned();
                        plain(format!("{}: {value}", header.name))
                    });
                    let headers: Vec<String> = headers.collect();
                    (response.status, plain(body.to_string()), headers)
                });
                assert_eq!(
                    hidden, absent,
                    "{path} {policy} {scopes:?} {tier} {with_limits}"
                );
                let forbidden = u16::from(custom.decide.is_some()) * 403;
                assert!([401, 404, forbidden].contains(&hidden.0), "{hidden:?}");
            }
        }
    }
}

#[test]
fn what_one_tier_was_told_is_not_replayed_to_another() {
    let policy = format!(
        "{POLICY}[auth.tiers.premium]\n[[disclosure]]\ntiers = [\"free\"]\nround_decimals = 0\n"
    );
    let ports = ports(&policy);
    let premium = add_key(&ports, "acme", &["*"], "premium");
    let free = key(&ports, "acme", &["*", "usage"]);
    let call = |text: &str| {
        let headers = [("api-key", text), ("idempotency-key", "k")];
        let (response, body) = ask(&ports, "/v1/models/m:predict", &headers);
        (
            response.status,
            body["error"]["code"].as_str().map(str::to_owned),
        )
    };
    assert_eq!(call(&premium), (200, None));
    assert_eq!(call(&free), (422, Some("idempotency_key_reused".into())));
}

#[test]
fn answers_for_one_caller_are_not_for_caches() {
    let ports = ports(&format!(
        "{POLICY}[auth.anonymous]\nfrom = \"anywhere\"\nscopes = [\"*\"]\n"
    ));
    let text = key(&ports, "acme", &["*"]);
    // The caller itself may store metadata, and revalidates it with its credentials before each use.
    for (path, known, unknown) in [
        ("/v1/models", "private, no-cache", Some("no-cache")),
        ("/v1/models/m:predict", "no-store", None),
        ("/v1/models/nothing", "no-store", None),
        ("/ready", "no-store", None),
    ] {
        let control = |headers: &[(&str, &str)]| {
            let (response, _) = ask(&ports, path, headers);
            response.header("cache-control").map(str::to_owned)
        };
        assert_eq!(control(&[("api-key", &text)]).as_deref(), Some(known));
        assert_eq!(control(&[]).as_deref(), unknown, "{path}");
    }
}

#[test]
fn callers_of_this_machine_need_no_key_unless_a_name_of_the_network_is_in_it() {
    let ports = ports("[auth.anonymous]\nscopes = [\"*\"]\n");
    for (headers, status) in [
        (vec![("host", "127.0.0.1:3000")], 200),
        (
            vec![("host", "localhost"), ("origin", "http://localhost:3000")],
            200,
        ),
        (vec![("host", "evil.example")], 401),
        (
            vec![("host", "127.0.0.1"), ("origin", "https://evil.example")],
            401,
        ),
        (vec![("host", "127.0.0.1"), ("x-real-ip", "127.0.0.1")], 401),
    ] {
        let mut headers = headers;
        headers.push(("spin-client-addr", "127.0.0.1:9"));
        assert_eq!(
            ask(&ports, "/v1/models", &headers).0.status,
            status,
            "{headers:?}"
        );
    }
}

#[test]
fn a_missing_scope_is_a_403_that_names_it_and_only_for_what_there_is() {
    let ports = ports(POLICY);
    let text = key(&ports, "acme", &["predict:acme-*"]);
    let bearer = format!("Bearer {text}");
    let with = [("authorization", bearer.as_str())];
    assert_eq!(
        ask(&ports, "/v1/models/acme-x:predict", &with).0.status,
        200
    );
    assert_eq!(
        ports.priority.get(),
        Some(2),
        "the tier's priority goes to the engine"
    );
    let (response, body) = ask(&ports, "/v1/models/m:predict", &with);
    assert_eq!(
        (response.status, body["error"]["code"].as_str()),
        (403, Some("permission_denied"))
    );
    assert!(
        response
            .header("www-authenticate")
            .unwrap()
            .contains("scope=\"predict:m\"")
    );
    assert_eq!(
        ask(&ports, "/v1/models/nothing:predict", &with).0.status,
        404
    );
    assert_eq!(ask(&ports, "/v1/usage", &with).0.status, 403);
}

#[test]
fn idempotency_keys_of_two_tenants_never_meet() {
    let ports = ports(POLICY);
    let (one, two) = (key(&ports, "acme", &["*"]), key(&ports, "other", &["*"]));
    let call = |text: &str| {
        let headers = [("api-key", text), ("idempotency-key", "k-1")];
        let (response, body) = ask(&ports, "/v1/models/m:predict", &headers);
        assert_eq!(response.status, 200);
        (
            response.header("idempotency-replayed").is_some(),
            body["prediction_id"].to_string(),
        )
    };
    let (first, second) = (call(&one), call(&two));
    assert!(!first.0 && !second.0);
    assert_ne!(first.1, second.1);
    assert_eq!(call(&one), (true, first.1));
}

#[test]
fn the_audit_log_is_told_who_and_what_where_the_host_asks_and_nobody_else_is() {
    let ports = ports(POLICY);
    let text = key(&ports, "acme", &["predict"]);
    let told = |target: &str, headers: &[(&str, &str)]| {
        let (response, _) = ask(&ports, target, headers);
        let line = response.header("penstock-audit")?.to_owned();
        assert!(!line.contains(&text[17..]), "{line}");
        Some(serde_json::from_str::<Value>(&line).unwrap())
    };
    assert_eq!(told("/v1/models/m:predict", &[("api-key", &text)]), None);
    let environment = |name: &str, value: &str| {
        ports
            .environment
            .borrow_mut()
            .insert(name.into(), value.into());
    };
    environment("PENSTOCK_AUDIT", "1");
    assert_eq!(
        told("/healthz", &[]),
        None,
        "a host without a token is not ours"
    );
    environment("PENSTOCK_HOST_TOKEN", "t");
    let call = told("/v1/models/m:predict", &[("api-key", &text)]).unwrap();
    for (member, value) in [
        ("decision", "admitted"),
        ("tenant", "acme"),
        ("tier", "free"),
        ("credential", "api_key"),
        ("route", "predict"),
        ("model", "m"),
        ("model_version", "1"),
    ] {
        assert_eq!(call[member], value, "{call}");
    }
    let refused = told("/v1/usage", &[("api-key", &text)]).unwrap();
    assert_eq!(
        (&refused["decision"], &refused["code"]),
        (&"refused".into(), &"permission_denied".into())
    );
    assert_eq!(refused["tenant"], "acme", "who was refused is known");
    let unknown = told("/v1/models", &[]).unwrap();
    assert_eq!(
        (&unknown["code"], &unknown["tenant"]),
        (&"credentials_missing".into(), &Value::Null)
    );
}

#[test]
fn the_host_is_told_what_it_counts_where_it_asks_and_never_a_name_that_does_not_exist() {
    let ports = ports(POLICY);
    let text = key(&ports, "acme", &["predict"]);
    let seen = |target: &str, headers: &[(&str, &str)]| {
        let (response, _) = ask(&ports, target, headers);
        response.header("penstock-seen").map(str::to_owned)
    };
    let by_key = [("api-key", text.as_str())];
    assert_eq!(seen("/v1/models/m:predict", &by_key), None);
    for (name, value) in [("PENSTOCK_METRICS", "1"), ("PENSTOCK_HOST_TOKEN", "t")] {
        (ports.environment.borrow_mut()).insert(name.into(), value.into());
    }
    for (target, headers, expected) in [
        ("/v1/models/m:predict", &by_key[..], "predict - m"),
        ("/v1/models/m:predict", &[], "predict credentials_missing -"),
        (
            "/v1/models/made-up:predict",
            &by_key,
            "predict unknown_model -",
        ),
        ("/v1/usage", &by_key, "usage permission_denied -"),
        ("/nowhere", &[], "- unknown_path -"),
        ("/healthz", &[], "- - -"),
    ] {
        assert_eq!(seen(target, headers).as_deref(), Some(expected), "{target}");
    }
}

#[test]
fn a_certificate_counts_only_when_the_host_vouches_for_it() {
    let policy = format!(
        "{POLICY}[[auth.certificates]]\nname = \"dns:a\"\ntenant = \"acme\"\ntier = \"free\"\nscopes = [\"*\"]\n"
    );
    let ports = ports(&policy);
    let said = "secret {\"certificate\":{\"sha256\":\"00\",\"names\":[\"dns:a\"]}}";
    let with = [("penstock-connection", said)];
    assert_eq!(ask(&ports, "/v1/models/m:predict", &with).0.status, 401);
    ports
        .environment
        .borrow_mut()
        .insert("PENSTOCK_HOST_TOKEN".into(), "secret".into());
    assert_eq!(ask(&ports, "/v1/models/m:predict", &with).0.status, 200);
    ports
        .environment
        .borrow_mut()
        .insert("PENSTOCK_HOST_TOKEN".into(), "another".into());
    assert_eq!(ask(&ports, "/v1/models/m:predict", &with).0.status, 401);
}

#[test]
fn the_description_tells_a_caller_of_no_model_it_may_not_know_of() {
    let ports = ports(POLICY);
    let acme = format!("Bearer {}", key(&ports, "acme", &["*"]));
    let other = format!("Bearer {}", key(&ports, "other", &["*"]));
    let (mine, _) = ask(&ports, "/openapi.json", &[("authorization", &acme)]);
    assert!(
        String::from_utf8(mine.body.into_vec())
            .unwrap()
            .contains("acme-x")
    );
    let (theirs, document) = ask(&ports, "/openapi.json", &[("authorization", &other)]);
    assert_eq!(theirs.status, 200);
    assert!(
        !String::from_utf8(theirs.body.into_vec())
            .unwrap()
            .contains("acme-x")
    );
    assert!(document["paths"]["/v1/models/m:predict"].is_object());
    let (hidden, hidden_body) = ask(
        &ports,
        "/openapi.json?model=acme-x",
        &[("authorization", &other)],
    );
    let (missing, missing_body) = ask(
        &ports,
        "/openapi.json?model=acme-y",
        &[("authorization", &other)],
    );
    assert_eq!((hidden.status, missing.status), (404, 404));
    assert_eq!(
        hidden_body["error"]["available"],
        missing_body["error"]["available"]
    );
    let (nobody, _) = ask(&ports, "/openapi.json", &[]);
    assert_eq!(nobody.status, 401);
    // The page reveals nothing about models, so it needs no credentials.
    assert_eq!(ask_raw(&ports, "/docs", &[]).status, 200);
}

#[test]
fn a_copy_of_what_one_caller_is_told_is_for_nobody_else() {
    let ports = ports(POLICY);
    let acme = format!("Bearer {}", key(&ports, "acme", &["*"]));
    let other = format!("Bearer {}", key(&ports, "other", &["*"]));
    for target in ["/v1/models", "/openapi.json"] {
        let (first, _) = ask(&ports, target, &[("authorization", &acme)]);
        assert_eq!(first.header("cache-control"), Some("private, no-cache"));
        let tag = first.header("etag").unwrap();
        let again = |who: &str| {
            let headers = [("authorization", who), ("if-none-match", tag)];
            ask_raw(&ports, target, &headers)
        };
        assert_eq!(again(&acme).status, 304);
        assert_eq!(again(&other).status, 200, "what it is told differs");
        assert_eq!(again("Bearer nonsense").status, 401);
    }
    let (usage, _) = ask(&ports, "/ready", &[("authorization", &acme)]);
    assert_eq!(usage.header("cache-control"), Some("no-store"));
}
