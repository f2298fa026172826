"""Haystack's OpenAI embedders for a query and for documents."""

import openai
import pytest
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret

pytestmark = pytest.mark.all

CAT, DOG, TAX = "A cat sat on the mat.", "A dog lay on the rug.", "The tax return is due in April."


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b))


def how(server):
    return {
        "api_key": Secret.from_token("none"),
        "model": "minilm",
        "api_base_url": f"{server.url}/v1",
        "max_retries": 0,
    }


def test_a_text_and_documents_become_vectors(demo):
    answer = OpenAIDocumentEmbedder(**how(demo)).run([Document(content=text) for text in [CAT, DOG, TAX]])
    cat, dog, tax = (document.embedding for document in answer["documents"])
    assert len(cat) == 384
    assert cosine(cat, dog) > cosine(cat, tax) + 0.2
    query = OpenAITextEmbedder(**how(demo)).run(CAT)
    assert cosine(query["embedding"], cat) > 0.99
    assert query["meta"]["usage"]["prompt_tokens"] > 5


def test_an_error_is_openais_own(demo):
    with pytest.raises(openai.NotFoundError):
        OpenAITextEmbedder(**(how(demo) | {"model": "nothing"})).run(CAT)
