"""A third output for a trained model: `known`, how likely an image shows one of the classes at all.

A small network, the head, reads what the last layer reads and is trained to tell training images, and variants of them,
from made images that show none of the classes (`train/negatives.py`). The trained network is not changed: logits and
probabilities stay the same to the bit (docs/decisions/0021-known.md).
"""

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx.shape_inference
import torch
from onnx import helper, numpy_helper
from torch import nn

from train import negatives
from train.data import held_out_data, training_data
from train.export import replace_card
from zoo import registry
from zoo.card import Card, Known
from zoo.errors import ExportError, WrongUsage
from zoo.model import Model
from zoo.own_models import write
from zoo.runtime import open_session

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

HIDDEN = 48  # units of the head
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 12, 512, 3e-3, 1e-4
SHARE_KNOWN = 0.95  # of the validation images, which sets the bound
PART_WEIGHT = 0.8  # of pieces of digits in the loss: some of them do look like another digit
COUNTS = {"digit": (16_000, 12_000, 6_000), "photo": (8_000, 8_000, 3_000)}  # images as they are, made, and variants
VALIDATION_COUNTS = {"digit": 600, "photo": 1000}  # made images, and variants, for the report
OWN_VALIDATION = 20  # images of one's own that a bound needs: one of them is then unknown
OWN_MADE = 4000  # made images at most, for a model of one's own images
OWN_AUROC = 0.9  # a model of one's own images that separates made images less well has no output `known`
PREFIX = "known."  # of the names of the head's values in the graph
ROUNDING = 1e-6  # by which `known` may differ between two graphs of the same head


class MadeData(NamedTuple):
    """Images that a head is trained on and its bound is set with; shared by all models of a data set."""

    name: str
    images: Pixels  # of the training split, and variants of them
    negatives: negatives.Made
    validation_images: Pixels
    validation_variants: Pixels
    validation_negatives: negatives.Made


def made_data(dataset: str, form: str, folder: str | None) -> MadeData:
    """The training and validation images of a data set with their variants, and made images."""
    training, validation = (
        split.images.numpy()
        for split in (training_data(dataset, "calibration", folder), held_out_data(dataset, "calibration", folder))
    )
    plain, made, varied = COUNTS[form]
    few = VALIDATION_COUNTS[form]
    return MadeData(
        dataset,
        np.concatenate([training[:plain], negatives.positives(form, training[:varied], 1)]),
        negatives.negatives(form, training, made, 2),
        validation,
        negatives.positives(form, validation[:few], 3),
        negatives.negatives(form, validation, few, 4),
    )


