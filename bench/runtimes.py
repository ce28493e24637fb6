"""The runtimes that are compared: each opens a model of the zoo for one batch size.

To add a runtime, write a function that returns a `Network` and add a line to `RUNTIMES`.
`python -m bench.runtimes MODEL RUNTIME BATCH` opens one and answers one batch, for `peak_memory_mb`.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import measure
from serve.devices import cores
from zoo import registry
from zoo.card import Card
from zoo.errors import DeviceUnavailable, ZooError
from zoo.images.prepare import prepare
from zoo.model import Model
from zoo.registry import Entry
from zoo.runtime import cuda_options, import_runtime

Images = npt.NDArray[np.uint8]
INSTALL_GPU = "pip uninstall onnxruntime, then pip install -e '.[dev-gpu]' on a machine with an NVIDIA GPU"


class Unavailable(ZooError):
    """The runtime cannot run on this machine; the message has the reason and what to install."""


@dataclass(frozen=True)
class Network:
    """A model in a runtime, for one batch size."""

    provider: str  # what runs the model, as the runtime reports it
    threads: int  # as the runtime reports them
    native: Callable[[Images], Any]  # uint8 (N, H, W, C) → the input of `session`
    session: Callable[[Any], Any]  # → the runtime's output, complete when the call returns
    logits: Callable[[Any], npt.NDArray[np.float32]]  # that output → (N, K)
    labels: Callable[[Images], npt.NDArray[np.int64]]  # uint8 (N, H, W, C) → indices of labels (N,)
    read: Callable[[list[bytes]], list[str | None]]  # image files → names of labels
    gemm: Callable[[], Any]  # one matrix product of bench/measure.py in the same library, on as many threads

    def replace(self, **changes: Any) -> Network:
        return dataclasses.replace(self, **changes)


def compose(
    card: Card,
    native: Callable[[Images], Any],
    session: Callable[[Any], Any],
    logits: Callable[[Any], npt.NDArray[np.float32]],
    **facts: Any,
) -> Network:
    """A Network whose `labels` and `read` are composed of the other functions and the zoo's image decoder."""

    def labels(images: Images) -> npt.NDArray[np.int64]:
        indices: npt.NDArray[np.int64] = logits(session(native(images))).argmax(1)
        return indices

    def read(files: list[bytes]) -> list[str | None]:
        images = np.stack([prepare(file, card.input)[0] for file in files])
        return [card.labels[index] for index in labels(images).tolist()]

    return Network(native=native, session=session, logits=logits, labels=labels, read=read, **facts)


def require(package: str, install: str) -> Any:
    """Import a package. Raises Unavailable if it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise Unavailable(f"{package} cannot be imported ({error}): {install}.") from None


# onnxruntime on the CPU


def bare_session(model: bytes | Entry, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU with default options; `threads=0` is one per core."""
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    content = model if isinstance(model, bytes) else (model.folder / "model.onnx").read_bytes()
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def open_onnxruntime(entry: Entry, batch: int, threads: int) -> Network:
    session, product = bare_session(entry, threads), bare_session(measure.gemm_onnx(), threads)
    a = {"a": measure.gemm_matrices()[0]}
    return compose(
        entry.card,
        provider=session.get_providers()[0],
        threads=threads or cores(),
        native=lambda images: {"image": images},
        session=partial(session.run, None),
        logits=lambda outputs: outputs[0],
        gemm=lambda: product.run(None, a),
    )


def open_zoo(entry: Entry, batch: int) -> Network:
    """A bare session for `session`, and `zoo.Model` for `labels` and `read`."""
    bare = open_onnxruntime(entry, batch, threads=1)
    model = Model((entry.folder / "model.onnx").read_bytes(), "cpu", entry.card.name)

    def read(files: list[bytes]) -> list[str | None]:
        return [row.label for row in model.predict(files)]

    return bare.replace(labels=lambda images: model.run(images).probabilities.argmax(1), read=read)


# PyTorch


