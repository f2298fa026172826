"""The description of the API: whether it is valid, whether its examples run, and Schemathesis's findings."""

import gzip
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.error
import urllib.request

import jsonschema_rs
import openapi_spec_validator
import pytest
import zstandard

HERE = pathlib.Path(__file__).resolve().parent
REPORTS = HERE.parents[1] / "build" / "clients"
# Examples for each operation and phase; more find more, and take longer.
MAX_EXAMPLES = os.environ.get("PENSTOCK_EXAMPLES", "10")
# Named, so that a failure can be had again; another finds other things.
SEED = os.environ.get("PENSTOCK_SEED", "6")


def ask(server, path, headers=(), body=None, method=None):
    request = urllib.request.Request(server.url + path, data=body, headers=dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


@pytest.fixture(scope="module")
def document(server):
    status, _, body = ask(server, "/openapi.json")
    assert status == 200
    return json.loads(body)


def test_the_document_is_openapi(document):
    openapi_spec_validator.validate(document)
    for name in document["components"]["schemas"]:
        reference = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.Draft202012Validator(reference)


def test_every_example_runs_and_its_answer_has_the_schema_it_promises(server, document):
    ran = 0
    for path, item in document["paths"].items():
        operation = item.get("post", {})
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for name, example in content.get("examples", {}).items():
            body = json.dumps(example["value"]).encode()
            # Beside the paths of any model an example has its model's name.
            real = path.replace("{model}", name)
            status, headers, answer = ask(server, real, {"content-type": "application/json"}, body)
            assert status == 200, (real, answer[:500])
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            schema = {**schema, "components": document["components"]}
            jsonschema_rs.Draft202012Validator(schema).validate(json.loads(answer))
            for header in operation["responses"]["200"]["headers"]:
                if header in ("X-Request-Id", "X-Model-Version"):
                    assert headers[header], (path, header)
            ran += 1
    assert ran >= 15, "three for each model"


def test_an_error_has_the_form_the_document_gives_it(server, document):
    for path, headers, status in [
        ("/v1/models/nothing:predict", {}, "404"),
        ("/v2/models/nothing/infer", {}, "404"),
        ("/v1/models/nothing:predict", {"accept": "application/problem+json"}, "404"),
        ("/v1/models/digits:predict", {}, "400"),
        ("/v2/models/digits/infer", {}, "400"),
    ]:
        headers = {"content-type": "application/json", **headers}
        got, answered, body = ask(server, path, headers, b"{}")
        assert str(got) == status, body
        where = path if path in document["paths"] else path.replace("nothing", "{model}")
        response = document["paths"][where]["post"]["responses"][status]
        response = document["components"]["responses"][response["$ref"].split("/")[-1]]
        schema = response["content"][answered.get_content_type()]["schema"]
        schema = {**schema, "components": document["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate(json.loads(body))


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_answers_are_compressed_and_tagged(server, coding):
    status, headers, body = ask(server, "/openapi.json", {"accept-encoding": coding})
    assert (status, headers["content-encoding"]) == (200, coding)
    assert "accept-encoding" in headers["vary"].lower()
    whole = gzip.decompress(body) if coding == "gzip" else zstandard.ZstdDecompressor().stream_reader(body).read()
    plain_status, plain_headers, plain = ask(server, "/openapi.json")
    assert plain_status == 200 and "content-encoding" not in plain_headers
    assert whole == plain and len(body) < len(plain) / 4
    assert headers["etag"] != plain_headers["etag"]
    for tag in [headers["etag"], plain_headers["etag"], "W/" + plain_headers["etag"]]:
        again, kept, nothing = ask(server, "/openapi.json", {"accept-encoding": coding, "if-none-match": tag})
        assert (again, nothing) == (304, b"")
        assert kept["etag"] == tag.removeprefix("W/")
    head, of_head, nothing = ask(server, "/openapi.json", {"accept-encoding": coding}, method="HEAD")
    assert (head, nothing) == (200, b"")
    assert of_head["etag"] == headers["etag"] and of_head["content-length"] == str(len(body))


def test_schemathesis_finds_nothing(server):
    """All of its checks on all operations, and no 500."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "schemathesis.cli"]
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    if program.exists():
        command = [str(program)]
    command += ["--config-file", str(HERE / "schemathesis.toml"), "run", f"{server.url}/openapi.json"]
    command += ["--checks", "all", "--max-examples", MAX_EXAMPLES, "--seed", SEED, "--workers", "2"]
    # How quickly a busy machine makes up calls says nothing of the server.
    command += ["--suppress-health-check", "all"]
    command += ["--report", "junit", "--report-dir", str(REPORTS), "--no-color"]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=REPORTS, env=environment, capture_output=True, text=True, timeout=600)
    (REPORTS / "schemathesis.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    # A run that asked next to nothing has found nothing either.
    tested = re.search(r"(\d+) generated", done.stdout)
    assert tested and int(tested[1]) > 1000, done.stdout[-2000:]
