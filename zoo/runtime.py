"""The only file of `zoo/` and `serve/` that imports onnxruntime: opens sessions, and says what this machine can run.

onnxruntime and onnxruntime-gpu write the same folder, so pocketzoo requires neither; the extras `cpu` and `gpu` bring
one of them, and a missing or doubled runtime is one sentence that says what to install.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import contextlib
import ctypes
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import count
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zoo import runtime as page_locked
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
CUDA_GRAPH = {"enable_cuda_graph": "1"}  # for runs with bound memory of one shape: zoo/runtime.py
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


# A session with its input and outputs bound to memory of one size: what a GPU wants.
#
# On a GPU input and outputs lie in page-locked memory of the host (zoo/runtime.py), which the kernels read and write
# themselves: no copy is called for. With one shape at one address the run is a CUDA graph: one launch instead of one a
# layer. The runtime captures it at the first run, again in every thread that runs it.

_graphs = count(1)  # 0 is what the runtime takes for a run without a number


class Bound:
    """Runs up to `batch` images at a time; input and outputs are allocated once.

    pinned: whether they are page-locked memory of the host, which the device uses without a copy.
    """

    def __init__(
        self, session: Any, device: str, shape: tuple[int, ...], classes: int, batch: int, pinned: bool = True
    ) -> None:
        """Args: session, device as `zoo.runtime.open_session` gives them; shape `(H, W, C)` of an image.

        pinned: False binds memory of the device, and images and scores are copied.
        """
        self.batch, self._device = batch, device
        self._session, self._binding = session, session.io_binding()
        self._staging: npt.NDArray[np.uint8]
        self._scores: list[Any]  # arrays, or the runtime's values
        self._options = run_options(device, next(_graphs))
        self._lock: Any = gpu_lock if device == "cuda" else nullcontext()
        self.pinned = device == "cuda" and pinned and self._bind_pinned((batch, *shape), (batch, classes))
        if not self.pinned:
            self._bind_device((batch, *shape), (batch, classes))

    def _bind_pinned(self, images: tuple[int, ...], scores: tuple[int, ...]) -> bool:
        staging = page_locked.allocate(images, np.uint8)
        arrays: list[Any] = [page_locked.allocate(scores, np.float32) for _ in range(2)]
        if staging is None or any(array is None for array in arrays):
            return False
        self._staging, self._scores = staging, arrays
        self._binding.bind_input("image", self._device, 0, np.uint8, list(images), staging.ctypes.data)
        for name, array in zip(("logits", "probabilities"), self._scores, strict=True):
            self._binding.bind_output(name, self._device, 0, np.float32, list(scores), array.ctypes.data)
        return True

    def _bind_device(self, images: tuple[int, ...], scores: tuple[int, ...]) -> None:
        allocate = import_runtime().OrtValue.ortvalue_from_shape_and_type
        self._staging = np.zeros(images, np.uint8)
        self._image = allocate(list(images), np.uint8, self._device, 0)
        self._scores = [allocate(list(scores), np.float32, self._device, 0) for _ in range(2)]
        self._binding.bind_ortvalue_input("image", self._image)
        for name, value in zip(("logits", "probabilities"), self._scores, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """uint8 `(N, H, W, C)`, N at most `batch` → logits and probabilities, float32 `(N, K)`.

        A smaller N runs a whole batch too, so that the device sees one shape. May be called from several threads, of
        which one runs at a time.
        """
        return self.run_parts([images])

    def run_parts(
        self, parts: Sequence[npt.NDArray[np.uint8]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `run` for the parts one after the other, together at most `batch` images."""
        n = sum(map(len, parts))
        with self._lock:
            np.concatenate(parts, out=self._staging[:n])
            self.replay()
            logits, probabilities = ((s if self.pinned else s.numpy())[:n].copy() for s in self._scores)
        return logits, probabilities

    def replay(self) -> None:
        """Run what is in `staging` and wait for the scores."""
        if not self.pinned:
            self._image.update_inplace(self._staging)
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()


# Page-locked memory of the host: what a GPU reads and writes itself, at the address that the host uses.
#
# onnxruntime gives Python no such memory (1.31: no device of `get_ep_devices()` has a HOST_ACCESSIBLE one), so it comes
# from the CUDA runtime library that onnxruntime has loaded. With unified addressing, which every 64-bit CUDA system
# has, the GPU uses it through the same pointer ("CUDA C++ Programming Guide", mapped memory).

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll")
PORTABLE_AND_MAPPED = 1 | 2  # cudaHostAllocPortable, cudaHostAllocMapped
HOST = 1  # cudaMemoryTypeHost


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, library: Any = None) -> npt.NDArray[Any] | None:
    """An array of zeros in page-locked memory, freed with the last reference to it; None where there is no CUDA.

    Args:
        library: the CUDA runtime library; by default the one that is loaded, or can be.
    """
    library = library or _library()
    if library is None:
        return None
    kind = np.dtype(dtype)
    size = max(1, prod(shape) * kind.itemsize)
    pointer = ctypes.c_void_p()
    if library.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), PORTABLE_AND_MAPPED) or not pointer.value:
        return None
    memory = (ctypes.c_ubyte * size).from_address(pointer.value)
    free = weakref.finalize(memory, library.cudaFreeHost, ctypes.c_void_p(pointer.value))
    free.atexit = False  # the driver may be gone by then, and it frees what is left
    array: npt.NDArray[Any] = np.frombuffer(memoryview(memory), kind, prod(shape)).reshape(shape)
    array[...] = 0
    return array


def is_page_locked(array: npt.NDArray[Any], library: Any = None) -> bool:
    """Whether the CUDA runtime knows the array's memory as page-locked."""
    library = library or _library()
    if library is None:
        return False
    attributes = _Attributes()
    failed = library.cudaPointerGetAttributes(ctypes.byref(attributes), ctypes.c_void_p(array.ctypes.data))
    return not failed and bool(attributes.type == HOST)


class _Attributes(ctypes.Structure):
    """cudaPointerAttributes; the reserved end is generous."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("device", ctypes.c_int),
        ("device_pointer", ctypes.c_void_p),
        ("host_pointer", ctypes.c_void_p),
        ("reserved", ctypes.c_long * 16),
    )


def _library() -> Any | None:
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