def open_torch(entry: Entry, batch: int, kind: str) -> Network:
    """The recipe's network with the published weights in evaluation mode, on one thread."""
    torch = require("torch", "pip install -e '.[dev]'")
    from safetensors.torch import load_file

    from train import networks, recipe
    from train.evaluate import network_input
    from train.onnx_graph import fold_batch_norm

    weights = entry.folder / "model.safetensors"
    if not weights.exists():
        raise Unavailable(
            f"{entry.card.name} has no {weights.name}, which PyTorch needs: use a clone of the repository."
        )
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    settings = recipe.find(entry.card.name)
    network = networks.build(settings).eval()
    network.load_state_dict(load_file(weights))
    layout = torch.contiguous_format if kind == "eager" else torch.channels_last
    network = (fold_batch_norm(network) if kind == "folded" else network).to(memory_format=layout)
    if kind == "compile":
        torch.compiler.reset()  # torch.compile gives up on a function that it has compiled for eight networks
        network = torch.compile(network, fullgraph=True, dynamic=False)

    def session(values: Any) -> Any:
        with torch.inference_mode():
            return network(values)

    return compose(
        entry.card,
        provider=f"torch {torch.__version__.split('+')[0]} {kind}, CPU",
        threads=torch.get_num_threads(),
        native=lambda images: network_input(torch.from_numpy(images), settings).contiguous(memory_format=layout),
        session=session,
        logits=lambda scores: scores.numpy(),
        gemm=measure.gemm_torch(),
    )


# OpenVINO


@cache
def _openvino_core() -> Any:
    """One core for the process: compiled models need it as long as they live."""
    return import_module("openvino").Core()


def open_openvino(entry: Entry, batch: int, precision: str) -> Network:
    """Our ONNX file in OpenVINO on one thread; its shape is fixed to the batch, which is OpenVINO's fastest mode."""
    openvino = require("openvino", "pip install -e '.[dev,peers]'")
    core = _openvino_core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    network = core.read_model(model=(entry.folder / "model.onnx").read_bytes())
    network.reshape([batch, *entry.card.input.shape])
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    product = core.compile_model(core.read_model(model=measure.gemm_onnx()), "CPU", settings).create_infer_request()
    a = {"a": measure.gemm_matrices()[0]}
    version, device = openvino.__version__.split("-")[0], compiled.get_property("EXECUTION_DEVICES")[0]
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return compose(
        entry.card,
        provider=f"openvino {version}, {device}, {used}",
        threads=compiled.get_property("INFERENCE_NUM_THREADS"),
        native=lambda images: {"image": images},
        session=lambda feed: request.infer(feed, share_inputs=True, share_outputs=True),
        logits=lambda outputs: np.array(outputs["logits"]),
        gemm=lambda: product.infer(a, share_inputs=True, share_outputs=True),
    )


# ncnn


def open_ncnn(entry: Entry, batch: int) -> Network:
    """The layers of our ONNX file in ncnn, on one thread in float32; a batch is a loop, because ncnn has none."""
    ncnn = require("ncnn", "pip install -e '.[dev,peers]'")
    from bench.ncnn_graph import OUTPUT, Graph

    graph = Graph((entry.folder / "model.onnx").read_bytes())
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    with TemporaryDirectory() as folder:
        (Path(folder) / "param").write_text(graph.param)
        (Path(folder) / "bin").write_bytes(graph.bin)
        if net.load_param(f"{folder}/param") or net.load_model(f"{folder}/bin"):
            raise Unavailable(f"ncnn cannot read the layers of {entry.card.name}.")
    height, width, channels = entry.card.input.shape
    kinds = {1: ncnn.Mat.PixelType.PIXEL_GRAY, 3: ncnn.Mat.PixelType.PIXEL_RGB}
    kind, mean, scale = kinds[channels], graph.mean.tolist(), graph.scale.tolist()

    def session(images: Images) -> list[Any]:
        outputs = []
        for image in images:
            pixels = ncnn.Mat.from_pixels(image, kind, width, height)
            pixels.substract_mean_normalize(mean, scale)
            extractor = net.create_extractor()
            extractor.input("image", pixels)
            outputs.append(extractor.extract(OUTPUT)[1])
        return outputs

    return compose(
        entry.card,
        provider=f"ncnn {ncnn.__version__}, CPU",
        threads=net.opt.num_threads,
        native=np.ascontiguousarray,
        session=session,
        logits=lambda outputs: np.stack([np.array(output) for output in outputs]),
        gemm=_onnxruntime_gemm(),
    )


