"""Finding models: shipped and own, bare and tagged names, wildcards, near misses."""

import pytest

import zoo
from tests.made_up import DEFAULT, add_model
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
