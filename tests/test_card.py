"""Cards survive the way to JSON and back, and damaged ones are one sentence."""

import json

import pytest

from zoo.card import Card
from zoo.errors import BadModel


def test_json_and_back(model):
    card = model.card
    assert Card.from_json(card.to_json(), "here") == card
    assert Card.from_json(card.to_json(indent=2), "here") == card
    with pytest.raises(AttributeError):
        card.name = "other"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("labels"), "labels"),
        (lambda data: data.update(schema_version=99), "schema version 99"),
        (lambda data: data["input"].update(depth=3), "depth"),
        (lambda data: data.update(layers=None), "damaged"),
        (lambda data: data.update(surprise=1), "surprise"),
    ],
)
def test_a_card_of_another_form_is_refused(model, change, words):
    data = json.loads(model.card.to_json())
    change(data)
    with pytest.raises(BadModel, match=words) as caught:
        Card.from_json(json.dumps(data), "some/card.json")
    assert "some/card.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "null"])
def test_what_is_no_card_is_refused(text):
    with pytest.raises(BadModel, match="export the model again"):
        Card.from_json(text, "x")


def test_a_file_that_is_not_listed(model):
    with pytest.raises(BadModel, match=r"lists no model\.onnx"):
        model.card.embedded().file("model.onnx")
