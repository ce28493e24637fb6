"""Models as a static page that runs them in the browser (serve/web): any file host serves the folder.

index.html, style.css, app.js, worker.js   the page, its program and its service worker
models.json, models/NAME.onnx              what the page needs of each card, and the unchanged ONNX files
ort-wasm-simd-threaded.*                   onnxruntime-web, with its licence
files.json                                 what the service worker keeps, and a version that names this export
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Mapping
from importlib.resources import files as package_files
from typing import Any

from zoo.card import Card
from zoo.errors import ExportError

PAGE = ("index.html", "style.css", "app.js", "worker.js")
LICENCE = "onnxruntime-web.LICENSE"


def site(models: Mapping[str, tuple[Card, bytes]]) -> dict[str, bytes]:
    """The files of a site with these models, by name. Raises ExportError for a model that the page cannot prepare."""
    web = package_files("serve") / "web"
    content = {name: (web / "static" / name).read_bytes() for name in PAGE}
    content |= _runtime()
    entries = []
    for number, (name, (card, onnx)) in enumerate(models.items()):
        file = f"models/{number}.onnx"  # a name of one's own may need escaping in an address
        entries.append(_entry(name, card, file, len(onnx)))
        content[file] = onnx
    content["models.json"] = json.dumps(entries, ensure_ascii=False, indent=1).encode()
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content[name]).digest())
    stored = ["./", *(name for name in content if name != LICENCE), "files.json"]
    content["files.json"] = json.dumps({"version": digest.hexdigest()[:16], "files": stored}, indent=1).encode()
    return content


def _entry(name: str, card: Card, file: str, size: int) -> dict[str, Any]:
    """What the page needs of a card."""
    if card.input.resize is not None:
        raise ExportError(
            f"{name} resizes images by its own rules ({card.input.resize.interpolation}), unknown to the page. "
            "Leave it out."
        )
    calibration = card.calibration
    return {
        "name": name,
        "title": card.title,
        "labels": list(card.labels),
        "input": {
            "height": card.input.height,
            "width": card.input.width,
            "channels": card.input.channels,
            "form": card.input.form,
        },
        "accuracy": None if card.accuracy is None else card.accuracy.value,
        "bytes": size,
        "unsure_below": calibration.unsure_below if calibration else 0,
        "known_from": getattr(calibration, "known_from", None),
        "file": file,
    }


def _runtime() -> dict[str, bytes]:
    """onnxruntime-web's files, unpacked and checked."""
    folder = package_files("serve") / "web" / "runtime"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    result = {LICENCE: (folder / "LICENSE").read_bytes()}
    for name, expected in manifest["files"].items():
        packed = folder / f"{name}.xz"
        content = lzma.decompress(packed.read_bytes()) if packed.is_file() else (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise ExportError(f"The installed file {name} of onnxruntime-web is damaged. Reinstall pocketzoo.")
        result[name] = content
    return result
