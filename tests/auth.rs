//! Authentication over HTTP through the built components: the life of keys, tenants that attack each other, signed
//! requests, tokens, and a store that becomes unavailable.

use crate::common;

use common::{Options, Response, Server, call, hyper_client, root};
use penstock_policy::auth::signature;
use penstock_testkit::RedisServer;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

const POLICY: &str = r#"
[admin]
listen = "127.0.0.1:0"
[auth]
revocation_ms = 1000
[auth.signatures]
[auth.tiers.free]
priority = 2
[auth.tiers.premium]
priority = 1
[[auth.models]]
models = ["digits"]
tenants = ["acme"]
[usage]
enabled = true
"#;

const PREDICT: &str = "/v1/models/identity:predict";
const BODY: &str = r#"{"inputs":{"a":[[1,2,3,4]]}}"#;

struct Site {
    server: Server,
    admin: String,
}

impl Site {
    fn start(door: &'static str, policy: &str, runtime_config: Option<String>) -> Self {
        let server = Server::start_with(Options {
            door: Some(door),
            policy_text: Some(policy.to_owned()),
            runtime_config_text: runtime_config,
            ..Options::default()
        });
        server.ready();
        let line = server.logged("admin API on http://");
        let address = line.split("http://").nth(1).unwrap();
        let address = address.split([' ', ';']).next().unwrap().to_owned();
        Self {
            server,
            admin: format!("http://{address}"),
        }
    }

