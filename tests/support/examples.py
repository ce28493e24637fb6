"""Made-up data, recipes and models that several tests share."""

import hashlib
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from train import recipe
from train.data import Part
from train.progress import Progress
from zoo import registry

REPOSITORY = Path(__file__).parents[2]
CARD = registry.find("mnist14k").card
DEFAULT, VERSION = CARD.name, CARD.version  # what a bare `mnist14k` means

RECIPE = replace(recipe.find("mnist14k.notes"), epochs=3, batch_size=64, augment=(("shift", {"pixels": 2}),))


def stripes(n, seed):
    """Images whose label is the row that is lit: something that a network learns in seconds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (n,), generator=generator)
    images = torch.randint(0, 40, (n, 28, 28, 1), generator=generator, dtype=torch.uint8)
    images[torch.arange(n), 4 + 2 * labels] = 250
    return Part("made up", images, labels)


def heed_ctrl_c():
    """In a child process: background jobs of a shell ignore SIGINT, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def quiet():
    return Progress("test", live=False)


def add_model(home, name, **changes):
    """A copy of mnist14k.notes under another name in the user's folder."""
    folder = home / "models" / name
    shutil.copytree(registry.SHIPPED / "mnist14k.notes", folder)
    card = json.loads((folder / "card.json").read_text()) | {"name": name} | changes
    model = onnx.load(folder / "model.onnx")
    model.metadata_props[0].value = json.dumps(card | {"files": []})
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    for file in card["files"]:
        if file["name"] == "model.onnx":
            file |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "card.json").write_text(json.dumps(card))
    return folder
