"""PBM, PGM and PPM in their binary forms (P4, P5, P6): a short header and uncompressed samples."""

from __future__ import annotations  # faster start: annotations stay unevaluated

import re

import numpy as np

from zoo.dataclass import dataclass
from zoo.images.formats.common import Array, DecodeError, Header, damaged

_MAX_HEADER = 4096  # bytes, including comments
_SPACE = rb"(?:[ \t\r\n]|#[^\r\n]*[\r\n])+"
_NUMBER = rb"(\d{1,9})"
_BITMAP = re.compile(rb"P4" + _SPACE + _NUMBER + _SPACE + _NUMBER + rb"[ \t\r\n]")
_MAP = re.compile(rb"P[56]" + _SPACE + _NUMBER + _SPACE + _NUMBER + _SPACE + _NUMBER + rb"[ \t\r\n]")


def size(data: bytes) -> tuple[int, int]:
    return _header(data)[:2]


def _header(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, the largest value, and the position of the samples."""
    if data[1:2] in (b"1", b"2", b"3"):
        raise DecodeError("is a PBM, PGM or PPM in text form, which is not supported: save it in binary form or as PNG")
    match = (_BITMAP if data[1:2] == b"4" else _MAP).match(data[:_MAX_HEADER])
    if not match:
        raise damaged("it has no valid PBM, PGM or PPM header")
    width, height, largest = (int(number) for number in (*match.groups(), "1")[:3])
    if not width or not height or not 0 < largest < 65_536:
        raise damaged(f"it declares {width}x{height} pixels of values up to {largest}")
    return width, height, largest, match.end()


@dataclass(frozen=True)
class _Pnm(Header):
    data: bytes = b""
    largest: int = 255
    start: int = 0

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        if self.data[1:2] == b"4":
            stride = (self.width + 7) // 8
            packed = np.frombuffer(self.data, np.uint8, stride * self.height, self.start).reshape(self.height, stride)
            return (np.unpackbits(packed, axis=1, count=self.width) ^ 1)[:, :, np.newaxis] * np.uint8(255), ()
        channels = 3 if self.data[1:2] == b"6" else 1
        dtype = np.dtype(">u2") if self.largest > 255 else np.dtype(np.uint8)
        values = np.frombuffer(self.data, dtype, self.width * self.height * channels, self.start)
        if dtype == np.uint8 and self.largest < 255:
            table = np.minimum(np.rint(np.arange(256) * (255 / self.largest)), 255).astype(np.uint8)
            values = table[values]
        return values.reshape(self.height, self.width, channels), ()


def parse(data: bytes) -> Header:
    width, height, largest, start = _header(data)
    kind = data[1:2]
    row = (width + 7) // 8 if kind == b"4" else width * (3 if kind == b"6" else 1) * (2 if largest > 255 else 1)
    if start + row * height > len(data):
        raise damaged("it ends in the middle of its pixels")
    return _Pnm(width, height, 4 * width * height, data=data, largest=largest, start=start)
