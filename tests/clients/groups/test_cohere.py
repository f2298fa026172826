"""Cohere's client and its rankings: its old form and the new one."""

import json
import pathlib

import cohere
import pytest

GOLDEN = json.loads((pathlib.Path(__file__).resolve().parents[2] / "data/texts/golden.json").read_text())


@pytest.mark.parametrize("client", [cohere.Client, cohere.ClientV2])
def test_documents_come_best_first(texts, client):
    answer = client(api_key="none", base_url=texts.url).rerank(
        model="overlap", query=GOLDEN["queries"][0], documents=GOLDEN["texts"], top_n=3
    )
    scores = GOLDEN["overlap"][0]
    assert [one.index for one in answer.results] == sorted(range(len(scores)), key=lambda at: -scores[at])[:3]
    for one in answer.results:
        assert abs(one.relevance_score - scores[one.index]) < 1e-6
    assert answer.meta.billed_units.search_units == 1


def test_a_refusal_says_what_is_wrong(texts):
    with pytest.raises(cohere.core.ApiError) as refused:
        cohere.ClientV2(api_key="none", base_url=texts.url).rerank(model="toxic", query="a", documents=["b"])
    assert refused.value.status_code == 422
    assert "gives no scores of pairs of texts" in json.dumps(refused.value.body)
