"""Runs → a model of the zoo: safetensors → ONNX → parity check against PyTorch → card.

If a check fails, nothing is written. The folder is written under a temporary name and renamed, so a model is either
complete or absent. All facts on the card are measured here; cards are never written by hand.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from safetensors.torch import save
from torch import nn

from train import evaluate, networks
from train.data import Split, held_out_data
from train.evaluate import logits
from train.onnx_graph import OPSET, to_onnx
from train.recipe import Recipe
from train.runs import Run
from zoo import card as cards
from zoo import registry
from zoo.card import Card
from zoo.datasets import catalog as datasets
from zoo.errors import ExportError, RunError
from zoo.evaluation import wilson
from zoo.inspection.onnx_layers import layers as layers_of
from zoo.model import Model
from zoo.model_files import METADATA_KEY
from zoo.own_models import check_name, write

LOGIT_TOLERANCE = 1e-4  # largest difference between PyTorch and ONNX, on all test images
NO_CALIBRATION_RUN = "no calibration run: T = 1, unsure below 0.5"  # a card's `calibration.source`

FORMS: dict[str, Literal["digit", "photo"]] = {
    "mnist": "digit",
    "cifar10": "photo",
}  # dataset → `input.form` of the card


def export(
    recipe: Recipe,
    runs: Path | None,
    folder: str | None,
    target: Path = registry.SHIPPED_FOLDER,
    name: str | None = None,
    seed: int = 0,
) -> Card:
    """Write `target/NAME/` from the recipe's finished runs.

    The model has the weights of one seed, the accuracies of all seeds and the temperature of the calibration run.

    Args:
        recipe: the recipe whose runs are exported.
        runs: folder with the run folders, default `$ZOO_HOME/runs`.
        folder: folder with the data, as in `zoo.datasets.catalog.load`.
        target: folder of models to write to.
        name: name for the user's own model. Without it the model has the recipe's name, and its runs must have exactly
            the recipe's settings. With it the runs may have another number of epochs, and the run may be unfinished.
        seed: the seed whose weights are exported; 0 for the recipe's own model.
    Raises:
        RunError: there is no finished run of that seed, or the runs have different settings.
        WrongUsage: the name cannot be used.
        ExportError: ONNX and PyTorch disagree.
    """
    source: Run | Unfinished
    if name is None:
        source, all_runs = finished_runs(recipe, runs, seed)
    else:
        check_name(name, target)
        source = trained_run(recipe, runs, seed)
        recipe = as_trained(recipe, source)
        all_runs = [] if isinstance(source, Unfinished) else finished_runs(recipe, runs, seed, strict=False)[1]
    test = held_out_data(recipe.dataset, "full", folder)
    if isinstance(source, Unfinished):
        run, network, weights = source.run, source.network, source.weights
        scores = logits(network, test.images, recipe)
        calibration = uncalibrated(scores, test)  # a finished calibration run has other weights
        accuracies, epochs = (evaluate.accuracy(scores, test.labels),), source.epochs
        seconds = round(sum(line["seconds"] for line in run.metrics()[:epochs]), 1)
    else:
        run, network, weights = source, networks.load(recipe, source.weights), source.weights.read_bytes()
        scores = logits(network, test.images, recipe)
        calibration = calibrate(recipe, runs, folder, scores, test, seed, strict=name is None)
        accuracies = tuple(one.read("result")["accuracy"] for one in all_runs)
        epochs, seconds = run.read("result")["epochs"], run.read("result")["training_s"]
    model = to_onnx(network, recipe, calibration.temperature)
    card = _card(recipe, run, (epochs, seconds), accuracies, network, model, scores, test, calibration)
    card = replace(card, name=name, default=False) if name is not None else card
    embed(model, card)
    content = model.SerializeToString()
    check_parity(Model(content, "cpu", card.name), test, scores)
    return write(card, {"model.onnx": content, "model.safetensors": weights}, target)


@dataclass(frozen=True)
class Unfinished:
    """A run that was interrupted, with the network after its last complete epoch."""

    run: Run
    epochs: int  # that are complete
    network: nn.Sequential
    weights: bytes  # of the network, as safetensors


def trained_run(recipe: Recipe, runs: Path | None, seed: int) -> Run | Unfinished:
    """Return a recipe's run with this seed, finished or not. Raises RunError if no epoch is complete."""
    run = Run.of(recipe.name, "full", seed, runs)
    if (run.folder / "result.json").exists():
        return run
    if not run.checkpoint.exists():
        raise RunError(f"There is no run in {run.folder}. Train it: python -m train {recipe.name} --seed {seed}")
    state, epochs = run.measured_weights()
    if epochs == 0:
        raise RunError(
            f"The run in {run.folder} has no complete epoch yet. Continue it: python -m train {recipe.name} --seed "
            f"{seed} --resume"
        )
    network = networks.build(recipe)
    network.load_state_dict(state)
    return Unfinished(run, epochs, network.eval(), save(state))


