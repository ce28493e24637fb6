"""AVIF stills: every coded item is measured before Pillow's libavif gets the file.

What a box declares (`ispe`) binds no decoder: the AV1 stream has a size of its own, up to 65536x65536, and may hold
hidden frames that are decoded and never shown. So the streams' sequence headers are read (AV1 specification, 5.5) and
their frames counted. Metadata items are blanked: Pillow would parse EXIF of any size. Animations are refused.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from zoo.errors import reason
from zoo.images.formats.common import Array, Header, Refused, damaged, pillow_pixels

_MOST_BOXES = 1_000
_LARGEST_META = 2**20  # bytes, a colour profile included
_MOST_PIECES = 1_100  # items and pieces of them: a grid has at most 256 cells, each perhaps with alpha
_MOST_UNITS = 1_000  # of a stream
_LONGEST_SEQUENCE = 1_024  # bytes of its header that are read; 32 operating points take 400
_BYTES_A_PIXEL = 28  # 12 bits 4:4:4 as planes, once more for film grain; RGBA from libavif, Pillow's and ours
_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # types of AV1's units


def size(data: bytes) -> tuple[int, int]:
    """Of the largest item that is declared."""
    sizes = [struct.unpack_from(">II", data, start + 4) for start in _meta(data).sizes]
    if not sizes:
        raise damaged("it declares no picture")
    width, height = max(sizes, key=lambda pair: pair[0] * pair[1])
    if not width or not height:
        raise damaged(f"it declares {width}x{height} pixels")
    return width, height


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and where the content begins and ends (ISO 14496-12, 4.2)."""
    for _ in range(_MOST_BOXES):
        if start + 8 > stop:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1 and start + 16 <= stop:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            content = start + 16
        end = start + length if length else stop
        if not content <= end <= stop:
            raise damaged("it ends in the middle of its picture")
        yield kind, content, end
        start = end
    raise Refused(f"is an AVIF of more than {_MOST_BOXES:,} parts: save it again")


@dataclass(frozen=True)
class _Meta:
    """sizes: where `ispe` boxes are. kinds: of items, by number, and where each is written. spans: of their data."""

    sizes: tuple[int, ...]
    kinds: dict[int, tuple[bytes, int]]
    spans: dict[int, list[tuple[int, int]]]


def _meta(data: bytes) -> _Meta:
    top = list(_boxes(data, 0, len(data)))
    if data[8:12] == b"avis" or any(kind == b"moov" for kind, _, _ in top):
        raise Refused("is an animated AVIF, which is not read: save its first frame as PNG")
    metas = [(start, end) for kind, start, end in top if kind == b"meta"]
    if len(metas) != 1:
        raise damaged("it declares no picture")
    start, end = metas[0]
    if end - start > _LARGEST_META:
        raise Refused(f"is an AVIF with more than {_LARGEST_META:,} bytes of headers: save it again")
    inside = {kind: (begin, stop) for kind, begin, stop in _boxes(data, start + 4, end)}
    sizes: list[int] = []
    for kind, begin, stop in _boxes(data, *inside.get(b"iprp", (0, 0))):
        if kind == b"ipco":
            sizes += [at for kind, at, last in _boxes(data, begin, stop) if kind == b"ispe" and last - at >= 12]
    return _Meta(tuple(sizes), _kinds(data, *inside.get(b"iinf", (0, 0))), _spans(data, inside))


def _kinds(data: bytes, start: int, end: int) -> dict[int, tuple[bytes, int]]:
    """Of the item information box (ISO 14496-12, 8.11.6)."""
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
    """Of the item location box (ISO 14496-12, 8.11.3): where each item's data begin and end."""
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

    items, pieces = number(4 if version == 2 else 2), 0
    for _ in range(items):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)
        base, extents = number(base_bytes), number(2)
        pieces += 1 + extents
        if method > 1 or pieces > _MOST_PIECES:
            raise Refused("is an AVIF whose data are kept in a rare way, which is not read: save it as PNG")
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
        raise damaged("it holds no picture")
    if sum(min(end, len(data)) - min(begin, len(data)) for spans in streams.values() for begin, end in spans) > len(
        data
    ):
        raise damaged("its items overlap")
    coded = sum(_coded_pixels(b"".join(data[begin:end] for begin, end in spans)) for spans in streams.values())
    file = bytearray(data)
    for kind, at in meta.kinds.values():
        if kind in (b"Exif", b"mime"):
            file[at : at + 4] = b"skip"
    pixels = max(width * height, coded)
    return _Avif(width, height, _BYTES_A_PIXEL * pixels + len(data), file=bytes(file))


@dataclass(frozen=True)
class _Avif(Header):
    """file: without metadata."""

    file: bytes = b""

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        from PIL import ImageOps, features

        if not features.check("avif"):
            raise Refused(
                "is an AVIF, which this Pillow does not read: install Pillow 11.3 or newer, or save it as PNG"
            )
        from PIL import AvifImagePlugin

        with AvifImagePlugin.AvifImageFile(io.BytesIO(self.file)) as image:
            if image.size[0] * image.size[1] > self.width * self.height:
                raise damaged("its picture is larger than it declares")
            image.load()
            try:  # rotations and mirrorings that the container asks for, which Pillow gives as an EXIF orientation
                turned = image.getexif().get(0x0112, 1) in range(2, 9)
            except Exception as error:
                raise damaged(reason(error)) from None
            pixels, notes = pillow_pixels(ImageOps.exif_transpose(image) if turned else image)
            return pixels, notes


def _coded_pixels(stream: bytes) -> int:
    """Pixels of all frames that an AV1 stream makes a decoder decode, at most. Raises Refused."""
    position, largest, frames, units = 0, 0, 0, 0
    while position < len(stream):
        units += 1
        if units > _MOST_UNITS:
            raise Refused(f"is an AVIF of more than {_MOST_UNITS:,} units: save it again")
        head = stream[position]
        kind, position = head >> 3 & 15, position + 1 + (head >> 2 & 1)
        if head & 0x80:
            raise damaged("its picture does not begin like one")
        length = len(stream) - position
        if head & 2:
            length, position = _leb128(stream, position)
        if position + length > len(stream):
            raise damaged("it ends in the middle of its picture")
        if kind == _SEQUENCE:
            largest = max(largest, _largest_frame(stream[position : position + min(length, _LONGEST_SEQUENCE)]))
        frames += kind in (_FRAME_HEADER, _FRAME)
        position += length
    if not largest or not frames:
        raise damaged("it holds no picture")
    return largest * frames


def _leb128(stream: bytes, position: int) -> tuple[int, int]:
    value = 0
    for at, byte in enumerate(stream[position : position + 8]):
        value |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return value, position + at + 1
    raise damaged("its picture does not begin like one")


def _largest_frame(header: bytes) -> int:
    """Pixels of the largest frame that a sequence header allows."""
    bits, position = int.from_bytes(header, "big"), 8 * len(header)

    def read(count: int) -> int:
        nonlocal position
        position -= count
        if position < 0:
            raise damaged("its picture does not begin like one")
        return bits >> position & (1 << count) - 1

    read(4)  # profile, still picture
    reduced = read(1)
    if reduced:
        read(5)
    else:
        decoder_model = delay_bits = 0
        if read(1):  # timing information
            read(64)
            if read(1):  # equal intervals, whose length is coded as zeros and as many bits and one more
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
    return 1 << width_bits + height_bits  # a frame may have a size of its own, of as many bits
