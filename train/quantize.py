"""A model of the zoo → its int8 variant, compared with the float model.

Static quantisation in ONNX's QDQ format: convolutions and dense layers compute with uint8 activations and int8 weights,
whose ranges come from training images. Nothing is written if the variant is not faster on any processor that timed it,
or if it is less accurate on other training images. The test set is read only for the card.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from train import evaluate
from train.data import Split, held_out_data, training_data
from train.export import embed
from train.known import without_head
from train.runs import environment
from zoo import registry
from zoo.card import Accuracy, Card, Quantization, Seeds
from zoo.errors import ExportError
from zoo.evaluation import wilson
from zoo.model import Model
from zoo.own_models import write

CALIBRATION_IMAGES = 1000  # training images whose activations determine the ranges
ACCURACY_IMAGES = 10_000  # other training images, on which the loss of accuracy is measured
BATCH_SIZES = (1, 8)  # for the comparison of latencies
CALLS = 500  # of each model, alternating
MAX_ACCURACY_DROP = 0.003  # on the accuracy images, as a share
MAX_LATENCY_RATIO = 0.9  # int8 over float, at the best batch size
SCHEME = (
    "static QDQ with uint8 activations and int8 weights per channel, in 7 bits so that 16-bit sums cannot overflow; "
    "ranges from minimum and maximum"
)
OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Add", "MaxPool", "GlobalAveragePool"]


class Images(CalibrationDataReader):  # type: ignore[misc]
    """Batches of training images for the quantiser, always the same ones."""

    def __init__(self, split: Split) -> None:
        self._batches = iter(split.images[_shuffled(split)[:CALIBRATION_IMAGES]].split(100))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch.numpy()}


def quantize(name: str, folder: str | None, target: Path = registry.SHIPPED_FOLDER) -> Card:
    """Write `target/NAME-int8/` from a model of the zoo.

    Args:
        name: name of a model, or of an architecture for its default model.
        folder: folder with the data, as in `zoo.datasets.catalog.load`.
        target: folder of models to write to.
    Raises:
        ExportError: the variant loses more than 0.3 points of accuracy on 10,000 training images that were not used for
            the ranges, or it is not at least 10 % faster on this processor or on one of those that the variant's
            earlier card lists.
    """
    entry = registry.find(name)
    # The head of the output `known` is trained on the activations of the variant: python -m train known NAME-int8
    original = without_head(onnx.load(entry.folder / "model.onnx")).SerializeToString()
    card = replace(entry.card, known=None, calibration=replace(entry.card.calibration, known_from=None))
    training = training_data(card.trained.dataset.name, "full", folder)
    model = as_int8(original, training)
    draft = replace(card.embedded(), name=f"{card.name}-int8", default=False)
    int8_model = _with_card(model, draft)
    float_model = Model((entry.folder / "model.onnx").read_bytes(), "cpu")
    processor = "{machine} ({instructions})".format(**environment())
    ratios = _earlier_ratios(target / draft.name)
    ratios.pop(processor, None)
    ratios[processor] = _latency_ratio(int8_model, float_model, training)
    _check_benefit(card.name, int8_model, float_model, training, ratios)
    test = held_out_data(card.trained.dataset.name, "full", folder)
    scores = _scores(int8_model, test)
    accuracy = _accuracy(scores, test)
    int8_card = replace(
        draft,
        title=f"{card.title}, in int8",
        accuracy=accuracy,
        calibration=replace(
            card.calibration,
            ece_before=round(evaluate.calibration_error(scores, test.labels), 5),
            ece_after=round(evaluate.calibration_error(scores / card.calibration.temperature, test.labels), 5),
        ),
        quantization=Quantization(
            of=card.name,
            scheme=SCHEME,
            calibration_images=CALIBRATION_IMAGES,
            accuracy_change=round(accuracy.value - card.trained.accuracy.value, 6),
            latency_ratio=ratios,
        ),
    )
    embed(model, int8_card)
    return write(int8_card, {"model.onnx": model.SerializeToString()}, target)


def as_int8(content: bytes, training: Split) -> onnx.ModelProto:
    """Return the quantised graph of an ONNX file, without a card."""
    with tempfile.TemporaryDirectory() as folder:
        original, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("original", "prepared", "quantized"))
        original.write_bytes(content)
        quant_pre_process(str(original), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantized),
            Images(training),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=OPERATORS,
        )
        model = onnx.load(quantized)
    model.ClearField("metadata_props")
    return model


def _with_card(model: onnx.ModelProto, card: Card) -> Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    embed(copy, card)
    return Model(copy.SerializeToString(), "cpu")


def _shuffled(split: Split) -> torch.Tensor:
    """Return the rows of a split in a fixed random order."""
    return torch.from_numpy(np.random.default_rng(0).permutation(len(split)))


def _scores(model: Model, test: Split) -> torch.Tensor:
    images = test.images.numpy()
    parts = [model.run(images[start : start + 500]).logits for start in range(0, len(images), 500)]
    return torch.from_numpy(np.concatenate(parts))


def _accuracy(scores: torch.Tensor, test: Split) -> Accuracy:
    correct = int((scores.argmax(1) == test.labels).sum())
    share = correct / len(test)
    low, high = wilson(share, len(test))
    loss = round(evaluate.loss(scores, test.labels), 5)
    one_seed = Seeds((share,), share, None, 1)
    return Accuracy(share, correct, len(test), (round(low, 5), round(high, 5)), loss, one_seed)


def _earlier_ratios(folder: Path) -> dict[str, dict[str, float]]:
    """Return the latency ratios of the earlier variant by processor. They depend on the graph, not on the weights."""
    path = folder / "card.json"
    if not path.exists():
        return {}
    ratios: dict[str, dict[str, float]] = json.loads(path.read_text("utf-8"))["quantization"]["latency_ratio"]
    return ratios


def _latency_ratio(int8_model: Model, float_model: Model, split: Split) -> dict[str, float]:
    """Return the ratio of the median times per call by batch size, with alternating calls."""
    ratios = {}
    for batch in BATCH_SIZES:
        images = split.images[:batch].numpy()
        seconds = np.empty((CALLS + 50, 2))
        for row in seconds:
            for column, model in enumerate((int8_model, float_model)):
                start = time.perf_counter()
                model.run(images)
                row[column] = time.perf_counter() - start
        int8_s, float_s = np.median(seconds[50:], axis=0)
        ratios[str(batch)] = round(float(int8_s / float_s), 3)
    return ratios


def _check_benefit(
    name: str, int8_model: Model, float_model: Model, training: Split, ratios: dict[str, dict[str, float]]
) -> None:
    """Raise ExportError if the variant is too inaccurate, or not faster on any processor."""
    rows = _shuffled(training)[CALIBRATION_IMAGES:][:ACCURACY_IMAGES]
    split = Split(training.name, training.images[rows], training.labels[rows])
    int8_correct, float_correct = (
        (_scores(model, split).argmax(1) == split.labels).sum() for model in (int8_model, float_model)
    )
    change = float(int8_correct - float_correct) / len(split)
    best_ratio = min(ratio for by_batch in ratios.values() for ratio in by_batch.values())
    if change < -MAX_ACCURACY_DROP or best_ratio > MAX_LATENCY_RATIO:
        times = "; ".join(
            ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in by_batch.items()) + f" on {processor}"
            for processor, by_batch in ratios.items()
        )
        raise ExportError(
            f"int8 has no benefit for {name}, so nothing was written. Accuracy change on {len(split):,} training "
            f"images: {change:+.2%} (at least {-MAX_ACCURACY_DROP:.1%} is required). Time relative to float: {times} "
            f"(at most {MAX_LATENCY_RATIO:g} is required for one batch size on one processor)."
        )
