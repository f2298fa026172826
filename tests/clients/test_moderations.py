"""OpenAI's client and moderations."""

import json
import pathlib

import openai
import pytest

GOLDEN = json.loads((pathlib.Path(__file__).resolve().parents[1] / "data/texts/golden.json").read_text())


@pytest.fixture
def client(texts):
    return openai.OpenAI(base_url=f"{texts.url}/v1", api_key="none", max_retries=0)


def test_texts_are_flagged_by_category(client):
    answer = client.moderations.create(model="toxic", input=GOLDEN["texts"])
    assert answer.model == "toxic"
    for one, (insult, threat) in zip(answer.results, GOLDEN["toxic"], strict=True):
        assert one.categories.harassment == (insult >= 0.5)
        assert one.categories.harassment_threatening == (threat >= 0.8)
        assert one.flagged == (insult >= 0.5 or threat >= 0.8)
        assert abs(one.category_scores.harassment - insult) < 1e-6
        assert one.category_applied_input_types.harassment == ["text"]


def test_parts_have_one_result(client):
    parts = [{"type": "text", "text": text} for text in GOLDEN["texts"][:4]]
    answer = client.moderations.create(model="toxic", input=parts)
    assert len(answer.results) == 1 and answer.results[0].flagged


def test_an_image_is_refused_and_not_passed_over(client):
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(model="toxic", input=parts)
    # OpenAI names the member.
    assert refused.value.param == "input"


def test_a_model_without_categories_is_refused(client):
    with pytest.raises(openai.UnprocessableEntityError):
        client.moderations.create(model="overlap", input="a")
