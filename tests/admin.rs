//! The admin API and its commands, over the built server.

use crate::common;

use common::{Options, Response, Server, exchange, root};
use penstock_kv::{EmbeddedSettings, EmbeddedStore};
use penstock_testkit::free_port;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn state_dir() -> PathBuf {
    root().join("target/penstock-test-state")
}

/// The token that the tests' servers created and share.
fn token() -> String {
    token_in(&state_dir())
}

fn token_in(state: &Path) -> String {
    let text = std::fs::read_to_string(state.join("admin-token")).unwrap();
    text.trim_end().to_owned()
}

fn start() -> (Server, SocketAddr) {
    let server = Server::start_with(Options {
        admin: true,
        tract: true,
        ..Options::default()
    });
    let address = admin_of(&server);
    (server, address)
}

fn admin_of(server: &Server) -> SocketAddr {
    let line = server.logged("admin API on http://");
    let (_, rest) = line.split_once("admin API on http://").unwrap();
    let (address, _) = rest.split_once(';').unwrap();
    address.parse().unwrap()
}

fn ask(admin: SocketAddr, method: &str, path: &str, body: Option<Value>) -> Response {
    ask_with(&token(), admin, method, path, body)
}

fn ask_with(
    token: &str,
    admin: SocketAddr,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Response {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str())];
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    let body = body.map(|body| body.to_string());
    let body = body.as_ref().map(String::as_bytes);
    common::call(admin, method, path, &headers, body)
}