def own_data(name: str, form: str, training: Pixels, validation: Pixels) -> MadeData | None:
    """The same for a model of one's own images; None where there are too few validation images for a bound."""
    if len(validation) < OWN_VALIDATION:
        return None
    made = min(OWN_MADE, max(OWN_MADE // 4, len(training)))
    few = made // 8
    return MadeData(
        name,
        np.concatenate([training[: 2 * OWN_MADE], negatives.positives(form, training[:OWN_MADE], 1)]),
        negatives.negatives(form, training, made, 2),
        validation,
        negatives.positives(form, validation[:few], 3),
        negatives.negatives(form, validation, few, 4),
    )


@dataclass(frozen=True)
class Head:
    """The weights of a head: `sigmoid(relu(x @ w1 + b1) @ w2)`, with a constant unit in place of a second bias."""

    w1: Floats  # (D, H + 1)
    b1: Floats  # (H + 1,)
    w2: Floats  # (H + 1,)

    def __call__(self, features: Floats) -> Floats:
        """float32 `(N, D)` → known, float32 `(N,)`, 0 to 1."""
        scores = np.maximum(features @ self.w1 + self.b1, 0) @ self.w2
        return np.asarray(1 / (1 + np.exp(-scores.clip(-80, 80))), np.float32)


def fit_head(features: Floats, known: npt.NDArray[np.bool_], weights: Floats, seed: int = 0) -> Head:
    """Train a head on features `(N, D)`, with one weight per image in the loss."""
    mean, sd = features.mean(0), features.std(0) + 1e-3
    data = torch.from_numpy((features - mean) / sd)
    target, weight = torch.from_numpy(known.astype(np.float32)), torch.from_numpy(weights.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = nn.Linear(data.shape[1], HIDDEN), nn.Linear(HIDDEN, 1)
        net = nn.Sequential(first, nn.ReLU(), second)
        optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        batch = min(BATCH, len(data))
        steps = EPOCHS * (len(data) // batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
        for _ in range(EPOCHS):
            order = torch.randperm(len(data))
            for start in range(0, len(data) - batch + 1, batch):
                rows = order[start : start + batch]
                logits: torch.Tensor = net(data[rows])
                loss = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target[rows], weight[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    (w1, b1), (w2, b2) = ((layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (first, second))
    scaled = (w1 / sd).T
    return Head(
        np.ascontiguousarray(np.c_[scaled, np.zeros(len(scaled))], np.float32),
        np.append(b1 - (w1 / sd) @ mean, 1).astype(np.float32),
        np.append(w2[0], b2[0]).astype(np.float32),
    )


def features_name(model: onnx.ModelProto) -> str:
    """The value that the last layer before the logits reads. Raises ExportError."""
    makers = {output: node for node in model.graph.node for output in node.output}
    name = "logits"
    while name in makers:
        node = makers[name]
        name = str(node.input[0])
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            return name
    raise ExportError("The network has no last layer whose input could be read: known cannot be added.")


def features_of(content: bytes, name: str) -> Callable[[Pixels], Floats]:
    """A function from images to the values `name` of an ONNX file, float32 `(N, D)`."""
    model = without_head(onnx.load_model_from_string(content))
    features = features_name(model)
    model.graph.output.append(onnx.ValueInfoProto(name=features))
    session, _ = open_session(model.SerializeToString(), "cpu", name)

    def run(images: Pixels) -> Floats:
        parts = [
            session.run([features], {"image": images[start : start + 64]})[0] for start in range(0, len(images), 64)
        ]
        return np.concatenate([part.reshape(len(part), -1) for part in parts])

    return run


def without_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without the output `known`; the same graph where it has none."""
    graph = model.graph
    for values in (graph.node, graph.initializer, graph.output, graph.value_info):
        kept = [
            value
            for value in values
            if not (getattr(value, "name", "") == "known" or getattr(value, "name", "").startswith(PREFIX))
        ]
        del values[:]
        values.extend(kept)
    return model


def with_head(model: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """Append the head to the graph: two dense layers and the output `known`, float32 `(N,)`.

    For one image, the fixed cost of a node counts, not its arithmetic. The runtime fuses each Gemm with the function
    behind it. A MatMul with a vector would need no Squeeze, but is not fused, and took 1 µs longer.
    """
    model = without_head(model)
    graph = model.graph
    features = features_name(model)
    flat = features if _is_flat(model, features) else f"{PREFIX}features"
    tensors = {"w1": head.w1, "b1": head.b1, "w2": head.w2[:, np.newaxis], "axis": np.array([1])}
    for name, values in tensors.items():
        graph.initializer.append(numpy_helper.from_array(values, f"{PREFIX}{name}"))
    if flat != features:
        graph.node.append(helper.make_node("Flatten", [features], [flat], f"{PREFIX}flatten"))
    for operator, inputs, output, name in (
        ("Gemm", [flat, f"{PREFIX}w1", f"{PREFIX}b1"], f"{PREFIX}sums", "dense1"),
        ("Relu", [f"{PREFIX}sums"], f"{PREFIX}hidden", "relu"),
        ("Gemm", [f"{PREFIX}hidden", f"{PREFIX}w2"], f"{PREFIX}score", "dense2"),
        ("Sigmoid", [f"{PREFIX}score"], f"{PREFIX}column", "sigmoid"),
        ("Squeeze", [f"{PREFIX}column", f"{PREFIX}axis"], "known", "squeeze"),
    ):
        graph.node.append(helper.make_node(operator, inputs, [output], f"{PREFIX}{name}"))
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param or "N"
    graph.output.append(helper.make_tensor_value_info("known", onnx.TensorProto.FLOAT, [batch]))
    onnx.checker.check_model(model, full_check=True)
    return model


def _is_flat(model: onnx.ModelProto, name: str) -> bool:
    """Whether a value is known to be `(N, D)`."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return any(value.name == name and len(value.type.tensor_type.shape.dim) == 2 for value in graph.value_info)


def head_of(model: onnx.ModelProto) -> Head | None:
    """The head in a graph; None where it has none."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    if f"{PREFIX}w1" not in tensors:
        return None
    w1, b1, w2 = (tensors[f"{PREFIX}{name}"] for name in ("w1", "b1", "w2"))
    return Head(w1, b1, w2.reshape(-1))


def train_head(content: bytes, name: str, data: MadeData) -> tuple[Head, float, Known]:
    """Train the head of an ONNX file; returns it, the bound, and the section of the card."""
    features = features_of(content, name)
    positive, negative = features(data.images), features(data.negatives.images)
    parts = np.array([kind == "parts" for kind in data.negatives.kinds])
    weights = np.ones(len(positive) + len(negative), np.float32)
    weights[: len(positive)] = max(1.0, len(negative) / len(positive))
    weights[len(positive) :][parts] = PART_WEIGHT
    known = np.arange(len(weights)) < len(positive)
    head = fit_head(np.concatenate([positive, negative]), known, weights)
    validation, variants, made = (
        head(features(images))
        for images in (data.validation_images, data.validation_variants, data.validation_negatives.images)
    )
    bound = bound_of(validation)
    source = (
        f"a head on the input of the last layer, trained on {len(positive):,} training images and variants of them, "
        f"and {len(negative):,} made images of none of the classes ({', '.join(sorted(set(data.negatives.kinds)))}). "
        f"Bound: {SHARE_KNOWN:.0%} of {len(validation):,} validation images are known, and "
        f"{(variants >= bound).mean():.1%} of {len(variants):,} variants of them"
    )
    parameters = head.w1.size + head.b1.size + head.w2.size
    return head, bound, Known(source=source, parameters=parameters, made_auroc=round(auroc(validation, made), 4))


def add_own_head(
    model: onnx.ModelProto, card: Card, training: Pixels, validation: Pixels
) -> tuple[onnx.ModelProto, Card]:
    """The graph and card of a model of one's own images with the output `known`.

    Both unchanged where there are too few validation images for a bound, or where made images cannot be distinguished
    from the classes (such as textures).
    """
    data = own_data(card.name, card.input.form, training, validation)
    if data is None:
        return model, card
    head, bound, section = train_head(model.SerializeToString(), card.name, data)
    if section.made_auroc is None or section.made_auroc < OWN_AUROC:
        return model, card
    card = replace(card, calibration=replace(card.calibration, known_from=bound), known=section)
    return with_head(model, head), card


def bound_of(scores: Floats) -> float:
    """The largest bound of five digits with at least `SHARE_KNOWN` of the scores at or above it."""
    return float(np.floor(np.quantile(scores.astype(np.float64), 1 - SHARE_KNOWN, method="lower") * 1e5) / 1e5)


def auroc(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve: the probability that a positive has a higher score; ties count half."""
    values = np.concatenate([positive, negative])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = len(positive)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


def matching(patterns: Sequence[str]) -> list[str]:
    """The names of shipped models that match a pattern. Raises WrongUsage for a pattern without a match."""
    names = sorted(entry.card.name for entry in registry.scan() if entry.shipped)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise WrongUsage(f"No shipped model matches {pattern!r}. There are: {', '.join(names)}.")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def add_known(names: Iterable[str], folder: str | None, target: Path = registry.SHIPPED_FOLDER) -> Iterator[Card]:
    """Train heads for models and write their files again, with the output `known` and a renewed card.

    Raises:
        ExportError: the logits or probabilities of validation images changed. Nothing is written for that model.
    """
    made: dict[str, MadeData] = {}
    for name in names:
        entry = registry.find(name)
        dataset, form = entry.card.trained.dataset.name, entry.card.input.form
        if dataset not in made:
            made[dataset] = made_data(dataset, form, folder)
        yield _write(entry, made[dataset], target)


def _write(entry: registry.Entry, data: MadeData, target: Path) -> Card:
    content = entry.read("model.onnx")
    head, bound, section = train_head(content, entry.card.name, data)
    old = entry.card
    card = replace(old.embedded(), calibration=replace(old.calibration, known_from=bound), known=section)
    model = with_head(onnx.load_model_from_string(content), head)
    replace_card(model, card)
    new = model.SerializeToString()
    check_unchanged(content, new, card.name, data.validation_images)
    return _written(entry, card, new, target)


def _written(entry: registry.Entry, card: Card, content: bytes, target: Path) -> Card:
    files = {file.name: entry.read(file.name) for file in entry.card.files} | {"model.onnx": content}
    return write(card, files, target)


def rewrite(names: Iterable[str], folder: str | None, target: Path = registry.SHIPPED_FOLDER) -> Iterator[Card]:
    """Write the graphs of the heads of models again, as `with_head` makes them now, with the same weights.

    Models without a head are left out.

    Raises:
        ExportError: for validation images, logits or probabilities changed, or `known` by more than rounding. Nothing
            is written for that model.
    """
    validation: dict[str, Pixels] = {}
    for name in names:
        entry = registry.find(name)
        content = entry.read("model.onnx")
        model = onnx.load_model_from_string(content)
        head = head_of(model)
        if head is None:
            continue
        dataset = entry.card.trained.dataset.name
        if dataset not in validation:
            validation[dataset] = held_out_data(dataset, "calibration", folder).images.numpy()
        new = with_head(model, head).SerializeToString()
        check_unchanged(content, new, entry.card.name, validation[dataset], same_head=True)
        yield _written(entry, entry.card, new, target)


def check_unchanged(old: bytes, new: bytes, name: str, images: Pixels, same_head: bool = False) -> None:
    """Raise ExportError unless both files give the same logits and probabilities to the bit, alone and in batches.

    Args:
        same_head: whether also `known` must be the same, except for rounding.
    """
    before, after = (Model(content, "cpu", name) for content in (old, new))
    for size, end in ((1, 50), (16, 1000), (500, len(images))):
        for start in range(0, end, size):
            batch = images[start : start + size]
            first, second = before.run(batch), after.run(batch)
            for a, b in zip(first[:2], second[:2], strict=True):
                if not np.array_equal(a, b):
                    raise ExportError(f"The logits of {name} change with the output known. Nothing was written.")
            if same_head and not np.allclose(first.known, second.known, rtol=0, atol=ROUNDING):  # type: ignore[arg-type]
                raise ExportError(f"The output known of {name} changes by more than {ROUNDING}. Nothing was written.")
