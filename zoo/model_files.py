"""Checks of model files before anything else reads them: size, place and structure.

An ONNX file is a protobuf message that may refer to other files, call itself and loop forever. Our models are one flat
graph (docs/decisions/0001-one-file.md); `check_onnx` refuses every other file before the runtime opens it. It walks
over the message's fields with a table, because the command does not depend on the package onnx, and a parser of the
whole message would read the weights too.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import os
import stat
from pathlib import Path

from zoo.errors import BadModel, ModelNotFound, reason

METADATA_KEY = "pocketzoo.card"

LARGEST_CARD = 2**20  # bytes; the longest shipped card has 11,000
LARGEST_MODEL = 2**30  # bytes; the limit of protobuf is 2**31
MAX_FIELDS = 500_000  # of an ONNX file: about 20,000 operators; walking over them takes less than a second

# Fields by number, from onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). A table: a message to walk
# into. A string: something that our models never contain. All other fields are skipped.
Table = dict[int, "Table | str"]
_TENSOR: Table = {13: "weights in another file", 14: "weights in another file"}
_SPARSE: Table = {1: _TENSOR, 2: _TENSOR}
_ATTRIBUTE: Table = {
    5: _TENSOR,
    6: "a graph inside an operator (Loop, If or Scan)",
    10: _TENSOR,
    11: "a graph inside an operator (Loop, If or Scan)",
    22: _SPARSE,
    23: _SPARSE,
}
_NODE: Table = {5: _ATTRIBUTE}
_GRAPH: Table = {1: _NODE, 5: _TENSOR, 15: _SPARSE}
_METADATA: Table = {}
_MODEL: Table = {7: _GRAPH, 14: _METADATA, 20: "a graph for training", 25: "functions of its own"}

_DATA_LOCATION = 14  # of a tensor; 0, the default, means inside this file
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which ONNX does not use


def read_file(path: Path, limit: int, within: Path | None = None) -> bytes:
    """Read a file of a model.

    Args:
        limit: in bytes; a larger file is refused without reading it.
        within: a folder that must contain the file, after following links.
    Raises:
        ModelNotFound: there is no such file.
        BadModel: not a regular file, too large, outside of the folder, or unreadable.
    """
    try:
        if within is not None and not path.resolve().is_relative_to(within.resolve()):
            raise BadModel(f"{path} is a link to a file outside of {within}: copy the file into the folder.")
        # non-blocking, because opening a pipe would wait for a writer
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadModel(f"{path} is not a regular file: copy the file itself there.")
            if status.st_size > limit:
                raise BadModel(f"{path} has {status.st_size:,} bytes, more than the limit of {limit:,}: get it again.")
            content = file.read(status.st_size + 1)  # not `limit`: that much memory would be allocated first
        if len(content) != status.st_size:
            raise BadModel(f"{path} changed while it was read: try again.")
        return content
    except FileNotFoundError:
        if path.is_symlink():
            raise BadModel(f"{path} is a broken link: get the file again.") from None
        raise ModelNotFound(f"There is no model file {path}: check the path.") from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise BadModel(f"{path} cannot be read ({reason(error)}): check the path.") from None


def check_onnx(content: bytes, source_name: str) -> str | None:
    """Refuse an ONNX file that is not one flat graph with its weights inside.

    Args:
        content: of the file.
        source_name: the file's name in error messages.
    Returns:
        The card inside the file, as text, or None.
    Raises:
        BadModel: damaged; too large; or a file that reads other files, loops, or defines functions.
    """
    if len(content) > LARGEST_MODEL:
        raise BadModel(f"{source_name} has {len(content):,} bytes, more than the limit of {LARGEST_MODEL:,}.")
    try:
        return _walk(content, source_name)
    except (IndexError, Malformed, UnicodeDecodeError):
        raise BadModel(
            f"{source_name} is not an ONNX model, or it is damaged or cut short: get the file again."
        ) from None


class Malformed(ValueError):
    """The bytes are not a protobuf message."""


def _walk(content: bytes, source_name: str) -> str | None:
    cards: list[str] = []
    unread: list[tuple[int, int, Table]] = [(0, len(content), _MODEL)]
    fields = 0
    while unread:
        position, end, table = unread.pop()
        while position < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise BadModel(
                    f"{source_name} has more than {MAX_FIELDS:,} fields: pocketzoo models have a few thousand."
                )
            number, wire, value, start, position = read_field(content, position, end)
            inner = table.get(number)
            in_this_file = table is _TENSOR and number == _DATA_LOCATION and wire == _VARINT and value == 0
            if inner is None or in_this_file:
                continue
            if isinstance(inner, str):
                raise BadModel(f"{source_name} contains {inner}: a pocketzoo model is one flat graph in one file.")
            if wire != _BYTES:
                raise Malformed
            if inner is _METADATA:
                cards += _card(content, start, position, source_name)
            else:
                unread.append((start, position, inner))
    if len(cards) > 1:
        raise BadModel(f"{source_name} contains {len(cards)} cards: export the model again.")
    return cards[0] if cards else None


def read_field(content: bytes, position: int, end: int) -> tuple[int, int, int, int, int]:
    """A field's number, wire type and varint value, the position of its bytes, and that of the next field."""
    tag, position = _varint(content, position)
    number, wire = tag >> 3, tag & 7
    start, value = position, 0
    if wire == _VARINT:
        value, position = _varint(content, position)
    elif wire == _BYTES:
        length, start = _varint(content, position)
        position = start + length
    elif wire in (_FIXED32, _FIXED64):
        position += 4 if wire == _FIXED32 else 8
    else:
        raise Malformed
    if number == 0 or tag >= 2**32 or position > end:
        raise Malformed
    return number, wire, value, start, position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """An unsigned number, 7 bits per byte and the low ones first, and the position behind it."""
    value = content[position]
    if value < 0x80:  # the most frequent case
        return value, position + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        position += 1
        byte = content[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
    raise Malformed


def _card(content: bytes, position: int, end: int, source_name: str) -> list[str]:
    """The value of a metadata entry in a list; an empty list if it is not the card."""
    if end - position > LARGEST_CARD:
        raise BadModel(
            f"{source_name} has metadata of {end - position:,} bytes, more than the limit of {LARGEST_CARD:,}."
        )
    entry = {1: b"", 2: b""}  # key and value
    while position < end:
        number, wire, _, start, position = read_field(content, position, end)
        if wire == _BYTES and number in entry:
            entry[number] = content[start:position]
    return [entry[2].decode()] if entry[1].decode() == METADATA_KEY else []