def as_trained(recipe: Recipe, source: Run | Unfinished) -> Recipe:
    """Return the recipe with the number of epochs that its run was started with. Raises RunError."""
    run = source.run if isinstance(source, Unfinished) else source
    epochs = run.read("config")["epochs"]
    note = f"; epochs: {epochs} instead of {recipe.epochs}" if epochs != recipe.epochs else ""
    if isinstance(source, Unfinished):
        note = f"; stopped after {source.epochs} of {epochs} epochs"
    recipe = replace(recipe, epochs=epochs, title=f"{recipe.title}{note}")
    if isinstance(source, Unfinished):
        run.check_settings(recipe.settings())
    return recipe


def finished_runs(recipe: Recipe, root: Path | None, seed: int = 0, strict: bool = True) -> tuple[Run, list[Run]]:
    """Return the run with this seed, and all finished full runs of the recipe in the order of their seeds.

    Args:
        strict: whether finished runs with other settings are an error or are ignored.
    """
    exported = Run.of(recipe.name, "full", seed, root)
    folders = [path.parent for path in exported.folder.parent.glob("seed*/result.json")]
    seeds = sorted(int(folder.name[4:]) for folder in folders if folder.name[4:].isdecimal())
    runs = [Run.of(recipe.name, "full", seed, root) for seed in seeds]
    if exported not in runs:
        raise RunError(
            f"There is no finished run in {exported.folder}. Train it: python -m train {recipe.name} --seed {seed}"
        )
    if not strict:
        runs = [run for run in runs if run == exported or run.has_settings(recipe.settings())]
    for run in runs:
        run.check_settings(recipe.settings())
    return exported, runs


def calibrate(
    recipe: Recipe,
    runs: Path | None,
    folder: str | None,
    test_scores: torch.Tensor,
    test: Split,
    seed: int = 0,
    strict: bool = True,
) -> cards.Calibration:
    """Fit the temperature T and the threshold of `unsure` on the validation split, with the calibration run.

    Without a calibration run T is 1 and the threshold 0.5.

    Args:
        test_scores, test: logits and labels for the expected calibration error on the card.
        seed: seed of the calibration run.
        strict: whether a calibration run with other settings is an error or is ignored.
    """
    temperature, threshold, source = 1.0, 0.5, NO_CALIBRATION_RUN
    calibration_run = Run.of(recipe.name, "calibration", seed, runs)
    if (calibration_run.folder / "result.json").exists() and (
        strict or calibration_run.has_settings(recipe.settings())
    ):
        calibration_run.check_settings(recipe.settings())
        validation = held_out_data(recipe.dataset, "calibration", folder)
        scores = logits(networks.load(recipe, calibration_run.weights), validation.images, recipe)
        temperature = round(evaluate.fit_temperature(scores, validation.labels), 4)
        threshold = round(evaluate.unsure_below(scores, validation.labels, temperature), 3)
        source = calibration_source(len(validation), calibration_run.read("environment").get("device"))
    return _calibration(temperature, threshold, source, test_scores, test)


def uncalibrated(test_scores: torch.Tensor, test: Split) -> cards.Calibration:
    """Return the calibration of a model without a calibration run: T is 1 and the threshold 0.5."""
    return _calibration(1.0, 0.5, NO_CALIBRATION_RUN, test_scores, test)


def _calibration(
    temperature: float, threshold: float, source: str, test_scores: torch.Tensor, test: Split
) -> cards.Calibration:
    return cards.Calibration(
        temperature=temperature,
        unsure_below=threshold,
        source=source,
        ece_before=round(evaluate.calibration_error(test_scores, test.labels), 5),
        ece_after=round(evaluate.calibration_error(test_scores / temperature, test.labels), 5),
    )


def calibration_source(validation_images: int, gpu: str | None = None) -> str:
    """Describe a calibration run for the card's `calibration.source`.

    Args:
        gpu: name of the GPU on which it was trained; None for a CPU.
    """
    where = f" on an {gpu}" if gpu else ""
    return (
        f"calibration run: the same recipe and seed, trained{where} without {validation_images:,} of the training "
        "images. On these, T minimises the cross-entropy, and half of the wrong answers have a probability below the "
        "threshold"
    )


