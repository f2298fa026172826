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
    """A new page. It must send requests only to the server and write nothing to the console."""
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


def opened(page, server, place=""):
    page.goto(f"{server.url}/docs{place}")
    until(page, "document.querySelectorAll('#list a').length > 10 && !/Loading/.test(document.getElementById('title').textContent)")
    return page


def choose(page, server, operation, model=None, version=None, form=None):
    """Opens an operation by its link, and one of the forms of its body."""
    query = "&".join(f"{name}={value}" for name, value in [("model", model), ("version", version)] if value)
    place = f"#operation/{operation}" + (f"?{query}" if query else "")
    page.evaluate("place => { location.hash = place; }", place)
    until(page, "place => location.hash === place && document.getElementById('status').textContent === 'Nothing sent yet.'", place)
    # The page shows what the link names in the next task.
    page.wait_for_timeout(50)
    if form:
        page.locator("#forms button", has_text=form).first.click()


def send(page):
    page.locator("#status").evaluate("element => element.textContent = ''")
    page.click("#send")
    until(page, "/^(\\d{3}|No answer)/.test(document.getElementById('status').textContent)")
    return page.inner_text("#status"), page.locator("#answer").text_content()


def png(width, height):
    """A white picture."""
    rows = b"".join(b"\0" + b"\xff\xff\xff" * width for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_the_page_opens_on_a_sample_that_runs(page, server):
    opened(page, server)
    status, answer = send(page)
    assert status.startswith("200"), answer
    json.loads(answer)
    assert page.said == []


# No model of the demo answers texts with classes or pairs with scores: there is no sample that could run.
# The page cannot send a file, and a batch needs one.
OF_FILES = {"createFile", "createBatch"}
OF_OTHER_MODELS = {"classify", "createModeration", "rerank", "rerankV2", "score"}


def test_the_first_send_of_every_operation_succeeds(page, server):
    """Each operation of the document, by its link, with nothing typed in."""
    opened(page, server)
    document = json.loads(page.evaluate("fetch('/openapi.json').then(answer => answer.text())"))
    # Nobody has the id of an operation, a file or a batch, or the name of a tenant, without typing it in.
    untyped = ("{operation}", "{tenant}", "{file}", "{batch}")
    paths = [path for path in document["paths"] if not any(part in path for part in untyped)]
    operations = [one for path in paths for one in document["paths"][path].values()]
    # The operation that unloads a model runs last, followed by the one that loads it.
    order = ["unloadModel", "loadModel"]
    operations.sort(key=lambda one: order.index(one["operationId"]) if one["operationId"] in order else -1)
    assert len(operations) > 50
    failed = []
    for one in operations:
        if one["operationId"] in OF_OTHER_MODELS | OF_FILES:
            continue
        choose(page, server, one["operationId"])
        if page.inner_text("#title") != one["summary"] and "x-model" in one:
            failed.append((one["operationId"], page.inner_text("#title")))
        status, answer = send(page)
        if not re.match("20[027]", status):
            failed.append((one["operationId"], status, answer[:300]))
    assert failed == []
    assert page.said == []


def test_every_form_of_every_models_body_runs(page, server):
    opened(page, server)
    ran = set()
    for model in page.eval_on_selector_all("#model option", "options => options.map(o => o.value)"):
        for operation in ("predictModel", "inferModel", "generateModel"):
            choose(page, server, operation, model)
            for form in page.locator("#forms button").all():
                # A form that is the only one has no button to see.
                name = form.text_content()
                if form.is_visible():
                    form.click()
                status, answer = send(page)
                assert status.startswith("200"), (model, operation, name, answer)
                ran.add(name)
    assert {"Tensors", "Content", "File"} <= ran
    assert page.said == []


def test_a_call_shows_request_answer_headers_and_the_version(page, server):
    opened(page, server)
    choose(page, server, "predictModel", "digits", form="Tensors")
    page.click("#more summary")
    page.click("#fresh")
    idempotency_key = page.input_value("#param-Idempotency-Key")
    assert re.fullmatch(r"[0-9a-f]{32}", idempotency_key)
    page.select_option("#version", "1")
    assert page.evaluate("location.hash") == "#operation/predictModelVersion?model=digits&version=1"
    page.click("#fresh")
    idempotency_key = page.input_value("#param-Idempotency-Key")
    page.click("#curl-box summary")
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
    assert page.said == []


def test_an_error_is_shown_with_what_is_wrong(page, server):
    opened(page, server)
    choose(page, server, "predictModel", "digits", form="Tensors")
    page.fill("#body", '{"inputs": {"pixels": [[1, 2, 3]]}}')
    status, answer = send(page)
    assert status.startswith("422")
    assert json.loads(answer)["error"]["details"][0]["pointer"] == "/inputs/pixels"
    page.click("#example")
    status, _ = send(page)
    assert status.startswith("200"), "the sample is back"


def test_a_file_is_dropped_shown_and_sent(page, server):
    opened(page, server)
    choose(page, server, "predictModel", "cls", form="File")
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
    assert "line.png" in page.inner_text("#drop")
    assert page.input_value("#type") == "image/png"
    status, answer = send(page)
    assert status.startswith("200"), answer
    assert page.said == []


def test_operations_are_found_by_words_and_opened_by_links(page, server):
    opened(page, server)
    page.keyboard.press("/")
    page.keyboard.type("statistics version")
    found = page.eval_on_selector_all("#list a", "all => all.map(a => a.getAttribute('href'))")
    assert found == ["#operation/getModelVersionStatistics"]
    page.keyboard.press("Enter")
    until(page, "document.getElementById('title').textContent === 'Get the statistics of a version of a model'")
    link = page.evaluate("location.href")
    page.fill("#search", "no such thing")
    assert page.inner_text("#found") == "No operation matches."
    assert page.locator("#list a").count() == 0
    page.goto("about:blank")
    page.goto(link)
    until(page, "document.getElementById('title').textContent === 'Get the statistics of a version of a model'")
    choose(page, server, "getModel", "digits")
    page.select_option("#model", "identity")
    assert page.evaluate("location.hash") == "#operation/getModel?model=identity"
    page.go_back()
    until(page, "document.getElementById('model').value === 'digits'")
    page.evaluate("location.hash = '#operation/%zz'")
    page.evaluate("location.hash = '#operation/nothing'")
    page.wait_for_timeout(100)
    assert page.input_value("#model") == "digits", "a link that leads nowhere changes nothing"
    assert page.said == []


def test_everything_can_be_done_with_the_keyboard(page, server):
    opened(page, server)
    choose(page, server, "predictModel", "digits", form="Tensors")
    page.focus(".skip")
    page.keyboard.press("Enter")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if seen[-1] == "send":
            break
    assert seen[-1] == "send", seen
    wanted = ["model", "version", "body"]
    assert wanted == [one for one in seen if one in wanted]
    page.keyboard.press("Enter")
    until(page, "/^\\d{3}/.test(document.getElementById('status').textContent)")
    unnamed = page.eval_on_selector_all(
        "input, select, textarea, button",
        "all => all.filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.id)",
    )
    assert unnamed == [], "a screen reader has no name for these"


def contrast(one, other):
    """The contrast of two colours (WCAG 2)."""

    def luminance(text):
        parts = [int(part) / 255 for part in re.findall(r"\d+", text)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_screen_breaks_no_word_and_can_be_read(browser, server, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    opened(page, server)
    PICTURES.mkdir(parents=True, exist_ok=True)
    assert page.locator("#send").bounding_box()["y"] < 844, "what to press is on the first screen"
    assert page.locator("#answer-title").bounding_box()["y"] < 844, "and so is the place of the answer"
    send(page)
    box = page.locator("#answer").bounding_box()
    assert 0 <= box["y"] < 844 / 2, "the answer is on the screen"
    page.screenshot(path=PICTURES / f"docs-{width}-{scheme}.png")
    for _ in range(2):
        # An opened element may contain more that opens.
        page.evaluate("document.querySelectorAll('#main details').forEach(box => { box.open = true; })")
        page.wait_for_timeout(200)
    page.evaluate("document.getElementById('reference').scrollIntoView()")
    page.screenshot(path=PICTURES / f"docs-{width}-{scheme}-reference.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off on the right"
    # Of each text element: its colours, and whether a word in it is on two lines.
    broken = page.evaluate(
        """() => [...document.querySelectorAll('#main dt, #main th, #main td, #main label, #main summary, #main button, h1, h2, h3, h4, #list a')]
            .filter(e => e.checkVisibility()).flatMap(e => {
                const words = [];
                const walk = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
                for (let text = walk.nextNode(); text; text = walk.nextNode()) {
                    for (const match of text.data.matchAll(/[A-Za-z]{2,24}/g)) {
                        const range = document.createRange();
                        range.setStart(text, match.index);
                        range.setEnd(text, match.index + match[0].length);
                        if (new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.top))).size > 1 && !e.querySelector('small')) words.push(match[0]);
                    }
                }
                return words;
            })"""
    )
    assert broken == [], "these words are on two lines"
    pairs = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(e => e.checkVisibility()
                && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
            let behind = e;
            while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
            return [getComputedStyle(e).color, behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)', e.textContent.slice(0, 40)];
        })"""
    )
    assert len(pairs) > 50
    faint = [(pair, round(contrast(pair[0], pair[1]), 1)) for pair in pairs if contrast(pair[0], pair[1]) < 4.5]
    assert faint == [], "text must stand out from what is behind it (WCAG 2 AA)"
    context.close()


def test_the_reference_says_what_goes_in_and_comes_out_and_leads_on(page, server):
    opened(page, server)
    choose(page, server, "predictModel", "identity")
    for summary in page.locator("#reference > details > summary").all():
        summary.click()
    text = page.inner_text("#reference")
    assert "Idempotency-Key" in text and "invalid_inputs" in text and "prediction_id" in text
    assert "$ref" not in text and "#/components" not in text, "a reference is a link, not its text"
    nested = page.locator("#reference summary", has_text="InputsForIdentity").first
    nested.click()
    until(page, "/array of array|array \\(4\\)|array.* of number/.test(document.getElementById('reference').innerText)")
    assert page.said == []


def test_an_api_key_is_used_and_kept_nowhere(browser, guarded):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{guarded.url}/docs")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "401" in page.inner_text("#trouble")
    page.fill("#key", guarded.api_key)
    page.keyboard.press("Enter")
    until(page, "(document.getElementById('model')?.options.length ?? 0) > 3")
    choose(page, guarded, "predictModel", "digits")
    status, answer = send(page)
    assert status.startswith("200"), answer
    assert page.is_visible("#limits"), "the answer says how the limits stand"
    assert "few" in page.inner_text("#limits")
    assert guarded.api_key not in page.inner_text("body")
    assert guarded.api_key not in page.inner_text("#request")
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept == [0, 0, "", f"{guarded.url}/docs#operation/predictModel?model=digits"]
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
        "paths": {
            evil: {"get": operation},
            "/v1/models/{model}:predict": {"post": {**operation, "operationId": "predict"}},
            "/v1/models/evil:predict": {"post": {
                **operation, "operationId": "own", "x-model": "evil",
                "requestBody": {"content": {"application/json": {"examples": {evil: {"summary": evil, "value": {evil: evil}}}}}},
            }},
        },
    }  # fmt: skip
    page.route("**/v1/models", lambda route: route.fulfill(json={"models": [model]}))
    page.route("**/openapi.json*", lambda route: route.fulfill(json=document))
    page.route("**/*:predict", lambda route: route.fulfill(status=200, json={evil: evil}, headers={"x-evil": evil}))
    page.goto(f"{server.url}/docs")
    until(page, "document.querySelectorAll('#list a').length > 0")
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    send(page)
    assert page.locator("img[src=x]").count() == 0
    assert page.title() != "1"
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
    assert page.title() != "taken"
    blocked = page.evaluate("fetch('https://example.com/').then(() => 'sent', error => 'blocked')")
    assert blocked == "blocked"
