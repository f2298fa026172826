"""LangChain's OpenAI embeddings, with their defaults and without."""

import openai
import pytest
import tiktoken
from langchain_openai import OpenAIEmbeddings

CAT, DOG, TAX = "A cat sat on the mat.", "A dog lay on the rug.", "The tax return is due in April."


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b))


def embeddings(server, **more):
    return OpenAIEmbeddings(model="minilm", base_url=f"{server.url}/v1", api_key="none", max_retries=0, **more)


@pytest.fixture
def vocabulary(monkeypatch):
    """Any other vocabulary than the model's. The real one (cl100k) is a file that tiktoken fetches from the network."""
    other = tiktoken.Encoding(
        name="bytes", pat_str=".", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: other)
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: other)


def test_token_ids_of_another_vocabulary_are_refused_with_the_setting_that_sends_text(demo, vocabulary):
    with pytest.raises(openai.APIStatusError) as refused:
        embeddings(demo).embed_documents([CAT])
    assert refused.value.status_code in (400, 422)
    assert "check_embedding_ctx_length=False" in refused.value.message
    with pytest.raises(openai.APIStatusError) as refused:
        embeddings(demo).embed_query(CAT)
    assert "check_embedding_ctx_length=False" in refused.value.message


def test_texts_become_vectors_in_their_order(demo):
    client = embeddings(demo, check_embedding_ctx_length=False)
    cat, dog, tax = client.embed_documents([CAT, DOG, TAX])
    assert len(cat) == 384
    assert cosine(cat, dog) > cosine(cat, tax) + 0.2
    assert cosine(client.embed_query(CAT), cat) > 0.99


def test_many_texts_are_sent_in_chunks(demo):
    texts = [f"Sentence number {i}" for i in range(70)]
    vectors = embeddings(demo, check_embedding_ctx_length=False, chunk_size=32).embed_documents(texts)
    assert len(vectors) == 70
    alone = embeddings(demo, check_embedding_ctx_length=False).embed_query(texts[65])
    assert cosine(alone, vectors[65]) > 0.99


def test_the_models_are_listed_as_openai_lists_them(demo):
    listed = openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none").models.list()
    assert "minilm" in [model.id for model in listed]
