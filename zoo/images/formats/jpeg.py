"""JPEG, and the first picture of an MPO file: Pillow's decoder, given tables, frame and scans and no other segment.

Refused are the kinds that no camera writes (lossless, arithmetic, hierarchical, 12 bits), and files whose scans or
segments would take long though they are small: each scan of a progressive file goes through the whole picture again.
"""

from __future__ import annotations  # the command starts with this file: they need not be evaluated

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from zoo.images.formats import common as exif
from zoo.images.formats.common import Array, Header, Refused, damaged, pillow_pixels
from zoo.images.limits import max_pixels

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_BETWEEN_SCANS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restart markers are inside a scan
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # start-of-frame markers
_DECODED = {0xC0: False, 0xC1: False, 0xC2: True}  # Huffman-coded, 8 bits: baseline, extended; progressive
_MOST_MARKERS = 2_000  # an EXIF segment, a colour profile in 255 and XMP in a few hundred pieces of 64 kB are fewer
_MOST_SCANS = 100  # libjpeg writes 10, mozjpeg up to about 20
_SCANNED = 30  # times `max_pixels` samples that all scans together may go through: 12 ms of work each


@dataclass(frozen=True)
class Frame:
    """What a JPEG declares up to its first scan.

    components: how many, 1 (grey), 3 or 4 (CMYK). samples: of all components. progressive: or more than one scan.
    kept: the segments that decoding needs. start: of the first scan.
    """

    width: int
    height: int
    components: int
    samples: int
    progressive: bool
    kept: tuple[bytes, ...]
    start: int
    orientation: int


def size(data: bytes) -> tuple[int, int]:
    for marker, place, _ in _segments(data):
        if marker in _FRAMES and place + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
    raise damaged("it ends before its picture")


def _segments(data: bytes, most: int = _MOST_MARKERS) -> Iterator[tuple[int, int, int]]:
    """Marker, and where its segment begins (with its length) and ends, up to the first scan. Raises Refused."""
    position = 2
    for _ in range(most):
        found = _MARKER.search(data, position)
        if not found:
            raise damaged("it ends before its picture")
        marker, position = data[found.end() - 1], found.end()
        if marker in _ALONE:
            continue
        if marker in (_SOI, _EOI):
            raise damaged("it ends before its picture")
        end = position + int.from_bytes(data[position : position + 2], "big")
        if not position + 2 <= end <= len(data):
            raise damaged("it ends before its picture")
        yield marker, position, end
        if marker == _SOS:
            return
        position = end
    raise Refused(f"is a JPEG of more than {most:,} segments: save it again")


def read_frame(data: bytes, most_segments: int = _MOST_MARKERS) -> Frame:
    """Raises Refused for what is not decoded, except for its number of pixels."""
    kept: list[bytes] = []
    shape: tuple[int, int, int, int] | None = None
    progressive, start, first_scan = False, 0, 0
    orientation = from_xmp = None
    for marker, place, end in _segments(data, most_segments):
        if marker in _FRAMES:
            if shape:
                raise damaged("it declares two frames")
            if marker not in _DECODED or data[place + 2] != 8:
                raise Refused(
                    "is a JPEG of a rare kind (lossless, arithmetic, hierarchical or 12 bits), which is not read: "
                    "save it as PNG"
                )
            shape, progressive = _shape(data[place + 2 : end]), _DECODED[marker]
        if marker == _SOS:
            start, first_scan = place - 2, data[place + 2]
        elif 0xE0 <= marker <= 0xEF or marker == _COM:
            content = data[place + 2 : end]
            if marker == 0xE1 and content.startswith(b"Exif\0\0") and orientation is None:
                orientation = exif.orientation(content) or 0
            elif marker == 0xE1 and content.startswith(b"http://ns.adobe.com/xap/") and from_xmp is None:
                from_xmp = exif.from_xmp(content) or 0
            if not ((marker == 0xE0 and content.startswith(b"JFIF\0")) or (marker == 0xEE and content[:5] == b"Adobe")):
                continue  # these two say what the components are; nothing else counts
            kept.append(data[place - 2 : end])
        else:
            kept.append(data[place - 2 : end])
    if not shape:
        raise damaged("it declares no picture")
    width, height, components, samples = shape
    return Frame(
        width,
        height,
        components,
        samples,
        progressive or first_scan < components,
        tuple(kept),
        start,
        orientation or from_xmp or exif.UPRIGHT,
    )


def _shape(content: bytes) -> tuple[int, int, int, int]:
    """Width, height, components and samples of a frame's segment, which begins with the number of bits."""
    if len(content) < 6 or len(content) != 6 + 3 * content[5]:
        raise damaged("its frame is cut short")
    height, width, components = struct.unpack_from(">HHB", content, 1)
    factors = [divmod(content[at], 16) for at in range(7, len(content), 3)]
    if not width or not height or components not in (1, 3, 4) or not all(1 <= min(f) and max(f) <= 4 for f in factors):
        raise damaged(f"it declares {width}x{height} pixels of {components} components")
    across, down = max(x for x, _ in factors), max(y for _, y in factors)
    whole = (
        -(-width // (8 * across)) * -(-height // (8 * down)) * 64
    )  # a component's samples are coded in blocks of 8x8
    return width, height, components, sum(whole * x * y for x, y in factors)


@dataclass(frozen=True)
class _Jpeg(Header):
    data: bytes = b""
    frame: Frame | None = None

    def pixels(self) -> tuple[Array, tuple[str, ...]]:
        assert self.frame
        return decode(self.data, self.frame)


def parse(data: bytes) -> Header:
    frame = read_frame(data)
    return _Jpeg(
        frame.width,
        frame.height,
        memory(frame) + len(data),
        frame.orientation,
        data=data,
        frame=frame,
    )


def memory(frame: Frame) -> int:
    """Pillow's image beside the coefficients of all samples, which several scans need, or beside the array."""
    held = frame.width * frame.height * (1 if frame.components == 1 else 4)
    return held + max(2 * frame.samples * frame.progressive, frame.width * frame.height * min(frame.components, 3))


def decode(data: bytes, frame: Frame) -> tuple[Array, tuple[str, ...]]:
    """The pixels, and what was converted. Raises Refused, and what Pillow raises for damaged data."""
    if frame.progressive:
        _check_scans(data, frame)
    from PIL import Image

    content = b"".join([b"\xff\xd8", *frame.kept, memoryview(data)[frame.start :]])
    mode, stored = {1: ("L", "L"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK;I")}[frame.components]  # inverted, as Adobe's
    return pillow_pixels(Image.frombytes(mode, (frame.width, frame.height), content, "jpeg", stored, ""))


def _check_scans(data: bytes, frame: Frame) -> None:
    """Raise Refused where the scans are so many that decoding takes long, however small the file."""
    most = min(_MOST_SCANS, max(1, _SCANNED * max_pixels() // frame.samples))
    scans, markers, position = 0, 0, frame.start
    while found := _BETWEEN_SCANS.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        markers += 1
        if marker == _EOI:
            break
        scans += marker == _SOS
        if scans > most:
            raise Refused(f"is a progressive JPEG of more than {most} scans for its size: save it as a plain JPEG")
        if markers > _MOST_MARKERS:
            raise Refused(f"is a JPEG of more than {_MOST_MARKERS:,} segments: save it again")
        if marker not in _ALONE:
            position += int.from_bytes(data[position : position + 2], "big")
