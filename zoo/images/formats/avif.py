"""AVIF stills: every coded item is measured before Pillow's libavif gets the file.

Decoders ignore the size in a box (`ispe`): the AV1 stream has a size of its own, up to 65536x65536, and may contain
hidden frames that are decoded and never shown. So the sequence headers of the streams are read (AV1 specification, 5.5)
and their frames counted. Metadata items are blanked, because Pillow would parse EXIF of any size. Animations are
refused.
"""

from __future__ import annotations  # faster start: annotations stay unevaluated

import io
import struct
from collections.abc import Iterator

from zoo.dataclass import dataclass
from zoo.errors import reason
from zoo.images.formats.common import Array, DecodeError, Header, damaged, pillow_pixels

_MAX_BOXES = 1_000
_MAX_META = 2**20  # bytes, including a colour profile
_MAX_EXTENTS = 1_100  # items and their extents: a grid has at most 256 cells, each possibly with alpha
_MAX_UNITS = 1_000  # of a stream
_MAX_SEQUENCE_HEADER = 1_024  # bytes that are read; 32 operating points take 400
_BYTES_PER_PIXEL = 28  # 12-bit 4:4:4 planes, twice with film grain; RGBA of libavif, of Pillow and in our array
_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # types of AV1 units (OBU)


def size(data: bytes) -> tuple[int, int]:
    """The size of the largest declared item."""
    sizes = [struct.unpack_from(">II", data, start + 4) for start in _meta(data).sizes]
    if not sizes:
        raise damaged("it declares no image size")
    width, height = max(sizes, key=lambda pair: pair[0] * pair[1])
    if not width or not height:
        raise damaged(f"it declares {width}x{height} pixels")
    return width, height


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, and start and end of the content, of each box (ISO 14496-12, 4.2)."""
    for _ in range(_MAX_BOXES):
        if start + 8 > stop:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1 and start + 16 <= stop:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            content = start + 16
        end = start + length if length else stop
        if not content <= end <= stop:
            raise damaged("it ends in the middle of the image data")
        yield kind, content, end
        start = end
    raise DecodeError(f"is an AVIF of more than {_MAX_BOXES:,} boxes: save it again")


@dataclass(frozen=True)
class _Meta:
    """The meta box. Numbers are positions in the file."""

    sizes: tuple[int, ...]  # of `ispe` boxes
    kinds: dict[int, tuple[bytes, int]]  # item → its type, and the position of the type
    spans: dict[int, list[tuple[int, int]]]  # item → start and end of its data


def _meta(data: bytes) -> _Meta:
    top = list(_boxes(data, 0, len(data)))
    if data[8:12] == b"avis" or any(kind == b"moov" for kind, _, _ in top):
        raise DecodeError("is an animated AVIF, which is not supported: save its first frame as PNG")
    metas = [(start, end) for kind, start, end in top if kind == b"meta"]
    if len(metas) != 1:
        raise damaged("it has no meta box")
    start, end = metas[0]
    if end - start > _MAX_META:
        raise DecodeError(f"is an AVIF with more than {_MAX_META:,} bytes of headers: save it again")
    inside = {kind: (begin, stop) for kind, begin, stop in _boxes(data, start + 4, end)}
    sizes: list[int] = []
    for kind, begin, stop in _boxes(data, *inside.get(b"iprp", (0, 0))):
        if kind == b"ipco":
            sizes += [at for kind, at, last in _boxes(data, begin, stop) if kind == b"ispe" and last - at >= 12]
    return _Meta(tuple(sizes), _kinds(data, *inside.get(b"iinf", (0, 0))), _spans(data, inside))


def _kinds(data: bytes, start: int, end: int) -> dict[int, tuple[bytes, int]]:
    """The items' types, from the item information box (ISO 14496-12, 8.11.6)."""
    kinds: dict[int, tuple[bytes, int]] = {}
    if end - start < 6:
        return kinds
    for kind, begin, stop in _boxes(data, start + (6 if data[start] == 0 else 8), end):
        if kind == b"infe" and stop - begin >= 14 and data[begin] in (2, 3):
            wide = data[begin] == 3
            number = int.from_bytes(data[begin + 4 : begin + (8 if wide else 6)], "big")
            at = begin + (10 if wide else 8)
            kinds[number] = data[at : at + 4], at
    return kinds


def _spans(data: bytes, inside: dict[bytes, tuple[int, int]]) -> dict[int, list[tuple[int, int]]]:
    """Start and end of each item's data, from the item location box (ISO 14496-12, 8.11.3)."""
    spans: dict[int, list[tuple[int, int]]] = {}
    if b"iloc" not in inside:
        return spans
    position, end = inside[b"iloc"]
    version, widths = data[position], data[position + 4 : position + 6]
    offset_bytes, length_bytes, base_bytes = widths[0] >> 4, widths[0] & 15, widths[1] >> 4
    index_bytes = widths[1] & 15 if version in (1, 2) else 0
    position += 6

    def number(count: int) -> int:
        nonlocal position
        position += count
        if position > end:
            raise damaged("its list of items is cut short")
        return int.from_bytes(data[position - count : position], "big")

    items, total_extents = number(4 if version == 2 else 2), 0
    for _ in range(items):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)
        base, extents = number(base_bytes), number(2)
        total_extents += 1 + extents
        if method > 1 or total_extents > _MAX_EXTENTS:
            raise DecodeError("is an AVIF with an unusual data layout, which is not supported: save it as PNG")
        if method == 1:
            base += inside.get(b"idat", (len(data), 0))[0]
        for _ in range(extents):
            number(index_bytes)
            begin = base + number(offset_bytes)
            length = number(length_bytes)
            spans.setdefault(item, []).append((begin, begin + length if length else len(data)))
    return spans


