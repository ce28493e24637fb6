"""Models as a static page that runs them in the browser (serve/web): any file host serves the folder.

index.html, style.css, favicon.svg         the page; manifest.webmanifest lets phones install it
app.js, predict.js, offline.js             its program, its Web Worker, and its service worker
models.json                                what the page needs of each card, and the list of examples
models/HASH.onnx                           the unchanged ONNX files
examples/                                  images to try, of the forms that the models take
onnxruntime-web-VERSION/                   the runtime, with its licence and those of its parts

Files whose content may change under the same name are small; the service worker asks the host for them first.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Mapping
from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from zoo.card import Card
from zoo.errors import ExportError

PAGE = ("index.html", "style.css", "manifest.webmanifest", "app.js", "predict.js")
ICON = "favicon.svg"
SERVICE_WORKER = "offline.js"
EXAMPLES = {
    "digit": ("five.jpg", "two.jpg", "eight.png"),
    "photo": ("cat.jpg", "ship.jpg", "airplane.jpg", "truck.jpg"),
}


def site(models: Mapping[str, tuple[Card, bytes]]) -> dict[str, bytes]:
    """The files of a site with these models, by name. Raises ExportError for a model that the page cannot prepare."""
    static = package_files("serve") / "web" / "static"
    content = {name: (static / name).read_bytes() for name in PAGE}
    content[ICON] = (package_files("serve") / "demo" / ICON).read_bytes()
    content |= _runtime()
    entries = []
    for name, (card, onnx) in models.items():
        file = f"models/{hashlib.sha256(onnx).hexdigest()[:16]}.onnx"
        entries.append(_entry(name, card, file, len(onnx)))
        content[file] = onnx
    examples = []
    for form in sorted({card.input.form for card, _ in models.values()}):
        for name in EXAMPLES[form]:
            examples.append({"name": name, "form": form, "file": f"examples/{name}"})
            content[f"examples/{name}"] = (_example_folder() / name).read_bytes()
    facts = {"models": entries, "examples": examples}
    content["models.json"] = json.dumps(facts, ensure_ascii=False, indent=1).encode()
    content[SERVICE_WORKER] = _service_worker((static / SERVICE_WORKER).read_bytes(), content)
    return content


def _service_worker(program: bytes, content: Mapping[str, bytes]) -> bytes:
    """The program with the list of files, and a version that changes with each of them."""
    digest = hashlib.sha256(program)
    for name in sorted(content):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content[name]).digest())
    definition = json.dumps({"version": digest.hexdigest()[:16], "files": ["./", *sorted(content)]})
    return f"const SITE = {definition};\n".encode() + program


def _example_folder() -> Traversable:
    """Where the wheel has the examples, or the repository."""
    installed = package_files("serve") / "demo" / "examples"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "examples"


def _entry(name: str, card: Card, file: str, size: int) -> dict[str, Any]:
    """What the page needs of a card."""
    if card.input.resize is not None:
        raise ExportError(
            f"{name} resizes images by its own rules ({card.input.resize.interpolation}), unknown to the page. "
            "Leave it out."
        )
    accuracy = card.accuracy
    return {
        "name": name,
        "dataset": None if card.dataset is None else card.dataset.title,
        "labels": list(card.labels),
        "input": {
            "height": card.input.height,
            "width": card.input.width,
            "channels": card.input.channels,
            "form": card.input.form,
        },
        "accuracy": accuracy and {"correct": accuracy.correct, "images": accuracy.images},
        "bytes": size,
        "unsure_below": card.calibration.unsure_below,
        "calibrated": card.calibration.temperature != 1,  # without a calibration run it is exactly 1
        "known_from": card.calibration.known_from,
        "file": file,
    }


def _runtime() -> dict[str, bytes]:
    """onnxruntime-web's files, unpacked and checked."""
    folder = package_files("serve") / "web" / "runtime"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    target = f"{manifest['package']}-{manifest['version']}"
    result = {}
    for name, expected in manifest["files"].items():
        packed = folder / f"{name}.xz"
        content = lzma.decompress(packed.read_bytes()) if packed.is_file() else (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise ExportError(f"The installed file {name} of onnxruntime-web is damaged. Reinstall pocketzoo.")
        result[f"{target}/{name.replace('.mjs', '.js')}"] = content  # many hosts send no script type for .mjs
    return result
