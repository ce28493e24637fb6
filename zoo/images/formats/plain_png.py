"""The PNG files that data sets consist of: small, of 8 bits and in one piece. OpenCV decodes them, two to four times
faster than Pillow; PNG is lossless, so both give the same pixels to the bit.

The compressed stream is inflated here first: memory that a short stream would leave unwritten is never handed out.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import struct
import zlib
from zlib import adler32, crc32, decompressobj

import cv2
import numpy as np
import numpy.typing as npt

from zoo.images.formats.common import Array
from zoo.images.limits import LEAST

START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
END = b"\0\0\0\0IEND\xaeB`\x82"
FILTERS = b"\0\1\2\3\4"  # the numbers that the rows' filters have
STORED = 65_535  # bytes that a block of a deflate stream holds uncompressed
_MORE, _LAST = b"\0", b"\1"  # what such a block begins with
_HEAD = struct.Struct(">16sII5sII4s")  # the file up to the type of its second chunk
_NUMBER, _LENGTHS = struct.Struct(">I").pack, struct.Struct("<HH").pack
_PLAIN = {b"\x08\0\0\0\0": 1, b"\x08\2\0\0\0": 3, b"\x08\6\0\0\0": 4}  # 8 bits, not interlaced → channels
_AT_ONCE = 4 * 2**20  # bytes whose channels are swapped at a time


def plain_pixels(data: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels of the PNG that data sets consist of, uint8 `(H, W, C)`: one IDAT chunk, no other, and undamaged.

    None for any other file, which `png.py` beside this one reads, or refuses with a reason. At most 100,000 pixels: no
    limit is as low.
    """
    if len(data) < 57:
        return None
    start, width, height, kind, checksum, length, second = _HEAD.unpack_from(data)
    if start != START or second != b"IDAT" or kind not in _PLAIN:
        return None
    end = 41 + length
    stride = width * _PLAIN[kind] + 1
    expected = stride * height
    if not 0 < width * height <= LEAST or len(data) != end + 16 or data[end + 4 :] != END:
        return None
    if crc32(data[12:29]) != checksum or crc32(data[37:end]) != int.from_bytes(data[end : end + 4], "big"):
        return None
    inflater = decompressobj()
    try:
        raw = inflater.decompress(data[41:end], expected)
    except zlib.error:
        return None
    if len(raw) != expected or not inflater.eof or raw[::stride].strip(FILTERS):
        return None
    return by_opencv(data[:33], raw)


def by_opencv(head: bytes, raw: bytes) -> npt.NDArray[np.uint8] | None:
    """OpenCV's pixels of a PNG whose data were inflated before. They are stored as they are: it cannot find them short.

    head: signature and IHDR chunk. raw: all rows, each after the number of its filter, which is one of `FILTERS`.
    """
    length = len(raw)
    blocks = _LAST + _LENGTHS(length, length ^ STORED) + raw if length <= STORED else _stored(raw)
    body = b"IDAT\x78\1" + blocks + _NUMBER(adler32(raw))
    file = head + _NUMBER(len(body) - 4) + body + _NUMBER(crc32(body)) + END
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if pixels is None else rgb_order(pixels)


def _stored(raw: bytes) -> bytes:
    """Stored blocks of a deflate stream (RFC 1951, 3.2.4)."""
    pieces = [raw[start : start + STORED] for start in range(0, len(raw), STORED)]
    kinds = [_MORE] * (len(pieces) - 1) + [_LAST]
    return b"".join(
        kind + _LENGTHS(len(piece), len(piece) ^ STORED) + piece for kind, piece in zip(kinds, pieces, strict=True)
    )


def rgb_order(pixels: Array) -> Array:
    """OpenCV's `(H, W)` or `(H, W, C)` in BGR(A) order → `(H, W, C)` in RGB(A) order."""
    if pixels.ndim == 2:
        return pixels[:, :, np.newaxis]
    code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    if pixels.size <= _AT_ONCE:
        return cv2.cvtColor(pixels, code)
    rows = max(1, _AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
    for top in range(0, len(pixels), rows):  # in place: no second copy of a large picture
        pixels[top : top + rows] = cv2.cvtColor(pixels[top : top + rows], code)
    return pixels
