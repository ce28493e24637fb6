"""The runtimes that are compared, as a table; each opens a model of the zoo for one batch size.

A further runtime is a function that returns a `Network`, and a line of `RUNTIMES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from bench import measure as gemm
from bench.gpu import open_on_gpu
from bench.networks import Network, Unavailable, by_hand, needs
from serve.devices import cores
from zoo.model import Model
from zoo.registry import Entry
from zoo.runtime import import_runtime


@dataclass(frozen=True)
class Runtime:
    """open: a model for a batch size; raises Unavailable. tolerance: how far its logits may be from ours.

    default: whether it runs without `--bench-full`. said: what a reader must know of it.
    """

    open: Callable[[Entry, int], Network]
    said: str
    tolerance: float = 1e-4
    default: bool = True


def open_bare(content: bytes, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU as anybody would open it; threads 0 means one a core."""
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def open_onnxruntime(entry: Entry, batch: int, threads: int) -> Network:
    content = (entry.folder / "model.onnx").read_bytes()
    session, product = open_bare(content, threads), open_bare(gemm.onnx_model(), threads)
    a = {"a": gemm.matrices()[0]}
    return by_hand(
        entry.card,
        provider=session.get_providers()[0],
        threads=threads or cores(),
        native=lambda images: {"image": images},
        session=partial(session.run, None),
        logits=lambda outputs: outputs[0],
        gemm=lambda: product.run(None, a),
    )


def open_zoo(entry: Entry, batch: int) -> Network:
    """A bare session for "session only"; `zoo.Model` for the way from arrays and from files to labels."""
    bare = open_onnxruntime(entry, batch, threads=1)
    model = Model((entry.folder / "model.onnx").read_bytes(), "cpu", entry.card.name)

    def read(files: list[bytes]) -> list[str | None]:
        return [row.label for row in model.predict(files)]

    return bare.replace(labels=lambda images: model.run(images).probabilities.argmax(1), read=read)


def open_torch(entry: Entry, batch: int, kind: str) -> Network:
    """The recipe's network with the weights of record in evaluation mode, on one thread."""
    torch = needs("torch", "pip install -e '.[dev]'")
    from safetensors.torch import load_file

    from train import networks, recipe
    from train.evaluate import network_input
    from train.onnx_graph import fold_batch_norm

    weights = entry.folder / "model.safetensors"
    if not weights.exists():
        raise Unavailable(f"{entry.card.name} has no {weights.name} for PyTorch: it lies in the repository.")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    chosen = recipe.find(entry.card.name)
    network = networks.build(chosen).eval()
    network.load_state_dict(load_file(weights))
    layout = torch.contiguous_format if kind == "eager" else torch.channels_last
    network = (fold_batch_norm(network) if kind == "folded" else network).to(memory_format=layout)
    if kind == "compile":
        torch.compiler.reset()  # it gives up on code that it has compiled for eight networks
        network = torch.compile(network, fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def session(values: Any) -> Any:
        return network(values)

    return by_hand(
        entry.card,
        provider=f"torch {torch.__version__.split('+')[0]} {kind}, CPU",
        threads=torch.get_num_threads(),
        native=lambda images: network_input(torch.from_numpy(images), chosen).contiguous(memory_format=layout),
        session=session,
        logits=lambda scores: scores.numpy(),
        gemm=gemm.with_torch(),
    )


@cache
def _openvino_core() -> Any:
    """One for the whole process: what it has compiled needs it to the end."""
    return import_module("openvino").Core()


def open_openvino(entry: Entry, batch: int, precision: str) -> Network:
    """Our ONNX file in OpenVINO on one thread, its shape fixed to the batch, which is what OpenVINO does best."""
    openvino = needs("openvino", "pip install -e '.[dev,peers]'")
    core = _openvino_core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    network = core.read_model(model=(entry.folder / "model.onnx").read_bytes())
    network.reshape([batch, *entry.card.input.shape])
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    product = core.compile_model(core.read_model(model=gemm.onnx_model()), "CPU", settings).create_infer_request()
    a = {"a": gemm.matrices()[0]}
    version, place = openvino.__version__.split("-")[0], compiled.get_property("EXECUTION_DEVICES")[0]
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return by_hand(
        entry.card,
        provider=f"openvino {version}, {place}, {used}",
        threads=compiled.get_property("INFERENCE_NUM_THREADS"),
        native=lambda images: {"image": images},
        session=lambda feed: request.infer(feed, share_inputs=True, share_outputs=True),
        logits=lambda outputs: np.array(outputs["logits"]),
        gemm=lambda: product.infer(a, share_inputs=True, share_outputs=True),
    )


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(open_zoo, "one thread; from arrays and files through `zoo.Model`"),
    "onnxruntime-all": Runtime(partial(open_onnxruntime, threads=0), "one thread a core inside each call"),
    "torch": Runtime(partial(open_torch, kind="eager"), "the network as it is trained, eager, NCHW"),
    "torch-channels-last": Runtime(partial(open_torch, kind="channels_last"), "the same in NHWC memory"),
    "torch-folded": Runtime(
        partial(open_torch, kind="folded"), "the same with batch norm folded into the convolutions", default=False
    ),
    "torch-compile": Runtime(partial(open_torch, kind="compile"), "torch.compile of the second, shape fixed"),
    "openvino": Runtime(partial(open_openvino, precision="f32"), "our ONNX file, shape fixed, in float32"),
    "openvino-bf16": Runtime(
        partial(open_openvino, precision="bf16"), "the same in bfloat16, its own choice on this processor", 0.5
    ),
    "cuda": Runtime(partial(open_on_gpu, provider="CUDAExecutionProvider"), "bound to the GPU's memory", 1e-3),
    "tensorrt": Runtime(partial(open_on_gpu, provider="TensorrtExecutionProvider"), "the same through TensorRT", 1e-2),
}
