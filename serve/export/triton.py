"""A model as a folder of an NVIDIA Triton model repository, for Triton's onnxruntime backend.

    NAME/config.pbtxt   the model's configuration
    NAME/labels.txt     the labels, one per line: Triton's classification extension returns them
    NAME/1/model.onnx   version 1, the unchanged ONNX file

Configuration: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md and
https://github.com/triton-inference-server/onnxruntime_backend. Triton's version numbers are integers, so the version of
the card is in a parameter only.
"""

from __future__ import annotations

from zoo.card import Card
from zoo.errors import ExportError

MAX_BATCH = 256
WARMUP_BATCHES = (1, 16)  # one image, and a chunk of `zoo.classification.CHUNK`
INSTANCES = 2  # sessions that run at the same time, each with one thread (docs/decisions/0003-runtime.md)
QUEUE_DELAY_US = 100  # how long a request waits for others to form a batch

_CONFIG = """\
# Written by `zoo export --format triton`.
name: "{name}"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: {max_batch}

# The dimensions are those of one image; the batch comes first.
input [
  {{ name: "image" data_type: TYPE_UINT8 format: FORMAT_NONE dims: [ {shape} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "labels.txt" }},
  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "labels.txt" }}{known}
]

# Requests that wait together run together.
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}

# On a CPU: as many instances as cores, with one thread each. {device}
instance_group [
  {{ count: {instances} kind: KIND_CPU }}
]
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count" value {{ string_value: "1" }} }}
parameters {{ key: "pocketzoo_version" value {{ string_value: "{version}" }} }}

# The first run of a session is the slowest.
{warmup}"""

# One number per image: the batch is the file's only dimension. Triton's clients get `(N, 1)`.
_KNOWN = """,
  { name: "known" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }"""

_WARMUP = """\
model_warmup {{
  name: "batch_{batch}"
  batch_size: {batch}
  inputs {{ key: "image" value {{ data_type: TYPE_UINT8 dims: [ {shape} ] zero_data: true }} }}
}}
"""


def files(card: Card, onnx: bytes) -> dict[str, bytes]:
    """The files of a model's folder. Raises ExportError if Triton does not accept the name."""
    if ".." in card.name:
        raise ExportError(f"Triton accepts no model names with '..', such as {card.name!r}. Rename the model.")
    shape = ", ".join(map(str, card.input.shape))
    config = _CONFIG.format(
        name=card.name,
        version=_quoted(card.version),
        max_batch=MAX_BATCH,
        shape=shape,
        classes=len(card.labels),
        known=_KNOWN if card.calibration.known_from is not None else "",
        delay=QUEUE_DELAY_US,
        instances=INSTANCES,
        device="int8 models run on the CPU only." if card.quantization else "On a GPU: KIND_GPU and 1.",
        warmup="".join(_WARMUP.format(batch=batch, shape=shape) for batch in WARMUP_BATCHES),
    )
    labels = "".join(f"{label}\n" for label in card.labels)
    return {"config.pbtxt": config.encode(), "labels.txt": labels.encode(), "1/model.onnx": onnx}


def _quoted(text: str) -> str:
    """Printable text (`zoo.card` accepts no other) within quotes of protobuf's text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