def check_parity(model: Model, test: Split, expected: torch.Tensor) -> None:
    """Check on all test images that ONNX and PyTorch give the same labels, and logits within 1e-4.

    Raises:
        ExportError: they do not.
    """
    images = test.images.numpy()
    logits = np.concatenate([model.run(images[start : start + 500]).logits for start in range(0, len(images), 500)])
    max_difference = float(np.abs(logits - expected.numpy()).max())
    other_labels = int((logits.argmax(1) != expected.argmax(1).numpy()).sum())
    if other_labels or max_difference > LOGIT_TOLERANCE:
        raise ExportError(
            f"ONNX and PyTorch disagree: {other_labels} of {len(images)} test images have different labels, and the "
            f"logits differ by up to {max_difference:.2g} (allowed: {LOGIT_TOLERANCE:g}). Nothing was written."
        )


def _card(
    recipe: Recipe,
    exported: Run,
    length: tuple[int, float],
    accuracies: tuple[float, ...],
    network: nn.Sequential,
    model: onnx.ModelProto,
    scores: torch.Tensor,
    test: Split,
    calibration: cards.Calibration,
) -> Card:
    info = datasets.DATASETS[recipe.dataset]
    layers = layers_of(model)
    correct = int((scores.argmax(1) == test.labels).sum())
    low, high = wilson(correct / len(test), len(test))
    return Card(
        schema_version=cards.SCHEMA_VERSION,
        name=recipe.name,
        version=recipe.version,
        title=recipe.title,
        licence="Apache-2.0",
        default=recipe.default,
        labels=info.labels,
        input=cards.Input(*info.image_shape, form=FORMS[info.name]),
        dataset=cards.DatasetFacts(info.name, info.title, info.licence, f"huggingface.co/datasets/{info.repository}"),
        parameters=cards.Parameters(**networks.parameter_counts(network), deployed=sum(x.parameters for x in layers)),
        macs=sum(layer.macs for layer in layers),
        accuracy=cards.Accuracy(
            value=correct / len(test),
            correct=correct,
            images=len(test),
            interval95=(round(low, 5), round(high, 5)),
            loss=round(evaluate.loss(scores, test.labels), 5),
            seeds=cards.Seeds(
                accuracies=accuracies,
                mean=round(statistics.mean(accuracies), 6),
                sd=round(statistics.stdev(accuracies), 6) if len(accuracies) > 1 else None,
                n=len(accuracies),
            ),
        ),
        calibration=calibration,
        training=cards.Training(
            settings=recipe.settings(),
            seed=exported.read("config")["seed"],
            epochs=length[0],
            seconds=length[1],
            source=recipe.source,
            environment={**exported.read("environment"), "threads": exported.read("config")["threads"]},
        ),
        layers=layers,
        opset=OPSET,
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    )


def embed(model: onnx.ModelProto, card: Card) -> None:
    """Write the card into the model's metadata."""
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, card.to_json()


def replace_card(model: onnx.ModelProto, card: Card) -> None:
    """Write the card into the model's metadata in place of an earlier one."""
    others = [(prop.key, prop.value) for prop in model.metadata_props if prop.key != METADATA_KEY]
    del model.metadata_props[:]
    helper.set_model_props(model, dict(others))
    embed(model, card)


def variants(recipe: Recipe, target: Path) -> list[registry.Entry]:
    """The recipe's model in a folder of models, and its int8 variant if there is one.

    Raises:
        ExportError: there is no such model, or one was trained with other settings than the recipe has now.
    """
    if not (target / recipe.name / "card.json").exists():
        raise ExportError(
            f"There is no model in {target / recipe.name}. Write it: python -m train export {recipe.name}"
        )
    folders = [target / name for name in (recipe.name, f"{recipe.name}-int8")]
    entries = [registry.open_folder(folder) for folder in folders if (folder / "card.json").exists()]
    for entry in entries:
        if entry.card.trained.training.settings != recipe.settings():
            raise ExportError(
                f"The settings of {recipe.name} have changed since {entry.card.name} was trained. Train and export it "
                "again."
            )
    return entries


def describe(recipe: Recipe, target: Path = registry.SHIPPED_FOLDER) -> list[Card]:
    """Update version, title, default flag and source of a model and its int8 variant from the recipe.

    Weights and figures do not change.

    Raises:
        ExportError: there is no such model, or it was trained with other settings than the recipe has now.
    """
    cards = []
    for entry in variants(recipe, target):
        old = entry.card
        card = replace(
            old.embedded(),
            version=recipe.version,
            title=recipe.title if old.quantization is None else f"{recipe.title}, in int8",
            default=recipe.default and old.quantization is None,
            training=replace(old.trained.training, source=recipe.source),
        )
        model = onnx.load_model_from_string(entry.read("model.onnx"))
        replace_card(model, card)
        cards.append(write(card, files_with(entry, model), target))
    return cards


def files_with(entry: registry.Entry, model: onnx.ModelProto) -> dict[str, bytes]:
    """The files of an entry, with another graph."""
    return {file.name: entry.read(file.name) for file in entry.card.files} | {"model.onnx": model.SerializeToString()}
