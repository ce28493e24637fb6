"""PNG: OpenCV for small plain files and for 16-bit colour, Pillow for the rest. Both get only the chunks with pixels.

OpenCV decodes the small 8-bit files that data sets consist of two to four times faster than Pillow, with the same
pixels to the bit (`plain_pixels`). Before OpenCV decodes anything, the compressed stream is inflated here: a stream
that is too short would leave OpenCV's memory unwritten. Checksums of chunks that carry pixels must be right; other
chunks are skipped where they are damaged.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import io
import struct
import zlib
from zlib import adler32, crc32, decompressobj

import cv2
import numpy as np
import numpy.typing as npt

from zoo.dataclass import dataclass
from zoo.images.formats.common import (
    FIRST_FRAME,
    UPRIGHT,
    Array,
    DecodeError,
    Header,
    damaged,
    exif_orientation,
    pillow_pixels,
    rgb_order,
    xmp_orientation,
)
from zoo.images.limits import LEAST

_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_FILTERS = b"\0\1\2\3\4"  # the filter types, each row's first byte
_STORED_BYTES = 65_535  # that a block of a deflate stream holds uncompressed
_MORE_BLOCKS, _LAST_BLOCK = b"\0", b"\1"  # first byte of a stored block
_IHDR_END = 33
_HEAD = struct.Struct(">16sII5sII4s")  # the file up to the type of its second chunk
_NUMBER, _LENGTHS = struct.Struct(">I").pack, struct.Struct("<HH").pack
_PLAIN = {b"\x08\0\0\0\0": 1, b"\x08\2\0\0\0": 3, b"\x08\6\0\0\0": 4}  # 8 bits, not interlaced → channels
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_ADAM7 = (  # passes of interlaced files: first column, step, first row, step
    (0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2),
)  # fmt: skip
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_ANCILLARY = frozenset({b"tRNS", b"acTL", b"eXIf", b"iTXt", b"tEXt", b"zTXt"})  # no others are read
_MAX_CHUNKS = 20_000  # 160 MB in chunks of 8 kB, the size that libpng writes
_MAX_TEXT = 2**18  # bytes of a text that are searched for an orientation
_SMALL = 4 * 2**20  # bytes of pixels; for larger images Pillow is as fast as OpenCV and takes less memory
_PIECE = 2**20  # bytes that are inflated at a time where only their number matters


def plain_pixels(data: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels of a small plain PNG, uint8 `(H, W, C)`: 8 bits, undamaged, a single IDAT chunk and no other.

    None for any other file; `parse` reads it or raises the reason. At most 100,000 pixels, which no limit is below.
    """
    if len(data) < 57:
        return None
    _, width, height, kind, checksum, _, _ = _HEAD.unpack_from(data)
    if kind not in _PLAIN or not 0 < width * height <= LEAST or crc32(data[12:29]) != checksum:
        return None
    raw = inflated_rows(data, data[:_IHDR_END], width * _PLAIN[kind] + 1, height)
    return None if raw is None else decode_inflated(data[:_IHDR_END], raw)


def start_of(width: int, height: int, kind: bytes) -> bytes:
    """Signature and IHDR chunk. `kind`: bit depth, colour type and three zeros."""
    header = b"IHDR" + _NUMBER(width) + _NUMBER(height) + kind
    return _START[:12] + header + _NUMBER(crc32(header))


def inflated_rows(data: bytes, start: bytes, stride: int, height: int) -> bytes | None:
    """The rows of a small plain PNG, each after its filter type; None for any other file.

    Args:
        start: the signature and the undamaged IHDR chunk that the file must have.
        stride: bytes of a row, its filter type included.
    """
    if not data.startswith(start) or data[37:41] != b"IDAT" or not start.startswith(_START):
        return None
    end = 41 + int.from_bytes(data[33:37], "big")
    if data[end + 4 :] != _END or crc32(data[37:end]) != int.from_bytes(data[end : end + 4], "big"):
        return None
    inflater = decompressobj()
    try:
        raw = inflater.decompress(data[41:end], stride * height)
    except zlib.error:
        return None
    if len(raw) != stride * height or not inflater.eof or raw[::stride].strip(_FILTERS):
        return None
    return raw


