#!/usr/bin/env bash
# google-api-core 2.44.0 (PyPI): `operation.from_grpc` makes a future that works with no server. It hands `metadata` to two functions of its
# own that do not take it.
#
# Seen here, with a server that answers GetOperation and CancelOperation:
#   from_grpc:  result() and cancel() raise TypeError: ... got an unexpected keyword argument 'metadata'; the server gets no request
#   from_gapic: result() returns the response
# Do this: use `from_gapic` with `operations_v1.OperationsClient(channel)`.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: google-api-core==2.44.0 grpcio==1.85.3 grpcio-status==1.85.3
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys
from concurrent import futures

import grpc
from google.api_core import operation, operations_v1
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import struct_pb2

asked = []
finished = operations_pb2.Operation(name="operations/1", done=True)
finished.response.Pack(struct_pb2.Struct(fields={"a": struct_pb2.Value(number_value=1)}))


class Operations(operations_pb2_grpc.OperationsServicer):
    def GetOperation(self, request, context):
        asked.append("GetOperation")
        return finished

    def CancelOperation(self, request, context):
        from google.protobuf import empty_pb2

        asked.append("CancelOperation")
        return empty_pb2.Empty()


server = grpc.server(futures.ThreadPoolExecutor(2))
operations_pb2_grpc.add_OperationsServicer_to_server(Operations(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
begun = operations_pb2.Operation(name="operations/1")

by_grpc = operation.from_grpc(begun, operations_pb2_grpc.OperationsStub(channel), struct_pb2.Struct)
said = []
for method in (lambda: by_grpc.result(timeout=10), by_grpc.cancel):
    try:
        said.append(repr(method()))
    except TypeError as error:
        said.append("TypeError" if "'metadata'" in str(error) else repr(error))
print("from_grpc ", said, asked)
as_told = said == ["TypeError", "TypeError"] and asked == []

by_gapic = operation.from_gapic(begun, operations_v1.OperationsClient(channel), struct_pb2.Struct)
response = by_gapic.result(timeout=10)
print("from_gapic", dict(response), asked)
as_told = as_told and dict(response) == {"a": 1.0} and asked == ["GetOperation"]
server.stop(None)
sys.exit(0 if as_told else 1)
PY