# LiteRT (TensorFlow Lite), whose CPU kernels are XNNPACK's

CONVERTER = "ZOO_LITERT_PYTHON"  # environment variable: the Python of an environment with litert-torch
CONVERSIONS = 8  # attempts: litert-torch 0.10 sometimes takes two weights of the same shape for one


def open_litert(entry: Entry, batch: int) -> Network:
    """The recipe's network with batch norm folded in LiteRT, on one thread in float32, its shape fixed to the batch."""
    litert = require("ai_edge_litert.interpreter", "pip install -e '.[dev,peers]'")
    images = np.random.default_rng(0).integers(0, 256, (batch, *entry.card.input.shape), np.uint8)
    expected = bare_session(entry).run(None, {"image": images})[0]
    for _ in range(CONVERSIONS):
        interpreter = litert.Interpreter(model_content=_litert_model(entry, batch), num_threads=1)
        interpreter.allocate_tensors()
        source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

        def session(images: Images) -> npt.NDArray[np.float32]:
            interpreter.set_tensor(source, images)  # noqa: B023 - the last interpreter is the one that is returned
            interpreter.invoke()  # noqa: B023
            logits: npt.NDArray[np.float32] = interpreter.get_tensor(result)  # noqa: B023
            return logits

        if np.abs(session(images) - expected).max() <= 1e-3:
            return compose(
                entry.card,
                provider=f"ai-edge-litert {version('ai-edge-litert')}, XNNPACK",
                threads=1,
                native=np.ascontiguousarray,
                session=session,
                logits=lambda scores: scores,
                gemm=_onnxruntime_gemm(),
            )
    raise Unavailable(
        f"{CONVERSIONS} conversions of {entry.card.name} by litert-torch gave other logits than its file."
    )


def _litert_model(entry: Entry, batch: int) -> bytes:
    python = os.environ.get(CONVERTER)
    if not python:
        raise Unavailable(
            f"{CONVERTER} is not set: pip install litert-torch -e '.[cpu,train]' in another environment, and set it "
            "to that environment's python."
        )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        command = [python, "-m", "bench.litert_convert", entry.card.name, str(batch), str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"{' '.join(command)} failed: {done.stderr[-300:]}")
        return file.read_bytes()


def _onnxruntime_gemm() -> Callable[[], Any]:
    """The product in onnxruntime, for runtimes that only run networks."""
    product, a = bare_session(measure.gemm_onnx()), {"a": measure.gemm_matrices()[0]}
    return lambda: product.run(None, a)


# onnxruntime on a GPU, with the zoo's options of the CUDA provider; bench/on_gpu.py compares them with others


def open_on_gpu(entry: Entry, batch: int, provider: str, device: str = "cuda") -> Network:
    """A model on the GPU: `session` has its input and outputs in the memory of `device`, `labels` copies both.

    Raises:
        Unavailable: the runtime has no such provider, or falls back to another.
    """
    content = (entry.folder / "model.onnx").read_bytes()
    session, product = (_gpu_session(model, provider) for model in (content, measure.gemm_onnx()))
    shape = entry.card.input.shape
    sizes = [(batch, *output.shape[1:]) for output in session.get_outputs()]
    binding, image, scores = bind_memory(session, device, "image", (batch, *shape), np.uint8, sizes)
    side = (measure.GEMM_SIDE,) * 2
    product_binding, factor, _ = bind_memory(product, device, "a", side, np.float32, [side])
    factor.update_inplace(measure.gemm_matrices()[0])

    def native(images: Images) -> Any:
        image.update_inplace(np.ascontiguousarray(images))
        return binding

    def run(bound: Any) -> Any:
        session.run_with_iobinding(bound)
        bound.synchronize_outputs()  # the GPU is still working when run_with_iobinding returns
        return scores

    def multiply() -> None:
        product.run_with_iobinding(product_binding)
        product_binding.synchronize_outputs()

    return compose(
        entry.card,
        provider=session.get_providers()[0],
        threads=1,
        native=native,
        session=run,
        logits=lambda outputs: outputs[0].numpy(),
        gemm=multiply,
    )


