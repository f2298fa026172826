"""LlamaIndex' embeddings for servers that speak OpenAI's API."""

import openai
import pytest
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

pytestmark = pytest.mark.all

CAT, DOG, TAX = "A cat sat on the mat.", "A dog lay on the rug.", "The tax return is due in April."


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b))


def embedding(server, **more):
    more = {"model_name": "minilm", "api_base": f"{server.url}/v1", "api_key": "none", "max_retries": 0} | more
    return OpenAILikeEmbedding(**more)


def test_a_query_and_texts_become_vectors(demo):
    client = embedding(demo)
    cat, dog, tax = client.get_text_embedding_batch([CAT, DOG, TAX])
    assert len(cat) == 384
    assert cosine(cat, dog) > cosine(cat, tax) + 0.2
    assert cosine(client.get_query_embedding(CAT), cat) > 0.99


def test_many_texts_are_sent_in_batches(demo):
    texts = [f"Sentence number {i}" for i in range(70)]
    assert len(embedding(demo, embed_batch_size=32).get_text_embedding_batch(texts)) == 70


def test_an_error_is_openais_own(demo):
    with pytest.raises(openai.NotFoundError):
        embedding(demo, model_name="nothing").get_text_embedding(CAT)