def decode_inflated(head: bytes, raw: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode inflated rows with OpenCV, from a PNG that stores them uncompressed, so that no data can be missing.

    Args:
        head: signature and IHDR chunk.
        raw: all rows, each after its filter type, which is one of `_FILTERS`.
    """
    blocks = _stored_block(_LAST_BLOCK, raw) if len(raw) <= _STORED_BYTES else _stored_blocks(raw)
    body = b"IDAT\x78\1" + blocks + _NUMBER(adler32(raw))
    file = head + _NUMBER(len(body) - 4) + body + _NUMBER(crc32(body)) + _END
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if pixels is None else rgb_order(pixels)


def _stored_block(kind: bytes, content: bytes) -> bytes:
    """A block of a deflate stream without compression (RFC 1951, 3.2.4)."""
    return kind + _LENGTHS(len(content), len(content) ^ 0xFFFF) + content


def _stored_blocks(raw: bytes) -> bytes:
    pieces = [raw[start : start + _STORED_BYTES] for start in range(0, len(raw), _STORED_BYTES)]
    kinds = [_MORE_BLOCKS] * (len(pieces) - 1) + [_LAST_BLOCK]
    return b"".join(_stored_block(kind, piece) for kind, piece in zip(kinds, pieces, strict=True))


def size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or not data.startswith(_START):
        raise damaged("it has no PNG header")
    width, height = struct.unpack_from(">II", data, 16)
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise damaged(f"it declares {width}x{height} pixels")
    return width, height


@dataclass(frozen=True)
class _Png(Header):
    head: bytes = b""  # signature and IHDR chunk
    depth: int = 8
    colour: int = 0
    interlaced: bool = False
    palette: bytes = b""
    transparency: bytes = b""
    body: bytes = b""
    expected: int = 0  # bytes of the inflated data

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        if self.depth == 16 and self.colour != 0:
            return self._deep_colour(), ()
        plain = self.depth == 8 and self.colour in (0, 2, 6) and not self.interlaced and not self.transparency
        if plain and self.expected <= _SMALL:
            raw = _inflated(self.body, self.expected)
            if raw[:: self.expected // self.height].strip(_FILTERS):
                raise damaged("its pixels have an unknown filter type")
            pixels = decode_inflated(self.head, raw)
            if pixels is not None:
                return pixels, ()
        from PIL import PngImagePlugin

        with PngImagePlugin.PngImageFile(io.BytesIO(self._file())) as image:
            image.load()
            return pillow_pixels(image)

    def _deep_colour(self) -> Array:
        """16-bit colours as uint16. Pillow would keep only the upper 8 bits."""
        _check(self.body, self.expected, 0 if self.interlaced else self.expected // self.height)
        pixels = cv2.imdecode(np.frombuffer(self._file(), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (self.height, self.width):
            raise damaged("its pixels cannot be decoded")
        return rgb_order(pixels)

    def _file(self) -> bytes:
        """A PNG with only the chunks that carry pixels."""
        chunks = [(b"PLTE", self.palette), (b"tRNS", self.transparency), (b"IDAT", self.body)]
        parts = [self.head]
        for kind, content in chunks:
            if content:
                checksum = crc32(content, crc32(kind))
                parts += [len(content).to_bytes(4, "big"), kind, content, checksum.to_bytes(4, "big")]
        return b"".join([*parts, _END])


def parse(data: bytes) -> Header:
    width, height = size(data)
    depth, colour, compression, filtering, interlace = data[24:29]
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise damaged("its header has invalid values")
    chunks = _chunks(data)
    palette = chunks.get(b"PLTE", b"") if colour in (2, 3) else b""
    if colour == 3 and not (3 <= len(palette) <= 768 and len(palette) % 3 == 0):
        raise damaged("its palette is missing")
    transparency = chunks.get(b"tRNS", b"")
    if not {0: len(transparency) >= 2, 2: len(transparency) >= 6, 3: len(transparency) <= 256}.get(colour, False):
        transparency = b""
    body = chunks[b"IDAT"]
    return _Png(
        width,
        height,
        _memory(width * height, depth, colour, bool(transparency)) + len(body),
        _orientation(chunks),
        (FIRST_FRAME,) if b"acTL" in chunks else (),
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
    """The content of the chunks that are read: the first of each type, and all IDAT joined. Raises DecodeError."""
    chunks: dict[bytes, bytes] = {}
    body: list[bytes] = []
    position, view = 8, memoryview(data)
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            break  # the IEND chunk is missing, but the pixels may be complete
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 8 + length
        if not (kind.isalpha() and kind.isascii()):
            break
        critical = not kind[0] & 0x20
        if critical and kind not in _CRITICAL:
            raise DecodeError(
                f"is a PNG with a {kind.decode()} chunk, which the PNG standard does not have: save it again as PNG"
            )
        if end + 4 > len(data):
            if critical:
                raise damaged("it ends in the middle of its pixels")
            break
        if critical or (kind in _ANCILLARY and kind not in chunks):
            intact = crc32(view[position + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
            if critical and not intact:
                raise DecodeError("is damaged (a checksum is wrong): get the file again")
            if kind == b"IDAT":
                body.append(data[position + 8 : end])
            elif intact and _is_wanted(kind, data[position + 8 : position + 48]):
                chunks.setdefault(kind, data[position + 8 : end])
        if kind == b"IEND":
            break
        position = end + 4
    else:
        raise DecodeError(f"is a PNG of more than {_MAX_CHUNKS:,} chunks: save it again")
    if not body:
        raise damaged("it has no pixels")
    return chunks | {b"IDAT": body[0] if len(body) == 1 else b"".join(body)}


_EXIF_KEYWORDS = (b"Raw profile type exif\0", b"Raw profile type APP1\0")  # of texts in which ImageMagick keeps EXIF
_XMP = b"XML:com.adobe.xmp\0"


def _is_wanted(kind: bytes, start: bytes) -> bool:
    """Whether an ancillary chunk is read: of texts, only those that may hold an orientation."""
    if kind == b"iTXt":
        return start.startswith(_XMP)
    return kind not in (b"tEXt", b"zTXt") or start.startswith(_EXIF_KEYWORDS)


def _orientation(chunks: dict[bytes, bytes]) -> int:
    """EXIF's orientation, from the first chunk that has one: eXIf, zTXt, tEXt, iTXt."""
    value = exif_orientation(chunks.get(b"eXIf", b""))
    for kind in (b"zTXt", b"tEXt"):
        if value is None and kind in chunks:
            text = chunks[kind].split(b"\0", 1)[1]
            text = _inflated_text(text[1:]) if kind == b"zTXt" else text[:_MAX_TEXT]
            try:
                value = exif_orientation(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
            except ValueError:
                value = None
    if value is None and b"iTXt" in chunks:
        fields = chunks[b"iTXt"].removeprefix(_XMP)
        packet = fields[2:].split(b"\0", 2)[-1]  # after the language and the translated keyword
        value = xmp_orientation(_inflated_text(packet) if fields[:1] == b"\1" else packet)
    return value or UPRIGHT


def _inflated_text(compressed: bytes) -> bytes:
    try:
        return decompressobj().decompress(compressed, _MAX_TEXT)
    except zlib.error:
        return b""


def _expected(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of all rows, each after its filter type (PNG specification, 7.2 and 8.2)."""
    sizes = [(width, height)]
    if interlaced:
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, dx, y, dy in _ADAM7]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _memory(pixels: int, depth: int, colour: int, transparent: bool) -> int:
    """Peak bytes of decoding."""
    if depth == 16 and colour != 0:  # OpenCV's 16-bit pixels twice, because it copies them for Python
        return pixels * (13 if colour == 2 and not transparent else 17)
    pillow_bytes = {0: 2 if depth == 16 else 1, 2: 4, 3: 1, 4: 4, 6: 4}[colour]  # per pixel
    array_bytes = 4 if transparent or colour in (4, 6) else 3 if colour in (2, 3) else 2 if depth == 16 else 1
    return pixels * (pillow_bytes + array_bytes)


def _inflated(body: bytes, expected: int) -> bytes:
    try:
        raw = decompressobj().decompress(body, expected)
    except zlib.error as error:
        raise damaged(str(error)) from None
    if len(raw) < expected:
        raise damaged("its pixels end early")
    return raw


def _check(body: bytes, expected: int, stride: int) -> None:
    """Raise DecodeError where the data inflate to fewer bytes than the pixels take. Only one piece is held at a time.

    Args:
        stride: bytes of a row, the first of which is its filter type; 0 where rows have several lengths.
    """
    inflater, length = decompressobj(), 0
    try:
        for start in range(0, len(body), _STORED_BYTES):
            piece = body[start : start + _STORED_BYTES]
            while length < expected:
                inflated = inflater.decompress(piece, _PIECE)
                if stride and inflated[-length % stride :: stride].strip(_FILTERS):
                    raise damaged("its pixels have an unknown filter type")
                length, piece = length + len(inflated), inflater.unconsumed_tail
                if not piece and len(inflated) < _PIECE:
                    break
    except zlib.error as error:
        raise damaged(str(error)) from None
    if length < expected:
        raise damaged("its pixels end early")
