"""The repository, the default model, and copies of it. Imports no training libraries."""

import hashlib
import json
import shutil
import signal
from pathlib import Path

from zoo import registry

REPOSITORY = Path(__file__).parents[2]
CARD = registry.find("mnist14k").card
DEFAULT, VERSION = CARD.name, CARD.version  # of the model that a bare `mnist14k` means


def heed_ctrl_c():
    """Restore SIGINT in a child process. Background jobs of a shell ignore it, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def add_model(home, name, **changes):
    """Copy mnist14k.notes into the user's folder under another name, with changed fields of its card."""
    import onnx

    folder = home / "models" / name
    shutil.copytree(registry.SHIPPED_FOLDER / "mnist14k.notes", folder)
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
