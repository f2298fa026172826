"""Puts a proxy in front of a server: nginx, HAProxy or Envoy, with the few lines that its users need."""

import pathlib
import shutil
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 20

# One listener for HTTP/1.1 and one for gRPC. nginx 1.22 tells HTTP/1.1 and HTTP/2 without TLS apart only by listener.
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 16m;
    # Each protocol needs an upstream of its own: nginx keeps idle connections for each upstream, and would send HTTP/1.1 on
    # one that speaks HTTP/2.
    upstream penstock-http {{ server {backend}; keepalive 16; }}
    upstream penstock-grpc {{ server {backend}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{http};
        location / {{
            proxy_pass http://penstock-http;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
    server {{
        listen 127.0.0.1:{grpc} http2;
        location / {{ grpc_pass grpc://penstock-grpc; }}
    }}
}}
"""

HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend http
    bind 127.0.0.1:{http}
    default_backend http
frontend grpc
    bind 127.0.0.1:{grpc} proto h2
    default_backend grpc
backend http
    server penstock {backend}
backend grpc
    server penstock {backend} proto h2
"""

# Envoy tells the protocols of callers apart by itself; `use_downstream_protocol_config` speaks the same to the server.
ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {http} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: penstock
          codec_type: AUTO
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: penstock, timeout: 60s }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: penstock
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        use_downstream_protocol_config: {{ http_protocol_options: {{}}, http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: penstock
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }}
"""


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _envoy():
    # The Python package that ships Envoy installs it without its run bit and has a launcher that sets it.
    installed = ROOT / ".venv-clients/envoy/bin/envoy"
    return str(installed) if installed.exists() else shutil.which("envoy")


class Front:
    """A proxy process. `url` and `address` are for HTTP/1.1, `grpc` is for gRPC."""

    def __init__(self, kind, backend, folder):
        program = _envoy() if kind == "envoy" else shutil.which(kind)
        if program is None:
            pytest.skip(f"{kind} is not installed")
        http = _free_port()
        grpc = http if kind == "envoy" else _free_port()
        host, port = backend.rsplit(":", 1)
        text = {"nginx": NGINX, "haproxy": HAPROXY, "envoy": ENVOY}[kind]
        config = folder / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml"}[kind]
        config.write_text(
            text.format(folder=folder, backend=backend, host=host, port=port, http=http, grpc=grpc).lstrip()
        )
        command = {
            "nginx": [program, "-c", str(config), "-p", str(folder)],
            "haproxy": [program, "-db", "-f", str(config)],
            # Two Envoys on a machine would share memory.
            "envoy": [program, "-c", str(config), "--disable-hot-restart", "--log-level", "warning"],
        }[kind]
        self.address, self.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        self.url = f"http://{self.address}"
        self.log = folder / "output"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + START_TIMEOUT_S
        for one in [http, grpc]:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", one), 1).close()
                    break
                except OSError:
                    alive = self.process.poll() is None and time.monotonic() < until
                    assert alive, f"{kind} did not start:\n{self.log.read_text()}"
                    time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
