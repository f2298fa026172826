"""`EventSource` of a browser follows operations, also over a connection that is cut."""

import json
import os
import socket
import threading
import urllib.request

import pytest

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = os.environ.get("PENSTOCK_CHROMIUM")
pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no browser; install Chromium")

# Keeps what arrives, and closes nothing: the standard says when a client stops.
FOLLOW = """location => {
    window.told = [];
    const stream = window.stream = new EventSource(location);
    for (const name of ['created', 'queued', 'running', 'succeeded', 'failed', 'cancelled'])
        stream.addEventListener('operation.' + name, event =>
            told.push({name, id: event.lastEventId, data: JSON.parse(event.data)}));
}"""


class Cutting:
    """A proxy in front of a server. It passes bytes on, and cuts every connection when it is told to."""

    def __init__(self, address):
        host, port = address.split(":")
        self.upstream = (host, int(port))
        self.sockets, self.requests = [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.upstream)
            self.sockets += [client, server]
            for source, sink, kept in [(client, server, self.requests), (server, client, None)]:
                threading.Thread(target=self._pass, args=(source, sink, kept), daemon=True).start()

    @staticmethod
    def _pass(source, sink, kept):
        try:
            while data := source.recv(65536):
                if kept is not None:
                    kept.append(data)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.sockets.clear()

    def stop(self):
        self.listener.close()
        self.cut()


@pytest.fixture
def page():
    with playwright.sync_playwright() as driver:
        # As root in a container there is no sandbox to be had; the only page it opens is ours.
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


@pytest.fixture
def cutting(server):
    proxy = Cutting(server.address)
    yield proxy
    proxy.stop()


def until(page, expression):
    for _ in range(1500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"it never came to be that {expression}: {page.evaluate('window.told')}")


def accepted(server):
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"inputs": {"a": [[1, 2, 3, 4]]}}).encode()
    call = urllib.request.Request(f"{server.url}/v1/models/identity:predictAsync", body, headers)
    with urllib.request.urlopen(call, timeout=30) as answer:
        assert answer.status == 202, answer.status
        return answer.headers["location"]


def test_a_page_follows_an_operation_to_its_end_and_then_stops_asking(page, cutting, server):
    location = accepted(server)
    page.goto(f"{cutting.url}/docs")
    page.evaluate(FOLLOW, location)
    until(page, "told.some(event => event.name === 'succeeded')")
    # The server closes after the end. The browser asks once more, and the 204 ends it.
    until(page, "stream.readyState === EventSource.CLOSED")
    told = page.evaluate("told")
    ends = [event for event in told if event["name"] == "succeeded"]
    assert len(ends) == 1, told
    with urllib.request.urlopen(server.url + location, timeout=30) as answer:
        assert ends[0]["data"] == json.load(answer)
    sent = b"".join(cutting.requests).lower()
    assert f"last-event-id: {ends[0]['id']}".encode() in sent


def test_a_page_whose_connection_is_cut_goes_on_without_repeated_events(page, cutting, server):
    location = accepted(server)
    page.goto(f"{cutting.url}/docs")
    page.evaluate(FOLLOW, location)
    until(page, "told.length > 0")
    cutting.cut()
    until(page, "told.some(event => event.name === 'succeeded')")
    until(page, "stream.readyState === EventSource.CLOSED")
    ids = [event["id"] for event in page.evaluate("told")]
    assert len(ids) == len(set(ids)), ids
    assert ids[-1].endswith(".end"), ids
