"""Finished runs → a model of the zoo: safetensors → ONNX → parity with PyTorch → card.

Nothing is written where a check fails. The folder is made under another name and renamed, so a model is there whole or
not at all. All facts of the card are measured here; nobody writes one by hand.
"""

import hashlib
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from train import evaluate, networks
from train.data import Part, held_out_part
from train.evaluate import logits
from train.onnx_graph import OPSET, to_onnx
from train.recipe import Recipe
from train.runs import Run, RunError
from zoo import card as cards
from zoo import registry
from zoo.card import Card
from zoo.datasets import catalog as datasets
from zoo.errors import WrongUsage, ZooError
from zoo.inspection.onnx_layers import layers as layers_of
from zoo.model import Model
from zoo.model_files import METADATA_KEY

LOGIT_TOLERANCE = 1e-4  # between PyTorch and ONNX, on all test images

FORMS = {"mnist": "digit", "cifar10": "photo"}


class ExportError(ZooError):
    """The model is not fit to be written; the message says which check failed, with its figures."""


def export(
    recipe: Recipe, runs: Path | None, folder: str | None, target: Path = registry.SHIPPED, name: str | None = None,
    seed: int = 0,
) -> Card:  # fmt: skip
    """Write `target/NAME/` from the recipe's finished runs: one seed's weights, all seeds' accuracies, the twin's T.

    Args:
        recipe: whose runs are taken.
        runs: where run folders lie, default `$ZOO_HOME/runs`.
        folder: where the data lie, as in `zoo.datasets.catalog.load`.
        target: the folder of models.
        name: of a model of the user's own. Without one the model has the recipe's name, and its runs must be of exactly
            the recipe's settings; with one they may have another number of epochs.
        seed: whose weights are taken; 0 for the recipe's own model.
    Raises:
        RunError: no finished run of that seed, or runs of different settings. WrongUsage: the name cannot be taken.
        ExportError: ONNX and PyTorch disagree.
    """
    own = name is not None
    if name is not None:
        check_name(name, target)
        recipe = as_trained(recipe, runs, seed)
    shipped, seeds = finished_runs(recipe, runs, seed, strict=not own)
    network = networks.load(recipe, shipped.weights)
    test = held_out_part(recipe.dataset, "full", folder)
    scores = logits(network, test.images, recipe)
    calibration = calibrate(recipe, runs, folder, scores, test, seed, strict=not own)
    model = to_onnx(network, recipe, calibration.temperature)
    facts = _card(recipe, shipped, seeds, network, model, scores, test, calibration)
    facts = replace(facts, name=name, default=False) if name is not None else facts
    embed(model, facts)
    content = model.SerializeToString()
    check_parity(Model(content, "cpu", facts.name), test, scores)
    return write(facts, {"model.onnx": content, "model.safetensors": shipped.weights.read_bytes()}, target)


def check_name(name: str, target: Path) -> None:
    """Whether a model of the user's own may have that name in that folder. Raises WrongUsage."""
    if not cards.NAME.fullmatch(name):
        raise WrongUsage(f"{name!r} cannot be a model's name: take letters, digits and . _ + -, such as mnist14k.mine.")
    if target == registry.SHIPPED:
        raise WrongUsage(f"{target} holds the recipes' own models: leave --as out, or choose another folder with --to.")
    if (registry.SHIPPED / name).exists():
        raise WrongUsage(f"{name} is a model that pocketzoo ships, and yours would not be found: choose another name.")


def as_trained(recipe: Recipe, runs: Path | None, seed: int) -> Recipe:
    """The recipe with the number of epochs that its run of a seed was trained for. Raises RunError."""
    run = Run.of(recipe.name, "full", seed, runs)
    if not (run.folder / "result.json").exists():
        raise RunError(f"{run.folder} holds no finished run: python -m train {recipe.name} --seed {seed}")
    epochs = run.read("config")["epochs"]
    if epochs == recipe.epochs:
        return recipe
    return replace(recipe, epochs=epochs, title=f"{recipe.title}; epochs: {epochs} instead of {recipe.epochs}")


def finished_runs(recipe: Recipe, root: Path | None, seed: int = 0, strict: bool = True) -> tuple[Run, list[Run]]:
    """One seed's run, and all finished full runs of the recipe's settings in the order of their seeds.

    Args:
        strict: whether finished runs of other settings are an error, or left out.
    """
    shipped = Run.of(recipe.name, "full", seed, root)
    folders = [path.parent for path in shipped.folder.parent.glob("seed*/result.json")]
    seeds = sorted(int(folder.name[4:]) for folder in folders if folder.name[4:].isdecimal())
    found = [Run.of(recipe.name, "full", seed, root) for seed in seeds]
    if shipped not in found:
        raise RunError(f"{shipped.folder} holds no finished run: python -m train {recipe.name} --seed {seed}")
    if not strict:
        found = [run for run in found if run == shipped or run.has_settings(recipe.settings())]
    for run in found:
        run.check_settings(recipe.settings())
    return shipped, found


