"""The machine and the versions that saved figures belong to; without the machine's or the owner's name."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("onnxruntime", "torch", "openvino", "numpy", "opencv-python-headless", "pillow", "mlcommons-loadgen")


def environment() -> dict[str, Any]:
    """Processor, cores, memory, system and versions; None for a package that is not installed."""
    from serve.devices import cores
    from train.runs import environment as training_environment

    machine = training_environment()
    return {
        "processor": machine["machine"],
        "cores": cores(),
        "memory_gb": _memory_gb(),
        "instructions": machine["instructions"],
        "system": f"{machine['system']}, kernel {platform.release().split('-')[0]}",
        "python": machine["python"],
        **{package: version(package) for package in PACKAGES},
    }


def version(package: str) -> str | None:
    """The version of an installed package, else None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _memory_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1e6, 1) for line in lines if line.startswith("MemTotal:")), None)
