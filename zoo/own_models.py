"""The user's own models: names they may have, writing a model's folder, and removing it."""

from __future__ import annotations  # faster start: annotations stay unevaluated

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from zoo import registry
from zoo.card import NAME, Card, File
from zoo.errors import ModelNotFound, WrongUsage


def check_name(name: str, target: Path) -> None:
    """Raise WrongUsage if a model of one's own cannot have that name in that folder of models."""
    if not NAME.fullmatch(name):
        raise WrongUsage(
            f"{name[:100]!r} is not a valid model name. Use letters, digits and . _ + -, for example mnist14k.mine."
        )
    if target == registry.SHIPPED_FOLDER:
        raise WrongUsage(
            f"{target} is reserved for the recipes' own models. Omit --as, or choose another folder with --to."
        )
    shipped = os.listdir(registry.SHIPPED_FOLDER)
    if name in shipped:
        raise WrongUsage(f"{name} is the name of a model shipped with pocketzoo. Choose another name.")
    if name in [full.split(".")[0] for full in shipped]:
        raise WrongUsage(
            f"{name} is the short name of a model shipped with pocketzoo. Choose another name, for example {name}.mine."
        )


def check_new(name: str, target: Path) -> None:
    """Like `check_name`; also refuses the name of an existing model."""
    check_name(name, target)
    if os.path.lexists(target / name):
        raise WrongUsage(
            f"There is already a model {name} in {target}. Choose another name, or remove it first: zoo remove {name}"
        )


def write(card: Card, contents: dict[str, bytes], target: Path) -> Card:
    """Write a model's folder `target/NAME` atomically: the files by name, and the card with their digests."""
    final, partial = target / card.name, target / f".{card.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in contents.items():
        (partial / name).write_bytes(content)
    files = tuple(
        File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in sorted(contents.items())
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


def own_folder(name: str) -> Path:
    """The folder of a model of one's own, which may be damaged.

    Raises:
        WrongUsage: the model is shipped with pocketzoo.
        ModelNotFound: there is no such model.
    """
    folder = registry.home() / "models" / name
    if NAME.fullmatch(name) and os.path.lexists(folder):
        return folder
    shipped = os.listdir(registry.SHIPPED_FOLDER)
    if name in shipped or name in [full.split(".")[0] for full in shipped]:
        raise WrongUsage(f"{name} is shipped with pocketzoo and cannot be removed.")
    known = registry.scan()
    own = [entry.card.name for entry in known if not entry.shipped]
    if not own:
        raise ModelNotFound(f"There is no model {name[:100]!r} in {registry.home() / 'models'}, which has no models.")
    raise ModelNotFound(
        f"There is no model {name[:100]!r} in {registry.home() / 'models'}. Your models: {', '.join(own)}."
    )


def remove(name: str) -> Path:
    """Delete a model of one's own, with all its files; returns its folder. Raises as `own_folder` does."""
    folder = own_folder(name)
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink()  # only the link, not what it points to
        return folder
    old = folder.with_name(f".{name}.old")  # renamed first, so that no other process finds half a model
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)
    return folder
