"""verify reports every difference between a model and its card, and the checks that it could not make."""

import json
import shutil
from dataclasses import replace

import pytest

from tests.support import hostile
from zoo import registry
from zoo.errors import ModelNotFound
from zoo.verify import verify


@pytest.fixture
def copy(tmp_path):
    """A model's folder that may be damaged."""
    folder = tmp_path / "mnist14k.notes"
    shutil.copytree(registry.SHIPPED_FOLDER / "mnist14k.notes", folder)
    return folder


def checks(folder, data=None):
    return {check.name: check for check in verify(registry._entry(folder), data)}


@pytest.mark.slow
def test_shipped_models_match_their_cards(data_folder):
    for entry in registry.scan():
        if entry.folder.parent == registry.SHIPPED_FOLDER:
            found = list(verify(entry, data_folder))
            assert [check.passed for check in found] == [True] * len(found), found
            assert found[-1].name == "accuracy"


def test_accuracy_is_skipped_without_data(copy, monkeypatch, empty_home):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    found = checks(copy)
    assert found["accuracy"].passed is None
    assert "set ZOO_DATA" in found["accuracy"].detail
    assert found["card"].passed


def test_named_data_folder_must_be_complete(copy, tmp_path):
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


def test_wrong_accuracy_in_card_fails(copy, data_folder):
    card = json.loads((copy / "card.json").read_text())
    card["accuracy"]["correct"] += 3
    (copy / "card.json").write_text(json.dumps(card))
    found = checks(copy, data_folder)
    assert found["card"].passed is False
    assert found["accuracy"].passed is False


def test_onnx_file_is_compared_with_its_own_card(copy, data_folder):
    found = {check.name: check for check in verify(copy / "model.onnx", data_folder)}
    assert [check.passed for check in found.values()] == [None, True, True]
    assert "no card.json to compare with" in found["model.onnx"].detail
    assert found["accuracy"].detail.startswith("9943 of 10000")
    with pytest.raises(ModelNotFound):
        list(verify(copy / "nothing.onnx"))


@pytest.mark.parametrize("kind", sorted(hostile.contradicting()))
def test_other_onnx_file_fails(kind, tmp_path, monkeypatch, empty_home):
    monkeypatch.delenv("ZOO_DATA", raising=False)
    path = tmp_path / "x.onnx"
    path.write_bytes(hostile.contradicting()[kind])
    *_, last = verify(path)
    opens = kind in ("huge tensor", "not a number", "infinite", "names with escapes")
    assert (last.name, last.passed) == (("accuracy", None) if opens else ("form", False))


def test_network_that_cannot_run_fails(tmp_path, data_folder):
    (tmp_path / "x.onnx").write_bytes(hostile.contradicting()["huge tensor"])
    *_, last = verify(tmp_path / "x.onnx", data_folder)
    assert (last.name, last.passed) == ("form", False)
    assert "cannot be run on cpu" in last.detail


def test_card_with_another_data_set_fails(copy, data_folder):
    entry = registry.open_folder(copy)
    for changes, passed, words in (
        ({"name": "faces"}, None, "unknown data set 'faces'"),
        ({"name": "own"}, None, f"zoo evaluate {entry.card.name} FOLDER"),
        ({"name": "cifar10"}, False, "differ from those of CIFAR-10"),
    ):
        card = replace(entry.card, dataset=replace(entry.card.dataset, **changes))
        *_, last = verify(replace(entry, card=card), data_folder)
        assert (last.name, last.passed) == ("accuracy", passed)
        assert words in last.detail


def test_files_outside_of_the_folder_fail(copy, tmp_path):
    (copy / "model.safetensors").rename(tmp_path / "elsewhere")
    (copy / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    found = checks(copy)
    assert found["model.safetensors"].passed is False
    assert "outside of" in found["model.safetensors"].detail
