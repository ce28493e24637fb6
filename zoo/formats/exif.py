"""The orientation that a file's metadata declare, read without trusting anything else in them."""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import re
import struct

UPRIGHT = 1
_TAG = 0x0112
_SIZES = {1: "B", 3: "H", 4: "I"}  # types that hold a small number: BYTE, SHORT, LONG
_XMP = re.compile(rb'tiff:Orientation\s*(?:=\s*["\']|>)\s*([1-8])')
_PREFIX = b"Exif\0\0"
_LONGEST = 2**20  # bytes in which an orientation is looked for


def orientation(exif: bytes) -> int | None:
    """From EXIF, with or without its "Exif" prefix; None where it has none, or is no EXIF."""
    exif = exif[:_LONGEST].removeprefix(_PREFIX).removeprefix(_PREFIX)  # some programs write it twice
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return None
    count = min(struct.unpack_from(order + "H", exif, start)[0], (len(exif) - start - 2) // 12)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", exif, place)
        if tag == _TAG:
            if kind not in _SIZES or not 1 <= number <= 4 // struct.calcsize(_SIZES[kind]):
                return None
            value = struct.unpack_from(order + _SIZES[kind], exif, place + 8)[0]
            return value if 1 <= value <= 8 else None
    return None


def from_xmp(packet: bytes) -> int | None:
    found = _XMP.search(packet[:_LONGEST])
    return int(found[1]) if found else None
