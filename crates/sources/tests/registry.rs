//! Pulls from Debian's `docker-registry`: artifacts as ORAS, ModelPack and Docker push them.

use crate::common;

use common::{ModelFolder, Running, bytes, source, start, without};
use penstock_sources::plan::UpToDateReason;
use penstock_sources::{Digest, Source};
use penstock_testkit::free_port;
use serde_json::{Value, json};
use std::process::Command;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// `user` and `password`, as `htpasswd -B` writes them.
const LOGINS: &str = "user:$2y$05$kXWLz5DnPL4Hu3iqAA1NsuDbeNlFk/flWgyPLb2u1z8rt6arJPUR2\n";

struct Registry {
    port: u16,
    login: Option<&'static str>,
    _files: tempfile::TempDir,
    _server: Running,
}

impl Registry {
    fn start(login: Option<&'static str>) -> Self {
        let files = tempfile::tempdir().unwrap();
        let port = free_port();
        let storage = files.path().join("storage");
        let logins = files.path().join("htpasswd");
        std::fs::write(&logins, LOGINS).unwrap();
        let auth = login.map(|_| {
            format!(
                "auth:\n  htpasswd:\n    realm: r\n    path: {}\n",
                logins.display()
            )
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{}",
            storage.display(),
            auth.unwrap_or_default()
        );
        let path = files.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path);
        let url = format!("http://127.0.0.1:{port}/v2/");
        let server = start(&mut command, "docker-registry", "registry", &url);
        Self {
            port,
            login,
            _files: files,
            _server: server,
        }
    }

    fn put(&self, path: &str, kind: &str, body: &[u8]) {
        let mut request =
            ureq::put(format!("http://127.0.0.1:{}{path}", self.port)).header("Content-Type", kind);
        if let Some(login) = self.login {
            request = request.header("Authorization", login);
        }
        request.send(body).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    fn blob(&self, repository: &str, body: &[u8]) -> Value {
        let mut request = ureq::post(format!(
            "http://127.0.0.1:{}/v2/{repository}/blobs/uploads/",
            self.port
        ));
        if let Some(login) = self.login {
            request = request.header("Authorization", login);
        }
        let answer = request.send_empty().unwrap();
        let to = answer.headers()["location"].to_str().unwrap().to_owned();
        let sum = Digest::of(body);
        let to = to
            .split_once("/v2/")
            .map(|(_, rest)| format!("/v2/{rest}&digest=sha256:{sum}"))
            .unwrap();
        self.put(&to, "application/octet-stream", body);
        json!({ "digest": format!("sha256:{sum}"), "size": body.len() })
    }

    /// Pushes an artifact; gives the digest of its manifest.
    fn push(&self, repository: &str, tag: &str, layers: &[(&str, Value, &[u8])]) -> String {
        let config = self.blob(repository, b"{}");
        let layers: Vec<Value> = layers
            .iter()
            .map(|(kind, annotations, body)| {
                let mut layer = self.blob(repository, body);
                layer["mediaType"] = json!(kind);
                layer["annotations"] = annotations.clone();
                layer
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config["digest"], "size": 2 },
        });
        self.manifest(repository, tag, MANIFEST, &manifest)
    }

    fn manifest(&self, repository: &str, tag: &str, kind: &str, manifest: &Value) -> String {
        let text = serde_json::to_vec(manifest).unwrap();
        self.put(&format!("/v2/{repository}/manifests/{tag}"), kind, &text);
        format!("sha256:{}", Digest::of(&text))
    }

