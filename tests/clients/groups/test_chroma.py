"""Chroma's embedding function for OpenAI, behind a collection in memory."""

import chromadb
import pytest
from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

pytestmark = pytest.mark.all


def test_a_collection_finds_the_nearest_text(demo):
    function = OpenAIEmbeddingFunction(api_key="none", api_base=f"{demo.url}/v1", model_name="minilm")
    collection = chromadb.EphemeralClient().create_collection("texts", embedding_function=function)
    texts = ["A cat sat on the mat.", "The tax return is due in April.", "It rains in the mountains."]
    collection.add(ids=["cat", "tax", "rain"], documents=texts)
    found = collection.query(query_texts=["A kitten is on the carpet."], n_results=1)
    assert found["ids"] == [["cat"]]
    assert len(function([texts[0]])[0]) == 384