fn ok(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{:?}", answer.json());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

fn refused(answer: &Response, status: u16, code: &str) -> Value {
    let body = answer.json();
    assert_eq!(
        (answer.status, body["error"]["code"].as_str()),
        (status, Some(code)),
        "{body}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("x-request-id").is_some());
    body
}

#[test]
fn keys_and_tenants_live_from_their_making_to_their_end() {
    let (server, admin) = start();
    let post = |path: &str, body: Value| ask(admin, "POST", path, Some(body));
    let get = |path: &str| ask(admin, "GET", path, None);
    let tenant = ok(
        &post(
            "/admin/v1/tenants",
            json!({"tenant": "acme", "description": "a customer"}),
        ),
        201,
    );
    assert_eq!(
        (&tenant["tenant"], &tenant["state"]),
        (&json!("acme"), &json!("enabled"))
    );
    refused(
        &post("/admin/v1/tenants", json!({"tenant": "acme"})),
        409,
        "already_exists",
    );
    let new = json!({"tenant": "acme", "tier": "free", "scopes": ["predict:magika", "models"], "signs": true});
    let made = ok(&post("/admin/v1/keys", new.clone()), 201);
    let api_key = made["api_key"].as_str().unwrap().to_owned();
    let signing = made["signing_secret"].as_str().unwrap().to_owned();
    let id = made["key"]["id"].as_str().unwrap().to_owned();
    assert!(api_key.starts_with(&format!("pnst_{id}_")) && api_key.len() == 56);
    assert_eq!(made["key"]["state"], "active");
    let shown = ok(&get(&format!("/admin/v1/keys/{id}")), 200);
    assert_eq!(shown, made["key"]);
    let rotate = |id: &str, overlap_s: u64| {
        post(
            &format!("/admin/v1/keys/{id}:rotate"),
            json!({ "overlap_s": overlap_s }),
        )
    };
    let rotated = ok(&rotate(&id, 3_600), 200);
    let next = rotated["key"]["id"].as_str().unwrap().to_owned();
    assert_eq!(rotated["key"]["rotated_from"], json!(id));
    assert_eq!(rotated["rotated"]["rotated_to"], json!(next));
    assert_eq!(rotated["rotated"]["state"], "active");
    let created_ms = rotated["key"]["created_ms"].as_u64().unwrap();
    assert_eq!(
        rotated["rotated"]["expires_ms"].as_u64(),
        Some(created_ms + 3_600_000)
    );
    refused(&rotate(&id, 0), 409, "failed_precondition");
    let revoked = ok(
        &post(&format!("/admin/v1/keys/{next}:revoke"), json!({})),
        200,
    );
    assert_eq!(revoked["state"], "revoked");
    let again = ok(
        &post(&format!("/admin/v1/keys/{next}:revoke"), json!({})),
        200,
    );
    assert_eq!(again["revoked_ms"], revoked["revoked_ms"]);
    refused(&rotate(&next, 0), 409, "failed_precondition");
    let listed = ok(&get("/admin/v1/keys?tenant=acme"), 200);
    let ids: Vec<&Value> = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| &k["id"])
        .collect();
    assert_eq!(ids, [&json!(id), &json!(next)]);
    assert_eq!(ok(&get("/admin/v1/keys"), 200), listed);
    assert_eq!(listed.get("next_page_token"), None);
    for (verb, state) in [
        ("disable", "disabled"),
        ("disable", "disabled"),
        ("enable", "enabled"),
    ] {
        let set = ok(
            &post(&format!("/admin/v1/tenants/acme:{verb}"), json!({})),
            200,
        );
        assert_eq!(set["state"], state);
        assert_eq!(ok(&get("/admin/v1/tenants/acme"), 200), set);
    }
    assert_eq!(
        ok(&get("/admin/v1/tenants"), 200)["tenants"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    refused(&get("/admin/v1/tenants/nobody"), 404, "unknown_resource");
    refused(&get("/admin/v1/keys/7Kx0aQ2mBv9Z"), 404, "unknown_resource");
    let mut elsewhere = new;
    elsewhere["tenant"] = json!("nobody");
    refused(&post("/admin/v1/keys", elsewhere), 404, "unknown_resource");
    // Each action is in the log, and no secret is.
    for said in [
        "created the tenant acme".to_owned(),
        format!("created the API key {id} of the tenant acme"),
        format!("rotated the API key {id} to {next}"),
        format!("revoked the API key {next}"),
        "disabled the tenant acme".to_owned(),
    ] {
        server.logged(&said);
    }
    let pepper = std::fs::read_to_string(state_dir().join("pepper")).unwrap();
    let next_key = rotated["api_key"].as_str().unwrap();
    for secret in [
        api_key.as_str(),
        &signing,
        next_key,
        &token(),
        pepper.trim_end(),
    ] {
        // The last part of a secret alone would be too much.
        let part = &secret[secret.len() - 20..];
        for line in server.log.lock().unwrap().iter() {
            assert!(!line.contains(part), "{line}");
        }
    }
}

#[test]
fn nobody_is_answered_without_the_token_or_from_a_browser() {
    let (server, admin) = start();
    let token = token();
    let call =
        |headers: &[(&str, &str)]| common::call(admin, "GET", "/admin/v1/keys", headers, None);
    // Replace the last digit of the token by another one.
    let (first, last) = token.split_at(token.len() - 1);
    let wrong = format!("Bearer {first}{}", if last == "0" { "1" } else { "0" });
    for (headers, code) in [
        (vec![], "credentials_missing"),
        (
            vec![("authorization", "Basic eDp5")],
            "credentials_malformed",
        ),
        (
            vec![("authorization", token.as_str())],
            "credentials_malformed",
        ),
        (vec![("authorization", "Bearer ")], "credentials_malformed"),
        (vec![("authorization", "Bearer x")], "credentials_invalid"),
        (
            vec![("authorization", wrong.as_str())],
            "credentials_invalid",
        ),
    ] {
        let answer = call(&headers);
        // HTTP libraries may send a header without its trailing space.
        let body = answer.json();
        assert_eq!(
            (answer.status, body["error"]["code"].as_str()),
            (401, Some(code)),
            "{headers:?}"
        );
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"penstock-admin\"")
        );
    }
    let bearer = format!("Bearer {token}");
    let own = ("authorization", bearer.as_str());
    ok(&call(&[own]), 200);
    refused(
        &call(&[own, ("origin", "http://127.0.0.1:3001")]),
        403,
        "permission_denied",
    );
    let with_host = |host: &str| {
        exchange(admin, format!(
                "GET /admin/v1/keys HTTP/1.1\r\nhost: {host}\r\nauthorization: {bearer}\r\nconnection: close\r\n\r\n"
            ).as_bytes())
    };
    assert!(with_host("localhost:1").starts_with("HTTP/1.1 200"));
    for host in ["evil.example", "evil.example:3001", "10.1.2.3"] {
        let answer = with_host(host);
        assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
        assert!(answer.contains("permission_denied"));
    }
    let without = format!("GET /admin/v1/keys HTTP/1.0\r\nauthorization: {bearer}\r\n\r\n");
    assert!(exchange(admin, without.as_bytes()).contains("permission_denied"));
    // The public listener does not know the admin API.
    let public = server.call("GET", "/admin/v1/keys", &[own], None);
    assert_eq!(public.status, 404);
}

#[test]
fn requests_are_read_strictly_and_within_bounds() {
    let (_server, admin) = start();
    let bearer = format!("Bearer {}", token());
    let own = ("authorization", bearer.as_str());
    let json_type = ("content-type", "application/json");
    let post = |headers: &[(&str, &str)], path: &str, body: &[u8]| {
        let headers: Vec<(&str, &str)> = [own].iter().chain(headers).copied().collect();
        common::call(admin, "POST", path, &headers, Some(body))
    };
    let body = refused(
        &post(
            &[json_type],
            "/admin/v1/keys",
            br#"{"tenant": "a b", "tier": 7, "scopes": [], "extra": 1}"#,
        ),
        400,
        "invalid_body",
    );
    let mut places: Vec<&str> = body["error"]["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["pointer"].as_str().unwrap())
        .collect();
    places.sort_unstable();
    assert_eq!(places, ["/extra", "/scopes", "/tenant", "/tier"]);
    refused(
        &post(&[json_type], "/admin/v1/tenants", b"{"),
        400,
        "malformed_json",
    );
    refused(
        &post(&[], "/admin/v1/tenants", b"{}"),
        415,
        "unsupported_media_type",
    );
    refused(
        &post(
            &[("content-type", "text/plain")],
            "/admin/v1/tenants",
            b"{}",
        ),
        415,
        "unsupported_media_type",
    );
    let large = format!("{{\"tenant\": \"{}\"}}", "a".repeat(70_000));
    refused(
        &post(&[json_type], "/admin/v1/tenants", large.as_bytes()),
        413,
        "body_too_large",
    );
    refused(
        &post(&[json_type], "/admin/v1/nothing", b"{}"),
        404,
        "unknown_path",
    );
    let answer = common::call(admin, "DELETE", "/admin/v1/keys", &[own], None);
    refused(&answer, 405, "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("GET, POST"));
    let query = common::call(admin, "GET", "/admin/v1/keys?page_token=x", &[own], None);
    refused(&query, 400, "invalid_parameter");
    let headers: String = (0..100).map(|n| format!("x-{n}: 1\r\n")).collect();
    let many = format!("GET /admin/v1/keys HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    assert!(exchange(admin, many.as_bytes()).starts_with("HTTP/1.1 431"));
    ok(&ask(admin, "GET", "/admin/v1/keys", None), 200);
}

/// A command without the environment variables that it would read.
fn penstock(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.args(args);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        if text.starts_with("PENSTOCK_") || text.starts_with("SPIN_VARIABLE_") {
            command.env_remove(name);
        }
    }
    command
}

fn printed(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn failed(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_commands_ask_the_server() {
    let (_server, admin) = start();
    let url = format!("http://{admin}");
    let command = |args: &[&str]| {
        let mut command = penstock(args);
        command
            .args(["--admin", &url, "--state-dir"])
            .arg(state_dir());
        command
    };
    let run = |args: &[&str]| command(args).output().unwrap();
    printed(&run(&[
        "tenants",
        "create",
        "acme",
        "--description",
        "a customer",
    ]));
    let create = [
        "keys",
        "create",
        "--tenant",
        "acme",
        "--tier",
        "free",
        "--scope",
        "predict:magika",
        "--scope",
        "models",
    ];
    let with = |more: &[&'static str]| [&create[..], more].concat();
    let text = printed(&run(&with(&[
        "--name",
        "laptop",
        "--expires-in",
        "90d",
        "--signs",
    ])));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("of the tenant acme, tier free, for predict:magika models"));
    assert!(lines[1].starts_with("pnst_") && lines[1].len() == 56);
    assert!(lines[3].starts_with("pnss_"));
    assert_eq!(lines[4], "keep it now: it is not shown again");
    let id = &lines[1][5..17];
    let json: Value = serde_json::from_str(&printed(&run(&with(&["--json"])))).unwrap();
    let second = json["key"]["id"].as_str().unwrap();
    let list = printed(&run(&["keys", "list", "--tenant", "acme"]));
    assert!(
        list.starts_with("ID ") && list.lines().count() == 3,
        "{list}"
    );
    assert!(list.contains(id) && list.contains(second) && list.contains("laptop"));
    assert!(!list.contains(lines[1]));
    let list = printed(&run(&["keys", "list", "--json"]));
    let first: Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    assert_eq!(first["name"], "laptop");
    let lifetime_ms = first["expires_ms"].as_u64().unwrap() - first["created_ms"].as_u64().unwrap();
    assert!(
        lifetime_ms.abs_diff(90 * 86_400_000) < 60_000,
        "{lifetime_ms}"
    );
    let text = printed(&run(&["keys", "rotate", id, "--overlap", "24h"]));
    assert!(
        text.contains("pnst_") && text.contains(&format!("the key {id} is valid until")),
        "{text}"
    );
    let text = printed(&run(&["keys", "revoke", id]));
    assert!(text.contains("revoked"), "{text}");
    let text = printed(&run(&["keys", "show", id]));
    assert!(
        text.contains("rotated to") && text.contains("revoked"),
        "{text}"
    );
    assert!(printed(&run(&["tenants", "disable", "acme"])).contains("disabled"));
    assert!(printed(&run(&["tenants", "list"])).contains("disabled"));
    assert!(printed(&run(&["tenants", "enable", "acme"])).contains("enabled"));
    assert!(printed(&run(&["tenants", "show", "acme"])).contains("a customer"));
    // The errors are reported, and no secret with them.
    let error = failed(&run(&["keys", "show", lines[1]]));
    assert!(error.contains("id") && !error.contains(lines[1]), "{error}");
    let error = failed(&run(&["keys", "rotate", id, "--overlap", "24h"]));
    assert!(
        error.contains("409") && error.contains("was revoked"),
        "{error}"
    );
    let error = failed(&run(&["tenants", "create", "a b"]));
    assert!(
        error.contains("/tenant") && error.contains("1 to 64"),
        "{error}"
    );
    let wrong = "0".repeat(64);
    let error = command(&["keys", "list"])
        .env("PENSTOCK_ADMIN_TOKEN", &wrong)
        .output()
        .unwrap();
    let error = failed(&error);
    assert!(error.contains("401") && !error.contains(&wrong), "{error}");
    let nowhere = penstock(&["keys", "list", "--state-dir", "/nonexistent"])
        .output()
        .unwrap();
    assert!(failed(&nowhere).contains("PENSTOCK_ADMIN_TOKEN_FILE"));
    // No secret can be given where other users of the machine see it.
    for flag in ["--token", "--admin-token", "--pepper", "--api-key"] {
        for of in [&["keys", "list"][..], &["usage"], &["up"]] {
            let output = penstock(&[of, &[flag, "x"]].concat()).output().unwrap();
            assert!(failed(&output).contains("unexpected argument"), "{flag}");
        }
    }
}

#[test]
fn a_key_made_while_no_server_runs_is_there_when_one_does() {
    let files = tempfile::tempdir().unwrap();
    let runtime = format!(
        "[key_value_store.default]\ntype = \"penstock\"\npath = \"{}\"\n",
        files.path().join("own.kv").display()
    );
    let config = files.path().join("runtime.toml");
    std::fs::write(&config, &runtime).unwrap();
    let offline = |args: &[&str]| -> Output {
        let mut command = penstock(args);
        command
            .arg("--offline")
            .arg("--app")
            .arg(root().join("spin.toml"));
        command.arg("--runtime-config-file").arg(&config);
        command.arg("--state-dir").arg(state_dir());
        command.output().unwrap()
    };
    printed(&offline(&["tenants", "create", "acme"]));
    let made = printed(&offline(&[
        "keys", "create", "--tenant", "acme", "--tier", "free", "--scope", "*", "--json",
    ]));
    let made: Value = serde_json::from_str(&made).unwrap();
    let listed: Value =
        serde_json::from_str(&printed(&offline(&["keys", "list", "--json"]))).unwrap();
    assert_eq!(listed, made["key"]);
    let server = Server::start_with(Options {
        admin: true,
        tract: true,
        runtime_config_text: Some(runtime),
        ..Options::default()
    });
    let listed = ok(&ask(admin_of(&server), "GET", "/admin/v1/keys", None), 200);
    assert_eq!(listed["keys"], json!([made["key"]]));
    // The server has the store open, so no other process may open it.
    let error = failed(&offline(&["keys", "list"]));
    assert!(error.contains("--admin"), "{error}");
    server.kill();
    // Acknowledged changes have survived.
    let listed: Value =
        serde_json::from_str(&printed(&offline(&["keys", "list", "--json"]))).unwrap();
    assert_eq!(listed, made["key"]);
}

#[test]
fn a_record_for_another_host_is_printed_and_kept_nowhere() {
    let create = |more: &[&str]| {
        let args = [
            "keys",
            "create",
            "--print-record",
            "--tenant",
            "acme",
            "--tier",
            "free",
            "--scope",
            "*",
        ];
        penstock(&[&args[..], more].concat())
    };
    let error = failed(&create(&[]).output().unwrap());
    assert!(error.contains("SPIN_VARIABLE_PEPPER_FILE"), "{error}");
    let files = tempfile::tempdir().unwrap();
    let pepper = files.path().join("pepper");
    std::fs::write(&pepper, "0123456789abcdef0123456789abcdef\n").unwrap();
    let output = create(&["--json"])
        .env("SPIN_VARIABLE_PEPPER_FILE", &pepper)
        .current_dir(files.path())
        .output()
        .unwrap();
    let body: Value = serde_json::from_str(&printed(&output)).unwrap();
    let id = body["key"]["id"].as_str().unwrap();
    assert_eq!(body["entries"][0]["name"], "auth:tenant:acme");
    assert_eq!(body["entries"][1]["name"], json!(format!("auth:key:{id}")));
    let record: Value =
        serde_json::from_str(body["entries"][1]["value"].as_str().unwrap()).unwrap();
    assert_eq!(record["digest"].as_str().unwrap().len(), 64);
    assert!(
        !record
            .to_string()
            .contains(&body["api_key"].as_str().unwrap()[18..])
    );
    let left: Vec<_> = std::fs::read_dir(files.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing was kept: {left:?}");
    let text = printed(
        &create(&[])
            .env("SPIN_VARIABLE_PEPPER_FILE", &pepper)
            .output()
            .unwrap(),
    );
    assert!(
        text.contains("not shown again") && text.contains("auth:tenant:acme"),
        "{text}"
    );
}

#[test]
fn without_the_section_there_is_no_admin_api_and_with_it_there_is() {
    let with = Server::start_with(Options {
        tract: true,
        policy: Some("[admin]\nlisten = \"127.0.0.1:0\"\n"),
        ..Options::default()
    });
    ok(&ask(admin_of(&with), "GET", "/admin/v1/tenants", None), 200);
    let without = Server::start_with(Options {
        tract: true,
        ..Options::default()
    });
    let log = without.log.lock().unwrap().join("\n");
    assert!(!log.contains("admin API"), "{log}");
}

#[test]
fn a_token_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let files = tempfile::tempdir().unwrap();
    let state: &Path = files.path();
    std::fs::write(state.join("admin-token"), format!("{}\n", "a".repeat(64))).unwrap();
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(state.join("admin-token"), readable).unwrap();
    let output = penstock(&["keys", "list"])
        .arg("--state-dir")
        .arg(state)
        .output()
        .unwrap();
    let error = failed(&output);
    assert!(
        error.contains("chmod 600") && !error.contains("aaaa"),
        "{error}"
    );
}

#[test]
fn an_admin_api_without_an_address_moves_to_a_free_port() {
    // If another process already has the port, the test works as well.
    let _first = TcpListener::bind("127.0.0.1:3001");
    let server = Server::start_with(Options {
        policy: Some("[admin]\n"),
        tract: true,
        ..Options::default()
    });
    server.logged("127.0.0.1:3001 is taken");
    let admin = admin_of(&server);
    assert_ne!(admin.port(), 3001);
    ok(&ask(admin, "GET", "/admin/v1/keys", None), 200);
}

/// A folder for an application, whose state directory has the compiled components of the other tests.
fn application_folder() -> tempfile::TempDir {
    use std::os::unix::fs::{DirBuilderExt, symlink};
    let files = tempfile::tempdir().unwrap();
    let state = files.path().join(".penstock");
    let cache = state_dir().join("cache");
    let mut builder = std::fs::DirBuilder::new();
    let builder = builder.recursive(true).mode(0o700);
    builder.create(&state).unwrap();
    builder.create(&cache).unwrap();
    symlink(cache, state.join("cache")).unwrap();
    files
}

#[test]
fn a_second_server_needs_only_another_address_for_its_api() {
    let files = application_folder();
    let state = files.path().join(".penstock");
    let shipped = std::fs::read_to_string(root().join("penstock.toml")).unwrap();
    let (first_port, second_port) = (free_port(), free_port());
    let serve = |port: u16| {
        // This leaks a few bytes until the tests end.
        let listen: &'static str = format!("127.0.0.1:{port}").leak();
        Server::start_with(Options {
            policy_text: Some(shipped.clone()),
            folder: Some(files.path().to_owned()),
            listen: Some(listen),
            tract: true,
            ..Options::default()
        })
    };
    let tenants = |server: &Server, method: &str, body: Option<Value>| {
        let (token, admin) = (token_in(&state), admin_of(server));
        ask_with(&token, admin, method, "/admin/v1/tenants", body)
    };
    let names = |server: &Server| ok(&tenants(server, "GET", None), 200).to_string();
    let first = serve(first_port);
    let made = tenants(&first, "POST", Some(json!({"tenant": "acme"})));
    ok(&made, 201);
    let second = serve(second_port);
    second.logged(&format!("default-{second_port}.kv"));
    assert!(names(&first).contains("acme"));
    assert!(!names(&second).contains("acme"), "its data are its own");
    drop((first, second));
    // The second server starts first, and leaves the first server's data where they are.
    let second = serve(second_port);
    second.logged(&format!("default-{second_port}.kv"));
    let first = serve(first_port);
    assert!(names(&first).contains("acme"));
}

#[test]
fn a_server_whose_named_state_directory_is_in_use_fails_before_it_compiles() {
    let state = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings::new(state.path().join("default.kv"));
    let _other = EmbeddedStore::open(settings).unwrap();
    let output = penstock(&["up", "--listen", "127.0.0.1:0", "--admin-listen", "off"])
        .arg("--app")
        .arg(root().join("spin.toml"))
        .arg("--policy")
        .arg(root().join("penstock.toml"))
        .arg("--state-dir")
        .arg(state.path())
        .output()
        .unwrap();
    let error = failed(&output);
    assert!(
        error.contains("default.kv is in use by another process") && error.contains("--state-dir"),
        "{error}"
    );
    assert!(!state.path().join("cache").exists(), "it was compiled");
}

#[test]
fn a_server_whose_address_is_taken_fails_before_it_compiles() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (arguments, remedy) in [
        (["--listen", &address], "choose another --listen"),
        (
            ["--admin-listen", &address],
            "choose another --admin-listen",
        ),
    ] {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command
            .arg("up")
            .args(arguments)
            .arg("--app")
            .arg(root().join("spin.toml"))
            .arg("--policy")
            .arg(root().join("penstock.toml"))
            .arg("--state-dir")
            .arg(state.path());
        if arguments[0] != "--listen" {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(&address) && said.contains(remedy), "{said}");
        let made = std::fs::read_dir(state.path()).unwrap().count();
        assert_eq!(made, 0, "nothing was compiled, and no store was opened");
    }
}
