"""The only file of `zoo/` and `serve/` that imports onnxruntime: opens sessions, and says what this machine can run.

onnxruntime and onnxruntime-gpu write the same folder, so pocketzoo requires neither; the extras `cpu` and `gpu` bring
one of them, and a missing or doubled runtime is one sentence that says what to install.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from zoo.errors import BadModel, DeviceUnavailable, reason
from zoo.model_files import check_onnx

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# Options of onnxruntime's CUDA provider (docs/decisions/0014-gpu.md has what each of them is worth).
CUDA_OPTIONS = {
    "use_tf32": "0",  # TF32 keeps 10 bits of a factor: logits were off by up to 0.019
    "cudnn_conv_algo_search": "HEURISTIC",  # the default times every algorithm for every new shape
}
CUDA_OPTIONS_TF32 = {"use_tf32": "1", "prefer_nhwc": "1"}  # the layout of tensor cores, which float32 has no use for
CUDA_GRAPH = {"enable_cuda_graph": "1"}  # for runs with bound memory of one shape: zoo/binding.py
TF32 = "ZOO_CUDA_TF32"  # environment variable: 1 lets CUDA multiply in TF32
GRAPH_ID = "gpu_graph_id"  # of a run: which captured graph it replays or captures; -1 for none
NO_GRAPH = "-1"

# One run at a time on a GPU: a replay reads and writes memory that the next one needs, and nothing may allocate on the
# device while a graph is captured.
gpu_lock = threading.Lock()

# Distributions that all install the folder `onnxruntime`; with two of them, files of both are mixed.
_RUNTIMES = re.compile(r"(onnxruntime(?:_gpu|_openvino|_directml|_qnn|_rocm|_migraphx)?)-\d.*\.dist-info")

INSTALL = "pip install 'pocketzoo[cpu]' for this machine's processor, or 'pocketzoo[gpu]' for an NVIDIA GPU"


def open_session(model: bytes, device: Device, where: str) -> tuple[Any, str]:
    """Open an ONNX model for one-thread use from any number of threads.

    Args:
        model: the content of an ONNX file.
        device: "cpu"; "cuda", which fails rather than fall back; "auto", the CPU, which answers sooner wherever a
            session is opened for one image or a few. Who has many asks for CUDA (serve/devices.py).
        where: the model's name or path, for sentences.
    Returns:
        The `onnxruntime.InferenceSession`, and the device that it runs on, "cpu" or "cuda".
    Raises:
        DeviceUnavailable: no usable runtime, or the device cannot be used. BadModel: not an ONNX model.
    """
    runtime = import_runtime()
    if device not in DEVICES:
        raise DeviceUnavailable(f"Unknown device {device!r}: choose one of {', '.join(DEVICES)}.")
    if device in ("auto", "cpu"):
        return _session(runtime, model, "cpu", where), "cpu"
    if PROVIDERS["cuda"] not in runtime.get_available_providers():
        raise DeviceUnavailable(
            f"The installed onnxruntime {runtime.__version__} cannot use CUDA: "
            "pip uninstall onnxruntime, then pip install 'pocketzoo[gpu]', or choose --device cpu."
        )
    return _session(runtime, model, "cuda", where), "cuda"


def has_cuda() -> bool:
    """Whether the installed runtime was built for CUDA; a session may still not open. Raises DeviceUnavailable."""
    return PROVIDERS["cuda"] in import_runtime().get_available_providers()


def cuda_options() -> dict[str, str]:
    """Options of the CUDA provider, as they are used here now."""
    return CUDA_OPTIONS | (CUDA_OPTIONS_TF32 if os.environ.get(TF32) == "1" else {})


def run_options(device: str, graph: int | None = None) -> Any:
    """What a session's run takes: None on a CPU, else the number of the CUDA graph that it replays, or none of them."""
    if device != "cuda":
        return None
    options = import_runtime().RunOptions()
    options.add_run_config_entry(GRAPH_ID, NO_GRAPH if graph is None else str(graph))
    return options


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
            session = _cuda_session(runtime, model, options)
        else:
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


def _cuda_session(runtime: Any, model: bytes, options: Any) -> Any:
    """With CUDA graphs, or without where a part of the model stays on the CPU: then the runtime refuses them."""
    chosen = cuda_options()
    try:
        providers = [(PROVIDERS["cuda"], chosen | CUDA_GRAPH)]
        return runtime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception:
        return runtime.InferenceSession(model, options, providers=[(PROVIDERS["cuda"], chosen)], enable_fallback=0)


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
