"""The formats of `zoo export`, and how their files are written.

A format turns each model into a folder of its own, or all models into one folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from shutil import rmtree

from zoo.card import Card
from zoo.errors import WrongUsage

Files = dict[str, bytes]  # path within the model's folder, with "/", → content


@dataclass(frozen=True)
class Format:
    """Attributes:
    summary: for help.
    function: "module:name" of a function: (card, content of the ONNX file) → Files, or if together, {name: (card,
        content)} → Files.
    marker: a file that every export has; only a folder that contains it is replaced.
    together: whether all models are in one folder, which is the target itself.
    """

    summary: str
    function: str
    marker: str
    together: bool = False

    def folders(self, models: Mapping[str, tuple[Card, bytes]]) -> dict[str, Files]:
        """The files of each folder, by its path within the target. Raises ExportError if the format cannot hold one."""
        module, name = self.function.split(":")
        make: Callable[..., Files] = getattr(import_module(module), name)
        if self.together:
            return {"": make(models)}
        return {name: make(*model) for name, model in models.items()}


FORMATS = {
    "triton": Format("a model repository for NVIDIA Triton", "serve.export.triton:files", "config.pbtxt"),
    "web": Format("a page that runs the models in the browser", "serve.export.web:site", "models.json", together=True),
}


def check_target(folder: Path, marker: str, force: bool) -> None:
    """Raises WrongUsage if a model's folder must not be written."""
    if not os.path.lexists(folder):
        return
    if not force:
        raise WrongUsage(f"{folder} exists. Use --force to replace it, or choose another folder with --to.")
    if folder.is_symlink() or not (folder / marker).is_file():
        raise WrongUsage(f"{folder} is not an exported model (it has no {marker}). Remove it, or choose another --to.")


def write_folder(folder: Path, files: Files) -> None:
    """Write a folder whole or not at all; an existing one is replaced. Raises OSError."""
    partial = folder.with_name(f".{os.getpid()}-{folder.name}")
    replaced = folder.with_name(f".{os.getpid()}-old-{folder.name}")
    try:
        for name, content in files.items():
            path = partial / PurePosixPath(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if not folder.exists():
            os.rename(partial, folder)
            return
        os.rename(folder, replaced)
        try:
            os.rename(partial, folder)
        except OSError:
            os.rename(replaced, folder)
            raise
        rmtree(replaced)
    finally:
        rmtree(partial, ignore_errors=True)
