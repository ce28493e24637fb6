"""`zoo doctor`: versions, models and devices on one screen, to be pasted into a bug report."""

import hashlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

import zoo
from serve import devices
from serve.cli.config import load_config
from serve.cli.options import json_option
from zoo import registry, runtime
from zoo.errors import ZooError, printable
from zoo.registry import home

PACKAGES = ("numpy", "pillow", "opencv-python-headless", "click", "rich")


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show versions, devices and damaged models.

    Runs a model on every device and checks every model file against its card. Paste the output into a bug report.
    """
    rows, healthy = examine()
    if as_json:
        findings = [{"subject": subject, "finding": finding} for subject, finding in rows]
        click.echo(json.dumps({"well": healthy, "findings": findings}, indent=2))
    else:
        width = max(len(subject) for subject, _ in rows)
        for subject, finding in rows:
            click.echo(printable(f"{subject:<{width}}  {finding}"))
    sys.exit(0 if healthy else 3)


def examine() -> tuple[list[tuple[str, str]], bool]:
    """Rows of (subject, finding), and whether everything is in order."""
    rows = [
        ("pocketzoo", zoo.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        ("installed in", sys.prefix),
        *((package, _package_version(package)) for package in PACKAGES),
    ]
    healthy = True
    smallest = b""  # the smallest shipped model; a user's own models are not run here
    for problem in registry.damaged():
        rows.append(("damaged model", str(problem)))
        healthy = False
    for entry in registry.scan():
        finding, content = _check_model(entry)
        if content is None:
            healthy = False
        elif entry.shipped and (not smallest or len(content) < len(smallest)):
            smallest = content
        rows.append((entry.card.name, finding))
    try:
        # Measured before anything else opens a session: the second one opens faster.
        speeds = devices.describe(smallest) if smallest else []
        rows.extend(runtime.describe_runtime(smallest))  # without an intact model no session is opened
        rows.extend(speeds)
    except ZooError as error:
        rows.append(("runtime", str(error)))
        healthy = False
    rows.append(("ZOO_HOME", f"{home()}{_folder_state(home())}"))
    rows.append(("settings", load_config().describe()))
    data = os.environ.get("ZOO_DATA")
    rows.append(("ZOO_DATA", f"{data}{_folder_state(Path(data))}" if data else "not set"))
    return rows, healthy


def _folder_state(folder: Path) -> str:
    return "" if folder.is_dir() else " (not a folder)" if folder.exists() else " (does not exist)"


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed under this name"


def _check_model(entry: registry.Entry) -> tuple[str, bytes | None]:
    """A finding about a model, and the content of its ONNX file, or None if the file does not match the card."""
    try:
        content, expected = entry.read("model.onnx"), entry.card.file("model.onnx")
    except ZooError as error:
        return str(error), None
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        return f"{entry.folder / 'model.onnx'} does not match its card. Download or export the model again", None
    location = "shipped" if entry.shipped else str(entry.folder)
    return (
        f"{entry.card.version}, {len(content):,} bytes, sha256 {expected.sha256[:12]} matches the card, {location}",
        content,
    )
