#!/usr/bin/env bash
# tonic 0.14.9 (crates.io) and grpcio 1.85.1 (PyPI): the server of a unary method answers the first message of a call and drops a
# second one without an error. gRPC's status codes have UNIMPLEMENTED for a call with another number of messages than its method
# has, and both servers do refuse a call without a message: tonic with INTERNAL, grpcio with UNIMPLEMENTED and the words "requires
# exactly one request message".
#
# So a client that sends two requests in one unary call gets one answer and no hint that the other request was lost.
#
# Seen here, for a health check of the services in brackets:
#   grpcio: [""] SERVING, ["", "no such"] SERVING, ["no such", ""] NOT_FOUND, [] UNIMPLEMENTED
#   tonic:  [""] SERVING, ["", "no such"] SERVING, ["no such", ""] NOT_FOUND, [] INTERNAL
# Do this: count the messages in the client, or use a server that refuses the second one. Penstock does (decision 49).
#
# Exits 0 while the behaviour is as told, 1 when it has changed. Needs cargo; it compiles for about a minute.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "server"
version = "0.0.0"
edition = "2021"

[dependencies]
tokio = { version = "=1.48.0", features = ["macros", "net", "rt"] }
tokio-stream = { version = "=0.1.17", features = ["net"] }
tonic = "=0.14.9"
tonic-health = "=0.14.9"
TOML
cat >"$folder/src/main.rs" <<'RUST'
use tokio_stream::wrappers::TcpListenerStream;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (_, health) = tonic_health::server::health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let incoming = TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(health);
    server.serve_with_incoming(incoming).await.unwrap();
}
RUST
cargo build --quiet --manifest-path "$folder/Cargo.toml" --target-dir "$folder/target"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    grpcio==1.85.1 grpcio-health-checking==1.85.1
"$folder/venv/bin/python" - "$folder/target/debug/server" <<'PY'
import subprocess
import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def answers(address):
    """What a unary method answers to calls with one, two, two and no messages."""
    with grpc.insecure_channel(address) as channel:
        check = channel.stream_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        seen = []
        for services in [""], ["", "no such"], ["no such", ""], []:
            messages = [health_pb2.HealthCheckRequest(service=service) for service in services]
            try:
                status = check(iter(messages), timeout=30).status
                seen.append(health_pb2.HealthCheckResponse.ServingStatus.Name(status))
            except grpc.RpcError as error:
                seen.append(error.code().name)
        return seen


servicer = health.HealthServicer()
servicer.set("", health_pb2.HealthCheckResponse.SERVING)
server = grpc.server(futures.ThreadPoolExecutor(2))
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
of_grpcio = answers(f"127.0.0.1:{port}")
server.stop(0)
tonic = subprocess.Popen([sys.argv[1]], stdout=subprocess.PIPE, text=True)
try:
    of_tonic = answers(tonic.stdout.readline().strip())
finally:
    tonic.kill()
print("grpcio:", of_grpcio)
print("tonic: ", of_tonic)
two = ["SERVING", "SERVING", "NOT_FOUND"]
sys.exit(of_grpcio != two + ["UNIMPLEMENTED"] or of_tonic != two + ["INTERNAL"])
PY