    fn from(&self, rest: &str) -> Source {
        source(&format!("oci://127.0.0.1:{}/{rest}", self.port))
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (path, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        out.append_data(&mut header, path, *body).unwrap();
    }
    out.into_inner().unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    use structured_zstd::encoding::{CompressionLevel, FrameCompressor};
    let mut encoder: FrameCompressor<&[u8], Vec<u8>> =
        FrameCompressor::new(CompressionLevel::Level(1));
    encoder.compress_independent_frame(bytes)
}

#[test]
fn artifacts_of_each_kind_become_models() {
    if without("registry") {
        return;
    }
    let registry = Registry::start(None);
    let graph = bytes(600_000, 1);
    let title = |name: &str| json!({ "org.opencontainers.image.title": name });
    let path = |name: &str| json!({ "org.cncf.model.filepath": name });
    let raw = "application/vnd.cncf.model.weight.v1.raw";
    let tarred = "application/vnd.cncf.model.weight.v1.tar";
    let image = "application/vnd.oci.image.layer.v1.tar+gzip";
    let oras = registry.push(
        "models/m",
        "v1",
        &[
            ("application/octet-stream", title("model.onnx"), &graph),
            ("application/toml", title("model.toml"), b"one"),
        ],
    );
    registry.push(
        "models/m",
        "pack-raw",
        &[
            (raw, path("model.onnx"), &graph),
            (
                "application/vnd.cncf.model.weight.config.v1.raw",
                path("config.json"),
                b"{}",
            ),
        ],
    );
    registry.push(
        "models/m",
        "pack-tar",
        &[(tarred, path("model.onnx"), &tar(&[("model.onnx", &graph)]))],
    );
    registry.push(
        "models/m",
        "pack-zstd",
        &[(
            "application/vnd.cncf.model.weight.v1.tar+zstd",
            path("model.onnx"),
            &zst(&tar(&[("model.onnx", &graph)])),
        )],
    );
    registry.push(
        "models/m",
        "image",
        &[(
            image,
            json!({}),
            &gz(&tar(&[
                ("models/1/model.onnx", &graph),
                ("models/model.toml", b"i"),
            ])),
        )],
    );
    registry.push(
        "models/m",
        "evil",
        &[(raw, path("../../model.onnx"), &graph)],
    );
    for (tag, files) in [
        (
            "v1",
            &["m/1/.penstock.json", "m/1/model.onnx", "m/model.toml"][..],
        ),
        (
            "pack-raw",
            &["m/1/.penstock.json", "m/1/config.json", "m/1/model.onnx"],
        ),
        ("pack-tar", &["m/1/.penstock.json", "m/1/model.onnx"]),
        ("pack-zstd", &["m/1/.penstock.json", "m/1/model.onnx"]),
        (
            "image",
            &["m/1/.penstock.json", "m/1/model.onnx", "m/model.toml"],
        ),
    ] {
        let place = ModelFolder::new();
        let from = registry.from(&format!("models/m:{tag}"));
        let first = place.pull(&from);
        assert_eq!(place.all(), files, "{tag}");
        assert_eq!(place.read("m/1/model.onnx"), graph, "{tag}");
        let again = place.pull(&from);
        assert_eq!(
            (again.kept, again.fetched_bytes),
            (Some(UpToDateReason::Same), 0),
            "{tag}"
        );
        assert_eq!(again.sha256, first.sha256);
    }
    // Of two archives, one changes: both come again, because archives are not kept.
    let place = ModelFolder::new();
    let layer = |name: &str, body: &[u8]| (tarred, json!({}), tar(&[(name, body)]));
    for body in [&b"{}"[..], b"[]"] {
        let layers = [layer("model.onnx", &graph), layer("config.json", body)];
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, notes, tar)| (*kind, notes.clone(), tar.as_slice()))
            .collect();
        registry.push("models/m", "two", &layers);
        place.pull(&registry.from("models/m:two"));
        assert_eq!(place.read("m/1/config.json"), body);
        assert_eq!(place.read("m/1/model.onnx"), graph);
    }
    let place = ModelFolder::new();
    assert!(
        place
            .try_pull(&registry.from("models/m:evil"))
            .unwrap_err()
            .contains("leads out")
    );
    let said = place.try_pull(&registry.from("models/m:none")).unwrap_err();
    assert!(
        said.contains("404") && said.contains("correct the address"),
        "{said}"
    );

    // A digest is a pin: a tag that moves does not move it.
    let pinned = registry.from(&format!("models/m@{oras}"));
    let by_sum = Source {
        sha256: Digest::parse(&oras),
        ..registry.from("models/m:v1")
    };
    assert_eq!(place.pull(&pinned).sha256, Digest::parse(&oras).unwrap());
    registry.push(
        "models/m",
        "v1",
        &[("application/octet-stream", title("model.onnx"), b"other")],
    );
    assert_eq!(
        place.pull(&by_sum).kept,
        Some(UpToDateReason::Pinned),
        "whatever the source is called now"
    );
    std::fs::remove_dir_all(place.path("m")).unwrap();
    let said = place.try_pull(&by_sum).unwrap_err();
    assert!(said.contains("is pinned"), "{said}");
    place.pull(&pinned);
    assert_eq!(place.read("m/1/model.onnx"), graph);
}

#[test]
fn an_index_leads_to_the_manifest_for_this_machine() {
    if without("registry") {
        return;
    }
    let registry = Registry::start(None);
    let title = json!({ "org.opencontainers.image.title": "model.onnx" });
    let push = |tag: &str, body: &[u8]| {
        registry.push(
            "m",
            tag,
            &[("application/octet-stream", title.clone(), body)],
        )
    };
    let (here, there) = (push("a", b"here"), push("b", b"elsewhere"));
    let size = |digest: &str| {
        let url = format!("http://127.0.0.1:{}/v2/m/manifests/{digest}", registry.port);
        let mut answer = ureq::get(url).header("Accept", MANIFEST).call().unwrap();
        answer.body_mut().read_to_vec().unwrap().len()
    };
    let architecture = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let entry = |digest: &str, architecture: &str| {
        json!({ "mediaType": MANIFEST, "digest": digest, "size": size(digest),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&there, "s390x"), entry(&here, architecture)] });
    registry.manifest("m", "all", INDEX, &index);
    let place = ModelFolder::new();
    place.pull(&registry.from("m:all"));
    assert_eq!(place.read("m/1/model.onnx"), b"here");
}

#[test]
fn a_registry_that_wants_a_login_gets_it_from_the_environment_or_from_docker() {
    if without("registry") {
        return;
    }
    let registry = Registry::start(Some("Basic dXNlcjpwYXNzd29yZA=="));
    let title = json!({ "org.opencontainers.image.title": "model.onnx" });
    registry.push("m", "v1", &[("application/octet-stream", title, b"graph")]);
    let mut place = ModelFolder::new();
    let from = registry.from("m:v1");
    assert!(place.try_pull(&from).unwrap_err().contains("401"));
    place
        .environment
        .insert("LOGIN".to_owned(), "user:wrong".to_owned());
    let named = Source {
        credentials_env: Some("LOGIN".to_owned()),
        ..from.clone()
    };
    assert!(place.try_pull(&named).unwrap_err().contains("credentials"));
    place
        .environment
        .insert("LOGIN".to_owned(), "user:password".to_owned());
    place.pull(&named);
    let docker = place.folder.path().join("docker");
    std::fs::create_dir_all(&docker).unwrap();
    let config = json!({ "auths": { format!("127.0.0.1:{}", registry.port): { "auth": "dXNlcjpwYXNzd29yZA==" } } });
    std::fs::write(docker.join("config.json"), config.to_string()).unwrap();
    place
        .environment
        .insert("DOCKER_CONFIG".to_owned(), docker.display().to_string());
    assert_eq!(place.pull(&from).kept, Some(UpToDateReason::Same));
}
