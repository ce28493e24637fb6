"""GIF: its first frame alone, decoded by Pillow. Frames are never counted: that would take as long as reading all."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import io
import struct
from dataclasses import dataclass

from zoo.images.formats.common import FIRST_FRAME, Array, Header, Refused, damaged, pillow_pixels

_BEFORE_FRAME = 2**18  # bytes in which the first frame must begin: comments and the like are walked over in Python
_MOST_BLOCKS = 100_000  # of a frame, to see whether another follows: 25 MB, 10 ms
_MOST_EXTENSIONS = 8  # between two frames
_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9


def size(data: bytes) -> tuple[int, int]:
    """Of the screen, and of the first frame where that is larger: then Pillow enlarges the screen."""
    return _first_frame(data)[:2]


def _first_frame(data: bytes) -> tuple[int, int, int, bytes]:
    """Width and height of the picture, where its image descriptor begins, and the control extension before it."""
    if len(data) < 13:
        raise damaged("it ends before its picture")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, control = 13 + _palette(flags), b""
    start = data[:_BEFORE_FRAME]
    while position + 10 <= len(start):
        if data[position] == _IMAGE:
            left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
            if not columns or not rows:
                raise damaged(f"its frame has {columns}x{rows} pixels")
            return max(width, left + columns), max(height, top + rows), position, control
        if data[position] != _EXTENSION:
            position += 1  # as Pillow does with what means nothing
            continue
        label, first = data[position + 1], position + 2
        position = _after_blocks(start, first, len(start))
        if label == _CONTROL and data[first] >= 4:
            control = data[first - 2 : first + 1 + data[first]] + b"\0"
    if len(data) > len(start):
        raise Refused(f"is a GIF whose first frame begins after {_BEFORE_FRAME:,} bytes: save it again")
    raise damaged("it ends before its picture")


def _palette(flags: int) -> int:
    """Bytes of the palette that the flags of a screen or a frame announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, position: int, most: int) -> int:
    """Where a chain of at most that many sub-blocks ends; beyond the data where it does not end in them."""
    for _ in range(most):
        if position >= len(data):
            break
        length = data[position]
        position += 1 + length
        if not length:
            return position
    return len(data)


def _has_another(data: bytes, position: int) -> bool:
    """Whether a frame follows the one at that place, as far as that is quick to tell."""
    position = _after_blocks(data, position + 11 + _palette(data[position + 9]), _MOST_BLOCKS)
    for _ in range(_MOST_EXTENSIONS):
        if data[position : position + 1] != bytes([_EXTENSION]):
            break
        position = _after_blocks(data, position + 2, _MOST_EXTENSIONS)
    return data[position : position + 1] == bytes([_IMAGE])


@dataclass(frozen=True)
class _Gif(Header):
    """file: a GIF of the first frame."""

    file: bytes = b""

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        from PIL import GifImagePlugin

        with GifImagePlugin.GifImageFile(io.BytesIO(self.file)) as image:
            image.load()
            return pillow_pixels(image)


def parse(data: bytes) -> Header:
    width, height, position, control = _first_frame(data)
    screen = data[: 13 + _palette(data[10])]
    return _Gif(
        width,
        height,
        5 * width * height + len(data),
        notes=(FIRST_FRAME,) if _has_another(data, position) else (),
        file=b"".join([screen, control, memoryview(data)[position:]]),
    )
