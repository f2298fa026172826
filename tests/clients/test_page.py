"""The page at /docs, in a browser that a person would use, without a screen."""

import json
import os
import pathlib
import re
import struct
import zlib

import pytest

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = os.environ.get("PENSTOCK_CHROMIUM")
pytestmark = pytest.mark.skipif(not BROWSER, reason="there is no browser; install Chromium")
PICTURES = pathlib.Path(__file__).resolve().parents[2] / "build" / "clients"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # As root in a container there is no sandbox to be had; the only page it opens is ours.
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A page of its own, which must ask nobody but the server and say nothing in the console."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme="light")
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.said = said
    yield page
    strangers = [url for url in asked if not url.startswith((server.url, "data:", "blob:" + server.url))]
    assert strangers == []
    context.close()


def until(page, expression, arg=None):
    """Waits until an expression holds. Playwright's own way of doing that evaluates text within the page, which its policy
    forbids."""
    for _ in range(1500):
        if page.evaluate(expression, arg):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"it never came to be that {expression}")


def shown(page, selector):
    """Waits until something can be seen: a picture has no size before it is decoded."""
    for _ in range(1500):
        if page.is_visible(selector):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"{selector} was never seen")


def opened(page, server):
    page.goto(f"{server.url}/docs")
    until(page, "document.getElementById('body').value.length > 0 || !document.getElementById('with-file').hidden")
    return page


def choose(page, model, surface=None):
    with page.expect_response(lambda answer: f"model={model}" in answer.url) as loaded:
        page.select_option("#model", model)
    loaded.value.finished()
    if surface:
        until(
            page,
            "([m, s]) => document.getElementById('model').value === m"
            " && [...document.getElementById('surface').options].some(o => o.value === s)"
            " && document.getElementById('ports').children.length > 0",
            [model, surface],
        )
        page.select_option("#surface", surface)


def send(page):
    page.locator("#status").evaluate("element => element.textContent = ''")
    page.click("#send")
    until(page, "/^(\\d{3}|No answer)/.test(document.getElementById('status').textContent)")
    return page.inner_text("#status"), page.inner_text("#answer")


def png(width, height):
    """A white picture."""
    rows = b"".join(b"\0" + b"\xff\xff\xff" * width for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_the_page_shows_the_models_and_runs_the_example_of_each(page, server):
    opened(page, server)
    names = page.eval_on_selector_all("#model option", "options => options.map(o => o.value)")
    assert {"identity", "digits", "cls"} <= set(names)
    for name, surface in [("digits", "predict"), ("digits", "infer"), ("identity", "batch"), ("minilm", "predict")]:
        choose(page, name, surface)
        status, answer = send(page)
        assert status.startswith("200"), (name, surface, answer)
        json.loads(answer)
    assert page.said == []


def test_a_call_shows_request_answer_headers_and_the_version(page, server):
    opened(page, server)
    choose(page, "digits", "predict")
    page.click("#fresh")
    idempotency_key = page.input_value("#idempotency")
    assert re.fullmatch(r"[0-9a-f]{32}", idempotency_key)
    page.select_option("#version", "1")
    request = page.inner_text("#request")
    assert f"{server.url}/v1/models/digits/versions/1:predict" in request
    assert f"idempotency-key: {idempotency_key}" in request
    status, _ = send(page)
    assert status.startswith("200") and "version 1" in status
    page.click("#headers-box summary")
    headers = page.inner_text("#headers")
    assert "x-request-id" in headers and "x-prediction-id" in headers
    again, _ = send(page)
    assert again.startswith("200")
    assert "idempotency-replayed" in page.inner_text("#headers")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "docs-light.png", full_page=True)
    page.click("#theme")
    page.screenshot(path=PICTURES / "docs-dark.png")
    assert page.said == []


def test_an_error_is_shown_with_what_is_wrong(page, server):
    opened(page, server)
    choose(page, "digits", "predict")
    page.fill("#body", '{"inputs": {"pixels": [[1, 2, 3]]}}')
    status, answer = send(page)
    assert status.startswith("422")
    assert json.loads(answer)["error"]["details"][0]["pointer"] == "/inputs/pixels"


def test_a_file_is_dropped_shown_and_sent(page, server):
    opened(page, server)
    choose(page, "cls", "file")
    picture = list(png(192, 48))
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], 'line.png', { type: 'image/png' }));
            document.getElementById('drop').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        picture,
    )
    shown(page, "#preview")
    assert page.input_value("#type") == "image/png"
    status, answer = send(page)
    assert status.startswith("200"), answer
    page.screenshot(path=PICTURES / "docs-file.png")
    assert page.said == []