def calibrate(
    recipe: Recipe, runs: Path | None, folder: str | None, test_scores: torch.Tensor, test: Part, seed: int = 0,
    strict: bool = True,
) -> cards.Calibration:  # fmt: skip
    """Temperature and the bound of `unsure`, from the twin's validation split; T is 1 where there is no twin.

    Args:
        seed: of the twin. strict: whether a twin of other settings is an error, or none.
    """
    temperature, bound = 1.0, 0.5
    source = "nothing: no twin was trained, so T is 1 and the bound 0.5"
    twin = Run.of(recipe.name, "twin", seed, runs)
    if (twin.folder / "result.json").exists() and (strict or twin.has_settings(recipe.settings())):
        twin.check_settings(recipe.settings())
        validation = held_out_part(recipe.dataset, "twin", folder)
        scores = logits(networks.load(recipe, twin.weights), validation.images, recipe)
        temperature = round(evaluate.fit_temperature(scores, validation.labels), 4)
        bound = round(evaluate.unsure_below(scores, validation.labels, temperature), 3)
        source = (
            f"a twin: the same recipe and seed, trained without {len(validation):,} of the training images. On these "
            "T gives the least cross-entropy, and half of the mistakes have a probability below the bound"
        )
    return cards.Calibration(
        temperature=temperature,
        unsure_below=bound,
        source=source,
        ece_before=round(evaluate.calibration_error(test_scores, test.labels), 5),
        ece_after=round(evaluate.calibration_error(test_scores / temperature, test.labels), 5),
    )


def check_parity(model: Model, test: Part, expected: torch.Tensor) -> None:
    """The ONNX file answers as PyTorch does on all test images: the same label everywhere, logits within 1e-4."""
    images = test.images.numpy()
    got = np.concatenate([model.run(images[start : start + 500]).logits for start in range(0, len(images), 500)])
    worst = float(np.abs(got - expected.numpy()).max())
    differing = int((got.argmax(1) != expected.argmax(1).numpy()).sum())
    if differing or worst > LOGIT_TOLERANCE:
        raise ExportError(
            f"Nothing was written: of {len(images)} test images ONNX and PyTorch label {differing} differently, and "
            f"their logits differ by up to {worst:.2g} (allowed: {LOGIT_TOLERANCE:g})."
        )


def _card(
    recipe: Recipe, shipped: Run, seeds: list[Run], network: nn.Sequential, model: onnx.ModelProto,
    scores: torch.Tensor, test: Part, calibration: cards.Calibration,
) -> Card:  # fmt: skip
    info = datasets.DATASETS[recipe.dataset]
    layers = layers_of(model)
    accuracies = tuple(run.read("result")["accuracy"] for run in seeds)
    correct = int((scores.argmax(1) == test.labels).sum())
    result = shipped.read("result")
    low, high = evaluate.interval95(correct / len(test), len(test))
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
            seed=shipped.read("config")["seed"],
            epochs=result["epochs"],
            seconds=result["training_s"],
            source=recipe.source,
            environment={**shipped.read("environment"), "threads": shipped.read("config")["threads"]},
        ),
        layers=layers,
        opset=OPSET,
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    )


def embed(model: onnx.ModelProto, card: Card) -> None:
    """Put the card into the model's metadata."""
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, card.to_json()


def describe(recipe: Recipe, target: Path = registry.SHIPPED) -> Card:
    """Bring a model's title, default flag and source up to its recipe; weights, graph and figures stay as they are.

    Raises:
        ExportError: the model is not there, or was trained with other settings than the recipe now has.
    """
    folder = target / recipe.name
    if not (folder / "card.json").exists():
        raise ExportError(f"{folder} holds no model: python -m train export {recipe.name} writes it.")
    old = Card.from_json((folder / "card.json").read_text(encoding="utf-8"), str(folder))
    if old.training.settings != recipe.settings():
        raise ExportError(f"{folder} was trained with other settings than its recipe has now: train and export it.")
    model = onnx.load(folder / "model.onnx")
    card = replace(
        old.embedded(),
        title=recipe.title,
        default=recipe.default,
        training=replace(old.training, source=recipe.source),
    )
    del model.metadata_props[:]
    embed(model, card)
    weights = (folder / "model.safetensors").read_bytes()
    return write(card, {"model.onnx": model.SerializeToString(), "model.safetensors": weights}, target)


def write(card: Card, contents: dict[str, bytes], target: Path) -> Card:
    """Write a model's folder, whole or not at all: the files by name, and the card with their digests."""
    final, partial = target / card.name, target / f".{card.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in contents.items():
        (partial / name).write_bytes(content)
    files = tuple(
        cards.File(name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in sorted(contents.items())
    )
    complete = replace(card, files=files)
    (partial / "card.json").write_text(complete.to_json(indent=2) + "\n", encoding="utf-8")
    old = target / f".{card.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    return complete
