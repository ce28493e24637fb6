"""GIF: the first frame only, decoded by Pillow. Frames are never counted, which would take as long as reading all."""

from __future__ import annotations  # faster start: annotations stay unevaluated

import io
import struct

from zoo.dataclass import dataclass
from zoo.images.formats.common import FIRST_FRAME, Array, DecodeError, Header, damaged, pillow_pixels

_MAX_BEFORE_FRAME = 2**18  # bytes before the first frame, such as comments, which are skipped in Python
_MAX_BLOCKS = 100_000  # of a frame that are skipped to see whether another follows: 25 MB, 10 ms
_MAX_EXTENSIONS = 8  # between two frames
_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9


def size(data: bytes) -> tuple[int, int]:
    """The size of the screen, or of the first frame where that is larger: then Pillow enlarges the screen."""
    return _first_frame(data)[:2]


def _first_frame(data: bytes) -> tuple[int, int, int, bytes]:
    """Width and height of the image, the position of its image descriptor, and the control extension before it."""
    if len(data) < 13:
        raise damaged("it ends before the image data")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, control = 13 + _palette(flags), b""
    start = data[:_MAX_BEFORE_FRAME]
    while position + 10 <= len(start):
        if data[position] == _IMAGE:
            left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
            if not columns or not rows:
                raise damaged(f"its frame has {columns}x{rows} pixels")
            return max(width, left + columns), max(height, top + rows), position, control
        if data[position] != _EXTENSION:
            position += 1  # Pillow skips unknown bytes too
            continue
        label, first = data[position + 1], position + 2
        position = _after_blocks(start, first, len(start))
        if label == _CONTROL and data[first] >= 4:
            control = data[first - 2 : first + 1 + data[first]] + b"\0"
    if len(data) > len(start):
        raise DecodeError(f"is a GIF whose first frame begins after {_MAX_BEFORE_FRAME:,} bytes: save it again")
    raise damaged("it ends before the image data")


def _palette(flags: int) -> int:
    """Bytes of the palette, from the flags of a screen or a frame."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, position: int, limit: int) -> int:
    """The position behind a chain of at most `limit` sub-blocks; the end of the data where it is longer."""
    for _ in range(limit):
        if position >= len(data):
            break
        length = data[position]
        position += 1 + length
        if not length:
            return position
    return len(data)


def _has_another(data: bytes, position: int) -> bool:
    """Whether another frame follows the one at a position; False where it takes long to find out."""
    position = _after_blocks(data, position + 11 + _palette(data[position + 9]), _MAX_BLOCKS)
    for _ in range(_MAX_EXTENSIONS):
        if data[position : position + 1] != bytes([_EXTENSION]):
            break
        position = _after_blocks(data, position + 2, _MAX_EXTENSIONS)
    return data[position : position + 1] == bytes([_IMAGE])


@dataclass(frozen=True)
class _Gif(Header):
    file: bytes = b""  # a GIF of the first frame

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
        corrections=(FIRST_FRAME,) if _has_another(data, position) else (),
        file=b"".join([screen, control, memoryview(data)[position:]]),
    )