def test_embeddings_are_offered_where_a_model_has_them(page, server):
    opened(page, server)
    choose(page, "minilm", "embeddings")
    status, answer = send(page)
    assert status.startswith("200"), answer
    assert len(json.loads(answer)["data"]) == 2
    choose(page, "digits", "predict")
    offered = page.eval_on_selector_all("#surface option", "options => options.map(o => o.value)")
    assert "embeddings" not in offered


def test_everything_can_be_done_with_the_keyboard(page, server):
    opened(page, server)
    choose(page, "digits", "predict")
    page.focus(".skip")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if seen[-1] == "send":
            break
    assert seen[-1] == "send", seen
    assert ["key", "use", "model", "version", "surface", "body", "idempotency"] == [
        one for one in seen if one in ("key", "use", "model", "version", "surface", "body", "idempotency")
    ]
    page.keyboard.press("Enter")
    until(page, "/^\\d{3}/.test(document.getElementById('status').textContent)")
    unnamed = page.eval_on_selector_all(
        "input, select, textarea, button",
        "all => all.filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.id)",
    )
    assert unnamed == [], "a screen reader has no name for these"


def test_the_api_is_there_to_be_read(page, server):
    opened(page, server)
    until(page, "document.querySelectorAll('#api details').length > 10")
    operation = page.locator("#api details", has_text="/v1/models/{model}:predict").first
    operation.locator("summary").click()
    operation.locator("h4", has_text="Answers").wait_for()
    text = operation.inner_text()
    assert "Idempotency-Key" in text and "invalid_inputs" in text and "prediction_id" in text
    assert page.said == []


def test_an_api_key_is_used_and_kept_nowhere(browser, guarded):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{guarded.url}/docs")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "401" in page.inner_text("#trouble")
    page.fill("#key", guarded.api_key)
    page.keyboard.press("Enter")
    until(page, "document.getElementById('model').options.length > 3")
    choose(page, "digits", "predict")
    status, answer = send(page)
    assert status.startswith("200"), answer
    assert page.is_visible("#limits-title"), "the answer says how the limits stand"
    assert "few" in page.inner_text("#limits")
    assert guarded.api_key not in page.inner_text("body")
    assert guarded.api_key not in page.inner_text("#request")
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept == [0, 0, "", f"{guarded.url}/docs"]
    context.close()


def test_what_the_server_says_never_becomes_markup(page, server):
    evil = '<img src=x onerror="document.title=1">'
    model = {
        "name": "evil", "description": evil, "versions": [evil], "inputs": [{"name": evil, "datatype": evil, "shape": [evil], "description": evil}],
        "outputs": [], "axes": {evil: {"min": evil}}, "limits": {evil: evil},
    }  # fmt: skip
    operation = {
        "tags": [evil], "operationId": evil, "summary": evil, "description": f"`{evil}`{evil}", "parameters": [{"name": evil, "in": evil, "description": evil}],
        "responses": {evil: {"description": evil}},
    }  # fmt: skip
    document = {
        "info": {"version": evil, "description": evil}, "tags": [{"name": evil, "description": evil}],
        "paths": {evil: {"get": operation}, "/v1/models/evil:predict": {"post": {"requestBody": {"content": {"application/json": {"examples": {"a": {"value": {evil: evil}}}}}}}}},
    }  # fmt: skip
    page.route("**/v1/models", lambda route: route.fulfill(json={"models": [model]}))
    page.route("**/openapi.json*", lambda route: route.fulfill(json=document))
    page.route("**/*:predict", lambda route: route.fulfill(status=200, json={evil: evil}, headers={"x-evil": evil}))
    page.goto(f"{server.url}/docs")
    until(page, "document.querySelectorAll('#api details').length > 0")
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    send(page)
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == "Penstock"
    assert evil in page.inner_text("#answer").replace('\\"', '"')


def test_the_policy_keeps_out_what_the_page_does_not_carry(page, server):
    opened(page, server)
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            try { script.textContent = 'document.title = "taken"'; } catch { return; }
            document.body.append(script);
        }"""
    )
    assert page.title() == "Penstock"
    blocked = page.evaluate("fetch('https://example.com/').then(() => 'sent', error => 'blocked')")
    assert blocked == "blocked"
