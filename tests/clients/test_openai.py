"""OpenAI's own client, unchanged but for its base URL."""

import base64
import concurrent.futures

import numpy
import openai
import pytest


@pytest.fixture(scope="module")
def client(server):
    if not server.api_key:
        pytest.skip("needs an API key of the server, and PENSTOCK_API_KEY names none")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, max_retries=0)


CAT, DOG, TAX = "A cat sat on the mat.", "A dog lay on the rug.", "The tax return is due in April."


def cosine(a, b):
    a, b = numpy.array(a), numpy.array(b)
    return float(a @ b / numpy.linalg.norm(a) / numpy.linalg.norm(b))


def test_a_text_becomes_a_vector_of_length_one(client):
    answer = client.embeddings.create(model="minilm", input=CAT)
    assert answer.object == "list"
    assert answer.model.startswith("minilm")
    (one,) = answer.data
    assert (one.object, one.index, len(one.embedding)) == ("embedding", 0, 384)
    assert abs(numpy.linalg.norm(one.embedding) - 1) < 1e-5
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 5


def test_vectors_of_like_texts_are_alike_and_come_in_order(client):
    answer = client.embeddings.create(model="minilm", input=[CAT, DOG, TAX])
    assert [one.index for one in answer.data] == [0, 1, 2]
    cat, dog, tax = (one.embedding for one in answer.data)
    assert cosine(cat, dog) > cosine(cat, tax) + 0.2
    alone = client.embeddings.create(model="minilm", input=DOG).data[0].embedding
    assert cosine(alone, dog) > 0.99, "the neighbours in a batch do not matter"


def test_both_encodings_say_the_same(client):
    # The client asks for base64 by itself and decodes it; so once as it does, once by hand, once as numbers.
    plain = client.embeddings.create(model="minilm", input=CAT).data[0].embedding
    numbers = client.embeddings.create(model="minilm", input=CAT, encoding_format="float").data[0].embedding
    text = client.embeddings.create(model="minilm", input=CAT, encoding_format="base64").data[0].embedding
    decoded = numpy.frombuffer(base64.b64decode(text), dtype="<f4")
    assert numpy.array_equal(numpy.array(plain, numpy.float32), decoded)
    assert numpy.array_equal(numpy.array(numbers, numpy.float32), decoded)


@pytest.mark.parametrize("ids", [[101, 1037, 4937, 102], [[101, 1037, 4937, 102], [101, 3899, 102]]])
def test_token_ids_are_refused_with_the_remedy(client, ids):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.embeddings.create(model="minilm", input=ids)
    assert "check_embedding_ctx_length=False" in refused.value.body["message"]


def test_a_text_that_is_too_long_is_the_clients_error_or_cut(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="minilm", input=[CAT, "word " * 5000])
    assert refused.value.code == "context_length_exceeded"
    assert (refused.value.param, refused.value.type) == ("input", "invalid_request_error")
    cut = client.embeddings.create(model="minilm", input="word " * 5000, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens < 5000


def test_as_many_dimensions_as_there_are_may_be_asked_for_and_no_others(client):
    assert len(client.embeddings.create(model="minilm", input=CAT, dimensions=384).data[0].embedding) == 384
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model="minilm", input=CAT, dimensions=100)
    assert refused.value.status_code in (400, 422)
    assert "384" in refused.value.message


def test_a_version_may_be_named_behind_the_model(client):
    assert len(client.embeddings.create(model="minilm@1", input=CAT).data) == 1


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"model": "nothing", "input": CAT}, openai.NotFoundError),
        ({"model": "minilm@77", "input": CAT}, openai.NotFoundError),
        ({"model": "minilm", "input": ""}, (openai.BadRequestError, openai.UnprocessableEntityError)),
        ({"model": "minilm", "input": []}, (openai.BadRequestError, openai.UnprocessableEntityError)),
        ({"model": "minilm", "input": [[]]}, (openai.BadRequestError, openai.UnprocessableEntityError)),
        ({"model": "minilm", "input": [10**9]}, (openai.BadRequestError, openai.UnprocessableEntityError)),
        ({"model": "minilm", "input": "word " * 5000}, (openai.BadRequestError, openai.UnprocessableEntityError)),
        ({"model": "digits", "input": CAT}, openai.UnprocessableEntityError),
        ({"model": "minilm", "input": CAT, "encoding_format": "hex"}, openai.BadRequestError),
        ({"model": "minilm", "input": CAT, "extra_body": {"stream": True}}, openai.BadRequestError),
    ],
)
def test_errors_become_the_clients_own_with_our_message(client, arguments, kind):
    with pytest.raises(kind) as refused:
        client.embeddings.create(**arguments)
    body = refused.value.body
    assert body["code"] and body["message"], "the client unwraps `error`"
    assert refused.value.request_id, "from x-request-id"


def test_a_made_up_api_key_counts_as_none_where_nobody_asks_for_one_and_a_wrong_one_of_ours_is_refused(demo):
    own = openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0)
    assert len(own.embeddings.create(model="minilm", input=CAT).data) == 1
    wrong = openai.OpenAI(base_url=f"{demo.url}/v1", api_key="pnst_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        wrong.embeddings.create(model="minilm", input=CAT)
    assert refused.value.body["code"] == "credentials_malformed"


def test_credentials_are_the_clients_api_key(guarded):
    def ask(api_key):
        own = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=api_key, max_retries=0)
        return own.embeddings.create(model="minilm", input=CAT)

    with pytest.raises(openai.AuthenticationError) as refused:
        ask("pnst_wrong")
    assert refused.value.body["code"].startswith("credentials_")
    assert len(ask(guarded.api_key).data) == 1


def test_a_limit_that_is_used_up_is_the_clients_rate_limit_error(guarded):
    own = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=guarded.api_keys["greedy"], max_retries=0)
    with pytest.raises(openai.RateLimitError) as refused:
        for _ in range(40):
            own.embeddings.create(model="minilm", input=CAT)
    assert int(refused.value.response.headers["retry-after"]) > 0


def test_one_client_is_shared_by_many_threads(client):
    texts = [f"Sentence number {i}" for i in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda t: client.embeddings.create(model="minilm", input=t).data[0].embedding, texts))
    again = [one.embedding for one in client.embeddings.create(model="minilm", input=texts).data]
    for alone, together in zip(vectors, again):
        assert cosine(alone, together) > 0.99


def test_the_models_are_listed_and_retrieved(client):
    listed = {model.id: model for model in client.models.list()}
    assert "minilm" in listed
    one = client.models.retrieve("minilm")
    assert (one.id, one.object, one.created) == ("minilm", "model", listed["minilm"].created)
    assert one.created > 1_700_000_000
