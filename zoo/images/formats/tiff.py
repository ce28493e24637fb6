"""TIFF: the image of the first directory, in strips or tiles, assembled here from bytes whose number is known.

A TIFF may declare more rows than its compressed data hold. TIFF decoders then return memory that was never written, so
none of them decodes pixels here. Strips are sliced (no compression), inflated (deflate), or decompressed by Pillow's
libtiff as grey bytes (LZW, PackBits), which raises an error for short data. A strip that holds a JPEG is decoded like
any JPEG, once its own header is known to cover the strip. Samples, predictors, palettes and alpha are applied here.
CCITT fax coding is refused, because libtiff does not report which rows it filled.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import cv2
import numpy as np

from zoo.images.formats import jpeg
from zoo.images.formats.common import (
    FIRST_FRAME,
    FROM_CMYK,
    UPRIGHT,
    Array,
    DecodeError,
    Header,
    damaged,
    pillow_pixels,
    strips,
    to_8_bits,
)

_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG: the types of the tags below
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS, _PLANAR = 273, 274, 277, 278, 279, 284
_PREDICTOR, _PALETTE, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 317, 320, 322, 323, 324, 325
_EXTRA, _FORMAT, _JPEG_TABLES = 338, 339, 347
_READ_TAGS = frozenset({
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS,
    _PLANAR, _PREDICTOR, _PALETTE, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _FORMAT,
})  # fmt: skip
_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 7, 8, 32946, 32773
_READ = frozenset({_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACKBITS})
_NOT_READ = {2: "CCITT fax coding", 3: "CCITT Group 3 fax coding", 4: "CCITT Group 4 fax coding", 6: "old-style JPEG",
             34712: "JPEG 2000", 34925: "LZMA compression", 50000: "Zstandard compression", 50001: "WebP"}  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _INDEXED, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _INDEXED: 1, _CMYK: 4, _YCBCR: 3}  # samples
_REDUCED_OR_MASK = 0b101  # bits of NewSubfileType: the directory is a smaller copy or a mask of another page
_ASSOCIATED, _ALPHA, _COREL = 1, 2, 999  # ExtraSamples: premultiplied alpha, plain alpha, Corel Draw's plain alpha
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # SampleFormat; 4 is "undefined"
_DEPTHS = {"u": {1, 2, 4, 8, 12, 16, 32}, "i": {8, 16, 32}, "f": {16, 32, 64}}
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3  # predictors
_FIRST = 4  # where the place of the first directory is written
_MAX_TAGS = 4_096
_MAX_CHUNKS = 16_384  # strips or tiles: 20 µs of work each, in addition to their pixels
_MAX_JPEGS = 2_000  # strips or tiles with a JPEG each: 0.1 ms of work each, in addition to their pixels
_MAX_SEGMENTS = 100  # of each JPEG
_MAX_TABLES = 2**16  # bytes of the tables that all JPEGs share
_BATCH = 4 * 2**20  # bytes that are decompressed at a time, unless a single strip has more
_PIECE = 2**16  # compressed bytes that are inflated at a time
_MCU = 32  # pixels per side of the largest unit that JPEG codes: a frame may be rounded up to it
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def size(data: bytes) -> tuple[int, int]:
    return _dimensions(_directory(data, frozenset({_WIDTH, _HEIGHT})))


def _dimensions(tags: dict[int, tuple[int, ...]]) -> tuple[int, int]:
    width, height = tags.get(_WIDTH, (0,))[0], tags.get(_HEIGHT, (0,))[0]
    if not width or not height:
        raise damaged(f"it declares {width}x{height} pixels")
    return width, height


def _order(data: bytes) -> str:
    """The byte order, as in `struct`."""
    if data[2:4] in (b"+\0", b"\0+"):
        raise DecodeError("is a BigTIFF, which is not supported: save it as TIFF or PNG")
    return "<" if data.startswith(b"II") else ">"


def _directory(data: bytes, wanted: frozenset[int] = _READ_TAGS, pointer: int = _FIRST) -> dict[int, tuple[int, ...]]:
    """The values of some tags of the directory whose place is written at `pointer`."""
    order = _order(data)
    if len(data) < pointer + 4:
        raise damaged("it ends before the image data")
    (start,) = struct.unpack_from(order + "I", data, pointer)
    if start + 2 > len(data):
        raise damaged("it ends before the image data")
    (count,) = struct.unpack_from(order + "H", data, start)
    if count > _MAX_TAGS or start + 2 + 12 * count > len(data):
        raise damaged(f"its directory declares {count:,} entries")
    tags: dict[int, tuple[int, ...]] = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, place)
        if tag in wanted and tag not in tags and kind in _TYPES and 0 < number <= 4 * _MAX_CHUNKS:
            layout = f"{order}{number}{_TYPES[kind]}"
            at = place + 8 if struct.calcsize(layout) <= 4 else struct.unpack_from(order + "I", data, place + 8)[0]
            if at + struct.calcsize(layout) > len(data):
                raise damaged("its directory points beyond its end")
            tags[tag] = struct.unpack_from(layout, data, at)
        elif tag == _JPEG_TABLES:
            (at,) = struct.unpack_from(order + "I", data, place + 8)
            tags.setdefault(tag, (at, number))
    return tags


def _has_more_pages(data: bytes) -> bool:
    """Whether the directory after the first one is a page of its own. The chain is not followed any further."""
    order = _order(data)
    (first,) = struct.unpack_from(order + "I", data, _FIRST)
    (count,) = struct.unpack_from(order + "H", data, first)
    pointer = first + 2 + 12 * count
    if data[pointer : pointer + 4] in (bytes(4), data[_FIRST : _FIRST + 4]):  # the end of the chain, or a loop
        return False
    try:
        tags = _directory(data, frozenset({_SUBFILE, _WIDTH}), pointer)
    except DecodeError:  # damage beyond the first page
        return False
    return _WIDTH in tags and not tags.get(_SUBFILE, (0,))[0] & _REDUCED_OR_MASK


@dataclass(frozen=True)
class _Tiff(Header):
    """The first directory. A chunk is a strip or tile; a plane's last strip may have fewer rows, tiles may overhang."""

    data: bytes = b""
    order: str = "<"
    bits: int = 8  # of a sample
    kind: str = "u"  # of a sample: unsigned, signed ("i") or float ("f")
    samples: int = 1  # per pixel, including ignored ones
    planar: bool = False  # each sample has a plane of its own
    compression: int = _NONE
    photometric: int = _BLACK_IS_ZERO
    predictor: int = 1
    flipped: bool = False  # bits of a byte in reverse order
    alpha: int | None = None  # the value of ExtraSamples where a sample is alpha
    palette: tuple[int, ...] = ()
    tables: bytes = b""  # that all JPEGs share
    tiled: bool = False
    chunk: tuple[int, int] = (0, 0)  # width and height of a chunk
    chunks: tuple[tuple[int, int], ...] = ()  # offset and bytes of each, plane by plane

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        corrections: tuple[str, ...] = ()
        if self.compression == _JPEG:
            values = self._from_jpegs()
        elif self.photometric == _INDEXED:
            return self._apply_palette(self._values()[:, :, 0]), ()
        else:
            values, corrections = to_8_bits(self._values())
            if self.bits < 8:
                values *= np.uint8(255 // (2**self.bits - 1))
        if self.photometric == _WHITE_IS_ZERO:
            np.subtract(255, values[:, :, :1], out=values[:, :, :1])
        if self.photometric == _CMYK:
            return _from_cmyk(values), (*corrections, FROM_CMYK)
        if self.alpha == _ASSOCIATED:
            _unmultiply(values)
        if values.shape[2] == 2:
            values = values[:, :, [0, 0, 0, 1]]
        return values, corrections

    def memory_needed(self) -> int:
        """Peak bytes: the values, plus the larger of their converted copy and the chunks being decompressed."""
        pixels, size = self.width * self.height, -(-self.bits // 8)
        converted = {_INDEXED: 3, _CMYK: 3}.get(self.photometric, 4 if self.used == 2 else 0)
        copy = pixels * (converted + (self.used if size > 1 or self.kind == "f" else 0))
        chunk = self._stride * self.chunk[1]
        decompressed = {_LZW: 3 * chunk, _PACKBITS: 3 * chunk, _JPEG: 7 * self.chunk[0] * self.chunk[1]}
        return pixels * self.used * size + max(copy, decompressed.get(self.compression, 0)) + 4 * _BATCH

    @property
    def used(self) -> int:
        """Samples per pixel that are not ignored."""
        return _COLOURS[self.photometric] + (self.alpha is not None)

    @property
    def _interleaved(self) -> int:
        """Samples per pixel in one chunk."""
        return 1 if self.planar else self.samples

    @property
    def _stride(self) -> int:
        """Bytes of a row of a chunk."""
        return (self.chunk[0] * self._interleaved * self.bits + 7) // 8

    def _places(self) -> Iterator[_Place]:
        """The places of all chunks that are read, in order."""
        across, down = -(-self.width // self.chunk[0]), -(-self.height // self.chunk[1])
        for index in range(across * down * (self.used if self.planar else 1)):
            plane, cell = divmod(index, across * down)
            top = cell // across * self.chunk[1]
            rows = self.chunk[1] if self.tiled else min(self.chunk[1], self.height - top)
            yield _Place(index, plane, cell % across * self.chunk[0], top, rows)

    def _values(self) -> Array:
        """`(H, W, samples)` in the samples' own dtype, or uint8 for fewer than 8 bits. Every value is written."""
        dtype = "u1" if self.bits < 8 else f"{self.kind}{-(-self.bits // 8)}"
        values = np.empty((self.height, self.width, self.used), dtype)
        for place, first, packed in self._blocks():
            top = place.top + first
            if top >= self.height:
                continue  # the part of a tile below the image
            block = self._unpacked(packed[: self.height - top])[:, : self.width - place.left]
            at = slice(top, top + len(block)), slice(place.left, place.left + block.shape[1])
            if self.planar:
                values[(*at, place.plane)] = block[:, :, 0]
            else:
                values[at] = block[:, :, : self.used]
        return values

    def _blocks(self) -> Iterator[tuple[_Place, int, Array]]:
        """Parts of all chunks: the chunk, the part's first row in it, and uint8 `(rows, bytes per row)`."""
        step = max(1, _BATCH // max(self._stride, self.chunk[0] * self._interleaved))
        if self.compression in (_LZW, _PACKBITS):
            for batch in self._batches(step):
                strips = [self._content(place) for place in batch]
                rows = _decompressed(self.compression, self._stride, [place.rows for place in batch], strips)
                for place in batch:
                    for first in range(0, place.rows, step):
                        yield place, first, rows[first : min(first + step, place.rows)]
                    rows = rows[place.rows :]
            return
        for place in self._places():
            read = self._slices(place) if self.compression == _NONE else _inflated(self._content(place))
            for first in range(0, place.rows, step):
                count = min(step, place.rows - first)
                part = read(count * self._stride)
                if len(part) < count * self._stride:
                    raise damaged("a strip holds fewer rows than it declares")
                yield place, first, np.frombuffer(part, np.uint8).reshape(count, self._stride)

    def _batches(self, step: int) -> Iterator[list[_Place]]:
        """Groups of chunks with about `step` rows in total, of equal height except for the last chunk."""
        batch: list[_Place] = []
        for place in self._places():
            batch.append(place)
            if len(batch) * self.chunk[1] >= step or place.rows < self.chunk[1]:
                yield batch
                batch = []
        if batch:
            yield batch

    def _content(self, place: _Place) -> bytes:
        """A chunk's compressed bytes."""
        offset, length = self.chunks[place.number]
        content = self.data[offset : offset + length]
        return content.translate(_REVERSED) if self.flipped else content

    def _slices(self, place: _Place) -> Callable[[int], bytes]:
        """A function that reads a number of bytes of an uncompressed chunk."""
        file = io.BytesIO(self.data)
        file.seek(self.chunks[place.number][0])
        return (lambda count: file.read(count).translate(_REVERSED)) if self.flipped else file.read

    def _unpacked(self, packed: Array) -> Array:
        """uint8 `(rows, bytes)` → samples `(rows, columns, samples per pixel)`, with the predictor undone."""
        rows, samples = len(packed), self._interleaved
        count = self.chunk[0] * samples
        if self.predictor == _FLOAT_DIFFERENCES:  # Adobe Photoshop TIFF Technical Note 3
            summed = np.cumsum(packed.reshape(rows, -1, samples), axis=1, dtype=np.uint8)
            bytewise = summed.reshape(rows, self.bits // 8, count).transpose(0, 2, 1)
            return np.ascontiguousarray(bytewise).view(f">f{self.bits // 8}").reshape(rows, -1, samples)
        if self.bits < 8:
            per_byte = 8 // self.bits
            shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * np.uint8(self.bits)
            values = (packed[:, :, np.newaxis] >> shifts & np.uint8(2**self.bits - 1)).reshape(rows, -1)[:, :count]
        elif self.bits == 12:
            wide = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 3))).reshape(rows, -1, 3).astype(np.uint16)
            pairs = [wide[:, :, 0] << 4 | wide[:, :, 1] >> 4, (wide[:, :, 1] & 15) << 8 | wide[:, :, 2]]
            values = np.stack(pairs, axis=2).reshape(rows, -1)[:, :count]
        else:
            values = packed.view(f"{self.order}{self.kind}{self.bits // 8}")
        values = values.reshape(rows, -1, samples)
        if self.predictor == _DIFFERENCES:  # of the raw bits, for floats too
            size = self.bits // 8
            summed = np.cumsum(values.view(f"{self.order}u{size}"), axis=1, dtype=f"u{size}")
            values = summed.view(f"{self.kind}{size}")
        return np.asarray(values)

    def _apply_palette(self, indices: Array) -> Array:
        table = np.array(self.palette, np.uint16).reshape(3, -1).T >> 8
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        for rows in strips(pixels):
            pixels[rows] = table.astype(np.uint8)[indices[rows]]
        return pixels

    def _from_jpegs(self) -> Array:
        pixels = np.empty((self.height, self.width, self.used), np.uint8)
        for place in self._places():
            content = self._one_jpeg(place)
            frame = jpeg.read_frame(content, _MAX_SEGMENTS)
            if frame.progressive:
                raise DecodeError("is a TIFF with progressive JPEG inside, which is not supported: save it as PNG")
            whole = self.chunk[0] <= frame.width <= self.chunk[0] + _MCU and place.rows <= frame.height
            if not whole or frame.height > self.chunk[1] + _MCU or frame.components != self._interleaved:
                raise damaged("a JPEG inside does not have the declared size")
            block = jpeg.decode(content, frame)[0][: min(place.rows, self.height - place.top)]
            block = block[:, : self.width - place.left]
            at = slice(place.top, place.top + len(block)), slice(place.left, place.left + block.shape[1])
            if self.planar:
                pixels[(*at, place.plane)] = block[:, :, 0]
            else:
                pixels[at] = block
        return pixels

    def _one_jpeg(self, place: _Place) -> bytes:
        """A chunk's JPEG, with the shared tables, and an Adobe segment that declares its colour space."""
        offset, length = self.chunks[place.number]
        colours = bytes([self.photometric == _YCBCR])
        adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + colours if self._interleaved == 3 else b""
        return b"".join([b"\xff\xd8", self.tables[2:-2], adobe, self.data[offset + 2 : offset + length]])


class _Place(NamedTuple):
    """The position of a strip or tile."""

    number: int  # in the file
    plane: int
    left: int
    top: int
    rows: int


def _inflated(content: bytes) -> Callable[[int], bytes]:
    """A function that reads a number of bytes of the inflated content."""
    inflater, position = zlib.decompressobj(), 0

    def read(count: int) -> bytes:
        nonlocal position
        parts: list[bytes] = []
        while count > 0:
            piece = inflater.unconsumed_tail or content[position : (position := position + _PIECE)]
            try:
                part = inflater.decompress(piece, count)
            except zlib.error as error:
                raise damaged(str(error)) from None
            if not piece and not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    return read


def _decompressed(compression: int, stride: int, rows: list[int], strips: list[bytes]) -> Array:
    """Decompress strips with libtiff, which raises an error for short data: uint8 `(sum(rows), stride)`.

    libtiff gets a new TIFF of grey bytes that consists of these strips.

    Args:
        stride: bytes per row.
        rows: number of rows of each strip.
    """
    from PIL import TiffImagePlugin

    count, body = len(strips), b"".join(strips)
    ends = list(accumulate(map(len, strips), initial=8))
    directory = 8 + len(body) + len(body) % 2
    tables = directory + 2 + 12 * 9 + 4
    entries = [
        (_WIDTH, 1, stride), (_HEIGHT, 1, sum(rows)), (_BITS, 1, 8), (_COMPRESSION, 1, compression),
        (_PHOTOMETRIC, 1, _BLACK_IS_ZERO), (_OFFSETS, count, ends[0] if count == 1 else tables), (_SAMPLES, 1, 1),
        (_ROWS, 1, rows[0]), (_COUNTS, count, len(body) if count == 1 else tables + 4 * count),
    ]  # fmt: skip
    file = b"".join([
        b"II*\0", struct.pack("<I", directory), body, b"\0" * (len(body) % 2), struct.pack("<H", len(entries)),
        *(struct.pack("<HHII", tag, 4, number, value) for tag, number, value in entries), bytes(4),
        struct.pack(f"<{count}I", *ends[:-1]), struct.pack(f"<{count}I", *map(len, strips)),
    ])  # fmt: skip
    with TiffImagePlugin.TiffImageFile(io.BytesIO(file)) as image:
        image.load()
        return pillow_pixels(image)[0][:, :, 0]


def _from_cmyk(values: Array) -> Array:
    from PIL import Image

    pixels = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in strips(values):
        strip = np.ascontiguousarray(values[rows])
        image = Image.frombuffer("CMYK", strip.shape[1::-1], strip, "raw", "CMYK", 0, 1)
        pixels[rows] = np.asarray(image.convert("RGB"))
    return pixels


def _unmultiply(pixels: Array) -> None:
    """Divide the colours by the alpha that they were multiplied with, in place."""
    for rows in strips(pixels):
        *colours, alpha = cv2.split(np.ascontiguousarray(pixels[rows]))
        divided = [cv2.divide(colour, alpha, scale=255) for colour in colours]  # 0 where alpha is 0
        pixels[rows] = cv2.merge([*divided, alpha])


def parse(data: bytes) -> Header:
    tags = _directory(data)
    width, height = _dimensions(tags)

    def value(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    compression, photometric = value(_COMPRESSION, _NONE), value(_PHOTOMETRIC, _WHITE_IS_ZERO)
    if compression not in _READ:
        name = _NOT_READ.get(compression, f"an unknown compression ({compression})")
        raise DecodeError(f"is a TIFF with {name}, which is not supported: save it as PNG")
    samples, colours = value(_SAMPLES, 1), _COLOURS.get(photometric, 0)
    bits, kind = _sample(tags, samples)
    supported = photometric != _INDEXED or (bits <= 8 and kind == "u")
    if compression == _JPEG:
        supported = (bits, kind, samples) == (8, "u", colours) and photometric not in (_INDEXED, _CMYK)
    elif photometric == _YCBCR:
        supported = False
    planar = value(_PLANAR, 1) == 2 and samples > 1
    if not (supported and 0 < colours <= samples <= 8) or (planar and photometric == _YCBCR):
        raise DecodeError(
            f"is an unusual TIFF (photometric interpretation {photometric}, {samples} samples of {bits} bits), "
            "which is not supported: save it as PNG"
        )
    predictor = value(_PREDICTOR, 1) if compression in (_LZW, _DEFLATE, _OLD_DEFLATE) else 1
    if (
        predictor != 1
        and not (predictor == _DIFFERENCES and bits in (8, 16, 32))
        and not (predictor == _FLOAT_DIFFERENCES and kind == "f")
    ):
        raise DecodeError(
            f"is a TIFF with predictor {predictor} for {bits} bits, which is not supported: save it as PNG"
        )
    alpha = None
    if samples > colours and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        meaning = value(_EXTRA, _ALPHA if photometric == _RGB else 0)
        alpha = {_ASSOCIATED: _ASSOCIATED, _ALPHA: _ALPHA, _COREL: _ALPHA}.get(meaning)
    palette = tags.get(_PALETTE, ()) if photometric == _INDEXED else ()
    if photometric == _INDEXED and len(palette) != 3 * 2**bits:
        raise damaged("its palette is missing")
    tiled = _TILE_OFFSETS in tags
    strip = width, min(value(_ROWS, height) or height, height)
    tables = b""
    if _JPEG_TABLES in tags:
        start, length = tags[_JPEG_TABLES]
        if length > _MAX_TABLES:
            raise damaged(f"its JPEG tables have {length:,} bytes")
        tables = data[start : start + length]
    header = _Tiff(
        width,
        height,
        0,
        value(_ORIENTATION, UPRIGHT) if 1 <= value(_ORIENTATION, UPRIGHT) <= 8 else UPRIGHT,
        (FIRST_FRAME,) if _has_more_pages(data) else (),
        data=data,
        order=_order(data),
        bits=bits,
        kind=kind,
        samples=samples,
        planar=planar,
        compression=compression,
        photometric=photometric,
        predictor=predictor,
        flipped=value(_FILL_ORDER, 1) == 2,
        alpha=alpha,
        palette=palette,
        tables=tables,
        tiled=tiled,
        chunk=(value(_TILE_WIDTH, 0), value(_TILE_HEIGHT, 0)) if tiled else strip,
    )
    return replace(header, chunks=_chunks(header, tags), memory=header.memory_needed())


def _sample(tags: dict[int, tuple[int, ...]], samples: int) -> tuple[int, str]:
    """Bits of a sample, and its kind: `u`, `i` or `f`. All samples of a pixel must be alike."""
    bits, formats = set(tags.get(_BITS, (1,))[:samples]), set(tags.get(_FORMAT, (1,))[:samples])
    kind = _KINDS.get(min(formats)) if len(formats) == 1 else None
    if len(bits) > 1 or min(bits) not in _DEPTHS.get(kind or "", ()):
        raise DecodeError("is a TIFF with an unusual sample format, which is not supported: save it as PNG")
    return min(bits), str(kind)


def _chunks(header: _Tiff, tags: dict[int, tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    """Offset and length of each strip or tile that is read. Raises DecodeError where there are too few or too many."""
    columns, rows = header.chunk
    if not columns or not rows:
        raise damaged(f"it declares tiles of {columns}x{rows} pixels")
    across, down = -(-header.width // columns), -(-header.height // rows)
    count = across * down * (header.used if header.planar else 1)
    limit = _MAX_JPEGS if header.compression == _JPEG else _MAX_CHUNKS
    if count > limit:
        raise DecodeError(f"is a TIFF of more than {limit:,} strips or tiles: save it as PNG")
    if across * down * columns * rows > 4 * header.width * header.height + _BATCH:
        raise DecodeError(f"is a TIFF with tiles of {columns}x{rows}, much larger than the image: save it as PNG")
    offsets = tags.get(_TILE_OFFSETS if header.tiled else _OFFSETS, ())
    lengths = tags.get(_TILE_COUNTS if header.tiled else _COUNTS, ())
    if not lengths and (header.compression == _NONE or count == 1):
        lengths = (len(header.data),) * count
    if len(offsets) < count or len(lengths) < count:
        raise damaged("it declares fewer strips than its image has")
    chunks = tuple(zip(offsets[:count], lengths[:count], strict=True))
    used_bytes = sum(min(length, len(header.data)) for _, length in chunks)
    if header.compression != _NONE and used_bytes > 2 * len(header.data):
        raise damaged("its strips overlap")  # which would let a small file cause a lot of work
    return chunks
