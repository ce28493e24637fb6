"""A calibration run → the temperature of a model that is already in the zoo. Weights and logits do not change."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from train.data import held_out_data
from train.export import calibrate, files_with, replace_card, variants
from train.recipe import Recipe
from train.runs import Run
from zoo import registry
from zoo.card import Card
from zoo.errors import ExportError, RunError
from zoo.model import Model
from zoo.own_models import write

BATCH = 500


def calibrate_shipped(
    recipe: Recipe, runs: Path | None, folder: str | None, target: Path = registry.SHIPPED_FOLDER
) -> Iterator[Card]:
    """Write the temperature of a recipe's calibration run into its model and its int8 variant.

    The training run itself is not needed. Both variants get the temperature and threshold of the float network, and
    each its own expected calibration error.

    Args:
        recipe: the recipe of the model.
        runs: folder with the run folders, default `$ZOO_HOME/runs`.
        folder: folder with the data, as in `zoo.datasets.catalog.load`.
        target: folder of models to write to.
    Raises:
        RunError: there is no finished calibration run with the recipe's settings.
        ExportError: there is no such model, it has other settings than the recipe, or its logits change.
    """
    run = Run.of(recipe.name, "calibration", 0, runs)
    if not (run.folder / "result.json").exists():
        raise RunError(
            f"There is no finished calibration run in {run.folder}. Train it: python -m train {recipe.name} "
            "--calibration-run"
        )
    test = held_out_data(recipe.dataset, "full", folder)
    images = test.images.numpy()
    for entry in variants(recipe, target):
        old = entry.card
        content = entry.read("model.onnx")
        logits, _, known = outputs(content, images)
        calibration = calibrate(recipe, runs, folder, torch.from_numpy(logits), test)
        calibration = replace(calibration, known_from=old.calibration.known_from)
        model = with_temperature(onnx.load_model_from_string(content), calibration.temperature)
        card = replace(old.embedded(), version=recipe.version, calibration=calibration)
        replace_card(model, card)
        new = model.SerializeToString()
        after = outputs(new, images)
        if not (np.array_equal(after[0], logits) and np.array_equal(after[2], known)):
            raise ExportError(f"The logits of {old.name} change with its temperature. Nothing was written.")
        expected = torch.softmax(torch.from_numpy(logits) / calibration.temperature, 1).numpy()
        if not np.allclose(after[1], expected, rtol=0, atol=1e-6):
            raise ExportError(f"The probabilities of {old.name} are not those of its temperature. Nothing was written.")
        yield write(card, files_with(entry, model), target)


def with_temperature(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """Divide the logits by a temperature before the softmax; replaces an earlier temperature."""
    graph = model.graph
    softmax = next(node for node in graph.node if "probabilities" in node.output)
    for node in list(graph.node):
        if node.op_type == "Div" and list(node.output) == list(softmax.input):
            softmax.input[0] = node.input[0]
            constant = node.input[1]
            graph.node.remove(node)
            for value in list(graph.initializer):
                if value.name == constant:
                    graph.initializer.remove(value)
    if softmax.input[0] != "logits":
        raise ExportError("The softmax of the network does not read the logits: it cannot be calibrated.")
    if temperature != 1:
        graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), "temperature"))
        position = list(graph.node).index(softmax)
        graph.node.insert(position, helper.make_node("Div", ["logits", "temperature"], ["calibrated"], "calibrate"))
        softmax.input[0] = "calibrated"
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(content: bytes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits and probabilities float32 `(N, K)`, and known `(N,)` (of no length where the model lacks it)."""
    model = Model(content, "cpu")
    parts = [model.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    known = [part.known for part in parts if part.known is not None]
    return (
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate(known) if known else np.empty(0, np.float32),
    )
