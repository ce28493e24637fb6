"""How a model of another program wants its pixels, and its labels: from options, presets and the files beside it.

A setting is taken from the first of these that has it:

    options       what the user has chosen
    preset        the rules of a library, by its name
    metadata      Ultralytics: in the ONNX file. timm: config.json beside it. transformers: preprocessor_config.json
    defaults      pixels / 255, without mean and standard deviation

torchvision leaves nothing in its files; choose its preset.
"""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.adding.foreign import ForeignModel, ImageInput
from zoo.card import Interpolation, Resize, ResizeFit
from zoo.errors import BadModel, ModelNotFound, WrongUsage, printable
from zoo.model_files import read_file

LARGEST_TEXT = 4 * 2**20  # bytes of labels or JSON beside a model

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESAMPLE: dict[int, Interpolation] = {  # numbers of PIL.Image.Resampling, which transformers writes
    0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Settings of preprocessing; None: not set here.

    Attributes:
        mean, std: per channel or one for all, after `scale`: the network takes `(pixel * scale - mean) / std`.
        scale: of pixels 0 to 255.
        resize, resize_size, interpolation, antialias: as in `zoo.card.Resize`.
        crop_share: input size / `resize_size`, where only that is known.
        bgr: whether the network takes blue first.
        source: where the settings come from, in words.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    resize: ResizeFit | None = None
    resize_size: int | None = None
    crop_share: float | None = None
    interpolation: Interpolation | None = None
    antialias: bool | None = None
    bgr: bool | None = None
    source: str = ""

    def over(self, other: Settings) -> Settings:
        """These settings, completed by others. The size before the crop belongs to one kind of resizing."""
        completed = {name: value for name, value in vars(other).items() if getattr(self, name) is None}
        if self.resize_size is not None or self.crop_share is not None:
            completed = {name: value for name, value in completed.items() if name not in ("resize_size", "crop_share")}
        used = [part.source for part in (self, other) if part.source and part != Settings(source=part.source)]
        return replace(self, **completed, source=", then ".join(used))


PRESETS = {
    "torchvision": Settings(
        IMAGENET_MEAN, IMAGENET_STD, 1 / 255, "shortest", None, 224 / 256, "bilinear", True, False, "preset torchvision"
    ),
    "timm": Settings(
        IMAGENET_MEAN, IMAGENET_STD, 1 / 255, "shortest", None, 0.875, "bicubic", True, False, "preset timm"
    ),
    "ultralytics": Settings(
        (0.0,), (1.0,), 1 / 255, "shortest", None, 1.0, "bilinear", True, False, "preset ultralytics"
    ),
}


@dataclass(frozen=True)
class Metadata:
    """What the program that exported a model has left in its files."""

    settings: Settings = Settings()
    size: tuple[int, int] | None = None
    labels: tuple[str, ...] | None = None


def read_metadata(model: ForeignModel) -> Metadata:
    """Settings, size and labels from the ONNX file and the JSON files beside it.

    Raises:
        BadModel: the metadata cannot be read, or say that the model is no classifier.
    """
    readers = (
        ("the model's metadata", _ultralytics),
        ("config.json", _timm),
        ("preprocessor_config.json", _transformers),
    )
    for where, reader in readers:
        try:
            if metadata := reader(model):
                return metadata
        except (ValueError, TypeError, KeyError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
            detail = printable(str(error)[:200]) or type(error).__name__
            raise BadModel(f"The preprocessing in {where} of {model.name} cannot be read ({detail}).") from None
    return Metadata(labels=_id2label(_json(model.folder / "config.json")))


def _ultralytics(model: ForeignModel) -> Metadata | None:
    """https://docs.ultralytics.com/modes/export: `names`, `imgsz` and `task` as Python literals."""
    names, task = model.metadata.get("names"), model.metadata.get("task")
    if names is None or task is None:
        return None
    if task != "classify":
        raise BadModel(f"{model.name} is a model for the task {printable(task[:40])}, not for classification.")
    values = ast.literal_eval(names[:LARGEST_TEXT])
    ordered = [values[key] for key in sorted(values)] if isinstance(values, dict) else list(values)
    size = ast.literal_eval(model.metadata.get("imgsz", "None")[:100])
    sides = (
        None if size is None else (int(size[0]), int(size[-1])) if isinstance(size, (list, tuple)) else (int(size),) * 2
    )
    settings = replace(PRESETS["ultralytics"], source="metadata of Ultralytics")
    return Metadata(settings, sides, tuple(map(str, ordered)))


def _timm(model: ForeignModel) -> Metadata | None:
    """timm's config.json: `pretrained_cfg` (https://huggingface.co/docs/timm/hf_hub) and `label_names`."""
    config = _json(model.folder / "config.json")
    rules = config.get("pretrained_cfg")
    if not isinstance(rules, dict) or "mean" not in rules:
        return None
    squashed = rules.get("crop_mode") == "squash"
    settings = Settings(
        mean=_numbers(rules["mean"]),
        std=_numbers(rules["std"]),
        scale=1 / 255,
        resize="exact" if squashed else "shortest",
        crop_share=_positive(rules.get("crop_pct", 0.875)),
        interpolation=_interpolation(rules.get("interpolation", "bicubic")),
        antialias=True,
        bgr=False,
        source="config.json of timm",
    )
    input_size = rules.get("input_size")
    size = (int(input_size[1]), int(input_size[2])) if input_size else None
    labels = config.get("label_names") or rules.get("label_names")
    return Metadata(settings, size, tuple(map(str, labels)) if labels else _id2label(config))


def _transformers(model: ForeignModel) -> Metadata | None:
    """preprocessor_config.json of transformers' image processors; labels are `id2label` of config.json."""
    rules = _json(model.folder / "preprocessor_config.json")
    if "image_mean" not in rules and "do_normalize" not in rules:
        return None
    normalizes = rules.get("do_normalize", True)
    side, crop = rules.get("size"), rules.get("crop_size")
    crops = bool(rules.get("do_center_crop", crop is not None))
    shortest = side if isinstance(side, int) else (side or {}).get("shortest_edge")
    if isinstance(side, int) and not crops:
        shortest = None  # an integer alone means both sides
    size: tuple[int, int] | None
    if (share := rules.get("crop_pct")) and shortest and shortest < 384:  # ConvNeXt's processor
        size = (int(shortest), int(shortest))
        settings = Settings(resize="shortest", resize_size=int(shortest / _positive(share)))
    elif shortest and crops:
        size = _sides(crop) or (int(shortest), int(shortest))
        settings = Settings(resize="shortest", resize_size=int(shortest))
    else:
        size = _sides(crop if crops else side)
        settings = Settings(resize="exact")
    settings = replace(
        settings,
        mean=_numbers(rules["image_mean"]) if normalizes else (0.0,),
        std=_numbers(rules["image_std"]) if normalizes else (1.0,),
        scale=_positive(rules.get("rescale_factor", 1 / 255)) if rules.get("do_rescale", True) else 1.0,
        interpolation=RESAMPLE[rules.get("resample", 2)],
        antialias=True,
        bgr=bool(rules.get("do_flip_channel_order", False)),
        source="preprocessor_config.json of transformers",
    )
    return Metadata(settings, size, _id2label(_json(model.folder / "config.json")))


def _sides(value: Any) -> tuple[int, int] | None:
    if isinstance(value, dict) and {"height", "width"} <= value.keys():
        return int(value["height"]), int(value["width"])
    return (int(value), int(value)) if isinstance(value, int) else None


def _id2label(config: dict[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label")
    if not isinstance(labels, dict):
        return None
    try:
        return tuple(str(labels[key]) for key in sorted(labels, key=int))
    except ValueError:
        return None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object beside the model; empty if there is no such file."""
    try:
        content = json.loads(read_file(path, LARGEST_TEXT, within=path.parent))
    except ModelNotFound:
        return {}
    return content if isinstance(content, dict) else {}


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in (values if isinstance(values, (list, tuple)) else [values]))
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{numbers} are not finite numbers")
    return numbers


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < 1e6:
        raise ValueError(f"{value} is not a positive number")
    return number


def _interpolation(name: str) -> Interpolation:
    if name == "random" or name not in RESAMPLE.values():
        raise ValueError(f"unknown interpolation {name!r}")
    return next(known for known in RESAMPLE.values() if known == name)


@dataclass(frozen=True)
class Preprocessing:
    """Complete rules: `(pixel * scale - mean) / std` in the graph, and the resizing of photographs before it."""

    mean: tuple[float, ...]  # one per channel
    std: tuple[float, ...]
    scale: float
    bgr: bool
    resize: Resize
    source: str

    def __str__(self) -> str:
        order = ", blue first" if self.bgr else ""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        share = "pixels / 255" if math.isclose(self.scale, 1 / 255) else f"pixels x {self.scale:g}"
        values = f"{share}, minus ({mean}), divided by ({std}){order}"
        return f"{values}; {self.source}"


def complete(settings: Settings, expected: ImageInput) -> Preprocessing:
    """Fill in the defaults and check all settings against the input.

    Raises:
        WrongUsage: settings that contradict each other or the input.
    """
    source = settings.source or "defaults, because nothing beside the model says more"
    square = expected.height == expected.width
    fit = settings.resize or ("shortest" if square else "exact")
    sides = (expected.height, expected.width)
    size = settings.resize_size
    if size is None:
        size = int(max(sides) / min(settings.crop_share or 1.0, 1.0))
    if fit == "exact":
        size = min(sides)
    elif size < max(sides):
        raise WrongUsage(
            f"The shorter side of images would be resized to {size} pixels, less than the input of "
            f"{expected.height}x{expected.width}: choose --resize-size {max(sides)} or more."
        )
    if size > 2048:
        raise WrongUsage(f"Images would be resized to {size} pixels, more than the limit of 2048.")
    resize = Resize(fit, size, settings.interpolation or "bilinear", settings.antialias is not False)
    if expected.channels == 1 and settings.bgr:
        raise WrongUsage("A model of grey images has no order of colours: omit --channels bgr.")
    mean = _per_channel(settings.mean or (0.0,), expected, "--mean")
    std = _per_channel(settings.std or (1.0,), expected, "--std")
    if not all(value > 0 for value in std):
        raise WrongUsage(f"--std is {', '.join(f'{value:g}' for value in std)}: it must be above 0.")
    scale = 1 / 255 if settings.scale is None else settings.scale
    if expected.dtype == "uint8":
        if settings.mean or settings.std:
            raise WrongUsage("The model takes pixels of 8 bits and normalises them itself: omit --mean and --std.")
        scale = 1.0
    return Preprocessing(mean, std, scale, bool(settings.bgr), resize, source)


def _per_channel(values: tuple[float, ...], expected: ImageInput, option: str) -> tuple[float, ...]:
    if len(values) == 1:
        return values * expected.channels
    if len(values) != expected.channels:
        raise WrongUsage(f"{option} has {len(values)} values, but the model takes {expected.channels} channel(s).")
    return values


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels from a text file with one label per line, or from JSON: a list, or an object with numbers as keys.

    Raises:
        WrongUsage: no such file, or not labels.
    """
    try:
        text = read_file(path, LARGEST_TEXT).decode("utf-8-sig")
    except ModelNotFound:
        raise WrongUsage(f"There is no file {path} with labels: check the path.") from None
    except (BadModel, UnicodeDecodeError) as error:
        detail = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else printable(str(error))
        raise WrongUsage(f"The labels in {path} cannot be read ({detail}).") from None
    if path.suffix.lower() != ".json":
        return tuple(line.strip() for line in text.strip().splitlines())
    try:
        values = json.loads(text)
        if isinstance(values, dict):
            values = [values[key] for key in sorted(values, key=int)]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError
    except (ValueError, RecursionError):
        raise WrongUsage(
            f'{path} is not a JSON list of labels, nor an object such as {{"0": "cat", "1": "dog"}}.'
        ) from None
    return tuple(values)


def check_labels(labels: tuple[str, ...], classes: int, where: str) -> tuple[str, ...]:
    """The labels of a card: as many as there are classes, and all different.

    A label that occurs twice, as `crane` does in ImageNet, gets the number of its class.

    Raises:
        WrongUsage
    """
    if len(labels) != classes:
        raise WrongUsage(
            f"The model has {classes:,} classes, but the number of labels in {where} is {len(labels):,}: give as many "
            "labels as classes."
        )
    for number, label in enumerate(labels):
        if not 1 <= len(label) <= 190 or not label.isprintable():
            raise WrongUsage(f"Label {number + 1} of {where} is {label[:60]!r}: use 1 to 190 printable characters.")
    counts = Counter(labels)
    unique = [f"{label} ({number})" if counts[label] > 1 else label for number, label in enumerate(labels)]
    if len(set(unique)) != len(unique):
        raise WrongUsage(f"The labels of {where} are not all different.")
    return tuple(unique)
