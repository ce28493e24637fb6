"""A model of the zoo → its int8 variant, measured beside the model that it comes from.

Static quantisation in ONNX's QDQ form: convolutions and dense layers compute on uint8 activations and int8 weights,
their ranges found on training images. Nothing is written where it is not worth it on any processor that timed it, nor
where other training images tell that it errs; the test set is read for the card alone.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from train import evaluate
from train.data import Part, held_out_part, training_part
from train.export import ExportError, embed, write
from train.runs import environment
from zoo import registry
from zoo.card import Accuracy, Card, Quantization, Seeds
from zoo.model import Model

CALIBRATION = 1000  # training images whose activations give the ranges
JUDGED = 10_000  # others, which tell how much accuracy is lost
BATCHES = (1, 8)  # of which the latency is compared
CALLS = 500  # of each model, in turn
LARGEST_DROP = 0.003  # of the accuracy on these, as a share
LEAST_GAIN = 0.9  # the ratio of the latencies, at the best of the batch sizes
SCHEME = (
    "static, QDQ: uint8 activations, int8 weights a channel in 7 bits, whose sums no processor overflows; ranges from "
    "the least and largest values"
)
OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Add", "MaxPool", "GlobalAveragePool"]


class Images(CalibrationDataReader):
    """What the quantiser asks for: batches of training images, the same for everybody."""

    def __init__(self, part: Part) -> None:
        self.left = iter(part.images[_shuffled(part)[:CALIBRATION]].split(100))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.left, None)
        return None if batch is None else {"image": batch.numpy()}


def quantize(name: str, folder: str | None, target: Path = registry.SHIPPED) -> Card:
    """Write `target/NAME-int8/` from a model of the zoo.

    Args:
        name: of a model, or of an architecture, whose default is taken.
        folder: where the data lie, as in `zoo.datasets.catalog.load`.
        target: the folder of models.
    Raises:
        ExportError: it loses more than 0.3 points of accuracy on 10,000 training images that gave no ranges, or is
            not at least a tenth faster, neither here nor on the processors that its earlier card tells of.
    """
    entry = registry.find(name)
    original = (entry.folder / "model.onnx").read_bytes()
    card = entry.card
    training = training_part(card.dataset.name, "full", folder)
    model = as_int8(original, training)
    unfinished = replace(card.embedded(), name=f"{card.name}-int8", default=False)
    quantized, exact = _with_card(model, unfinished), Model(original, "cpu")
    here = "{machine} ({instructions})".format(**environment())
    ratios = _timed_before(target / unfinished.name)
    ratios.pop(here, None)
    ratios[here] = _latency_ratio(quantized, exact, training)
    _check_worth(card.name, quantized, exact, training, ratios)
    test = held_out_part(card.dataset.name, "full", folder)
    scores = _scores(quantized, test)
    accuracy = _accuracy(scores, test)
    facts = replace(
        unfinished,
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
            calibration_images=CALIBRATION,
            accuracy_change=round(accuracy.value - card.accuracy.value, 6),
            latency_ratio=ratios,
        ),
    )
    embed(model, facts)
    return write(facts, {"model.onnx": model.SerializeToString()}, target)


def as_int8(content: bytes, training: Part) -> onnx.ModelProto:
    """The quantised graph of an ONNX file, without a card."""
    with tempfile.TemporaryDirectory() as folder:
        given, prepared, made = (Path(folder, f"{stage}.onnx") for stage in ("given", "prepared", "made"))
        given.write_bytes(content)
        quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(made),
            Images(training),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=OPERATORS,
        )
        model = onnx.load(made)
    model.ClearField("metadata_props")
    return model


def _with_card(model: onnx.ModelProto, card: Card) -> Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    embed(copy, card)
    return Model(copy.SerializeToString(), "cpu")


def _shuffled(part: Part) -> torch.Tensor:
    """The rows of a part in an order that is the same for everybody."""
    return torch.from_numpy(np.random.default_rng(0).permutation(len(part)))


def _scores(model: Model, test: Part) -> torch.Tensor:
    images = test.images.numpy()
    parts = [model.run(images[start : start + 500]).logits for start in range(0, len(images), 500)]
    return torch.from_numpy(np.concatenate(parts))


def _accuracy(scores: torch.Tensor, test: Part) -> Accuracy:
    correct = int((scores.argmax(1) == test.labels).sum())
    share = correct / len(test)
    low, high = evaluate.interval95(share, len(test))
    loss = round(evaluate.loss(scores, test.labels), 5)
    one_seed = Seeds((share,), share, None, 1)
    return Accuracy(share, correct, len(test), (round(low, 5), round(high, 5)), loss, one_seed)


def _timed_before(folder: Path) -> dict[str, dict[str, float]]:
    """What earlier files of the variant took on other processors: that depends on the graph, not on its weights."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8"))["quantization"]["latency_ratio"] if path.exists() else {}


def _latency_ratio(quantized: Model, original: Model, part: Part) -> dict[str, float]:
    """By batch size: the median time of a call of the first over the second's, called in turn."""
    ratios = {}
    for batch in BATCHES:
        images = part.images[:batch].numpy()
        seconds = np.empty((CALLS + 50, 2))
        for row in seconds:
            for column, model in enumerate((quantized, original)):
                start = time.perf_counter()
                model.run(images)
                row[column] = time.perf_counter() - start
        ours, theirs = np.median(seconds[50:], axis=0)
        ratios[str(batch)] = round(float(ours / theirs), 3)
    return ratios


def _check_worth(
    name: str, quantized: Model, original: Model, training: Part, ratios: dict[str, dict[str, float]]
) -> None:
    rows = _shuffled(training)[CALIBRATION:][:JUDGED]
    judged = Part(training.name, training.images[rows], training.labels[rows])
    right, before = ((_scores(model, judged).argmax(1) == judged.labels).sum() for model in (quantized, original))
    change = float(right - before) / len(judged)
    if change < -LARGEST_DROP or min(ratio for timed in ratios.values() for ratio in timed.values()) > LEAST_GAIN:
        told = "; ".join(
            ", ".join(f"{ratio:.2f} at batch {batch}" for batch, ratio in timed.items()) + f" on {processor}"
            for processor, timed in ratios.items()
        )
        raise ExportError(
            f"Nothing was written, since int8 is not worth it for {name}: on {len(judged):,} training images its "
            f"accuracy changes by {change:+.2%} (at least {-LARGEST_DROP:.1%} is asked), and its time over the float "
            f"model's is {told} (at most {LEAST_GAIN:g} is asked at one of them)."
        )
