"""The description of the API in the hands of generators and linters: each makes a client, and the client makes calls.

They are installed in versions that tests/clients/generators/ pins, away from the other clients, and take a minute: only
`scripts/clients --all` runs them. crates/gate/tests/openapi.rs holds the document to the same rules on every run."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import urllib.request

import pytest

pytestmark = pytest.mark.all
HERE = pathlib.Path(__file__).resolve().parent / "generators"
PLACE = HERE.parents[2] / "build" / "clients" / "generators"
TIMEOUT_S = 300
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}


def run(*command):
    """Runs a command in the folder of the generators, and returns its output."""
    path = os.pathsep.join([str(PLACE / "venv" / "bin"), str(PLACE / "node_modules" / ".bin"), os.environ["PATH"]])
    environment = {**os.environ, **QUIET, "PATH": path}
    done = subprocess.run(command, cwd=PLACE, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{command[0]}:\n{(done.stdout + done.stderr)[-4000:]}"
    return done.stdout + done.stderr


def install(name, *commands):
    """Runs commands unless they ran before for the present content of `name`."""
    wanted = (HERE / name).read_text()
    stamp = PLACE / f"{name}.installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        for command in commands:
            run(*command)
        stamp.write_text(wanted)


@pytest.fixture(scope="module")
def place():
    PLACE.mkdir(parents=True, exist_ok=True)
    for file in HERE.iterdir():
        if file.is_file():
            shutil.copy(file, PLACE)
    shutil.rmtree(PLACE / "generated", ignore_errors=True)
    (PLACE / "generated").mkdir()
    return PLACE


@pytest.fixture(scope="module")
def document(server, place):
    with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=60) as answer:
        text = answer.read().decode()
    (place / "openapi.json").write_text(text)
    return json.loads(text)


@pytest.fixture(scope="module")
def python(document):
    pip = ("venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:")
    install("requirements.txt", (sys.executable, "-m", "venv", "venv"), (*pip, "--no-deps", "--requirement", "requirements.txt"))


@pytest.fixture(scope="module")
def node(document):
    if not shutil.which("npm"):
        pytest.skip("there is no npm; install Node.js 20 or newer")
    install("package-lock.json", ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"))


def check(printed):
    """The output of every client after its calls: the sent rows came back, and an unknown model is a readable error."""
    said = json.loads(printed.strip().splitlines()[-1])
    assert said == {"predicted": [1, 2, 3, 4], "inferred": [1, 2, 3, 4], "missing": "unknown_model"}


def test_openapi_python_client_makes_every_operation_and_calls(server, document, python):
    command = ["openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none"]
    printed = run(*command, "--output-path", "generated/openapi_python_client_made", "--fail-on-warning")
    assert "WARNING" not in printed and "ERROR" not in printed, printed
    made = {file.stem for file in (PLACE / "generated/openapi_python_client_made/api").glob("*/*.py")} - {"__init__"}
    operations = [one for item in document["paths"].values() for one in item.values()]
    assert len(made) == len(operations), "one module for each operation"
    check(run("venv/bin/python", "call_openapi_python_client.py", server.url))


def test_datamodel_code_generator_makes_models_that_write_and_read_calls(server, document, python):
    command = ["datamodel-codegen", "--input", "openapi.json", "--input-file-type", "openapi", "--formatters", "builtin"]
    command += ["--output-model-type", "pydantic_v2.BaseModel", "--use-annotated"]
    run(*command, "--output", "generated/datamodel_code_generator_made.py")
    check(run("venv/bin/python", "call_datamodel_code_generator.py", server.url))


@pytest.fixture(scope="module")
def typescript(server, node):
    """All three clients, checked and compiled at once."""
    run("openapi-typescript", "openapi.json", "--output", "generated/openapi-typescript.d.ts")
    run("openapi-ts", "--input", "openapi.json", "--output", "generated/hey-api")
    output = {"target": "./generated/orval.ts", "client": "fetch", "baseUrl": server.url}
    config = {"penstock": {"input": "./openapi.json", "output": output}}
    (PLACE / "orval.config.cjs").write_text(f"module.exports = {json.dumps(config)};\n")
    run("orval", "--config", "orval.config.cjs")
    run("tsc", "--project", "tsconfig.json")


@pytest.mark.parametrize("name", ["openapi_typescript", "hey_api", "orval"])
def test_a_typescript_client_compiles_and_calls(server, typescript, name):
    check(run("node", f"compiled/call_{name}.js", server.url))


def test_spectral_finds_nothing(node):
    printed = run("spectral", "lint", "--ruleset", "spectral.yaml", "--fail-severity", "warn", "openapi.json")
    assert "No results" in printed, printed


def test_redocly_finds_nothing(node):
    printed = run("redocly", "lint", "openapi.json")
    assert "is valid" in printed, printed
