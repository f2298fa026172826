"""OpenAI's own client, unchanged but for its base URL: files and batches."""

import json
import time

import openai
import pytest


@pytest.fixture(scope="module")
def client(server):
    if not server.api_key:
        pytest.skip("needs an API key of the server, and PENSTOCK_API_KEY names none")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, max_retries=0)


def lines(*bodies, url="/v1/embeddings"):
    written = (
        {"custom_id": f"text-{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)
    )
    return "\n".join(map(json.dumps, written)).encode()


def run(client, content):
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert (file.object, file.purpose, file.bytes, file.filename) == ("file", "batch", len(content), "in.jsonl")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"job": "nightly"}
    )
    assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"job": "nightly"})
    deadline = time.monotonic() + 60
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return file, batch


def test_a_batch_has_the_answers_of_its_calls(client):
    good = {"model": "minilm", "input": "A cat sat on the mat."}
    file, batch = run(client, lines(good, {"model": "minilm"}, good))
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["text-0", "text-2"]
    response = answers[0]["response"]
    assert response["status_code"] == 200 and answers[0]["error"] is None
    direct = client.embeddings.create(**good, encoding_format="float")
    assert response["body"]["data"][0]["embedding"] == direct.data[0].embedding
    (error,) = [json.loads(line) for line in client.files.content(batch.error_file_id).iter_lines()]
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["param"] == "input"
    assert client.batches.cancel(batch.id).status == "completed"
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_file_that_is_not_valid_fails_the_batch_and_names_the_line(client):
    _, batch = run(client, lines({"model": "minilm", "input": "a"}) + b"\noops\n")
    assert batch.status == "failed"
    (fault,) = batch.errors.data
    assert (fault.code, fault.line) == ("invalid_json_line", 2)
    assert batch.failed_at


def test_lists_are_paged(client):
    content = lines({"model": "minilm", "input": "a"})
    made = [client.files.create(file=("in.jsonl", content), purpose="batch").id for _ in range(3)]
    found = [file.id for file in client.files.list(limit=2, purpose="batch")]
    assert set(made) <= set(found) and len(found) == len(set(found))
    newest = client.files.list(limit=1, order="desc").data[0]
    assert newest.id == made[-1]
    batches = [batch.id for batch in client.batches.list(limit=1)]
    assert len(batches) == len(set(batches))
    for file in made:
        client.files.delete(file)


def test_mistakes_are_the_clients_own_errors(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(input_file_id="file-1", endpoint="/v1/embeddings", completion_window="24h")
    assert refused.value.param == "input_file_id"
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    assert refused.value.param == "purpose"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_1")
