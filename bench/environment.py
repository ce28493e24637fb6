"""The machine and the versions that figures belong to; no name of the machine, nor of whoever owns it."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("onnxruntime", "torch", "openvino", "numpy", "opencv-python-headless", "pillow", "mlcommons-loadgen")


def environment() -> dict[str, Any]:
    """Processor, cores, memory, system and versions; None for a package that is not installed."""
    from serve.devices import cores
    from train.runs import environment as machine

    told = machine()
    return {
        "processor": told["machine"],
        "cores": cores(),
        "memory_gb": _memory_gb(),
        "instructions": told["instructions"],
        "system": f"{told['system']}, kernel {platform.release().split('-')[0]}",
        "python": told["python"],
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _memory_gb() -> float | None:
    return _from_proc("meminfo", "MemTotal", lambda value: round(int(value.split()[0]) / 1e6, 1))


def _from_proc(file: str, key: str, read: Any) -> Any:
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return None
    return next((read(line.split(":", 1)[1].strip()) for line in lines if line.startswith(key)), None)
