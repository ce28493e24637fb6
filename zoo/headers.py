"""How many pixels an image file declares, from its first bytes: what a server needs to know before it decodes."""

from __future__ import annotations

import struct

UNKNOWN = 25_000_000  # for a file whose header is not read here

_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers that hold the size


def declared_pixels(data: bytes) -> int:
    """Pixels that decoding a file will touch; 0 for a file that is no image, `UNKNOWN` where that cannot be seen."""
    try:
        return _declared(data)
    except (struct.error, IndexError):
        return 0


def _declared(data: bytes) -> int:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", data, 16)
    elif data.startswith(b"\xff\xd8"):
        width, height = _jpeg_size(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
    elif data.startswith(b"BM"):
        width, height = (abs(side) for side in struct.unpack_from("<ii", data, 18))
    else:
        known = data.startswith((b"II*\0", b"MM\0*", b"RIFF", b"\0\0\1\0", b"\0\0\0", b"P", b"\xff\x4f"))
        return UNKNOWN if known else 0
    return int(width) * int(height)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return 0, 0
