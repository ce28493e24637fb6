"""onnxruntime on an NVIDIA GPU: input and outputs bound to its memory for "session only", end to end for labels.

With our provider options (`zoo.runtime.cuda_options`). `bench/on_gpu.py` compares these with others.
"""

from typing import Any

import numpy as np

from bench import measure as gemm
from bench.networks import Network, Unavailable, by_hand
from zoo.errors import DeviceUnavailable
from zoo.registry import Entry
from zoo.runtime import cuda_options, import_runtime

INSTALL = "pip uninstall onnxruntime, then pip install -e '.[dev-gpu]' on a machine with an NVIDIA GPU"


def open_on_gpu(entry: Entry, batch: int, provider: str, device: str = "cuda") -> Network:
    """A model on the GPU. Raises Unavailable where the runtime has no such provider, or falls back to another.

    device: where input and outputs lie, in onnxruntime's words.
    """
    content = (entry.folder / "model.onnx").read_bytes()
    session, product = (_session(model, provider) for model in (content, gemm.onnx_model()))
    shape, classes = entry.card.input.shape, len(entry.card.labels)
    binding, image, scores = bound(session, device, "image", (batch, *shape), np.uint8, [(batch, classes)] * 2)
    multiplied, factor, _ = bound(product, device, "a", (gemm.SIDE,) * 2, np.float32, [(gemm.SIDE,) * 2])
    factor.update_inplace(gemm.matrices()[0])

    def place(images: np.ndarray) -> Any:
        image.update_inplace(np.ascontiguousarray(images))
        return binding

    def run(ready: Any) -> Any:
        session.run_with_iobinding(ready)
        ready.synchronize_outputs()  # a GPU works on after the call: without this, nothing but the call is timed
        return scores

    def multiply() -> None:
        product.run_with_iobinding(multiplied)
        multiplied.synchronize_outputs()

    return by_hand(
        entry.card,
        provider=session.get_providers()[0],
        threads=1,
        native=place,
        session=run,
        logits=lambda outputs: outputs[0].numpy(),
        gemm=multiply,
    )


def bound(
    session: Any, device: str, name: str, shape: tuple[int, ...], kind: type, outputs: list[tuple[int, ...]]
) -> tuple[Any, Any, list[Any]]:
    """A binding of a session's one input and its float32 outputs to the device's memory, and those pieces of memory."""
    allocate = import_runtime().OrtValue.ortvalue_from_shape_and_type
    binding, image = session.io_binding(), allocate(list(shape), kind, device, 0)
    binding.bind_ortvalue_input(name, image)
    scores = [allocate(list(output), np.float32, device, 0) for output in outputs]
    for output, memory in zip(session.get_outputs(), scores, strict=True):
        binding.bind_ortvalue_output(output.name, memory)
    return binding, image, scores


def _session(model: bytes, provider: str) -> Any:
    try:
        runtime = import_runtime()
    except DeviceUnavailable as error:
        raise Unavailable(str(error)) from None
    if provider not in runtime.get_available_providers():
        raise Unavailable(f"The installed onnxruntime {runtime.__version__} has no {provider}: {INSTALL}.")
    if provider != "CPUExecutionProvider":
        runtime.preload_dlls()
    options = cuda_options() if provider == "CUDAExecutionProvider" else {}
    session = runtime.InferenceSession(model, providers=[(provider, options)])
    if (used := session.get_providers()[0]) != provider:
        raise Unavailable(f"onnxruntime fell back to {used} instead of {provider}: see `zoo doctor`.")
    return session
