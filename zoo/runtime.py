"""The only file of `zoo/` and `serve/` that imports onnxruntime: opens sessions, and says what this machine can run.

onnxruntime and onnxruntime-gpu write the same folder, so pocketzoo requires neither; the extras `cpu` and `gpu` bring
one of them, and a missing or doubled runtime is one sentence that says what to install.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from zoo.errors import BadModel, DeviceUnavailable, reason
from zoo.model_files import check_onnx

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# Distributions that all install the folder `onnxruntime`; with two of them, files of both are mixed.
_RUNTIMES = re.compile(r"(onnxruntime(?:_gpu|_openvino|_directml|_qnn|_rocm|_migraphx)?)-\d.*\.dist-info")

INSTALL = "pip install 'pocketzoo[cpu]' for this machine's processor, or 'pocketzoo[gpu]' for an NVIDIA GPU"


def open_session(model: bytes, device: Device, where: str) -> tuple[Any, str]:
    """Open an ONNX model for one-thread use from any number of threads.

    Args:
        model: the content of an ONNX file.
        device: "cpu"; "cuda", which fails rather than fall back; "auto", CUDA where a session really opens there.
        where: the model's name or path, for sentences.
    Returns:
        The `onnxruntime.InferenceSession`, and the device that it runs on, "cpu" or "cuda".
    Raises:
        DeviceUnavailable: no usable runtime, or the device cannot be used. BadModel: not an ONNX model.
    """
    runtime = import_runtime()
    if device not in DEVICES:
        raise DeviceUnavailable(f"Unknown device {device!r}: choose one of {', '.join(DEVICES)}.")
    has_cuda = PROVIDERS["cuda"] in runtime.get_available_providers()
    if device == "cpu" or (device == "auto" and not has_cuda):
        return _session(runtime, model, "cpu", where), "cpu"
    if not has_cuda:
        raise DeviceUnavailable(
            f"The installed onnxruntime {runtime.__version__} cannot use CUDA: "
            "pip uninstall onnxruntime, then pip install 'pocketzoo[gpu]', or choose --device cpu."
        )
    try:
        return _session(runtime, model, "cuda", where), "cuda"
    except DeviceUnavailable:
        if device == "cuda":
            raise
        return _session(runtime, model, "cpu", where), "cpu"


def _session(runtime: Any, model: bytes, device: str, where: str) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # networks this small scale across requests: docs/decisions/0003-runtime.md
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it would print of a model's names is in the errors that it raises
    # A model is one file (docs/decisions/0001-one-file.md): check_onnx refuses others, and this is a folder in which
    # the runtime finds none should it have missed one.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    check_onnx(model, where)
    try:
        if device == "cuda":
            with contextlib.redirect_stdout(sys.stderr):  # it prints what it could not load
                runtime.preload_dlls()
        # its fallback would print on stdout, and open a session on another device
        session = runtime.InferenceSession(model, options, providers=[PROVIDERS[device]], enable_fallback=0)
    except Exception as error:  # onnxruntime's classes of errors are not public
        if device == "cuda":
            raise DeviceUnavailable(f"CUDA cannot be used here ({reason(error)}): choose --device cpu.") from None
        raise BadModel(f"{where} is not an ONNX model that opens ({reason(error)}): get the file again.") from None
    used = session.get_providers()[0]
    if used != PROVIDERS[device]:
        raise DeviceUnavailable(
            f"onnxruntime fell back to {used} instead of {PROVIDERS[device]}: look at `zoo doctor` for the reason, "
            "or choose --device cpu."
        )
    return session


def import_runtime() -> Any:
    """The onnxruntime module. Raises DeviceUnavailable if it is missing, broken, or installed twice."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # since 1.29 it tells its makers of every session; read here
    try:
        import onnxruntime
    except ImportError as error:
        if error.name == "onnxruntime":
            raise DeviceUnavailable(f"No ONNX runtime is installed: {INSTALL}.") from None
        raise DeviceUnavailable(f"The ONNX runtime cannot be imported ({error}): {INSTALL}.") from None
    if not hasattr(onnxruntime, "InferenceSession"):  # a folder that an uninstall left half empty
        raise DeviceUnavailable(f"The ONNX runtime's folder is incomplete: {INSTALL}, with --force-reinstall.")
    installed = installed_runtimes(Path(onnxruntime.__file__).parents[1])
    if len(installed) > 1:
        raise DeviceUnavailable(
            f"{' and '.join(installed)} are both installed and overwrite each other's files: "
            f"pip uninstall -y {' '.join(installed)}, then {INSTALL}."
        )
    return onnxruntime


def installed_runtimes(site_packages: Path) -> list[str]:
    """Names of the distributions in a site-packages folder that provide onnxruntime, such as `["onnxruntime-gpu"]`."""
    matches: Iterable[re.Match[str] | None] = (_RUNTIMES.fullmatch(entry.name) for entry in site_packages.iterdir())
    return sorted({match[1].replace("_", "-") for match in matches if match})


def describe_runtime(model: bytes) -> list[tuple[str, str]]:
    """What `zoo doctor` shows: the runtime, and for each provider whether a session with `model` really opens.

    Args:
        model: the content of an ONNX file; empty where there is none to try.
    """
    runtime = import_runtime()
    distributions = installed_runtimes(Path(runtime.__file__).parents[1])
    rows = [("runtime", f"{', '.join(distributions) or 'onnxruntime'} {runtime.__version__}")]
    devices = {provider: device for device, provider in PROVIDERS.items()}
    for provider in runtime.get_available_providers():
        if provider not in devices:
            rows.append((provider, "available, not used by pocketzoo"))
            continue
        if not model:
            rows.append((provider, "not tried: there is no whole model to open"))
            continue
        try:
            _session(runtime, model, devices[provider], "the model")
            rows.append((provider, "opens a session"))
        except (DeviceUnavailable, BadModel) as error:
            rows.append((provider, str(error)))
    return rows
