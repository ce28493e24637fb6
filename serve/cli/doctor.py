"""`zoo doctor`: one screen that a person can paste into a bug report."""

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import zoo
from serve import devices
from zoo import registry, runtime
from zoo.errors import ZooError
from zoo.registry import home

PACKAGES = ("numpy", "pillow", "opencv-python-headless", "click", "rich")


def examine() -> tuple[list[tuple[str, str]], bool]:
    """What is here, as (subject, finding), and whether all of it is well."""
    rows = [
        ("pocketzoo", zoo.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        ("installed in", sys.prefix),
        *((package, _version(package)) for package in PACKAGES),
    ]
    well = True
    smallest = b""  # of the shipped models: foreign ones are not opened here
    for problem in registry.damaged():
        rows.append(("damaged model", str(problem)))
        well = False
    for entry in registry.scan():
        finding, content = _model(entry)
        if content is None:
            well = False
        elif entry.shipped and (not smallest or len(content) < len(smallest)):
            smallest = content
        rows.append((entry.card.name, finding))
    try:
        speeds = devices.describe(smallest) if smallest else []  # first: what is opened once is opened fast again
        rows.extend(runtime.describe_runtime(smallest))  # an empty model where none is whole: then no session is opened
        rows.extend(speeds)
    except ZooError as error:
        rows.append(("runtime", str(error)))
        well = False
    rows.append(("own files in", f"{home()}{_state(home())}"))
    data = os.environ.get("ZOO_DATA")
    rows.append(("data", f"{data}{_state(Path(data))}" if data else "ZOO_DATA is not set"))
    return rows, well


def _state(folder: Path) -> str:
    return "" if folder.is_dir() else " (not a folder)" if folder.exists() else " (not there)"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed under this name"


def _model(entry: registry.Entry) -> tuple[str, bytes | None]:
    """What is found of a model, and the content of its ONNX file where it is the one that the card describes."""
    try:
        content, expected = entry.read("model.onnx"), entry.card.file("model.onnx")
    except ZooError as error:
        return str(error), None
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        return f"{entry.folder / 'model.onnx'} does not match its card: get the model again, or export it", None
    place = "shipped" if entry.shipped else str(entry.folder)
    return (
        f"{entry.card.version}, {len(content):,} bytes, sha256 {expected.sha256[:12]} as in the card, {place}",
        content,
    )
