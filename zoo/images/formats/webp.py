"""WebP: the still image, or an animation's first frame rewritten as a still image, decoded by OpenCV.

Pillow opens every WebP as an animation, with two canvases in addition to the image. OpenCV's decoder of still
images takes a third of that memory and gives the same pixels to the bit.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import struct
from collections.abc import Iterator

import cv2
import numpy as np

from zoo.dataclass import dataclass
from zoo.images.formats.common import (
    FIRST_FRAME,
    UPRIGHT,
    Array,
    Header,
    damaged,
    exif_orientation,
    rgb_order,
    xmp_orientation,
)

_MAX_CHUNKS = 10_000  # an animation has one per frame; EXIF comes after them
_HAS_ALPHA = 0x10


def size(data: bytes) -> tuple[int, int]:
    """The size of the canvas."""
    for kind, start, end in _chunks(data, 12, len(data)):
        if kind == b"VP8X" and end - start >= 10:
            return _uint24(data, start + 4) + 1, _uint24(data, start + 7) + 1
        if kind in (b"VP8 ", b"VP8L"):
            return _frame_size(data, kind, start, end)
        break
    raise damaged("it has no image")


def _uint24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _chunks(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, and start and end of the content, of each chunk."""
    for _ in range(_MAX_CHUNKS):
        if start + 8 > stop:
            return
        kind, length = struct.unpack_from("<4sI", data, start)
        end = start + 8 + length
        if end > stop:
            raise damaged("it ends in the middle of the image data")
        yield kind, start + 8, end
        start = end + length % 2


def _frame_size(data: bytes, kind: bytes, start: int, end: int) -> tuple[int, int]:
    """Width and height of a frame (RFC 6386, 9.1; specification of lossless WebP, 3)."""
    if kind == b"VP8 " and end - start >= 10 and data[start + 3 : start + 6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, start + 6)
        width, height = width & 0x3FFF, height & 0x3FFF
        if width and height:
            return width, height
    if kind == b"VP8L" and end - start >= 5 and data[start] == 0x2F:
        bits = int.from_bytes(data[start + 1 : start + 5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise damaged("the image data is invalid")


@dataclass(frozen=True)
class _WebP(Header):
    file: bytes = b""  # a still WebP of the frame
    alpha: bool = False  # whether the canvas has alpha
    place: tuple[int, int, int, int] = (0, 0, 0, 0)  # left, top, width and height of the frame on the canvas

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        left, top, width, height = self.place
        pixels = cv2.imdecode(np.frombuffer(self.file, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.shape[:2] != (height, width):
            raise damaged("its pixels cannot be decoded")
        frame = rgb_order(pixels)
        if (width, height) == (self.width, self.height):
            return frame, ()
        canvas = np.zeros((self.height, self.width, 4 if self.alpha else 3), np.uint8)
        inside = canvas[top : top + height, left : left + width]
        inside[:, :, 3:] = 255
        inside[:, :, : frame.shape[2]] = frame[:, :, : inside.shape[2]]
        return canvas, ()


def parse(data: bytes) -> Header:
    width, height = size(data)
    stop = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    place, animated, still, orientation, packet = (0, 0, width, height), False, None, None, None
    for kind, start, end in _chunks(data, 12, stop):
        if kind == b"ANMF" and not still and end - start >= 16:
            animated = True
            left, top = 2 * _uint24(data, start), 2 * _uint24(data, start + 3)
            place = left, top, _uint24(data, start + 6) + 1, _uint24(data, start + 9) + 1
            still = _still(data, start + 16, end)
        elif kind in (b"VP8 ", b"VP8L", b"ALPH") and not still:
            still = _still(data, start - 8, stop)
        elif kind == b"EXIF":
            orientation = exif_orientation(data[start:end]) or 0 if orientation is None else orientation
        elif kind == b"XMP ":
            packet = xmp_orientation(data[start:end]) or 0 if packet is None else packet
    if not still:
        raise damaged("it has no image")
    file, frame_width, frame_height = still
    if (frame_width, frame_height) != place[2:] or place[0] + frame_width > width or place[1] + frame_height > height:
        raise damaged("its frame does not have the declared size")
    canvas = 0 if place[2:] == (width, height) else 4 * width * height
    return _WebP(
        width,
        height,
        8 * frame_width * frame_height + canvas + len(file),  # OpenCV copies the pixels for Python
        orientation or packet or UPRIGHT,
        (FIRST_FRAME,) if animated else (),
        file=file,
        alpha=data[12:16] == b"VP8X" and bool(data[20] & _HAS_ALPHA),
        place=place,
    )


def _still(data: bytes, start: int, stop: int) -> tuple[bytes, int, int]:
    """The first image between two positions as a file of its own, its width and its height."""
    alpha = b""
    for kind, begin, end in _chunks(data, start, stop):
        if kind == b"ALPH":
            alpha = _chunk(kind, data[begin:end])
        elif kind in (b"VP8 ", b"VP8L"):
            width, height = _frame_size(data, kind, begin, end)
            body = _chunk(kind, data[begin:end])
            if alpha and kind == b"VP8 ":
                corner = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
                body = _chunk(b"VP8X", bytes([_HAS_ALPHA, 0, 0, 0]) + corner) + alpha + body
            return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, width, height
        elif kind not in (b"VP8X", b"ICCP", b"ANIM"):
            continue
    raise damaged("it has no image")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
