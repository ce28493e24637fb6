"""The formats of `zoo export`, and how their files are written. A format turns one model into files in one folder."""

from __future__ import annotations

import os
from collections.abc import Callable
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
    function: "module:name" of a function (card, content of the ONNX file) → Files.
    marker: a file that every export has; only a folder that contains it is replaced.
    """

    summary: str
    function: str
    marker: str

    def files(self, card: Card, onnx: bytes) -> Files:
        """Raises ExportError if the format cannot hold this model."""
        module, name = self.function.split(":")
        make: Callable[[Card, bytes], Files] = getattr(import_module(module), name)
        return make(card, onnx)


FORMATS = {
    "triton": Format("a model repository for NVIDIA Triton", "serve.export.triton:files", "config.pbtxt"),
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
