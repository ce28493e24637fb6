"""The models that a server opens: which names they answer to, and what a damaged one does."""

import pytest

from serve.service.models import Service
from serve.service.settings import Settings
from tests.support.examples import CARD, add_model
from zoo import registry
from zoo.errors import BadModel


def test_bare_name_means_what_the_registry_means(empty_home):
    add_model(empty_home, "mnist14k.zzz", default=True)
    service = Service(Settings(models="mnist14k*"))
    assert "mnist14k.zzz" in service.runners
    assert service.runner("mnist14k").model.card.name == registry.find("mnist14k").card.name == CARD.name


def test_damaged_model_of_the_user_is_left_out_with_a_message(empty_home, capsys):
    folder = add_model(empty_home, "mnist14k.own")
    (folder / "model.onnx").write_bytes(b"not an ONNX file")
    service = Service(Settings(models="mnist14k*"))
    assert CARD.name in service.runners
    assert "mnist14k.own" not in service.runners
    assert "mnist14k.own" in capsys.readouterr().err


def test_only_damaged_models_are_an_error(empty_home):
    folder = add_model(empty_home, "mnist14k.own")
    (folder / "model.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(BadModel):
        Service(Settings(models="mnist14k.own"))
