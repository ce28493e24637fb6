"""Reads an ONNX classifier that another program has exported, and finds its input and its output.

The file is not trusted. Weights in other files are read into the model here, before a runtime sees it, and only from
regular files inside the model's folder; everything else that a file could refer to is refused by `check_onnx`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import BadModel, ModelNotFound, WrongUsage, ZooError, printable
from zoo.model_files import LARGEST_MODEL, check_onnx, read_file

if TYPE_CHECKING:
    import onnx

Layout = Literal["nchw", "nhwc"]

MIN_OPSET = 7  # older operators broadcast in another way
INPUT_TYPES = {1: "float32", 10: "float16", 11: "float64", 2: "uint8"}  # of onnx.TensorProto → names in NumPy


@dataclass(frozen=True)
class ForeignModel:
    """A model of another program, with all weights inside, and the digest of its file."""

    proto: onnx.ModelProto
    name: str  # of the file, without its folder
    folder: Path
    sha256: str
    producer: str
    metadata: dict[str, str]

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return max((entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


@dataclass(frozen=True)
class ImageInput:
    """The input of a model: float or uint8 `(N, C, H, W)` or `(N, H, W, C)`."""

    name: str
    dtype: str  # NumPy's name
    layout: Layout
    height: int
    width: int
    channels: int
    batch: int | None  # the fixed N, or None where N is dynamic


def read_model(path: Path) -> ForeignModel:
    """Read an ONNX file and the files of its weights.

    Raises:
        ModelNotFound, BadModel: missing, damaged or too large files; weights outside of the folder; a model that is
            not one flat graph.
        ZooError: the package onnx is not installed.
    """
    onnx = import_onnx()
    content, where = read_file(path, LARGEST_MODEL), printable(str(path))
    try:
        proto = onnx.ModelProto.FromString(content)
    except Exception:  # protobuf's error class depends on its version
        raise BadModel(f"{where} is not an ONNX model, or it is damaged or cut short: get the file again.") from None
    if not proto.graph.node:
        raise BadModel(f"{where} has no operators: it is not an ONNX model, or it is damaged.")
    if proto.functions:
        raise BadModel(
            f"{where} contains functions of its own: inline them with onnx.inliner.inline_local_functions, or export "
            "the model again."
        )
    _load_weights(proto, path)
    if proto.ByteSize() > LARGEST_MODEL:
        raise BadModel(f"{where} has {proto.ByteSize():,} bytes, more than the limit of {LARGEST_MODEL:,}.")
    check_onnx(proto.SerializeToString(), where)
    producer = " ".join(part for part in (proto.producer_name, proto.producer_version) if part)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    digest = hashlib.sha256(content).hexdigest()
    model = ForeignModel(proto, path.name, path.parent, digest, printable(producer)[:200] or "unknown", metadata)
    if model.opset < MIN_OPSET:
        raise BadModel(
            f"{where} uses operators of opset {model.opset}, older than {MIN_OPSET}: convert it with "
            "onnx.version_converter, or export it again."
        )
    return model


def import_onnx() -> Any:
    """The package onnx. Raises ZooError if it is missing."""
    try:
        import onnx
        import onnx.compose
        import onnx.external_data_helper
        import onnx.shape_inference
    except ImportError:
        raise ZooError("Adding a model needs the package onnx: pip install 'pocketzoo[inspect]'.") from None
    return onnx


def _load_weights(proto: onnx.ModelProto, path: Path) -> None:
    """Move weights that are in other files into the model."""
    files: dict[str, bytes] = {}
    total = proto.ByteSize()
    for tensor in _tensors(proto):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in files:
            # All files together count, because one file may have many names.
            files[location] = _read_weights(location, path, LARGEST_MODEL - sum(map(len, files.values())))
        content = files[location]
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", len(content) - offset))
        except ValueError:
            raise BadModel(f"{path} refers to a place in {location!r} that is not a number: export it again.") from None
        if offset < 0 or length < 0 or offset + length > len(content):
            raise BadModel(
                f"{path} refers to bytes {offset:,} to {offset + length:,} of {printable(location)}, which has "
                f"{len(content):,}: the two files do not belong together."
            )
        total += length
        if total > LARGEST_MODEL:
            raise BadModel(f"{path} and its weights have more bytes than the limit of {LARGEST_MODEL:,}.")
        tensor.raw_data = content[offset : offset + length]
        tensor.data_location = tensor.DEFAULT
        del tensor.external_data[:]


def _read_weights(location: str, path: Path, limit: int) -> bytes:
    """A file of weights of at most `limit` bytes. Only files in the model's folder or below it are read."""
    relative = PurePosixPath(location)
    outside = relative.is_absolute() or ".." in relative.parts or PureWindowsPath(location).drive or "\\" in location
    if not location or outside or "\0" in location:
        raise BadModel(
            f"{path} refers to weights in {printable(location[:200])!r}, outside of its folder: that is not allowed. "
            "Export the model with its weights beside it."
        )
    try:
        return read_file(path.parent / relative, limit, within=path.parent)
    except ModelNotFound:
        raise BadModel(
            f"{path} has its weights in {printable(location)}, which is missing: put that file beside the model."
        ) from None


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of the main graph. Those of graphs inside operators stay external, and `check_onnx` refuses them."""
    yield from proto.graph.initializer
    for sparse in proto.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def image_input(model: ForeignModel, layout: Layout | None = None, size: tuple[int, int] | None = None) -> ImageInput:
    """The only input of a model, and its shape.

    Args:
        layout: the order of the axes; by default it is seen from the number of channels.
        size: height and width, for a model that takes any size.
    Raises:
        BadModel: not a model of images.
        WrongUsage: `layout` or `size` is needed, or contradicts the model.
    """
    weights = {tensor.name for tensor in model.proto.graph.initializer}
    inputs = [value for value in model.proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(printable(value.name[:40]) for value in inputs[:5]) or "none"
        raise BadModel(
            f"{model.name} has {len(inputs)} inputs ({names}): an image classifier has one. Export it with one input."
        )
    value = inputs[0]
    kind = value.type.tensor_type
    dtype = INPUT_TYPES.get(kind.elem_type)
    sizes: list[int | None] = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim
    ]
    shown = f"({', '.join('?' if size is None else str(size) for size in sizes)})"
    if len(sizes) != 4:
        raise BadModel(
            f"{model.name} takes {shown}: an image classifier takes four axes, (N, C, H, W) or (N, H, W, C)."
        )
    if dtype is None:
        raise BadModel(
            f"{model.name} takes values of ONNX type {kind.elem_type}: use {', '.join(INPUT_TYPES.values())}."
        )
    layout = layout or _layout(model, sizes, shown)
    channels, height, width = sizes[1:] if layout == "nchw" else (sizes[3], *sizes[1:3])
    if channels not in (1, 3, None):
        raise BadModel(f"{model.name} takes {shown}: {channels} channels in the layout {layout}, not 1 or 3.")
    if size is None and (height is None or width is None):
        raise WrongUsage(
            f"{model.name} takes images of any size {shown}: choose one with --size, for example --size 224."
        )
    if size is not None:
        if any(fixed not in (None, chosen) for fixed, chosen in zip((height, width), size, strict=True)):
            raise WrongUsage(f"{model.name} takes {shown}, which is not {size[0]}x{size[1]}: omit --size.")
        height, width = size
    assert height is not None
    assert width is not None
    if max(height, width) > 1024:
        raise BadModel(f"{model.name} takes images of {height}x{width} pixels, more than the limit of 1024 per side.")
    return ImageInput(value.name, dtype, layout, height, width, channels or 3, sizes[0])


def _layout(model: ForeignModel, sizes: list[int | None], shown: str) -> Layout:
    first, last = sizes[1] in (1, 3), sizes[3] in (1, 3)
    if first == last:
        raise WrongUsage(
            f"{model.name} takes {shown}, which does not show its layout: use --layout nchw or --layout nhwc."
        )
    return "nchw" if first else "nhwc"


def class_output(model: ForeignModel, name: str | None, labels: int | None) -> str:
    """The name of the output with the scores of the classes.

    Args:
        name: the one that the user chose.
        labels: the number of labels, if it is known.
    Raises:
        BadModel: no output can be the scores of classes.
        WrongUsage: there are several.
    """
    outputs = {value.name: value for value in model.proto.graph.output}
    if name is not None:
        if name not in outputs:
            raise WrongUsage(f"{model.name} has no output {name!r}. It has: {', '.join(map(printable, outputs))}.")
        return name
    candidates: list[str] = [key for key, value in outputs.items() if _may_be_scores(value)]
    if len(candidates) > 1 and labels is not None:
        fitting = [key for key in candidates if labels in _sizes(outputs[key])]
        candidates = fitting or candidates
    if not candidates:
        shapes = "; ".join(
            f"{printable(key[:40])} ({', '.join(str(size or '?') for size in _sizes(value))})"
            for key, value in list(outputs.items())[:5]
        )
        raise BadModel(
            f"{model.name} is not a classifier: no output has the shape (N, classes). Its outputs: {shapes}."
        )
    if len(candidates) > 1:
        raise WrongUsage(
            f"{model.name} has several outputs: choose the scores of the classes with --output-name "
            f"{' or '.join(printable(key[:40]) for key in candidates[:5])}."
        )
    return candidates[0]


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _may_be_scores(value: onnx.ValueInfoProto) -> bool:
    """Whether an output may have the shape (N, K), or (N, K, 1, 1) as networks without a dense layer give it."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in (1, 10, 11):
        return False
    if not kind.HasField("shape"):
        return True  # its shape is seen when it runs
    sizes = _sizes(value)
    return len(sizes) == 2 or (len(sizes) == 4 and sizes[2:] == [1, 1])
