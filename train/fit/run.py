"""fit(): labelled images -> a trained, calibrated and registered model, with a card and a report."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
import torch.nn.functional as F

from train import evaluate, export, networks, start
from train.data import Split
from train.device import available, fit_on_device
from train.distill import Objective
from train.fit import data as own
from train.fit import initial, plan
from train.known import add_own_head
from train.loop import TrainingJob
from train.loop import fit as train
from train.onnx_graph import OPSET, to_onnx
from train.progress import Progress
from train.recipe import OneCycle, Recipe
from train.runs import Run
from zoo import card as cards
from zoo import own_models, registry
from zoo.card import Card
from zoo.errors import RunError, WrongUsage, printable
from zoo.evaluation import Evaluation, measure, wilson
from zoo.inspection.onnx_layers import layers as layers_of
from zoo.loading import model_file
from zoo.model import Model

RESERVE = 0.8  # share of --minutes for the training steps; the rest is for validation, export and a machine's noise
DEFAULT_MINUTES = 10.0
MIRROR_CONFUSION = 0.2  # share of both of two classes taken for the other from which on mirror images are suspected
MIRROR_IMAGES = 2  # at least that many of each of the two; one mistake in a small class means nothing

Say = Callable[[str], None]


@dataclass(frozen=True)
class FitOptions:
    """Options of a training; they are saved with the run, so that it can be resumed."""

    arch: str | None = None
    size: int | None = None
    epochs: int | None = None
    minutes: float = DEFAULT_MINUTES
    initial: str | None = None  # a model of the zoo whose weights are the first
    flip: bool | None = None  # mirror images; None chooses
    class_weights: bool = True
    seed: int = 0
    threads: int | None = None
    device: str = "auto"


def fit(
    folder: str | os.PathLike[str],
    name: str,
    *,
    arch: str | None = None,
    size: int | None = None,
    epochs: int | None = None,
    minutes: float = DEFAULT_MINUTES,
    initial: str | None = None,
    flip: bool | None = None,
    class_weights: bool = True,
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    resume: bool = False,
    replace_model: bool = False,
    progress: bool = False,
    say: Say = lambda message: None,
) -> Card:
    """Train a model on labelled images and register it in $ZOO_HOME/models.

    Args:
        folder: a folder with one sub-folder per class, a CSV or parquet file, or a zip of these.
        name: the model's name.
        arch: "mnist14k", "cifar90k" or "resnet8"; chosen by the images if None.
        size: 28, 32 or 64 pixels per side of the network's input; chosen by the images if None.
        epochs: number of epochs; chosen by the number of images and `minutes` if None.
        minutes: bound on the training time.
        initial: a model of the zoo whose weights the training starts from; its input replaces `size` and `arch`.
        flip: whether mirror images are seen in training; chosen by the images if None.
        class_weights: whether smaller classes count more.
        seed: of split, initial weights, order and augmentation.
        threads: CPU threads, the fastest number if None.
        device: "auto", "cpu" or "cuda".
        resume: continue an interrupted training.
        replace_model: replace a model, or an unfinished training, of the same name.
        progress: show a progress bar or one line per epoch on stderr.
        say: is called with every message.
    Raises:
        WrongUsage: the name is taken, or options contradict each other.
        BadData: there are too few images.
        RunError: there is a training to resume, or none.
        KeyboardInterrupt: it was interrupted; `resume` continues it.
    """
    options = FitOptions(arch, size, epochs, minutes, initial, flip, class_weights, seed, threads, device)
    _check_numbers(options)
    check_name(name, replace_model or resume)
    run = Run.of(name, "calibration", seed)
    if resume:
        options = _saved_options(run, options)
    else:
        run.check_free(replace_model, "--replace")
    started = time.perf_counter()
    prepared, recipe, content = prepare(folder, name, options)
    for fact in prepared.facts:
        say(fact)
    if resume and run.saved_config()["dataset"] != recipe.dataset:
        raise RunError(
            f"The images in {prepared.source} are not those that the training of {name} was started with: restore "
            "them, or start again with --replace instead of --resume."
        )
    recipe, flip_fact = _with_flip(prepared, recipe, options)
    say(flip_fact)
    job = _job(recipe, prepared, options, run if resume else None)
    if not resume:
        run.save_options(**{key: json.dumps(value) for key, value in vars(options).items()})
    training, validation = prepared.part("train"), prepared.part("validation")
    say(
        f"Training {recipe.title}: {job.epochs} epochs of {len(training):,} images, {job.threads} "
        f"thread{'s' * (job.threads != 1)}, seed {seed}. Run folder: {run.folder}. Stop with Ctrl-C; "
        "--resume continues."
    )
    bar = Progress(name, None if progress else False)
    if not progress:
        bar.epoch_done = lambda line: None  # type: ignore[method-assign]
    objective = _objective(prepared.class_weights() if options.class_weights else None, say)
    if job.device != "cpu":
        if content or (options.class_weights and prepared.class_weights() is not None):
            raise WrongUsage("On a GPU, neither --from nor class weights are possible: add --device cpu.")
        fit_on_device([job], [run], training, validation, [bar], resume, replace_model)
    else:
        first = (lambda network: _initialize(network, content, recipe, training, say)) if content else None
        train(job, run, training, validation, bar, resume, replace_model, objective, first)
    card, test, confused = _register(prepared, recipe, run, time.perf_counter() - started)
    from train.fit.report import write_report

    report = run.folder / "report.html"
    write_report(report, card, run, prepared, test)
    for warning in _warnings(confused, card.labels, recipe):
        say(warning)
    accuracy = card.trained.accuracy
    low, high = accuracy.interval95
    say(
        f"{name}: {accuracy.value:.2%} of {accuracy.images:,} test images ({low:.1%} to {high:.1%}, 95 % "
        f"interval). Report: {report}"
    )
    return card


def _check_numbers(options: FitOptions) -> None:
    """Raise WrongUsage for a number that is out of its range."""
    if not 0 < options.minutes < math.inf:  # not true for NaN
        raise WrongUsage(f"The longest training time cannot be {options.minutes} minutes: choose a number above 0.")
    for name, value, least in (
        ("epochs", options.epochs, 1), ("threads", options.threads, 1), ("seed", options.seed, 0)
    ):  # fmt: skip
        if value is not None and value < least:
            raise WrongUsage(f"{name} cannot be {value}: choose {least} or more.")


def check_name(name: str, replace_model: bool) -> None:
    """Raise WrongUsage if the model cannot have that name."""
    target = registry.home() / "models"
    own_models.check_name(name, target)
    if any(entry.card.architecture == name for entry in registry.scan() if entry.shipped):
        raise WrongUsage(f"{name} is the name of an architecture of pocketzoo. Choose another name.")
    if os.path.lexists(target / name) and not replace_model:
        raise WrongUsage(f"A model named {name} exists in {target}. Choose another name, or add --replace.")


def prepare(folder: str | os.PathLike[str], name: str, options: FitOptions) -> tuple[own.OwnData, Recipe, bytes | None]:
    """Read the images, and choose what is trained; the ONNX file to start from, if any. Trains nothing."""
    if options.size is not None and options.size not in plan.SIZES:
        raise WrongUsage(f"The size {options.size} is not possible. Choose {', '.join(map(str, plan.SIZES))}.")
    if options.arch is not None and options.arch not in plan.ARCHITECTURES:
        raise WrongUsage(f"Unknown architecture {options.arch!r}. Choose {', '.join(plan.ARCHITECTURES)}.")
    if options.initial is None:
        prepared = own.read(folder, options.seed, options.size)
        return prepared, plan.recipe(name, prepared, options.arch, flip=False), None
    if options.arch or options.size:
        raise WrongUsage("--from determines network and size: omit --arch and --size.")
    file = model_file(options.initial)
    card = Model(file.content, "cpu", file.source_name).card
    settings = initial.source_settings(card)
    prepared = own.read(folder, options.seed, expected=replace(card.input, form="photo"))
    architecture = next(key for key, value in plan.ARCHITECTURES.items() if value.network == settings["network"])
    recipe = plan.recipe(name, prepared, architecture, flip=False)
    network_options = {**settings.get("network_options", {}), "classes": len(prepared.labels)}
    recipe = replace(
        recipe,
        network_options=network_options,
        mean=tuple(settings["mean"]),
        sd=tuple(settings["sd"]),
        schedule=OneCycle(plan.peak(recipe) / 2),  # keeps more of the weights
        title=f"{recipe.title}, started from {card.name}",
        source=f"Trained by `zoo fit` on one's own images, started from the weights of {card.name} {card.version}.",
    )
    return prepared, recipe, file.content


def _saved_options(run: Run, options: FitOptions) -> FitOptions:
    """The options of an interrupted run. Raises RunError if there is none."""
    run.saved_config()
    saved = {key: json.loads(run.saved_option(key) or "null") for key in vars(options)}
    return FitOptions(**{key: value for key, value in saved.items() if value is not None})


def _with_flip(prepared: own.OwnData, recipe: Recipe, options: FitOptions) -> tuple[Recipe, str]:
    """The recipe with its augmentation, and why mirror images are in it or not."""
    size, channels = prepared.input.height, prepared.input.channels
    if options.flip is not None:
        flip, fact = options.flip, f"Mirror images: {'yes' if options.flip else 'no'}, as chosen."
    elif channels == 1:
        flip, fact = False, "Mirror images: no, because grey images may be characters (--flip adds them)."
    elif pairs := own.mirrored_classes(prepared):
        named = ", ".join(f"{a} and {b}" for a, b in pairs[:3])
        flip, fact = False, f"Mirror images: no, because classes look like mirror images of each other ({named})."
    else:
        flip, fact = True, "Mirror images: yes (--no-flip leaves them out)."
    return replace(recipe, augment=plan.augmentation(size, channels, flip)), fact


def _job(recipe: Recipe, prepared: own.OwnData, options: FitOptions, resumed: Run | None) -> TrainingJob:
    """The job, with as many epochs as the time allows."""
    device = available(options.device)
    if resumed:
        config = resumed.saved_config()
        recipe = replace(recipe, epochs=config["epochs"])
        return TrainingJob(recipe, "calibration", options.seed, config["epochs"], config["threads"], device)
    threads, epochs = options.threads or 1, options.epochs
    if device == "cpu":
        training = prepared.part("train")
        speed = start.fastest(recipe, training, options.threads)
        threads = speed.threads
        epoch_s = speed.step_s * -(-len(training) // recipe.batch_size)
        epochs = epochs or max(1, min(recipe.epochs, int(options.minutes * 60 * RESERVE / epoch_s)))
    epochs = epochs or recipe.epochs
    recipe = replace(recipe, epochs=epochs)
    return TrainingJob(recipe, "calibration", options.seed, epochs, threads, device)


def _objective(weights: torch.Tensor | None, say: Say) -> Objective:
    """Cross-entropy with label smoothing and, for classes of different sizes, with weights."""
    if weights is not None:
        say(f"Classes are weighted, by up to {float(weights.max() / weights.min()):.1f} (--no-class-weights).")

    def objective(scores: torch.Tensor, labels: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(scores, labels, weights, label_smoothing=plan.LABEL_SMOOTHING)

    return objective


def _initialize(network: Any, content: bytes, recipe: Recipe, training: Split, say: Say) -> None:
    copied = initial.load(network, content, recipe, training.images)
    say(f"Initial weights: {copied} layers of the other model; the last layer is new where its size differs.")


def _register(prepared: own.OwnData, recipe: Recipe, run: Run, seconds: float) -> tuple[Card, Evaluation, torch.Tensor]:
    """Calibrate on the validation split, read the test split once, and write the model's folder.

    Returns the card, the evaluation on the test split, and the confusion matrix of the validation split, from which
    advice for the next training may come.
    """
    config, result = run.read("config"), run.read("result")
    recipe = replace(recipe, epochs=config["epochs"])
    network = networks.load(recipe, run.weights)
    validation, test = prepared.part("validation"), prepared.part("test")
    validation_scores = evaluate.logits(network, validation.images, recipe)
    smoothing = _smoothing(len(validation), len(prepared.labels))
    temperature = round(evaluate.fit_temperature(validation_scores, validation.labels, smoothing), 4)
    threshold = round(evaluate.unsure_below(validation_scores, validation.labels, temperature), 3)
    scores = evaluate.logits(network, test.images, recipe)
    model = to_onnx(network, recipe, temperature, prepared.input.shape)
    layers = layers_of(model)
    correct = int((scores.argmax(1) == test.labels).sum())
    low, high = wilson(correct / len(test), len(test))
    card = Card(
        schema_version=cards.SCHEMA_VERSION,
        name=recipe.name,
        version=recipe.version,
        title=recipe.title,
        licence="not stated",
        default=False,
        labels=prepared.labels,
        input=prepared.input,
        dataset=cards.DatasetFacts(
            name=cards.OWN_IMAGES,
            title=_printable(Path(prepared.source).name or prepared.source),
            licence="not stated",
            source="own images",
            images=prepared.counts(),
            sha256=prepared.sha256(),
        ),
        parameters=cards.Parameters(**networks.parameter_counts(network), deployed=sum(x.parameters for x in layers)),
        macs=sum(layer.macs for layer in layers),
        accuracy=cards.Accuracy(
            value=correct / len(test),
            correct=correct,
            images=len(test),
            interval95=(round(low, 5), round(high, 5)),
            loss=round(evaluate.loss(scores, test.labels), 5),
            seeds=cards.Seeds((correct / len(test),), round(correct / len(test), 6), None, 1),
        ),
        calibration=cards.Calibration(
            temperature=temperature,
            unsure_below=threshold,
            source=f"{len(validation):,} validation images: T minimises the cross-entropy of labels smoothed by "
            "Platt's rule, and half of the wrong answers have a probability below the threshold",
            ece_before=round(evaluate.calibration_error(scores, test.labels), 5),
            ece_after=round(evaluate.calibration_error(scores / temperature, test.labels), 5),
        ),
        training=cards.Training(
            settings=recipe.settings(),
            seed=config["seed"],
            epochs=result["epochs"],
            seconds=result["training_s"],
            source=recipe.source,
            environment={**run.read("environment"), "threads": config["threads"], "total_s": round(seconds, 1)},
        ),
        layers=layers,
        opset=OPSET,
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
    )
    model, card = add_own_head(model, card, prepared.part("train").images.numpy(), validation.images.numpy())
    export.embed(model, card)
    content = model.SerializeToString()
    export.check_parity(Model(content, "cpu", card.name), test, scores)
    target = registry.home() / "models"
    card = own_models.write(card, {"model.onnx": content, "model.safetensors": run.weights.read_bytes()}, target)
    probabilities = (scores.double() / temperature).softmax(1).numpy()
    names = prepared.names_of("test")
    evaluation = measure(
        card.name, prepared.source, card.labels, names, test.labels.numpy(), probabilities, threshold, prepared.problems
    )
    return card, evaluation, evaluate.confusion_counts(validation_scores, validation.labels)


def _smoothing(images: int, classes: int) -> float:
    """The label smoothing that gives the label a probability of (n + 1) / (n + 2), by Platt's rule (1999).

    If all of a few validation images are classified correctly, the temperature would otherwise go to 0, and every
    answer would claim to be certain.
    """
    return classes / (classes - 1) / (images + 2)


def _printable(text: str) -> str:
    return printable(text.encode(errors="backslashreplace").decode())[:200]


def _warnings(confused: torch.Tensor, labels: tuple[str, ...], recipe: Recipe) -> list[str]:
    """What the validation split shows about the augmentation; `confused` is `(K, K)`, rows labels."""
    if ("flip", {}) not in recipe.augment:
        return []
    shares = confused / confused.sum(1, keepdim=True).clamp(min=1)
    pairs = [
        (labels[b], labels[a])
        for a in range(len(shares))
        for b in range(a)
        if min(shares[a, b], shares[b, a]) >= MIRROR_CONFUSION and min(confused[a, b], confused[b, a]) >= MIRROR_IMAGES
    ]
    if not pairs:
        return []
    named = ", ".join(f"{a} and {b}" for a, b in pairs[:3])
    return [
        f"Warning: {named} are often confused in validation. If they are mirror images of each other, train with "
        "--no-flip."
    ]