    /// Runs a command against the admin API and reads the JSON it prints.
    fn administer(&self, arguments: &[&str]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock"))
            .args(arguments)
            .args(["--json", "--admin", &self.admin, "--state-dir"])
            .arg(root().join("target/penstock-test-state"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn tenant(&self, name: &str) {
        self.administer(&["tenants", "create", name]);
    }

    fn key(&self, tenant: &str, scopes: &[&str], more: &[&str]) -> Value {
        let mut arguments = vec!["keys", "create", "--tenant", tenant, "--tier", "free"];
        for scope in scopes {
            arguments.extend(["--scope", scope]);
        }
        arguments.extend(more);
        self.administer(&arguments)
    }

    fn get(&self, path: &str, api_key: &str) -> Response {
        self.server
            .call("GET", path, &[("x-api-key", api_key)], None)
    }

    fn predict(&self, headers: &[(&str, &str)]) -> Response {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.server
            .call("POST", PREDICT, &all, Some(BODY.as_bytes()))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn code(answer: &Response) -> String {
    let body = answer.json();
    let code = body["error"]["code"].as_str().or(body["code"].as_str());
    code.unwrap_or_default().to_owned()
}

fn id(key: &Value) -> String {
    text(&key["api_key"])[5..17].to_owned()
}

#[test]
fn a_key_lets_in_from_its_making_to_its_end_through_either_door() {
    for door in ["direct", "http"] {
        let site = Site::start(door, POLICY, None);
        site.tenant("acme");
        let made = site.key("acme", &["predict", "infer:cls"], &[]);
        let key = text(&made["api_key"]);
        let bearer = format!("Bearer {key}");
        for (name, value) in [
            ("authorization", bearer.as_str()),
            ("x-api-key", key),
            ("api-key", key),
        ] {
            let answer = site.predict(&[(name, value)]);
            assert_eq!(answer.status, 200, "{door} {name}: {}", answer.json());
        }
        let other = site.key("acme", &["*"], &[]);
        let mut changed = key.to_owned();
        changed.replace_range(20..21, if &key[20..21] == "x" { "y" } else { "x" });
        let unknown = "pnst_000000000000_00000000000000000000000000000000";
        for (headers, status, expected) in [
            (vec![], 401, "credentials_missing"),
            (
                vec![("x-api-key", changed.as_str())],
                401,
                "credentials_malformed",
            ),
            (vec![("x-api-key", unknown)], 401, "credentials_malformed"),
            (
                vec![("authorization", "Basic dTpw")],
                401,
                "credentials_malformed",
            ),
            (
                vec![("authorization", "Bearer a.b.c")],
                401,
                "credentials_invalid",
            ),
            (
                vec![("x-api-key", key), ("api-key", text(&other["api_key"]))],
                401,
                "credentials_ambiguous",
            ),
            (
                vec![("x-api-key", key), ("signature", "a=:AA==:")],
                401,
                "credentials_ambiguous",
            ),
        ] {
            let answer = site.predict(&headers);
            assert_eq!(
                (answer.status, code(&answer).as_str()),
                (status, expected),
                "{door} {headers:?}"
            );
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(
                challenge.starts_with("Bearer realm=\"penstock\""),
                "{challenge}"
            );
            let whole = format!(
                "{:?} {}",
                answer.headers,
                String::from_utf8_lossy(&answer.bytes)
            );
            assert!(!whole.contains(&key[17..]), "an answer repeats a secret");
        }
        let denied = site.get("/v1/usage", key);
        assert_eq!(
            (denied.status, code(&denied).as_str()),
            (403, "permission_denied")
        );

        // After a rotation with an overlap, both keys are valid. Then the old one is revoked.
        let next = site.administer(&["keys", "rotate", &id(&made), "--overlap", "1h"]);
        let next_key = text(&next["api_key"]);
        assert_eq!(site.predict(&[("x-api-key", next_key)]).status, 200);
        assert_eq!(site.predict(&[("x-api-key", key)]).status, 200);
        site.administer(&["keys", "revoke", &id(&made)]);
        std::thread::sleep(Duration::from_millis(1_050));
        let answer = site.predict(&[("x-api-key", key)]);
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (401, "credentials_revoked")
        );
        assert_eq!(site.predict(&[("x-api-key", next_key)]).status, 200);
        site.administer(&["tenants", "disable", "acme"]);
        std::thread::sleep(Duration::from_millis(1_050));
        let answer = site.predict(&[("x-api-key", next_key)]);
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (403, "tenant_disabled")
        );
        let log = site.server.log.lock().unwrap().join("\n");
        assert!(
            !log.contains(&key[17..]) && !log.contains(&next_key[17..]),
            "the log holds a secret"
        );
    }
}

#[test]
fn two_tenants_that_try_everything_on_each_other_find_nothing() {
    let site = Site::start("direct", POLICY, None);
    site.tenant("acme");
    site.tenant("other");
    let acme = site.key("acme", &["*"], &[]);
    let other = site.key("other", &["*"], &[]);
    let (acme, other) = (text(&acme["api_key"]), text(&other["api_key"]));
    // Another tenant's model and an unknown model get the same answer.
    assert_eq!(site.get("/v1/models/digits", acme).status, 200);
    for path in [
        "/v1/models/{}",
        "/v2/models/{}",
        "/v2/models/{}/ready",
        "/v1/models/{}/versions/1",
    ] {
        let [hidden, absent] = ["digits", "nobody"].map(|model| {
            let answer = site.get(&path.replace("{}", model), other);
            assert_eq!(answer.status, 404, "{path} {model}");
            let request_id = answer.header("x-request-id").unwrap().to_owned();
            let body = String::from_utf8_lossy(&answer.bytes)
                .replace(model, "?")
                .replace(&request_id, "-");
            let stamp = body.find("\"timestamp\"").unwrap_or(body.len());
            body[..stamp].to_owned()
        });
        assert_eq!(hidden, absent);
        assert!(!hidden.contains("digits"), "{hidden}");
    }
    let listed = |key| String::from_utf8_lossy(&site.get("/v1/models", key).bytes).into_owned();
    assert!(listed(acme).contains("\"digits\"") && !listed(other).contains("\"digits\""));
    let ready = |key| String::from_utf8_lossy(&site.get("/ready", key).bytes).into_owned();
    assert!(ready(acme).contains("\"digits\"") && !ready(other).contains("\"digits\""));
    // The same idempotency key counts separately for each tenant.
    let call = |key| {
        let answer = site.predict(&[("x-api-key", key), ("idempotency-key", "shared")]);
        assert_eq!(answer.status, 200, "{}", answer.json());
        (
            answer.header("idempotency-replayed").is_some(),
            answer.json()["prediction_id"].to_string(),
        )
    };
    let (first, second) = (call(acme), call(other));
    assert!(!first.0 && !second.0 && first.1 != second.1);
    assert_eq!(
        (call(acme), call(other)),
        ((true, first.1), (true, second.1))
    );
    // Each tenant sees its own usage.
    for (key, tenant) in [(acme, "acme"), (other, "other")] {
        let report = site.get("/v1/usage", key).json();
        assert_eq!(report["tenant"], tenant);
        let rows = report["usage"].as_array().unwrap();
        assert!(
            !rows.is_empty() && rows.iter().all(|row| row["tenant"] == tenant),
            "{report}"
        );
        assert!(rows.iter().all(|row| row["api_key_id"].is_string()));
    }
}

#[test]
fn a_caller_without_credentials_is_admitted_from_this_machine_and_not_through_a_proxy() {
    let policy = "[auth.anonymous]\nscopes = [\"*\"]\n";
    let server = Server::start_with(Options {
        policy: Some(policy),
        ..Options::default()
    });
    server.ready();
    let with = |headers: &[(&str, &str)]| {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        server.call("POST", PREDICT, &all, Some(BODY.as_bytes()))
    };
    assert_eq!(with(&[]).status, 200);
    for headers in [
        [("x-forwarded-for", "127.0.0.1")],
        [("forwarded", "for=127.0.0.1")],
        [("via", "1.1 somewhere")],
    ] {
        let answer = with(&headers);
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (401, "credentials_missing"),
            "{headers:?}"
        );
    }
    // The server ignores a client's copy of its own header.
    let forged = r#"x {"certificate":{"sha256":"00","names":["dns:a"]}}"#;
    assert_eq!(with(&[("penstock-connection", forged)]).status, 200);
    assert_eq!(with(&[("spin-client-addr", "192.0.2.1:1")]).status, 200);
}

/// Signs a call as a client does.
fn signed(key: &Value, nonce: &str, created_s: u64, body: &str) -> Vec<(String, String)> {
    use base64::Engine;
    use sha2::Digest;
    let base64 = base64::engine::general_purpose::STANDARD;
    let digest = format!(
        "sha-256=:{}:",
        base64.encode(sha2::Sha256::digest(body.as_bytes()))
    );
    let covered = [
        "@method",
        "@path",
        "@query",
        "content-digest",
        "content-type",
    ]
    .map(str::to_owned);
    let list: Vec<String> = covered.iter().map(|name| format!("\"{name}\"")).collect();
    let params = format!(
        "({});created={created_s};keyid=\"{}\";nonce=\"{nonce}\";alg=\"hmac-sha256\"",
        list.join(" "),
        id(key)
    );
    let headers: [(&str, &[u8]); 2] = [
        ("content-digest", digest.as_bytes()),
        ("content-type", b"application/json"),
    ];
    let base = signature::signature_base("POST", PREDICT, &headers, &covered, &params).unwrap();
    let mac = signature::mac(text(&key["signing_secret"]).as_bytes(), &base);
    vec![
        ("content-digest".into(), digest),
        ("signature-input".into(), format!("sig={params}")),
        ("signature".into(), format!("sig=:{}:", base64.encode(mac))),
    ]
}

#[test]
fn a_signed_request_is_let_in_once_and_any_change_of_it_is_not() {
    let site = Site::start("direct", POLICY, None);
    site.tenant("acme");
    let key = site.key("acme", &["predict"], &["--signs"]);
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let send = |headers: &[(String, String)]| {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        let answer = site.predict(&headers);
        (answer.status, code(&answer))
    };
    let good = signed(&key, "nonce-0000000001", now_s, BODY);
    assert_eq!(send(&good), (200, String::new()));
    assert_eq!(send(&good), (401, "signature_replayed".into()));
    assert_eq!(send(&signed(&key, "nonce-0000000002", now_s, BODY)).0, 200);
    assert_eq!(
        send(&signed(&key, "nonce-0000000003", now_s - 400, BODY)),
        (401, "credentials_expired".into())
    );
    let other_body = signed(&key, "nonce-0000000004", now_s, "{}");
    assert_eq!(send(&other_body), (401, "credentials_invalid".into()));
    let mut other_nonce = signed(&key, "nonce-0000000005", now_s, BODY);
    other_nonce[1].1 = other_nonce[1].1.replace("0005", "0006");
    assert_eq!(send(&other_nonce), (401, "credentials_invalid".into()));
    // A key without a signing secret, and a revoked one.
    let mute = site.key("acme", &["predict"], &[]);
    let mut forged = mute.clone();
    forged["signing_secret"] = key["signing_secret"].clone();
    assert_eq!(
        send(&signed(&forged, "nonce-0000000007", now_s, BODY)),
        (401, "credentials_invalid".into())
    );
    site.administer(&["keys", "revoke", &id(&key)]);
    std::thread::sleep(Duration::from_millis(1_050));
    assert_eq!(
        send(&signed(&key, "nonce-0000000008", now_s, BODY)),
        (401, "credentials_revoked".into())
    );
}

#[test]
fn tokens_of_a_trusted_issuer_let_in_and_a_new_key_set_is_taken_without_a_restart() {
    use base64::Engine;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let folder = tempfile::tempdir().unwrap();
    let jwks = folder.path().join("jwks.json");
    // PKCS#8 of an Ed25519 key (RFC 8410, 7): a fixed head and 32 bytes of secret.
    let pair = |seed: u8| {
        let mut der = vec![
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        der.extend([seed; 32]);
        let public = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
        (
            EncodingKey::from_ed_der(&der),
            base64.encode(public.as_bytes()),
        )
    };
    let publish = |keys: &[(&str, &str)]| {
        let entries = keys
            .iter()
            .map(|(kid, x)| format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"}}"#));
        let entries: Vec<String> = entries.collect();
        std::fs::write(&jwks, format!(r#"{{"keys":[{}]}}"#, entries.join(","))).unwrap();
    };
    let ((one, one_x), (two, two_x)) = (pair(1), pair(2));
    publish(&[("one", &one_x)]);
    let policy = format!(
        "{POLICY}\n[[auth.issuers]]\nname = \"idp\"\nissuer = \"https://idp.example\"\naudiences = [\"penstock\"]\n\
         algorithms = [\"EdDSA\"]\njwks_file = \"{}\"\ntenant_claim = \"org\"\ntier = \"free\"\n",
        jwks.display()
    );
    let site = Site::start("direct", &policy, None);
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let token = |key: &EncodingKey, kid: &str, change: fn(&mut Value)| {
        let mut claims = serde_json::json!({
            "iss": "https://idp.example", "aud": "penstock", "exp": now_s + 600, "sub": "u-1", "org": "acme",
            "scope": "predict usage",
        });
        change(&mut claims);
        let header = Header {
            kid: Some(kid.to_owned()),
            ..Header::new(Algorithm::EdDSA)
        };
        format!("Bearer {}", encode(&header, &claims, key).unwrap())
    };
    let send = |bearer: &str| {
        let answer = site.predict(&[("authorization", bearer)]);
        (answer.status, code(&answer))
    };
    // The set is read within a second of the start.
    let deadline = Instant::now() + Duration::from_secs(20);
    let good = token(&one, "one", |_| {});
    while send(&good).0 != 200 {
        assert!(Instant::now() < deadline, "{:?}", send(&good));
        std::thread::sleep(Duration::from_millis(200));
    }
    for (change, expected) in [
        (
            (|c| c["exp"] = 1.into()) as fn(&mut Value),
            (401, "credentials_expired"),
        ),
        (
            |c| c["aud"] = "another".into(),
            (401, "credentials_invalid"),
        ),
        (
            |c| c["iss"] = "https://evil.example".into(),
            (401, "credentials_invalid"),
        ),
        (|c| c["scope"] = "usage".into(), (403, "permission_denied")),
        (
            |c| c["org"] = "anonymous".into(),
            (403, "permission_denied"),
        ),
    ] {
        let (status, code) = send(&token(&one, "one", change));
        assert_eq!((status, code.as_str()), expected);
    }
    let unknown = token(&two, "two", |_| {});
    assert_eq!(send(&unknown), (401, "credentials_invalid".into()));
    publish(&[("one", &one_x), ("two", &two_x)]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while send(&unknown).0 != 200 {
        assert!(Instant::now() < deadline, "{:?}", send(&unknown));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(send(&good).0, 200);
}

#[test]
fn keys_are_one_for_two_machines_and_a_store_that_goes_away_closes_the_door_after_the_grace() {
    let mut redis = RedisServer::start();
    let config = || {
        let url = redis.url();
        Some(format!(
            "[key_value_store.default]\ntype = \"redis\"\nurl = \"{url}\"\n"
        ))
    };
    let policy = POLICY
        .replace(
            "revocation_ms = 1000",
            "revocation_ms = 500\nstore_failure_grace_ms = 4000",
        )
        .replace("[usage]\nenabled = true\n", "");
    let (one, two) = (
        Site::start("direct", &policy, config()),
        Site::start("direct", &policy, config()),
    );
    one.tenant("acme");
    let made = one.key("acme", &["*"], &[]);
    let key = text(&made["api_key"]);
    assert_eq!(one.predict(&[("x-api-key", key)]).status, 200);
    assert_eq!(two.predict(&[("x-api-key", key)]).status, 200);
    let doomed = one.key("acme", &["*"], &[]);
    let doomed_key = text(&doomed["api_key"]);
    assert_eq!(two.predict(&[("x-api-key", doomed_key)]).status, 200);
    one.administer(&["keys", "revoke", &id(&doomed)]);
    std::thread::sleep(Duration::from_millis(550));
    assert_eq!(
        two.predict(&[("x-api-key", doomed_key)]).status,
        401,
        "revoked on the other machine too"
    );
    assert_eq!(two.predict(&[("x-api-key", key)]).status, 200);
    redis.stop();
    // Known keys are accepted within the grace. Then all are refused, and there is never a wrong answer.
    let answer = two.predict(&[("x-api-key", key)]);
    assert_eq!(answer.status, 200, "{}", answer.json());
    let closed = common::until_found(|| {
        let answer = two.predict(&[("x-api-key", key)]);
        match answer.status {
            200 => Err("the grace does not end"),
            _ => Ok(answer),
        }
    });
    assert_eq!(
        (closed.status, code(&closed).as_str()),
        (503, "store_unavailable")
    );
    assert!(closed.header("retry-after").is_some());
    let never_seen = "pnst_";
    assert_eq!(
        two.predict(&[("x-api-key", never_seen)]).status,
        401,
        "what is no key needs no store"
    );
}

#[test]
fn the_server_s_own_address_does_not_make_a_public_listener_local() {
    // Every connection of this machine has a loopback address, so only the listener decides.
    let server = Server::start_with(Options {
        policy: Some("[auth.anonymous]\nscopes = [\"*\"]\n"),
        listen: Some("0.0.0.0:0"),
        ..Options::default()
    });
    server.logged("are refused");
    let port = server.address.port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let answer = call(address, "GET", "/v1/models", &[], None);
    assert_eq!(
        (answer.status, code(&answer).as_str()),
        (401, "credentials_missing")
    );
}

#[test]
fn every_name_by_which_the_server_is_addressed_must_be_of_this_machine() {
    use http_body_util::{BodyExt, Empty};

    let server = Server::start_with(Options {
        policy: Some("[auth.anonymous]\nscopes = [\"*\"]\n"),
        ..Options::default()
    });
    server.ready();
    let port = server.address.port();
    let runtime = hyper_client::runtime();
    let request = |target: &str, host: Option<&str>| {
        let request = hyper::Request::get(target);
        let request = match host {
            Some(host) => request.header("host", host),
            None => request,
        };
        request.body(Empty::<bytes::Bytes>::new()).unwrap()
    };
    let local = format!("http://localhost:{port}/v1/models");
    let evil = "http://evil.example/v1/models";
    for (target, host, status) in [
        (local.as_str(), None, 200),
        (local.as_str(), Some("127.0.0.1"), 200),
        (local.as_str(), Some("evil.example"), 401),
        (evil, Some("localhost"), 401),
        (evil, None, 401),
    ] {
        runtime.block_on(async {
            let mut sender = hyper_client::to(server.address).await;
            let answer = sender.send_request(request(target, host)).await.unwrap();
            assert_eq!(answer.status(), status, "HTTP/2 {target} {host:?}");
            let _ = answer.into_body().collect().await;

            // In absolute form over HTTP/1.1, which always has a Host.
            let stream = tokio::net::TcpStream::connect(server.address)
                .await
                .unwrap();
            let mut sender = hyper_client::http1(stream).await.unwrap();
            let host = host.unwrap_or("localhost");
            let answer = sender
                .send_request(request(target, Some(host)))
                .await
                .unwrap();
            assert_eq!(answer.status(), status, "HTTP/1.1 {target} {host}");
        });
    }
}
