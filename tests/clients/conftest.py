"""Starts the built server, once for all tests, and tells where it listens."""

import base64
import http.server
import json
import os
import pathlib
import queue
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 180


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests marked `all`, too: slow, or of large packages")


def pytest_configure(config):
    config.addinivalue_line("markers", "all: is run with --all only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("all"):
            item.add_marker(pytest.mark.skip(reason="run with scripts/clients --all"))


OPEN = """
[auth.anonymous]
scopes = ["*"]
from = "anywhere"
[auth.tiers.free]
priority = 2
[models]
control = true
[usage]
enabled = true
"""
# No calls without a key, and few calls with one.
CLOSED = """
[auth.tiers.free]
priority = 2
[[limits]]
name = "few"
per = ["tenant"]
algorithm = "fixed-window"
limit = 30
window_s = 3600
"""
# The ends of operations are announced to one receiver. The file with the secret is beside the policy.
WEBHOOKS = """
[webhooks]
allow_hosts = ["{address}"]
[[webhooks.tenants]]
tenant = "anonymous"
secrets_file = "anonymous.secret"
"""


class Server:
    """A process of `penstock up`, on a free port, with stores of its own."""

    def __init__(self, folder, policy, tenants, models=None):
        self.folder = folder
        self.log = []
        (folder / "penstock.toml").write_text(policy)
        (folder / "runtime.toml").write_text(
            f'[key_value_store.default]\ntype = "penstock"\npath = "{folder / "default.kv"}"\n'
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PENSTOCK_", "SPIN_VARIABLE_", "RUST_LOG"))
        }
        command = [os.environ["PENSTOCK_BINARY"], "up", "--listen", "127.0.0.1:0", "--admin-listen", "off"]
        command += ["--models", models or os.environ.get("PENSTOCK_MODELS", str(ROOT / "models"))]
        command += ["--policy", str(folder / "penstock.toml")]
        # Servers share their compiled components and nothing else.
        places = ["--app", os.environ.get("PENSTOCK_APP", str(ROOT / "spin.toml"))]
        places += ["--runtime-config-file", str(folder / "runtime.toml")]
        places += ["--state-dir", str(ROOT / "target" / "penstock-client-state")]
        command += places
        if library := os.environ.get("PENSTOCK_ONNXRUNTIME"):
            command += ["--onnxruntime", library]
        self.api_keys = {}
        for tenant in tenants:
            self._run(environment, places, "tenants", "create", tenant)
            options = ["--tenant", tenant, "--tier", "free", "--scope", "*"]
            printed = self._run(environment, places, "keys", "create", *options)
            self.api_keys[tenant] = re.search(r"pnst_[A-Za-z0-9_]+", printed)[0]
        self.api_key = self.api_keys[tenants[0]]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        threading.Thread(target=self._read, daemon=True).start()
        self.address = self._wait_for(r"serving http://(127\.0\.0\.1:\d+)")
        self.url = f"http://{self.address}"
        self._wait_until_ready()

    @staticmethod
    def _run(environment, places, *arguments):
        command = [os.environ["PENSTOCK_BINARY"], *arguments, "--offline", *places]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)

    def _wait_for(self, pattern):
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            for line in list(self.log):
                if found := re.search(pattern, line):
                    return found[1]
            assert self.process.poll() is None, "the server ended:\n" + "".join(self.log)
            time.sleep(0.05)
        raise AssertionError("the server did not start:\n" + "".join(self.log))

    def _wait_until_ready(self):
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self.url}/ready", timeout=10)
                return
            except urllib.error.HTTPError as answer:
                # Without credentials it says only whether all is ready.
                assert answer.code == 503, answer
            time.sleep(0.1)
        raise AssertionError("the models are not ready:\n" + "".join(self.log))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Receiver:
    """A receiver of webhooks. It takes every message."""

    def __init__(self):
        messages = self.messages = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                messages.put((dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


class Announced:
    """The message about an operation, as its receiver got it, and what verifies it."""

    def __init__(self, server):
        headers = {"Content-Type": "application/json", "Prefer": "respond-async"}
        headers["Webhook-Url"] = f"http://{server.receiver.address}/"
        body = json.dumps({"inputs": {"a": [[1, 2, 3, 4]]}}).encode()
        call = urllib.request.Request(f"{server.url}/v1/models/identity:predict", body, headers)
        with urllib.request.urlopen(call, timeout=30) as answer:
            assert answer.status == 202, answer.status
            self.operation_id = json.load(answer)["metadata"]["id"]
        self.headers, self.body = server.receiver.messages.get(timeout=30)
        self.secret = server.webhook_secret


class Running:
    """A server that was started outside of the tests."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        self.address = self.url.removeprefix("http://")
        self.api_key = os.environ.get("PENSTOCK_API_KEY")
        self.log = []


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server that admits every caller."""
    if url := os.environ.get("PENSTOCK_URL"):
        yield Running(url)
        return
    started = Server(tmp_path_factory.mktemp("open"), OPEN, ["acme"])
    yield started
    started.stop()
    # The last line counts the requests that trapped.
    fallen = [line for line in started.log if "panicked" in line or "trap" in line.replace(" 0 requests trapped", "")]
    assert not fallen, "".join(fallen)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A server with the policy of the repository: callers from this machine need no API key."""
    if url := os.environ.get("PENSTOCK_URL"):
        yield Running(url)
        return
    started = Server(tmp_path_factory.mktemp("demo"), (ROOT / "penstock.toml").read_text(), ["acme"])
    yield started
    started.stop()


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A server with the models of tests/data/texts that admits every caller."""
    if "PENSTOCK_URL" in os.environ:
        pytest.skip("needs a server of its own, and PENSTOCK_URL names another")
    models = str(ROOT / "tests/data/texts")
    started = Server(tmp_path_factory.mktemp("texts"), (ROOT / "penstock.toml").read_text(), ["acme"], models)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory):
    """A server that wants API keys, and one of them for each of two tenants: `greedy` is the one to use up limits with."""
    if "PENSTOCK_URL" in os.environ:
        pytest.skip("needs a server of its own, and PENSTOCK_URL names another")
    started = Server(tmp_path_factory.mktemp("closed"), CLOSED, ["acme", "greedy"])
    yield started
    started.stop()


@pytest.fixture(scope="session")
def announcing(tmp_path_factory):
    """A server that admits every caller, and announces the ends of operations to its `receiver`."""
    if "PENSTOCK_URL" in os.environ:
        pytest.skip("needs a server of its own, and PENSTOCK_URL names another")
    folder = tmp_path_factory.mktemp("announcing")
    receiver = Receiver()
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    (folder / "anonymous.secret").write_text(secret + "\n")
    started = Server(folder, OPEN + WEBHOOKS.format(address=receiver.address), ["acme"])
    started.receiver, started.webhook_secret = receiver, secret
    yield started
    started.stop()
    receiver.stop()


@pytest.fixture
def announced(announcing):
    """The message about an operation that has just ended."""
    return Announced(announcing)


@pytest.fixture(scope="session")
def digits():
    """Digits that the model was not trained on: pixels and labels."""
    import numpy  # Not every group of clients has it.

    rows = numpy.loadtxt(ROOT / "tests/data/digits-heldout.csv", delimiter=",", dtype=numpy.float32)
    return rows[:, 1:], rows[:, 0].astype(int)
