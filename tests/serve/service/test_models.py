"""The models of a server: how names are resolved, and how damaged models are handled."""

import pytest

from serve.service.models import Service
from serve.service.settings import Settings
from tests.support.paths import CARD, add_model
from zoo import registry
from zoo.errors import BadModel


def test_architecture_name_resolves_as_in_registry(empty_home):
    add_model(empty_home, "mnist14k.zzz", default=True)
    service = Service(Settings(models="mnist14k*"))
    assert "mnist14k.zzz" in service.runners
    assert service.runner("mnist14k").model.card.name == registry.find("mnist14k").card.name == CARD.name


def test_damaged_user_model_is_skipped_with_message(empty_home, capsys):
    folder = add_model(empty_home, "mnist14k.own")
    (folder / "model.onnx").write_bytes(b"not an ONNX file")
    service = Service(Settings(models="mnist14k*"))
    assert CARD.name in service.runners
    assert "mnist14k.own" not in service.runners
    assert "mnist14k.own" in capsys.readouterr().err


def test_only_damaged_models_raise_bad_model(empty_home):
    folder = add_model(empty_home, "mnist14k.own")
    (folder / "model.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(BadModel):
        Service(Settings(models="mnist14k.own"))
