"""Finding models: shipped models and the user's, architectures and full names, wildcards, suggestions."""

import os
import shutil

import pytest

import zoo
from tests.support.paths import DEFAULT, add_model
from zoo import registry
from zoo.errors import BadModel, ModelNotFound


def test_bare_and_full_names():
    default = registry.find("mnist14k")
    assert default.card.default
    assert registry.find(default.card.name) == default


def test_each_architecture_has_one_default():
    cards = zoo.list_models()
    for architecture in {card.architecture for card in cards}:
        assert sum(card.default for card in cards if card.architecture == architecture) == 1


def test_list_models_matches_patterns(empty_home):
    add_model(empty_home, "fashion9k.mine")
    assert [card.name for card in zoo.list_models("fashion*")] == ["fashion9k.mine"]
    assert "mnist14k.notes" in [card.name for card in zoo.list_models("mnist14k")]
    assert "mnist14k.notes" in [card.name for card in zoo.list_models("*.notes")]
    assert zoo.list_models("nothing*") == []


def test_user_architecture_with_one_model_needs_no_default(empty_home):
    add_model(empty_home, "own.a", default=False)
    assert registry.find("own").card.name == "own.a"
    add_model(empty_home, "own.b", default=False)
    with pytest.raises(ModelNotFound, match=r"Did you mean own\.a or own\.b\?|Did you mean own\.b or own\.a\?"):
        registry.find("own")


def test_user_models_cannot_replace_shipped_models(empty_home):
    add_model(empty_home, "mnist14k.notes", title="impostor")
    add_model(empty_home, "mnist14k.mine", default=True)
    assert registry.find("mnist14k.notes").folder.parent == registry.SHIPPED_FOLDER
    assert registry.find("mnist14k").folder.parent == registry.SHIPPED_FOLDER
    assert "impostor" not in [card.title for card in zoo.list_models()]
    assert registry.find("mnist14k.mine").card.name == "mnist14k.mine"


@pytest.mark.parametrize("name", ["mnist14", "mist14k", "mnist14k.note", "MNIST14K"])
def test_similar_names_are_suggested(name):
    with pytest.raises(ModelNotFound, match=r"Did you mean .*mnist14k"):
        registry.find(name)


@pytest.mark.parametrize("name", ["", "qqq-900-giga", "../models/mnist14k.notes", "*", "."])
def test_unknown_names_refer_to_zoo_list(name):
    with pytest.raises(ModelNotFound, match=r"`zoo list` to see all|Did you mean mnist14k\.notes"):
        registry.find(name)


def test_folder_with_wrong_name_is_refused(empty_home):
    add_model(empty_home, "right.name").rename(empty_home / "models" / "wrong.name")
    with pytest.raises(BadModel, match=r"is the card of 'right\.name'"):
        registry.find("wrong.name")


def test_damaged_model_is_left_out_of_lists(empty_home):
    add_model(empty_home, "own.good")
    (add_model(empty_home, "own.bad") / "card.json").write_text("{")
    add_model(empty_home, "own.none", files=[])
    add_model(empty_home, "own.making").rename(empty_home / "models" / ".own.making.partial")
    assert registry.find("mnist14k").card.name == DEFAULT
    assert [card.name for card in zoo.list_models("own")] == ["own.good"]
    assert len(registry.damaged()) == 2
    with pytest.raises(BadModel, match=r"own\.bad"):
        registry.find("own.bad")


def test_word_lists_names_that_begin_with_it(empty_home):
    add_model(empty_home, "fashion9k.mine")
    assert {card.architecture for card in zoo.list_models("cifar")} == {"cifar-base", "cifar90k", "cifar93k"}
    assert [card.name for card in zoo.list_models("fash")] == ["fashion9k.mine"]
    assert {card.architecture for card in zoo.list_models("mnist14k")} == {"mnist14k"}  # an architecture comes first
    assert zoo.list_models("") == zoo.list_models("ifar") == []


def damage(folder, kind):
    """Damage a model's card in one of several ways."""
    card = folder / "card.json"
    if kind == "text":
        card.write_text("{")
    elif kind == "not utf-8":
        card.write_bytes(b"\xff\xfe{")
    elif kind == "another model":
        card.write_text(card.read_text().replace('"name": "', '"name": "other-', 1))
    elif kind == "huge":
        card.write_text(" " * (2**20 + 1))
    elif kind == "leads out of the folder":
        card.rename(folder.parents[1] / "card.json")
        card.symlink_to(folder.parents[1] / "card.json")
    elif kind == "folder elsewhere":
        folder.rename(folder.parents[1] / folder.name)
        folder.symlink_to(folder.parents[1] / folder.name)
    else:
        card.unlink()
        if kind == "pipe":
            os.mkfifo(card)
        elif kind == "folder":
            card.mkdir()
        else:
            card.symlink_to({"device": "/dev/zero", "circle": card, "dangling": "nowhere"}[kind])


KINDS = ["text", "not utf-8", "another model", "huge", "leads out of the folder", "folder elsewhere", "pipe", "folder",
         "device", "circle", "dangling"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_cards_do_not_affect_other_models(empty_home, kind):
    shipped = zoo.list_models()
    for name in ("mnist14k.notes", "mnist14k.mine", "own.model", "zzz.last"):
        damage(add_model(empty_home, name, default=True), kind)
    assert zoo.list_models() == shipped
    problems = [str(problem) for problem in registry.damaged()]
    assert len(problems) == 3  # all but the one whose name is a shipped model's
    assert all(name in problem for name, problem in zip(["mnist14k.mine", "own.model", "zzz"], problems, strict=True))
    assert registry.find("mnist14k").card.name == DEFAULT
    assert registry.find("mnist14k.notes").shipped
    with pytest.raises(BadModel):
        registry.find("own.model")
    with pytest.raises(ModelNotFound):
        registry.find("own")


def test_path_like_name_is_not_found(empty_home):
    for name in ("../models/mnist14k.notes", "/etc", "a\0b", ".hidden", "x" * 100_000, "\udcff", "-", "a/../b"):
        with pytest.raises(ModelNotFound) as caught:
            registry.find(name)
        assert len(str(caught.value)) < 400


def test_models_folder_may_be_invalid(empty_home):
    shipped = zoo.list_models()
    models = empty_home / "models"
    (models / "file.model").write_text("a file where a folder should be")
    os.mkfifo(models / "pipe.model")
    (models / "nowhere.model").symlink_to("nowhere")
    assert (zoo.list_models(), registry.damaged()) == (shipped, [])
    shutil.rmtree(models)
    models.write_text("a file")
    assert (zoo.list_models(), registry.damaged()) == (shipped, [])


def test_shipped_files_may_be_links(tmp_path, monkeypatch):
    copies, links = tmp_path / "cache", tmp_path / "installed"
    shutil.copytree(registry.SHIPPED_FOLDER / "mnist4k.plus", copies)
    (links / "mnist4k.plus").mkdir(parents=True)
    for file in copies.iterdir():
        (links / "mnist4k.plus" / file.name).symlink_to(file)
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", links)
    assert zoo.load("mnist4k.plus").card.name == "mnist4k.plus"
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(BadModel, match="a file outside of"):
        registry.open_folder(links / "mnist4k.plus")


def test_user_model_with_link_out_of_its_folder_is_refused(empty_home):
    folder = add_model(empty_home, "own.model")
    (folder / "model.onnx").rename(empty_home / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(empty_home / "elsewhere.onnx")
    with pytest.raises(BadModel, match=r"model\.onnx is a link to a file outside of"):
        zoo.load("own.model")
