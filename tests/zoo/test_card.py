"""Cards are read from and written to JSON, and damaged or hostile cards are refused in one sentence."""

import json
import time

import pytest

from serve.cli.output import card_page, cards_json, model_table
from tests.support import hostile
from zoo import registry
from zoo.card import Card
from zoo.errors import BadModel


def test_json_round_trip(model):
    card = model.card
    assert Card.from_json(card.to_json(), "here") == card
    assert Card.from_json(card.to_json(indent=2), "here") == card
    with pytest.raises(AttributeError):
        card.name = "other"


def _with_later_fields(card):
    """Cards that were written before these fields existed do not have them."""
    return (
        {"quantization": None, "origin": None}
        | card
        | {
            "input": {"resize": None} | card["input"],
            "dataset": {"images": None, "sha256": None} | card["dataset"],
        }
    )


@pytest.mark.parametrize("entry", registry.scan(), ids=lambda entry: entry.card.name)
def test_reading_a_shipped_card_changes_nothing(entry):
    text = (entry.folder / "card.json").read_text()
    assert json.loads(entry.card.to_json()) == _with_later_fields(json.loads(text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("labels"), "labels is missing"),
        (lambda data: data.update(schema_version=99), "schema version 99"),
        (lambda data: data.update(schema_version=True), "schema_version is True, not an integer"),
        (lambda data: data["input"].update(depth=3), "input.'depth' is an unknown field"),
        (lambda data: data.update(layers=None), "layers is None, not a list"),
        (lambda data: data.update(surprise=1), "'surprise' is an unknown field"),
        (lambda data: data.update(labels=[1, 2]), r"labels.[0] is 1, not a string"),
        (lambda data: data.update(labels=[]), "labels are empty"),
        (lambda data: data.update(labels=["a", "a"]), "not all different"),
        (lambda data: data.update(default="yes"), "default is 'yes', not true or false"),
        (lambda data: data.update(macs=True), "macs is True, not an integer"),
        (lambda data: data.update(macs=-1), "macs is -1, not from 0 to"),
        (lambda data: data.update(name="../../x"), "name is '../../x', not a name of letters"),
        (
            lambda data: data.update(title="\x1b[31mred"),
            r"title is '\x1b[31mred', not at most 10,000 printable",
        ),
        (lambda data: data.update(title="\ud800"), r"title is '\ud800', not at most 10,000 printable"),
        (lambda data: data["input"].update(height=0), "input.height is 0, not from 1 to 1024"),
        (lambda data: data["input"].update(height=10**9), "input.height is 1000000000, not from"),
        (lambda data: data["input"].update(height=32), "a digit is 28x28x1, not 32x28x1"),
        (lambda data: data["input"].update(form="photo", channels=2), "a photo has 1 or 3 channels"),
        (lambda data: data["calibration"].update(unsure_below=-0.1), "calibration.unsure_below is -0.1, not from 0"),
        (lambda data: data["calibration"].update(temperature=0), "calibration.temperature is 0, not from"),
        (lambda data: data["accuracy"].update(correct=10_001), "correct is more than accuracy.images"),
        (lambda data: data["accuracy"]["seeds"].update(n=2), "seeds.n is not the number"),
        (lambda data: data["accuracy"].update(interval95=[0.1]), "interval95 is [0.1], not a list of 2"),
        (lambda data: data["layers"][2].update(output=["x"]), "layers.[2].output.[0] is 'x', not an integer"),
        (lambda data: data["training"]["settings"].update(a=[[[[[[[[[[[[]]]]]]]]]]]]), "settings.'a' is nested too"),
        (lambda data: data.update(files=[{"name": "../x", "size_bytes": 1, "sha256": "0" * 64}]), "the name of a file"),
        (lambda data: data.update(files=[{"name": "x", "size_bytes": 1, "sha256": "0"}]), "64 hexadecimal digits"),
    ],
)
def test_invalid_card_is_refused(model, change, message):
    data = json.loads(model.card.to_json())
    change(data)
    with pytest.raises(BadModel) as caught:
        Card.from_json(json.dumps(data), "some/card.json")
    assert message in str(caught.value)
    assert "some/card.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "null", '"x"', "{}"])
def test_other_json_is_refused(text):
    with pytest.raises(BadModel, match="export the model again"):
        Card.from_json(text, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": NaN}', "NaN, which is not a JSON number"),
        ('{"schema_version": 1, "schema_version": 1}', "a key twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 10_000, "digits"),
        (" " * 2_000_000, "2,000,000 characters, more than"),
    ],
)
def test_ambiguous_json_is_refused(text, message):
    with pytest.raises(BadModel, match=message):
        Card.from_json(text, "x")


@pytest.mark.slow
def test_hostile_cards_are_refused_or_printable(capsys):
    """Every text is refused in one printable sentence, or it is a card that all commands can print."""
    started, read, refused, slowest = time.process_time(), [], [], 0.0
    for text in hostile.cards():
        begun = time.process_time()
        try:
            read.append(Card.from_json(text, "x"))
        except BadModel as error:
            refused.append(str(error))
        slowest = max(slowest, time.process_time() - begun)
    assert len(refused) > 2500
    assert all(sentence.isprintable() and len(sentence) < 700 for sentence in refused)
    assert len(read) > 200  # such as another title, or more parameters
    assert slowest < 1.0  # CPU seconds; about 0.2 on an idle core
    file = registry.find("mnist14k").card.files
    for card in read[::5]:
        whole = Card(**{**vars(card), "files": file})
        model_table([whole])
        card_page(whole)
        cards_json([whole])
        assert Card.from_json(whole.to_json(), "again") == whole
        assert whole.to_json().encode()
        assert capsys.readouterr().out.replace("\n", "").isprintable()
    assert time.process_time() - started < 30


def test_unlisted_file_is_bad_model(model):
    with pytest.raises(BadModel, match=r"lists no file model\.onnx"):
        model.card.embedded().file("model.onnx")
