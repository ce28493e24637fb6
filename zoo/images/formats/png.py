"""PNG: OpenCV for small plain files and for colours of 16 bits, Pillow for the rest; both get only what carries pixels.

The compressed stream is inflated here first wherever OpenCV decodes: memory that a short stream would leave unwritten
is never handed out. Checksums of chunks that carry pixels must be right; others are skipped where they are damaged.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import io
import struct
import zlib
from dataclasses import dataclass
from zlib import crc32, decompressobj

import cv2
import numpy as np

from zoo.images.formats import common as exif
from zoo.images.formats.common import FIRST_FRAME, Array, Header, Refused, damaged, pillow_pixels
from zoo.images.formats.plain_png import END, FILTERS, START, STORED, by_opencv, rgb_order

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_ADAM7 = (
    (0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2),
)  # Adam7: first column, step, first row, step  # fmt: skip
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_USED = frozenset({b"tRNS", b"acTL", b"eXIf", b"iTXt", b"tEXt", b"zTXt"})  # of the others, nothing is read
_MOST_CHUNKS = 20_000  # 160 MB in chunks of 8 kB, which is what libpng writes
_LONGEST_TEXT = 2**18  # bytes of a text in which an orientation is looked for
_SMALL = 4 * 2**20  # bytes of pixels: above, Pillow is as fast as OpenCV and takes less memory
_PIECE = 2**20  # bytes that are inflated at a time where only their number counts


def size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or not data.startswith(START):
        raise damaged("its header is not a PNG's")
    width, height = struct.unpack_from(">II", data, 16)
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise damaged(f"it declares {width}x{height} pixels")
    return width, height


@dataclass(frozen=True)
class _Png(Header):
    """head: signature and IHDR chunk. expected: bytes of the inflated data."""

    head: bytes = b""
    depth: int = 8
    colour: int = 0
    interlaced: bool = False
    palette: bytes = b""
    transparency: bytes = b""
    body: bytes = b""
    expected: int = 0

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        if self.depth == 16 and self.colour != 0:
            return self._deep_colour(), ()
        plain = self.depth == 8 and self.colour in (0, 2, 6) and not self.interlaced and not self.transparency
        if plain and self.expected <= _SMALL:
            raw = _inflated(self.body, self.expected)
            if raw[:: self.expected // self.height].strip(FILTERS):
                raise damaged("its pixels are filtered in a way that PNG does not know")
            pixels = by_opencv(self.head, raw)
            if pixels is not None:
                return pixels, ()
        from PIL import PngImagePlugin

        with PngImagePlugin.PngImageFile(io.BytesIO(self._file())) as image:
            image.load()
            return pillow_pixels(image)

    def _deep_colour(self) -> Array:
        """Colours of 16 bits, uint16, which Pillow would cut to their upper 8."""
        _check(self.body, self.expected, 0 if self.interlaced else self.expected // self.height)
        pixels = cv2.imdecode(np.frombuffer(self._file(), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (self.height, self.width):
            raise damaged("its pixels cannot be decoded")
        return rgb_order(pixels)

    def _file(self) -> bytes:
        """A PNG of what carries pixels alone."""
        chunks = [(b"PLTE", self.palette), (b"tRNS", self.transparency), (b"IDAT", self.body)]
        parts = [self.head]
        for kind, content in chunks:
            if content:
                checksum = crc32(content, crc32(kind))
                parts += [len(content).to_bytes(4, "big"), kind, content, checksum.to_bytes(4, "big")]
        return b"".join([*parts, END])


def parse(data: bytes) -> Header:
    width, height = size(data)
    depth, colour, compression, filtering, interlace = data[24:29]
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise damaged("its header holds values that PNG does not know")
    found = _chunks(data)
    palette = found.get(b"PLTE", b"") if colour in (2, 3) else b""
    if colour == 3 and not (3 <= len(palette) <= 768 and len(palette) % 3 == 0):
        raise damaged("its palette is missing")
    transparency = found.get(b"tRNS", b"")
    if not {0: len(transparency) >= 2, 2: len(transparency) >= 6, 3: len(transparency) <= 256}.get(colour, False):
        transparency = b""
    body = found[b"IDAT"]
    return _Png(
        width,
        height,
        _memory(width * height, depth, colour, bool(transparency)) + len(body),
        _orientation(found),
        (FIRST_FRAME,) if b"acTL" in found else (),
        head=data[:33],
        depth=depth,
        colour=colour,
        interlaced=bool(interlace),
        palette=palette,
        transparency=transparency,
        body=body,
        expected=_expected(width, height, depth * _CHANNELS[colour], bool(interlace)),
    )


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The content of the chunks that are used, the first of each kind, and all of IDAT as one. Raises Refused."""
    found: dict[bytes, bytes] = {}
    body: list[bytes] = []
    position, view = 8, memoryview(data)
    for _ in range(_MOST_CHUNKS):
        if position + 12 > len(data):
            break  # a file without an end: its pixels may be whole
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 8 + length
        if not (kind.isalpha() and kind.isascii()):
            break
        critical = not kind[0] & 0x20
        if critical and kind not in _CRITICAL:
            raise Refused(
                f"is a PNG with a part of the kind {kind.decode()}, which is not in the standard: save it again as PNG"
            )
        if end + 4 > len(data):
            if critical:
                raise damaged("it ends in the middle of its pixels")
            break
        if critical or (kind in _USED and kind not in found):
            intact = crc32(view[position + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
            if critical and not intact:
                raise Refused("is damaged (the checksum of a part of it is wrong): get the file again")
            if kind == b"IDAT":
                body.append(data[position + 8 : end])
            elif intact and _is_wanted(kind, data[position + 8 : position + 48]):
                found.setdefault(kind, data[position + 8 : end])
        if kind == b"IEND":
            break
        position = end + 4
    else:
        raise Refused(f"is a PNG of more than {_MOST_CHUNKS:,} parts: save it again")
    if not body:
        raise damaged("it holds no pixels")
    return found | {b"IDAT": body[0] if len(body) == 1 else b"".join(body)}


_PROFILE = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # ImageMagick's way to keep EXIF
_XMP = b"XML:com.adobe.xmp\0"


def _is_wanted(kind: bytes, start: bytes) -> bool:
    """Of the texts, only those that can hold an orientation."""
    if kind == b"iTXt":
        return start.startswith(_XMP)
    return kind not in (b"tEXt", b"zTXt") or start.startswith(_PROFILE)


def _orientation(found: dict[bytes, bytes]) -> int:
    value = exif.orientation(found.get(b"eXIf", b""))
    for kind in (b"zTXt", b"tEXt"):
        if value is None and kind in found:
            text = found[kind].split(b"\0", 1)[1]
            text = _text(text[1:]) if kind == b"zTXt" else text[:_LONGEST_TEXT]
            try:
                value = exif.orientation(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
            except ValueError:
                value = None
    if value is None and b"iTXt" in found:
        fields = found[b"iTXt"].removeprefix(_XMP)
        packet = fields[2:].split(b"\0", 2)[-1]  # after the language and the translated keyword
        value = exif.from_xmp(_text(packet) if fields[:1] == b"\1" else packet)
    return value or exif.UPRIGHT


def _text(compressed: bytes) -> bytes:
    try:
        return decompressobj().decompress(compressed, _LONGEST_TEXT)
    except zlib.error:
        return b""


def _expected(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of all rows, each with its filter's number before it (PNG specification, 7.2 and 8.2)."""
    sizes = [(width, height)]
    if interlaced:
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, dx, y, dy in _ADAM7]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _memory(pixels: int, depth: int, colour: int, transparent: bool) -> int:
    if depth == 16 and colour != 0:  # OpenCV's 16-bit pixels, twice: it copies them for Python
        return pixels * (13 if colour == 2 and not transparent else 17)
    held = {0: 2 if depth == 16 else 1, 2: 4, 3: 1, 4: 4, 6: 4}[colour]  # Pillow's own bytes a pixel
    given = 4 if transparent or colour in (4, 6) else 3 if colour in (2, 3) else 2 if depth == 16 else 1
    return pixels * (held + given)


def _inflated(body: bytes, expected: int) -> bytes:
    try:
        raw = decompressobj().decompress(body, expected)
    except zlib.error as error:
        raise damaged(str(error)) from None
    if len(raw) < expected:
        raise damaged("its pixels end early")
    return raw


def _check(body: bytes, expected: int, stride: int) -> None:
    """Raise Refused where the data inflate to less than the pixels take; at no time are all of them held.

    stride: of the rows, whose first bytes number their filters; 0 where they are of several lengths.
    """
    inflater, length = decompressobj(), 0
    try:
        for start in range(0, len(body), STORED):
            piece = body[start : start + STORED]
            while length < expected:
                inflated = inflater.decompress(piece, _PIECE)
                if stride and inflated[-length % stride :: stride].strip(FILTERS):
                    raise damaged("its pixels are filtered in a way that PNG does not know")
                length, piece = length + len(inflated), inflater.unconsumed_tail
                if not piece and len(inflated) < _PIECE:
                    break
    except zlib.error as error:
        raise damaged(str(error)) from None
    if length < expected:
        raise damaged("its pixels end early")
