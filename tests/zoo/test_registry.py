"""Finding models: shipped and own, bare and tagged names, wildcards, near misses."""

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


def test_patterns(empty_home):
    add_model(empty_home, "fashion9k.mine")
    assert [card.name for card in zoo.list_models("fashion*")] == ["fashion9k.mine"]
    assert "mnist14k.notes" in [card.name for card in zoo.list_models("mnist14k")]
    assert "mnist14k.notes" in [card.name for card in zoo.list_models("*.notes")]
    assert zoo.list_models("nothing*") == []


def test_an_own_architecture_with_one_recipe_needs_no_default(empty_home):
    add_model(empty_home, "own.a", default=False)
    assert registry.find("own").card.name == "own.a"
    add_model(empty_home, "own.b", default=False)
    with pytest.raises(ModelNotFound, match=r"did you mean own\.a or own\.b\?|did you mean own\.b or own\.a\?"):
        registry.find("own")


def test_own_models_cannot_take_shipped_names(empty_home):
    add_model(empty_home, "mnist14k.notes", title="impostor")
    add_model(empty_home, "mnist14k.mine", default=True)
    assert registry.find("mnist14k.notes").folder.parent == registry.SHIPPED
    assert registry.find("mnist14k").folder.parent == registry.SHIPPED
    assert "impostor" not in [card.title for card in zoo.list_models()]
    assert registry.find("mnist14k.mine").card.name == "mnist14k.mine"


@pytest.mark.parametrize("name", ["mnist14", "mist14k", "mnist14k.note", "MNIST14K"])
def test_near_misses_get_a_hint(name):
    with pytest.raises(ModelNotFound, match=r"did you mean .*mnist14k"):
        registry.find(name)


@pytest.mark.parametrize("name", ["", "qqq-900-giga", "../models/mnist14k.notes", "*", "."])
def test_far_misses_get_the_list(name):
    with pytest.raises(ModelNotFound, match=r"`zoo list` shows all|did you mean mnist14k\.notes"):
        registry.find(name)


def test_a_folder_must_have_the_models_name(empty_home):
    add_model(empty_home, "right.name").rename(empty_home / "models" / "wrong.name")
    with pytest.raises(BadModel, match=r"says that it is 'right\.name'"):
        registry.find("wrong.name")


def test_a_damaged_model_hides_no_other(empty_home):
    add_model(empty_home, "own.good")
    (add_model(empty_home, "own.bad") / "card.json").write_text("{")
    add_model(empty_home, "own.none", files=[])
    add_model(empty_home, "own.making").rename(empty_home / "models" / ".own.making.partial")
    assert registry.find("mnist14k").card.name == DEFAULT
    assert [card.name for card in zoo.list_models("own")] == ["own.good"]
    assert len(registry.damaged()) == 2
    with pytest.raises(BadModel, match=r"own\.bad"):
        registry.find("own.bad")


def test_a_word_lists_what_begins_with_it(empty_home):
    add_model(empty_home, "fashion9k.mine")
    assert {card.architecture for card in zoo.list_models("cifar")} == {"cifar-base", "cifar90k", "cifar93k"}
    assert [card.name for card in zoo.list_models("fash")] == ["fashion9k.mine"]
    assert {card.architecture for card in zoo.list_models("mnist14k")} == {"mnist14k"}  # an architecture comes first
    assert zoo.list_models("") == zoo.list_models("ifar") == []


def damage(folder, kind):
    """Make a model's card unreadable in one of many ways."""
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
def test_damaged_models_hide_and_break_no_other(empty_home, kind):
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


def test_a_name_that_only_looks_like_a_path_is_not_found(empty_home):
    for name in ("../models/mnist14k.notes", "/etc", "a\0b", ".hidden", "x" * 100_000, "\udcff", "-", "a/../b"):
        with pytest.raises(ModelNotFound) as caught:
            registry.find(name)
        assert len(str(caught.value)) < 400


def test_the_users_folder_may_be_anything(empty_home):
    shipped = zoo.list_models()
    models = empty_home / "models"
    (models / "file.model").write_text("a file where a folder should be")
    os.mkfifo(models / "pipe.model")
    (models / "nowhere.model").symlink_to("nowhere")
    assert (zoo.list_models(), registry.damaged()) == (shipped, [])
    shutil.rmtree(models)
    models.write_text("a file")
    assert (zoo.list_models(), registry.damaged()) == (shipped, [])


def test_shipped_files_may_be_links_as_package_managers_lay_them(tmp_path, monkeypatch):
    copies, links = tmp_path / "cache", tmp_path / "installed"
    shutil.copytree(registry.SHIPPED / "mnist4k.plus", copies)
    (links / "mnist4k.plus").mkdir(parents=True)
    for file in copies.iterdir():
        (links / "mnist4k.plus" / file.name).symlink_to(file)
    monkeypatch.setattr(registry, "SHIPPED", links)
    assert zoo.load("mnist4k.plus").card.name == "mnist4k.plus"
    monkeypatch.setattr(registry, "SHIPPED", tmp_path)
    with pytest.raises(BadModel, match="leads out of"):
        registry.open_folder(links / "mnist4k.plus")


def test_an_own_models_files_lie_in_its_folder(empty_home):
    folder = add_model(empty_home, "own.model")
    (folder / "model.onnx").rename(empty_home / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(empty_home / "elsewhere.onnx")
    with pytest.raises(BadModel, match=r"model\.onnx is a link that leads out of"):
        zoo.load("own.model")