def parse(data: bytes) -> Header:
    width, height = size(data)
    meta = _meta(data)
    streams = {item: spans for item, spans in meta.spans.items() if meta.kinds.get(item, (b"", 0))[0] == b"av01"}
    if not streams:
        raise damaged("it has no AV1 image")
    ends = [(min(begin, len(data)), min(end, len(data))) for spans in streams.values() for begin, end in spans]
    if sum(end - begin for begin, end in ends) > len(data):
        raise damaged("its items overlap")
    coded = sum(_coded_pixels(b"".join(data[begin:end] for begin, end in spans)) for spans in streams.values())
    file = bytearray(data)
    for kind, at in meta.kinds.values():
        if kind in (b"Exif", b"mime"):
            file[at : at + 4] = b"skip"
    pixels = max(width * height, coded)
    return _Avif(width, height, _BYTES_PER_PIXEL * pixels + len(data), file=bytes(file))


@dataclass(frozen=True)
class _Avif(Header):
    file: bytes = b""  # without metadata

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        from PIL import ImageOps, features

        if not features.check("avif"):
            raise DecodeError(
                "is an AVIF, which the installed Pillow cannot read: install Pillow 11.3 or newer, or save it as PNG"
            )
        from PIL import AvifImagePlugin

        with AvifImagePlugin.AvifImageFile(io.BytesIO(self.file)) as image:
            if image.size[0] * image.size[1] > self.width * self.height:
                raise damaged("its image is larger than it declares")
            image.load()
            try:  # Pillow returns the container's rotation and mirroring as an EXIF orientation
                turned = image.getexif().get(0x0112, 1) in range(2, 9)
            except Exception as error:
                raise damaged(reason(error)) from None
            pixels, corrections = pillow_pixels(ImageOps.exif_transpose(image) if turned else image)
            return pixels, corrections


def _coded_pixels(stream: bytes) -> int:
    """An upper bound on the pixels of all frames that decoding an AV1 stream decodes. Raises DecodeError."""
    position, largest, frames, units = 0, 0, 0, 0
    while position < len(stream):
        units += 1
        if units > _MAX_UNITS:
            raise DecodeError(f"is an AVIF of more than {_MAX_UNITS:,} units: save it again")
        head = stream[position]
        kind, position = head >> 3 & 15, position + 1 + (head >> 2 & 1)
        if head & 0x80:
            raise damaged("its AV1 data are invalid")
        length = len(stream) - position
        if head & 2:
            length, position = _leb128(stream, position)
        if position + length > len(stream):
            raise damaged("it ends in the middle of the image data")
        if kind == _SEQUENCE:
            largest = max(largest, _largest_frame(stream[position : position + min(length, _MAX_SEQUENCE_HEADER)]))
        frames += kind in (_FRAME_HEADER, _FRAME)
        position += length
    if not largest or not frames:
        raise damaged("it has no frames")
    return largest * frames


def _leb128(stream: bytes, position: int) -> tuple[int, int]:
    """A variable-length number, and the position behind it (AV1 specification, 4.10.5)."""
    value = 0
    for at, byte in enumerate(stream[position : position + 8]):
        value |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return value, position + at + 1
    raise damaged("its AV1 data are invalid")


def _largest_frame(header: bytes) -> int:
    """Pixels of the largest frame that a sequence header allows (AV1 specification, 5.5)."""
    bits, position = int.from_bytes(header, "big"), 8 * len(header)

    def read(count: int) -> int:
        nonlocal position
        position -= count
        if position < 0:
            raise damaged("its AV1 data are invalid")
        return bits >> position & (1 << count) - 1

    read(4)  # profile, still_picture
    reduced = read(1)
    if reduced:
        read(5)
    else:
        decoder_model = delay_bits = 0
        if read(1):  # timing information
            read(64)
            if read(1):  # equal intervals; their length is coded as n zeros, a one and n bits
                zeros = 0
                while not read(1):
                    zeros += 1
                read(zeros)
            decoder_model = read(1)
            if decoder_model:
                delay_bits = read(5) + 1
                read(42)
        delay = read(1)
        for _ in range(read(5) + 1):
            read(12)
            if read(5) > 7:
                read(1)
            if decoder_model and read(1):
                read(2 * delay_bits + 1)
            if delay and read(1):
                read(4)
    width_bits, height_bits = read(4) + 1, read(4) + 1
    width, height = read(width_bits) + 1, read(height_bits) + 1
    if reduced:
        return width * height
    return 1 << width_bits + height_bits  # a frame may have its own size, of as many bits