def bind_memory(
    session: Any, device: str, name: str, shape: tuple[int, ...], dtype: type, outputs: list[tuple[int, ...]]
) -> tuple[Any, Any, list[Any]]:
    """Bind a session's one input and its float32 outputs to memory of the device: binding, input, outputs."""
    allocate = import_runtime().OrtValue.ortvalue_from_shape_and_type
    binding, image = session.io_binding(), allocate(list(shape), dtype, device, 0)
    binding.bind_ortvalue_input(name, image)
    scores = [allocate(list(output), np.float32, device, 0) for output in outputs]
    for output, memory in zip(session.get_outputs(), scores, strict=True):  # a shape for each output of the session
        binding.bind_ortvalue_output(output.name, memory)
    return binding, image, scores


def _gpu_session(model: bytes, provider: str) -> Any:
    try:
        runtime = import_runtime()
    except DeviceUnavailable as error:
        raise Unavailable(str(error)) from None
    if provider not in runtime.get_available_providers():
        raise Unavailable(f"The installed onnxruntime {runtime.__version__} has no {provider}: {INSTALL_GPU}.")
    if provider != "CPUExecutionProvider":
        runtime.preload_dlls()
    options = cuda_options() if provider == "CUDAExecutionProvider" else {}
    session = runtime.InferenceSession(model, providers=[(provider, options)])
    if (used := session.get_providers()[0]) != provider:
        raise Unavailable(f"onnxruntime fell back to {used} instead of {provider}: see `zoo doctor`.")
    return session


@dataclass(frozen=True)
class Runtime:
    """A line of the table of runtimes."""

    open: Callable[[Entry, int], Network]  # a model for a batch size; raises Unavailable
    description: str
    tolerance: float = 1e-4  # largest difference of its logits from onnxruntime's
    default: bool = True  # False: measured with `-m full` only


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(open_zoo, "one thread; from arrays and files through `zoo.Model`"),
    "onnxruntime-all": Runtime(partial(open_onnxruntime, threads=0), "one thread per core inside each call"),
    "torch": Runtime(partial(open_torch, kind="eager"), "the network as it is trained, eager, NCHW"),
    "torch-channels-last": Runtime(partial(open_torch, kind="channels_last"), "the same in NHWC memory"),
    "torch-folded": Runtime(
        partial(open_torch, kind="folded"), "the same with batch norm folded into the convolutions", default=False
    ),
    "torch-compile": Runtime(
        partial(open_torch, kind="compile"), "torch.compile of channels_last, shape fixed", default=False
    ),
    "openvino": Runtime(partial(open_openvino, precision="f32"), "our ONNX file, shape fixed, in float32"),
    "openvino-bf16": Runtime(
        partial(open_openvino, precision="bf16"), "the same in bfloat16, its own choice on this processor", 0.5
    ),
    "ncnn": Runtime(open_ncnn, "the layers of our ONNX file, one image at a time, in float32", 1e-3),
    "litert": Runtime(open_litert, "the network converted by litert-torch, shape fixed, XNNPACK, in float32", 1e-3),
    "cuda": Runtime(partial(open_on_gpu, provider="CUDAExecutionProvider"), "bound to the GPU's memory", 1e-3),
    "tensorrt": Runtime(partial(open_on_gpu, provider="TensorrtExecutionProvider"), "the same through TensorRT", 1e-2),
}


def peak_memory_mb(model: str, runtime: str, batch: int) -> float:
    """Peak resident memory in MB of a new process that opens the model and classifies one batch of black images."""
    return measure.run_process([sys.executable, "-m", "bench.runtimes", model, runtime, str(batch)]).peak_mb


def _classify_one_batch(model: str, runtime: str, batch: int) -> None:
    entry = registry.find(model)
    network = RUNTIMES[runtime].open(entry, batch)
    network.labels(np.zeros((batch, *entry.card.input.shape), np.uint8))


if __name__ == "__main__":
    _classify_one_batch(sys.argv[1], sys.argv[2], int(sys.argv[3]))
