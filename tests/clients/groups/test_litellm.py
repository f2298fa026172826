"""LiteLLM, old and new, unchanged but for its base URL. Version 1.82 sends `"encoding_format": null` by itself."""

import math

import litellm
import pytest

pytestmark = pytest.mark.all

CAT, DOG, TAX = "A cat sat on the mat.", "A dog lay on the rug.", "The tax return is due in April."


def embed(server, texts, **more):
    return litellm.embedding(
        model="openai/minilm", input=texts, api_base=f"{server.url}/v1", api_key="none", max_retries=0, **more
    )


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.dist(a, [0] * len(a)) / math.dist(b, [0] * len(b))


def test_texts_become_vectors_in_their_order(demo):
    answer = embed(demo, [CAT, DOG, TAX])
    assert [one["index"] for one in answer.data] == [0, 1, 2]
    cat, dog, tax = (one["embedding"] for one in answer.data)
    assert len(cat) == 384
    assert cosine(cat, dog) > cosine(cat, tax) + 0.2
    assert answer.usage.prompt_tokens > 10


@pytest.mark.parametrize(
    "more",
    [
        {"encoding_format": "float"},
        {"encoding_format": None},
        {"user": "me"},
        # LiteLLM refuses `dimensions` itself for models it does not know.
        {"dimensions": 384, "allowed_openai_params": ["dimensions"]},
    ],
)
def test_what_openai_takes_is_passed_on(demo, more):
    assert len(embed(demo, CAT, **more).data) == 1


def test_an_error_is_the_clients_own_with_our_message(demo):
    with pytest.raises(litellm.exceptions.BadRequestError) as refused:
        embed(demo, "")
    assert "/input" in str(refused.value)
    with pytest.raises(litellm.exceptions.NotFoundError):
        litellm.embedding(
            model="openai/nothing", input=CAT, api_base=f"{demo.url}/v1", api_key="none", max_retries=0
        )


def test_a_text_that_is_too_long_is_an_exceeded_context_window(demo):
    with pytest.raises(litellm.exceptions.ContextWindowExceededError):
        embed(demo, "word " * 5_000)
