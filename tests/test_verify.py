"""verify finds what is wrong with a model, and says what it could not look at."""

import json
import shutil

import pytest

from zoo import registry
from zoo.verify import verify


@pytest.fixture
def copy(tmp_path):
    """A model's folder that may be damaged."""
    folder = tmp_path / "mnist14k.notes"
    shutil.copytree(registry.SHIPPED / "mnist14k.notes", folder)
    return folder


def checks(folder, data=None):
    return {check.name: check for check in verify(registry._entry(folder), data)}


def test_every_shipped_model_is_what_its_card_says(data_folder):
    for entry in registry.scan():
        if entry.folder.parent == registry.SHIPPED:
            found = list(verify(entry, data_folder))
            assert [check.passed for check in found] == [True] * len(found), found
            assert found[-1].name == "accuracy"


def test_without_data_accuracy_is_skipped_in_words(copy, monkeypatch, empty_home):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    found = checks(copy)
    assert found["accuracy"].passed is None
    assert "set ZOO_DATA" in found["accuracy"].detail
    assert found["card"].passed


def test_data_that_were_named_must_be_there_and_whole(copy, tmp_path):
    assert checks(copy, tmp_path)["accuracy"].passed is False
    path = tmp_path / "mnist" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1")
    assert "damaged" in checks(copy, tmp_path)["accuracy"].detail


def test_without_safetensors_as_in_a_wheel(copy):
    (copy / "model.safetensors").unlink()
    assert checks(copy)["model.safetensors"].passed is None


def test_changed_and_missing_files(copy):
    path = copy / "model.onnx"
    path.write_bytes(path.read_bytes() + b"x")
    found = checks(copy)
    assert found["model.onnx"].passed is False
    assert "card" not in found
    path.unlink()
    assert "missing" in checks(copy)["model.onnx"].detail


def test_a_card_that_promises_more_than_the_model_has(copy, data_folder):
    card = json.loads((copy / "card.json").read_text())
    card["accuracy"]["correct"] += 3
    (copy / "card.json").write_text(json.dumps(card))
    found = checks(copy, data_folder)
    assert found["card"].passed is False
    assert found["accuracy"].passed is False
