"""Opens ONNX Runtime sessions on CPU or CUDA. The only file of `zoo/` and `serve/` that imports onnxruntime.

onnxruntime and onnxruntime-gpu install into the same directory, so pocketzoo requires neither. The extras `cpu` and
`gpu` install one of them. If none or both are installed, the error message names the commands that fix it.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import contextlib
import ctypes
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zoo.errors import BadModel, DeviceUnavailable, reason
from zoo.model_files import check_onnx

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# Options of onnxruntime's CUDA provider (docs/decisions/0014-gpu.md has the effect of each).
CUDA_OPTIONS = {
    "use_tf32": "0",  # TF32 rounds factors to 10 bits: logits were off by up to 0.019
    "cudnn_conv_algo_search": "HEURISTIC",  # the default times every algorithm for every new shape
}
CUDA_OPTIONS_TF32 = {"use_tf32": "1", "prefer_nhwc": "1"}  # the layout of tensor cores, which float32 does not use
CUDA_GRAPH = {"enable_cuda_graph": "1"}  # for `Bound`
TF32 = "ZOO_CUDA_TF32"  # environment variable: 1 allows TF32 on CUDA

# Only one run at a time on a GPU: a replay reads and writes memory that the next one needs, and no memory may be
# allocated on the device while a graph is captured.
gpu_lock = threading.Lock()

# Distributions that install the folder `onnxruntime`. If two are installed, their files are mixed.
_RUNTIMES = re.compile(r"(onnxruntime(?:_gpu|_openvino|_directml|_qnn|_rocm|_migraphx)?)-\d.*\.dist-info")

INSTALL = "pip install 'pocketzoo[cpu]' for this machine's processor, or 'pocketzoo[gpu]' for an NVIDIA GPU"


def open_session(model: bytes, device: Device, source_name: str, graph: bool = False) -> tuple[Any, str]:
    """Open an ONNX model. Each run uses one thread; any number of threads may call `run`.

    Args:
        model: the content of an ONNX file.
        device: "cpu"; "cuda", which never falls back to the CPU; or "auto", which is the CPU: it is faster for a few
            images. `serve/devices.py` chooses CUDA for many images.
        source_name: the model's name or path in error messages.
        graph: on CUDA, capture the first run as a CUDA graph and replay it, for a `Bound` that owns the session.
    Returns:
        The `onnxruntime.InferenceSession`, and its device, "cpu" or "cuda".
    Raises:
        DeviceUnavailable: no usable runtime, or the device cannot be used.
        BadModel: not an ONNX model.
    """
    runtime = import_runtime()
    if device not in DEVICES:
        raise DeviceUnavailable(f"Unknown device {device!r}: choose one of {', '.join(DEVICES)}.")
    if device in ("auto", "cpu"):
        return _session(runtime, model, "cpu", source_name), "cpu"
    if PROVIDERS["cuda"] not in runtime.get_available_providers():
        raise DeviceUnavailable(
            f"The installed onnxruntime {runtime.__version__} cannot use CUDA: "
            "pip uninstall onnxruntime, then pip install 'pocketzoo[gpu]', or choose --device cpu."
        )
    return _session(runtime, model, "cuda", source_name, graph), "cuda"


def has_cuda() -> bool:
    """Whether the installed runtime supports CUDA. Opening a session may still fail. Raises DeviceUnavailable."""
    return PROVIDERS["cuda"] in import_runtime().get_available_providers()


def cuda_options() -> dict[str, str]:
    """The current options of the CUDA provider."""
    return CUDA_OPTIONS | (CUDA_OPTIONS_TF32 if os.environ.get(TF32) == "1" else {})


def _session(runtime: Any, model: bytes, device: str, source_name: str, graph: bool = False) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # networks this small scale across requests: docs/decisions/0003-runtime.md
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; the log would print names from the model
    # A model is one file (docs/decisions/0001-one-file.md). check_onnx refuses references to other files; if it missed
    # one, the runtime would look for the file in this path, where there is none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    check_onnx(model, source_name)
    try:
        if device == "cuda":
            with contextlib.redirect_stdout(sys.stderr):  # preload_dlls prints the libraries that it could not load
                runtime.preload_dlls()
            session = _cuda_session(runtime, model, options, graph)
        else:
            session = runtime.InferenceSession(model, options, providers=[PROVIDERS[device]], enable_fallback=0)
    except Exception as error:  # onnxruntime's error classes are not public
        if device == "cuda":
            raise DeviceUnavailable(f"CUDA cannot be used ({reason(error)}): choose --device cpu.") from None
        raise BadModel(
            f"{source_name} cannot be opened as an ONNX model ({reason(error)}): get the file again."
        ) from None
    used = session.get_providers()[0]
    if used != PROVIDERS[device]:
        raise DeviceUnavailable(
            f"onnxruntime fell back to {used} instead of {PROVIDERS[device]}: see `zoo doctor`, or choose --device cpu."
        )
    return session


def _cuda_session(runtime: Any, model: bytes, options: Any, graph: bool) -> Any:
    """Without a graph too if the runtime refuses it, as for models with parts that run on the CPU."""

    def opened(extra: dict[str, str]) -> Any:
        providers = [(PROVIDERS["cuda"], cuda_options() | extra)]
        return runtime.InferenceSession(model, options, providers=providers, enable_fallback=0)

    if graph:
        with contextlib.suppress(Exception):
            return opened(CUDA_GRAPH)
    return opened({})


def import_runtime() -> Any:
    """The onnxruntime module. Raises DeviceUnavailable if it is missing, broken, or installed twice."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # since 1.29 it reports every session; read at import
    try:
        import onnxruntime
    except ImportError as error:
        if error.name == "onnxruntime":
            raise DeviceUnavailable(f"No ONNX runtime is installed: {INSTALL}.") from None
        raise DeviceUnavailable(f"The ONNX runtime cannot be imported ({error}): {INSTALL}.") from None
    if not hasattr(onnxruntime, "InferenceSession"):  # uninstalling one of two runtimes left an incomplete folder
        raise DeviceUnavailable(f"The installed ONNX runtime is incomplete: {INSTALL}, with --force-reinstall.")
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
    """Rows for `zoo doctor`: the runtime, and for each provider whether it opens a session with `model`.

    Args:
        model: the content of an ONNX file; empty if none is available.
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
            rows.append((provider, "not tested, because no intact model is installed"))
            continue
        try:
            _session(runtime, model, devices[provider], "the model")
            rows.append((provider, "opens a session"))
        except (DeviceUnavailable, BadModel) as error:
            rows.append((provider, str(error)))
    return rows


class Bound:
    """Runs up to `batch` images at a time, with fixed memory for input and outputs.

    On a GPU, this is page-locked memory of the host, which the kernels read and write without a copy. With one shape at
    one address, a run is a CUDA graph: one launch instead of one per layer. The runtime captures the graph at the first
    run, and again in every thread that runs it. It must have the session for itself: after a capture of more images
    in the same session, a replay failed on a GPU (docs/decisions/0014-gpu.md).

    Attributes:
        batch: the number of images per run.
        pinned: whether the memory is page-locked.
    """

    def __init__(
        self,
        session: Any,
        device: str,
        shape: tuple[int, ...],
        classes: int,
        batch: int,
        pinned: bool = True,
        has_known: bool = False,
    ) -> None:
        """Allocate and bind the memory.

        Args:
            session, device: as returned by `open_session`; on CUDA a session with a graph that nothing else uses.
            shape: `(H, W, C)` of an image.
            classes: the number of labels.
            pinned: False binds memory of the device; images and scores are then copied.
            has_known: whether the network has the output `known`.
        """
        self.batch, self._device = batch, device
        scores: dict[str, tuple[int, ...]] = {"logits": (batch, classes), "probabilities": (batch, classes)}
        if has_known:
            scores["known"] = (batch,)
        self._session, self._binding = session, session.io_binding()
        self._staging: npt.NDArray[np.uint8]
        self._scores: list[Any]  # arrays, or the runtime's values
        self._lock: Any = gpu_lock if device == "cuda" else nullcontext()
        self.pinned = device == "cuda" and pinned and self._bind_pinned((batch, *shape), scores)
        if not self.pinned:
            self._bind_device((batch, *shape), scores)

    def _bind_pinned(self, images: tuple[int, ...], scores: dict[str, tuple[int, ...]]) -> bool:
        staging = allocate(images, np.uint8)
        arrays: list[Any] = [allocate(shape, np.float32) for shape in scores.values()]
        if staging is None or any(array is None for array in arrays):
            return False
        self._staging, self._scores = staging, arrays
        self._binding.bind_input("image", self._device, 0, np.uint8, list(images), staging.ctypes.data)
        for (name, shape), array in zip(scores.items(), self._scores, strict=True):
            self._binding.bind_output(name, self._device, 0, np.float32, list(shape), array.ctypes.data)
        return True

    def _bind_device(self, images: tuple[int, ...], scores: dict[str, tuple[int, ...]]) -> None:
        allocate = import_runtime().OrtValue.ortvalue_from_shape_and_type
        self._staging = np.zeros(images, np.uint8)
        self._image = allocate(list(images), np.uint8, self._device, 0)
        self._scores = [allocate(list(shape), np.float32, self._device, 0) for shape in scores.values()]
        self._binding.bind_ortvalue_input("image", self._image)
        for name, value in zip(scores, self._scores, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], ...]:
        """uint8 `(N, H, W, C)`, N at most `batch` → logits and probabilities, float32 `(N, K)`, and known `(N,)`.

        A smaller N runs a whole batch too, so that the device sees only one shape. Several threads may call this; one
        runs at a time.
        """
        return self.run_parts([images])

    def run_parts(self, parts: Sequence[npt.NDArray[np.uint8]]) -> tuple[npt.NDArray[np.float32], ...]:
        """Like `run` for the concatenated parts, together at most `batch` images."""
        n = sum(map(len, parts))
        with self._lock:
            np.concatenate(parts, out=self._staging[:n])
            self.replay()
            arrays = self._scores if self.pinned else [score.numpy() for score in self._scores]
            return tuple([array[:n].copy() for array in arrays])

    def replay(self) -> None:
        """Run the images that are in the bound memory, and wait for the scores."""
        if not self.pinned:
            self._image.update_inplace(self._staging)
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()


# Page-locked memory of the host, which a GPU uses through the same pointer: with unified addressing, which every 64-bit
# CUDA system has ("CUDA C++ Programming Guide", mapped memory). onnxruntime has no Python API for it (1.31: no device
# of `get_ep_devices()` has HOST_ACCESSIBLE memory), so it comes from the CUDA runtime library that onnxruntime has
# loaded.

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll")
PORTABLE_AND_MAPPED = 1 | 2  # cudaHostAllocPortable, cudaHostAllocMapped
HOST = 1  # cudaMemoryTypeHost


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike, library: Any = None) -> npt.NDArray[Any] | None:
    """An array of zeros in page-locked memory, freed with its last reference; None if there is no CUDA.

    Args:
        library: the CUDA runtime library; by default it is loaded by its name.
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
    free.atexit = False  # at exit, the driver may be unloaded already; it frees the memory itself
    array: npt.NDArray[Any] = np.frombuffer(memoryview(memory), kind, prod(shape)).reshape(shape)
    array[...] = 0
    return array


def is_page_locked(array: npt.NDArray[Any], library: Any = None) -> bool:
    """Whether the array is in page-locked memory, according to the CUDA runtime."""
    library = library or _library()
    if library is None:
        return False
    attributes = _Attributes()
    failed = library.cudaPointerGetAttributes(ctypes.byref(attributes), ctypes.c_void_p(array.ctypes.data))
    return not failed and bool(attributes.type == HOST)


class _Attributes(ctypes.Structure):
    """cudaPointerAttributes, with more reserved space than needed."""

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
