"""Names, paths and files of models."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from zoo import registry
from zoo.card import Card, File
from zoo.embedded_card import not_pocketzoo
from zoo.errors import BadModel, ModelNotFound
from zoo.model import Model
from zoo.model_files import LARGEST_MODEL, check_onnx, read_file
from zoo.runtime import Device


def load(name: str | os.PathLike[str], device: Device = "auto") -> Model:
    """Open a model of the zoo, or any ONNX file that pocketzoo exported.

    Args:
        name: a full name such as `mnist14k.notes`; an architecture such as `mnist14k`, which means its default model;
            a path that ends in .onnx; or the path of a model's folder.
        device: "cpu"; "cuda", which fails where CUDA cannot be used and never falls back; or "auto", which is the CPU:
            it has classified thousands of images before a GPU is ready.
    Raises:
        ModelNotFound: no model has that name or path.
        BadModel: changed or damaged files.
        DeviceUnavailable: no ONNX runtime, or the device cannot be used.
    """
    file = model_file(name)
    model = Model(file.content, device, file.source_name)
    if file.card and model.card != file.card.embedded():
        raise BadModel(
            f"The card inside model.onnx of {file.source_name} differs from its card.json: export the model again."
        )
    return model


class ModelFile(NamedTuple):
    """The content of an ONNX file, its name in error messages, and the card.json beside it, if any."""

    content: bytes
    source_name: str
    card: Card | None


def model_file(name: str | os.PathLike[str]) -> ModelFile:
    """Read a model's ONNX file and check it against the card beside it. Takes and raises what `load` does."""
    source_name, location = os.fspath(name), locate(name)
    if isinstance(location, Path):
        return ModelFile(read_file(location, LARGEST_MODEL), source_name, None)
    content = location.read("model.onnx")
    if hashlib.sha256(content).hexdigest() != location.card.file("model.onnx").sha256:
        raise BadModel(
            f"{location.folder / 'model.onnx'} is not the file that its card describes (the sha256 differs): "
            "get the model again, or export it again."
        )
    return ModelFile(content, source_name, location.card)


def locate(name: str | os.PathLike[str]) -> registry.Entry | Path:
    """The registry entry that a name or folder means, or the path of an ONNX file on its own.

    A single word is a name of the zoo first; a folder of that name is used only where the zoo has no such model.

    Raises:
        ModelNotFound, BadModel.
    """
    text = os.fspath(name)
    if text.lower().endswith(".onnx") and not os.path.isdir(text):
        return Path(text)
    folder = Path(text)
    if len(folder.parts) > 1 or not isinstance(name, str):
        if not os.path.isdir(folder):
            raise ModelNotFound(f"There is no model folder {text}: check the path. Run `zoo list` to see all models.")
        return registry.open_folder(folder)
    try:
        return registry.find(text)
    except ModelNotFound:
        if os.path.lexists(folder / "card.json"):
            return registry.open_folder(folder)
        raise


def card_of(name: str | os.PathLike[str]) -> Card:
    """A model's card, without opening the model. Takes what `load` does.

    For an ONNX file on its own, this is the card inside it, with the file's size and digest added.

    Raises:
        ModelNotFound, BadModel.
    """
    location = locate(name)
    if isinstance(location, registry.Entry):
        return location.card
    content, source_name = read_file(location, LARGEST_MODEL), str(location)
    text = check_onnx(content, source_name)
    if text is None:
        raise BadModel(not_pocketzoo(source_name))
    file = File("model.onnx", len(content), hashlib.sha256(content).hexdigest())
    return replace(Card.from_json(text, source_name), files=(file,))
